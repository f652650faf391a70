"""Following one watched folder until all of its files are done: bars on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from clip_pipeline.cli.output import progress_bars
from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.scan import Walk, compare
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.folder_progress import FolderProgress, folder_progress
from clip_pipeline.ledger.lookup import known_files_below
from clip_pipeline.ledger.publishing import outstanding
from clip_pipeline.settings import Settings

LOOK_EVERY_S = 0.5
REST_FACTOR = 5.0
"""Looking costs at most a sixth of the time: a walk over a million files takes seconds."""

LINE_EVERY_S = 5.0
STAGES = ("registered", "inspected", "embedded", "indexed")


@dataclass(frozen=True, slots=True)
class FolderState:
    """The folder on disk beside the ledger. on_disk: files that a scan registers; unseen: those of them, and those
    that went, that no scan has noticed yet; is_published: no image of the ledger awaits a release."""

    on_disk: int
    unseen: int
    progress: FolderProgress
    is_published: bool

    @property
    def is_done(self) -> bool:
        """True where every file that is there is searchable, a duplicate, or failed."""
        return not (self.unseen or self.progress.pending) and self.is_published

    @property
    def is_stuck(self) -> bool:
        """True where work was given up for all that is left."""
        return not self.unseen and 0 < self.progress.pending == self.progress.given_up

    @property
    def stages(self) -> tuple[int, ...]:
        """How many files have come how far, in the order of `STAGES`."""
        return (
            self.progress.registered,
            self.progress.inspected,
            self.progress.embedded,
            self.progress.finished,
        )

    @property
    def total(self) -> int:
        """Files there are to do, known or not yet."""
        return max(self.on_disk, self.progress.registered)


Show = Callable[[FolderState], None]
Wait = Callable[[float], None]


def look(ledger: Ledger, settings: Settings, folder: Path) -> FolderState:
    """The folder as it is now, on disk and in the ledger."""
    walk = Walk(folder, settings.ignore_patterns, settings.root_folders)
    name = path_to_text(folder)
    found = compare(walk.files(), known_files_below(ledger, name), unreadable=walk.unreadable)
    unseen = len(found.new) + len(found.gone)
    on_disk = len(found.new) + found.unchanged
    return FolderState(on_disk, unseen, folder_progress(ledger, name), outstanding(ledger).is_empty)


def follow(ledger: Ledger, settings: Settings, folder: Path, *, show: Show, wait: Wait) -> FolderState:
    """Look again and again until the folder is done.

    Raises:
        ClipPipelineError: the work on what is left was given up.
    """
    while True:
        began = time.monotonic()
        state = look(ledger, settings, folder)
        show(state)
        if state.is_done:
            return state
        if state.is_stuck:
            raise ClipPipelineError(
                f"{state.progress.pending} files could not be worked on, and it was given up: {state.progress.error}"
            )
        wait(max(LOOK_EVERY_S, REST_FACTOR * (time.monotonic() - began)))


@contextmanager
def shown_on(news: Console) -> Generator[Show, None, None]:
    """Shows states on a console: bars where it is a terminal, else lines."""
    if not news.is_terminal:
        yield _lines(news)
        return
    with progress_bars(news, transient=False) as progress:
        tasks = [progress.add_task(stage, total=None) for stage in STAGES]

        def show(state: FolderState) -> None:
            for task, done in zip(tasks, state.stages, strict=True):
                progress.update(task, completed=done, total=state.total)

        yield show


def _lines(news: Console) -> Show:
    last: tuple[int, ...] = ()
    said_at = float("-inf")

    def show(state: FolderState) -> None:
        nonlocal last, said_at
        now = time.monotonic()
        if state.stages != last and (state.is_done or now - said_at >= LINE_EVERY_S):
            parts = [f"{stage} {done}" for stage, done in zip(STAGES, state.stages, strict=True)]
            news.print(f"{state.total} files: {', '.join(parts)}")
            last, said_at = state.stages, now

    return show
