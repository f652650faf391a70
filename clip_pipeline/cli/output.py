"""What commands print: tables and lines for people on standard output, JSON for scripts, news on standard error."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from clip_pipeline.core.paths import display_path

NARROWEST = 100
"""Columns where the output is no terminal: a file or a pipe need not be cut at 80."""


def console() -> Console:
    """For results, on standard output. Nothing is highlighted by guess, paths are no markup, lines stay whole."""
    return _console(stderr=False)


def error_console() -> Console:
    """For progress, news and warnings, on standard error."""
    return _console(stderr=True)


def print_json(document: object) -> None:
    """One JSON document on standard output, in ASCII, so that any locale can print it."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: int = 0) -> None:
    """A table on standard output; the first `right` columns are aligned to the right, the last takes what is left."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        is_last = number == len(headers) - 1
        table.add_column(header, justify="right" if number < right else "left", overflow="fold", no_wrap=not is_last)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table, soft_wrap=False)


def progress_bars(news: Console, *, transient: bool) -> Progress:
    """Bars with counts, rate and ETA; nothing where the console is no terminal."""
    return Progress(
        TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=news, transient=transient, disable=not news.is_terminal,
    )  # fmt: skip


class Rate(ProgressColumn):
    """Steps a second, of late."""

    def render(self, task: Task) -> Text:
        """Empty while nothing is done."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed and task.completed else "", justify="right")


def shown(path: str) -> str:
    """A path in text form, as a terminal can show it."""
    return display_path(path)


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `1,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _console(*, stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = max(made.width, NARROWEST)
    return made
