"""Code location `control`: manifests, the merged index, its checks, and the sensors that watch and plan.

Never imports torch: a test proves it.
"""

import dagster as dg

from clip_pipeline.defs.assets.labels import image_labels
from clip_pipeline.defs.assets.manifests import image_manifest
from clip_pipeline.defs.assets.merged_index import ledger_balances, merged_index, release_checks
from clip_pipeline.defs.jobs import inspect_images, label_images, merge_index
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.retention import expire_hourly, expire_job
from clip_pipeline.defs.sensors.labels import unlabelled_images
from clip_pipeline.defs.sensors.submissions import submissions
from clip_pipeline.defs.sensors.unmerged_batches import unmerged_batches
from clip_pipeline.defs.sensors.watched_folders import watched_folders

defs = dg.Definitions(
    assets=[image_manifest, merged_index, image_labels],
    asset_checks=[ledger_balances, release_checks],
    jobs=[inspect_images, merge_index, label_images, expire_job],
    sensors=[watched_folders, submissions, unmerged_batches, unlabelled_images],
    schedules=[expire_hourly],
    resources={"pipeline": PipelineResource()},
    executor=dg.in_process_executor,
)
