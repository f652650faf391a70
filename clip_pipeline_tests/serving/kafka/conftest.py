"""Fixtures for the tests with a broker; without the Kafka client, or without the broker, those tests are skipped."""

import pytest


@pytest.fixture
def broker(tmp_path):
    pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")
    from clip_pipeline_tests.serving.kafka.tansu import Broker  # noqa: PLC0415  (an extra)

    broker = Broker(tmp_path / "broker.log")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def stage(tmp_path, broker):
    """A home on a broker; more settings by calling it."""
    from clip_pipeline_tests.serving.kafka.stage import Stage  # noqa: PLC0415  (an extra)

    stages = []

    def make(**settings):
        stages.append(Stage(tmp_path / f"home{len(stages)}", broker, **settings))
        return stages[-1]

    yield make
    for made in stages:
        made.close()
