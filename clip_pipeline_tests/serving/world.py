"""A small home that a service can serve: a real ledger, a real release of coloured images, a stand-in for Dagster."""

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import uvicorn

from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.publish import merge_release
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.publishing import live_vectors, outstanding, record_release
from clip_pipeline.ledger.registration import Submission, register_scan
from clip_pipeline.ledger.schema import files
from clip_pipeline.serving.app import create_app
from clip_pipeline.serving.server import bind
from clip_pipeline.settings import Settings
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.index.sealing import PROVENANCE, seal_batch
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.ledgers import with_tables


def settings_of(home, **settings):
    """The settings of a home, others as given or as they are by default."""
    return Settings(home=home, **settings)


class World:
    """One home. Images are texts such as "a red thing", which the encoder turns into the vector of that colour."""

    def __init__(self, home, **settings):
        self.settings = settings_of(home, **settings)
        self.store = self.settings.store
        self.ledger = open_ledger(with_tables(self.settings.ledger_location))
        self.encoder = HashEncoder()
        self.spec = self.encoder.spec

    def pin(self):
        pin_encoder(self.store, self.spec)

    def register(self, *paths):
        return steps.register(self.ledger, *paths)

    def embed(self, contents, failing=None):
        """Plan, inspect and embed what is registered; `contents` says what each path holds."""
        for batch in steps.plan(self.ledger):
            rows = steps.inspect(self.ledger, batch, contents)
            texts = [contents[row.path] for row in rows]
            seal_batch(
                self.store, self.spec, batch.number, [r.image_id for r in rows], self.encoder.encode_texts(texts)
            )
            steps.embed(self.ledger, batch, rows, failing=failing)

    def publish(self):
        due, (ids, batches) = outstanding(self.ledger), live_vectors(self.ledger)
        merged = merge_release(self.store, self.spec, live=LiveImages(ids, batches), provenance=PROVENANCE)
        record_release(
            self.ledger, self.spec.key, number=merged.release.number, live=ids, merged=due.batches, run_id="run"
        )
        return merged.release

    def index(self, contents):
        """Register these paths and bring everything to its end; returns the job id."""
        self.pin()
        job_id = self.register(*contents).job_id
        self.embed(contents)
        self.publish()
        return job_id

    def delete(self, *paths):
        """The files are gone from their folder."""
        with self.ledger.read() as connection:
            rows = connection.execute(files.select().where(files.c.path.in_(paths))).all()
        register_scan(self.ledger, [], gone=[row.file_id for row in rows], submission=Submission("watch"))

    def load(self, spec):
        """The encoder loader that a service of this world is given."""
        assert spec == self.spec
        return self.encoder

    def close(self):
        self.ledger.close()


def shades(n):
    """n different vectors' worth of contents: texts that name no colour."""
    return {f"/photos/{i:04d}.jpg": f"thing {hashlib.sha256(str(i).encode()).hexdigest()}" for i in range(n)}


@contextlib.contextmanager
def serving(world, *, load=None):
    """An HTTP client of the real application on a free port."""
    app = create_app(world.settings, load=load or world.load)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="websockets-sansio"))
    app.state.is_stopping = lambda: server.should_exit
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


class StandInDagster:
    """A web server that answers GraphQL posts in the shape of Dagster's: runs by tag, daemons, and locations.

    locations: name -> sensor -> when its ticks failed, or None for a location that does not load.
    """

    def __init__(self):
        self.runs, self.daemons, self.asked, self.status = {}, {"SENSOR": 0.0}, [], 200
        self.locations = {"control": {"submissions": []}}
        self._answers = threading.Event()
        self._answers.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self):
        return self._server.server_address[1]

    def add_run(self, job_id, run_id, status, *, work=None, start=None, end=None, created=0.0):
        tags = {f"clip/job/{job_id}": "1"} | ({"clip/work": work} if work else {})
        run = {"runId": run_id, "status": status, "jobName": "embed", "creationTime": created, "startTime": start,
               "endTime": end, "tags": [{"key": key, "value": value} for key, value in tags.items()]}  # fmt: skip
        self.runs.setdefault(job_id, []).insert(0, run)

    @contextlib.contextmanager
    def hanging(self):
        """It takes requests and answers none."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, request):
        self.asked.append(request)
        self._answers.wait(30)
        if "since" in request["variables"]:
            return self._workspace(request["variables"]["since"])
        if not request["variables"]:
            now = time.time()
            statuses = [
                {"daemonType": name, "required": True, "lastHeartbeatTime": now - age}
                for name, age in self.daemons.items()
            ]
            counted = self._counted() if "queued:" in request["query"] else {}
            return counted | {"instance": {"daemonHealth": {"allDaemonStatuses": statuses}}}
        if "runIds" in request["variables"]:
            return {"terminateRuns": self._terminate(request["variables"]["runIds"])}
        found = {}
        for name, wanted in request["variables"].items():
            job_id = wanted["tags"][0]["key"].removeprefix("clip/job/")
            statuses = wanted.get("statuses")
            runs = [run for run in self.runs.get(job_id, []) if statuses is None or run["status"] in statuses]
            found[name] = {"__typename": "Runs", "results": runs}
        return found

    def _counted(self):
        every = [run for of_job in self.runs.values() for run in of_job]
        found = {}
        for name in ("queued", "starting", "started", "canceling", "success", "failure", "canceled"):
            statuses = ("NOT_STARTED", "QUEUED") if name == "queued" else (name.upper(),)
            runs = [run for run in every if run["status"] in statuses]
            found[name] = {"__typename": "Runs", "count": len(runs), "results": runs}
        return found

    def _workspace(self, since):
        entries = []
        for name, sensors in self.locations.items():
            loaded = {"__typename": "PythonError"}
            if sensors is not None:
                listed = [
                    {"name": sensor, "sensorState": {"ticks": [{"timestamp": t} for t in failed if t > since]}}
                    for sensor, failed in sensors.items()
                ]
                loaded = {"__typename": "RepositoryLocation", "repositories": [{"sensors": listed}]}
            entries.append({"name": name, "locationOrLoadError": loaded})
        return {"workspaceOrError": {"__typename": "Workspace", "locationEntries": entries}}

    def _terminate(self, run_ids):
        """Queued and started runs end; any other is a failure to terminate, as in Dagster."""
        results = []
        for run_id in run_ids:
            runs = [run for of_job in self.runs.values() for run in of_job if run["runId"] == run_id]
            live = [run for run in runs if run["status"] in {"QUEUED", "STARTED"}]
            for run in live:
                run["status"] = "CANCELED"
            kind = "TerminateRunSuccess" if live else "TerminateRunFailure"
            results.append({"__typename": kind, "run": {"runId": run_id}})
        return {"__typename": "TerminateRunsResult", "terminateRunResults": results}

    def _handler(self):
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps({"data": stand_in._answer(request)}).encode()
                self.send_response(stand_in.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        return Handler


def free_port():
    """A port that nothing listens on."""
    with bind("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


def vector_near(encoder, text, *, angle=0.1, seed=0):
    """A vector of arbitrary length close to that of `text`, as JSON numbers."""
    base = encoder.encode_texts([text])[0]
    noise = np.random.default_rng(seed).standard_normal(base.shape)
    return (3 * (base + angle * noise / np.linalg.norm(noise))).tolist()


def with_other_weights(spec):
    """The same encoder in name, another in fact."""
    return dataclasses.replace(spec, fingerprint="f" * 64)
