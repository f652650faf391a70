"""Label sets as the contract writes them: for the service, and for the command line, which waits for no imports."""

from typing import Any

from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.ledger.label_sets import StoredLabelSet


def label_set_line(stored: StoredLabelSet, *, current: LabelSet) -> dict[str, Any]:
    """One label set of a list. current: the one that requests without labels get."""
    label_set = stored.label_set
    return {
        "name": label_set.name,
        "version": label_set.version,
        "labels_count": len(label_set.labels),
        "templates": list(label_set.templates),
        "in_use": (label_set.name, label_set.version) == (current.name, current.version),
        "created_at": stored.created_at,
    }


def label_set_document(stored: StoredLabelSet, *, current: LabelSet) -> dict[str, Any]:
    """`GET /api/v1/label-sets/{name}`: one version with all its labels."""
    label_set = stored.label_set
    return label_set_line(stored, current=current) | {"labels": list(label_set.labels), "digest": label_set.digest}
