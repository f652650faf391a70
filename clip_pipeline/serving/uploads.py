"""Taking uploads in: checked, kept in the store by content, submitted as analysis requests. No web framework here.

Whatever way an upload comes, it comes through `Uploads.accept`. When that returns, file and request are on disk; when
it raises, neither is.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias, TypeVar

from clip_pipeline.core.errors import NoSpaceError, NotFoundError, QueryError, StoreError
from clip_pipeline.core.inspection import Inspected
from clip_pipeline.core.label_set import parse_labels, parse_top_k
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.core.store import Store, fsync_path, replace_file, sweep_temporaries
from clip_pipeline.ledger.analysis_lookup import Analysis, analysis_of
from clip_pipeline.ledger.analysis_requests import NewAnalysis, delete_analysis, forget_upload, submit_analysis
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.label_sets import current_label_set, show_label_set
from clip_pipeline.serving.header_checks import HeaderChecks
from clip_pipeline.serving.queries import InvalidFieldError, UndecodableQueryError

MAX_NAME_CHARS = 255
NAMELESS = "upload"
LEFTOVER_AGE_S = 3600.0
"""No upload takes so long to be written: older temporary files are those of processes that were killed."""

_CHUNK_BYTES = 1024**2
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNSHOWN = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They reorder what follows them: `fdp.exe` could be shown as `exe.pdf`.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

Value = TypeVar("Value")
Content: TypeAlias = bytes | Path | IO[bytes]
"""The bytes of an upload, the file that holds them, or an open file that is read to its end."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of an upload, as it came and unchecked.

    source: api, cli, kafka or page. labels: comma separated text, or a list taken whole; None for those of
    `label_set`, and where that is None too, of the label set in use. request_id: None for a random one.
    """

    source: str
    filename: str | None = None
    labels: str | Sequence[str] | None = None
    label_set: str | None = None
    top_k: int | None = None
    request_id: str | None = None


class Uploads:
    """Takes uploads into one store and ledger. Safe to share between threads; every call blocks."""

    def __init__(self, store: Store, ledger: Ledger, limits: ImageLimits) -> None:
        self._store = store
        self._ledger = ledger
        self._limits = limits
        self._checks = HeaderChecks(limits)

    def sweep(self) -> int:
        """Remove what killed processes left of uploads; returns how many files."""
        return sweep_temporaries(self._store.uploads_dir, older_than_s=LEFTOVER_AGE_S)

    def close(self) -> None:
        """Stop the processes that look at files."""
        self._checks.close()

    def accept(self, content: Content, asked: Asked) -> Analysis:
        """The request as it stands now: submitted, unless it was sent before under the same `request_id`.

        Raises:
            InvalidFieldError: labels, label set or top_k cannot be used.
            QueryError: the request id cannot be used.
            UndecodableQueryError: the content is no image that may be decoded; `reason` says why.
            ConflictError: the request id is that of another request.
            NoSpaceError: the disk is full.
            StoreError: the content cannot be kept for another reason.
            OSError: the file named cannot be read.
        """
        labels = _resolved_labels(self._ledger, asked)
        top_k = None if asked.top_k is None else _checked("top_k", partial(parse_top_k, asked.top_k))
        with _opened(content) as source, _storing(), self._store.new_upload() as received:
            _receive(source, received, max_bytes=self._limits.max_bytes)
            facts = self._checks.inspect(received)
            if isinstance(facts, Reason):
                raise UndecodableQueryError(facts)
            new = NewAnalysis(
                source=asked.source, sha256=facts.sha256, filename=clean_filename(asked.filename), format=facts.format,
                width=facts.width, height=facts.height, size_bytes=facts.size_bytes, labels=labels.given,
                label_set=labels.name, label_set_version=labels.version, top_k=top_k,
            )  # fmt: skip
            return analysis_of(self._ledger, self._submit(received, facts, new, request_id=asked.request_id))

    def delete(self, request_id: str) -> None:
        """Delete a request, whatever its state, and its upload where no other request has the same.

        Raises:
            NotFoundError: no request has this id.
        """
        self._forget(delete_analysis(self._ledger, request_id))

    def _submit(self, received: Path, facts: Inspected, new: NewAnalysis, *, request_id: str | None) -> str:
        with received.open("rb") as content:  # stays readable under whatever name, or none
            target = self._store.upload_path(facts.sha256)
            is_new = _keep(received, target, size_bytes=facts.size_bytes)
            try:
                submitted = submit_analysis(self._ledger, new, request_id=request_id)
            except BaseException:
                if is_new:
                    with suppress(Exception):  # the first fault is the one to tell
                        self._forget(facts.sha256)
                raise
            if not target.exists():  # forgotten between the two
                _put_back(content, target)
                self._forget(facts.sha256)  # unless, as is likely, the request is still there
            return submitted

    def _forget(self, sha256: str) -> None:
        forget_upload(self._ledger, sha256, remove=partial(self._store.forget_upload_files, sha256))


def clean_filename(name: str | None) -> str:
    """A name to show: without folders, control characters and what a database cannot hold. Never used as a path."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    shown = "".join(c for c in last if unicodedata.category(c) not in _UNSHOWN and c not in _BIDI).strip()
    return shown[:MAX_NAME_CHARS] if shown.strip(".") else NAMELESS


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels of the request itself, or else a version of a label set."""

    given: tuple[str, ...] | None
    name: str | None = None
    version: int | None = None


def _resolved_labels(ledger: Ledger, asked: Asked) -> _Labels:
    if asked.labels is not None:
        if asked.label_set is not None:
            raise InvalidFieldError("label_set", "expected labels or label_set, got both; leave one of them out")
        return _Labels(_checked("labels", partial(parse_labels, asked.labels)))
    if asked.label_set is None:
        chosen = current_label_set(ledger)
    else:
        chosen = _checked("label_set", partial(show_label_set, ledger, asked.label_set)).label_set
    return _Labels(None, chosen.name, chosen.version)


def _checked(field: str, parse: Callable[[], Value]) -> Value:
    try:
        return parse()
    except (QueryError, NotFoundError) as error:
        raise InvalidFieldError(field, str(error)) from error


@contextmanager
def _opened(content: Content) -> Generator[IO[bytes], None, None]:
    if isinstance(content, bytes):
        yield BytesIO(content)
    elif isinstance(content, Path):
        with content.open("rb") as file:
            yield file
    else:
        yield content


@contextmanager
def _storing() -> Generator[None, None, None]:
    """Errors of the operating system while an upload is written, as errors of this project."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise NoSpaceError("the disk is full, so the upload was not taken in; send it again later") from error
        raise StoreError(f"the upload cannot be kept: {error.strerror or error}") from error


def _receive(source: IO[bytes], target: Path, *, max_bytes: int) -> None:
    """Write the source to `target`, flushed to disk. Raises UndecodableQueryError where it is too large."""
    received = 0
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            received += len(chunk)
            if received > max_bytes:
                detail = f"more than {max_bytes} bytes, the limit"
                raise UndecodableQueryError(Reason(ReasonCode.TOO_MANY_BYTES, detail))
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _keep(received: Path, target: Path, *, size_bytes: int) -> bool:
    """Make the file the upload of its content; False where that is there already."""
    with suppress(FileNotFoundError):
        if target.stat().st_size == size_bytes:
            return False
    if not target.parent.is_dir():
        target.parent.mkdir(exist_ok=True)
        fsync_path(target.parent.parent)
    os.replace(received, target)
    fsync_path(target.parent)
    return True


def _put_back(content: IO[bytes], target: Path) -> None:
    content.seek(0)
    with replace_file(target) as temporary, temporary.open("wb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            file.write(chunk)
