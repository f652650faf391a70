"""The names of metrics, and what is counted under them."""

import re
from collections import Counter
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import clip_pipeline
from clip_pipeline.observability import metrics as module
from clip_pipeline.observability.metrics import (
    EMBEDDED_IMAGES,
    HTTP_REQUESTS,
    JOBS,
    METRICS,
    UNITS,
    Exposition,
    Measures,
    Metric,
    Reading,
    by_label,
)

DOCUMENT = Path(clip_pipeline.__file__).parent.parent / "docs" / "metrics.md"


def samples_of(measures, *readings):
    text = generate_latest(Exposition(measures, readings)).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_every_name_is_clip_noun_unit_and_total_where_it_only_grows():
    pattern = re.compile(rf"clip(_[a-z]+)+_({'|'.join(UNITS)})(_total)?|clip_({'|'.join(UNITS)})")
    for metric in METRICS:
        assert pattern.fullmatch(metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name


def test_every_metric_is_listed_once():
    defined = [value for value in vars(module).values() if isinstance(value, Metric)]
    assert Counter(metric.name for metric in METRICS) == Counter({metric.name: 1 for metric in defined})


def test_no_unit_is_allowed_that_nothing_is_measured_in():
    used = {metric.name.removesuffix("_total").rpartition("_")[2] for metric in METRICS}
    assert used == set(UNITS)


def test_the_documentation_has_one_row_for_each_metric_and_none_else():
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `clip_")]
    assert rows == [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.meaning} |"
        for metric in METRICS
    ]


def test_two_sets_of_measures_do_not_meet():
    first, second = Measures(), Measures()
    first.count_request("/health", method="GET", status="2xx", seconds=0.1)
    assert [s.value for s in samples_of(first) if s.name == HTTP_REQUESTS.name] == [1.0]
    assert [s.value for s in samples_of(second) if s.name == HTTP_REQUESTS.name] == []


def test_a_part_that_a_search_did_not_use_is_not_observed():
    measures = Measures()
    measures.count_search({"decode": 0.0, "encode": 4.0})
    counts = {s.labels["part"]: s.value for s in samples_of(measures) if s.name.endswith("part_seconds_sum")}
    assert counts == {"encode": 0.004}


def test_a_series_does_not_bring_the_time_of_its_beginning():
    measures = Measures()
    measures.count_texts(3, seconds=0.01)
    assert not [s.name for s in samples_of(measures) if s.name.endswith("_created")]


def test_readings_of_one_metric_are_one_family():
    readings = [
        *by_label(JOBS, {"queued": 2}),
        Reading(module.INDEX_IMAGES, 7),
        Reading(JOBS, 1, ("running",)),
    ]
    families = [family for family in Exposition(Measures(), readings).collect() if family.type == "gauge"]
    assert [(f.name, [(s.labels, s.value) for s in f.samples]) for f in families] == [
        ("clip_jobs", [({"status": "queued"}, 2), ({"status": "running"}, 1)]),
        ("clip_index_images", [({}, 7)]),
    ]


def test_a_counter_that_is_read_is_a_counter_of_its_full_name():
    (family,) = (f for f in Exposition(Measures(), [Reading(EMBEDDED_IMAGES, 5)]).collect() if "embedded" in f.name)
    assert (family.type, [(s.name, s.value) for s in family.samples]) == (
        "counter", [("clip_embedded_images_total", 5)],
    )  # fmt: skip
