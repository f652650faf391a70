"""A running stack: files that appear, change and vanish; a backfill by GraphQL; commands beside it."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clip_pipeline_tests.e2e.stack import Stack, write_photos
from clip_pipeline_tests.poison import write_poison

BACKFILL = """
mutation Backfill($keys: [String!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {partitionSetName: "embed_images_partition_set",
               repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "gpu"}},
    partitionNames: $keys
  }) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}
"""

JOB_RUNS = """
query JobRuns($key: String!) {
  runsOrError(filter: {tags: [{key: $key, value: "1"}]}) {
    ... on Runs { results { runId status jobName } }
  }
}
"""


@pytest.mark.timeout(900)
def test_a_watched_folder_is_kept_indexed_without_any_command(stack: Stack, photos: dict[str, Path]):
    shutil.copy(photos["cat"], stack.watched / "cat.jpg")
    shutil.copy(photos["coffee"], stack.watched / "mug.png")
    poisoned = write_poison(stack.watched / "poison", 12)
    stack.start()
    stack.wait_ready()
    stack.wait_idle(files=2 + len(poisoned))
    assert stack.found("a cat")[0] == "cat.jpg"
    assert stack.balance().files["failed"] == len(poisoned)

    shutil.copy(photos["rocket_launch"], stack.watched / "new.jpg")
    stack.wait(lambda: stack.found("a rocket launch")[:1] == ["new.jpg"], "the added file is found", 180)

    Image.open(photos["motorcycle_left"]).save(stack.watched / "cat.jpg")
    stack.wait(lambda: stack.found("a motorcycle")[:1] == ["cat.jpg"], "the changed file is found anew", 180)

    (stack.watched / "mug.png").unlink()
    stack.wait(lambda: "mug.png" not in stack.found("a cup of coffee"), "the deleted file is gone", 180)
    stack.wait(stack.is_idle, "the merge that forgets it", 180)
    assert stack.balance().holds

    job = json.loads(stack.run("status", "--json").stdout)["recent_jobs"][-1]["job_id"]
    runs = stack.graphql(JOB_RUNS, key=f"clip/job/{job}")["runsOrError"]["results"]
    assert {run["jobName"] for run in runs} >= {"inspect_images", "embed_images"}
    assert {run["status"] for run in runs} == {"SUCCESS"}

    seal = next(stack.home.glob("store/embeddings/*/b0000001/seal.json"))
    shutil.rmtree(seal.parent)
    assert stack.run("verify").returncode != 0
    launched = stack.graphql(BACKFILL, keys=["b0000001"])["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    stack.wait(seal.is_file, "the backfill has embedded the batch again", 240)
    stack.wait(stack.is_idle, "nothing is outstanding", 120)
    stack.wait(lambda: stack.run("verify").returncode == 0, "verify finds no fault", 120)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_poison_files_cost_nobody_else_anything(stack: Stack):
    write_photos(stack.watched / "good", 500)
    poisoned = write_poison(stack.watched / "poison", 100)
    stack.start()
    stack.wait_ready()
    stack.wait_idle(files=600, timeout_s=900)
    found = stack.balance()
    assert (found.files["indexed"], found.files["failed"]) == (500, len(poisoned))
    assert found.holds
    listed = json.loads(stack.run("failed", "--json").stdout)
    assert len(listed["failed"] if isinstance(listed, dict) else listed) == len(poisoned)
    failures = stack.graphql("{runsOrError(filter: {statuses: [FAILURE]}) {... on Runs {results {runId}}}}")
    assert failures["runsOrError"]["results"] == []
    assert stack.run("verify").returncode == 0
