"""Counts by hour folded into hours, days, weeks or months, whichever makes a readable number of columns. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

FEWEST = 12
"""Columns at least, the early ones empty: one lone column says nothing about time."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Images of one span of time. label: below an axis; name: in full."""

    label: str
    name: str
    images: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """Spans of one unit (`hour`, `day`, `week`, `month`) without gaps, ascending."""

    unit: str
    spans: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class _Unit:
    name: str
    begin: Callable[[datetime], datetime]
    before: Callable[[datetime], datetime]
    after: Callable[[datetime], datetime]
    label: str
    full: str


def folded(by_hour: Mapping[str, int]) -> Buckets:
    """`2026-01-31T23` -> images, as spans without gaps; at least `FEWEST`, none where nothing was counted."""
    moments = {datetime.fromisoformat(f"{hour}:00").replace(tzinfo=UTC): n for hour, n in by_hour.items()}
    if not moments:
        return Buckets("hour", ())
    unit = _unit_for(max(moments) - min(moments))
    counts: dict[datetime, int] = {}
    for moment, n in moments.items():
        begin = unit.begin(moment)
        counts[begin] = counts.get(begin, 0) + n
    spans = [Bucket(b.strftime(unit.label), b.strftime(unit.full), counts.get(b, 0)) for b in _begins(counts, unit)]
    return Buckets(unit.name, tuple(spans))


def _begins(counts: Mapping[datetime, int], unit: _Unit) -> list[datetime]:
    begins, last = [min(counts)], max(counts)
    while begins[-1] < last:
        begins.append(unit.after(begins[-1]))
    while len(begins) < FEWEST:
        begins.insert(0, unit.before(begins[0]))
    return begins


def _unit_for(span: timedelta) -> _Unit:
    if span < timedelta(days=3):
        return _HOURS
    if span < timedelta(days=92):
        return _DAYS
    return _WEEKS if span < timedelta(days=2 * 365) else _MONTHS


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0)


def _monday(moment: datetime) -> datetime:
    return _midnight(moment) - timedelta(days=moment.weekday())


def _first_of_month(moment: datetime) -> datetime:
    return _midnight(moment).replace(day=1)


def _steps(name: str, step: timedelta, begin: Callable[[datetime], datetime], *, label: str, full: str) -> _Unit:
    return _Unit(name, begin, lambda moment: moment - step, lambda moment: moment + step, label, full)


_HOURS = _steps("hour", timedelta(hours=1), lambda moment: moment, label="%H:%M", full="%d %b %Y, %H:%M UTC")
_DAYS = _steps("day", timedelta(days=1), _midnight, label="%d %b", full="%d %b %Y")
_WEEKS = _steps("week", timedelta(weeks=1), _monday, label="%d %b", full="week of %d %b %Y")
_MONTHS = _Unit(
    "month",
    _first_of_month,
    lambda moment: _first_of_month(moment - timedelta(days=1)),
    lambda moment: _first_of_month(moment + timedelta(days=31)),
    "%b %Y",
    "%B %Y",
)
