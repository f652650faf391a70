"""`clip-pipeline kafka`, killed by itself with SIGKILL where its argument says: at commit, or at mark_delivered."""

import os
import signal
import sys
from typing import Any

from clip_pipeline.cli.kafka_command import kafka
from clip_pipeline.serving.kafka import outbox
from clip_pipeline.serving.kafka.broker import KafkaSource


def die(*_args: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "commit":
        KafkaSource.commit = die  # type: ignore[assignment]
    elif sys.argv[1] == "mark_delivered":
        outbox.mark_delivered = die
    kafka()
