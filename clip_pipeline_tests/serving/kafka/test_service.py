"""The service as a process, against a real broker: uploads become requests, results become messages."""

import json
import signal
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from clip_pipeline.ledger.analysis_lookup import analysis_of, recent_analyses
from clip_pipeline.ledger.states import AnalysisState
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture

pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")

from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.serving.kafka.broker import KafkaSender, KafkaSource, connection_of, ensure_topics
from clip_pipeline.serving.kafka.messages import Outgoing
from clip_pipeline.serving.kafka.outbox import deliver, shorter_result
from clip_pipeline_tests.serving.kafka.tansu import header, wait_until

SCHEMA = Path(__file__).resolve().parents[3] / "docs" / "kafka-result.schema.json"
LABELS = ",".join(COLOUR_LABELS)


def test_an_upload_becomes_a_request_and_its_result_a_message_that_the_schema_allows(stage):
    here = stage()
    service = here.start()
    sent = {f"{colour}-1": picture(colour) for colour in ("red", "green", "blue")}
    for request_id, content in sent.items():
        here.client.send(request_id, content, filename="a/b/photo.png", labels=LABELS)
    here.client.send("cut", picture("red"), labels=LABELS, top_k="2")
    here.client.send("damaged", picture("yellow")[:60], labels=LABELS)
    here.client.flush()
    with here.lane():
        documents = here.client.results([*sent, "cut", "damaged"])
    for document in documents.values():
        Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    for colour in ("red", "green", "blue"):
        found = documents[f"{colour}-1"]
        assert (found["request_id"], found["status"], found["filename"]) == (f"{colour}-1", "completed", "photo.png")
        assert found["predictions"][0]["label"] == f"something {colour}"
        assert sum(p["confidence"] for p in found["predictions"]) == pytest.approx(1, abs=1e-4)
        assert found["metadata"] == {
            "width": 40,
            "height": 40,
            "format": "PNG",
            "size_bytes": len(sent[f"{colour}-1"]),
        }
    assert len(documents["cut"]["predictions"]) == 2
    assert documents["damaged"]["status"] == "failed"
    assert documents["damaged"]["reason"].partition(":")[0] in {"truncated", "corrupt"}
    wait_until(lambda: here.client.committed() == 5, "all offsets are committed")
    assert here.stop(service) == 0
    assert {one.source for one in recent_analyses(here.ledger)} == {"kafka"}


def test_poison_goes_to_the_dead_letters_as_it_came_with_its_reason_and_others_go_on(stage):
    here = stage(max_upload_bytes=2_000_000)
    here.start()
    poison = {
        "not-an-image": ("text-1", b"hello, I am no image", {"filename": "cat.jpg"}),
        "no value": ("empty-1", b"", {}),
        "no key": (None, picture("red"), {"labels": "cat"}),
        "no request id": ("no id, but a sentence", picture("red"), {}),
        "labels": ("labels-1", picture("red"), {"labels": "cat,\x07"}),
        "top_k": ("topk-1", picture("red"), {"top_k": "0"}),
        "3000000 bytes": ("large-1", bytes(3_000_000), {}),
    }
    for key, value, headers in poison.values():
        here.client.send(key, value, **headers)
    here.client.send("good", picture("red"))
    here.client.flush()
    letters = here.client.dead_letters(len(poison))
    here.wait_requests(1)
    assert [one.request_id for one in recent_analyses(here.ledger)] == ["good"]
    assert len(letters) == len(poison)
    found = {(m.key(), m.value()): m for m in letters}
    for reason, (key, value, headers) in poison.items():
        letter = found[key and key.encode(), value]
        assert reason in header(letter, "reason")
        assert header(letter, "origin").startswith("image-uploads/")
        assert headers.items() <= {name: text.decode() for name, text in letter.headers()}.items()
    wait_until(lambda: here.client.committed() == len(poison) + 1, "poison is not read again")


def test_the_same_message_again_is_the_same_request_and_another_content_under_its_id_is_poison(stage):
    here = stage()
    here.start()
    for content in (picture("red"), picture("red"), picture("blue")):
        here.client.send("one", content, labels="cat,dog")
    here.client.flush()
    (letter,) = here.client.dead_letters(1)
    assert (letter.key(), letter.value()) == (b"one", picture("blue"))
    assert "another upload" in header(letter, "reason")
    assert here.stats().total == 1
    assert analysis_of(here.ledger, "one").size_bytes == len(picture("red"))


@pytest.mark.slow
def test_a_finished_request_that_is_sent_again_has_its_result_told_again(stage):
    here = stage()
    here.start()
    with here.lane():
        for count in (1, 2):
            here.client.send("one", picture("red"), labels="cat,dog")
            here.client.flush()
            here.client.read("analysis-results", lambda found, count=count: len(found) == count)
    assert (here.stats().total, analysis_of(here.ledger, "one").attempts) == (1, 1)


@pytest.mark.slow
def test_a_service_that_is_stopped_and_started_goes_on_where_it_was(stage):
    here = stage()
    for start, end in ((0, 5), (5, 10)):
        service = here.start()
        for number in range(start, end):
            here.client.send(f"id-{number}", picture("red", side=10 + number))
        here.client.flush()
        here.wait_requests(end)
        assert here.stop(service, signal.SIGTERM) == 0
        assert here.client.committed() == end
    attempts = [line for line in here.log().splitlines() if '"poison' in line or '"exception"' in line]
    assert attempts == []


@pytest.mark.slow
def test_a_long_backlog_pauses_the_intake_and_it_resumes_when_the_lane_caught_up(stage):
    here = stage(kafka_max_backlog=4)
    here.start()
    for number in range(6):
        here.client.send(f"early-{number}", picture("red", side=10 + number))
    here.client.flush()
    wait_until(lambda: "paused by the backlog" in here.log(), "the intake pauses")
    paused_at = here.stats().total
    for number in range(20):
        here.client.send(f"late-{number}", picture("blue", side=10 + number), labels="cat")
    here.client.flush()
    # A member that only waits would lose its partitions after this; nothing is read meanwhile.
    with pytest.raises(AssertionError, match="not within 8 s"):
        wait_until(lambda: here.stats().total > paused_at, "something is read", timeout_s=8)
    assert "revoked" not in here.log()
    with here.lane():
        here.client.results([f"late-{number}" for number in range(20)])
    assert '"resumed"' in here.log()


@pytest.mark.slow
def test_while_uploads_cannot_be_stored_nothing_is_committed_and_later_they_are_taken_in(stage):
    here = stage()
    folder = here.settings.store.uploads_dir
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    here.start()
    here.client.send("one", picture("red"))
    here.client.flush()
    wait_until(lambda: "messages cannot be taken in" in here.log(), "the service says why it waits")
    assert (here.client.committed(), here.stats().total) == (0, 0)
    folder.unlink()
    wait_until(lambda: here.client.committed() == 1, "the upload is taken in")
    assert analysis_of(here.ledger, "one").state is AnalysisState.SUBMITTED


@pytest.mark.slow
def test_services_share_the_partitions_and_when_one_dies_the_other_reads_its_messages(stage):
    here = stage()
    first = here.start()
    wait_until(lambda: "partitions assigned" in here.log(), "the first has all partitions")
    here.start()
    wait_until(lambda: "partitions revoked" in here.log(), "the first gives some to the second")
    for number in range(40):
        here.client.send(f"early-{number}", picture("red", side=10 + number))
    here.client.flush()
    wait_until(lambda: here.client.committed() == 40, "all are taken in")
    here.stop(first, signal.SIGKILL)
    for number in range(20):
        here.client.send(f"late-{number}", picture("blue", side=10 + number))
    here.client.flush()
    wait_until(lambda: here.client.committed() == 60, "the other takes in the rest")
    assert here.stats().total == 60


@pytest.mark.slow
def test_a_broker_that_comes_later_is_waited_for(stage, broker):
    broker.kill()
    here = stage()
    service = here.start()
    wait_until(lambda: "waiting for kafka" in here.log(), "the service looks for the broker")
    broker.start()
    here.client.send("patient", picture("red"))
    here.client.flush()
    here.wait_requests(1)
    assert here.stop(service) == 0


def test_a_service_that_waits_for_its_broker_can_be_stopped(stage, broker):
    broker.kill()
    here = stage()
    service = here.start()
    wait_until(lambda: "waiting for kafka" in here.log(), "the service looks for the broker")
    assert here.stop(service) == 0


def test_topics_are_made_once_and_take_the_largest_upload(stage):
    here = stage()
    connection = connection_of(here.settings)
    topics = ["image-uploads", "analysis-results", "image-uploads-dlq"]
    assert ensure_topics(connection, topics) == topics
    assert ensure_topics(connection, topics) == []
    here.client.send("large", bytes(60_000_000))
    here.client.flush()


@pytest.mark.slow
def test_lag_is_what_the_group_has_not_read_yet(stage):
    here = stage()
    connection = connection_of(here.settings)
    ensure_topics(connection, ["image-uploads"])
    source = KafkaSource(connection, "image-uploads")
    try:
        for number in range(9):
            here.client.send(f"id-{number}", b"x")
        here.client.flush()
        received = []

        def receive(most):
            received.extend(source.receive(most, timeout_s=0.2))
            return len(received)

        wait_until(lambda: receive(1) >= 1, "a message comes")
        before = sum(source.lag().values())
        wait_until(lambda: receive(20) == 9, "all messages come")
        assert 0 < before < 9
        assert sum(source.lag().values()) == 0
    finally:
        source.close()


@pytest.mark.slow
def test_a_result_is_not_marked_as_delivered_before_the_broker_has_it(stage, broker):
    here = stage()
    here.start()
    here.client.send("one", picture("red"), labels="cat")
    here.client.flush()
    here.wait_requests(1)
    sender = KafkaSender(connection_of(here.settings), shrink=shorter_result)
    broker.kill()
    with here.lane():
        wait_until(lambda: here.stats().completed == 1, "the request is completed")
    assert deliver(here.ledger, sender.send, topic="analysis-results") == 0
    assert analysis_of(here.ledger, "one").state is AnalysisState.COMPLETED
    broker.start()
    assert here.client.results(["one"])["one"]["predictions"] == [{"label": "cat", "confidence": 1.0}]


def test_a_result_that_is_too_large_for_the_broker_keeps_its_best_predictions(stage):
    here = stage()
    connection = connection_of(here.settings)
    ensure_topics(connection, ["analysis-results"])
    predictions = [{"label": f"{number:05d}" * 40, "confidence": 0.0} for number in range(5000)]
    message = Outgoing("analysis-results", b"many", json.dumps({"predictions": predictions}).encode())
    small = connection.__class__(connection.bootstrap, connection.group, connection.options, 500_000)
    assert KafkaSender(small, shrink=shorter_result).send([message]) == [True]
    found = here.client.results(["many"])["many"]
    assert found == {"predictions": predictions[:100], "predictions_omitted": 4900}


@pytest.mark.parametrize(
    ("text", "message"),
    [("ssl.ca.location", "line 1: expected `name=value`"), ("sasl.password=secret\n=x", "line 2")],
)
def test_a_malformed_file_of_options_is_named_without_showing_it(stage, tmp_path, text, message):
    path = tmp_path / "kafka.properties"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        connection_of(stage().settings.model_copy(update={"kafka_config": str(path)}))
    assert "secret" not in str(caught.value)


def test_an_unknown_option_is_an_error_of_the_configuration(stage, tmp_path):
    path = tmp_path / "kafka.properties"
    path.write_text("no.such.option=1")
    settings = stage().settings.model_copy(update={"kafka_config": str(path)})
    with pytest.raises(ConfigurationError, match=r"no\.such\.option"):
        ensure_topics(connection_of(settings), ["image-uploads"])
