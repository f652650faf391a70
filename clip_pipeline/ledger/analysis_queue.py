"""The queue of analysis requests: claimed in micro-batches under a lease, and ended once, by whoever holds the lease.

A run that dies leaves its leases to run out. What it worked on is suspect from then on and claimed alone, by a run
that has nothing else leased: if that run dies too, it is known what killed it, and the second time is the last.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, case, false, func, select, true, update

from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.schema import AWAITS_DELIVERY, IS_PROCESSING, IS_SUBMITTED, analysis_requests
from clip_pipeline.ledger.states import AnalysisState

MOST_SOLO_DEATHS = 2
KILLED_ITS_RUN = Reason(ReasonCode.KILLED_ITS_RUN, "it killed its run twice while the run worked on nothing else")

_table = analysis_requests.c
_no_lease = {"lease_owner": None, "lease_until": None, "alone": False}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A request to work on. labels: None for those of the named label set; top_k: None for all of them.

    attempts: how often it was claimed, this time included.
    """

    seq: int
    request_id: str
    sha256: str
    filename: str
    format: str
    width: int
    height: int
    size_bytes: int
    labels: tuple[str, ...] | None
    label_set: str | None
    label_set_version: int | None
    top_k: int | None
    submitted_at: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Completed:
    """The outcome of a request that could be answered. result_json: what is kept of it, as one JSON document."""

    seq: int
    result_json: str
    processing_time_ms: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The outcome of a request that could not be answered."""

    seq: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long the queue is. oldest_*: of the first request that nobody works on, None where there is none."""

    submitted: int
    processing: int
    oldest_submitted_at: str | None
    oldest_seq: int | None


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A finished request whose result is to be told to Kafka. result_json or reason: the one that it ended with."""

    seq: int
    request_id: str
    filename: str
    state: AnalysisState
    result_json: str | None
    reason: str | None
    completed_at: str
    processing_time_ms: float | None


def claim(ledger: Ledger, *, owner: str, most: int, lease_s: float, now: float) -> list[Claimed]:
    """The oldest waiting requests, at most `most`, leased to `owner` until now + lease_s.

    now: seconds since 1970. Leases of others that ran out are taken back first. While a suspect waits, an owner that
    holds nothing gets it, alone; one that holds a request gets nothing, and comes again when it is done.
    """
    # An idle run asks many times a second; that must not take the write lock from others.
    if not _has_work(ledger, owner=owner, now=now):
        return []
    with ledger.write_rows() as connection:
        _take_back(connection, (_table.lease_until <= now) & (_table.lease_owner != owner))
        held = _held_by(connection, owner)
        chosen = _choose(connection, held=held, most=most)
        return _lease(connection, chosen, held=held, owner=owner, lease_until=now + lease_s) if chosen else []


def renew(ledger: Ledger, owner: str, *, lease_s: float, now: float) -> int:
    """Extend every lease that `owner` still holds to now + lease_s; returns how many there are."""
    with ledger.write_rows() as connection:
        held = _held_by(connection, owner)
        connection.execute(update(analysis_requests).where(_table.seq.in_(held)).values(lease_until=now + lease_s))
        return len(held)


def give_back(ledger: Ledger, owner: str) -> int:
    """Let go of every lease of an owner that ends in good order; returns how many. No request is suspected."""
    with ledger.write_rows() as connection:
        held = _held_by(connection, owner)
        values = _no_lease | {"state": AnalysisState.SUBMITTED, "updated_at": utc_now()}
        connection.execute(update(analysis_requests).where(_table.seq.in_(held)).values(values))
        return len(held)


def release_leases_of(ledger: Ledger, owners: Collection[str]) -> int:
    """Take back every lease of owners that are known to be dead, as if it had run out; returns how many."""
    with ledger.write_rows() as connection:
        return _take_back(connection, _table.lease_owner.in_(owners))


def lease_owners(ledger: Ledger) -> dict[str, int]:
    """Who holds leases, run out or not, and how many."""
    held = select(_table.lease_owner, func.count()).where(IS_PROCESSING).group_by(_table.lease_owner)
    with ledger.read() as connection:
        return {str(owner): count for owner, count in connection.execute(held).tuples()}


def complete(ledger: Ledger, owner: str, outcomes: Sequence[Completed]) -> set[int]:
    """Record results; returns the seqs of those that `owner` still had leased. The others are left as they are."""
    return _end(ledger, owner, {
        done.seq: {"state": AnalysisState.COMPLETED, "result": done.result_json,
                   "processing_time_ms": done.processing_time_ms}
        for done in outcomes
    })  # fmt: skip


def fail(ledger: Ledger, owner: str, outcomes: Sequence[Failed]) -> set[int]:
    """Record failures; returns the seqs of those that `owner` still had leased. The others are left as they are."""
    return _end(ledger, owner, {
        failed.seq: {"state": AnalysisState.FAILED, "reason": str(failed.reason)} for failed in outcomes
    })  # fmt: skip


def waiting(ledger: Ledger) -> Waiting:
    """How many requests wait and how many are worked on."""
    oldest = select(_table.submitted_at, _table.seq).where(IS_SUBMITTED).order_by(_table.seq).limit(1)
    with ledger.read() as connection:
        submitted, processing = count_waiting(connection)
        # A suspect is older than what was never claimed, but not always in the front of the index.
        heads = [connection.execute(oldest.where(_table.suspect == suspect)).first() for suspect in (true(), false())]
    first = min((head for head in heads if head), key=lambda head: head.seq, default=None)
    return Waiting(submitted, processing, *(first or (None, None)))


def count_waiting(connection: Connection) -> tuple[int, int]:
    """How many requests are submitted and how many processing."""
    count = select(func.count()).select_from(analysis_requests)
    submitted, processing = (connection.execute(count.where(state)) for state in (IS_SUBMITTED, IS_PROCESSING))
    return submitted.scalar_one(), processing.scalar_one()


def undelivered(ledger: Ledger, *, most: int) -> list[Undelivered]:
    """The first finished requests from Kafka whose result Kafka does not have yet, in the order of submission."""
    query = select(
        _table.seq, _table.request_id, _table.filename, _table.state, _table.result, _table.reason,
        _table.completed_at, _table.processing_time_ms,
    )  # fmt: skip
    with ledger.read() as connection:
        rows = connection.execute(query.where(AWAITS_DELIVERY).order_by(_table.seq).limit(most)).tuples()
        return [Undelivered(*row[:3], AnalysisState(row[3]), *row[4:]) for row in rows]


def mark_delivered(ledger: Ledger, seqs: Sequence[int]) -> None:
    """Kafka acknowledged the results of these requests."""
    with ledger.write_rows() as connection:
        mine = update(analysis_requests).where(_table.seq.in_(seqs), _table.delivered_at.is_(None))
        connection.execute(mine.values(delivered_at=utc_now()))


def deliver_again(ledger: Ledger, request_id: str) -> None:
    """Whoever sent this finished request by Kafka sends it again: its result is told once more."""
    told = _table.delivered_at.is_not(None)
    with ledger.write_rows() as connection:
        mine = update(analysis_requests).where(_table.request_id == request_id, told)
        connection.execute(mine.values(delivered_at=None))


def _has_work(ledger: Ledger, *, owner: str, now: float) -> bool:
    submitted = select(_table.seq).where(IS_SUBMITTED).limit(1)
    lost = select(_table.seq).where(IS_PROCESSING, _table.lease_until <= now, _table.lease_owner != owner).limit(1)
    with ledger.read() as connection:
        return any(connection.execute(query).first() is not None for query in (submitted, lost))


def _take_back(connection: Connection, lost: ColumnElement[bool]) -> int:
    """Put leased requests back into the queue as suspects; fail those that were alone once too often."""
    # Rows that another run is taking back, or ending, right now are none of ours.
    query = select(_table.seq).where(IS_PROCESSING, lost).with_for_update(skip_locked=True)
    seqs = list(connection.execute(query).scalars())
    if not seqs:
        return 0
    now, chosen = utc_now(), _table.seq.in_(seqs)
    values = _no_lease | {"state": AnalysisState.SUBMITTED, "suspect": True, "updated_at": now}
    deaths = _table.solo_deaths + case((_table.alone, 1), else_=0)
    connection.execute(update(analysis_requests).where(chosen).values(values | {"solo_deaths": deaths}))
    ended = {"state": AnalysisState.FAILED, "reason": str(KILLED_ITS_RUN), "completed_at": now}
    connection.execute(
        update(analysis_requests).where(chosen, _table.solo_deaths >= MOST_SOLO_DEATHS).values(ended)
    )  # fmt: skip
    return len(seqs)


def _held_by(connection: Connection, owner: str) -> dict[int, bool]:
    """What `owner` has leased, each with whether it is suspect; locked, always in one order."""
    held = select(_table.seq, _table.suspect).where(IS_PROCESSING, _table.lease_owner == owner)
    return dict(connection.execute(held.order_by(_table.seq).with_for_update()).tuples().all())


def _choose(connection: Connection, *, held: dict[int, bool], most: int) -> list[RowMapping]:
    if any(held.values()):
        return []
    query = select(analysis_requests).where(IS_SUBMITTED).order_by(_table.seq).with_for_update(skip_locked=True)
    suspects = connection.execute(query.where(_table.suspect == true()).limit(1)).mappings().all()
    if suspects:
        return [] if held else list(suspects)
    return list(connection.execute(query.where(_table.suspect == false()).limit(most)).mappings())


def _lease(
    connection: Connection, chosen: list[RowMapping], *, held: dict[int, bool], owner: str, lease_until: float
) -> list[Claimed]:
    now, seqs = utc_now(), [int(row["seq"]) for row in chosen]
    alone = len(seqs) == 1 and not held
    if held:
        extended = update(analysis_requests).where(_table.seq.in_(held))
        connection.execute(extended.values(lease_until=lease_until, alone=False))
    connection.execute(
        update(analysis_requests)
        .where(_table.seq.in_(seqs))
        .values(state=AnalysisState.PROCESSING, lease_owner=owner, lease_until=lease_until, alone=alone,
                attempts=_table.attempts + 1, started_at=func.coalesce(_table.started_at, now), updated_at=now)
    )  # fmt: skip
    return [_claimed(row) for row in chosen]


def _claimed(row: RowMapping) -> Claimed:
    labels = None if row["labels"] is None else tuple(json.loads(row["labels"]))
    return Claimed(
        row["seq"], row["request_id"], row["sha256"], row["filename"], row["format"], row["width"], row["height"],
        row["size_bytes"], labels, row["label_set"], row["label_set_version"], row["top_k"],
        row["submitted_at"], row["attempts"] + 1,
    )  # fmt: skip


def _end(ledger: Ledger, owner: str, outcomes: dict[int, dict[str, object]]) -> set[int]:
    if not outcomes:
        return set()
    with ledger.write_rows() as connection:
        ended, now = outcomes.keys() & _held_by(connection, owner).keys(), utc_now()
        rows = [
            {"ended": seq, **outcomes[seq], **_no_lease, "completed_at": now, "updated_at": now}
            for seq in sorted(ended)
        ]  # fmt: skip
        if rows:
            connection.execute(update(analysis_requests).where(_table.seq == bindparam("ended")), rows)
    return ended
