"""One home, one service on it, one stand-in for Dagster, for each test."""

import pytest

from clip_pipeline_tests.serving.world import StandInDagster, World, serving


@pytest.fixture
def dagster():
    stand_in = StandInDagster()
    yield stand_in
    stand_in.close()


@pytest.fixture
def world(tmp_path, dagster):
    opened = World(tmp_path / "home", dagster_port=dagster.port)
    yield opened
    opened.close()


@pytest.fixture
def client(world):
    with serving(world) as client:
        yield client
