"""SIGKILL at random moments: what was promised holds afterwards."""

import random
import time

import pytest

from clip_pipeline_tests.e2e.stack import Stack, write_photos

KILLS = 20
IMAGES = 1_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_process_killed_at_any_moment_loses_and_repeats_nothing(stack: Stack):
    rng = random.Random(20_261_121)
    stack.extra = {"CLIP_PIPELINE_BATCH_SIZE": "100"}
    write_photos(stack.watched, IMAGES // 2, seed=1)
    stack.start()
    killed: list[str] = []
    for number in range(KILLS):
        if number == KILLS // 2:
            write_photos(stack.watched, IMAGES // 2, seed=2)
        moment = time.monotonic() + rng.uniform(1.0, 25.0)
        while time.monotonic() < moment:
            time.sleep(0.1)
        killed.append(stack.kill_one(rng))
    stack.wait_ready(timeout_s=300)
    stack.wait_idle(files=IMAGES, timeout_s=1800)
    found = stack.balance()
    assert found.files["indexed"] == IMAGES, killed
    assert found.images["indexed"] == IMAGES
    assert found.holds
    verified = stack.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert stack.get("/api/v1/index/stats")["total_images"] == IMAGES
