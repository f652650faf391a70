"""The labels of the whole collection under the label set in use, as they are published: counts, filter, best labels."""

import threading
from collections.abc import Sequence

from clip_pipeline.core.errors import ConflictError, NotFoundError, QueryError, StoreError
from clip_pipeline.core.image_labels import ImageLabels, Labelled, open_image_labels, read_image_labels_seal
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.release import IdArray
from clip_pipeline.core.store import Store
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.label_sets import current_label_set
from clip_pipeline.serving.queries import InvalidFieldError

BEST = 3
"""Labels that a search result shows of an image."""


class CollectionLabels:
    """Reads what the pipeline published, newest first. Safe to share between threads."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._opening = threading.Lock()
        self._opened: ImageLabels | None = None

    def current(self) -> tuple[LabelSet, ImageLabels | None]:
        """The label set in use, and the labels of the images by it; None while there are none.

        Raises:
            IntegrityError: what was published cannot be read.
        """
        label_set = current_label_set(self._ledger)
        spec = pinned_encoder(self._store)
        if spec is None:
            return label_set, None
        try:
            seal = read_image_labels_seal(self._store, spec.key, digest=label_set.digest)
            with self._opening:
                if self._opened is None or self._opened.seal != seal:
                    self._opened = open_image_labels(self._store, spec.key, digest=label_set.digest)
                return label_set, self._opened
        except NotFoundError:
            return label_set, None

    def ids_with(self, label: str, *, min_confidence: float) -> IdArray:
        """Ascending ids of the images that have the label among their best, at least so sure of it.

        Raises:
            InvalidFieldError: the label set in use has no such label.
            ConflictError: no image was labelled with the label set in use yet.
        """
        label_set, labels = self.current()
        if labels is None:
            raise ConflictError(
                f"no image has labels of the set {label_set.name} version {label_set.version} yet; they come by "
                "themselves after a merge, or materialize image_labels, or use another label set"
            )
        try:
            return labels.ids_with(label, min_confidence=min_confidence)
        except QueryError as error:
            raise InvalidFieldError("label", str(error)) from error

    def best_of(self, image_ids: Sequence[int]) -> dict[int, list[Labelled]]:
        """The best labels of these images, of those that have any; none where labels cannot be read."""
        try:
            _, labels = self.current()
        except StoreError:  # a search goes on without them
            return {}
        return {} if labels is None else {image_id: labels.labels_of(image_id)[:BEST] for image_id in image_ids}
