"""The logs of code servers and runs: as the settings say, with the ids of the run on every line.

Dagster logs the events of a run through a logger of the run's own, in colours; `log_runs_as_set` gives that one the
format of the settings. What our modules log goes through Python's loggers, which a process sets up when it first opens
a resource.
"""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import dagster as dg
import structlog
from structlog.typing import EventDict, WrappedLogger

from clip_pipeline.defs.work import JOB_TAG_PREFIX
from clip_pipeline.observability.logging import LogFormat, line_formatter, log_to_stderr
from clip_pipeline.settings import Settings

PARTITION_TAG = "dagster/partition"
_DAGSTER = "dagster"


class LoggerOfRun(logging.Logger):
    """A logger as any other, but that the one which Dagster makes for the events of a run writes in our format.

    Dagster takes another logger than its coloured one only from the configuration of each single run, and asks
    `logging.getLoggerClass()` of what class to make that.
    """

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - the name is Python's
        """Add a handler."""
        is_of_run = self.name == _DAGSTER and self is not logging.getLogger(_DAGSTER)
        if is_of_run and Settings().log_format == "json":
            hdlr.setFormatter(line_formatter("json", first=[name_run_of_event]))
        super().addHandler(hdlr)


def log_runs_as_set() -> None:
    """The events of runs that begin in this process are logged as `CLIP_PIPELINE_LOG_FORMAT` says by then."""
    logging.getLogger(_DAGSTER)  # that of the process comes before, of the ordinary class
    logging.setLoggerClass(LoggerOfRun)


def name_run_of_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """One of Dagster's records as fields: its short message, the ids of its run, and what failed; or its sensor."""
    meta = event.pop("dagster_meta", None) or {}
    happened = event.pop("dagster_event", None)
    event.pop("dagster_event_batch_metadata", None)
    if "job_tags" not in meta:
        event.update({"event": meta["orig_message"], "sensor": meta["name"]} if meta else {})
        return event
    event["event"] = meta["orig_message"]
    event.update(run_ids(meta["run_id"], meta["job_tags"]), dagster_job=meta["job_name"])
    if meta["step_key"]:
        event["step"] = meta["step_key"]
    if happened is not None:
        # Runs were called pipelines once; people know these events by their newer names.
        event["dagster_event"] = happened.event_type_value.replace("PIPELINE_", "RUN_")
        error = getattr(happened.event_specific_data, "error", None)
        if error is not None:
            event["exception"] = error.to_string()
    return event


def run_ids(run_id: str | None, tags: Mapping[str, str]) -> dict[str, Any]:
    """The fields that name a run: its id, its batch, and the jobs that it serves."""
    jobs = sorted(tag.removeprefix(JOB_TAG_PREFIX) for tag in tags if tag.startswith(JOB_TAG_PREFIX))
    found: dict[str, Any] = {"run_id": run_id, "batch": tags.get(PARTITION_TAG), "job_ids": jobs}
    return {name: value for name, value in found.items() if value}


def log_for_run(run: dg.DagsterRun | None) -> None:
    """From here on what our modules log goes where the settings say, with the ids of the run, if there is one."""
    _set_up(Settings().log_format)
    if run is not None:
        # Not `bound_contextvars`: Dagster may end a run in another context than the one it began it in.
        structlog.contextvars.bind_contextvars(**run_ids(run.run_id, run.tags))


@contextmanager
def log_for_batch(partition_key: str) -> Generator[None, None, None]:
    """What is logged meanwhile is about this batch: a run of several has no tag that says which it works on."""
    with structlog.contextvars.bound_contextvars(batch=partition_key):
        yield


def forget_run(run: dg.DagsterRun | None) -> None:
    """The run is over."""
    if run is not None:
        structlog.contextvars.unbind_contextvars(*run_ids(run.run_id, run.tags))


@lru_cache(maxsize=1)
def _set_up(log_format: LogFormat) -> None:
    """Set up the logs of this process, once; where somebody did on purpose they stay as they are."""
    if not all(_is_pythons_own(handler) for handler in logging.getLogger().handlers):
        return
    log_to_stderr(log_format)
    servers = logging.getLogger(_DAGSTER)
    # A code server has given it a handler of its own: what that writes must not come a second time.
    servers.propagate = not servers.handlers


def _is_pythons_own(handler: logging.Handler) -> bool:
    """True of the handler that Python gives the root when somebody, as Dagster's storages do, logs through it first."""
    pattern = getattr(handler.formatter, "_fmt", None)
    return type(handler) is logging.StreamHandler and pattern == logging.BASIC_FORMAT
