"""The documents of the service as typed values. Fields that a newer service adds are passed over."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypeVar

Document: TypeAlias = Mapping[str, Any]
Answer = TypeVar("Answer")

FINAL_STATUSES = frozenset({"completed", "failed", "canceled"})


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of submitted paths. status: `queued`, or `completed` where nothing was new."""

    job_id: str
    status: str
    images_count: int
    new_images_count: int
    already_indexed_count: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; images that failed count as processed."""

    total_images: int
    processed_images: int
    failed_images: int
    percent_complete: float


@dataclass(frozen=True, slots=True)
class Run:
    """One Dagster run of a job; url: its page in the Dagster UI."""

    run_id: str
    status: str
    url: str | None = None
    job_name: str | None = None
    started_at: str | None = None
    ended_at: str | None = None


@dataclass(frozen=True, slots=True)
class FailedImage:
    """A path and why it failed."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """Where a job stands: queued, running, completed, failed or canceled. failed: its first 100 failed images."""

    job_id: str
    status: str
    progress: Progress
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    error_message: str | None = None
    eta_seconds: float | None = None
    runs: tuple[Run, ...] = ()
    failed: tuple[FailedImage, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job of a list. images: paths submitted, where the list says so."""

    job_id: str
    status: str
    created_at: str
    images: int | None = None


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs that are open, oldest first, and the newest ones."""

    total_indexed_images: int
    active_jobs: int
    active: tuple[JobLine, ...]
    recent: tuple[JobLine, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """What the index holds; None before there is one."""

    total_images: int
    num_failed: int
    index_size_mb: float
    model_name: str | None = None
    embedding_dim: int | None = None
    last_updated: str | None = None
    index_release: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well. parts: each part's own document; detail: what is wrong, None when nothing is."""

    is_ok: bool
    parts: Mapping[str, Document]
    version: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. score: inner product of unit vectors; duplicates: other paths of the same content."""

    rank: int
    score: float
    image_id: int
    path: str
    duplicates: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    format: str | None = None


@dataclass(frozen=True, slots=True)
class SearchResults:
    """An answered search, best hit first. query: the question as the service repeats it."""

    results: tuple[Hit, ...]
    query: Document
    took_ms: float
    index_release: str | None = None
    model_name: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """Where a path is and why. batch, run_id: where it was worked on last; document: all that the service says."""

    path: str
    state: str
    document: Document = field(repr=False)
    reason: str | None = None
    batch: str | None = None
    run_id: str | None = None
    image_id: int | None = None
    sha256: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    indexed_at: str | None = None
    index_release: str | None = None


def plain(kind: type[Answer], document: Document, /, **nested: object) -> Answer:
    """An answer of flat fields; lists become tuples, `nested` says the fields that are made otherwise.

    Raises:
        TypeError: a field that every service sends is missing.
    """
    names = {one.name for one in fields(kind) if one.init}  # type: ignore[arg-type]
    found = {name: value for name, value in document.items() if name in names and name not in nested}
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return kind(**frozen, **nested)


def submission(document: Document) -> Submission:
    """The answer to a submission."""
    return plain(Submission, document)


def job(document: Document) -> Job:
    """The status of one job."""
    return plain(
        Job,
        document,
        progress=plain(Progress, document["progress"]),
        runs=tuple(plain(Run, run) for run in document.get("runs", ())),
        failed=tuple(plain(FailedImage, image) for image in document.get("failed", ())),
    )


def jobs(document: Document) -> Jobs:
    """The overall status."""
    active = tuple(plain(JobLine, line) for line in document["active_job_details"])
    return plain(Jobs, document, active=active, recent=tuple(plain(JobLine, line) for line in document["recent_jobs"]))


def stats(document: Document) -> Stats:
    """What the index holds."""
    return plain(Stats, document)


def health(document: Document) -> Health:
    """The health of the service, well or not."""
    return plain(Health, document, is_ok=document["status"] == "ok", parts=document.get("parts", {}))


def search_results(document: Document) -> SearchResults:
    """An answered search."""
    return plain(SearchResults, document, results=tuple(plain(Hit, hit) for hit in document["results"]))


def image(document: Document) -> Image:
    """Where one path is and why."""
    return plain(Image, document, document=document)
