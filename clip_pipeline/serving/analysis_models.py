"""The answers of the analysis service as models, for the OpenAPI schema and the tests; see `analysis_documents`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_ID = "0b5a0c3e-5f0f-4c0e-9d55-6a6f3a8f2f10"
_METADATA = {"width": 451, "height": 300, "format": "PNG", "size_bytes": 224013}
_PREDICTIONS = [{"label": "cat", "confidence": 0.931204}, {"label": "dog", "confidence": 0.041377}]
_STATUS: dict[str, Any] = {
    "request_id": _ID, "status": "processing", "filename": "cat.jpg", "metadata": _METADATA,
    "submitted_at": "2025-11-14T14:30:25.101Z", "started_at": "2025-11-14T14:30:25.142Z", "completed_at": None,
    "processing_time_ms": None, "error_message": None, "source": "api", "labels_count": None,
    "label_set": {"name": "everyday", "version": 1}, "top_k": 2,
}  # fmt: skip
_SUBMITTED = _STATUS | {
    "status": "submitted", "started_at": None,
    "links": {"status": f"/status/{_ID}", "result": f"/result/{_ID}", "push": f"/ws/analysis/{_ID}"},
}  # fmt: skip
_RESULT = _STATUS | {
    "status": "completed", "completed_at": "2025-11-14T14:30:25.190Z", "processing_time_ms": 41.2,
    "model_name": "clip-ViT-L-14", "fingerprint": "3d2f1a...", "reused_vector": False, "predictions": _PREDICTIONS,
}  # fmt: skip
_LABEL_SET = {
    "name": "animals", "version": 2, "labels_count": 3, "templates": ["a photo of a {}"], "in_use": True,
    "created_at": "2025-11-14T14:30:25.101Z",
}  # fmt: skip


def _example(document: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [document]})


class ImageMetadataModel(BaseModel):
    """What the file says of itself; width and height as displayed."""

    model_config = ConfigDict(extra="forbid")

    width: int
    height: int
    format: str
    size_bytes: int


class LabelSetVersionModel(BaseModel):
    """One version of a label set."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: int


class PredictionModel(BaseModel):
    """A label and how sure it is, from 0 to 1."""

    model_config = ConfigDict(extra="forbid")

    label: str
    confidence: float


class AnalysisStatusModel(BaseModel):
    """Where one request stands. labels_count: labels that came with the request; else those of label_set count."""

    model_config = _example(_STATUS)

    request_id: str
    status: Literal["submitted", "processing", "completed", "failed"]
    filename: str
    metadata: ImageMetadataModel
    submitted_at: str
    started_at: str | None
    completed_at: str | None
    processing_time_ms: float | None
    error_message: str | None
    source: Literal["api", "cli", "kafka", "page"]
    labels_count: int | None
    label_set: LabelSetVersionModel | None
    top_k: int | None


class SubmittedAnalysisModel(AnalysisStatusModel):
    """A request as it was taken in, and where to ask about it."""

    model_config = _example(_SUBMITTED)

    links: dict[str, str]


class AnalysisResultModel(AnalysisStatusModel):
    """What was found. Confidences are the softmax over all labels; reused_vector: the image was known already."""

    model_config = _example(_RESULT)

    model_name: str
    fingerprint: str
    reused_vector: bool
    predictions: list[PredictionModel]


class AnalysisStatsModel(BaseModel):
    """Requests that are kept, by state. completion_rate: share of all, 0 to 1."""

    model_config = _example(
        {"total_requests": 1000, "submitted": 12, "processing": 16, "completed": 970, "failed": 2,
         "completion_rate": 0.97, "mean_processing_time_ms": 41.2}
    )  # fmt: skip

    total_requests: int
    submitted: int
    processing: int
    completed: int
    failed: int
    completion_rate: float
    mean_processing_time_ms: float | None


class HistoryModel(BaseModel):
    """Requests, newest first; each as its status or result, with its first five predictions."""

    model_config = _example({"analyses": [_RESULT | {"seq": 4711}], "next_before": 4711})

    analyses: list[dict[str, Any]]
    next_before: int | None


class LabelSetLineModel(BaseModel):
    """One version of a label set. in_use: requests without labels of their own get it, and the collection has it."""

    model_config = _example(_LABEL_SET)

    name: str
    version: int
    labels_count: int
    templates: list[str]
    in_use: bool
    created_at: str


class LabelSetsModel(BaseModel):
    """Every version of every label set."""

    model_config = _example({"label_sets": [_LABEL_SET]})

    label_sets: list[LabelSetLineModel]


class LabelSetModel(LabelSetLineModel):
    """One version of a label set with its labels. digest: SHA-256 of labels and templates."""

    model_config = _example(_LABEL_SET | {"labels": ["cat", "dog", "horse"], "digest": "9f86d0..."})

    labels: list[str]
    digest: str


class LabelCountModel(BaseModel):
    """A label, and of how many images it is the best one."""

    model_config = ConfigDict(extra="forbid")

    label: str
    images: int


class CollectionLabelsModel(BaseModel):
    """What the indexed images show, by the label set in use, most frequent first.

    labelled_images: of the release named; 0, without a release, while none was labelled with this label set.
    """

    model_config = _example(
        {"label_set": {"name": "animals", "version": 2}, "index_release": "0000007", "labelled_images": 1000,
         "labels": [{"label": "cat", "images": 612}, {"label": "dog", "images": 388}]}
    )  # fmt: skip

    label_set: LabelSetVersionModel
    index_release: str | None
    labelled_images: int
    labels: list[LabelCountModel]
