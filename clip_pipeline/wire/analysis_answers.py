"""The documents of the analysis service as typed values; see `answers`."""

from dataclasses import dataclass

from clip_pipeline.wire.answers import Document, plain

FINAL = frozenset({"completed", "failed"})


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What a file says of itself; width and height as displayed."""

    width: int
    height: int
    format: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label and how sure it is, from 0 to 1."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Analysis:
    """One request: submitted, processing, completed or failed. predictions: best first, once it is completed.

    error_message: why it failed.
    """

    request_id: str
    status: str
    filename: str
    metadata: ImageMetadata
    submitted_at: str
    completed_at: str | None = None
    processing_time_ms: float | None = None
    error_message: str | None = None
    model_name: str | None = None
    predictions: tuple[Prediction, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class AnalysisStats:
    """How many requests are in each state. completion_rate: share of all that are completed, 0 to 1."""

    total_requests: int
    submitted: int
    processing: int
    completed: int
    failed: int
    completion_rate: float
    mean_processing_time_ms: float | None = None


@dataclass(frozen=True, slots=True)
class LabelSet:
    """One version of a label set. labels: empty in a list of label sets."""

    name: str
    version: int
    labels_count: int
    templates: tuple[str, ...]
    in_use: bool
    created_at: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectionLabels:
    """Of how many indexed images each label of the set in use is the best, most frequent first."""

    label_set: str
    version: int
    labelled_images: int
    images: dict[str, int]


def analysis(document: Document) -> Analysis:
    """One request, whatever its state."""
    found = tuple(plain(Prediction, one) for one in document.get("predictions", ()))
    return plain(Analysis, document, metadata=plain(ImageMetadata, document["metadata"]), predictions=found)


def analyses(document: Document) -> tuple[Analysis, ...]:
    """A page of requests."""
    return tuple(analysis(one) for one in document["analyses"])


def analysis_stats(document: Document) -> AnalysisStats:
    """Counts by state."""
    return plain(AnalysisStats, document)


def label_set(document: Document) -> LabelSet:
    """One version of a label set."""
    return plain(LabelSet, document)


def label_sets(document: Document) -> tuple[LabelSet, ...]:
    """A list of label sets."""
    return tuple(label_set(one) for one in document["label_sets"])


def collection_labels(document: Document) -> CollectionLabels:
    """The labels of the collection."""
    in_use = document["label_set"]
    images = {one["label"]: one["images"] for one in document["labels"]}
    return CollectionLabels(in_use["name"], in_use["version"], document["labelled_images"], images)
