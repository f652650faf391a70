"""A real stack that compacts, is backed up while it works, and lives on in a restored home."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.compaction import all_retired
from clip_pipeline.ledger.planning import batch_keys
from clip_pipeline.ledger.schema import batches
from clip_pipeline_tests.e2e.stack import Stack, write_photos
from clip_pipeline_tests.e2e.test_watched_folder import BACKFILL

LAUNCH = """
mutation Launch($job: String!) {
  launchRun(executionParams: {
    selector: {repositoryName: "__repository__", repositoryLocationName: "control", jobName: $job}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
STATUS = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
PARTITIONS = """
{assetNodes(assetKeys: [{path: ["image_embeddings"]}], loadMaterializations: false) { partitionKeys }}
"""
QUERIES = ("a photograph", "something red", "water", "a green field")


def launch(stack: Stack, job: str) -> None:
    """Run a job of the control location to its successful end."""
    launched = stack.graphql(LAUNCH, job=job)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]

    def ended() -> bool:
        status = stack.graphql(STATUS, run=run_id)["runOrError"]["status"]
        assert status not in {"FAILURE", "CANCELED"}, status
        return status == "SUCCESS"

    stack.wait(ended, f"{job} succeeds", 600)


def hits(stack: Stack) -> list[list[str]]:
    return [stack.found(query, k=50) for query in QUERIES]


def partitions(stack: Stack) -> set[str]:
    (node,) = stack.graphql(PARTITIONS)["assetNodes"]
    return set(node["partitionKeys"])


def live(stack: Stack) -> set[str]:
    return {str(key) for key in batch_keys(stack.ledger)}


def embed_anew(stack: Stack, key: str) -> None:
    """Backfill one batch and wait for the release that holds it."""

    def run_id() -> str | None:
        with stack.ledger.read() as connection:
            number = BatchKey.parse(key).number
            return connection.execute(select(batches.c.run_id).where(batches.c.number == number)).scalar()

    before = run_id()
    launched = stack.graphql(BACKFILL, keys=[key])["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    stack.wait(lambda: run_id() != before, f"a run embeds {key} anew", 600)
    stack.wait(lambda: stack.run("verify").returncode == 0, "what it made is whole, and merged where it differs", 600)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_stack_is_compacted_and_backed_up_while_it_works_and_restored(stack: Stack, tmp_path: Path):
    stack.extra = {"CLIP_PIPELINE_BATCH_SIZE": "2"}
    write_photos(stack.watched, 6, seed=1)
    stack.start()
    stack.wait_ready(timeout_s=600)
    stack.wait_idle(files=6, timeout_s=1200)
    assert len(batch_keys(stack.ledger)) == 3
    before = hits(stack)
    stack.stop()

    stack.extra = {"CLIP_PIPELINE_BATCH_SIZE": "10", "CLIP_PIPELINE_MAINTENANCE_AFTER_HOURS": "0"}
    stack.start()
    stack.wait_ready(timeout_s=600)
    assert hits(stack) == before
    launch(stack, "compact_batches")
    assert len(all_retired(stack.ledger)) == 3
    stack.wait(lambda: partitions(stack) == live(stack), "the partitions are those of the ledger", 300)
    assert stack.run("verify").returncode == 0
    stack.wait(stack.is_idle, "the merge of the compacted batch", 600)
    assert hits(stack) == before
    assert stack.run("verify").returncode == 0

    write_photos(stack.watched, 10, seed=2)
    folder = tmp_path / "backups"
    while not stack.is_idle() or len(live(stack)) < 2:
        made = stack.run("backup", str(folder), "--json")
        assert made.returncode == 0, made.stderr
        maintained = stack.run("maintain", "all", "--json")
        assert maintained.returncode == 0, maintained.stderr
    stack.wait_idle(files=16, timeout_s=1200)
    for job in ("compact_index", "sweep_orphans", "tend_ledger"):
        launch(stack, job)
    assert stack.run("verify").returncode == 0
    after = hits(stack)
    last = stack.run("backup", str(folder), "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["copied_files"] < json.loads(last.stdout)["files"]

    embed_anew(stack, min(live(stack)))
    assert hits(stack) == after
    stack.stop()

    other = Stack(tmp_path / "restored", stack.watched, extra={"CLIP_PIPELINE_BATCH_SIZE": "10"})
    restored = other.run("restore", str(folder), "--json", timeout_s=600)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert json.loads(restored.stdout)["ok"] is True
    try:
        other.start()
        other.wait_ready(timeout_s=600)
        assert hits(other) == after
        other.wait(lambda: partitions(other) == live(other), "the partitions of the restored batches are back", 300)
        write_photos(other.watched, 2, seed=3)
        other.wait_idle(files=18, timeout_s=1200)
        assert other.run("verify").returncode == 0
        launch(other, "compact_batches")
        embed_anew(other, min(live(other)))
        assert other.run("verify").returncode == 0
    finally:
        other.stop()
