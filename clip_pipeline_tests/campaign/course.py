"""The course of a campaign: a job is at work, something breaks, the job has to complete; now and then all is counted.

The next job is submitted as soon as a fault is over, so that it is registered, and waits, while the interrupted one
recovers: there is nearly always a run in work.
"""

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger, open_existing_ledger
from clip_pipeline.ledger.publishing import outstanding
from clip_pipeline_tests.campaign.faults import KINDS, Scene
from clip_pipeline_tests.campaign.load import Load, until
from clip_pipeline_tests.campaign.rotation import rounds
from clip_pipeline_tests.campaign.runs import Retries, Run, Runs, count_retries, unended
from clip_pipeline_tests.campaign.site import Site
from clip_pipeline_tests.campaign.tally import Round, Tally

RECOVERY_LIMIT_S = 300.0
"""A job that takes longer counts as lost."""
FINAL_LIMIT_S = 120.0
AWAIT_WORK_S = 120.0
SOMEWHERE_S, AT_WORK_S = 12.0, 3.0
"""How long after a job's first run began, or a worker has one, a fault comes at the latest: in any of its stages."""
MOST_VIOLATIONS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """size: pictures of a job; check_every: faults after which everything is counted and verified."""

    faults: int
    seed: int
    kinds: tuple[str, ...]
    minutes: float
    size: int
    check_every: int


class Course:
    """One campaign on a site that is ready. say: told a line of each round and each check."""

    def __init__(self, site: Site, options: Options, *, say: Callable[[str], None]) -> None:
        self.tally = Tally()
        self._site, self._options, self._say = site, options, say
        self._rng = random.Random(options.seed)
        self._runs = Runs(site.graphql_url)
        self._load = Load(site.url, site.photos, size=options.size, seed=options.seed)
        self._stop_at = time.monotonic() + options.minutes * 60

    def run(self) -> None:
        """All rounds, or as many as the time allows, and the last check."""
        with ExitStack() as stack:
            stack.callback(self._runs.close)
            stack.callback(self._load.close)
            ledger = open_existing_ledger(self._site.ledger_url, patience_s=30)
            stack.callback(ledger.close)
            self._undisturbed()
            checked = 0
            job_id = self._submit()
            for kinds in rounds(self._options.kinds, faults=self._options.faults, rng=self._rng):
                if time.monotonic() > self._stop_at or len(self.tally.all_violations) >= MOST_VIOLATIONS:
                    break
                job_id = self._round(kinds, job_id)
                if self.tally.faults - checked >= self._options.check_every:
                    checked = self.tally.faults
                    self._check(ledger, job_id)
                    job_id = self._submit()
            self._check(ledger, job_id)

    def _submit(self) -> str:
        return self._load.submit(timeout_s=RECOVERY_LIMIT_S)

    def _undisturbed(self) -> None:
        began = time.monotonic()
        self._note(self._ended(self._submit()))
        self.tally.undisturbed_s = time.monotonic() - began
        self._say(f"a job that nothing disturbs takes {self.tally.undisturbed_s:.1f} s")

    def _round(self, kinds: tuple[str, ...], job_id: str) -> str:
        """One round; returns the job that the next one interrupts."""
        self._load.prepare()  # now, for it would count as recovery
        job_id = self._at_work(job_id, on_worker=any(KINDS[kind].at_work for kind in kinds))
        hold_s = max(self._rng.uniform(*KINDS[kind].hold_s) for kind in kinds)
        began = time.monotonic()
        with ExitStack() as stack:
            scene = Scene(self._site, self._runs, self._rng)
            hit = tuple([stack.enter_context(KINDS[kind].act(scene)) for kind in kinds])
            time.sleep(hold_s)
        ended = time.monotonic()
        following = self._submit()
        fault = self._ended(job_id)
        recovery_s = None if fault else time.monotonic() - ended
        runs, unfinished = self._final_runs(job_id)
        retries = count_retries(runs)
        violations = tuple(text for text in (fault, *unfinished) if text)
        self._tell(Round(kinds, hit, ended - began, recovery_s, len(runs), *_counts(retries), violations))
        return following

    def _at_work(self, job_id: str, *, on_worker: bool) -> str:
        """A job that has had a run in work, on a worker where that matters, for a moment: this one, or one after it.

        While the job before it recovered, this one may have come to its end.
        """

        def is_at_work() -> bool | None:
            started = [run for run in self._runs.of_job(job_id) if run.status == "STARTED"]
            if any(run.worker or not on_worker for run in started):
                return True
            return False if self._load.ended(job_id) else None

        try:
            while not until(is_at_work, timeout_s=AWAIT_WORK_S, what="a run is in work"):
                self._note(self._ended(job_id))
                job_id = self._submit()
        except TimeoutError:
            self._say("no run of the job came to be in work; the fault comes all the same")
        time.sleep(self._rng.uniform(0, AT_WORK_S if on_worker else SOMEWHERE_S))
        return job_id

    def _ended(self, job_id: str) -> str | None:
        """What is wrong with the end of a job, None where nothing is."""
        try:
            return self._load.fault_of(self._load.wait(job_id, timeout_s=RECOVERY_LIMIT_S))
        except TimeoutError as error:
            return str(error)

    def _final_runs(self, job_id: str) -> tuple[list[Run], list[str]]:
        """The runs of a job, and those that came to no end."""
        deadline = time.monotonic() + FINAL_LIMIT_S
        while True:
            runs = self._runs.of_job(job_id)
            unfinished = unended(runs)
            if not unfinished or time.monotonic() > deadline:
                return runs, unfinished
            time.sleep(0.5)

    def _check(self, ledger: Ledger, job_id: str) -> None:
        """Everything that was submitted is indexed once, no run is left over, and `verify` finds no fault."""
        self._note(self._ended(job_id))
        try:
            until(lambda: True if outstanding(ledger).is_empty else None, timeout_s=FINAL_LIMIT_S, what="all is merged")
            until(lambda: None if self._runs.unfinished() else True, timeout_s=FINAL_LIMIT_S, what="all runs ended")
        except TimeoutError as error:
            self._note(f"{error}: {unended(self._runs.unfinished())}")
        found = balance(ledger)
        expected = self._load.images
        counts = (found.files["indexed"], found.images["indexed"])
        others = sum(found.files.values()) + sum(found.images.values()) - sum(counts)
        if counts != (expected, expected) or others or not found.holds:
            self._note(f"{expected} images were submitted, the ledger has {found}")
        verified = self._site.run("clip_pipeline.cli.main", "verify")
        if verified.returncode != 0:
            self._note(f"verify ended with {verified.returncode}: {verified.stdout[-3000:]}{verified.stderr[-1000:]}")
        self.tally.checks += 1
        self.tally.images = expected
        self._say(f"check {self.tally.checks}: {expected} images, {len(self.tally.all_violations)} violations so far")

    def _note(self, violation: str | None) -> None:
        if violation:
            self.tally.violations.append(violation)
            self._say(f"VIOLATION: {violation}")

    def _tell(self, one: Round) -> None:
        self.tally.rounds.append(one)
        self._say(f"{self.tally.faults}/{self._options.faults}  {one.describe()}")
        for violation in one.violations:
            self._say(f"VIOLATION: {violation}")


def _counts(retries: Retries) -> tuple[int, int, int]:
    return retries.all, retries.of_workers, retries.elsewhere
