"""Two services behind one address: whatever one of them is told, the other one knows.

They share a ledger in PostgreSQL, a store, a Redis and the secret of sessions; clients need not care which one answers.
"""

import contextlib
import json
import os
import subprocess
import threading
import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.ledger.api_keys import Scope, create_key, revoke_key
from clip_pipeline.ledger.jobs import recent_jobs
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.e2e.stack import COMMAND, free_port
from clip_pipeline_tests.serving.lane import lane
from clip_pipeline_tests.serving.pages.people import HTML, log_in
from clip_pipeline_tests.serving.push.listening import event_stream, events_of, job_events, messages
from clip_pipeline_tests.serving.redis_server import redis_server
from clip_pipeline_tests.serving.world import StandInDagster, World, vector_near

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ADD, JOBS, SEARCH, STATS = "/api/v1/index/add-images", "/api/v1/index/jobs", "/api/v1/search", "/api/v1/index/stats"
LIMIT = 300
PATIENCE_S = 60.0


class Service:
    """One `clip-pipeline api`."""

    def __init__(self, environment, log):
        self.port = free_port()
        self._environment = environment | {"CLIP_PIPELINE_PORT": str(self.port)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self):
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*COMMAND, "api"], env=self._environment, stdout=log, stderr=log)

    def wait_ready(self):
        until(self._answers, self._log.read_text)

    def kill(self):
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self, token=None):
        headers = {} if token is None else {"X-API-Key": token}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30, trust_env=False)

    @contextlib.contextmanager
    def socket(self, subject, token):
        address = f"ws://127.0.0.1:{self.port}/ws/{subject}"
        with connect(address, additional_headers={"X-API-Key": token}, open_timeout=30, proxy=None) as socket:
            yield socket

    def _answers(self):
        with self.client() as client, contextlib.suppress(httpx.TransportError):
            return client.get("/health").status_code in (200, 503)
        return False


class Pair:
    """Two services and the world that they share; jobs come to their end in the process of the test."""

    def __init__(self, world, folder, environment):
        self.world, self.images = world, folder / "images"
        self.images.mkdir()
        self.contents = {}
        self.a, self.b = (Service(environment, folder / f"{name}.log") for name in "ab")

    def token(self, scope=Scope.ADMIN):
        return create_key(self.world.ledger, "somebody", scope=scope, expires_at=None).token

    def clients(self, stack, token):
        return tuple(stack.enter_context(service.client(token)) for service in (self.a, self.b))

    def photo(self, text):
        """The path of a new file that holds a picture of that, as the encoder of these tests sees it."""
        path = self.images / f"{len(self.contents)}.jpg"
        path.write_text(text)
        self.contents[str(path)] = text
        return str(path)

    def finish(self):
        """Index all that was submitted."""
        self.world.embed(self.contents)
        return self.world.publish()


def until(condition, told=lambda: ""):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    dagster, url = StandInDagster(), postgres.new_database()
    world = World(folder / "home", ledger_url=url)
    pin_encoder(world.store, world.spec)
    with redis_server(folder) as redis:
        own = {
            "CLIP_PIPELINE_HOME": str(folder / "home"),
            "CLIP_PIPELINE_LEDGER_URL": url,
            "CLIP_PIPELINE_DAGSTER_URL": f"http://127.0.0.1:{dagster.port}",
            "CLIP_PIPELINE_RATE_LIMIT": f"{LIMIT}/hour",
            "CLIP_PIPELINE_RATE_LIMIT_STORAGE": redis,
            "CLIP_PIPELINE_ROOTS": str(folder / "images"),
            "CLIP_PIPELINE_SESSION_SECRET": "s" * 32,
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")}
        pair = Pair(world, folder, others | own)
        pair.token()  # from the first key on nobody is let in without one
        for service in (pair.a, pair.b):
            service.start()
        for service in (pair.a, pair.b):
            service.wait_ready()
        yield pair
        pair.a.kill()
        pair.b.kill()
    world.close()
    dagster.close()


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


def submit(client, *paths, **headers):
    answer = client.post(ADD, json={"image_paths": list(paths)}, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]


def test_a_job_given_to_one_is_told_by_the_other_which_goes_on_when_the_first_is_killed(pair, stack):
    token = pair.token()
    first, second = pair.clients(stack, token)
    with event_stream(first) as response:
        job_id = submit(first, pair.photo("a red thing"))
        last, document = next(told for told in job_events(response) if told[1]["job_id"] == job_id)
        assert document["status"] == "queued"
        socket = stack.enter_context(pair.b.socket(f"jobs/{job_id}", token))
        told = messages(socket)
        assert next(told)["status"] == "queued"
        pair.a.kill()
    try:
        pair.finish()
        with event_stream(second, last=last) as response:
            heard = next(d for _, d in job_events(response) if d["job_id"] == job_id and d["status"] == "completed")
        *_, final = told
        assert (heard["status"], final["status"], socket.close_code) == ("completed", "completed", 1000)
        assert second.get(f"/api/v1/index/status/{job_id}").json()["progress"]["processed_images"] == 1
    finally:
        pair.a.start()
        pair.a.wait_ready()


def test_a_job_given_to_one_is_canceled_by_the_other(pair, stack):
    token = pair.token()
    first, second = pair.clients(stack, token)
    job_id = submit(first, pair.photo("a green thing"))
    with pair.a.socket(f"jobs/{job_id}", token) as socket:
        told = messages(socket)
        assert next(told)["status"] == "queued"
        assert second.delete(f"{JOBS}/{job_id}").status_code in (200, 202)
        *_, last = told
    assert last["status"] == "canceled"
    assert first.get(f"/api/v1/index/status/{job_id}").json()["status"] == "canceled"


def test_requests_to_either_count_against_one_limit(pair, stack):
    clients = pair.clients(stack, pair.token(Scope.READ))
    left = [clients[n % 2].get(STATS) for n in range(LIMIT + 2)]
    assert [int(answer.headers["RateLimit-Remaining"]) for answer in left] == [*range(LIMIT - 1, -1, -1), 0, 0]
    assert [answer.status_code for answer in left[-3:]] == [200, 429, 429]


def test_whoever_logs_in_at_one_is_logged_in_at_the_other(pair, stack):
    first, second = pair.clients(stack, None)
    assert second.get("/ui/jobs", headers=HTML).status_code == 303
    log_in(first, pair.token())
    second.cookies = first.cookies
    page = second.get("/ui/jobs", headers=HTML)
    assert page.status_code == 200
    assert "somebody" in page.text


def test_one_idempotency_key_sent_to_both_at_once_makes_one_job(pair, stack):
    clients, path = pair.clients(stack, pair.token()), pair.photo("a blue thing")
    before = {job.job_id for job in recent_jobs(pair.world.ledger, most=100)}
    together, ids = threading.Barrier(2), []

    def send(client):
        together.wait()
        ids.append(submit(client, path, **{"Idempotency-Key": "one and the same"}))

    threads = [threading.Thread(target=send, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 2
    assert {job.job_id for job in recent_jobs(pair.world.ledger, most=100)} - before == set(ids)
    assert len(set(ids)) == 1


def test_a_revoked_key_is_refused_by_both_and_ends_what_it_had_opened(pair, stack):
    made = create_key(pair.world.ledger, "leaver", scope=Scope.ADMIN, expires_at=None)
    clients = pair.clients(stack, made.token)
    job_id = submit(clients[0], pair.photo("a grey thing"))
    with pair.b.socket(f"jobs/{job_id}", made.token) as socket:
        socket.recv(timeout=30)
        revoke_key(pair.world.ledger, made.key.key_id)
        begun = time.monotonic()
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)
        assert socket.close_code == 1008
    for client in clients:
        until(lambda client=client: client.get(STATS).status_code == 401)
    assert time.monotonic() - begun < 5


def test_a_release_that_is_published_is_searched_by_both(pair, stack):
    clients = pair.clients(stack, pair.token())
    path = pair.photo("a thing of its own")
    submit(clients[0], path)
    release = pair.finish()
    query = {"vector": vector_near(pair.world.encoder, "a thing of its own", angle=0.01), "k": 1}
    answers = [client.post(SEARCH, json=query).json() for client in clients]
    assert {answer["results"][0]["path"] for answer in answers} == {path}
    assert {int(answer["index_release"].lstrip("r")) for answer in answers} == {release.number}


def test_an_upload_to_one_is_pushed_by_the_other_when_it_is_done(pair, stack):
    token = pair.token()
    first, second = pair.clients(stack, token)
    with event_stream(second) as response, lane(pair.world):
        upload = {"file": ("a.png", picture("red"))}
        answer = first.post("/analyze-image", files=upload, data={"labels": ",".join(COLOUR_LABELS)})
        request_id = answer.json()["request_id"]
        with pair.b.socket(f"analysis/{request_id}", token) as socket:
            *_, last = messages(socket)
        done = {d["request_id"]: d["status"] for _, d in done_events(response, request_id)}
    assert (last["status"], last["predictions"][0]["label"]) == ("completed", "something red")
    assert done[request_id] == "completed"
    assert json.loads(json.dumps(last)) == first.get(f"/result/{request_id}").json()


def done_events(response, request_id):
    """The events of requests up to the one that says that this one is done."""
    for event in events_of(response, "analysis"):
        yield event
        if event[1]["request_id"] == request_id and event[1]["status"] == "completed":
            return
