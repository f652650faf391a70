"""How far the consumer group is behind, for whoever watches: asked of the broker without joining the group."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from clip_pipeline.serving.kafka.broker import ANSWER_S, client_logger, connection_of
from clip_pipeline.settings import Settings

LOOK_S = 2.0
"""To read one message of each partition that is behind, the first that nobody has read."""

_LITTLE = {"fetch.message.max.bytes": 1024, "queued.max.messages.kbytes": 64, "queued.min.messages": 1}
"""One message is wanted, not as many as fit: a broker sends the first however large it is."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages that the group has not read yet. oldest_at: when the first was written, Unix seconds; None without."""

    messages: int
    oldest_at: float | None


def uploads_backlog(settings: Settings) -> Backlog:
    """That of the topic of uploads; both are 0 and None before there is one.

    Raises:
        KafkaException: the broker does not answer.
        ConfigurationError: the client cannot be configured.
    """
    name = settings.kafka_topic_uploads
    with closing(Consumer(connection_of(settings).consumer() | _LITTLE, logger=client_logger)) as consumer:
        topic = consumer.list_topics(name, timeout=ANSWER_S).topics[name]
        partitions = [TopicPartition(name, number) for number in topic.partitions]
        unread: list[tuple[TopicPartition, int]] = []
        for entry in consumer.committed(partitions, timeout=ANSWER_S) if partitions else ():
            low, high = consumer.get_watermark_offsets(entry, timeout=ANSWER_S)
            first = max(low, entry.offset)  # an offset below 0 says that there is none
            if high > first:
                unread.append((TopicPartition(entry.topic, entry.partition, first), high))
        oldest_at = _oldest(consumer, [entry for entry, _ in unread])
        return Backlog(sum(_behind(consumer, entry, high) for entry, high in unread), oldest_at)


def _behind(consumer: Consumer, entry: TopicPartition, high: int) -> int:
    # What a fetch says of the end is newer, at times, than the answer to the question for it.
    _, fetched = consumer.get_watermark_offsets(entry, cached=True)
    return max(high, fetched) - entry.offset


def _oldest(consumer: Consumer, unread: Sequence[TopicPartition]) -> float | None:
    """When the first message of the partitions was written, as far as they tell in time."""
    if not unread:
        return None
    consumer.assign(list(unread))
    written: dict[int | None, float] = {}
    deadline = time.monotonic() + LOOK_S
    while len(written) < len(unread) and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is None or message.error() is not None:
            continue
        _, milliseconds = message.timestamp()
        written.setdefault(message.partition(), milliseconds / 1000)
    return min(written.values(), default=None)
