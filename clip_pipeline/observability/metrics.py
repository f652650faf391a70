"""Every metric of the service: its name, what it means, its labels. Counted as things happen, or read when asked for.

Names are `clip_<noun>_<unit>`, `_total` where they only grow. Labels have few values, all of them words of the
project: nothing that a client sends becomes one. `docs/metrics.md` is the same list for people.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

UNITS = (
    "bytes", "errors", "files", "images", "items", "jobs", "listeners", "number", "ratio", "requests", "runs", "second",
    "seconds", "segments", "texts", "ticks", "up", "workers",
)  # fmt: skip
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_TEXT_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric by its full name. buckets: the upper bounds of a histogram."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


HTTP_REQUESTS = Metric(
    "clip_http_requests_total", "counter",
    "Requests and WebSocket handshakes by route template, method and class of the status (none: cut off before).",
    ("route", "method", "status"),
)  # fmt: skip
HTTP_ANSWER_SECONDS = Metric(
    "clip_http_answer_seconds", "histogram",
    "From the request to the first byte of its answer, so that a stream of events counts for its beginning.",
    ("route", "method"), LATENCY_BUCKETS_S,
)  # fmt: skip
SEARCH_PART_SECONDS = Metric(
    "clip_search_part_seconds", "histogram",
    "What a search spent in each part that it used, waiting for its turn there included.",
    ("part",), LATENCY_BUCKETS_S,
)  # fmt: skip
ENCODER_BATCH_TEXTS = Metric(
    "clip_encoder_batch_texts", "histogram",
    "Texts encoded together in one forward pass for searches.", (), _TEXT_BUCKETS,
)  # fmt: skip
ENCODER_TEXT_SECONDS = Metric(
    "clip_encoder_text_seconds", "histogram", "One forward pass of texts for searches.", (), LATENCY_BUCKETS_S
)
LEDGER_FILES = Metric("clip_ledger_files", "gauge", "Files that the ledger knows, by state.", ("state",))
LEDGER_IMAGES = Metric("clip_ledger_images", "gauge", "Distinct contents that the ledger knows, by state.", ("state",))
FAILED_FILES = Metric("clip_failed_files", "gauge", "Files that are failed now, by reason code.", ("reason",))
JOBS = Metric("clip_jobs", "gauge", "Jobs by where the ledger sees them.", ("status",))
EMBEDDED_IMAGES = Metric(
    "clip_embedded_images_total", "counter",
    "Images that embedding runs have behind them, embedded or quarantined; its rate is images/s of all workers.",
)  # fmt: skip
QUEUE_ITEMS = Metric("clip_queue_items", "gauge", "What waits in each lane, or is being worked on there.", ("lane",))
QUEUE_OLDEST_SECONDS = Metric(
    "clip_queue_oldest_seconds", "gauge", "Since when the oldest in a lane waits; 0 where nothing does.", ("lane",)
)
WORKERS = Metric("clip_workers", "gauge", "Workers of the fleet by state; alive are all but lost and left.", ("state",))
WORKER_SILENT_SECONDS = Metric(
    "clip_worker_silent_seconds", "gauge", "Since the last beat of a worker that did not leave.", ("worker",)
)
WORKER_IMAGES_PER_SECOND = Metric(
    "clip_worker_images_per_second", "gauge", "What a worker that is alive embeds of late.", ("worker",)
)
INDEX_IMAGES = Metric("clip_index_images", "gauge", "Images in the release that searches use.")
INDEX_RELEASE_NUMBER = Metric("clip_index_release_number", "gauge", "The number of the release that searches use.")
INDEX_RELEASE_AGE_SECONDS = Metric(
    "clip_index_release_age_seconds", "gauge", "Since the release that searches use was made."
)
INDEX_RECALL_RATIO = Metric(
    "clip_index_recall_ratio", "gauge", "Recall of the served release, measured when it was made; 1 is exact."
)
INDEX_SEGMENTS = Metric("clip_index_segments", "gauge", "Segments of the served release.")
INDEX_BYTES = Metric("clip_index_bytes", "gauge", "Size of the served release on disk.")
ANALYSIS_REQUESTS = Metric(
    "clip_analysis_requests", "gauge", "Analysis requests that the ledger has, by state.", ("state",)
)
ANALYSIS_PROCESSING_SECONDS = Metric(
    "clip_analysis_processing_seconds", "gauge",
    "Mean processing time of the completed analysis requests that the ledger has; absent without any.",
)  # fmt: skip
PUSH_LISTENERS = Metric("clip_push_listeners", "gauge", "Connections that are told about changes.")
DAGSTER_UP = Metric("clip_dagster_up", "gauge", "1 where Dagster's webserver answers, else 0.")
DAGSTER_RUNS = Metric(
    "clip_dagster_runs", "gauge", "Dagster runs by status; ended ones as long as Dagster keeps them.", ("status",)
)
DAGSTER_OLDEST_QUEUED_SECONDS = Metric(
    "clip_dagster_oldest_queued_seconds", "gauge", "How long the oldest queued run has waited; 0 where none waits."
)
DAGSTER_HEARTBEAT_AGE_SECONDS = Metric(
    "clip_dagster_heartbeat_age_seconds", "gauge",
    "Since the last sign of life of a daemon that is required; absent for one that never gave any.", ("daemon",),
)  # fmt: skip
DAGSTER_LOCATION_UP = Metric(
    "clip_dagster_location_up", "gauge", "1 where a code location is loaded, 0 where it cannot be.", ("location",)
)
DAGSTER_FAILED_TICKS = Metric(
    "clip_dagster_sensor_failed_ticks", "gauge", "Ticks of a sensor that failed within the last hour.", ("sensor",)
)
SCRAPE_ERRORS = Metric(
    "clip_scrape_errors_total", "counter", "Readings of a part that failed or came too late; it is left out.", ("part",)
)
SCRAPE_AGE_SECONDS = Metric("clip_scrape_age_seconds", "gauge", "How old the numbers of a part are.", ("part",))

METRICS = (
    HTTP_REQUESTS, HTTP_ANSWER_SECONDS, SEARCH_PART_SECONDS, ENCODER_BATCH_TEXTS, ENCODER_TEXT_SECONDS, LEDGER_FILES,
    LEDGER_IMAGES, FAILED_FILES, JOBS, EMBEDDED_IMAGES, QUEUE_ITEMS, QUEUE_OLDEST_SECONDS, WORKERS,
    WORKER_SILENT_SECONDS, WORKER_IMAGES_PER_SECOND, INDEX_IMAGES, INDEX_RELEASE_NUMBER, INDEX_RELEASE_AGE_SECONDS,
    INDEX_RECALL_RATIO, INDEX_SEGMENTS, INDEX_BYTES, ANALYSIS_REQUESTS, ANALYSIS_PROCESSING_SECONDS, PUSH_LISTENERS,
    DAGSTER_UP, DAGSTER_RUNS, DAGSTER_OLDEST_QUEUED_SECONDS, DAGSTER_HEARTBEAT_AGE_SECONDS, DAGSTER_LOCATION_UP,
    DAGSTER_FAILED_TICKS, SCRAPE_ERRORS, SCRAPE_AGE_SECONDS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of a metric that is read, not counted here, with those of its labels in their order."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


def by_label(metric: Metric, values: Mapping[str, float]) -> list[Reading]:
    """One reading for each value of the only label that a metric has."""
    return [Reading(metric, value, (str(label),)) for label, value in values.items()]


class Measures:
    """What one service counts as it happens. Safe to share between threads; two in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter(HTTP_REQUESTS)
        self._answer_seconds = self._histogram(HTTP_ANSWER_SECONDS)
        self._search_seconds = self._histogram(SEARCH_PART_SECONDS)
        self._batch_texts = self._histogram(ENCODER_BATCH_TEXTS)
        self._text_seconds = self._histogram(ENCODER_TEXT_SECONDS)
        self._scrape_errors = self._counter(SCRAPE_ERRORS)

    def count_request(self, route: str, *, method: str, status: str, seconds: float) -> None:
        """One request. route: the template, never the path; status: `2xx` and the like, or `none`."""
        self._requests.labels(route, method, status).inc()
        self._answer_seconds.labels(route, method).observe(seconds)

    def count_search(self, spent_ms: Mapping[str, float]) -> None:
        """One search, with what it spent in each part; 0 for one that it did not use."""
        for part, milliseconds in spent_ms.items():
            if milliseconds:
                self._search_seconds.labels(part).observe(milliseconds / 1000)

    def count_texts(self, number: int, *, seconds: float) -> None:
        """One forward pass of texts."""
        self._batch_texts.observe(number)
        self._text_seconds.observe(seconds)

    def count_scrape_error(self, part: str) -> None:
        """A part could not be read."""
        self._scrape_errors.labels(part).inc()

    def watch_part(self, part: str) -> None:
        """Show the errors of a part from now on, none so far: a counter that begins at 1 has not grown."""
        self._scrape_errors.labels(part)

    def families(self) -> Generator[Family, None, None]:
        """All that was counted, in the form that the encoders of `prometheus_client` take."""
        for family in self._registry.collect():
            # When a series began is of no use to anybody, and would be one more series for each.
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.meaning, metric.labels, registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.meaning, metric.labels, registry=self._registry, buckets=metric.buckets)


@dataclass(frozen=True, slots=True)
class Exposition:
    """One answer to a scrape: what was counted, and what was read; a collector, as `prometheus_client` names it."""

    measures: Measures
    readings: Sequence[Reading]

    def collect(self) -> Iterable[Family]:
        """Every family that has something to say."""
        yield from self.measures.families()
        families: dict[Metric, GaugeMetricFamily | CounterMetricFamily] = {}
        for reading in self.readings:
            metric = reading.metric
            if metric not in families:
                family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                families[metric] = family(metric.name, metric.meaning, labels=metric.labels)
            families[metric].add_metric(reading.labels, reading.value)
        yield from families.values()
