"""Walking a folder in the order of its paths, and comparing the walk with a sorted list of what is known.

Both sides are streams in byte order of the path, so a comparison of a million files holds one of each in memory and
asks no question per file.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Protocol

from clip_pipeline.core.paths import path_to_text, text_to_path

_NOTHING = "(?!)"


class KnownEntry(Protocol):
    """A file as it was seen before."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def file_id(self) -> int: ...  # noqa: D102
    @property
    def size_bytes(self) -> int: ...  # noqa: D102
    @property
    def mtime_ns(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A regular file found by a walk. path: text form."""

    path: str
    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class Walk:
    """One walk below `root`, its faults collected on the way.

    ignore: glob patterns of names to pass over. roots: a symbolic link to a file counts only when its target lies
    below one of them; links to folders are never followed, so a loop cannot arise. unreadable: folders, in text
    form, that could not be listed; what is known below them is not gone, only out of sight.
    """

    root: Path
    ignore: Sequence[str] = ()
    roots: Sequence[Path] = ()
    unreadable: list[str] = field(default_factory=list[str])
    _to_ignore: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # One expression for all patterns: ten calls of `fnmatch` for each name were more than half of a scan's time.
        self._to_ignore = re.compile("|".join(map(translate, self.ignore)) or _NOTHING)

    def files(self, *, after: str = "") -> Iterator[SeenFile]:
        """Every regular file in byte order of its text form, those up to `after` left out."""
        yield from self._below(path_to_text(self.root), after)

    def _below(self, folder: str, after: str) -> Iterator[SeenFile]:
        try:
            with os.scandir(text_to_path(folder)) as listing:
                # A folder sorts as its name and a slash: "a.jpg" comes before what is in "a".
                entries = sorted((self._sort_name(e), e) for e in listing if not self._ignored(e.name))
        except OSError:
            self.unreadable.append(folder)
            return
        for name, entry in entries:
            path = f"{folder}/{name}"
            if name.endswith("/"):
                if after < path or after.startswith(path):
                    yield from self._below(path[:-1], after)
            elif path > after and (seen := self._look(entry, path)) is not None:
                yield seen

    def _look(self, entry: "os.DirEntry[str]", path: str) -> SeenFile | None:
        try:
            if entry.is_symlink() and not is_below(os.path.realpath(entry.path), self.roots or (self.root,)):
                return None
            if not entry.is_file():
                return None
            facts = entry.stat()
        except OSError:  # vanished since it was listed, or a link that leads to itself
            return None
        return SeenFile(path, facts.st_size, facts.st_mtime_ns)

    def _ignored(self, name: str) -> bool:
        return self._to_ignore.match(name) is not None

    @staticmethod
    def _sort_name(entry: "os.DirEntry[str]") -> str:
        return path_to_text(entry.name) + ("/" if entry.is_dir(follow_symlinks=False) else "")


@dataclass(slots=True)
class Differences:
    """What a walk found that the known list does not say. next_after: where to go on, None when the walk ended."""

    new: list[SeenFile] = field(default_factory=list[SeenFile])
    gone: list[int] = field(default_factory=list[int])
    unchanged: int = 0
    unsettled: int = 0
    next_after: str | None = None


def compare(
    seen: Iterable[SeenFile],
    known: Iterable[KnownEntry],
    *,
    unreadable: Sequence[str] = (),
    settle_s: float = 0.0,
    most: int = 100_000,
    deadline: float = float("inf"),
) -> Differences:
    """New or changed files and the ids of those gone, from two streams sorted by path.

    settle_s: a file modified less than this many seconds ago may still be being written; it is left for the next
    time. most, deadline: stop after so many differences, or at this `time.monotonic()`, and say where to go on.
    unreadable: folders whose known files do not count as gone; may grow while `seen` is consumed.
    """
    found = Differences()
    newest_ns = time.time_ns() - int(settle_s * 1e9)
    right = iter(known)
    expected = next(right, None)
    for file in seen:
        while expected is not None and expected.path < file.path:
            _note_gone(found, expected, unreadable)
            expected = next(right, None)
        matches = expected is not None and expected.path == file.path
        if matches and expected is not None and _same(expected, file):
            found.unchanged += 1
        elif newest_ns < file.mtime_ns <= newest_ns + 2 * int(settle_s * 1e9):
            found.unsettled += 1
        else:
            found.new.append(file)
        if matches:
            expected = next(right, None)
        if len(found.new) + len(found.gone) >= most or time.monotonic() > deadline:
            found.next_after = file.path
            return found
    while expected is not None:
        _note_gone(found, expected, unreadable)
        expected = next(right, None)
    return found


def is_below(path: str | Path, roots: Iterable[Path]) -> bool:
    """True where `path`, taken as it is, equals a root or lies below one; roots are resolved, `path` should be."""
    parts = Path(path)
    return any(parts == real or real in parts.parents for real in (Path(os.path.realpath(root)) for root in roots))


def _same(known: KnownEntry, seen: SeenFile) -> bool:
    return known.size_bytes == seen.size_bytes and known.mtime_ns == seen.mtime_ns


def _note_gone(found: Differences, known: KnownEntry, unreadable: Sequence[str]) -> None:
    if not any(known.path.startswith(folder.rstrip("/") + "/") for folder in unreadable):
        found.gone.append(known.file_id)
