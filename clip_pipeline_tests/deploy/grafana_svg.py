"""Panels as SVG and HTML, with the sizes and colours of Grafana's dark theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from clip_pipeline_tests.deploy.grafana_json import NAMED, Box, defaults_of, mapped_text, threshold_color
from clip_pipeline_tests.deploy.grafana_units import format_value

HEADER_PX, PADDING_PX, LEGEND_ROW_PX, AXIS_PX = 32, 8, 20, 20
LEGEND_SHARE = 0.35
"""The legend takes at most so much of a panel's height, and scrolls beyond."""
FONT_RATIO = 0.66
"""Width to height of a digit."""
MINUTES_BETWEEN_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440)
FLAT_ZERO_TOP = 100
"""Where Grafana ends the axis when all is zero."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a panel; points are (seconds, value), None where a step has no sample."""

    name: str
    color: str
    points: Sequence[tuple[float, float | None]]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return all(value is None for _, value in self.points)


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle of pixels, and the seconds and values that it shows."""

    box: Box
    begin_s: float
    end_s: float
    bottom: float
    top: float

    def x(self, at_s: float) -> float:
        """Where a moment lies."""
        return self.box.x + (at_s - self.begin_s) / (self.end_s - self.begin_s) * self.box.width

    def y(self, value: float) -> float:
        """Where a value lies."""
        return self.box.y + self.box.height * (1 - (value - self.bottom) / (self.top - self.bottom))


def text_of(value: float, panel: dict[str, Any], *, decimals: int | None = None) -> str:
    """A value as the panel writes it; decimals: where the panel does not say how many."""
    defaults, mapped = defaults_of(panel), mapped_text(value, panel)
    if mapped is not None:
        return mapped
    return format_value(value, defaults.get("unit", "short"), decimals=defaults.get("decimals", decimals))


def nothing(panel: dict[str, Any]) -> str:
    """A panel whose queries yield nothing."""
    return f'<div class="nothing">{escape(defaults_of(panel).get("noValue", "No data"))}</div>'


def stat(panel: dict[str, Any], series: Sequence[Series], *, box: Box) -> str:
    """One big number, or several side by side under their names."""
    named = panel["options"]["textMode"] == "value_and_name" or len(series) > 1
    width, height = box.width - 2 * PADDING_PX, box.height - HEADER_PX - PADDING_PX
    column, parts = width / len(series), []
    for number, one in enumerate(series):
        value = one.points[-1][1]
        assert value is not None
        text, middle = text_of(value, panel), (number + 0.5) * column
        size = min(height * 0.6, column * 0.9 / (FONT_RATIO * len(text)), 72)
        y = height / 2 + size * (0.75 if named else 0.36)
        if named:
            parts.append(_big(one.name, (middle, y - size * 1.1), size=size * 0.5, color=NAMED["text"]))
        parts.append(_big(text, (middle, y), size=size, color=threshold_color(value, panel)))
    return f'<svg width="{width:.0f}" height="{height:.0f}">{"".join(parts)}</svg>'


def _big(text: str, at: tuple[float, float], *, size: float, color: str) -> str:
    return (
        f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" text-anchor="middle" font-size="{size:.0f}" font-weight="500" '
        f'fill="{color}">{escape(text)}</text>'
    )


def bar_gauge(panel: dict[str, Any], series: Sequence[Series], *, box: Box) -> str:
    """A bar for each series, its name to the left and its value to the right."""
    values = [value for one in series if (value := one.points[-1][1]) is not None]
    low = defaults_of(panel).get("min", min(values))
    high = defaults_of(panel).get("max", max(values))
    width, height = box.width - 2 * PADDING_PX, box.height - HEADER_PX - PADDING_PX
    row = (height - 10 * (len(values) - 1)) / len(values)
    size = min(16, row * 0.6)
    names, texts = [one.name for one in series], [text_of(value, panel) for value in values]
    left = min(width * 0.4, max(map(len, names)) * size * FONT_RATIO + 10)
    right = max(map(len, texts)) * size * 1.2 * FONT_RATIO + 10
    parts = []
    for number, (name, value, text) in enumerate(zip(names, values, texts, strict=True)):
        top, color = number * (row + 10), threshold_color(value, panel)
        share = min((value - low) / (high - low), 1) if high > low else 1
        middle = top + row / 2 + size * 0.36
        parts.append(
            f'<text x="0" y="{middle:.1f}" font-size="{size:.1f}" fill="#CCCCDC">{escape(name)}</text>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width - left - right:.1f}" height="{row:.1f}" fill="#22252B"/>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{(width - left - right) * share:.1f}" height="{row:.1f}" '
            f'fill="{color}" fill-opacity="0.35" stroke="{color}"/>'
            f'<text x="{width:.1f}" y="{middle:.1f}" font-size="{size * 1.2:.1f}" fill="{color}" '
            f'text-anchor="end">{escape(text)}</text>'
        )
    return f'<svg width="{width:.0f}" height="{height:.0f}">{"".join(parts)}</svg>'


def time_series(panel: dict[str, Any], series: Sequence[Series], *, box: Box, span_s: tuple[float, float]) -> str:
    """Lines over time, stacked where the panel says so, and the legend below."""
    custom = defaults_of(panel).get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    drawn = _stack(series) if stacked else [[(at, value, 0.0) for at, value in one.points] for one in series]
    legend_px = _legend_height(series, box=box)
    width, height = box.width - 2 * PADDING_PX, box.height - HEADER_PX - PADDING_PX - legend_px
    bottom, top, ticks = axis_of(
        [y for line in drawn for _, y, _ in line if y is not None], defaults=defaults_of(panel)
    )
    labels = tick_labels(ticks, panel)
    left = max(map(len, labels)) * 12 * FONT_RATIO + 8
    plot = Plot(Box(left, 6, width - left - 6, height - AXIS_PX - 6), *span_s, bottom, top)
    parts = [_grid(plot, ticks, labels=labels)]
    for one, line in zip(series, drawn, strict=True):
        parts.append(_line(plot, line, color=one.color, custom=custom))
    legend = "".join(
        f'<span class="entry"><i style="background:{one.color}"></i>{escape(one.name)}</span>' for one in series
    )
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}">{"".join(parts)}</svg>'
        f'<div class="legend" style="height:{legend_px:.0f}px">{legend}</div>'
    )


def axis_of(values: Sequence[float], *, defaults: dict[str, Any]) -> tuple[float, float, list[float]]:
    """Where the axis of some values begins and ends, and its ticks."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = defaults.get("min", min(finite)), defaults.get("max", max(finite))
    high = max(high, defaults.get("custom", {}).get("axisSoftMax", high))
    if high <= low:
        high = low + (FLAT_ZERO_TOP if low == 0 else abs(low))
    base = 1024 ** math.floor(math.log(max(high - low, 1), 1024)) if defaults.get("unit") == "bytes" else 1
    wanted = (high - low) / base / 5
    power = 10 ** math.floor(math.log10(wanted))
    tick = base * power * next(step for step in (1, 2, 2.5, 5, 10) if step * power >= wanted * 0.999)
    first = math.floor(low / tick)
    last = math.ceil(round(high / tick, 6))
    ticks = [round(number * tick, 12) for number in range(first, last + 1)]
    shown = [tick for tick in ticks if defaults.get("decimals") != 0 or tick % 1 == 0]
    return ticks[0], max(ticks[-1], high), shown


def tick_labels(ticks: Sequence[float], panel: dict[str, Any]) -> list[str]:
    """The ticks of an axis as the panel writes them, all with as many decimals as their distance has."""
    distance = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    decimals = len(f"{distance:.6f}".rstrip("0").split(".")[1])
    return [text_of(tick, panel, decimals=decimals or None) for tick in ticks]


def _stack(series: Sequence[Series]) -> list[list[tuple[float, float | None, float]]]:
    """(seconds, upper edge, lower edge) of each series upon those before it."""
    sums: dict[float, float] = {}
    lines = []
    for one in series:
        line: list[tuple[float, float | None, float]] = []
        for at, value in one.points:
            below = sums.get(at, 0.0)
            sums[at] = below + (value or 0.0)
            line.append((at, None if value is None else sums[at], below))
        lines.append(line)
    return lines


def _grid(plot: Plot, ticks: Sequence[float], *, labels: Sequence[str]) -> str:
    box, parts = plot.box, []
    for tick, label in zip(ticks, labels, strict=True):
        y = plot.y(tick)
        parts.append(
            f'<line x1="{box.x:.1f}" x2="{box.x + box.width:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{box.x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end" class="tick">{escape(label)}</text>'
        )
    minutes = (plot.end_s - plot.begin_s) / 60
    between = 60 * next((m for m in MINUTES_BETWEEN_TICKS if box.width / (minutes / m) > 55), 1440)
    at = math.ceil(plot.begin_s / between) * between
    while at <= plot.end_s:
        x, clock = plot.x(at), datetime.fromtimestamp(at, UTC).strftime("%H:%M")
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{box.y}" y2="{box.y + box.height:.1f}" class="grid"/>'
            f'<text x="{x:.1f}" y="{box.y + box.height + 16:.1f}" text-anchor="middle" class="tick">{clock}</text>'
        )
        at += between
    return "".join(parts)


def _line(plot: Plot, line: Sequence[tuple[float, float | None, float]], *, color: str, custom: dict[str, Any]) -> str:
    """The runs of samples without a gap: each an area and a line; a lone sample is a dot, as Grafana draws it."""
    parts = []
    for run in _runs(line):
        edge = [f"{plot.x(at):.1f},{plot.y(upper):.1f}" for at, upper, _ in run]
        if len(run) == 1:
            x, y = edge[0].split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>')
            continue
        floor = [f"{plot.x(at):.1f},{plot.y(max(lower, plot.bottom)):.1f}" for at, _, lower in reversed(run)]
        parts.append(
            f'<polygon points="{" ".join(edge + floor)}" fill="{color}" '
            f'fill-opacity="{custom.get("fillOpacity", 0) / 100}"/><polyline points="{" ".join(edge)}" fill="none" '
            f'stroke="{color}" stroke-width="{custom.get("lineWidth", 1)}"/>'
        )
    return "".join(parts)


def _runs(line: Sequence[tuple[float, float | None, float]]) -> list[list[tuple[float, float, float]]]:
    runs: list[list[tuple[float, float, float]]] = [[]]
    for at, upper, lower in line:
        if upper is None:
            runs.append([])
        else:
            runs[-1].append((at, upper, lower))
    return [run for run in runs if run]


def _legend_height(series: Sequence[Series], *, box: Box) -> float:
    width, rows, used = box.width - 2 * PADDING_PX, 1, 0.0
    for one in series:
        entry = len(one.name) * 12 * FONT_RATIO + 34
        if used and used + entry > width:
            rows, used = rows + 1, 0.0
        used += entry
    return min(rows * LEGEND_ROW_PX + 4, box.height * LEGEND_SHARE)
