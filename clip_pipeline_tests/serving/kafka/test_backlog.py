"""How far behind the group is, seen from beside it, on a real broker."""

import time

import pytest

pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")

from confluent_kafka import KafkaException

from clip_pipeline.observability.metrics import QUEUE_ITEMS, QUEUE_OLDEST_SECONDS
from clip_pipeline.serving.kafka.backlog import Backlog, uploads_backlog
from clip_pipeline.serving.kafka.broker import connection_of, ensure_topics
from clip_pipeline.serving.metric_parts import kafka_readings
from clip_pipeline_tests.defs.uploads import picture
from clip_pipeline_tests.serving.kafka.tansu import wait_until
from clip_pipeline_tests.serving.world import free_port


def test_the_backlog_grows_with_what_is_sent_and_is_gone_when_it_was_taken_in(stage):
    here = stage()
    ensure_topics(connection_of(here.settings), [here.settings.kafka_topic_uploads])
    assert uploads_backlog(here.settings) == Backlog(0, None)
    began = time.time()
    for number in range(3):
        here.client.send(f"upload-{number}", picture("red"))
    here.client.flush()
    found = uploads_backlog(here.settings)
    assert found.messages == 3
    assert found.oldest_at is not None
    assert began - 1 <= found.oldest_at <= time.time() + 1
    items, oldest = kafka_readings(here.settings)
    assert (items.metric, items.value, items.labels) == (QUEUE_ITEMS, 3, ("kafka_uploads",))
    assert (oldest.metric, oldest.labels) == (QUEUE_OLDEST_SECONDS, ("kafka_uploads",))
    assert 0 <= oldest.value < 60
    # Looking took nothing away: the service reads all three.
    here.start()
    here.wait_requests(3)
    wait_until(lambda: uploads_backlog(here.settings) == Backlog(0, None), "all of it was taken in")


def test_a_broker_that_is_away_is_an_error(stage):
    here = stage()
    away = here.settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with pytest.raises(KafkaException):
        uploads_backlog(away)
