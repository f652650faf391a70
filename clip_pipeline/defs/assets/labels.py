"""Assets `label_embeddings` (made where the encoder is) and `image_labels` (made where no encoder is needed)."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import numpy as np

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.image_labels import ImageLabelsSeal, ScoredChunk, seal_image_labels
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.label_vectors import read_label_vectors, write_label_vectors
from clip_pipeline.core.release import IdArray
from clip_pipeline.core.store import Store
from clip_pipeline.defs.assets.merged_index import required_encoder
from clip_pipeline.defs.label_metadata import label_bars
from clip_pipeline.defs.metadata import png_image, table
from clip_pipeline.defs.resources import EncoderResource, PipelineResource
from clip_pipeline.index.source import SealedSource
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.label_sets import current_label_set
from clip_pipeline.ledger.publishing import live_vectors, recorded_release

SHOWN_LABELS = 30


@dg.asset(group_name="analysis", kinds={"pytorch", "numpy"}, owners=["team:clip-pipeline"], pool="labels")
def label_embeddings(pipeline: PipelineResource, encoder: EncoderResource) -> dg.MaterializeResult[Any]:
    """The vectors of the label set in use, float32 [c, d], one file for each encoder and label set."""
    from clip_pipeline.embedding.zero_shot import embed_labels  # noqa: PLC0415  (torch)

    labels = current_label_set(pipeline.ledger())
    loaded = encoder.load(pipeline.settings())
    seal = write_label_vectors(
        pipeline.store(),
        loaded.spec,
        label_set=labels,
        vectors=embed_labels(loaded, labels),
        logit_scale=loaded.logit_scale,
    )
    return dg.MaterializeResult(
        metadata={
            "label_set": labels.name,
            "version": labels.version,
            "labels": seal.count,
            "templates": table([{"template": template} for template in labels.templates]),
            "encoder": loaded.spec.name,
            "logit_scale": round(seal.logit_scale, 3),
        },
        data_version=dg.DataVersion(f"{loaded.spec.fingerprint[:12]}/{labels.digest[:16]}"),
    )


@dg.asset(
    deps=[dg.AssetDep("label_embeddings"), dg.AssetDep("merged_index")],
    group_name="analysis",
    kinds={"numpy"},
    owners=["team:clip-pipeline"],
    pool="labels",
)
def image_labels(pipeline: PipelineResource) -> dg.MaterializeResult[Any]:
    """The best labels of every indexed image, from its stored embedding: no image is read, no encoder is loaded."""
    labels = current_label_set(pipeline.ledger())
    seal = label_collection(pipeline.ledger(), pipeline.store(), labels)
    firsts = sorted(seal.firsts.items(), key=lambda item: -item[1])[:SHOWN_LABELS]
    return dg.MaterializeResult(
        metadata={
            "images": seal.images,
            "label_set": labels.name,
            "version": labels.version,
            "labels_that_come_first": len(seal.firsts),
            "release": seal.release,
            "most_frequent": table([{"label": label, "images": count} for label, count in firsts]),
            "chart": png_image(label_bars(firsts), alt="images by their best label"),
        },
        data_version=dg.DataVersion(f"{seal.digest[:16]}/{seal.release}"),
    )


def label_collection(ledger: Ledger, store: Store, labels: LabelSet) -> ImageLabelsSeal:
    """Score what the recorded release shows against a label set and publish it for search and pages."""
    spec = required_encoder(store)
    # Read before the images are: what is published meanwhile leaves the labels behind, and they are made again.
    release = recorded_release(ledger, spec.key) or 0
    ids, batches = live_vectors(ledger)
    return seal_image_labels(
        store,
        spec.key,
        label_set=labels,
        label_vectors=read_label_vectors(store, spec, digest=labels.digest),
        release=release,
        images=len(ids),
        chunks=sealed_vectors(store, spec, ids=ids, batches=batches),
    )


def sealed_vectors(store: Store, spec: EncoderSpec, *, ids: IdArray, batches: IdArray) -> Iterator[ScoredChunk]:
    """The stored vectors of images, batch by batch. ids, batches: int64 [n], ids ascending."""
    source = SealedSource(store, spec)
    for number in np.unique(batches).tolist():
        batch = BatchKey(number)
        digest = source.digests([batch]).get(batch, "")
        for block in source.blocks(batch, digest, wanted=ids[batches == number]):
            yield block.ids, block.vectors
