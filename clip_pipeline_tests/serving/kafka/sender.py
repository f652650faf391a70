"""Somebody who sends uploads through Kafka again and again until each has an answer, and what is sent."""

import contextlib
import threading
import time

from confluent_kafka import KafkaException

from clip_pipeline_tests.defs.uploads import picture
from clip_pipeline_tests.fakes import COLOURS
from clip_pipeline_tests.poison import write_poison
from clip_pipeline_tests.serving.kafka.tansu import text


class Sender(threading.Thread):
    """Sends uploads and, as long as it has seen neither a result nor a dead letter for one, sends it again."""

    def __init__(self, client, uploads, *, labels):
        super().__init__(name="sender")
        self.client, self.uploads, self.labels = client, uploads, labels
        self.answered, self.dead, self.ended = set(), set(), threading.Event()

    @property
    def open_ids(self):
        return self.uploads.keys() - self.answered - self.dead

    def run(self):
        while self.open_ids and not self.ended.is_set():
            try:
                for request_id in sorted(self.open_ids):
                    self.client.send(request_id, self.uploads[request_id], labels=self.labels)
                    self.client.producer.poll(0)
                self.client.producer.flush(5)
            except KafkaException:  # the broker was killed before it had this message
                continue
            self._read_for(6.0)

    def _read_for(self, seconds):
        deadline = time.monotonic() + seconds
        while self.open_ids and time.monotonic() < deadline:
            self.answered |= self._keys("analysis-results")
            self.dead |= self._keys("image-uploads-dlq")

    def _keys(self, topic):
        """What the topic holds now, or what could be read of it while its broker was killed."""
        found, until = [], time.monotonic() + 1.0
        with contextlib.suppress(AssertionError):  # the broker was killed, and lost the topic with it
            self.client.read(
                topic, lambda messages: found.extend(messages) or time.monotonic() > until, timeout_s=2
            )  # fmt: skip
        return {text(message.key()) for message in found}


def made_uploads(folder, photos, *, count, poison):
    """Contents by request id: small pictures, photographs, and so much poison, under ids that say so."""
    bad = {f"poison-{i}": path.read_bytes() for i, path in enumerate(write_poison(folder, poison))}
    files, names = list(photos.values()), list(COLOURS)
    good = {
        f"id-{i:04d}": files[i % len(files)].read_bytes() if i % 5 == 0 else picture(names[i % 6], side=8 + i)
        for i in range(count - poison)
    }
    return bad | good
