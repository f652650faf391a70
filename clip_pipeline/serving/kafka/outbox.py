"""The loop that tells Kafka of finished requests: written, acknowledged, then marked as delivered in the ledger.

Whoever is killed between the last two writes the same results again, so readers may meet one twice, under one key.
"""

import json
import logging
from collections.abc import Callable, Sequence

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.ledger.analysis_lookup import Analysis, analysis_of
from clip_pipeline.ledger.analysis_queue import mark_delivered, undelivered
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.states import AnalysisState
from clip_pipeline.serving.analysis_documents import result_document
from clip_pipeline.serving.documents import Document
from clip_pipeline.serving.kafka.messages import Outgoing

logger = logging.getLogger(__name__)

MOST = 100
MOST_PREDICTIONS = 100
"""Predictions that stay of a result that is too large for the broker."""


def deliver(ledger: Ledger, send: Callable[[Sequence[Outgoing]], list[bool]], *, topic: str, most: int = MOST) -> int:
    """Write the first finished requests that Kafka does not have yet; returns how many it has now."""
    waiting = [(row.seq, row.request_id) for row in undelivered(ledger, most=most)]
    messages: list[tuple[int, Outgoing]] = []
    for seq, request_id in waiting:
        try:
            messages.append((seq, result_message(analysis_of(ledger, request_id), topic=topic)))
        except NotFoundError:
            logger.info("result removed before it was delivered", extra={"request_id": request_id})
    if not messages:
        return 0
    sent = send([message for _, message in messages])
    acknowledged = [seq for (seq, _), is_sent in zip(messages, sent, strict=True) if is_sent]
    if acknowledged:
        mark_delivered(ledger, acknowledged)
        logger.info("results delivered", extra={"results": len(acknowledged)})
    return len(acknowledged)


def result_message(analysis: Analysis, *, topic: str) -> Outgoing:
    """The message about one finished request, keyed by its id: what `GET /result` shows, and `reason` if it failed."""
    reason = {"reason": analysis.reason} if analysis.state is AnalysisState.FAILED else {}
    value = _encode(result_document(analysis) | reason)
    return Outgoing(topic, analysis.request_id.encode(), value, (("content-type", b"application/json"),))


def shorter_result(message: Outgoing) -> Outgoing:
    """The message with its best predictions only; `predictions_omitted` tells how many are left out."""
    document = json.loads(message.value or b"{}")
    predictions = document.get("predictions", [])
    omitted = max(len(predictions) - MOST_PREDICTIONS, 0)
    cut = document | {"predictions": predictions[:MOST_PREDICTIONS], "predictions_omitted": omitted}
    return Outgoing(message.topic, message.key, _encode(cut if predictions else document), message.headers)


def _encode(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
