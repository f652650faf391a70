"""Where a run may start: which worker has a slot free, counted also while other runs are being started.

Knows no Dagster: what a worker says and what is known of its runs are handed in.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from clip_pipeline.core.fleet import Worker

SILENCE_S = 5.0
"""How long a worker that did not answer is not asked again: each question costs seconds while it is frozen."""

REFUSAL_S = 30.0
"""How long a worker that refused a run, as one that shuts down does, gets no other."""

_ASKED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that wants a worker. avoid: the address where an earlier attempt of it ended, taken last."""

    run_id: str
    job_name: str
    avoid: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker is busy with: runs of the candidate's job, and all runs."""

    of_job: int
    in_all: int


@dataclass(frozen=True, slots=True)
class Nobody:
    """No worker has room; `reason` says of each why not, the same words while nothing changes."""

    reason: str


Ask = Callable[[Worker], frozenset[str] | str]
"""The ids of the runs that a worker works on, or why it is silent."""

JobsOf = Callable[[Set[str]], Mapping[str, str]]
"""Job names of those of the runs that still take up a worker."""


def choose(workers: Sequence[Worker], loads: Mapping[str, Load], *, avoid: str | None) -> Worker | None:
    """The worker with a slot free that has the fewest runs, then the first; None where all are full."""
    free = [worker for worker in workers if loads[worker.address].of_job < worker.slots]
    return min(free, key=lambda worker: (worker.address == avoid, loads[worker.address].in_all), default=None)


class Places:
    """The slots of the workers that this process starts runs on. Threads that start runs share one."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._starting: dict[str, tuple[str, str]] = {}
        self._shunned: dict[str, tuple[float, str]] = {}

    @contextmanager
    def take(
        self, run: Candidate, workers: Sequence[Worker], *, jobs_of: JobsOf
    ) -> Generator[Worker | Nobody, None, None]:
        """A worker with a slot free, held for the run until the block ends: by then the worker itself counts it."""
        with self._lock:
            found = self._find(run, workers, jobs_of)
            if isinstance(found, Worker):
                self._starting[run.run_id] = (found.address, run.job_name)
        try:
            yield found
        finally:
            with self._lock:
                self._starting.pop(run.run_id, None)

    def shun(self, worker: Worker, why: str, *, seconds: float = REFUSAL_S) -> None:
        """Pass the worker over for so long."""
        with self._lock:
            self._shunned[worker.address] = (time.monotonic() + seconds, why)

    def _find(self, run: Candidate, workers: Sequence[Worker], jobs_of: JobsOf) -> Worker | Nobody:
        # What is being started is noted before the workers are asked: no place is given away meanwhile, as the lock
        # is held, and a start that ends meanwhile is in the answer or in the note, or in both, which counts once.
        starting = dict(self._starting)
        answers = self._answers(workers)
        running = {address: ids for address, ids in answers.items() if isinstance(ids, frozenset)}
        loads = _loads(run, running, starting, jobs_of)
        chosen = choose([w for w in workers if w.address in loads], loads, avoid=run.avoid)
        return chosen or Nobody(_why_nobody(run, workers, answers, loads))

    def _answers(self, workers: Sequence[Worker]) -> dict[str, frozenset[str] | str]:
        now = time.monotonic()
        shunned = {address: why for address, (until, why) in self._shunned.items() if until > now}
        asked = [worker for worker in workers if worker.address not in shunned]
        answers: dict[str, frozenset[str] | str] = {**shunned}
        if asked:
            with ThreadPoolExecutor(min(len(asked), _ASKED_AT_ONCE), "ask-worker") as pool:
                answers |= dict(zip([worker.address for worker in asked], pool.map(self._ask, asked), strict=True))
        until = time.monotonic() + SILENCE_S
        silent = {w.address: (until, why) for w in asked if isinstance(why := answers[w.address], str)}
        self._shunned = {a: kept for a, kept in self._shunned.items() if a in shunned} | silent
        return answers


def _loads(
    run: Candidate,
    running: Mapping[str, frozenset[str]],
    starting: Mapping[str, tuple[str, str]],
    jobs_of: JobsOf,
) -> dict[str, Load]:
    ids = {address: set(known) for address, known in running.items()}
    for run_id, (address, _) in starting.items():
        ids.get(address, set()).add(run_id)
    jobs = {**jobs_of(set().union(*ids.values())), **{i: job for i, (_, job) in starting.items()}}
    counts = {address: Counter(jobs[i] for i in known if i in jobs) for address, known in ids.items()}
    return {address: Load(count[run.job_name], count.total()) for address, count in counts.items()}


def _why_nobody(
    run: Candidate,
    workers: Sequence[Worker],
    answers: Mapping[str, frozenset[str] | str],
    loads: Mapping[str, Load],
) -> str:
    if not workers:
        return f"no worker is free for {run.job_name}: the fleet file names none"
    said: list[str] = []
    for worker in workers:
        answer = answers[worker.address]
        if isinstance(answer, str):
            said.append(f"{worker.address} {answer}")
        else:
            said.append(f"{worker.address} is full ({loads[worker.address].of_job} of {worker.slots} slots taken)")
    return f"no worker is free for {run.job_name}: " + "; ".join(said)
