"""From claimed requests to outcomes: each image's vector is scored against the labels that were asked for."""

import json
import time
from collections.abc import Callable, Sequence

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.label_scores import confidences
from clip_pipeline.core.label_set import LabelSet, ad_hoc_labels
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.defs.lane.loop import Outcomes
from clip_pipeline.defs.lane.vectors import UploadVectors
from clip_pipeline.ledger.analysis_queue import Claimed, Completed, Failed
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.label_sets import show_label_set

DIGITS = 6
"""Decimals of a confidence; what lies beyond them is the noise of float32."""


class ImageAnswers:
    """Answers of one encoder: zero-shot predictions, and how they were made."""

    def __init__(
        self,
        ledger: Ledger,
        vectors: UploadVectors,
        *,
        spec: EncoderSpec,
        logit_scale: float,
        embed_labels: Callable[[LabelSet], EmbeddingMatrix],
    ) -> None:
        """embed_labels: a label set's vectors, float32 [c, d]; called for each request, so it remembers."""
        self._ledger = ledger
        self._vectors = vectors
        self._spec = spec
        self._logit_scale = logit_scale
        self._embed_labels = embed_labels
        self._named: dict[tuple[str, int], LabelSet] = {}

    def prefetch(self, claimed: Sequence[Claimed]) -> None:
        """Begin to decode the images of these requests."""
        self._vectors.prefetch(request.sha256 for request in claimed)

    def answer(self, claimed: Sequence[Claimed]) -> Outcomes:
        """An outcome for each request; an image or labels that cannot be used cost their own request only."""
        began = time.perf_counter()
        vectors, known = self._vectors.of(request.sha256 for request in claimed)
        completed: list[Completed] = []
        failed: list[Failed] = []
        for request in claimed:
            answer = self._answer(request, vectors[request.sha256], reused=request.sha256 in known)
            if isinstance(answer, Reason):
                failed.append(Failed(request.seq, answer))
            else:
                completed.append(Completed(request.seq, answer, 1000 * (time.perf_counter() - began)))
        return Outcomes(completed, failed, reused=sum(request.sha256 in known for request in claimed))

    def _answer(
        self, request: Claimed, vector: "np.ndarray[tuple[int], np.dtype[np.float32]] | Reason", *, reused: bool
    ) -> str | Reason:
        if isinstance(vector, Reason):
            return vector
        labels = self._labels_of(request)
        try:
            label_vectors = self._embed_labels(labels)
        except IntegrityError as error:
            return Reason(ReasonCode.UNUSABLE_LABELS, str(error))
        scores = confidences(vector[None, :], label_vectors, logit_scale=self._logit_scale)[0]
        best = np.argsort(-scores, kind="stable")[: request.top_k]
        predictions = [
            {"label": labels.labels[index], "confidence": round(float(scores[index]), DIGITS)} for index in best
        ]
        return json.dumps(
            {
                "model_name": self._spec.model_name,
                "fingerprint": self._spec.fingerprint,
                "reused_vector": reused,
                "predictions": predictions,
            },
            ensure_ascii=False,
        )

    def _labels_of(self, request: Claimed) -> LabelSet:
        if request.labels is not None:
            return ad_hoc_labels(request.labels)
        # A version of a label set never changes.
        key = (str(request.label_set), int(request.label_set_version or 0))
        if key not in self._named:
            self._named[key] = show_label_set(self._ledger, key[0], version=key[1]).label_set
        return self._named[key]
