"""Uploads through Kafka while broker, consumer and the run that analyzes them are SIGKILLed: each comes to one end."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clip_pipeline_tests.e2e.lane_kills import PATIENCE_S, RUN, ended, ends, history, kill
from clip_pipeline_tests.e2e.stack import Stack

pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")

from clip_pipeline_tests.serving.kafka.sender import Sender, made_uploads
from clip_pipeline_tests.serving.kafka.tansu import QUICK, Broker, Client, text

UPLOADS, POISON = 1_000, 100
KILLS = ("broker", "clip_pipeline.cli.main kafka", RUN) * 2
LABELS = ("something red", "a cat", "the sky")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_1000_uploads_survive_kills_of_broker_consumer_and_analysis_run_in_turn(
    stack: Stack, tmp_path: Path, photos: Mapping[str, Path]
):
    """This broker keeps its topics in memory, so its death loses what they held: the sender sends again what has no
    answer yet, and the request id makes one request of however many messages.
    """
    broker = Broker(tmp_path / "broker.log")
    broker.start()
    options = tmp_path / "kafka.properties"
    options.write_text("".join(f"{name} = {value}\n" for name, value in QUICK.items()))
    stack.extra = {"CLIP_PIPELINE_KAFKA_BOOTSTRAP": broker.address, "CLIP_PIPELINE_KAFKA_CONFIG": str(options)}
    uploads = made_uploads(tmp_path / "poison", photos, count=UPLOADS, poison=POISON)
    stack.start()
    stack.wait_ready()
    client = Client(broker)
    sender = Sender(client, uploads, labels=",".join(LABELS))
    sender.start()
    seen: dict[str, tuple[str, str]] = {}
    try:
        for number, victim in enumerate(KILLS):
            wanted = (number + 1) * UPLOADS // (len(KILLS) + 3)
            stack.wait(lambda wanted=wanted: ended(stack) >= wanted, f"{wanted} at their end", PATIENCE_S)
            assert sender.open_ids, "too late to disturb anything"
            if victim == "broker":
                broker.kill()
                broker.start()
            else:
                kill(stack, victim)
            seen |= ends(history(stack.url).values())
        stack.wait(lambda: not sender.open_ids, "every upload has an answer", 2 * PATIENCE_S)
        found = history(stack.url)
        check_each_has_one_end(found, sender, uploads)
        final = ends(found.values())
        assert {id_: final[id_] for id_ in seen} == seen, "a request ended twice"
        check_results_agree(client)
    finally:
        sender.ended.set()
        sender.join()
        broker.kill()


def check_each_has_one_end(found: Mapping[str, Any], sender: Sender, uploads: Mapping[str, bytes]) -> None:
    """Good ones are completed, poison failed or became dead letters, and what was taken in was answered."""
    assert {one["status"] for one in found.values()} <= {"completed", "failed"}
    assert found.keys() | sender.dead == uploads.keys()
    assert found.keys() & sender.dead == set()
    assert found.keys() <= sender.answered
    failed = {id_ for id_, one in found.items() if one["status"] == "failed"}
    assert failed | sender.dead == {id_ for id_ in uploads if id_.startswith("poison")}
    assert all(len(one["predictions"]) == len(LABELS) for id_, one in found.items() if id_ not in failed)


def check_results_agree(client: Client) -> None:
    """A result may be told more than once, never another one."""
    values: dict[str | None, set[bytes | None]] = defaultdict(set)
    for message in client.read("analysis-results", lambda messages: len(messages) > 0):
        values[text(message.key())].add(message.value())
    assert all(len(told) == 1 for told in values.values())
