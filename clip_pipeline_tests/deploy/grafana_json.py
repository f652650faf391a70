"""What the JSON of a dashboard says: where its panels lie, what they ask, and which fields of it are not drawn."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_pipeline_tests.deploy.grafana_units import is_known

COLUMNS, ROW_PX, MARGIN_PX = 24, 30, 8
MIN_RATE_SCRAPES = 4
INTERVALS_S = (
    (1.5, 1), (3.5, 2), (7.5, 5), (12.5, 10), (17.5, 15), (25, 20), (45, 30), (90, 60), (210, 120), (450, 300),
    (750, 600), (1050, 900), (1500, 1200),
)  # fmt: skip
"""(below, step): to what Grafana rounds a step."""

PALETTE = (
    "#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#705DA0",
    "#37872D", "#FADE2A", "#447EBC", "#C15C17", "#890F02", "#0A437C", "#6D1F62", "#584477",
)  # fmt: skip
NAMED = {
    "green": "#73BF69", "orange": "#FF9830", "red": "#F2495C", "blue": "#5794F2", "yellow": "#FADE2A",
    "purple": "#B877D9", "text": "#CCCCDC",
}  # fmt: skip

ANY = None
UNSEEN = {
    "uid", "tags[]", "schemaVersion", "version", "editable", "graphTooltip", "refresh", "timezone", "panels[].id",
    "time.from", "time.to",
    *(f"links[].{field}" for field in ("type", "tags[]", "title", "asDropdown", "includeVars", "keepTime")),
    "panels[].options.tooltip.mode", "panels[].options.tooltip.sort",
}  # fmt: skip
"""Fields that show in no picture: they say what a pointer or a menu does, the pictures have a span of their own."""

_DEFAULTS, _OPTIONS, _TARGET = "panels[].fieldConfig.defaults.", "panels[].options.", "panels[].targets[]."
_OVERRIDE = "panels[].fieldConfig.overrides[]."
DRAWN: dict[str, set[Any] | None] = {
    "title": ANY,
    "description": ANY,
    **{f"panels[].gridPos.{field}": ANY for field in "xywh"},
    "panels[].type": {"stat", "timeseries", "bargauge"},
    "panels[].title": ANY,
    "panels[].description": ANY,
    **{f"{place}datasource.type": {"prometheus"} for place in ("panels[].", _TARGET)},
    **{f"{place}datasource.uid": {"clip-prometheus"} for place in ("panels[].", _TARGET)},
    _TARGET + "expr": ANY,
    _TARGET + "refId": ANY,
    _TARGET + "legendFormat": ANY,
    _TARGET + "instant": {True},
    _TARGET + "range": {False},
    _DEFAULTS + "unit": ANY,
    _DEFAULTS + "decimals": ANY,
    _DEFAULTS + "min": ANY,
    _DEFAULTS + "max": ANY,
    _DEFAULTS + "noValue": ANY,
    _DEFAULTS + "thresholds.mode": {"absolute"},
    _DEFAULTS + "thresholds.steps[].color": set(NAMED),
    _DEFAULTS + "thresholds.steps[].value": ANY,
    _DEFAULTS + "mappings[].type": {"value", "special"},
    _DEFAULTS + "mappings[].options.*.text": ANY,
    _DEFAULTS + "mappings[].options.*.index": ANY,
    _DEFAULTS + "mappings[].options.match": {"nan", "null+nan"},
    _DEFAULTS + "custom.axisSoftMax": ANY,
    _DEFAULTS + "custom.fillOpacity": ANY,
    _DEFAULTS + "custom.lineWidth": ANY,
    _DEFAULTS + "custom.showPoints": {"never"},
    _DEFAULTS + "custom.spanNulls": {False},
    _DEFAULTS + "custom.stacking.group": {"A"},
    _DEFAULTS + "custom.stacking.mode": {"normal"},
    _OVERRIDE + "matcher.id": {"byName", "byRegexp"},
    _OVERRIDE + "matcher.options": ANY,
    _OVERRIDE + "properties[].id": {"color"},
    _OVERRIDE + "properties[].value.mode": {"fixed"},
    _OVERRIDE + "properties[].value.fixedColor": set(NAMED),
    _OPTIONS + "colorMode": {"value"},
    _OPTIONS + "graphMode": {"none"},
    _OPTIONS + "textMode": {"auto", "value_and_name"},
    _OPTIONS + "displayMode": {"basic"},
    _OPTIONS + "orientation": {"horizontal"},
    _OPTIONS + "legend.displayMode": {"list"},
    _OPTIONS + "legend.placement": {"bottom"},
    _OPTIONS + "legend.showLegend": {True},
    _OPTIONS + "reduceOptions.calcs[]": {"lastNotNull"},
    _OPTIONS + "reduceOptions.fields": {""},
    _OPTIONS + "reduceOptions.values": {False},
}
"""Fields that are drawn -> the values that are (ANY: all)."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard, and what of it is not drawn."""

    name: str
    document: dict[str, Any]
    not_drawn: list[str]

    @property
    def panels(self) -> list[dict[str, Any]]:
        """Its panels as the JSON has them."""
        return self.document["panels"]


def read_dashboard(path: Path) -> Dashboard:
    """The dashboard of a file."""
    document = json.loads(path.read_text())
    return Dashboard(path.stem, document, unknown_fields(document))


def unknown_fields(document: dict[str, Any]) -> list[str]:
    """A line for every field, or value of one, that the pictures do not show."""
    found: dict[str, None] = {}
    for field, value in _leaves(document, ""):
        if field == _DEFAULTS + "unit" and not is_known(value):
            found[f"{field} = {value!r}"] = None
        elif field in UNSEEN:
            continue
        elif field not in DRAWN:
            found[f"{field} is not known"] = None
        elif (drawn := DRAWN[field]) is not None and value not in drawn:
            found[f"{field} = {value!r}"] = None
    return list(found)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            # The options of a mapping are named after the values that they map.
            name = "*" if path.endswith("mappings[].options") and isinstance(inner, dict) else key
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path + "[]")
    else:
        yield path, value


def box_of(grid: dict[str, int], *, width_px: int) -> Box:
    """Where a panel lies on a page of a width: 24 columns, rows of 30 px, 8 px between panels."""
    column = (width_px - MARGIN_PX * (COLUMNS - 1)) / COLUMNS
    return Box(
        grid["x"] * (column + MARGIN_PX),
        grid["y"] * (ROW_PX + MARGIN_PX),
        grid["w"] * column + (grid["w"] - 1) * MARGIN_PX,
        grid["h"] * ROW_PX + (grid["h"] - 1) * MARGIN_PX,
    )


def step_of(span_s: float, width_px: float, *, scrape_s: int) -> int:
    """Grafana's $__interval: a point for each pixel, rounded, and never finer than the scrapes."""
    wanted = span_s / width_px
    return max(scrape_s, next((step for below, step in INTERVALS_S if wanted < below), 3600))


def with_intervals(expr: str, step_s: int, *, span_s: int, scrape_s: int) -> str:
    """An expression with Grafana's variables filled in."""
    rate_s = max(step_s + scrape_s, MIN_RATE_SCRAPES * scrape_s)
    variables = {"rate_interval": rate_s, "interval": step_s, "range": span_s}
    return re.sub(
        r"\$(?:__(rate_interval|interval|range)\b|\{__(rate_interval|interval|range)\})",
        lambda found: f"{variables[found[1] or found[2]]}s",
        expr,
    )


def legend_name(legend_format: str, labels: dict[str, str]) -> str:
    """What the legend calls a series."""
    if legend_format in ("", "__auto"):
        pairs = ", ".join(f'{key}="{value}"' for key, value in labels.items() if key != "__name__")
        return f"{labels.get('__name__', '')}{{{pairs}}}"
    return re.sub(r"\{\{\s*(.+?)\s*\}\}", lambda found: labels.get(found[1], ""), legend_format)


def threshold_color(value: float, panel: dict[str, Any]) -> str:
    """The colour of the last threshold that a value reaches."""
    steps = defaults_of(panel).get("thresholds", {}).get("steps", [{"color": "green", "value": None}])
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return NAMED[reached[-1] if reached else steps[0]["color"]]


def series_color(name: str, number: int, *, panel: dict[str, Any]) -> str:
    """The colour of a series: that of an override, else the one of its place in the palette."""
    for override in panel["fieldConfig"].get("overrides", []):
        matcher = override["matcher"]
        pattern = re.escape(matcher["options"]) if matcher["id"] == "byName" else matcher["options"].strip("/")
        if re.search(f"^(?:{pattern})$" if matcher["id"] == "byName" else pattern, name):
            return NAMED[override["properties"][0]["value"]["fixedColor"]]
    return PALETTE[number % len(PALETTE)]


def mapped_text(value: float, panel: dict[str, Any]) -> str | None:
    """The text that the value mappings have for a value, if any."""
    for mapping in defaults_of(panel).get("mappings", []):
        options = mapping["options"]
        if mapping["type"] == "special" and math.isnan(value):
            return options["result"]["text"]
        if mapping["type"] == "value" and f"{value:g}" in options:
            return options[f"{value:g}"]["text"]
    return None


def defaults_of(panel: dict[str, Any]) -> dict[str, Any]:
    """The field options of a panel."""
    return panel["fieldConfig"]["defaults"]
