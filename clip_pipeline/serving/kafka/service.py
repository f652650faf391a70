"""Both loops in one process: intake in the calling thread, the outbox in another, stopped together in good order."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import partial
from types import FrameType

from confluent_kafka import KafkaException

from clip_pipeline.core.errors import ConfigurationError, StackError, StoreError
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.analysis_queue import deliver_again, waiting
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.states import FINAL_ANALYSES
from clip_pipeline.observability.logging import log_to_stderr
from clip_pipeline.serving.kafka.broker import Connection, KafkaSender, KafkaSource, connection_of, ensure_topics
from clip_pipeline.serving.kafka.intake import Intake, IntakeSettings
from clip_pipeline.serving.kafka.messages import Received, parse_upload, without_value
from clip_pipeline.serving.kafka.outbox import deliver, shorter_result
from clip_pipeline.serving.queries import UndecodableQueryError
from clip_pipeline.serving.uploads import Asked, Uploads
from clip_pipeline.settings import Settings

logger = logging.getLogger(__name__)

LAG_EVERY_S = 30.0
OUTBOX_POLL_S = 0.2
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 15.0

_PASSING = frozenset({ReasonCode.MISSING, ReasonCode.UNREADABLE, ReasonCode.CHANGED})
"""Reasons that say something of this machine, not of the image: the file was written here a moment ago."""


def run_kafka(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; what was taken in is committed and what was finished is delivered by then.

    Raises:
        ConfigurationError: an option is wrong, or a topic is missing that the broker does not let us create.
        StoreError: the ledger cannot be opened.
        StackError: the client cannot go on; starting again helps.
    """
    log_to_stderr(settings.log_format)
    ledger = open_ledger(settings.ledger_location)
    try:
        with _stop_asked_for() as stop:
            serve(settings, ledger, stop=stop)
    finally:
        ledger.close()


def serve(settings: Settings, ledger: Ledger, *, stop: threading.Event) -> None:
    """Both loops until `stop` is set. Raises as `run_kafka`."""
    connection = connection_of(settings)
    topics = (settings.kafka_topic_uploads, settings.kafka_topic_results, settings.kafka_topic_dlq)
    _wait_for_topics(connection, topics, stop=stop)
    if stop.is_set():
        return
    limits = upload_limits(settings)
    with (
        closing(KafkaSender(connection, shrink=shorter_result)) as results,
        closing(Uploads(settings.store, ledger, limits)) as uploads,
        closing(KafkaSender(connection, shrink=without_value)) as dead_letters,
        closing(KafkaSource(connection, settings.kafka_topic_uploads)) as source,
    ):
        intake = Intake(
            source,
            IntakeSettings(settings.kafka_topic_dlq, settings.kafka_max_backlog),
            accept=acceptor(uploads, ledger, limits=limits),
            send=dead_letters.send,
            backlog=lambda: waiting(ledger).submitted,
        )
        uploads.sweep()
        deliver_some = partial(deliver, ledger, results.send, topic=settings.kafka_topic_results)
        outbox = threading.Thread(target=run_outbox, args=(deliver_some, stop), name="outbox", daemon=True)
        outbox.start()
        try:
            _take_in(intake, source, stop=stop, ensure=lambda: ensure_topics(connection, topics))
        finally:
            stop.set()
            outbox.join()
    logger.info("stopped")


def acceptor(uploads: Uploads, ledger: Ledger, *, limits: ImageLimits) -> Callable[[Received], None]:
    """A function that makes one message's request durable; what it raises is as `Intake` has it."""

    def accept(message: Received) -> None:
        upload = parse_upload(message, max_bytes=limits.max_bytes)
        asked = Asked(
            "kafka", upload.filename, labels=upload.labels, top_k=upload.top_k, request_id=upload.request_id
        )  # fmt: skip
        try:
            analysis = uploads.accept(upload.content, asked)
        except UndecodableQueryError as error:
            if error.reason.code in _PASSING:
                raise StoreError(f"the upload could not be read again: {error.reason}") from error
            raise
        if analysis.state in FINAL_ANALYSES:
            # Sent again because no result was seen; that one is lost with a broker that lost its topics.
            deliver_again(ledger, analysis.request_id)

    return accept


def run_outbox(deliver_some: Callable[[], int], stop: threading.Event) -> None:
    """Deliver results until `stop` is set, and then what is finished by that time, once."""
    failures = 0
    while True:
        was_stopping = stop.is_set()
        delivered = 0
        try:
            delivered = deliver_some()
            failures = 0
        except Exception as error:  # whatever the database raises, it may pass
            failures = min(failures + 1, 10)
            logger.exception("results not delivered", extra={"reason": str(error)})
        if was_stopping:
            return
        if not delivered:
            stop.wait(min(FIRST_WAIT_S * 2 ** (failures - 1), LONGEST_WAIT_S) if failures else OUTBOX_POLL_S)


def upload_limits(settings: Settings) -> ImageLimits:
    """What one upload may cost: as over HTTP, where the size of a body is limited too."""
    limits = settings.upload_limits
    return ImageLimits(min(limits.max_bytes, settings.max_upload_bytes), limits.max_pixels, limits.timeout_s)


def _take_in(intake: Intake, source: KafkaSource, *, stop: threading.Event, ensure: Callable[[], object]) -> None:
    next_lag = time.monotonic() + LAG_EVERY_S
    while not stop.is_set():
        intake.step()
        if source.is_topic_missing:
            source.is_topic_missing = False
            _try_again_later(ensure)
        if time.monotonic() >= next_lag:
            next_lag = time.monotonic() + LAG_EVERY_S
            _log_lag(source)


def _log_lag(source: KafkaSource) -> None:
    try:
        lag = source.lag()
    except KafkaException as error:
        logger.warning("consumer lag unknown", extra={"reason": str(error)})
        return
    partitions = {str(partition.number): behind for partition, behind in lag.items()}
    logger.info("consumer lag", extra={"messages": sum(lag.values()), "partitions": partitions})


def _try_again_later(ensure: Callable[[], object]) -> None:
    try:
        ensure()
    except (ConfigurationError, StackError) as error:
        logger.warning("topics are missing", extra={"reason": str(error)})


def _wait_for_topics(connection: Connection, topics: tuple[str, ...], *, stop: threading.Event) -> None:
    """Return once the topics exist: a broker that is not there yet is waited for, since everything else goes on."""
    wait_s = FIRST_WAIT_S
    while not stop.is_set():
        try:
            created = ensure_topics(connection, topics)
        except StackError as error:
            logger.warning("waiting for kafka", extra={"reason": str(error), "retry_s": wait_s})
            stop.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        else:
            logger.info("connected", extra={"bootstrap": connection.bootstrap, "topics_created": created})
            return


@contextmanager
def _stop_asked_for() -> Generator[threading.Event, None, None]:
    """An event that SIGTERM and SIGINT set, where this is the main thread."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
