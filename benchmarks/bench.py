"""What this project is measured by, in one run: beside the tools that one would use instead, with one table at the end.

Each part is a benchmark of its own, run one after the other and written to benchmarks/results/ as JSON; the last file
written is bench.json, with the rows of the table.

  embed     images/s at 2 megapixels beside transformers, open_clip and clip-retrieval; fidelity; memory     30 min
  register  100,000 paths against 1,000,000 known, beside a JSON file and bare look-ups                       5 min
  index     building, adding, loading, searching 100,000 vectors beside faiss, hnswlib, usearch, autofaiss   10 min
  search    searches by text over HTTP among 100,000 images, beside a loop without a service                  5 min

The minutes are of two cores with nothing else to do; let nothing else run, ratios bear it better than images/s. What
fails does not keep the others from running, and the exit status tells. Options of one part: see each with --help, such
as `make bench-embed ARGS=--help`.

  make bench ARGS=--quick                    small sizes, to see it work; the figures mean little
  make bench ARGS="--only embed --repeat 3"  three runs, and how far their ratios lie apart
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import RESULTS, ROOT, Document, console, machine, print_table, publish, verdict

GOAL_SPREAD = 0.10
"""Of the ratios of several runs: the largest and the smallest, over the median."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the last table. reached: None where nothing was set out to be reached."""

    part: str
    figure: str
    measured: str
    goal: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark of `make bench`: the module, what it is given, the name of its result and how to read that."""

    module: str
    result: str
    given: tuple[str, ...]
    given_quickly: tuple[str, ...]
    rows: Callable[[Document], list[Row]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a part. document: what it wrote; None where it failed."""

    part: str
    seconds: float
    status: int
    document: Document | None


def main() -> None:
    """Run the parts that are asked for, print the table, and exit with status 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes, not the better part of an hour")
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="runs of each part (1)")
    parser.add_argument(
        "--fidelity-images", type=Path, metavar="DIR",
        help="JPEGs that embed measures cosines with (those of its rounds: crops of 12 photographs)",
    )  # fmt: skip
    arguments = parser.parse_args()
    facts, parts = machine(), chosen_parts(arguments.only, quick=arguments.quick, photographs=arguments.fidelity_images)
    runs: list[Run] = []
    for number in range(arguments.repeat):
        for name, part in parts.items():
            console().print(f"\n{name}, run {number + 1} of {arguments.repeat}")
            runs.append(_run(name, part))
    rows = all_rows(runs)
    _publish(facts, runs, rows, quick=arguments.quick)
    if any(run.status for run in runs):
        raise SystemExit(1)


def chosen_parts(only: Sequence[str] | None, *, quick: bool, photographs: Path | None) -> dict[str, Part]:
    """The parts by name, with the arguments that they are to be run with."""
    found: dict[str, Part] = {}
    for name in only or PARTS:
        part = PARTS[name]
        given = part.given_quickly if quick else part.given
        if name == "embed" and photographs is not None:
            given = (*given, "--fidelity-images", str(photographs.absolute()))
        found[name] = replace(part, given=given)
    return found


def all_rows(runs: Sequence[Run]) -> list[Row]:
    """The table: what failed, the last whole run of each part, and how far apart the ratios of several runs are."""
    rows = [Row(run.part, "run", f"ended with status {run.status}", "0", reached=False) for run in runs if run.status]
    for name, part in PARTS.items():
        documents = [run.document for run in runs if run.part == name and run.document is not None]
        if documents:
            rows += part.rows(documents[-1])
        if name == "embed" and len(documents) > 1:
            rows += _spread_rows([document["ratio"] for document in documents])
    return rows


def _run(name: str, part: Part) -> Run:
    """Run it with its progress and its table on standard error; its JSON is read from the file that it writes."""
    path = RESULTS / f"{part.result}.json"
    path.unlink(missing_ok=True)  # what an earlier run left must not pass for this one's
    began = time.perf_counter()
    command = [sys.executable, "-m", part.module, *part.given]
    status = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode
    document = json.loads(path.read_text()) if path.is_file() else None
    return Run(name, round(time.perf_counter() - began, 1), status, document)


def _publish(facts: Document, runs: Sequence[Run], rows: Sequence[Row], *, quick: bool) -> None:
    publish(
        "bench",
        {
            "machine": facts,
            "quick": quick,
            "runs": [{"part": run.part, "seconds": run.seconds, "status": run.status} for run in runs],
            "ratios": [run.document["ratio"] for run in runs if run.part == "embed" and run.document is not None],
            "rows": [asdict(row) for row in rows],
        },
    )
    title = "\nAll of it" + (", small: these figures mean little" if quick else "")
    table = [
        (f"{row.part}: {row.figure}", row.measured, row.goal, "" if row.reached is None else verdict(row.reached))
        for row in rows
    ]
    print_table(title, ("", "measured", "goal", ""), table)
    console().print(f"Written to {RESULTS}")


def _embed_rows(document: Document) -> list[Row]:
    ours, peers = document["ours"], document["peers"]
    speeds: Mapping[str, Any] = {f"ours, {ours['dtype']} by {ours['backend']}": ours, **peers}
    rows = [
        Row("embed", name, f"{one['images_per_s']:.1f} images/s, {one['peak_mb']:,} MB at most")
        for name, one in speeds.items()
    ]
    rows += [
        Row("embed", goal["name"], f"{goal['measured']:g}", f"{goal['must_be']} {goal['goal']:g}", goal["reached"])
        for goal in document["goals"]
    ]
    rows.append(Row("embed", "ours at its first start, converting", f"{ours['first_start_peak_mb']:,} MB at most"))
    cosine = document["cosine"]
    if cosine is not None:
        rows.append(Row("embed", f"cosine, least of {cosine['pictures']:,} pictures", f"{cosine['min']:.6f}"))
    return rows


def _spread_rows(ratios: Sequence[Mapping[str, float]]) -> list[Row]:
    """For each program, the ratios of the runs."""
    rows: list[Row] = []
    for program in ratios[0]:
        values = [one[program] for one in ratios]
        spread = (max(values) - min(values)) / median(values)
        told = f"{', '.join(f'{value:.2f}' for value in values)}: {spread:.0%} apart"
        goal = f"at most {GOAL_SPREAD:.0%}"
        rows.append(Row("embed", f"times {program}, {len(values)} runs", told, goal, spread <= GOAL_SPREAD))
    return rows


def _register_rows(document: Document) -> list[Row]:
    rows = [
        Row("register", f"{name}, {document['paths']:,} paths", f"{way['seconds']:g} s, {way['peak_memory_gib']:g} GiB")
        for name, way in document["ways"].items()
    ]
    goal = f"under {document['goal_seconds']:g} s and {document['goal_memory_gib']:g} GiB"
    rows[0] = replace(rows[0], goal=goal, reached=document["goal_reached"])
    return rows


def _index_rows(document: Document) -> list[Row]:
    rows: list[Row] = []
    for size, contenders in document["sizes"].items():
        for name, one in contenders.items():
            told = one.get("failed") or (
                f"recall@10 {one['recall_at_10']:.4f}, {one['queries_per_s']:,.0f}/s, built in {one['build_s']:.1f} s"
            )
            rows.append(Row("index", f"{name}, {int(size):,} vectors", told))
        for goal, reached in document["goals_reached"].get(size, {}).items():
            measured = f"{contenders['releases'][goal]:g}"
            rows.append(
                Row("index", f"{goal}, {int(size):,} vectors", measured, f"{document['goals'][goal]:g}", reached)
            )
    return rows


def _search_rows(document: Document) -> list[Row]:
    rows = [
        Row("search", f"{way}, {clients} clients", f"{load['requests_per_s']:g}/s, p99 {load['p99_ms']:g} ms")
        for way, by_clients in document["loads"].items()
        for clients, load in by_clients.items()
    ]
    bare = document["bare"]
    rows.append(Row("search", "a loop without a service", f"{bare['requests_per_s']:g}/s, p99 {bare['p99_ms']:g} ms"))
    rows.append(Row("search", "failed requests", f"{document['failed']}", "0", document["failed"] == 0))
    return rows


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return number


PARTS = {
    "embed": Part("benchmarks.embed", "embed", (), ("--images", "48", "--rounds", "1"), _embed_rows),
    "register": Part(
        "benchmarks.register", "register", (), ("--known", "100000", "--paths", "10000"), _register_rows
    ),
    "index": Part("benchmarks.index", "index", ("--vectors", "100000"), ("--vectors", "20000"), _index_rows),
    "search": Part(
        "benchmarks.search_http", "search_http", (),
        ("--images", "10000", "--clients", "8", "--seconds", "3", "--swaps", "2"), _search_rows,
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
