"""The analysis lane beside a service under test: the real loop with the encoder of the test's world."""

import atexit
import contextlib
import functools
import threading
import uuid

from clip_pipeline.core.label_vectors import write_label_vectors
from clip_pipeline.defs.assets.labels import label_collection
from clip_pipeline.defs.lane.answers import ImageAnswers
from clip_pipeline.defs.lane.labels import LaneLabels
from clip_pipeline.defs.lane.loop import Pace, run_lane
from clip_pipeline.defs.lane.vectors import UploadVectors
from clip_pipeline.embedding.analyzer import Analyzer
from clip_pipeline.embedding.zero_shot import LabelEmbedder, embed_labels
from clip_pipeline.ledger.label_sets import current_label_set

POLL_S = 0.01
_turn = threading.Lock()


def answer_all(world, *, until=lambda: True):
    """Answer the requests that wait, and those that come before `until` says that it is enough."""
    encoder = world.encoder
    labels = LaneLabels(world.store, world.spec, LabelEmbedder(encoder), logit_scale=encoder.logit_scale)
    with analyzer_of(world) as analyzer:
        vectors = UploadVectors(world.ledger, world.store, analyzer, spec=world.spec)
        answers = ImageAnswers(
            world.ledger, vectors, spec=world.spec, logit_scale=encoder.logit_scale, embed_labels=labels.embed
        )
        pace = Pace(idle_s=2 * POLL_S, poll_s=POLL_S)
        while True:
            run_lane(world.ledger, answers, owner=str(uuid.uuid4()), pace=pace, observe=lambda _tally: None)
            if until():
                return


@contextlib.contextmanager
def analyzer_of(world):
    """The analyzer for the world's encoder and limits, for one lane at a time.

    It is shared by all tests of a process: an own one would import torch in a decoder for each of them.
    """
    shared = _analyzer(type(world.encoder), world.settings.upload_limits)
    with _turn:
        yield shared


@functools.cache
def _analyzer(kind, limits):
    analyzer = Analyzer(kind(), limits=limits, decode_workers=1)
    atexit.register(analyzer.__exit__, None, None, None)
    return analyzer.__enter__()


@contextlib.contextmanager
def lane(world):
    """The lane at work in a thread as long as the context is open."""
    # Its decoder ends with the thread that started it, which must not be that of this lane.
    _analyzer(type(world.encoder), world.settings.upload_limits)
    stopped = threading.Event()
    thread = threading.Thread(target=answer_all, args=(world,), kwargs={"until": stopped.is_set})
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def label_images(world):
    """Label all indexed images with the label set in use, as the pipeline does."""
    label_set = current_label_set(world.ledger)
    vectors = embed_labels(world.encoder, label_set)
    scale = world.encoder.logit_scale
    write_label_vectors(world.store, world.spec, label_set=label_set, vectors=vectors, logit_scale=scale)
    label_collection(world.ledger, world.store, label_set)
