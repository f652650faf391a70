"""The service and the broker killed at the worst moments: no request is lost, none is made twice."""

import signal

import pytest

from clip_pipeline.ledger.analysis_lookup import recent_analyses
from clip_pipeline.ledger.analysis_queue import undelivered
from clip_pipeline.ledger.states import FINAL_ANALYSES, AnalysisState
from clip_pipeline_tests.defs.uploads import picture

pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")

from clip_pipeline_tests.serving.kafka.sender import Sender, made_uploads
from clip_pipeline_tests.serving.kafka.tansu import wait_until

UPLOADS, POISON, KILLS = 300, 30, 6


@pytest.mark.slow
def test_killed_before_it_commits_the_service_leaves_each_message_as_exactly_one_request(stage):
    here = stage()
    first = here.start("commit")
    for number in range(20):
        here.client.send(f"id-{number}", picture("red", side=10 + number))
    here.client.flush()
    assert here.wait_dead(first) == -signal.SIGKILL
    assert here.stats().total > 0
    assert here.client.committed() == 0
    here.start()
    wait_until(lambda: here.client.committed() == 20, "all is read again and committed")
    found = recent_analyses(here.ledger, most=100)
    assert sorted(one.request_id for one in found) == sorted(f"id-{number}" for number in range(20))


@pytest.mark.slow
def test_killed_before_it_marks_a_result_as_delivered_the_service_writes_it_again(stage):
    here = stage()
    first = here.start("mark_delivered")
    here.client.send("one", picture("red"), labels="cat,dog")
    here.client.flush()
    with here.lane():
        assert here.wait_dead(first) == -signal.SIGKILL
    assert [row.request_id for row in undelivered(here.ledger, most=10)] == ["one"]
    here.start()
    once, again = here.client.read("analysis-results", lambda found: len(found) == 2)
    assert once.value() == again.value()
    wait_until(lambda: undelivered(here.ledger, most=10) == [], "it is marked as delivered")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_300_uploads_survive_kills_of_broker_and_service_in_turn(stage, broker, tmp_path, photos):
    """A tenth is poison; each request ends once in the ledger and is told at least once, the rest is dead letters.

    This broker keeps its topics in memory, so a kill loses what they held. Therefore the sender sends every upload
    again that it has no answer for; with a broker that keeps its topics it would not need to. Kafka's promise, at
    least once, is thereby kept from end to end, and the request id makes one request of however many messages.
    """
    here = stage()
    uploads = made_uploads(tmp_path / "poison", photos, count=UPLOADS, poison=POISON)
    service = here.start()
    sender = Sender(here.client, uploads, labels="something red,a cat")
    sender.start()
    try:
        with here.lane():
            for kill in range(KILLS):
                wanted = (kill + 1) * UPLOADS // (KILLS + 2)
                wait_until(lambda n=wanted: here.stats().total >= n, f"{wanted} requests", timeout_s=120)
                assert sender.open_ids, "too late to disturb anything"
                if kill % 2:
                    here.stop(service, signal.SIGKILL)
                    service = here.start()
                else:
                    broker.kill()
                    broker.start()
            wait_until(lambda: not sender.open_ids, "every upload has an answer", timeout_s=240)
    finally:
        sender.ended.set()
        sender.join()
    found = {one.request_id: one for one in recent_analyses(here.ledger, most=1000)}
    assert {one.state for one in found.values()} <= set(FINAL_ANALYSES)
    assert {one.attempts for one in found.values()} == {1}
    assert found.keys() | sender.dead == uploads.keys()
    assert found.keys() & sender.dead == set()
    failed = {name for name, one in found.items() if one.state is AnalysisState.FAILED}
    assert failed | sender.dead == {name for name in uploads if name.startswith("poison")}
    assert found.keys() <= sender.answered
