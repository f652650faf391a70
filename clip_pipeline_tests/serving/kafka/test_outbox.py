"""Results on their way out, over a real ledger and a broker that does as it is told."""

import json

import pytest

from clip_pipeline.ledger.analysis_queue import Completed, Failed, complete, fail, undelivered
from clip_pipeline.ledger.analysis_requests import delete_analysis
from clip_pipeline.serving.kafka import outbox
from clip_pipeline.serving.kafka.messages import Outgoing
from clip_pipeline.serving.kafka.outbox import deliver, shorter_result
from clip_pipeline_tests.ledger.analyses import TRUNCATED, submit, take


@pytest.fixture
def ids(ledger):
    """Three requests from Kafka, completed but for the last, which failed."""
    made = submit(ledger, 3, source="kafka")
    first, second, third = take(ledger)
    complete(ledger, "run", [Completed(one.seq, '{"predictions": []}', 1.0) for one in (first, second)])
    fail(ledger, "run", [Failed(third.seq, TRUNCATED)])
    return made


def test_what_the_broker_has_is_marked_and_what_it_has_not_is_tried_again(ledger, ids):
    tried = []

    def send(messages):
        tried.append([message.key.decode() for message in messages])
        return [message.key.decode() != ids[1] or len(tried) > 1 for message in messages]

    assert [deliver(ledger, send, topic="results") for _ in range(3)] == [2, 1, 0]
    assert tried == [ids, [ids[1]]]
    assert undelivered(ledger, most=10) == []


def test_messages_say_how_requests_ended(ledger, ids):
    sent = []
    deliver(ledger, lambda messages: sent.extend(messages) or [True] * len(messages), topic="results")
    documents = [json.loads(message.value) for message in sent]
    assert [document["request_id"] for document in documents] == ids
    assert [document["status"] for document in documents] == ["completed", "completed", "failed"]
    assert [document.get("reason") for document in documents] == [None, None, "truncated"]
    assert ["predictions" in document for document in documents] == [True, True, False]


def test_a_request_that_is_deleted_meanwhile_is_passed_over(ledger, ids, monkeypatch):
    def undelivered_then_deleted(ledger, *, most):
        found = undelivered(ledger, most=most)
        delete_analysis(ledger, ids[0])
        return found

    monkeypatch.setattr(outbox, "undelivered", undelivered_then_deleted)
    assert deliver(ledger, lambda messages: [True] * len(messages), topic="results") == 2


def test_a_result_that_is_too_large_keeps_its_best_predictions_and_one_without_any_stays_as_it_is():
    predictions = [{"label": str(number), "confidence": 0.0} for number in range(120)]
    cut = json.loads(
        shorter_result(Outgoing("t", b"k", json.dumps({"predictions": predictions}).encode())).value or b""
    )
    assert cut == {"predictions": predictions[:100], "predictions_omitted": 20}
    failed = Outgoing("t", b"k", b'{"status":"failed"}')
    assert shorter_result(failed) == failed
