"""A folder of real pictures brought to a published release, every file of the store as production leaves it."""

from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.scan import Walk
from clip_pipeline.ledger.embedding_results import record_embeddings
from clip_pipeline.ledger.manifesting import seal_manifest
from clip_pipeline.ledger.planning import plan_batches
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files
from clip_pipeline_tests.index.sealing import seal_batch


def register_folder(world, folder):
    """Register what a scan of the folder finds; returns the job id."""
    seen = [FileFacts(f.path, f.size_bytes, f.mtime_ns) for f in Walk(folder).files()]
    return register_files(world.ledger, seen, submission=Submission("watch")).job_id


def embed_planned(world, *, run_id="run"):
    """Plan what is registered, inspect it, and seal a vector for each image: one that its name gives."""
    for batch in plan_batches(world.ledger, batch_size=1000, most=1000):
        sealed = seal_manifest(world.ledger, world.store, batch, limits=ImageLimits(), workers=1, run_id=run_id)
        rows = sealed.manifest.rows
        ids = [row.image_id for row in rows]
        vectors = world.encoder.encode_texts(
            [f"a {row.path.rpartition('/')[2].partition('.')[0]} thing" for row in rows]
        )
        digest = seal_batch(world.store, world.spec, batch.number, ids, vectors)
        record_embeddings(
            world.ledger, batch, embedded=ids, quarantined=[], manifest_digest=sealed.manifest.digest,
            embeddings_digest=digest, run_id=run_id,
        )  # fmt: skip


def index_folder(world, folder, *, run_id="run"):
    """Bring a folder to its end; returns its text form."""
    world.pin()
    register_folder(world, folder)
    embed_planned(world, run_id=run_id)
    world.publish()
    return path_to_text(folder)
