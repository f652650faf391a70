"""The run launcher: starts runs on the workers of a fleet, and knows whether a run's worker is still alive.

Without a fleet file a run starts on the code server of its location, as with Dagster's default launcher. Runs of a
location that the file names start on a free worker and nowhere else: the controller's own code server of that location
serves definitions and sensors only. The file is read again whenever it changes.

The default launcher has no health check, so a run whose process or host was killed would stay STARTED for ever. Here
run monitoring asks the code server that launched a run whether it still works on it; run retries do the rest.

This module and `fleet_workers` are the only ones that import private names of Dagster.
`clip_pipeline_tests/defs/test_fleet.py` pins them.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterLaunchFailedError, DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._serdes import ConfigurableClassData

from clip_pipeline.core.errors import StackError
from clip_pipeline.core.fleet import FleetFile, Worker
from clip_pipeline.defs.fleet_places import Candidate, Nobody, Places
from clip_pipeline.defs.fleet_waiting import Returns, WaitingRuns, put_back
from clip_pipeline.defs.fleet_workers import START_TIMEOUT_S, WorkerClient, client_of, runs_on
from clip_pipeline.settings import Settings

WORKER_TAG = "clip/worker"
"""On every run of the fleet: the address of the worker that it was started on last."""

EXIT_S = 10.0
"""For so long the process of a run that ended may take to be gone; one that stays longer still takes up its worker."""

MOST_FAILED_STARTS = 3
"""Failed starts on free workers after which the fault is the run's, not the workers'."""

_PLACES: dict[Path | None, Places] = {}
_PLACES_LOCK = threading.Lock()

logger = logging.getLogger(__name__)


class FleetRunLauncher(DefaultRunLauncher):
    """Launches runs on the workers of their location, or its own code server, and reports those that were lost.

    fleet_file: empty for the one of the settings (`CLIP_PIPELINE_FLEET`), if any. grace_seconds: how long a server may
    be silent, or deny a run, before the run counts as lost.
    """

    def __init__(
        self, grace_seconds: int = 30, inst_data: ConfigurableClassData | None = None, *, fleet_file: str = ""
    ) -> None:
        self._grace_seconds = grace_seconds
        self._doubted_since: dict[str, float] = {}
        path = Path(fleet_file).expanduser().absolute() if fleet_file else Settings().fleet_path
        self._file = FleetFile(path) if path else None
        self._fault_told: str | None = None
        self._places = _places_for(path)
        self._waiting = WaitingRuns()
        self._failed_starts: dict[str, int] = {}
        self._returns = Returns(self._put_back)
        super().__init__(inst_data)

    @classmethod
    def config_type(cls) -> dict[str, dg.Field]:
        """The `config` block of `run_launcher` in dagster.yaml."""
        return {
            "grace_seconds": dg.Field(
                int, default_value=30, is_required=False, description="silence after which a run counts as lost"
            ),
            "fleet_file": dg.Field(
                dg.StringSource,
                default_value="",
                is_required=False,
                description="YAML file of the workers; empty: the setting CLIP_PIPELINE_FLEET",
            ),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> "FleetRunLauncher":
        """Called by Dagster when it loads the instance."""
        return cls(config_value["grace_seconds"], inst_data, fleet_file=config_value["fleet_file"])

    def slots_of(self, location: str) -> int | None:
        """How many runs of one job the location's workers take at once, None where it has no fleet."""
        workers = self._workers_of(location)
        return None if workers is None or isinstance(workers, Nobody) else sum(worker.slots for worker in workers)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run on a free worker; where there is none it goes back to the queue, with the reason.

        Raises:
            DagsterLaunchFailedError: workers refuse it, so that waiting helps nobody.
            StackError: its worker fell silent while it was started. Whether the run has begun there nobody knows, so
                it fails, and its retry, which is another run, starts elsewhere.
        """
        run = context.dagster_run
        origin = run.remote_job_origin
        workers = self._workers_of(origin.location_name) if origin else None
        if workers is None:
            super().launch_run(context)
            return
        nobody = workers if isinstance(workers, Nobody) else self._start_on_one_of(run, workers)
        if nobody is not None:
            self._let_wait(run, nobody.reason)

    def terminate(self, run_id: str) -> bool:
        """Ask the code server that has the run to end it; one that nobody began yet is canceled here and now."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        try:
            is_told = super().terminate(run_id)
        except DagsterUserCodeUnreachableError as error:
            self._instance.report_engine_event(f"Its code server cannot be told to end the run: {error}", run)
            is_told = False
        if is_told or run.status is not dg.DagsterRunStatus.STARTING:
            return is_told
        # Should a worker be about to begin it, its process looks at the run first and finds it canceled.
        self._instance.report_run_canceled(run, "The run was canceled before a worker began it.")
        return True

    def dispose(self) -> None:
        """Called by Dagster when the instance is closed."""
        self._returns.close()
        super().dispose()

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Switches the health check of run monitoring on."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING while the code server that launched the run works on it, or has not been silent for long."""
        doubt = _doubt(run)
        if doubt is None:
            self._doubted_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        since = self._doubted_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < self._grace_seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"{doubt}; waiting")
        self._doubted_since.pop(run.run_id, None)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the run's worker is lost: {doubt}")

    def _get_grpc_client_for_termination(self, run_id: str) -> WorkerClient | None:
        run = self._instance.get_run_by_id(run_id)
        return None if run is None or run.is_finished else client_of(run)

    def _workers_of(self, location: str) -> Sequence[Worker] | Nobody | None:
        """The workers of a location, None where it has no fleet, Nobody while that cannot be known."""
        if self._file is None:
            return None
        state = self._file.look()
        if state.fault != self._fault_told:
            self._fault_told = state.fault
            if state.fault is not None:
                logger.warning("the fleet file is faulty; what it said before holds on: %s", state.fault)
        if state.fleet is None:
            return Nobody(f"where runs start is not known: {state.fault}")
        return state.fleet.get(location)

    def _start_on_one_of(self, run: dg.DagsterRun, workers: Sequence[Worker]) -> Nobody | None:
        candidate = Candidate(run.run_id, run.job_name, avoid=run.tags.get(WORKER_TAG))
        while True:
            with self._places.take(candidate, workers, jobs_of=self._jobs_of) as found:
                if isinstance(found, Nobody):
                    return found
                if not self._is_still_starting(run):
                    self._forget(run.run_id)
                    return None
                try:
                    self._start(run, found)
                except DagsterLaunchFailedError as error:
                    self._pass_over(run, found, error)
                except DagsterUserCodeUnreachableError as error:
                    self._forget(run.run_id)
                    # No error that Dagster may take for one that lets the same run start again.
                    raise StackError(f"worker {found.address} fell silent while it started the run: {error}") from error
                else:
                    self._forget(run.run_id)
                    return None

    def _start(self, run: dg.DagsterRun, worker: Worker) -> None:
        self._instance.add_run_tags(run.run_id, {WORKER_TAG: worker.address})
        client = WorkerClient(host=worker.host, port=worker.port, timeout_s=START_TIMEOUT_S)
        self.launch_run_from_grpc_client(self._instance, run, client)
        self._run_ids.add(run.run_id)

    def _pass_over(self, run: dg.DagsterRun, worker: Worker, error: DagsterLaunchFailedError) -> None:
        """Look for another worker for a while; the error itself where the run was too often begun in vain."""
        self._places.shun(worker, f"refused a run ({' '.join(str(error).split())[:200]})")
        if error.serializable_error_info is None:  # it takes no run at all: it is being shut down
            return
        self._failed_starts[run.run_id] = self._failed_starts.get(run.run_id, 0) + 1
        if self._failed_starts[run.run_id] >= MOST_FAILED_STARTS:
            self._forget(run.run_id)
            raise error

    def _is_still_starting(self, run: dg.DagsterRun) -> bool:
        """False where somebody canceled the run while the workers were asked."""
        now = self._instance.get_run_by_id(run.run_id)
        if now is not None and now.status is dg.DagsterRunStatus.CANCELING:
            self._instance.report_run_canceled(now, "The run was canceled before a worker began it.")
        return now is not None and now.status is dg.DagsterRunStatus.STARTING

    def _let_wait(self, run: dg.DagsterRun, reason: str) -> None:
        is_told, rest_s = self._waiting.note(run.run_id, reason, now=time.monotonic())
        if is_told:
            self._instance.report_engine_event(f"Back to the queue: {reason}.", run)
        self._returns.add(run.run_id, rest_s=rest_s)

    def _put_back(self, run_id: str) -> None:
        if not put_back(self._instance, run_id):
            self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._waiting.forget(run_id)
        self._failed_starts.pop(run_id, None)

    def _jobs_of(self, run_ids: Set[str]) -> dict[str, str]:
        """The job names of those runs that still take up their worker.

        One that Dagster counts as ended is among them when its process stays: a worker that was frozen goes on with
        runs that failed meanwhile.
        """
        if not run_ids:
            return {}
        records = self._instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids)))
        return {
            record.dagster_run.run_id: record.dagster_run.job_name
            for record in records
            if not record.dagster_run.is_finished or time.time() - (record.end_time or 0.0) > EXIT_S
        }


def _places_for(path: Path | None) -> Places:
    """The one desk of this process for a fleet: threads that ask an instance for its launcher first make one each."""
    with _PLACES_LOCK:
        return _PLACES.setdefault(path, Places(runs_on))


def _doubt(run: dg.DagsterRun) -> str | None:
    """Why the run may be dead, or None where its server says that it works on it."""
    client = client_of(run)
    if client is None:
        return "no code server was recorded for it"
    try:
        current = client.current_runs()
    except Exception as error:  # noqa: BLE001  any failure to answer is the finding here
        return f"its code server does not answer ({type(error).__name__})"
    return None if run.run_id in current else "its code server does not know it (restarted, or its process died)"
