"""Canceling a job: the ledger lets go of its files, Dagster ends the runs that serve nobody else."""

from collections.abc import Sequence
from dataclasses import dataclass

from clip_pipeline.core.errors import StackError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.cancellation import (
    Cancellation,
    cancel_job,
    unwanted_embeddings,
    unwanted_inspections,
)
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.serving.orchestrator import Orchestrator, RunInfo

# The first words of the names that the sensors (`defs`) give to work. A merge is never ended: it shows what other jobs
# finished and takes out what was removed, and it is over soon.
INSPECTION, EMBEDDING = "inspect", "embed"


@dataclass(frozen=True, slots=True)
class CanceledJob:
    """A canceled job. terminated, left_running: ids of the runs that were ended, and of those that serve others too;
    fault: why Dagster could not be asked, None where it was."""

    cancellation: Cancellation
    terminated: tuple[str, ...] = ()
    left_running: tuple[str, ...] = ()
    fault: str | None = None


def cancel(ledger: Ledger, orchestrator: Orchestrator, job_id: str) -> CanceledJob:
    """Cancel a job. Asked again, it ends what runs are left; the job is canceled whether or not Dagster answers.

    Raises:
        NotFoundError: no job has this id.
        ConflictError: the job is complete.
    """
    canceled = cancel_job(ledger, job_id)
    try:
        runs = orchestrator.unfinished_runs(job_id)
        useless = [run.run_id for run in runs_to_end(ledger, runs)]
        terminated = orchestrator.terminate_runs(useless)
    except StackError as error:
        return CanceledJob(canceled, fault=str(error))
    left = tuple(run.run_id for run in runs if run.run_id not in terminated)
    return CanceledJob(canceled, tuple(terminated), left)


def runs_to_end(ledger: Ledger, runs: Sequence[RunInfo]) -> list[RunInfo]:
    """Those of the runs whose batches nobody waits for. A run may serve jobs that came after it and are not among its
    tags, so the ledger is asked, not the tags. One of several batches goes on while any of them is waited for; it
    leaves out those that are not when their turn comes."""
    work = {run.run_id: _steps_of(run) for run in runs}
    steps = {step for of_run in work.values() for step in of_run}
    inspected = {step.batch for step in steps if step.kind == INSPECTION}
    embedded = {step.batch for step in steps if step.kind == EMBEDDING}
    useless = {_Step(INSPECTION, batch) for batch in unwanted_inspections(ledger, inspected)}
    useless |= {_Step(EMBEDDING, batch) for batch in unwanted_embeddings(ledger, embedded)}
    return [run for run in runs if work[run.run_id] and work[run.run_id] <= useless]


@dataclass(frozen=True, slots=True)
class _Step:
    kind: str
    batch: BatchKey


def _steps_of(run: RunInfo) -> set[_Step]:
    """The step and the batch of each piece of work of a run: `inspect:b0000001`, `embed:b0000001:<manifest run>`.

    Empty for a run of any other kind.
    """
    steps: set[_Step] = set()
    for name in run.work.split():
        kind, _, rest = name.partition(":")
        if kind not in (INSPECTION, EMBEDDING):
            return set()
        try:
            steps.add(_Step(kind, BatchKey.parse(rest.partition(":")[0])))
        except ValueError:
            return set()
    return steps
