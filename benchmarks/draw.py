"""Draws `benchmarks/results/embed.json` as bars: `python -m benchmarks.draw docs/images/embed.svg`."""

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

WIDTH, NAME_WIDTH, BAR_HEIGHT, GAP = 760, 190, 26, 10
_OURS, _OTHERS, _LIMIT = "#2f6fdb", "#9aa4b2", "#d9b44a"
Bar = tuple[str, float, str]


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draw", description=__doc__)
    parser.add_argument("target", type=Path, metavar="FILE.svg")
    parser.add_argument("--result", type=Path, default=RESULTS / "embed.json", metavar="FILE.json")
    arguments = parser.parse_args()
    arguments.target.write_text(draw(json.loads(arguments.result.read_text())))


def draw(result: dict[str, Any]) -> str:
    """An SVG with images/s and peak memory of ours, the peers and the limit."""
    peers = sorted(result["peers"].items(), key=lambda peer: -peer[1]["images_per_s"])
    speed: list[Bar] = [
        ("limit (decode + forward)", result["limit"]["images_per_s"], _LIMIT),
        ("clip_pipeline", result["ours"]["images_per_s"], _OURS),
        *((name, peer["images_per_s"], _OTHERS) for name, peer in peers),
    ]
    memory: list[Bar] = [
        ("clip_pipeline", result["ours"]["peak_mb"], _OURS),
        *((name, peer["peak_mb"], _OTHERS) for name, peer in peers),
    ]
    above, height = _chart("images/s, more is better", speed, top=30, digits=1)
    below, height = _chart("peak memory in MB, less is better", memory, top=height + 40, digits=0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="14">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{above}{below}</svg>\n'
    )


def _chart(title: str, bars: Sequence[Bar], *, top: int, digits: int) -> tuple[str, int]:
    """The bars below a title, and where they end."""
    most = max(value for _, value, _ in bars)
    parts = [f'<text x="10" y="{top}" font-weight="600">{escape(title)}</text>']
    y = top + 14
    for name, value, colour in bars:
        length = round((WIDTH - NAME_WIDTH - 90) * value / most)
        middle = y + BAR_HEIGHT * 0.68
        parts.append(f'<text x="{NAME_WIDTH - 10}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{NAME_WIDTH}" y="{y}" width="{length}" height="{BAR_HEIGHT}" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{NAME_WIDTH + length + 8}" y="{middle:.0f}">{value:,.{digits}f}</text>')
        y += BAR_HEIGHT + GAP
    return "".join(parts), y


if __name__ == "__main__":
    main()
