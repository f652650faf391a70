"""Real image files brought into a world's index by the real steps; only Dagster does not run them."""

import hashlib

import numpy as np

from clip_pipeline.core.image_header import pillow_without_limits
from clip_pipeline.core.inspection import Inspected, inspect_file
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.embedding.decode import load_pixels
from clip_pipeline.ledger.inspection_results import files_of_batch, record_inspection, record_manifest
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files
from clip_pipeline_tests.index.sealing import seal_batch
from clip_pipeline_tests.ledger import steps


def index_photos(world, paths, *, run_id="run-1"):
    """Register, inspect, embed and publish these files; returns the job id. What cannot be read ends as failed."""
    world.pin()
    facts = [FileFacts(path_to_text(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    registration = register_files(world.ledger, facts, submission=Submission("api", 0))
    for batch in steps.plan(world.ledger):
        _embed(world, batch, _inspect(world, batch, run_id=run_id))
    world.publish()
    return registration.job_id


def _inspect(world, batch, *, run_id):
    limits = world.settings.image_limits
    results = {file.file_id: inspect_file(file.path, limits) for file in files_of_batch(world.ledger, batch)}
    _, rows = record_inspection(world.ledger, batch, results)
    assert any(isinstance(result, Inspected) for result in results.values())
    digest = hashlib.sha256(repr([row.sha256 for row in rows]).encode()).hexdigest()
    record_manifest(world.ledger, batch, digest=digest, rows=len(rows), run_id=run_id)
    return rows


def _embed(world, batch, rows):
    preprocessing = world.spec.preprocessing
    pixels = np.zeros((len(rows), 3, preprocessing.height, preprocessing.width), np.uint8)
    with pillow_without_limits():
        for row, out in zip(rows, pixels, strict=True):
            fault = load_pixels(
                row.path, out, sha256=row.sha256, preprocessing=preprocessing, limits=world.settings.image_limits
            )
            assert fault is None, fault
    vectors = world.encoder.encode_images(pixels)
    seal_batch(world.store, world.spec, batch.number, [row.image_id for row in rows], vectors)
    steps.embed(world.ledger, batch, rows)
