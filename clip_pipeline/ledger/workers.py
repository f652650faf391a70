"""GPU workers in the ledger: each says what it is when it comes, how it is with every beat, and that it goes.

Whether one is alive is told by the database's clock alone, which writes and reads both times. When that clock jumps,
forwards or back, every worker seems lost until its next beat, and none that is dead seems alive for long.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, select, update

from clip_pipeline.core.errors import ConflictError, NotFoundError
from clip_pipeline.ledger.clock import database_time, seconds_between
from clip_pipeline.ledger.database import Ledger, insert_if_new
from clip_pipeline.ledger.schema import batches, workers

BEAT_S = 5.0
SILENT_S = 3 * BEAT_S
"""A worker that was not heard of for so long is lost."""


class WorkerState(StrEnum):
    """How a worker is. The first four are what it says of itself while it is alive."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    LEFT = "left"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """What a worker says of itself when it comes. host, port: where the launcher finds it; machine: its host's name."""

    host: str
    port: int
    name: str
    gpu: str
    machine: str
    pid: int
    encoder: str
    fingerprint: str
    version: str
    dagster_version: str

    @property
    def address(self) -> str:
        """`host:port`, as the fleet file has it and runs carry it in the tag `clip/worker`."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What it says with every beat. images_per_s: of late, by all its runs together."""

    state: WorkerState
    run_ids: Sequence[str] = ()
    images_per_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A worker as the ledger has it. state: LOST where it is silent; silent_s: since its last word."""

    card: WorkerCard
    report: WorkerReport
    started_at: str
    seen_at: str
    silent_s: float

    @property
    def state(self) -> WorkerState:
        """What it said last, unless it has been silent since."""
        said = self.report.state
        return said if said is WorkerState.LEFT or _is_heard(self.silent_s) else WorkerState.LOST

    @property
    def is_alive(self) -> bool:
        """True where it beats."""
        return self.state not in (WorkerState.LEFT, WorkerState.LOST)


def register_worker(ledger: Ledger, card: WorkerCard) -> str:
    """Enter a worker, or one that comes again; returns the session that its beats must name.

    Raises:
        ConflictError: a worker of another machine beats under this address.
    """
    session = secrets.token_hex(16)
    first = _card_values(card) | _report_values(WorkerReport(WorkerState.STARTING)) | {"session": session}
    with ledger.write_rows() as connection:
        now = database_time(connection)
        times = {"started_at": now, "seen_at": now}
        if connection.execute(insert_if_new(connection, workers).values(first | times)).rowcount:
            return session
        before = _known(connection, card.address)
        if before is not None and before.is_alive and before.card.machine != card.machine:
            raise ConflictError(
                f"a worker on {before.card.machine} (process {before.card.pid}) uses the address {card.address} and is "
                f"{before.state}; give this one another --host or --port, or stop that one"
            )
        connection.execute(update(workers).where(workers.c.address == card.address).values(first | times))
    return session


def beat(ledger: Ledger, address: str, *, session: str, report: WorkerReport) -> bool:
    """Say how a worker is; False where its row is gone or another one's by now, and nothing was written."""
    with ledger.write_rows() as connection:
        told = connection.execute(
            update(workers)
            .where(workers.c.address == address, workers.c.session == session)
            .values(_report_values(report) | {"seen_at": database_time(connection)})
        )
        return told.rowcount > 0


def leave_word(ledger: Ledger, address: str, *, session: str) -> bool:
    """A worker goes, and says so: the last of its beats."""
    return beat(ledger, address, session=session, report=WorkerReport(WorkerState.LEFT))


def forget_worker(ledger: Ledger, address: str) -> None:
    """Strike a worker off.

    Raises:
        NotFoundError: none is known at this address.
        ConflictError: it is alive, and would only come back.
    """
    with ledger.write_rows() as connection:
        known = _known(connection, address)
        if known is None:
            raise NotFoundError(f"no worker {address!r}; `clip-pipeline workers` shows the addresses")
        if known.is_alive:
            raise ConflictError(f"worker {address} is {known.state}; stop it first")
        connection.execute(delete(workers).where(workers.c.address == address, workers.c.seen_at == known.seen_at))


def list_workers(ledger: Ledger) -> list[KnownWorker]:
    """Every worker that ever came and was not struck off, by host and port."""
    with ledger.read() as connection:
        now = connection.execute(select(database_time(connection))).scalar_one()
        rows = connection.execute(select(workers).order_by(workers.c.host, workers.c.port)).mappings().all()
    return [_worker(row, now) for row in rows]


def count_workers(ledger: Ledger) -> dict[str, int]:
    """How many workers are in each state, every state included."""
    counts = dict.fromkeys(map(str, WorkerState), 0)
    for worker in list_workers(ledger):
        counts[worker.state] += 1
    return counts


def processed_images(ledger: Ledger, run_ids: Sequence[str]) -> int:
    """Images that these runs have embedded or found to be bad, so far, in the batches they worked on last."""
    if not run_ids:
        return 0
    total = select(func.coalesce(func.sum(batches.c.processed), 0)).where(batches.c.run_id.in_(run_ids))
    with ledger.read() as connection:
        return int(connection.execute(total).scalar_one())


def _is_heard(silent_s: float) -> bool:
    # Below zero: the clock went back since the last word; within a beat the worker says a new one.
    return -SILENT_S < silent_s < SILENT_S


def _known(connection: Connection, address: str) -> KnownWorker | None:
    now = connection.execute(select(database_time(connection))).scalar_one()
    row = connection.execute(select(workers).where(workers.c.address == address)).mappings().one_or_none()
    return None if row is None else _worker(row, now)


def _card_values(card: WorkerCard) -> dict[str, object]:
    return {**asdict(card), "address": card.address}


def _report_values(report: WorkerReport) -> dict[str, object]:
    return {
        "state": str(report.state),
        "run_ids": json.dumps(list(report.run_ids)),
        "images_per_s": report.images_per_s,
        "detail": report.detail,
    }


def _worker(row: RowMapping, now: str) -> KnownWorker:
    fields: dict[str, Any] = dict(row)
    card = WorkerCard(**{name: fields[name] for name in WorkerCard.__slots__})
    report = WorkerReport(
        WorkerState(fields["state"]), tuple(json.loads(fields["run_ids"])), fields["images_per_s"], fields["detail"]
    )
    silent_s = seconds_between(fields["seen_at"], now)
    return KnownWorker(card, report, fields["started_at"], fields["seen_at"], silent_s)
