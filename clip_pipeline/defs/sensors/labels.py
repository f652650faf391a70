"""The label set in use: embedded when it is new, then every indexed image is scored against it, again after a merge."""

import time

import dagster as dg

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.image_labels import read_image_labels_seal
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.label_vectors import read_label_vectors
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.defs.jobs import EMBED_LABELS_JOB, LABEL_IMAGES_JOB
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.requests import as_sensor_result, request_work
from clip_pipeline.defs.work import Work, has_unfinished_run
from clip_pipeline.ledger.label_sets import current_label_set
from clip_pipeline.ledger.publishing import recorded_release

PAUSE_PER_RUN = 10.0
"""Scoring all images again takes so many times less than the pause before it: at most a tenth of the time is spent."""


@dg.sensor(
    job_name=EMBED_LABELS_JOB,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests label_embeddings when the label set in use has no vectors under the store's encoder.",
)
def label_sets(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Request the vectors of the label set in use, once the store has an encoder and a release."""
    spec, labels = _what_to_label(pipeline)
    if spec is None or labels is None:
        return dg.SensorResult(skip_reason="nothing is indexed yet")
    if has_vectors(pipeline.store(), spec, labels):
        return dg.SensorResult(skip_reason=f"{labels.name} version {labels.version} is embedded")
    work = Work(f"embed-labels:{spec.fingerprint[:12]}:{labels.digest[:16]}", None, 1, ())
    return as_sensor_result(request_work(context.instance, [work], give_up=_nothing), noun="label sets to embed")


@dg.sensor(
    job_name=LABEL_IMAGES_JOB,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests image_labels when the label set in use, or the release, is newer than the labels.",
)
def unlabelled_images(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """One scoring at a time; at once for another label set, after a pause for another release."""
    store = pipeline.store()
    spec, labels = _what_to_label(pipeline)
    if spec is None or labels is None or not has_vectors(store, spec, labels):
        return dg.SensorResult(skip_reason="no label set is embedded yet")
    release, labelled = recorded_release(pipeline.ledger(), spec.key), labelled_release(store, spec, labels)
    if release == labelled:
        return dg.SensorResult(skip_reason=f"the images of release {release} are labelled")
    if has_unfinished_run(context.instance, LABEL_IMAGES_JOB):
        return dg.SensorResult(skip_reason="images are being labelled")
    pause_s = 0.0 if labelled is None else _pause_s(context.instance)
    if pause_s > 0:
        return dg.SensorResult(skip_reason=f"release {release} is labelled in {pause_s:.0f} s")
    work = Work(f"label:{spec.fingerprint[:12]}:{labels.digest[:16]}:{release}", None, 0, ())
    return as_sensor_result(request_work(context.instance, [work], give_up=_nothing), noun="releases to label")


def has_vectors(store: Store, spec: EncoderSpec, labels: LabelSet) -> bool:
    """Whether the label set's vectors can be used; damaged ones are made again."""
    try:
        read_label_vectors(store, spec, digest=labels.digest)
    except ClipPipelineError:
        return False
    return True


def labelled_release(store: Store, spec: EncoderSpec, labels: LabelSet) -> int | None:
    """The release whose images carry this label set's labels, None where none does."""
    try:
        return read_image_labels_seal(store, spec.key, digest=labels.digest).release
    except ClipPipelineError:
        return None


def _what_to_label(pipeline: PipelineResource) -> tuple[EncoderSpec | None, LabelSet | None]:
    ledger = pipeline.ledger()
    spec = pinned_encoder(pipeline.store())
    if spec is None or recorded_release(ledger, spec.key) is None:
        return spec, None
    return spec, current_label_set(ledger)


def _pause_s(instance: dg.DagsterInstance) -> float:
    """Seconds until the images may be scored again, by how long the last scoring took."""
    records = instance.get_run_records(dg.RunsFilter(job_name=LABEL_IMAGES_JOB), limit=1)
    if not records or records[0].start_time is None or records[0].end_time is None:
        return 0.0
    took_s = records[0].end_time - records[0].start_time
    return max(0.0, records[0].end_time + PAUSE_PER_RUN * took_s - time.time())


def _nothing(_work: Work, _why: str) -> None:
    """Labels are an addition: what was given up stays visible as failed runs, and nobody's job waits for it."""
