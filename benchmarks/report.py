"""What every benchmark prints and writes: JSON on standard output and in a file, a table and progress for people."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from clip_pipeline import __version__
from clip_pipeline.core.isolation import available_cores

Document: TypeAlias = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "build" / "benchmarks"
"""Pictures and models that are made once and kept; `make clean` removes them."""

_NARROWEST = 100
_PACKAGES = ("torch", "transformers", "faiss-cpu", "sqlalchemy", "dagster")


def machine() -> Document:
    """Where and with what a number was measured."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "clip_pipeline": __version__,
        **{name: _version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def publish(name: str, document: Mapping[str, Any]) -> Path:
    """Print the result as JSON and write it to `benchmarks/results/<name>.json`; returns that file."""
    text = json.dumps({"benchmark": name, **document}, indent=2)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return path


def console() -> Console:
    """For people, on standard error."""
    made = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = max(made.width, _NARROWEST)
    return made


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard error: the first column names, the others are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, header in enumerate(headers):
        table.add_column(header, justify="right" if position else "left")
    for row in rows:
        table.add_row(*map(str, row))
    people = console()
    people.print(title)  # a title of the table's own is wrapped to the table's width
    people.print(table)


def progress() -> Progress:
    """A progress bar on standard error, to be used as a context manager."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), console=console(),
    )  # fmt: skip


def verdict(reached: bool) -> str:
    """How a goal is spoken of in a table."""
    return "reached" if reached else "MISSED"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
