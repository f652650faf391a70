"""The answers of the index service as models, for the OpenAPI schema and the tests; `documents` builds the answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_JOB = {
    "job_id": "idx_20251114_143025_7f3a9c",
    "status": "queued",
    "images_count": 100,
    "new_images_count": 5,
    "already_indexed_count": 95,
    "message": "Queued 5 new images for indexing",
}
_PROGRESS = {"total_images": 1000, "processed_images": 437, "failed_images": 2, "percent_complete": 43.7}


def _example(document: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [document]})


class SubmittedJobModel(BaseModel):
    """A job as it was opened."""

    model_config = _example(_JOB)

    job_id: str
    status: Literal["queued", "completed"]
    images_count: int
    new_images_count: int
    already_indexed_count: int
    message: str


class LeftOutModel(BaseModel):
    """A failed image that may not be looked at any more, and why."""

    path: str
    detail: str


class RetriedJobModel(SubmittedJobModel):
    """A job that tries the failed images of another again."""

    model_config = _example(_JOB | {"retry_of": "idx_20251114_090000_0a1b2c", "left_out": [], "left_out_count": 0})

    retry_of: str
    left_out: list[LeftOutModel]
    left_out_count: int


class CanceledJobModel(BaseModel):
    """A canceled job: what was taken out of the queue, and which runs were ended or go on for others."""

    model_config = _example(
        {"job_id": _JOB["job_id"], "status": "canceled", "canceled_at": "2025-11-14T14:31:02.512Z",
         "withdrawn_images": 563, "terminated_runs": ["5f0c2c1e-8f0e-4b6a-9a57-0d8f5b2f3a11"], "left_runs": [],
         "warning": None, "message": "Canceled; 563 images were taken out of the queue, 1 run was ended"}
    )  # fmt: skip

    job_id: str
    status: Literal["canceled"]
    canceled_at: str
    withdrawn_images: int
    terminated_runs: list[str]
    left_runs: list[str]
    warning: str | None
    message: str


class RemovedImagesModel(BaseModel):
    """How many files were removed, and which paths were not there."""

    model_config = _example({"removed": 2, "not_found": ["/data/photos/never seen.jpg"]})

    removed: int
    not_found: list[str]


class WhereaboutsModel(BaseModel):
    """Where one file stands and why."""

    model_config = _example(
        {"path": "/data/photos/a.jpg", "state": "indexed", "reason": None, "batch": "b0000042",
         "run_id": "5f0c2c1e-8f0e-4b6a-9a57-0d8f5b2f3a11",
         "image_id": 17, "sha256": "9f86d081884c7d65...", "format": "JPEG", "width": 640, "height": 480,
         "size_bytes": 81234, "updated_at": "2025-11-14T14:31:02.512Z", "indexed_at": "2025-11-14T14:31:02.512Z",
         "index_release": "0000007", "standing_path": "/data/photos/a.jpg", "duplicates": [],
         "job_ids": ["idx_20251114_143025_7f3a9c"]}
    )  # fmt: skip

    path: str
    state: Literal["registered", "manifested", "embedded", "indexed", "duplicate", "failed", "deleted"]
    reason: str | None
    batch: str | None
    run_id: str | None
    image_id: int | None
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None
    size_bytes: int
    updated_at: str
    indexed_at: str | None
    index_release: str | None
    standing_path: str | None
    duplicates: list[str]
    job_ids: list[str]


class ProgressModel(BaseModel):
    """How far a job has come."""

    model_config = _example(_PROGRESS)

    total_images: int
    processed_images: int
    failed_images: int
    percent_complete: float


class JobStatusModel(BaseModel):
    """One job: its lifecycle, its progress, its runs and the first of its failed images."""

    model_config = _example(
        {"job_id": _JOB["job_id"], "status": "running", "progress": _PROGRESS,
         "created_at": "2025-11-14T14:30:25.101Z", "started_at": "2025-11-14T14:30:31.870Z", "completed_at": None,
         "error_message": None, "eta_seconds": 41.5,
         "runs": [{"run_id": "5f0c2c1e", "status": "STARTED", "job_name": "embed_images",
                   "started_at": "2025-11-14T14:30:31.870Z", "ended_at": None,
                   "url": "http://127.0.0.1:3000/runs/5f0c2c1e"}],
         "failed": [{"path": "/data/photos/cut.jpg", "reason": "truncated: JPEG: premature end"}]}
    )  # fmt: skip

    job_id: str
    status: Literal["queued", "running", "completed", "failed", "canceled"]
    progress: ProgressModel
    created_at: str
    started_at: str | None
    completed_at: str | None
    error_message: str | None
    eta_seconds: float | None
    runs: list[dict[str, str | None]]
    failed: list[dict[str, str]]


class OverallStatusModel(BaseModel):
    """The open jobs and the newest ones."""

    model_config = _example(
        {"total_indexed_images": 118323, "active_jobs": 1,
         "active_job_details": [{"job_id": _JOB["job_id"], "status": "running",
                                 "created_at": "2025-11-14T14:30:25.101Z"}],
         "recent_jobs": [{"job_id": _JOB["job_id"], "status": "running", "created_at": "2025-11-14T14:30:25.101Z",
                          "images": 1000}],
         "index_stats": {"model_name": "clip-ViT-L-14", "total_images": 118323}}
    )  # fmt: skip

    total_indexed_images: int
    active_jobs: int
    active_job_details: list[dict[str, str]]
    recent_jobs: list[dict[str, str | int]]
    index_stats: dict[str, str | int | None]


class StatsModel(BaseModel):
    """What the index holds."""

    model_config = _example(
        {"model_name": "clip-ViT-L-14", "embedding_dim": 768, "total_images": 118323, "num_failed": 0,
         "last_updated": "2025-11-14T14:31:02Z", "index_size_mb": 739.5, "index_release": "0000007",
         "fingerprint": "3d2f1a..."}
    )  # fmt: skip

    model_name: str | None
    embedding_dim: int | None
    total_images: int
    num_failed: int
    last_updated: str | None
    index_size_mb: float
    index_release: str | None
    fingerprint: str | None


class LabelledModel(BaseModel):
    """A label of an image, and how sure it is, from 0 to 1."""

    model_config = ConfigDict(extra="forbid")

    label: str
    confidence: float


class SearchResultModel(BaseModel):
    """One image found. score: cosine of the angle between query and image; labels: its best by the label set in use."""

    model_config = ConfigDict(extra="forbid")

    rank: int
    score: float
    image_id: int
    path: str
    duplicates: list[str]
    width: int
    height: int
    format: str
    size_bytes: int
    sha256: str
    labels: list[LabelledModel]


class SearchModel(BaseModel):
    """What a search found, best first."""

    model_config = _example(
        {"query": {"text": "a red bicycle", "k": 10}, "index_release": "0000007", "model_name": "clip-ViT-L-14",
         "took_ms": 12.3,
         "results": [{"rank": 1, "score": 0.31, "image_id": 17, "path": "/data/photos/a.jpg", "duplicates": [],
                      "width": 640, "height": 480, "format": "JPEG", "size_bytes": 81234, "sha256": "9f86d0...",
                      "labels": [{"label": "bicycle", "confidence": 0.87}]}]}
    )  # fmt: skip

    query: dict[str, Any]
    index_release: str | None
    model_name: str | None
    took_ms: float
    results: list[SearchResultModel]
