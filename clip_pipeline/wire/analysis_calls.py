"""What to ask of the analysis service; see `calls`."""

import uuid
from collections.abc import Sequence

from clip_pipeline.wire import analysis_answers as answers
from clip_pipeline.wire.calls import AnyPath, Call, image_part, segment

_SETS = "/api/v1/label-sets"
WAIT_S = 20.0
"""How long the service is asked to wait with its answer: less than proxies let a connection be silent."""


def analyze(
    image: AnyPath | bytes,
    *,
    filename: str | None = None,
    labels: Sequence[str] | None = None,
    label_set: str | None = None,
    top_k: int | None = None,
    idempotency_key: str | None = None,
) -> Call[answers.Analysis]:
    """Send an image, a file of this machine or its bytes. A key, its own where none is given, makes it repeatable.

    Raises:
        OSError: the file cannot be read.
        TypeError: the labels are one text.
    """
    if isinstance(labels, str):
        raise TypeError(f"expected several labels, got the text {labels!r}; put it into a list")
    fields: dict[str, object] = {"labels": list(labels) if labels is not None else None, "label_set": label_set}
    fields["top_k"] = None if top_k is None else str(top_k)
    if labels is not None and not labels:
        fields["labels"] = ""  # a form cannot say "an empty list"; left out, it would mean the label set in use
    content = {
        "files": {"file": image_part(image, filename=filename)},
        "data": {name: value for name, value in fields.items() if value is not None},
        "headers": {"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
    }
    return Call("POST", "/analyze-image", answers.analysis, content=content)


def analysis_status(request_id: str) -> Call[answers.Analysis]:
    """Where one request stands."""
    return Call("GET", f"/status/{segment(request_id)}", answers.analysis)


def analysis_result(request_id: str, *, wait_s: float = 0.0) -> Call[answers.Analysis]:
    """The result of one request, or where it stands after the wait; one that failed is refused."""
    content = {"params": {"wait": f"{wait_s:g}"}} if wait_s else {}
    return Call("GET", f"/result/{segment(request_id)}", answers.analysis, content=content)


def delete_analysis(request_id: str) -> Call[None]:
    """Delete one request, its result and, where nobody else has the same, its image."""
    return Call("DELETE", f"/result/{segment(request_id)}", lambda _: None)


def analyses(*, limit: int) -> Call[tuple[answers.Analysis, ...]]:
    """The newest requests."""
    return Call("GET", "/api/v1/analyses", answers.analyses, content={"params": {"limit": limit}})


def analysis_stats() -> Call[answers.AnalysisStats]:
    """How many requests are in each state."""
    return Call("GET", "/stats", answers.analysis_stats)


def label_sets() -> Call[tuple[answers.LabelSet, ...]]:
    """Every version of every label set."""
    return Call("GET", _SETS, answers.label_sets)


def label_set(name: str, *, version: int | None) -> Call[answers.LabelSet]:
    """One version of a label set, the newest unless `version` names it."""
    content = {} if version is None else {"params": {"version": version}}
    return Call("GET", f"{_SETS}/{segment(name)}", answers.label_set, content=content)


def create_label_set(name: str, labels: Sequence[str], *, templates: Sequence[str] | None) -> Call[answers.LabelSet]:
    """The next version of a label set; asked twice, it is one."""
    body: dict[str, object] = {"name": name, "labels": list(labels)}
    if templates is not None:
        body["templates"] = list(templates)
    return Call("POST", _SETS, answers.label_set, content={"json": body})


def use_label_set(name: str, *, version: int | None) -> Call[answers.LabelSet]:
    """Put a label set in use."""
    body = {} if version is None else {"version": version}
    return Call("POST", f"{_SETS}/{segment(name)}/use", answers.label_set, content={"json": body})


def collection_labels() -> Call[answers.CollectionLabels]:
    """What the indexed images show."""
    return Call("GET", "/api/v1/labels", answers.collection_labels)
