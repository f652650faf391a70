"""The loop that turns messages into requests: receive, make durable, then commit the offset, never the other way.

A message is settled once its request is durable, or once the broker has it as a dead letter. Whatever else happens
(the database is down, the disk full) is taken for a fault of the moment: nothing is committed, no new message is
fetched, and the same messages are tried again, for as long as it takes.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from clip_pipeline.core.errors import ConflictError, QueryError
from clip_pipeline.serving.kafka.messages import Outgoing, Partition, Received, dead_letter

logger = logging.getLogger(__name__)

POLL_S = 0.5
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
ROUND_S = 5.0
"""After so long a round ends early: a member that does not poll for minutes is taken for dead, and a stop waits."""

LOOK_EVERY_S = 1.0
"""Between two looks at the backlog: it may grow beyond its limit by what is read in this time."""


class Source(Protocol):
    """Where messages come from: one member of a consumer group."""

    def receive(self, most: int, *, timeout_s: float) -> list[Received]:
        """Messages, in order within each partition; empty after the timeout. Keeps the membership alive."""
        ...

    def take_revoked(self) -> set[Partition]:
        """The partitions that were taken away since this was asked last."""
        ...

    def commit(self, next_offsets: Mapping[Partition, int]) -> None:
        """What is below these offsets need not be read again."""
        ...

    def pause(self) -> None:
        """Fetch nothing until `resume`."""
        ...

    def resume(self) -> None:
        """Fetch again."""
        ...


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """dead_letters: topic. most: messages of one round. max_backlog: waiting requests beyond which intake pauses."""

    dead_letters: str
    max_backlog: int
    most: int = 64


class Intake:
    """Takes messages in, one round each `step`.

    accept: makes one message's request durable; raises QueryError or ConflictError where it can never be one. send:
    writes messages, returns which of them the broker has. backlog: requests that nobody works on yet.
    """

    def __init__(
        self,
        source: Source,
        settings: IntakeSettings,
        *,
        accept: Callable[[Received], None],
        send: Callable[[Sequence[Outgoing]], list[bool]],
        backlog: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._settings = settings
        self._accept = accept
        self._send = send
        self._backlog = backlog
        self._clock = clock
        self._pending: list[Received] = []
        self._is_full = False
        self._is_paused = False
        self._look_at = 0.0
        self._retry_at = 0.0
        self._failures = 0

    @property
    def is_paused(self) -> bool:
        """Whether fetching is stopped, for a long backlog or after a failure."""
        return self._is_paused

    def step(self, *, timeout_s: float = POLL_S) -> int:
        """One round; returns how many messages were settled. Never raises for what may pass."""
        self._look_at_backlog()
        self._direct_flow()
        fresh = self._source.receive(self._settings.most, timeout_s=timeout_s)
        self._pending += fresh
        revoked = self._source.take_revoked()
        # Whoever has the partition now reads them again; what was settled of it is committed already.
        self._pending = [message for message in self._pending if message.partition not in revoked]
        if not self._pending or self._clock() < self._retry_at:
            return 0
        return self._settle()

    def _settle(self) -> int:
        pending, self._pending = self._pending, []
        poisoned: list[tuple[Received, str]] = []
        failure: Exception | None = None
        end_at = self._clock() + ROUND_S
        for number, message in enumerate(pending):
            if self._clock() >= end_at:
                self._pending = pending[number:]
                break
            try:
                self._accept(message)
            except (QueryError, ConflictError) as error:
                poisoned.append((message, str(error)))
            except Exception as error:  # noqa: BLE001 - whatever the database or the disk raise, it may pass
                failure, self._pending = error, pending[number:]
                break
        undelivered = self._bury(poisoned)
        self._pending = undelivered + self._pending
        self._source.commit(offsets_to_commit(pending, unsettled=self._pending))
        self._note(failure if failure or not undelivered else RuntimeError("the broker does not take dead letters"))
        return len(pending) - len(self._pending)

    def _bury(self, poisoned: Sequence[tuple[Received, str]]) -> list[Received]:
        """Write dead letters; returns the messages of those that the broker does not have."""
        letters = [dead_letter(message, reason, topic=self._settings.dead_letters) for message, reason in poisoned]
        sent = self._send(letters) if letters else []
        for (message, reason), is_sent in zip(poisoned, sent, strict=True):
            if is_sent:
                logger.warning("poison message", extra=_whereabouts(message) | {"reason": reason})
        return [message for (message, _), is_sent in zip(poisoned, sent, strict=True) if not is_sent]

    def _note(self, failure: Exception | None) -> None:
        if failure is None:
            self._failures, self._retry_at = 0, 0.0
            return
        wait_s = min(FIRST_WAIT_S * 2**self._failures, LONGEST_WAIT_S)
        self._failures, self._retry_at = min(self._failures + 1, 10), self._clock() + wait_s
        fields = _whereabouts(self._pending[0]) | {"reason": str(failure), "retry_s": wait_s}
        logger.error("messages cannot be taken in", extra=fields)

    def _look_at_backlog(self) -> None:
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            backlog = self._backlog()
        except Exception as error:  # noqa: BLE001 - as in _settle; the next message tells whether the ledger works
            logger.warning("backlog unknown", extra={"reason": str(error)})
            return
        was_full = self._is_full
        self._is_full = is_full(was_full, backlog, most=self._settings.max_backlog)
        if self._is_full != was_full:
            what = "paused by the backlog" if self._is_full else "resumed"
            logger.warning(what, extra={"backlog": backlog, "max_backlog": self._settings.max_backlog})

    def _direct_flow(self) -> None:
        paused = self._is_full or bool(self._pending)
        if paused and not self._is_paused:
            self._source.pause()
        elif self._is_paused and not paused:
            self._source.resume()
        self._is_paused = paused


def is_full(was_full: bool, backlog: int, *, most: int) -> bool:
    """Whether to stop fetching: from a backlog above `most` on, until it is below half of that."""
    return backlog >= max(most / 2, 1) if was_full else backlog > most


def offsets_to_commit(received: Sequence[Received], *, unsettled: Sequence[Received]) -> dict[Partition, int]:
    """For each partition the offset to go on from: behind what was received, but not behind what is unsettled."""
    first_left: dict[Partition, int] = {}
    for message in unsettled:
        first_left[message.partition] = min(message.offset, first_left.get(message.partition, message.offset))
    offsets: dict[Partition, int] = {}
    for message in received:
        settled_to = first_left.get(message.partition, message.offset + 1)
        if settled_to > message.offset:
            offsets[message.partition] = max(message.offset + 1, offsets.get(message.partition, 0))
    return offsets


def _whereabouts(message: Received) -> dict[str, object]:
    partition = message.partition
    return {"topic": partition.topic, "partition": partition.number, "offset": message.offset}
