"""The Dagster jobs: one for each step, so that each can be launched, watched and retried by itself."""

import dagster as dg

INSPECT_JOB = "inspect_images"
EMBED_JOB = "embed_images"
MERGE_JOB = "merge_index"

inspect_images = dg.define_asset_job(
    INSPECT_JOB,
    selection=dg.AssetSelection.assets("image_manifest"),
    description="Hash and check the files of a batch and seal its manifest.",
)
embed_images = dg.define_asset_job(
    EMBED_JOB,
    selection=dg.AssetSelection.assets("image_embeddings"),
    description="Embed the images of a batch's sealed manifest.",
)
merge_index = dg.define_asset_job(
    MERGE_JOB,
    selection=dg.AssetSelection.assets("merged_index"),
    description="Publish an index release that holds all sealed embeddings.",
)
