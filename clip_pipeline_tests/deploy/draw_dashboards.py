"""Draws the dashboards of `deploy/grafana` with the data of a Prometheus, for eyes that have no Grafana at hand.

    python -m clip_pipeline_tests.deploy.draw_dashboards --prometheus http://127.0.0.1:9090 --minutes 30 --out FOLDER

For each dashboard a page and, where a Chromium is installed, a picture of it. It says what it does not draw, which
panels are empty, and where a legend or a title has no room. Grafana itself may do otherwise than is read here.
"""

import argparse
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import httpx
import yaml
from playwright.sync_api import sync_playwright

from clip_pipeline_tests.browser.chromium import ARGUMENTS, find_chromium
from clip_pipeline_tests.deploy import grafana_svg
from clip_pipeline_tests.deploy.grafana_json import (
    Box,
    Dashboard,
    box_of,
    legend_name,
    read_dashboard,
    series_color,
    step_of,
    with_intervals,
)
from clip_pipeline_tests.deploy.grafana_svg import Series

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
WIDTH_PX, EDGE_PX, TITLE_PX = 1480, 12, 44
STYLE = """
body { margin: 0; background: #111217; color: #CCCCDC; font-family: Inter, Helvetica, Arial, sans-serif; }
header { height: 44px; line-height: 44px; padding: 0 12px; font-size: 18px; }
header small { float: right; color: #8E8E99; font-size: 12px; }
main { position: relative; margin: 0 12px 12px; }
section { position: absolute; box-sizing: border-box; background: #181B1F; border: 1px solid #25272D;
  padding: 0 8px 8px; overflow: hidden; border-radius: 2px; }
h2 { margin: 0; height: 32px; line-height: 32px; font-size: 14px; font-weight: 500; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
h2 small { color: #8E8E99; font: italic 10px serif; border: 1px solid; border-radius: 50%; padding: 0 4px; }
svg { display: block; } .grid { stroke: #2A2C33; } .tick { fill: #A7A8B3; font-size: 12px; }
.legend { overflow: hidden; font-size: 12px; line-height: 20px; }
.entry { margin-right: 14px; white-space: nowrap; display: inline-block; }
.entry i { display: inline-block; width: 14px; height: 4px; margin-right: 6px; vertical-align: middle; }
.nothing { position: absolute; inset: 32px 8px 8px; display: flex; align-items: center; justify-content: center;
  color: #8E8E99; font-size: 15px; }
"""
NO_ROOM = """() => [...document.querySelectorAll('h2, .legend')].filter(
  (e) => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 2
).map((e) => e.parentElement.querySelector('h2').textContent + ': no room for the ' + (e.className || 'title'))
"""


@dataclass(frozen=True, slots=True)
class Window:
    """What span of time is drawn, and how often it was scraped."""

    begin_s: int
    end_s: int
    scrape_s: int

    @property
    def span_s(self) -> int:
        """Its length."""
        return self.end_s - self.begin_s


class Prometheus:
    """Asks a Prometheus what Grafana would ask it."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url.rstrip("/") + "/api/v1", trust_env=False, timeout=30)

    def ask(self, target: dict[str, Any], window: Window, *, width_px: float) -> list[tuple[dict[str, str], list[Any]]]:
        """(labels, points) of every series of a target."""
        step = step_of(window.span_s, width_px, scrape_s=window.scrape_s)
        expr = with_intervals(target["expr"], step, span_s=window.span_s, scrape_s=window.scrape_s)
        if target.get("instant"):
            found = self._get("query", query=expr, time=window.end_s)
            return [(one["metric"], [_point(*one["value"])]) for one in found]
        begin, end = window.begin_s // step * step, window.end_s // step * step
        found = self._get("query_range", query=expr, start=begin, end=end, step=step)
        moments = range(begin, end + 1, step)
        return [(one["metric"], _with_gaps(one["values"], moments)) for one in found]

    def _get(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        answer = self._client.get(what, params=parameters)
        document = answer.json()
        if document["status"] != "success":
            raise ValueError(f"Prometheus refuses {parameters['query']!r}: {document['error']}")
        return document["data"]["result"]


def _point(at: float, value: str) -> tuple[float, float | None]:
    return float(at), float(value)


def _with_gaps(values: list[Any], moments: Sequence[int]) -> list[tuple[float, float | None]]:
    """A point for each step; None where there is no sample, or one that is not a number."""
    known = {round(at): float(value) for at, value in values}
    return [(at, known[at] if math.isfinite(known.get(at, math.nan)) else None) for at in moments]


def scrape_interval() -> int:
    """How often Prometheus scrapes, as the data source of `deploy/` tells Grafana."""
    document = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    return int(document["datasources"][0]["jsonData"]["timeInterval"].removesuffix("s"))


def draw_page(dashboard: Dashboard, prometheus: Prometheus, *, window: Window) -> tuple[str, list[str]]:
    """The page of a dashboard, and what an operator should hear about it."""
    said = [f"not drawn: {line}" for line in dashboard.not_drawn]
    sections, bottom = [], 0.0
    for panel in dashboard.panels:
        box = box_of(panel["gridPos"], width_px=WIDTH_PX)
        bottom = max(bottom, box.y + box.height)
        series = ask_panel(panel, prometheus, window=window, width_px=box.width)
        said += [f"{panel['title']}: {line}" for line in faults_of(series)]
        title = escape(panel["title"]) + (" <small>i</small>" if panel.get("description") else "")
        sections.append(
            f'<section style="left:{box.x:.1f}px;top:{box.y:.1f}px;width:{box.width:.1f}px;height:{box.height:.1f}px">'
            f"<h2>{title}</h2>{draw_panel(panel, series, box=box, window=window)}</section>"
        )
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(window.end_s))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(dashboard.document["title"])}</title>'
        f"<style>{STYLE}</style><header>{escape(dashboard.document['title'])} <small>{window.span_s // 60} minutes "
        f"until {until} · drawn by draw_dashboards.py from Prometheus, not by Grafana</small></header>"
        f'<main style="width:{WIDTH_PX}px;height:{bottom:.0f}px">{"".join(sections)}</main></html>'
    ), said


def ask_panel(panel: dict[str, Any], prometheus: Prometheus, *, window: Window, width_px: float) -> list[Series]:
    """Every series of a panel, named and coloured."""
    found = [
        (legend_name(target.get("legendFormat", ""), labels), points)
        for target in panel["targets"]
        for labels, points in prometheus.ask(target, window, width_px=width_px)
    ]
    return [
        Series(name, series_color(name, number, panel=panel), points) for number, (name, points) in enumerate(found)
    ]


def faults_of(series: Sequence[Series]) -> list[str]:
    """What is wrong with the data of a panel: there is none, or no telling which is which."""
    if all(one.is_empty for one in series):
        return ["no data"]
    names = [one.name for one in series]
    again = sorted({name for name in names if names.count(name) > 1})
    return [f"{names.count(name)} series are called {name!r}" for name in again]


def draw_panel(panel: dict[str, Any], series: Sequence[Series], *, box: Box, window: Window) -> str:
    """The inside of a panel."""
    if not series:
        return grafana_svg.nothing(panel)
    match panel["type"]:
        case "stat":
            return grafana_svg.stat(panel, series, box=box)
        case "bargauge":
            return grafana_svg.bar_gauge(panel, series, box=box)
        case "timeseries":
            return grafana_svg.time_series(panel, series, box=box, span_s=(window.begin_s, window.end_s))
        case other:
            return f'<div class="nothing">panels of type {escape(other)} are not drawn</div>'


def photograph(pages: Sequence[Path]) -> list[str]:
    """A PNG beside each page, and what has no room on it."""
    executable = find_chromium()
    if executable is None:
        return ["no pictures: no Chromium is installed"]
    said = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": WIDTH_PX + 2 * EDGE_PX, "height": 400})
        for path in pages:
            page.goto(path.resolve().as_uri())
            page.screenshot(path=path.with_suffix(".png"), full_page=True)
            said += [f"{path.stem}: {line}" for line in page.evaluate(NO_ROOM)]
        browser.close()
    return said


def main() -> None:
    """Draw every dashboard, and say what is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prometheus", required=True, metavar="URL")
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--scrape", type=int, default=scrape_interval(), metavar="SECONDS", help="how often it scrapes")
    parser.add_argument("--only", default="", metavar="PATTERN", help="draw dashboards whose name matches only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    prometheus, end = Prometheus(arguments.prometheus), int(time.time())
    window = Window(end - arguments.minutes * 60, end, arguments.scrape)
    pages = []
    for path in sorted(path for path in GRAFANA.glob("*.json") if re.search(arguments.only, path.stem)):
        page, said = draw_page(read_dashboard(path), prometheus, window=window)
        pages.append(arguments.out / f"{path.stem}.html")
        pages[-1].write_text(page)
        for line in said:
            print(f"{path.stem}: {line}")  # noqa: T201
    for line in photograph(pages):
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
