"""Code location `gpu`: the embedding of batches. torch is imported inside a run, not by loading this module."""

import dagster as dg

from clip_pipeline.defs.assets.embeddings import image_embeddings
from clip_pipeline.defs.jobs import embed_images
from clip_pipeline.defs.resources import EncoderResource, PipelineResource
from clip_pipeline.defs.sensors.sealed_manifests import sealed_manifests

defs = dg.Definitions(
    assets=[image_embeddings],
    jobs=[embed_images],
    sensors=[sealed_manifests],
    resources={"pipeline": PipelineResource(), "encoder": EncoderResource()},
    executor=dg.in_process_executor,
)
