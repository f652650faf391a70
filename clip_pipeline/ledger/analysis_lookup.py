"""What the ledger knows of analysis requests: one of them, the recent ones, their counts, and which have changed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, func, null, select

from clip_pipeline.ledger.analysis_queue import count_waiting
from clip_pipeline.ledger.analysis_requests import can_be_request_id, unknown_analysis
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger, iso_utc, utc_now
from clip_pipeline.ledger.schema import IS_FINISHED, analysis_requests
from clip_pipeline.ledger.states import FINAL_ANALYSES, AnalysisState

OVERLAP_S = 2.0
"""How much later than its time stamp a change may become visible: commits on PostgreSQL, clocks of several machines."""

_table = analysis_requests.c


@dataclass(frozen=True, slots=True)
class Analysis:
    """One request and where it stands. labels: None for those of the named label set; top_k: None for all of them.

    result_json is there once it is completed, reason once it failed. Times as the ledger has them.
    """

    seq: int
    request_id: str
    source: str
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
    state: AnalysisState
    submitted_at: str
    started_at: str | None
    completed_at: str | None
    updated_at: str
    attempts: int
    reason: str | None
    result_json: str | None
    processing_time_ms: float | None


@dataclass(frozen=True, slots=True)
class AnalysisStats:
    """How many requests are in each state, of those that the ledger still has."""

    submitted: int
    processing: int
    completed: int
    failed: int
    mean_processing_time_ms: float | None

    @property
    def total(self) -> int:
        """All of them."""
        return self.submitted + self.processing + self.completed + self.failed

    @property
    def completion_rate(self) -> float:
        """Share of all requests that are completed, 0 to 1; 0 where there are none."""
        return self.completed / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class ChangedAnalysis:
    """A request that changed its state, with the state that it has now."""

    seq: int
    request_id: str
    state: AnalysisState
    updated_at: str


@dataclass(frozen=True, slots=True)
class AnalysisMark:
    """Up to where changes were read. seen: those told already that the next reading meets again."""

    updated_at: str
    seen: frozenset[ChangedAnalysis] = frozenset()


def analysis_of(ledger: Ledger, request_id: str) -> Analysis:
    """One request.

    Raises:
        NotFoundError: no request has this id.
    """
    if not can_be_request_id(request_id):
        raise unknown_analysis(request_id)
    with ledger.read() as connection:
        query = select(analysis_requests).where(_table.request_id == request_id)
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise unknown_analysis(request_id)
    return _analysis(row)


def analyses_without_results(ledger: Ledger, request_ids: Sequence[str]) -> dict[str, Analysis]:
    """Those of these requests that there are, by id, with result_json left unread: it may be long."""
    columns = [column for column in _table if column is not _table.result]
    found: dict[str, Analysis] = {}
    with ledger.read() as connection:
        for chunk in chunks(request_ids):
            query = select(*columns, null().label("result")).where(_table.request_id.in_(chunk))
            found |= {row["request_id"]: _analysis(row) for row in connection.execute(query).mappings()}
    return found


def recent_analyses(ledger: Ledger, *, before: int | None = None, most: int = 50) -> list[Analysis]:
    """The newest requests, newest first, or the newest of those submitted before the one with the seq `before`."""
    query = select(analysis_requests).order_by(_table.seq.desc()).limit(most)
    if before is not None:
        query = query.where(_table.seq < before)
    with ledger.read() as connection:
        return [_analysis(row) for row in connection.execute(query).mappings()]


def analysis_stats(ledger: Ledger) -> AnalysisStats:
    """Counts of all requests, from indexes alone."""
    finished = select(_table.state, func.count(), func.avg(_table.processing_time_ms)).where(IS_FINISHED)
    with ledger.read() as connection:
        submitted, processing = count_waiting(connection)
        rows = connection.execute(finished.group_by(_table.state)).tuples()
        ended = {state: (count, mean) for state, count, mean in rows}
    completed, mean_ms = ended.get(AnalysisState.COMPLETED, (0, None))
    failed, _ = ended.get(AnalysisState.FAILED, (0, None))
    return AnalysisStats(submitted, processing, completed, failed, mean_ms)


def last_ended_at(ledger: Ledger) -> float | None:
    """When a request was brought to its end last, Unix seconds; None where none ever was."""
    query = (
        select(_table.updated_at)
        .where(_table.state.in_(FINAL_ANALYSES))
        .order_by(_table.updated_at.desc(), _table.seq.desc())
        .limit(1)
    )
    with ledger.read() as connection:
        newest = connection.execute(query).scalar()
    return None if newest is None else datetime.fromisoformat(newest).timestamp()


def analysis_mark(ledger: Ledger) -> AnalysisMark:
    """The mark of somebody who wants to hear of changes from now on."""
    _, mark = changed_since(ledger, AnalysisMark(utc_now()), most=100_000)
    return mark


def changed_since(
    ledger: Ledger, mark: AnalysisMark, *, most: int = 1000
) -> tuple[list[ChangedAnalysis], AnalysisMark]:
    """The first requests that changed since `mark`, in order of change, and the mark to ask with next time.

    Each change is told once, or left out where another followed it at once; deletions are not told.
    """
    query = (
        select(_table.seq, _table.request_id, _table.state, _table.updated_at)
        .where(_table.updated_at >= _earlier(mark.updated_at))
        .order_by(_table.updated_at, _table.seq)
        # What was told before comes again; it must not fill the answer.
        .limit(most + len(mark.seen))
    )
    with ledger.read() as connection:
        rows = connection.execute(query).tuples()
        found = [ChangedAnalysis(seq, name, AnalysisState(state), at) for seq, name, state, at in rows]
    newest = max(mark.updated_at, found[-1].updated_at) if found else mark.updated_at
    met_again = _earlier(newest)
    recent = frozenset(change for change in found if change.updated_at >= met_again)
    return [change for change in found if change not in mark.seen], AnalysisMark(newest, recent)


def _earlier(updated_at: str) -> str:
    return iso_utc(datetime.fromisoformat(updated_at) - timedelta(seconds=OVERLAP_S))


def _analysis(row: RowMapping) -> Analysis:
    labels = None if row["labels"] is None else tuple(json.loads(row["labels"]))
    return Analysis(
        row["seq"], row["request_id"], row["source"], row["sha256"], row["filename"], row["format"], row["width"],
        row["height"], row["size_bytes"], labels, row["label_set"], row["label_set_version"], row["top_k"],
        AnalysisState(row["state"]), row["submitted_at"], row["started_at"], row["completed_at"], row["updated_at"],
        row["attempts"], row["reason"], row["result"], row["processing_time_ms"],
    )  # fmt: skip
