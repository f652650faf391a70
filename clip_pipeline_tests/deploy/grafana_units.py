"""Numbers as Grafana writes them: the units that the dashboards use, with Grafana's own choice of decimals."""

import math
from collections.abc import Callable

SHORT = ("", " K", " Mil", " Bil", " Tri")
COUNT = ("", "K", "M", "B", "T")
BINARY = (" B", " KiB", " MiB", " GiB", " TiB")
SECONDS = (
    (1e-6, 1e9, " ns"), (1e-3, 1e6, " µs"), (1, 1e3, " ms"), (60, 1, " s"), (3600, 1 / 60, " min"),
    (86400, 1 / 3600, " hour"), (604800, 1 / 86400, " day"), (31536000, 1 / 604800, " week"),
    (math.inf, 1 / 31536000, " year"),
)  # fmt: skip
"""(below, factor, suffix)."""


def format_value(value: float, unit: str, *, decimals: int | None = None) -> str:
    """A value in its unit.

    Raises:
        ValueError: a unit that is not known here.
    """
    if math.isnan(value):
        return "NaN"
    if unit.startswith("count:"):
        return _scaled(value, COUNT, factor=1000, decimals=decimals) + " " + unit.removeprefix("count:")
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r} is not known here")
    return UNITS[unit](value, decimals)


def is_known(unit: str) -> bool:
    """Whether `format_value` takes a unit."""
    return unit in UNITS or unit.startswith("count:")


def _seconds(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0 s"
    factor, suffix = next((factor, suffix) for below, factor, suffix in SECONDS if abs(value) < below)
    scaled = value * factor
    plural = "s" if factor < 1 and abs(scaled) > 1 else ""
    return _fixed(scaled, decimals) + suffix + plural


def _scaled(value: float, suffixes: tuple[str, ...], *, factor: int, decimals: int | None) -> str:
    power = 0 if value == 0 else math.floor(math.log10(abs(value)) / math.log10(factor))
    power = min(max(power, 0), len(suffixes) - 1)
    return _fixed(value / factor**power, decimals) + suffixes[power]


def _fixed(value: float, decimals: int | None) -> str:
    return f"{value:.{_decimals_of(value) if decimals is None else decimals}f}"


def _decimals_of(value: float) -> int:
    """As many as Grafana shows where the panel does not say: three digits in all, none for whole numbers."""
    return 0 if value % 1 == 0 else max(0, 2 - math.floor(math.log10(abs(value))))


UNITS: dict[str, Callable[[float, int | None], str]] = {
    "bytes": lambda value, decimals: _scaled(value, BINARY, factor=1024, decimals=decimals),
    "locale": lambda value, decimals: f"{value:,.{_decimals_of(value) if decimals is None else decimals}f}",
    "none": _fixed,
    "percentunit": lambda value, decimals: _fixed(value * 100, decimals) + "%",
    "reqps": lambda value, decimals: _scaled(value, COUNT, factor=1000, decimals=decimals) + " req/s",
    "s": _seconds,
    "short": lambda value, decimals: _scaled(value, SHORT, factor=1000, decimals=decimals),
}
