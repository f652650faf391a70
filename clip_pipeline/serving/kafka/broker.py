"""The Kafka client behind the loops: how it is configured, topics that exist, one consumer, one producer."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from clip_pipeline.core.errors import ConfigurationError, StackError
from clip_pipeline.serving.kafka.messages import Outgoing, Partition, Received
from clip_pipeline.settings import Settings

logger = logging.getLogger(__name__)
client_logger = logging.getLogger("kafka_client")

ANSWER_S = 5.0
"""Seconds for the broker to answer a question about topics or offsets; a stop that is asked for waits as long."""

ENVELOPE_BYTES = 1024**2
"""What key, headers and framing of a message may take beside its value."""

MOST_CLIENT_BYTES = 1_000_000_000
"""librdkafka's own limit of `message.max.bytes`."""

_CLIENT: Mapping[str, Any] = {"reconnect.backoff.max.ms": 2000, "log.connection.close": False}
_FOR_CONSUMERS = (
    "auto.offset.", "fetch.", "group.", "heartbeat.", "isolation.", "max.poll.", "partition.assignment.", "session.",
)  # fmt: skip
"""Beginnings of options that other clients would only warn of."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the broker. options: librdkafka's, from the file that the settings name."""

    bootstrap: str
    group: str
    options: Mapping[str, str]
    max_message_bytes: int

    def client(self) -> dict[str, Any]:
        """What every client is configured with."""
        options = {name: value for name, value in self.options.items() if not name.startswith(_FOR_CONSUMERS)}
        return dict(_CLIENT) | options | {"bootstrap.servers": self.bootstrap}

    def consumer(self) -> dict[str, Any]:
        """Nothing is committed but by `commit`, and a group without offsets begins with the oldest message."""
        defaults = {"partition.assignment.strategy": "cooperative-sticky", "auto.offset.reset": "earliest"}
        own = {"bootstrap.servers": self.bootstrap, "group.id": self.group}
        own |= {"enable.auto.commit": False, "enable.auto.offset.store": False}
        return defaults | self.client() | dict(self.options) | own | {"message.max.bytes": self.max_message_bytes}

    def producer(self) -> dict[str, Any]:
        """Acknowledged by all replicas; given up after seconds, since whoever sends tries again."""
        defaults = {"message.timeout.ms": 5000}
        return defaults | self.client() | {"acks": "all", "message.max.bytes": self.max_message_bytes}


def connection_of(settings: Settings) -> Connection:
    """The connection that the settings describe.

    Raises:
        ConfigurationError: the file with options cannot be read or is malformed.
    """
    path = settings.kafka_config
    options = read_options(Path(path).expanduser()) if path else {}
    largest = min(settings.max_upload_bytes + ENVELOPE_BYTES, MOST_CLIENT_BYTES)
    return Connection(settings.kafka_bootstrap, settings.kafka_group, options, largest)


def read_options(path: Path) -> dict[str, str]:
    """The options of a properties file: `name=value` lines, `#` before a comment.

    Raises:
        ConfigurationError: it cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"CLIP_PIPELINE_KAFKA_CONFIG: {path} cannot be read: {error}") from None
    options: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, is_pair, value = text.partition("=")
        if not is_pair or not name.strip():
            # Not the line itself: it may hold a password.
            raise ConfigurationError(f"{path}, line {number}: expected `name=value`, as in security.protocol=SASL_SSL")
        options[name.strip()] = value.strip()
    return options


def ensure_topics(connection: Connection, topics: Sequence[str]) -> list[str]:
    """Create the topics that are missing, with the broker's own numbers of partitions and replicas; returns those.

    Raises:
        StackError: the broker does not answer.
        ConfigurationError: it does not allow it, or an option is unknown.
    """
    with _configuring():
        admin = AdminClient(connection.client(), logger=client_logger)
    try:
        existing = admin.list_topics(timeout=ANSWER_S).topics
    except KafkaException as error:
        raise StackError(f"no answer from Kafka at {connection.bootstrap}: {_text(error)}") from None
    missing = [topic for topic in topics if topic not in existing]
    if not missing:
        return []
    config = {"max.message.bytes": str(connection.max_message_bytes)}
    wanted = [NewTopic(topic, num_partitions=-1, replication_factor=-1, config=config) for topic in missing]
    for topic, created in admin.create_topics(wanted, request_timeout=ANSWER_S).items():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if error.args[0].retriable():
                raise StackError(f"topic {topic} was not created yet: {_text(error)}") from None
            raise ConfigurationError(
                f"topic {topic} is missing and cannot be created: {_text(error)}; create it, or allow this client to; "
                "docs/kafka.md says with which settings"
            ) from None
    return missing


class KafkaSource:
    """One member of the consumer group, as the intake sees it. Used by one thread."""

    def __init__(self, connection: Connection, topic: str) -> None:
        with _configuring():
            self._consumer = Consumer(connection.consumer(), logger=client_logger)
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        self._gone: set[Partition] = set()
        self._is_paused = False
        self.is_topic_missing = False

    def receive(self, most: int, *, timeout_s: float) -> list[Received]:
        """See `Source`.

        Raises:
            StackError: the client cannot go on; a new one has to be made.
        """
        if self._is_paused:  # partitions assigned meanwhile, too
            self._consumer.pause(self._consumer.assignment())
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(most - 1, timeout=0)]
        return [_received(message) for message in messages if self._is_message(message)]

    def take_revoked(self) -> set[Partition]:
        """See `Source`."""
        gone, self._gone = self._gone, set()
        return gone

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """See `Source`. A commit that fails costs nothing but that messages are read again."""
        offsets = [TopicPartition(p.topic, p.number, offset) for p, offset in next_offsets.items()]
        if not offsets:
            return
        try:
            committed = self._consumer.commit(offsets=offsets, asynchronous=False) or []
            faults = [str(entry.error) for entry in committed if entry.error is not None]
        except KafkaException as error:
            faults = [_text(error)]
        if faults:
            logger.warning("offsets not committed", extra={"reason": "; ".join(faults)})

    def pause(self) -> None:
        """See `Source`."""
        self._is_paused = True
        self._consumer.pause(self._consumer.assignment())

    def resume(self) -> None:
        """See `Source`."""
        self._is_paused = False
        self._consumer.resume(self._consumer.assignment())

    def lag(self) -> dict[Partition, int]:
        """For each assigned partition the number of messages that this group did not read yet.

        Raises:
            KafkaException: the broker does not answer.
        """
        assigned = self._consumer.assignment()
        positions = {entry.partition: entry.offset for entry in self._consumer.position(assigned)}
        committed = {entry.partition: entry.offset for entry in self._consumer.committed(assigned, timeout=ANSWER_S)}
        lag: dict[Partition, int] = {}
        for entry in assigned:
            low, high = self._watermarks(entry)
            begin = max(low, committed[entry.partition], positions[entry.partition])
            lag[Partition(entry.topic, entry.partition)] = max(high - begin, 0)
        return lag

    def close(self) -> None:
        """Leave the group, so that others get the partitions at once."""
        self._consumer.close()

    def _watermarks(self, entry: TopicPartition) -> tuple[int, int]:
        # What the last fetch said is newer at times; while paused nothing is fetched and only the question helps.
        low, asked = self._consumer.get_watermark_offsets(entry, timeout=ANSWER_S)
        _, fetched = self._consumer.get_watermark_offsets(entry, cached=True)
        return low, max(asked, fetched)

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        logger.info("partitions assigned", extra={"partitions": sorted(entry.partition for entry in partitions)})

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone |= {Partition(entry.topic, entry.partition) for entry in partitions}
        logger.info("partitions revoked", extra={"partitions": sorted(entry.partition for entry in partitions)})

    def _is_message(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            raise StackError(f"the Kafka consumer cannot go on: {error.str()}")
        missing = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001
        self.is_topic_missing = self.is_topic_missing or error.code() in missing
        logger.warning("kafka", extra={"reason": error.str()})
        return False


class KafkaSender:
    """Writes messages and waits until the broker has them. Used by one thread.

    shrink: what to send in place of a message that is too large for the broker.
    """

    def __init__(self, connection: Connection, *, shrink: Callable[[Outgoing], Outgoing]) -> None:
        self._shrink = shrink
        with _configuring():
            self._producer = Producer(connection.producer(), logger=client_logger)

    def send(self, messages: Sequence[Outgoing]) -> list[bool]:
        """For each message whether all replicas have it."""
        faults = self._send_once(messages)
        too_large = [i for i, fault in enumerate(faults) if fault == KafkaError.MSG_SIZE_TOO_LARGE]
        if too_large:
            again = self._send_once([self._shrink(messages[i]) for i in too_large])
            for i, fault in zip(too_large, again, strict=True):
                faults[i] = fault
        return [fault is None for fault in faults]

    def close(self) -> None:
        """Nothing is left to be sent: `send` waits."""
        self._producer.flush(0)

    def _send_once(self, messages: Sequence[Outgoing]) -> list[int | None]:
        """The error code of each, None for those that the broker has."""
        faults: list[int | None] = [KafkaError._TIMED_OUT] * len(messages)  # noqa: SLF001 - the client's public name

        for number, message in enumerate(messages):

            def note(error: KafkaError | None, _message: Message, number: int = number) -> None:
                faults[number] = None if error is None else error.code()
                if error is not None:
                    logger.warning("message not written", extra={"reason": error.str()})

            self._produce(message, note, faults, number=number)
        while self._producer.flush(1.0):
            pass  # ends: each message is acknowledged, or given up after `message.timeout.ms`
        return faults

    def _produce(self, message: Outgoing, note: Any, faults: list[int | None], *, number: int) -> None:
        while True:
            try:
                self._producer.produce(
                    message.topic, key=message.key, value=message.value, headers=list(message.headers), on_delivery=note
                )
            except BufferError:  # as many as the client keeps are under way
                self._producer.poll(0.1)
            except KafkaException as error:
                faults[number] = error.args[0].code()
                return
            else:
                self._producer.poll(0)
                return


@contextmanager
def _configuring() -> Generator[None, None, None]:
    try:
        yield
    except KafkaException as error:
        raise ConfigurationError(
            f"the Kafka client cannot be configured: {_text(error)}; look at CLIP_PIPELINE_KAFKA_CONFIG"
        ) from None


def _received(message: Message) -> Received:
    headers = tuple((name, _bytes(value)) for name, value in message.headers() or [])
    return Received(
        Partition(str(message.topic()), _number(message.partition())), _number(message.offset()), _bytes(message.key()),
        _bytes(message.value()), headers,
    )  # fmt: skip


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _number(value: int | None) -> int:
    return OFFSET_INVALID if value is None else value


def _text(error: KafkaException) -> str:
    return str(error.args[0].str() if isinstance(error.args[0], KafkaError) else error)
