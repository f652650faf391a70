"""The whole stack with its ledger in PostgreSQL: it indexes, answers, outlives the server's restart, and verifies."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from clip_pipeline_tests.e2e.stack import Stack, write_photos
from clip_pipeline_tests.postgres import postgres_server


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stack_on_postgresql_indexes_answers_and_outlives_a_restart_of_the_server(
    photos: Mapping[str, Path], stack: Stack
):
    with postgres_server() as server:
        stack.extra = {"CLIP_PIPELINE_LEDGER_URL": server.new_database()}
        for name in ("cat", "coffee", "rocket_launch", "moon"):
            shutil.copy(photos[name], stack.watched)
        stack.start()
        stack.wait_ready(timeout_s=400)
        stack.wait_idle(files=4)
        assert stack.found("a cat", k=1) == ["cat.jpg"]
        assert not (stack.home / "ledger.sqlite3").exists()

        server.restart()
        write_photos(stack.watched, 20, seed=1)
        stack.wait_idle(files=24)
        assert stack.found("a cup of coffee", k=1) == ["coffee.png"]
        verified = stack.run("verify", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert json.loads(stack.run("stats", "--json").stdout)["total_images"] == 24
        stack.stop()
        assert stack.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_home_that_moved_to_postgresql_goes_on_with_what_it_has(photos: Mapping[str, Path], stack: Stack):
    shutil.copy(photos["cat"], stack.watched)
    stack.start()
    stack.wait_ready(timeout_s=400)
    stack.wait_idle(files=1)
    with postgres_server() as server:
        url = server.new_database()
        refused = stack.run("migrate", "--to", url)
        assert (refused.returncode, "stop it with Ctrl-C" in refused.stderr) == (10, True), refused.stderr
        stack.stop()

        moved = stack.run("migrate", "--to", url)
        assert moved.returncode == 0, moved.stderr
        stack.extra = {"CLIP_PIPELINE_LEDGER_URL": url}
        shutil.copy(photos["coffee"], stack.watched)
        stack.start()
        stack.wait_ready(timeout_s=400)
        stack.wait_idle(files=2)
        assert stack.found("a cat", k=1) == ["cat.jpg"]
        # The cat was not embedded again: its batch is the one that was moved.
        assert json.loads(stack.run("status", "--json").stdout)
        verified = stack.run("verify", "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        stack.stop()
