"""Code location `control`: manifests, the merged index, its checks, the sensors that watch and plan, maintenance.

Never imports torch: a test proves it.
"""

import dagster as dg

from clip_pipeline.defs.assets.labels import image_labels
from clip_pipeline.defs.assets.manifests import image_manifest
from clip_pipeline.defs.assets.merged_index import ledger_balances, merged_index, release_checks
from clip_pipeline.defs.jobs import inspect_images, label_images, merge_index
from clip_pipeline.defs.logs import log_runs_as_set
from clip_pipeline.defs.maintenance.jobs import MAINTENANCE_JOBS, MAINTENANCE_SCHEDULES
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.retention import expire_hourly, expire_job
from clip_pipeline.defs.sensors.labels import unlabelled_images
from clip_pipeline.defs.sensors.run_failures import run_failures
from clip_pipeline.defs.sensors.submissions import submissions
from clip_pipeline.defs.sensors.unmerged_batches import unmerged_batches
from clip_pipeline.defs.sensors.watched_folders import watched_folders

log_runs_as_set()
defs = dg.Definitions(
    assets=[image_manifest, merged_index, image_labels],
    asset_checks=[ledger_balances, release_checks],
    jobs=[inspect_images, merge_index, label_images, expire_job, *MAINTENANCE_JOBS],
    sensors=[watched_folders, submissions, unmerged_batches, unlabelled_images, run_failures],
    schedules=[expire_hourly, *MAINTENANCE_SCHEDULES],
    resources={"pipeline": PipelineResource()},
    executor=dg.in_process_executor,
)
