"""The Dagster jobs: one for each step, so that each can be launched, watched and retried by itself."""

import dagster as dg

INSPECT_JOB = "inspect_images"
EMBED_JOB = "embed_images"
MERGE_JOB = "merge_index"
ANALYZE_JOB = "analyze_images"
EMBED_LABELS_JOB = "embed_labels"
LABEL_IMAGES_JOB = "label_images"

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
analyze_images = dg.define_asset_job(
    ANALYZE_JOB,
    selection=dg.AssetSelection.assets("analysis_results"),
    description="Predict labels for uploaded images until none came for a while.",
)
embed_labels = dg.define_asset_job(
    EMBED_LABELS_JOB,
    selection=dg.AssetSelection.assets("label_embeddings"),
    description="Embed the labels of the label set in use.",
)
label_images = dg.define_asset_job(
    LABEL_IMAGES_JOB,
    selection=dg.AssetSelection.assets("image_labels"),
    description="Score all indexed images against the label set in use, from their stored embeddings.",
)
