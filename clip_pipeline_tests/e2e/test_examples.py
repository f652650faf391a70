"""Every script under docs/examples, as a reader would run it, against a real stack."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clip_pipeline_tests.e2e.stack import Stack

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(*command: str | Path, status: int = 0) -> str:
    path = os.pathsep.join([str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=400)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_examples_do_what_they_say(stack: Stack, photos: dict[str, Path], tmp_path: Path):
    for name, chosen in (("first", "cat"), ("second", "rocket_launch")):
        (tmp_path / name).mkdir()
        shutil.copy(photos[chosen], tmp_path / name / f"{chosen}.jpg")
    stack.extra = {"CLIP_PIPELINE_ROOTS": str(tmp_path)}
    stack.start()
    stack.wait_ready()

    told = run(sys.executable, EXAMPLES / "submit_and_search.py", tmp_path / "first", "a cat", stack.url)
    assert "completed: 100.0 %" in told
    assert told.splitlines()[-1].endswith("cat.jpg")
    job_id = told.split()[0]

    told = run(EXAMPLES / "submit_and_search.sh", tmp_path / "second", "a rocket launch", stack.url)
    assert '"path": "' + str(tmp_path / "second" / "rocket_launch.jpg") in told

    dagster = stack.graphql_url.removesuffix("/graphql")
    told = run(sys.executable, EXAMPLES / "graphql_follow_job.py", job_id, dagster)
    assert "image_embeddings b0000001: images 1, quarantined 0" in told
    assert re.search(r"^merge_index \S+ SUCCESS$", told, re.MULTILINE)

    told = run(sys.executable, EXAMPLES / "graphql_backfill.py", job_id, "b0000001", dagster)
    assert told.splitlines()[-1] == "embed_images SUCCESS"

    cat, labels = photos["cat"], "a cat,a rocket launch,a cup of coffee"
    for command in (
        (sys.executable, EXAMPLES / "analyze_image.py"),
        (sys.executable, EXAMPLES / "analyze_image_push.py"),
    ):
        told = run(*command, cat, labels, stack.url).splitlines()
        assert re.match(r"[0-9a-f-]{36} (submitted|processing|completed)$", told[0])
        assert told[-3].split(maxsplit=1)[1] == "a cat"
    result = json.loads(run(EXAMPLES / "analyze_image.sh", cat, labels, stack.url))
    assert (result["status"], result["filename"]) == ("completed", cat.name)
    assert result["predictions"][0]["label"] == "a cat"
    assert sum(one["confidence"] for one in result["predictions"]) == pytest.approx(1, abs=1e-3)

    half = tmp_path / "half.jpg"
    half.write_bytes(cat.read_bytes()[:9000])
    for name in ("analyze_image.py", "analyze_image_push.py"):
        assert "failed" in run(sys.executable, EXAMPLES / name, half, "", stack.url, status=1)
    assert run(EXAMPLES / "analyze_image.sh", half, "", stack.url, status=1) == ""
