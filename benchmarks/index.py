"""Our index beside the indexes a user would pick: building, keeping it up to date, opening it, searching it.

Sizes are 100,000 and 1,000,000 vectors of 512 dimensions, made up (see `benchmarks.index_vectors`): the same vectors
and the same queries for all. `releases` is the product: every step reads sealed embeddings, builds, verifies and
publishes, so its seconds hold more than those of the others, which have the vectors handed to them. `index-alone` is
the index inside of a release, treated as the others are. Graphs are searched at the cheapest setting of a doubling
series that finds 99 % of the true ten nearest of 200 queries; ours and autofaiss choose for themselves. Recall is of
1,000 other queries. Building takes all cores, searching one.

Each phase of each contender is a process: `build_peak_mb` holds building, saving, adding and removing, `serve_peak_mb`
loading and searching; both hold Python and its packages, and the pages of mapped files that were touched.
`add_share_of_rebuild` is what publishing 10,000 more images takes, of what publishing all from nothing takes;
`add_share_with_checks` the same of whole runs, which end, after publishing, in checks of everything (`verify_s`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_contenders import PACKAGES
from benchmarks.index_phases import CONTENDERS, OURS, TARGET_RECALL, TUNING_QUERIES, K
from benchmarks.index_vectors import BATCH_ROWS, DESCRIPTION, DIM, MadeUpVectors, made_up_spec, true_nearest
from benchmarks.report import ROOT, console, machine, print_table, progress, publish, verdict
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.store import Store, discard

SIZES = (100_000, 1_000_000)
GOAL_RECALL, GOAL_LOAD_S, GOAL_ADD_SHARE = 0.95, 1.0, 0.05
LIMIT_S = 1800.0
"""A contender that takes longer for one phase is stopped, and said to have been."""
_QUERIES, _LARGE = 1000, 1_000_000
_COLUMNS = {
    "build s": "build_s", "add s": "add_s", "remove s": "remove_s", "save s": "save_s", "load s": "load_s",
    "build MB": "build_peak_mb", "serve MB": "serve_peak_mb", "bytes": "bytes_per_vector",
    "recall@10": "recall_at_10", "median ms": "median_ms", "queries/s": "queries_per_s",
    "in batches/s": "batch_queries_per_s",
}  # fmt: skip


def main() -> None:
    """Measure each size, print and publish."""
    names = (OURS, *CONTENDERS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, nargs="+", default=SIZES, metavar="N", help="multiples of 10,000")
    parser.add_argument("--contenders", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep the vectors here; needs 1 GB a million and more")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, metavar="S", help="of one phase (1800)")
    arguments = parser.parse_args()
    if any(n < BATCH_ROWS or n % BATCH_ROWS for n in arguments.vectors):
        parser.error(f"--vectors: expected multiples of {BATCH_ROWS:,}, got {arguments.vectors}")
    if not PACKAGES.is_dir():
        raise SystemExit(f"the programs to compare with are not in {PACKAGES}; run: make .venv/.installed-bench-index")
    facts = machine()
    with _folder(arguments.home) as home:
        sizes = {
            n: measure(home, n // BATCH_ROWS, arguments.contenders, limit_s=arguments.limit_s)
            for n in arguments.vectors
        }
    _publish(facts, sizes)


@contextmanager
def _folder(kept: Path | None) -> Generator[Path, None, None]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="clip-pipeline-index-") as folder:
        yield Path(folder)


def measure(home: Path, batches: int, names: Sequence[str], *, limit_s: float = LIMIT_S) -> dict[str, dict[str, Any]]:
    """What each contender did with so many batches."""
    found: dict[str, dict[str, Any]] = {}
    with progress() as bar:
        task = bar.add_task("Making vectors", total=batches + 3 + len(names))
        _prepare(home, batches, on_step=lambda: bar.advance(task))
        for name in names:
            bar.update(task, description=f"{batches * BATCH_ROWS:,} in {name}")
            found[name] = _contender(home, name, batches=batches, limit_s=limit_s)
            bar.advance(task)
    return found


def _prepare(home: Path, batches: int, *, on_step: Any) -> None:
    """Batches sealed, two more than there are to search; queries and what is truly nearest to them."""
    store, vectors = Store(home / "store"), MadeUpVectors.prepare()
    for number in range(1, batches + 3):
        if not store.embeddings_dir(made_up_spec().key, BatchKey(number)).is_dir():
            vectors.seal(store, number)
        on_step()
    queries = vectors.queries(TUNING_QUERIES + _QUERIES)
    np.save(home / "queries.npy", queries)
    np.save(home / "truth.npy", true_nearest(store, queries, batches=batches, k=K))
    on_step()


def _contender(home: Path, name: str, *, batches: int, limit_s: float) -> dict[str, Any]:
    """All phases of one contender; what it wrote is removed after. One that fails is said to have, but for ours."""
    phases = ("build", "serve", "upkeep") if name == OURS else ("build", "serve")
    found: dict[str, Any] = {}
    for phase in phases:
        command = [sys.executable, "-m", "benchmarks.index_phases", name, phase, str(home), "--batches", str(batches)]
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=limit_s)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            if name == OURS:
                raise
            took_long = isinstance(error, subprocess.TimeoutExpired)
            found["failed"] = f"{phase} took over {limit_s:g} s" if took_long else f"{phase} failed, see above"
            break
        found |= json.loads(done.stdout.splitlines()[-1])
    else:
        found["add_share_of_rebuild"] = round(found["add_s"] / found["build_s"], 4)
        if name == OURS:
            whole_s, checks_s = found["build_s"], found["verify_s"]
            found["add_share_with_checks"] = round((found["add_s"] + checks_s) / (whole_s + checks_s), 4)
    discard(home / name)
    if name == OURS:
        discard(Store(home / "store").releases_dir(made_up_spec().key))
    return found


def _publish(facts: dict[str, Any], sizes: dict[int, dict[str, dict[str, Any]]]) -> None:
    goals = {n: _goals(n, found[OURS]) for n, found in sizes.items() if OURS in found}
    publish(
        "index",
        {
            "machine": facts, "packages": {name: _version_of(name) for name in ("hnswlib", "usearch", "autofaiss")},
            "vectors": DESCRIPTION, "dim": DIM, "added": BATCH_ROWS, "removed": BATCH_ROWS, "k": K,
            "queries": _QUERIES, "search_threads": 1, "target_recall_of_graphs": TARGET_RECALL,
            "goals": {"recall_at_10": GOAL_RECALL, "load_s": GOAL_LOAD_S, "add_share_of_rebuild": GOAL_ADD_SHARE},
            "goals_reached": goals, "sizes": sizes,
        },
    )  # fmt: skip
    for n, found in sizes.items():
        rows = [(name, *(_shown(one.get(field)) for field in _COLUMNS.values())) for name, one in found.items()]
        print_table(f"\n{n:,} vectors of {DIM} dimensions, {DESCRIPTION}", ("", *_COLUMNS), rows)
        for name, one in found.items():
            console().print(f"  {name}: {one.get('failed', one.get('described'))}")
        if n in goals:
            share = f"{100 * found[OURS]['add_share_of_rebuild']:.1f} % of a rebuild"
            told = ", ".join(f"{goal} {verdict(reached)}" for goal, reached in goals[n].items())
            console().print(f"Releases: adding {BATCH_ROWS:,} takes {share}. {told}")


def _goals(n: int, ours: dict[str, Any]) -> dict[str, bool]:
    """Adding has a goal for large indexes only: a small one is rebuilt in seconds."""
    goals = {"recall_at_10": ours["recall_at_10"] >= GOAL_RECALL, "load_s": ours["load_s"] < GOAL_LOAD_S}
    return goals | ({"add_share_of_rebuild": ours["add_share_of_rebuild"] < GOAL_ADD_SHARE} if n >= _LARGE else {})


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:,g}" if isinstance(value, int | float) else str(value)


def _version_of(package: str) -> str | None:
    sys.path.append(str(PACKAGES))
    try:
        return version(package)
    finally:
        sys.path.remove(str(PACKAGES))


if __name__ == "__main__":
    main()
