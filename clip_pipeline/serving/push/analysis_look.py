"""What became of analysis requests since the last look, read from the ledger. Blocks.

Events carry the status, not the predictions: those of a large label set would make every listener pay for each result.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from clip_pipeline.ledger.analysis_lookup import (
    Analysis,
    AnalysisMark,
    ChangedAnalysis,
    analyses_without_results,
    analysis_mark,
    changed_since,
)
from clip_pipeline.ledger.database import Ledger, iso_utc
from clip_pipeline.ledger.states import FINAL_ANALYSES
from clip_pipeline.serving.analysis_documents import status_document
from clip_pipeline.serving.push.events import Event
from clip_pipeline.serving.push.watch import Pace

TOPIC = "analysis"
PAGE = 500
PACE = Pace(every_s=0.1, announced_s=5.0, per_look=4, longest_s=5.0)
"""Somebody waits for the result: a look takes a millisecond, its wait adds 50 ms on average."""


class AnalysisLook:
    """Follows changes of requests from one mark to the next. For one thread at a time."""

    topic = TOPIC
    pace = PACE
    waited_s = 0.0

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._mark: AnalysisMark | None = None

    def forget(self) -> None:
        """Begin anew: the next look finds nothing changed."""
        self._mark = None

    def changes(self) -> list[Event]:
        """The latest state of each request that changed since the last look; none at the first."""
        if self._mark is None:
            self._mark = analysis_mark(self._ledger)
            return []
        changed, mark = changed_since(self._ledger, self._mark, most=PAGE)
        events = self._events(changed)
        self._mark = mark  # not before they are read: should that fail, they are found again
        return events

    def standing(self) -> list[Event]:
        """Nothing: requests come to their end within seconds, and whoever waits for one asks for that one."""
        return []

    def between(self, since_s: float, until_s: float) -> Iterator[list[Event]]:
        """The requests that changed in that time, in order, some at a time so that memory does not grow with them."""
        until = _text(until_s)
        mark = AnalysisMark(_text(since_s))
        changed, mark = changed_since(self._ledger, mark, most=PAGE)
        while changed and changed[0].updated_at <= until:
            yield self._events(changed)
            changed, mark = changed_since(self._ledger, mark, most=PAGE)

    def _events(self, changed: Sequence[ChangedAnalysis]) -> list[Event]:
        if not changed:
            return []
        found = analyses_without_results(self._ledger, list(dict.fromkeys(change.request_id for change in changed)))
        return sorted((_event(analysis) for analysis in found.values()), key=lambda event: event.moment_ms)


def _event(analysis: Analysis) -> Event:
    moment_ms = round(1000 * datetime.fromisoformat(analysis.updated_at).timestamp())
    data = json.dumps(status_document(analysis), separators=(",", ":"))
    return Event(TOPIC, analysis.request_id, moment_ms, data, analysis.state in FINAL_ANALYSES)


def _text(seconds: float) -> str:
    return iso_utc(datetime.fromtimestamp(seconds, UTC))
