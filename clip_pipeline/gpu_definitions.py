"""Code location `gpu`: all that needs an encoder. torch is imported inside a run, not by loading this module."""

import dagster as dg

from clip_pipeline.defs.assets.analysis import analysis_results
from clip_pipeline.defs.assets.embeddings import image_embeddings
from clip_pipeline.defs.assets.labels import label_embeddings
from clip_pipeline.defs.jobs import analyze_images, embed_images, embed_labels
from clip_pipeline.defs.logs import log_runs_as_set
from clip_pipeline.defs.resources import EncoderResource, PipelineResource
from clip_pipeline.defs.sensors.analysis_requests import analysis_requests
from clip_pipeline.defs.sensors.labels import label_sets
from clip_pipeline.defs.sensors.sealed_manifests import sealed_manifests

log_runs_as_set()
defs = dg.Definitions(
    assets=[image_embeddings, analysis_results, label_embeddings],
    jobs=[embed_images, analyze_images, embed_labels],
    sensors=[sealed_manifests, analysis_requests, label_sets],
    resources={"pipeline": PipelineResource(), "encoder": EncoderResource()},
    executor=dg.in_process_executor,
)
