"""What became of jobs since the last look: the ledger and Dagster read, and compared with what is known. Blocks."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from clip_pipeline.core.errors import NotFoundError, StackError
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.job_changes import (
    ClosedJob,
    LedgerMark,
    jobs_closed_after,
    ledger_mark,
    open_or_new_job_ids,
)
from clip_pipeline.ledger.jobs import job_counts
from clip_pipeline.serving.documents import Document, job_document
from clip_pipeline.serving.lifecycle import JobStatus, iso_time
from clip_pipeline.serving.orchestrator import Orchestrator, RunInfo
from clip_pipeline.serving.push.events import Event
from clip_pipeline.serving.push.watch import OVERLAP_S, Pace

TOPIC = "job"
MOST_OPEN_JOBS = 1_000
"""The oldest open jobs whose progress is followed; that any other is new or closed is seen all the same."""
RUNS_EVERY_S = 5.0
PACE = Pace(every_s=0.5, announced_s=RUNS_EVERY_S, per_look=9, longest_s=30.0)
"""Looking takes at most a tenth of one core, however many jobs are open and however large."""
MOST_JOBS_ASKED = 100
RUNS_PAUSE_S = 15.0
"""Dagster is not asked again for so long after it did not answer."""
REPLAY_PAGE = 20
FINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class KnownJob:
    """The newest event of one job. seen: a digest of its document without what changes by itself."""

    event: Event
    seen: int
    closed: bool


class JobLook:
    """Compares jobs with how they were at the last look. For one thread at a time."""

    topic = TOPIC
    pace = PACE

    def __init__(self, ledger: Ledger, orchestrator: Orchestrator) -> None:
        self._ledger = ledger
        self._orchestrator = orchestrator
        self._runs: dict[str, list[RunInfo]] = {}
        self._ask_runs_at = 0.0
        self._dagster_silent_until = 0.0
        self.waited_s = 0.0  # for Dagster, during the last look
        self.forget()

    def forget(self) -> None:
        """Begin anew: at the next look every job is unchanged."""
        self._known: dict[str, KnownJob] | None = None
        self._mark: LedgerMark | None = None
        self._thorough_at = 0.0
        self._since_s = time.time() - OVERLAP_S

    def standing(self) -> list[Event]:
        """The state of every open job as of the last look."""
        return [job.event for job in (self._known or {}).values() if not job.closed]

    def changes(self) -> list[Event]:
        """The latest state of each job that changed since the last look, closed ones first; none at the first."""
        begun_s, mark = time.time(), ledger_mark(self._ledger)
        self.waited_s = 0.0
        before, is_thorough = self._mark, time.monotonic() >= self._thorough_at
        if mark == before and not is_thorough:
            return []
        # What changes of an open job are its batches and its runs; that other jobs come and go leaves it as it is.
        reads_open = is_thorough or before is None or mark.batches != before.batches
        known, closed, moving = self._known or {}, self._closed_lately(), self._open_or_new()
        settled = {
            job_id: job for job_id, job in known.items() if job.closed and (job_id in closed or job_id in moving)
        }
        still = set() if reads_open else set(moving) - set(closed)
        kept = settled | {job_id: job for job_id, job in known.items() if job_id in still and not job.closed}
        due = [job_id for job_id in dict.fromkeys([*closed, *moving]) if job_id not in kept]
        self._refresh_runs(due if reads_open else [], newly=[job_id for job_id in due if job_id in closed])
        read = [self._read(job_id, closed=closed.get(job_id), moment_s=begun_s) for job_id in due]
        now_known = kept | {job.event.key: job for job in read if job is not None}
        changed = [
            now_known[i].event for i in due if i in now_known and (i not in known or known[i].seen != now_known[i].seen)
        ]
        is_first = self._known is None
        self._remember(now_known, mark, begun_s)
        if reads_open:
            self._thorough_at = time.monotonic() + RUNS_EVERY_S
        return [] if is_first else changed

    def between(self, since_s: float, until_s: float) -> Iterator[list[Event]]:
        """The jobs that were closed in that time, in order, some at a time so that memory does not grow with them."""
        last = ClosedJob(iso_time(since_s), "")
        while page := jobs_closed_after(self._ledger, last, most=REPLAY_PAGE):
            wanted = [job for job in page if job.closed_at <= iso_time(until_s)]
            runs = self._runs_of([job.job_id for job in wanted])
            read = [
                self._read(job.job_id, closed=job, moment_s=until_s, runs=runs.get(job.job_id, [])) for job in wanted
            ]
            yield [job.event for job in read if job is not None]
            if len(wanted) < len(page):
                return
            last = page[-1]

    def _closed_lately(self) -> dict[str, ClosedJob]:
        begin = ClosedJob(iso_time(self._since_s), "")
        return {job.job_id: job for job in jobs_closed_after(self._ledger, begin)}

    def _open_or_new(self) -> list[str]:
        return open_or_new_job_ids(self._ledger, created_since=iso_time(self._since_s), most=MOST_OPEN_JOBS)

    def _remember(self, known: dict[str, KnownJob], mark: LedgerMark, begun_s: float) -> None:
        self._known, self._mark, self._since_s = known, mark, begun_s - OVERLAP_S
        self._runs = {job_id: runs for job_id, runs in self._runs.items() if job_id in known}

    def _read(
        self, job_id: str, *, closed: ClosedJob | None, moment_s: float, runs: Sequence[RunInfo] | None = None
    ) -> KnownJob | None:
        try:
            counts = job_counts(self._ledger, job_id)
        except NotFoundError:
            return None
        document = job_document(
            self._ledger, self._orchestrator, counts, runs=self._runs.get(job_id, []) if runs is None else runs
        )
        moment_s = moment_s if closed is None else datetime.fromisoformat(closed.closed_at).timestamp()
        is_final = document["status"] in FINAL
        data = json.dumps(document, separators=(",", ":"))
        event = Event(TOPIC, job_id, int(1000 * moment_s), data, is_final)
        return KnownJob(event, _digest(document), closed is not None)

    def _refresh_runs(self, job_ids: Sequence[str], *, newly: Sequence[str]) -> None:
        """Ask Dagster again for what changed there: every few seconds, and when a job has come to its end."""
        started = time.monotonic()
        if job_ids and started >= self._ask_runs_at:
            self._runs |= self._runs_of(job_ids[:MOST_JOBS_ASKED])
            self._ask_runs_at = time.monotonic() + RUNS_EVERY_S
        elif newly:
            self._runs |= self._runs_of(newly[:MOST_JOBS_ASKED])
        self.waited_s = time.monotonic() - started

    def _runs_of(self, job_ids: Sequence[str]) -> dict[str, list[RunInfo]]:
        """The runs of these jobs; nothing where Dagster does not answer, or did not a moment ago."""
        if self._dagster_silent_until > time.monotonic():
            return {}
        try:
            return self._orchestrator.runs_of_jobs(job_ids)
        except StackError:
            self._dagster_silent_until = time.monotonic() + RUNS_PAUSE_S
            return {}


def _digest(document: Document) -> int:
    # The estimate moves with the clock: that alone is no change.
    return hash(json.dumps({name: value for name, value in document.items() if name != "eta_seconds"}))
