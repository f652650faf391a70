"""Numbers, sizes, spans of time and moments as the pages say them. Pure."""

from datetime import datetime


def said_bytes(number: int | float) -> str:
    """`739500000` as `739.5 MB`."""
    size = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def said_duration(seconds: float) -> str:
    """`125` as `2 min 5 s`: the two largest units that it has."""
    whole = max(0, round(seconds))
    parts = [(whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number) or "0 s"


def said_moment(iso: str) -> str:
    """`2026-01-31T23:59:01.123Z` as `31 Jan 2026, 23:59:01 UTC`."""
    return datetime.fromisoformat(iso).strftime("%d %b %Y, %H:%M:%S UTC").lstrip("0")


def said_rate(per_second: float) -> str:
    """Images per second, or per minute where that is less than one."""
    if per_second >= 1:
        return f"{per_second:,.0f} images/s" if per_second >= 10 else f"{per_second:.1f} images/s"
    return f"{per_second * 60:.1f} images/min"
