"""The JSON documents of the analysis service and of label sets, built from the ledger. No web framework here."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from clip_pipeline.ledger.analysis_lookup import Analysis, AnalysisStats
from clip_pipeline.ledger.analysis_queue import Waiting
from clip_pipeline.ledger.states import AnalysisState
from clip_pipeline.serving.documents import Document

BEST_SHOWN = 5
"""Predictions that a list of requests shows of each; the result has all of them."""


def status_document(analysis: Analysis) -> Document:
    """`GET /status/{request_id}`: where one request stands."""
    named = analysis.label_set is not None
    return {
        "request_id": analysis.request_id,
        "status": analysis.state,
        "filename": analysis.filename,
        "metadata": {
            "width": analysis.width,
            "height": analysis.height,
            "format": analysis.format,
            "size_bytes": analysis.size_bytes,
        },
        "submitted_at": analysis.submitted_at,
        "started_at": analysis.started_at,
        "completed_at": analysis.completed_at,
        "processing_time_ms": _rounded(analysis.processing_time_ms),
        "error_message": analysis.reason,
        "source": analysis.source,
        "labels_count": None if analysis.labels is None else len(analysis.labels),
        "label_set": {"name": analysis.label_set, "version": analysis.label_set_version} if named else None,
        "top_k": analysis.top_k,
    }


def submitted_document(analysis: Analysis) -> Document:
    """`POST /analyze-image`: a request as it was taken in, and where to ask about it."""
    request_id = analysis.request_id
    links = {
        "status": f"/status/{request_id}",
        "result": f"/result/{request_id}",
        "push": f"/ws/analysis/{request_id}",
    }
    # Taken in is what it was, though a quick run may have begun, or this be the answer to a repetition.
    return status_document(analysis) | {"status": AnalysisState.SUBMITTED, "links": links}


def result_document(analysis: Analysis) -> Document:
    """`GET /result/{request_id}`: the status, and once it is completed the predictions, best first."""
    if analysis.result_json is None:
        return status_document(analysis)
    return status_document(analysis) | json.loads(analysis.result_json)


def history_document(analyses: Sequence[Analysis], *, most: int) -> Document:
    """`GET /api/v1/analyses`: requests, newest first, with their best predictions, and where the next page begins."""
    return {
        "analyses": [_line(analysis) for analysis in analyses],
        "next_before": analyses[-1].seq if len(analyses) == most else None,
    }


def analysis_stats_document(stats: AnalysisStats) -> Document:
    """`GET /stats`: how many requests are in each state."""
    return {
        "total_requests": stats.total,
        "submitted": stats.submitted,
        "processing": stats.processing,
        "completed": stats.completed,
        "failed": stats.failed,
        "completion_rate": round(stats.completion_rate, 4),
        "mean_processing_time_ms": _rounded(stats.mean_processing_time_ms),
    }


def waiting_document(waiting: Waiting) -> Document:
    """What health says of the queue: its length, and how long its first request has waited."""
    oldest = waiting.oldest_submitted_at
    age_s = None if oldest is None else (datetime.now(UTC) - datetime.fromisoformat(oldest)).total_seconds()
    return {
        "waiting": waiting.submitted,
        "processing": waiting.processing,
        "oldest_waiting_s": None if age_s is None else round(max(0.0, age_s), 1),
    }


def _line(analysis: Analysis) -> Document:
    document = result_document(analysis)
    best = {"predictions": document["predictions"][:BEST_SHOWN]} if "predictions" in document else {}
    return document | best | {"seq": analysis.seq}


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
