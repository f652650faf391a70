"""Submitted paths as they come over HTTP: refused, or turned into facts about files. Touches the filesystem."""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.config import JsonDict

from clip_pipeline.core.errors import PathRefusedError
from clip_pipeline.core.paths import path_to_text, text_to_path
from clip_pipeline.ledger.registration import MISSING_SIZE, FileFacts

REFUSALS_SHOWN = 100
REFUSED_CHARS_SHOWN = 8_192
"""Of one refused path: an answer does not repeat megabytes."""
MAX_PATH_BYTES = 4095
"""PATH_MAX of Linux without its null byte: no file can be opened under a longer name."""
PATH_SCHEMA: JsonDict = {"pattern": r"^/[^\x00]*$", "maxLength": MAX_PATH_BYTES}
"""What `normal_path` asks of a text, as far as a JSON schema can say it."""

NO_ROOTS = (
    "no folder is configured below which images may be registered; set CLIP_PIPELINE_ROOTS to the folders that hold "
    "them, separated by colons, and start the service again"
)
A_FOLDER = "expected a file, this is a folder; name it in recursive_dirs to submit the files in it, at any depth"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One path that was refused. field: the place in the request that it came from."""

    field: str
    path: str
    detail: str


class RefusedPathsError(PathRefusedError):
    """At least one path of a request was refused, so nothing of it was done. refusals: the first of them."""

    def __init__(self, refusals: Sequence[Refusal], total: int) -> None:
        first = refusals[0]
        more = f" (and {total - 1} more)" if total > 1 else ""
        super().__init__(
            f"nothing was queued: {total} of the paths refused; {first.path[:200]!r}: {first.detail}{more}"
        )
        self.refusals = tuple(refusals)
        self.total = total

    def __reduce__(self) -> tuple[Any, ...]:
        # As made, not as told: an exception that comes from another process is made again there.
        return type(self), (self.refusals, self.total)


@dataclass(slots=True)
class Refusals:
    """Refused paths as they are found: all counted, the first kept."""

    shown: list[Refusal] = field(default_factory=list[Refusal])
    total: int = 0

    def add(self, where: str, path: str, detail: str) -> None:
        """Note one."""
        self.total += 1
        if len(self.shown) < REFUSALS_SHOWN:
            self.shown.append(Refusal(where, path[:REFUSED_CHARS_SHOWN], detail))

    def raise_any(self) -> None:
        """Raises RefusedPathsError where there is one."""
        if self.total:
            raise RefusedPathsError(self.shown, self.total)


@dataclass(slots=True)
class AllowedRoots:
    """The folders below which images may be registered; links are resolved, once for each folder that holds files."""

    roots: Sequence[Path]
    _real: tuple[str, ...] = ()
    _folders: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self._real = tuple(os.path.realpath(root) for root in self.roots)

    def facts(self, path: str) -> FileFacts | str:
        """What is at a normal path (as the operating system knows it), or why the path is refused.

        A path where nothing is, or that cannot be looked at, is no reason to refuse: it fails in its job.
        """
        if not self._real:
            return NO_ROOTS
        folder, _, name = path.rpartition("/")
        if not self._allows(f"{self._real_folder(folder)}/{name}"):
            return self._outside()
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                if not self._allows(os.path.realpath(path)):
                    return f"it is a symbolic link to a file outside the roots; {self._outside()}"
                found = os.stat(path)
        except OSError:
            return FileFacts(path_to_text(path), MISSING_SIZE, 0)
        if stat.S_ISDIR(found.st_mode):
            return A_FOLDER
        return FileFacts(path_to_text(path), found.st_size, found.st_mtime_ns)

    def refusal_of_folder(self, path: str) -> str | None:
        """Why a folder (a normal path) may not be walked, or None."""
        if not self._real:
            return NO_ROOTS
        if not self._allows(os.path.realpath(path)):
            return self._outside()
        return None if os.path.isdir(path) else "expected a folder, there is none here"

    def _real_folder(self, folder: str) -> str:
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder or "/").rstrip("/")
        return real

    def _allows(self, real: str) -> bool:
        return any(real == root or real.startswith(root.rstrip("/") + "/") for root in self._real)

    def _outside(self) -> str:
        listed = ":".join(str(root) for root in self.roots)
        return f"outside the folders that CLIP_PIPELINE_ROOTS allows ({path_to_text(listed)})"


def normal_path(text: str) -> str:
    """The path that a text names, as the operating system knows it, without `.`, `..` and double slashes.

    `..` is taken off by text, before links are followed, so that one file has one name here.

    Raises:
        PathRefusedError: the text is not absolute, holds a null character, or is longer than any path can be.
    """
    if "\0" in text:
        raise PathRefusedError("expected a path without null characters")
    if not text.startswith("/"):
        raise PathRefusedError("expected an absolute path, beginning with /")
    path = text_to_path(text)
    if len(path) * 4 > MAX_PATH_BYTES and len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise PathRefusedError(f"expected at most {MAX_PATH_BYTES} bytes, no file has a longer name")
    if "/." in path or "//" in path or path.endswith("/"):
        return "/" + os.path.normpath(path).lstrip("/")
    return path


def checked_files(texts: Iterable[str], roots: AllowedRoots, refusals: Refusals) -> list[FileFacts]:
    """The facts about each file named; what is refused goes to `refusals`."""
    found: list[FileFacts] = []
    for number, text in enumerate(texts):
        try:
            facts = roots.facts(normal_path(text))
        except PathRefusedError as error:
            facts = str(error)
        if isinstance(facts, str):
            refusals.add(f"image_paths.{number}", text, facts)
        else:
            found.append(facts)
    return found


def checked_folders(texts: Iterable[str], roots: AllowedRoots, refusals: Refusals) -> list[str]:
    """Each folder named, as the operating system knows it; what is refused goes to `refusals`."""
    found: list[str] = []
    for number, text in enumerate(texts):
        try:
            folder = normal_path(text)
            detail = roots.refusal_of_folder(folder)
        except PathRefusedError as error:
            folder, detail = "", str(error)
        if detail is None:
            found.append(folder)
        else:
            refusals.add(f"recursive_dirs.{number}", text, detail)
    return found


def checked_texts(texts: Sequence[str]) -> list[str]:
    """The stored form of paths that need not be there any more.

    Raises:
        RefusedPathsError: one of them can be no path.
    """
    found, refusals = list[str](), Refusals()
    for number, text in enumerate(texts):
        try:
            found.append(path_to_text(normal_path(text)))
        except PathRefusedError as error:
            refusals.add(f"image_paths.{number}", text, str(error))
    refusals.raise_any()
    return found
