"""What the stats page shows: tiles, charts, failures and health. Blocks, so it belongs in a thread. No web here."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.core.release import Release
from clip_pipeline.index.score_sample import ScoreSample
from clip_pipeline.ledger.states import FileState
from clip_pipeline.ledger.statistics import LedgerStatistics, PixelBin
from clip_pipeline.serving.documents import release_bytes, release_name
from clip_pipeline.serving.engine import SearchEngine
from clip_pipeline.serving.health import PartHealth, health_of
from clip_pipeline.serving.pages.charts import Chart, Point, Words, column_chart, histogram, row_chart
from clip_pipeline.serving.pages.time_buckets import folded
from clip_pipeline.serving.pages.words import said_bytes, said_duration
from clip_pipeline.serving.services import Services

STATISTICS_PATIENCE_S = 4.0
SCORES_PATIENCE_S = 0.5
SCORE_BIN = 0.025
FAILURES_DRAWN = 7

STATE_WORDS = {
    FileState.INDEXED: "searchable",
    FileState.DUPLICATE: "duplicates",
    FileState.EMBEDDED: "embedded",
    FileState.MANIFESTED: "inspected",
    FileState.REGISTERED: "waiting",
    FileState.FAILED: "failed",
}
REASON_WORDS = {
    ReasonCode.MISSING: "There was no file at the path.",
    ReasonCode.UNREADABLE: "The file could not be read; permissions, most often.",
    ReasonCode.CHANGED: "The file changed while it was worked on.",
    ReasonCode.NOT_A_FILE: "The path is a folder, a socket or a device.",
    ReasonCode.EMPTY: "The file has no content.",
    ReasonCode.TOO_MANY_BYTES: "The file is larger than the limit.",
    ReasonCode.TOO_MANY_PIXELS: "The image is wider or higher than the limit allows.",
    ReasonCode.NOT_AN_IMAGE: "The content is no image.",
    ReasonCode.UNSUPPORTED: "An image, in a form that cannot be decoded here.",
    ReasonCode.TRUNCATED: "The file ends before the image does.",
    ReasonCode.CORRUPT: "The content is damaged.",
    ReasonCode.DECODER_CRASHED: "The decoder crashed on it.",
    ReasonCode.DECODER_HUNG: "The decoder did not come to an end with it.",
    ReasonCode.OUT_OF_MEMORY: "It needs more memory than there is.",
    ReasonCode.NOT_FINITE: "The model made numbers of it that are none.",
    ReasonCode.KILLED_ITS_RUN: "The run that worked on it died, again and again.",
    ReasonCode.UNUSABLE_LABELS: "The model makes no usable vector of the labels.",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number. note: a few words below it; kind: empty, or `bad` where a person may want to look."""

    label: str
    value: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class FailureLine:
    """How many files failed for one reason."""

    code: str
    meaning: str
    files: int


@dataclass(frozen=True, slots=True)
class StatsPage:
    """counted_at: when the ledger was counted; None while that takes longer than a page may wait."""

    tiles: tuple[Tile, ...]
    charts: tuple[Chart, ...]
    failures: tuple[FailureLine, ...]
    health: Mapping[str, PartHealth]
    counted_at: str | None


def stats_page(services: Services) -> StatsPage:
    """The page as of now."""
    pictures = services.pictures
    counted = pictures.statistics(within_s=STATISTICS_PATIENCE_S)
    tiles, charts, failures = [*_release_tiles(services)], list[Chart](), tuple[FailureLine, ...]()
    if counted is not None:
        tiles = [*_count_tiles(counted), *tiles]
        charts = [time_chart(counted.indexed_by_hour), pixel_chart(counted.pixels),
                  format_chart(counted.images_by_format), state_chart(counted.files_by_state),
                  failure_chart(counted.failures)]  # fmt: skip
        failures = tuple(FailureLine(code, meaning_of(code), n) for code, n in counted.failures.items())
    charts.insert(1, score_chart(pictures.scores(within_s=SCORES_PATIENCE_S)))
    health = health_of(services.ledger, services.engine, services.orchestrator)
    return StatsPage(tuple(tiles), tuple(charts), failures, health, counted.counted_at if counted else None)


def meaning_of(code: str) -> str:
    """A reason code in a sentence; empty for one that is not in the vocabulary."""
    return REASON_WORDS.get(ReasonCode(code), "") if code in set(ReasonCode) else ""


def time_chart(by_hour: Mapping[str, int]) -> Chart:
    """Images indexed in each span of time."""
    buckets = folded(by_hour)
    words = Words("indexed", "Images over time", f"Images by the {buckets.unit} in which they were indexed, UTC.",
                  buckets.unit.capitalize())  # fmt: skip
    return column_chart([Point(span.label, span.name, span.images) for span in buckets.spans], words)


def format_chart(by_format: Mapping[str, int]) -> Chart:
    """Images of each file format."""
    words = Words("formats", "Formats", "Searchable images by the format of their file.", "Format")
    return row_chart([Point(name, name, n) for name, n in by_format.items()], words)


def pixel_chart(bins: Sequence[PixelBin]) -> Chart:
    """Images by how many pixels they have."""
    words = Words("pixels", "Image sizes", "Searchable images by width x height, in megapixels.", "Megapixels")
    return column_chart([_pixel_point(one) for one in bins], words)


def state_chart(by_state: Mapping[str, int]) -> Chart:
    """Files by where they stand on their way into the index."""
    words = Words(
        "states", "Files by state", "Every known file, by where it stands on its way into the index.", "State"
    )
    points = [Point(said, said, by_state[state]) for state, said in STATE_WORDS.items() if by_state[state]]
    return row_chart(points, words, unit="files")


def failure_chart(by_code: Mapping[str, int]) -> Chart:
    """Failed files by reason, the most frequent ones."""
    words = Words("failures", "Failures", "Failed files by reason, the most frequent first.", "Reason")
    return row_chart([Point(code, code, n) for code, n in list(by_code.items())[:FAILURES_DRAWN]], words, unit="files")


def score_chart(sample: ScoreSample | None) -> Chart:
    """How similar images are to the one most like them, and to any other."""
    if sample is None or not len(sample.nearest):
        note = (
            "Appears once two images or more are searchable and were compared, seconds after this page was asked for."
        )
        return histogram({}, [], Words("scores", "Scores", note, "Score"))
    lowest = min(0.0, float(min(sample.nearest.min(), sample.chance.min())))
    edges = np.arange(np.floor(lowest / 0.1) * 0.1, 1.0 + SCORE_BIN / 2, SCORE_BIN)
    counted = {
        "best other image": _in_bins(sample.nearest, edges),
        "image drawn by lot": _in_bins(sample.chance, edges),
    }
    note = (
        f"How {len(sample.nearest):,} images of release {release_name(sample.release)} score against the image most "
        "like them, and against one drawn by lot. The further apart, the better the index tells images apart."
    )
    return histogram(counted, edges.tolist(), Words("scores", "Scores", note, "Score"))


def _in_bins(scores: np.ndarray, edges: np.ndarray) -> list[int]:
    # Float16 vectors are of unit length but for rounding: the score of equal images may exceed 1 a little.
    return np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist()


def _pixel_point(one: PixelBin) -> Point:
    least = f"{one.least / 1e6:g}"
    if one.below is None:
        return Point(f"{least}+", f"{least} and more", one.images)
    return Point(f"<{one.below / 1e6:g}" if not one.least else least, f"{least} to {one.below / 1e6:g}", one.images)


def _count_tiles(counted: LedgerStatistics) -> list[Tile]:
    by_state, known = counted.files_by_state, counted.files_known
    failed, copies = by_state[FileState.FAILED], by_state[FileState.DUPLICATE]
    waiting = known - failed - copies - by_state[FileState.INDEXED]
    return [
        Tile("Searchable images", f"{counted.searchable:,}", f"{said_bytes(counted.image_bytes)} of image files"),
        Tile("Files known", f"{known:,}", f"{waiting:,} under way" if waiting else "nothing under way"),
        Tile("Duplicates", f"{copies:,}", f"{_share(copies, known)} of all files"),
        Tile("Failed", f"{failed:,}", f"{_share(failed, known)} of all files", "bad" if failed else ""),
    ]


def _release_tiles(services: Services) -> list[Tile]:
    found = _served(services.engine)
    if found is None:
        return [Tile("Index", "empty", "nothing is published yet")]
    spec, release = found
    age_s = max(0.0, time.time() - datetime.fromisoformat(release.created_at).timestamp())
    size = said_bytes(release_bytes(services.store, spec, release))
    return [
        Tile("Index size", size, f"{release.dim} numbers an image"),
        Tile("Release", str(release.number), f"published {said_duration(age_s)} ago"),
        Tile(f"Recall at {release.recall_k}", f"{100 * release.recall:.2f} %",
             f"measured with {release.recall_queries:,} queries"),
        Tile("Model", release.model_name, release.encoder_name),
    ]  # fmt: skip


def _served(engine: SearchEngine) -> tuple[EncoderSpec, Release] | None:
    try:
        served = engine.served()
    except ClipPipelineError:  # the health of the parts says it
        return None
    reader = None if served is None else served.releases.reader
    return None if served is None or reader is None else (served.spec, reader.release)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"
