"""`clip-pipeline migrate`: the ledger copied to another database while nothing else uses it."""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from clip_pipeline.cli.configuration import load_settings, prepare_home
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table, progress_bars
from clip_pipeline.cli.stack.held_file import hold
from clip_pipeline.cli.stack.state import running_stack, service_file, service_url, stack_file
from clip_pipeline.core.errors import ConfigurationError, NotFoundError, StackError
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.engines import ledger_file, shown_url
from clip_pipeline.ledger.moving import MovedTable, move_ledger, other_sessions, rows_by_table
from clip_pipeline.settings import Settings

VARIABLE = "CLIP_PIPELINE_LEDGER_URL"


@dataclass(frozen=True, slots=True)
class _Way:
    """From one URL to another."""

    source: str
    target: str


def migrate(source: str | None, target: str | None, *, as_json: bool) -> None:
    """Copy the ledger, print what was copied and how to go on."""
    settings = load_settings()
    way = _way(settings, source, target)
    prepare_home(settings)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(_nothing_running(settings))
        old, new = (_opened(stack, url) for url in (way.source, way.target))
        _require_alone(old, way.source)
        _require_alone(new, way.target)
        moved = _move(old, new)
    seconds = time.monotonic() - began
    if as_json:
        print_json({
            "from": shown_url(way.source), "to": shown_url(way.target), "seconds": round(seconds, 1),
            "tables": [asdict(table) for table in moved],
        })  # fmt: skip
    else:
        _tell(way, moved, seconds)


def _way(settings: Settings, source: str | None, target: str | None) -> _Way:
    """Where from and where to, both known to be sensible."""
    old = source or f"sqlite:///{settings.home_path / 'ledger.sqlite3'}"
    new = target or settings.ledger_url
    if not new:
        raise ConfigurationError(f"name the new database with --to URL, or set {VARIABLE} to it")
    if shown_url(old) == shown_url(new):
        raise ConfigurationError(f"{shown_url(old)} would be copied to itself; name another database with --to URL")
    file = ledger_file(old)
    if file is not None and not file.is_file():
        raise NotFoundError(f"no ledger is at {file}; name the one to copy with --from URL, or set CLIP_PIPELINE_HOME")
    return _Way(old, new)


@contextmanager
def _nothing_running(settings: Settings) -> Generator[None, None, None]:
    """Hold what a stack and a service of this home hold while they run: none runs, and none can start."""
    home = settings.home_path
    with ExitStack() as stack:
        for path, what in ((stack_file(home), _running_stack), (service_file(home), _running_service)):
            held = hold(path)
            if held is None:
                raise StackError(f"{what(home)}, then migrate, and start again with the new database")
            stack.callback(held.release)
        yield


def _running_stack(home: Path) -> str:
    stack = running_stack(home)
    kill = f" or `kill {stack.pid}`" if stack else ""
    return f"a stack runs on this home: stop it with Ctrl-C in its terminal{kill}"


def _running_service(home: Path) -> str:
    return f"a service runs on this home ({service_url(home) or 'starting'}): stop it with Ctrl-C in its terminal"


def _opened(stack: ExitStack, url: str) -> Ledger:
    ledger = open_ledger(url)
    stack.callback(ledger.close)
    return ledger


def _require_alone(ledger: Ledger, url: str) -> None:
    others = other_sessions(ledger)
    if others:
        raise StackError(
            f"{count(others, 'session')} of other processes use {shown_url(url)}: stop every service, worker and "
            "daemon that has this ledger, on every machine (`systemctl stop 'clip-pipeline*'`), then migrate"
        )


def _move(old: Ledger, new: Ledger) -> list[MovedTable]:
    rows = rows_by_table(old)
    with progress_bars(error_console(), transient=True) as progress:
        task = progress.add_task("Copying", total=sum(rows.values()))
        return move_ledger(old, new, on_progress=lambda _table, more: progress.advance(task, more))


def _tell(way: _Way, moved: list[MovedTable], seconds: float) -> None:
    total = sum(table.rows for table in moved)
    print_table("", ["rows", "table", "digest"], [(f"{t.rows:,}", t.name, t.digest[:12]) for t in moved], right=1)
    console().print(f"\n{count(total, 'row')} copied and read again, equal, in {seconds:.1f} s.")
    console().print(f"From {shown_url(way.source)}, which is as it was")
    console().print(f"To   {shown_url(way.target)}")
    console().print(f"Next: set {VARIABLE} to the new URL for every process, start, and run `clip-pipeline verify`.")
