"""The stages of an image's way add up to the whole."""

import pytest

from benchmarks.latency import stage_seconds
from clip_pipeline.serving.orchestrator import RunInfo


def test_stages_follow_each_other_and_add_up():
    runs = [
        RunInfo("1", "SUCCESS", "__ASSET_JOB", "manifest:b0000001", 105, 107, 110),
        RunInfo("2", "SUCCESS", "__ASSET_JOB", "embed:b0000001", 112, 113, 120),
    ]
    stages = stage_seconds(100, 101, runs, found=121.5)
    assert stages["watched folder notices"] == 1
    assert (stages["manifest: sensor asks"], stages["manifest: process starts"], stages["manifest: run"]) == (4, 2, 3)
    assert stages["embed: run"] == 7
    assert sum(stages.values()) == pytest.approx(21.5)
