"""The geometry of the charts: where each bar and each label of an SVG goes. Pure; `charts.html` draws it.

Lengths are in the units of the drawing's `viewBox`, which the page scales to the width there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 26
_ROW, _NAMES, _VALUES = 30, 142, 70
_MOST_LABELS = 6
_WIDEST_COLUMN = 44.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis, at `at` along it."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. name: what it stands for, in words, with its value; series: which of the legend it belongs to."""

    x: float
    y: float
    width: float
    height: float
    name: str
    series: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of a drawing in which the bars are."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class RowLabels:
    """Name and value of a horizontal bar. y: of their base line; value_x: where the value begins; url: for more."""

    name: str
    value: str
    y: float
    value_x: float
    url: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the same as a table. name: unique in its page; note: what it says, in one sentence.

    x_ticks, y_ticks: of columns; labels: of horizontal bars; legend: names of the series where there are several.
    """

    name: str
    title: str
    note: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    height: float = HEIGHT
    frame: Frame = Frame(_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)
    bars: tuple[Bar, ...] = ()
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    labels: tuple[RowLabels, ...] = ()
    legend: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        """Of every drawing."""
        return WIDTH

    @property
    def has_links(self) -> bool:
        """True where a bar leads somewhere: then the drawing is no picture, but something to move around in."""
        return any(label.url for label in self.labels)

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to draw."""
        return not self.bars


@dataclass(frozen=True, slots=True)
class Point:
    """One column or bar. label: short, for the axis; name: in full; url: of a page about it, where there is one."""

    label: str
    name: str
    value: int
    url: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What is written about a chart. header: of the table's first column."""

    name: str
    title: str
    note: str
    header: str


def column_chart(points: Sequence[Point], words: Words, *, unit: str = "images") -> Chart:
    """One column for each point, from left to right, none where all are zero."""
    rows = tuple((point.name, f"{point.value:,}") for point in points)
    headers = (words.header, unit.capitalize())
    chart = Chart(words.name, words.title, words.note, headers, rows)
    most = max((point.value for point in points), default=0)
    if not most:
        return chart
    frame, y_ticks, top = chart.frame, *_y_axis(most, chart.frame)
    step = (frame.right - frame.left) / len(points)
    width = min(_WIDEST_COLUMN, step * (0.78 if step > 6 else 1))
    bars = [
        _column(frame, frame.left + (n + 0.5) * step - width / 2, width, share=point.value / top,
                name=f"{point.name}: {point.value:,} {unit}")
        for n, point in enumerate(points) if point.value
    ]  # fmt: skip
    every = -(-len(points) // _MOST_LABELS) if len(points) > 10 else 1
    x_ticks = [
        Tick(round(frame.left + (n + 0.5) * step, 1), point.label)
        for n, point in enumerate(points)
        if (len(points) - 1 - n) % every == 0
    ]
    return Chart(words.name, words.title, words.note, headers, rows, bars=tuple(bars), x_ticks=tuple(x_ticks),
                 y_ticks=y_ticks)  # fmt: skip


def row_chart(points: Sequence[Point], words: Words, *, unit: str = "images") -> Chart:
    """One horizontal bar for each point, from top to bottom, its name before it and its value behind."""
    rows = tuple((point.name, f"{point.value:,}") for point in points)
    headers = (words.header, unit.capitalize())
    most = max((point.value for point in points), default=0)
    if not most:
        return Chart(words.name, words.title, words.note, headers, rows)
    bars, labels = list[Bar](), list[RowLabels]()
    longest = WIDTH - _NAMES - _VALUES
    for n, point in enumerate(points):
        y, length = 6.0 + n * _ROW, round(max(1.5, longest * point.value / most), 1) if point.value else 0.0
        bars.append(Bar(_NAMES, y, length, _ROW - 12, f"{point.name}: {point.value:,} {unit}"))
        labels.append(RowLabels(point.label, f"{point.value:,}", y + 13.5, round(_NAMES + length + 8, 1), point.url))
    return Chart(words.name, words.title, words.note, headers, rows, height=len(points) * _ROW + 6.0,
                 bars=tuple(bars), labels=tuple(labels))  # fmt: skip


def histogram(
    series: Mapping[str, Sequence[int]], edges: Sequence[float], words: Words, *, label_every: float = 0.2
) -> Chart:
    """Columns over the bins between `edges`, one set for each series, drawn over each other.

    Each series: the count of each bin, one fewer than there are edges. Edges that are multiples of `label_every` have
    a label.
    """
    bins = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges)]
    columns = [list(counts) for counts in series.values()]
    rows = tuple((name, *(f"{counts[n]:,}" for counts in columns)) for n, name in enumerate(bins))
    headers = (words.header, *series)
    chart = Chart(words.name, words.title, words.note, headers, rows)
    most = max((max(counts, default=0) for counts in columns), default=0)
    if not most:
        return chart
    frame, y_ticks, top = chart.frame, *_y_axis(most, chart.frame)
    step = (frame.right - frame.left) / len(bins)
    bars = [
        _column(frame, frame.left + n * step + 0.5, step - 1, share=counts[n] / top, series=number,
                name=f"{name}, {bins[n]}: {counts[n]:,}")
        for number, (name, counts) in enumerate(zip(series, columns, strict=True))
        for n in range(len(bins)) if counts[n]
    ]  # fmt: skip
    x_ticks = [
        Tick(round(frame.left + n * step, 1), f"{abs(edge) if abs(edge) < 1e-6 else edge:.1f}")
        for n, edge in enumerate(edges)
        if abs(edge / label_every - round(edge / label_every)) < 1e-6
    ]
    return Chart(words.name, words.title, words.note, headers, rows, bars=tuple(bars), x_ticks=tuple(x_ticks),
                 y_ticks=y_ticks, legend=tuple(series))  # fmt: skip


def nice_step(most: int, *, steps: int = 4) -> int:
    """A round number, 1, 2 or 5 times a power of ten, of which about `steps` reach `most`."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * steps >= most:
                return factor * power
        power *= 10


def compact(number: int) -> str:
    """`1200000` as `1.2M`: for where there is little room."""
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + suffix
    return str(number)


def _y_axis(most: int, frame: Frame) -> tuple[tuple[Tick, ...], int]:
    """Labels from 0 up, and the value at the top of the frame."""
    step = nice_step(most)
    top = step * -(-most // step)
    height = frame.bottom - frame.top
    values = range(0, top + 1, step)
    return tuple(Tick(round(frame.bottom - height * value / top, 1), compact(value)) for value in values), top


def _column(frame: Frame, x: float, width: float, *, share: float, name: str, series: int = 0) -> Bar:
    # What is there shows, however little beside the largest.
    height = max(1.5, (frame.bottom - frame.top) * share)
    return Bar(round(x, 1), round(frame.bottom - height, 1), round(width, 1), round(height, 1), name, series)
