"""Uploads as the service would leave them: the content in the store, a request in the ledger."""

import hashlib
import io

import numpy as np
from PIL import Image

from clip_pipeline.core.store import Store
from clip_pipeline.ledger.analysis_requests import NewAnalysis, submit_analysis
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.label_sets import current_label_set
from clip_pipeline_tests.fakes import COLOURS

COLOUR_LABELS = tuple(f"something {name}" for name in COLOURS)


def picture(colour: str, *, side: int = 40) -> bytes:
    """A PNG of one colour."""
    pixels = np.broadcast_to(np.asarray(COLOURS[colour], np.uint8), (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def upload(
    ledger: Ledger,
    store: Store,
    content: bytes,
    *,
    labels: tuple[str, ...] | None = COLOUR_LABELS,
    top_k: int | None = None,
) -> str:
    """Put the content where uploads lie and submit a request; returns its id."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = store.upload_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    named = None if labels is not None else current_label_set(ledger)
    new = NewAnalysis(
        source="api", sha256=sha256, filename="upload.png", format="PNG", width=40, height=40,
        size_bytes=len(content), labels=labels, top_k=top_k,
        label_set=named.name if named else None, label_set_version=named.version if named else None,
    )  # fmt: skip
    return submit_analysis(ledger, new)
