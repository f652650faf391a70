"""What the analysis pages show of a request: its labels as bars, its state, why it failed. No web framework here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from clip_pipeline.core.image_labels import Labelled
from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.analysis_lookup import Analysis
from clip_pipeline.ledger.states import FINAL_ANALYSES, AnalysisState
from clip_pipeline.serving.pages.stats_view import meaning_of

BARS_SHOWN = 10
ROWS_SHOWN = 200
SOURCES = {"api": "the HTTP service", "cli": "the command line", "kafka": "Kafka", "page": "this page"}


@dataclass(frozen=True, slots=True)
class RankedLabel:
    """A label with its confidence, 0 to 1. url: of images with it; empty where the index is not labelled with it."""

    label: str
    confidence: float
    url: str = ""

    @property
    def said(self) -> str:
        """The confidence as people read it: a small one is not none."""
        return "< 0.1 %" if 0 < self.confidence < 0.001 else f"{100 * self.confidence:.1f} %"


@dataclass(frozen=True, slots=True)
class AnalysisView:
    """One request. bars: its best labels; rows: those after them, as far as a page has room; total: of all of them."""

    analysis: Analysis
    bars: tuple[RankedLabel, ...] = ()
    rows: tuple[RankedLabel, ...] = ()
    total: int = 0
    model_name: str = ""
    is_reused: bool = False

    @property
    def is_open(self) -> bool:
        """True while its state may change."""
        return self.analysis.state not in FINAL_ANALYSES

    @property
    def is_failed(self) -> bool:
        """True where there will never be a result."""
        return self.analysis.state is AnalysisState.FAILED

    @property
    def source(self) -> str:
        """Where it came from, in words."""
        return SOURCES.get(self.analysis.source, self.analysis.source)

    @property
    def failure(self) -> str:
        """Why it failed, as a sentence; the reason as it was recorded where there is none."""
        recorded = self.analysis.reason or ""
        try:
            return meaning_of(Reason.parse(recorded).code) or recorded
        except ValueError:
            return recorded


def analysis_view(analysis: Analysis) -> AnalysisView:
    """A request with its result, where it has one."""
    if analysis.result_json is None:
        return AnalysisView(analysis)
    result: Mapping[str, Any] = json.loads(analysis.result_json)
    labels = tuple(RankedLabel(one["label"], one["confidence"]) for one in result["predictions"][:ROWS_SHOWN])
    return AnalysisView(
        analysis, labels[:BARS_SHOWN], labels[BARS_SHOWN:], len(result["predictions"]), result.get("model_name", ""),
        bool(result.get("reused_vector")),
    )  # fmt: skip


def ranked_label(labelled: Labelled) -> RankedLabel:
    """A label of an indexed image, leading to the images that have it too."""
    return RankedLabel(labelled.label, labelled.confidence, label_url(labelled.label))


def label_url(label: str) -> str:
    """The search for a label among the images that have it."""
    return f"/ui/search?{urlencode({'q': label, 'label': label})}"
