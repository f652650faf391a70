"""Asset `analysis_results`: the predictions for uploaded images, made by a run that stays while requests come."""

import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import numpy as np

from clip_pipeline.core.encoder import Encoder
from clip_pipeline.defs.lane.answers import ImageAnswers
from clip_pipeline.defs.lane.labels import LaneLabels
from clip_pipeline.defs.lane.loop import Pace, run_lane
from clip_pipeline.defs.lane.tally import Tally
from clip_pipeline.defs.lane.vectors import UploadVectors
from clip_pipeline.defs.resources import EncoderResource, PipelineResource

KEY = dg.AssetKey("analysis_results")
OBSERVE_EVERY_S = 30.0
"""The log of a run that stays for days must not outgrow everything else in Dagster's database."""


@dg.asset(
    key=KEY,
    group_name="analysis",
    kinds={"pytorch"},
    owners=["team:clip-pipeline"],
    pool="analysis",
)
def analysis_results(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, encoder: EncoderResource
) -> dg.MaterializeResult[Any]:
    """Zero-shot predictions for every waiting upload; the run ends when none came for a while."""
    from clip_pipeline.embedding.analyzer import Analyzer  # noqa: PLC0415  (torch)
    from clip_pipeline.embedding.zero_shot import LabelEmbedder  # noqa: PLC0415  (torch)

    settings, ledger = pipeline.settings(), pipeline.ledger()
    loaded = encoder.load(settings)
    with Analyzer(
        loaded,
        limits=settings.upload_limits,
        forward_batch=settings.analysis_batch,
        decode_workers=settings.decode_workers,
    ) as analyzer:
        load_towers(loaded)
        answers = ImageAnswers(
            ledger,
            UploadVectors(ledger, pipeline.store(), analyzer, spec=loaded.spec),
            spec=loaded.spec,
            logit_scale=loaded.logit_scale,
            embed_labels=LaneLabels(
                pipeline.store(), loaded.spec, LabelEmbedder(loaded), logit_scale=loaded.logit_scale
            ).embed,
        )
        tally = run_lane(
            ledger,
            answers,
            owner=context.run.run_id,
            pace=Pace(most=settings.analysis_batch, idle_s=settings.analysis_idle_s),
            observe=observe_tally(context),
        )
    return dg.MaterializeResult(metadata=tally.describe() | {"encoder": loaded.spec.name})


def load_towers(encoder: Encoder) -> None:
    """Have the encoder's towers loaded: while the decode workers' imports go on, not when they wait for it."""
    wanted = encoder.spec.preprocessing
    encoder.encode_images(np.zeros((1, 3, wanted.height, wanted.width), np.uint8))
    encoder.encode_texts(["a photo"])


def observe_tally(context: dg.AssetExecutionContext) -> Callable[[Tally], None]:
    """A callback that logs an observation of the asset: the first time, then now and then."""
    next_s = 0.0

    def observe(tally: Tally) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + OBSERVE_EVERY_S
            context.log_event(dg.AssetObservation(KEY, metadata=dict(tally.describe())))

    return observe
