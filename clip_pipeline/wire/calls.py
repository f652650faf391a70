"""One function for each thing to ask of the service: the request, whether it may be sent twice, and how to read it."""

import json
import mimetypes
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from clip_pipeline.wire import answers

Answer = TypeVar("Answer")
AnyPath: TypeAlias = str | os.PathLike[str]

_INDEX = "/api/v1/index"


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request. is_repeatable: sent twice it does what it does sent once; accepts: statuses with an answer,
    though they are no success."""

    method: str
    path: str
    read: Callable[[answers.Document], Answer]
    is_repeatable: bool = True
    content: Mapping[str, Any] = field(default_factory=dict[str, Any])
    accepts: frozenset[int] = frozenset()


def add_images(
    paths: Iterable[AnyPath], *, priority: int, recursive_dirs: Iterable[AnyPath], idempotency_key: str | None
) -> Call[answers.Submission]:
    """Submit paths. The key, one of its own where none is given, makes a request repeatable."""
    body: dict[str, object] = {"image_paths": _texts(paths), "priority": priority}
    if folders := _texts(recursive_dirs):
        body["recursive_dirs"] = folders
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", f"{_INDEX}/add-images", answers.submission, content={"json": body, "headers": headers})


def job(job_id: str) -> Call[answers.Job]:
    """The status of one job."""
    return Call("GET", f"{_INDEX}/status/{segment(job_id)}", answers.job)


def jobs() -> Call[answers.Jobs]:
    """The overall status."""
    return Call("GET", f"{_INDEX}/status", answers.jobs)


def retry_failed(job_id: str) -> Call[answers.Submission]:
    """A new job of the failed images of one."""
    return Call("POST", f"{_INDEX}/jobs/{segment(job_id)}/retry", answers.submission, is_repeatable=False)


def cancel(job_id: str) -> Call[answers.Document]:
    """Cancel one job."""
    return Call("DELETE", f"{_INDEX}/jobs/{segment(job_id)}", dict)


def delete_images(paths: Iterable[AnyPath]) -> Call[answers.Document]:
    """Remove images from the index; their files stay."""
    return Call("DELETE", f"{_INDEX}/images", dict, content={"json": {"image_paths": _texts(paths)}})


def image(path: AnyPath) -> Call[answers.Image]:
    """Where one path is and why."""
    return Call("GET", f"{_INDEX}/images", answers.image, content={"params": {"path": os.fspath(path)}})


def stats() -> Call[answers.Stats]:
    """What the index holds."""
    return Call("GET", f"{_INDEX}/stats", answers.stats)


def health() -> Call[answers.Health]:
    """Whether all is well; that something is not is an answer too."""
    return Call("GET", "/health", answers.health, accepts=frozenset({503}))


@dataclass(frozen=True, slots=True)
class Question:
    """A search: exactly one of text, file (uploaded from this machine), image_path (of the index) and vector.

    fingerprint: of the encoder that made the vector, so that another's is refused.
    """

    text: str | None = None
    file: AnyPath | None = None
    image_path: AnyPath | None = None
    vector: Sequence[float] | None = None
    fingerprint: str | None = None


def search(
    question: Question, *, k: int, min_score: float | None, filter: Mapping[str, object] | None
) -> Call[answers.SearchResults]:
    """The best images for one question.

    Raises:
        ValueError: not exactly one of text, file, image_path and vector.
        OSError: the file cannot be read.
    """
    given = {
        "text": question.text,
        "file": None if question.file is None else Path(question.file),
        "image_path": None if question.image_path is None else os.fspath(question.image_path),
        "vector": None if question.vector is None else [float(number) for number in question.vector],
    }
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"expected exactly one of text, file, image_path and vector, got {', '.join(given) or 'none'}")
    limits: dict[str, object] = {"k": k, "min_score": min_score, "filter": filter, "fingerprint": question.fingerprint}
    limits = {name: value for name, value in limits.items() if value is not None}
    content = _upload(Path(question.file), limits) if question.file is not None else {"json": given | limits}
    return Call("POST", "/api/v1/search", answers.search_results, content=content)


def image_part(image: AnyPath | bytes, *, filename: str | None = None) -> tuple[str, bytes, str]:
    """An image, a file of this machine or its bytes, as a part of a form: name, content, media type.

    Read at once, not while it is sent: a request that is repeated sends the same bytes.
    """
    name = filename or ("image" if isinstance(image, bytes) else Path(image).name)
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    return name, content, mimetypes.guess_type(name)[0] or "application/octet-stream"


def _upload(file: Path, limits: Mapping[str, object]) -> dict[str, object]:
    files = {"file": image_part(file)}
    form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in limits.items()}
    return {"files": files, "data": form}


def _texts(paths: Iterable[AnyPath]) -> list[str]:
    if isinstance(paths, str):
        raise TypeError(f"expected several paths, got the text {paths!r}; put it into a list")
    return [os.fspath(path) for path in paths]


def segment(text: str) -> str:
    """A text as one segment of an address, whatever it holds."""
    return quote(text, safe="")
