"""The assets through real runs: from files in a folder to a release that finds them."""

import os
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
from PIL import Image

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs import attempts
from clip_pipeline.defs.assets import embeddings, merged_index
from clip_pipeline.defs.sensors.sealed_manifests import sealed_manifests
from clip_pipeline.defs.sensors.submissions import submissions
from clip_pipeline.defs.sensors.unmerged_batches import unmerged_batches
from clip_pipeline.defs.sensors.watched_folders import watched_folders
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.jobs import open_jobs, recent_jobs
from clip_pipeline.ledger.lookup import failed_files, images_by_id
from clip_pipeline.ledger.registration import Submission, register_files
from clip_pipeline.ledger.scanning import FileFacts
from clip_pipeline_tests.defs.pipeline import Pipeline
from clip_pipeline_tests.fakes import HashEncoder


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        seed = sum(name.encode())
        noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 48)).save(folder / name)
        os.utime(folder / name, (1, 1))


def shown(pipeline: Pipeline) -> set[str]:
    reader = pipeline.reader()
    hits = images_by_id(pipeline.ledger, reader.live_ids().tolist())
    reader.close()
    return {Path(hit.path).name for hit in hits.values()}


def test_a_folder_becomes_a_verified_release(pipeline: Pipeline):
    write_images(pipeline.folder, "a.png", "b.jpg", "c.webp")
    shutil.copy(pipeline.folder / "a.png", pipeline.folder / "z_copy.png")
    (pipeline.folder / "broken.jpg").write_bytes(b"not an image")
    os.utime(pipeline.folder / "broken.jpg", (1, 1))
    os.utime(pipeline.folder / "z_copy.png", (1, 1))
    pipeline.settle()
    found = balance(pipeline.ledger)
    assert (found.files["indexed"], found.files["duplicate"], found.files["failed"]) == (3, 1, 1)
    assert found.holds
    assert shown(pipeline) == {"a.png", "b.jpg", "c.webp"}
    assert failed_files(pipeline.ledger)[0].reason.startswith("not-an-image")
    assert open_jobs(pipeline.ledger) == []
    assert recent_jobs(pipeline.ledger)[0].failed == 1


def test_runs_report_numbers_tables_and_pictures(pipeline: Pipeline):
    write_images(pipeline.folder, *[f"{i}.png" for i in range(5)])
    pipeline.settle()
    manifest, embeddings, index = (
        pipeline.metadata(name) for name in ("image_manifest", "image_embeddings", "merged_index")
    )
    assert (manifest["images"], manifest["failed"]) == (5, 0)
    assert embeddings["images"] == 5
    assert str(embeddings["contact_sheet"]).startswith("![first images of b0000001](data:image/png;base64,")
    assert (index["images"], index["recall_at_10"]) == (5, 1.0)


def test_runs_carry_the_tags_of_the_jobs_they_serve(pipeline: Pipeline):
    write_images(pipeline.folder, "a.png")
    pipeline.settle()
    job = recent_jobs(pipeline.ledger)[0].job_id
    runs = pipeline.instance.get_runs(dg.RunsFilter(tags={f"clip/job/{job}": "1"}))
    assert sorted(run.job_name for run in runs) == ["embed_images", "inspect_images", "merge_index"]
    assert all(run.is_success for run in runs)


def test_added_changed_and_deleted_files_are_found_found_anew_and_gone(pipeline: Pipeline):
    write_images(pipeline.folder, "keep.png", "change.png", "delete.png")
    pipeline.settle()
    before = images_by_id(pipeline.ledger, [1, 2, 3])
    (pipeline.folder / "delete.png").unlink()
    Image.new("RGB", (50, 50), "red").save(pipeline.folder / "change.png")
    os.utime(pipeline.folder / "change.png", (2, 2))
    write_images(pipeline.folder, "added.png")
    pipeline.settle()
    assert shown(pipeline) == {"keep.png", "change.png", "added.png"}
    changed = next(i for i, hit in before.items() if hit.path.endswith("change.png"))
    assert changed not in pipeline.reader().live_ids()
    assert balance(pipeline.ledger).holds


def test_adding_a_batch_leaves_the_segments_of_the_parent_as_they_are(pipeline: Pipeline):
    write_images(pipeline.folder, "a.png")
    pipeline.settle()
    store, key = pipeline.settings.store, pipeline.reader().release
    first = {p.name: p.stat().st_ino for p in store.releases_dir(HashEncoder().spec.key).glob("0000001/segment-*")}
    write_images(pipeline.folder, "b.png")
    pipeline.settle()
    second = {p.name: p.stat().st_ino for p in store.releases_dir(HashEncoder().spec.key).glob("0000002/segment-*")}
    assert first.items() <= second.items()
    assert len(second) == 2
    assert key.number == 1


def test_nothing_new_means_no_run(pipeline: Pipeline):
    write_images(pipeline.folder, "a.png")
    pipeline.settle()
    runs = pipeline.instance.get_runs_count()
    pipeline.settle()
    assert pipeline.instance.get_runs_count() == runs
    result = pipeline.tick(watched_folders)
    assert "1 unchanged" in str(result.skip_reason)


def test_a_failed_run_is_requested_again_after_a_pause_and_given_up_with_its_error(pipeline: Pipeline, monkeypatch):
    write_images(pipeline.folder, "a.png")
    pipeline.tick(watched_folders)
    pipeline.tick_and_run(submissions, "inspect_images")

    def broken(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(embeddings, "_embed", broken)
    (first,) = pipeline.tick_and_run(sealed_manifests, "embed_images")
    assert not first.success
    assert "1 paused" in str(pipeline.tick(sealed_manifests).skip_reason)
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", -1.0)
    for _ in range(attempts.MAX_ATTEMPTS - 1):
        assert len(pipeline.tick_and_run(sealed_manifests, "embed_images")) == 1
    assert "1 given up" in str(pipeline.tick(sealed_manifests).skip_reason)
    (job,) = open_jobs(pipeline.ledger)
    assert "No space left on device" in str(job.error)


def test_embedding_a_batch_again_by_hand_heals_it(pipeline: Pipeline):
    write_images(pipeline.folder, "a.png", "b.png")
    pipeline.settle()
    reader = pipeline.reader()
    folder = pipeline.settings.store.embeddings_dir(HashEncoder().spec.key, BatchKey(1))
    before = (folder / "seal.json").read_text()
    (folder / "vectors.npy").write_bytes(b"rotten")
    request = dg.RunRequest(partition_key="b0000001")
    assert pipeline.run("embed_images", request).success
    assert _without_run_id((folder / "seal.json").read_text()) == _without_run_id(before)
    assert pipeline.run("merge_index", dg.RunRequest()).success
    assert pipeline.reader().live_ids().tolist() == reader.live_ids().tolist()


def test_many_batches_in_one_run_are_each_materialized(pipeline: Pipeline, monkeypatch):
    monkeypatch.setenv("CLIP_PIPELINE_BATCH_SIZE", "2")
    write_images(pipeline.folder, *[f"{i}.png" for i in range(6)])
    pipeline.settle()
    job = pipeline.definitions().resolve_job_def("embed_images")
    tags = {"dagster/asset_partition_range_start": "b0000001", "dagster/asset_partition_range_end": "b0000003"}
    done = job.execute_in_process(instance=pipeline.instance, tags=tags)
    assert done.success
    partitions = [m.partition for m in done.asset_materializations_for_node("image_embeddings")]
    assert partitions == ["b0000001", "b0000002", "b0000003"]


def test_a_merge_whose_run_died_before_it_could_tell_is_recorded_by_the_next(pipeline: Pipeline, monkeypatch):
    write_images(pipeline.folder, "a.png")
    pipeline.tick(watched_folders)
    pipeline.tick_and_run(submissions, "inspect_images")
    pipeline.tick_and_run(sealed_manifests, "embed_images")

    def dies(*_args, **_kwargs):
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(merged_index, "record_release", dies)
        (died,) = pipeline.tick_and_run(unmerged_batches, "merge_index")
        assert not died.success
    assert balance(pipeline.ledger).images["embedded"] == 1
    assert pipeline.run("merge_index", dg.RunRequest()).success
    assert balance(pipeline.ledger).images["indexed"] == 1
    assert pipeline.reader().release.number == 1


def test_a_vanished_file_ends_as_failed_and_the_rest_goes_on(pipeline: Pipeline):
    write_images(pipeline.folder, "stays.png", "vanishes.png")
    pipeline.tick(watched_folders)
    pipeline.tick_and_run(submissions, "inspect_images")
    (pipeline.folder / "vanishes.png").unlink()
    pipeline.tick_and_run(sealed_manifests, "embed_images")
    pipeline.tick_and_run(unmerged_batches, "merge_index")
    assert shown(pipeline) == {"stays.png"}
    assert [f.reason.split(":")[0] for f in failed_files(pipeline.ledger)] == ["missing"]


def test_a_registered_path_that_never_existed_fails_with_its_reason(pipeline: Pipeline):
    register_files(pipeline.ledger, [FileFacts("/nowhere/x.jpg", -1, 0)], submission=Submission("api"))
    pipeline.settle()
    assert [f.reason.split(":")[0] for f in failed_files(pipeline.ledger)] == ["missing"]


def _without_run_id(seal: str) -> str:
    return "\n".join(line for line in seal.splitlines() if "run_id" not in line)
