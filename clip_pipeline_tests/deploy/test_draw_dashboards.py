"""The pictures of the dashboards: what is read, named and written as Grafana does, and that no field goes unseen."""

import json
import math

import pytest

from clip_pipeline_tests.deploy.draw_dashboards import GRAFANA, Window, draw_panel, scrape_interval
from clip_pipeline_tests.deploy.grafana_json import (
    NAMED,
    box_of,
    legend_name,
    mapped_text,
    read_dashboard,
    series_color,
    step_of,
    threshold_color,
    unknown_fields,
    with_intervals,
)
from clip_pipeline_tests.deploy.grafana_svg import Series, axis_of, tick_labels
from clip_pipeline_tests.deploy.grafana_units import format_value

DASHBOARDS = sorted(GRAFANA.glob("*.json"))
PANELS = {panel["title"]: panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]}
STEPS = [{"color": "red", "value": None}, {"color": "orange", "value": 0.95}, {"color": "green", "value": 0.97}]


def panel_of(**defaults):
    return {"fieldConfig": {"defaults": defaults}}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_field_of_the_dashboards_is_one_that_is_drawn(path):
    assert read_dashboard(path).not_drawn == []


def test_a_field_or_value_that_is_not_drawn_is_told():
    document = json.loads(DASHBOARDS[0].read_text())
    panel = document["panels"][0]
    panel["type"] = "heatmap"
    panel["transformations"] = [{"id": "merge"}]
    panel["fieldConfig"]["defaults"]["unit"] = "celsius"
    assert unknown_fields(document) == [
        "panels[].type = 'heatmap'",
        "panels[].fieldConfig.defaults.unit = 'celsius'",
        "panels[].transformations[].id is not known",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"), (0.0123, "s", "12.3 ms"), (100, "s", "1.67 mins"), (60, "s", "1 min"),
        (90000, "s", "1.04 days"),
        (1980, "short", "1.98 K"), (2_500_000, "short", "2.50 Mil"), (1980, "locale", "1,980"), (1980, "none", "1980"),
        (1.5, "reqps", "1.50 req/s"), (2000, "count:images/s", "2K images/s"), (1, "percentunit", "100%"),
        (1536, "bytes", "1.50 KiB"), (math.nan, "s", "NaN"),
    ],
)  # fmt: skip
def test_values_are_written_in_their_units(value, unit, text):
    assert format_value(value, unit) == text


def test_panels_lie_on_24_columns_with_8_pixels_between_them():
    left, right = (box_of({"x": x, "y": 4, "w": 12, "h": 8}, width_px=1480) for x in (0, 12))
    assert (left.x, left.y, left.height) == (0, 4 * 38, 8 * 38 - 8)
    assert right.x - (left.x + left.width) == pytest.approx(8)
    assert right.x + right.width == pytest.approx(1480)


def test_a_legend_names_a_series_by_its_labels():
    assert legend_name("{{lane}} of {{ instance }}", {"lane": "merge"}) == "merge of "
    assert legend_name("__auto", {"__name__": "up", "job": "x"}) == 'up{job="x"}'


def test_rates_look_back_over_four_scrapes_or_more():
    expr = "rate(a[$__rate_interval]) + rate(b[${__interval}])"
    assert step_of(1800, 736, scrape_s=15) == 15
    assert with_intervals(expr, 15, span_s=1800, scrape_s=15) == "rate(a[60s]) + rate(b[15s])"
    assert step_of(86400, 736, scrape_s=15) == 120
    assert with_intervals(expr, 120, span_s=86400, scrape_s=15) == "rate(a[135s]) + rate(b[120s])"
    assert scrape_interval() == 15


def test_thresholds_mappings_and_overrides_choose_colours_and_texts():
    panel = panel_of(thresholds={"mode": "absolute", "steps": STEPS})
    assert [threshold_color(value, panel) for value in (0.5, 0.95, 1)] == [
        NAMED["red"],
        NAMED["orange"],
        NAMED["green"],
    ]
    assert mapped_text(0.0, PANELS["Webserver"]) == "down"
    assert mapped_text(0.0, PANELS["Runs that wait"]) is None
    assert series_color("failure", 0, panel=PANELS["Runs that ended, of those that Dagster keeps"]) == NAMED["red"]


def test_an_axis_of_whole_numbers_has_no_ticks_between_them():
    panel = panel_of(unit="short", min=0)
    bottom, top, ticks = axis_of([0, 2], defaults=panel["fieldConfig"]["defaults"])
    assert (bottom, top, tick_labels(ticks, panel)) == (0, 2, ["0.0", "0.5", "1.0", "1.5", "2.0"])
    assert axis_of([0, 2], defaults={"min": 0, "decimals": 0})[2] == [0, 1, 2]
    assert axis_of([0, 0], defaults={"min": 0})[1] == 100


def test_a_gap_breaks_a_line_and_a_lone_sample_is_a_dot():
    panel, window = PANELS["Images/s of all workers"], Window(0, 60, 15)
    box = box_of(panel["gridPos"], width_px=1480)
    points = [(0, 1.0), (15, 2.0), (30, None), (45, 1.0), (60, None)]
    drawn = draw_panel(panel, [Series("images/s", "#fff", points)], box=box, window=window)
    assert drawn.count("<polyline") == drawn.count("<circle") == 1
    assert "no texts encoded" in draw_panel(PANELS["One forward pass of texts"], [], box=box, window=window)
