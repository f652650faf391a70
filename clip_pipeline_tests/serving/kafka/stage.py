"""A home with a ledger, the Kafka service on it as a process, the analysis lane as a thread with a small encoder."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.defs.lane.answers import ImageAnswers
from clip_pipeline.defs.lane.labels import LaneLabels
from clip_pipeline.defs.lane.loop import Pace, run_lane
from clip_pipeline.defs.lane.vectors import UploadVectors
from clip_pipeline.embedding.analyzer import Analyzer
from clip_pipeline.embedding.zero_shot import LabelEmbedder
from clip_pipeline.ledger.analysis_lookup import analysis_stats
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.settings import Settings
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.serving.kafka.tansu import QUICK, Client, wait_until


class Stage:
    """One home; `services` are the processes that were started on it and not yet stopped."""

    def __init__(self, home, broker, **settings):
        self.home, self.broker, self.client = home, broker, Client(broker)
        home.mkdir(parents=True, exist_ok=True)
        options = home / "kafka.properties"
        options.write_text("# for quick tests\n" + "".join(f"{name} = {value}\n" for name, value in QUICK.items()))
        broker_settings = {"kafka_bootstrap": broker.address, "kafka_config": str(options)}
        self.settings = Settings(home=home, log_format="json", **broker_settings, **settings)
        self.ledger = open_ledger(self.settings.ledger_location)
        self.services = []

    def start(self, *killed_at):
        """Start a service; with the name of a place, one that kills itself there."""
        module = "clip_pipeline_tests.serving.kafka.killed_at" if killed_at else "clip_pipeline.cli.main"
        given = {"home", "ledger_url", "kafka_bootstrap", "kafka_config", "kafka_max_backlog", "max_upload_bytes"}
        given |= {"log_format"}
        own = {f"CLIP_PIPELINE_{name.upper()}": str(getattr(self.settings, name)) for name in given}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")}
        environment = kept | own | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with (self.home / "kafka.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *(killed_at or ["kafka"])], env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        self.services.append(process)
        return process

    def stop(self, process, number=signal.SIGTERM):
        """Send a signal and wait; returns the exit status."""
        process.send_signal(number)
        return self.wait_dead(process)

    def wait_dead(self, process, *, timeout_s=60):
        status = process.wait(timeout_s)
        self.services.remove(process)
        return status

    @contextlib.contextmanager
    def lane(self):
        """The analysis lane at work in a thread."""
        encoder, ended, failures = HashEncoder(), threading.Event(), []
        pin_encoder(self.settings.store, encoder.spec)

        def work():
            try:
                while not ended.is_set():
                    self.run_lane(encoder)
            except Exception as error:  # noqa: BLE001 - told when the lane ends
                failures.append(error)

        thread = threading.Thread(target=work, name="lane")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert failures == []

    def run_lane(self, encoder):
        store, spec = self.settings.store, encoder.spec
        with Analyzer(encoder, limits=self.settings.upload_limits, forward_batch=16, decode_workers=1) as analyzer:
            labels = LaneLabels(store, spec, LabelEmbedder(encoder), logit_scale=encoder.logit_scale)
            answers = ImageAnswers(
                self.ledger, UploadVectors(self.ledger, store, analyzer, spec=spec), spec=spec,
                logit_scale=encoder.logit_scale, embed_labels=labels.embed,
            )  # fmt: skip
            run_lane(
                self.ledger, answers, owner="lane", pace=Pace(idle_s=0.5, poll_s=0.02), observe=lambda _tally: None
            )

    def stats(self):
        return analysis_stats(self.ledger)

    def wait_requests(self, count, *, timeout_s=40):
        wait_until(lambda: self.stats().total >= count, f"{count} requests in the ledger", timeout_s=timeout_s)

    def log(self):
        return (self.home / "kafka.log").read_text()

    def close(self):
        for process in self.services:
            process.kill()
            process.wait()
        self.ledger.close()
