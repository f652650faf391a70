"""One phase of one contender in a process of its own, whose peak memory is the phase's: part of `benchmarks.index`.

`build` makes the index and saves it, then adds to the one in memory and removes from it. `serve` loads what was saved
and searches it on one core. `upkeep`, of releases alone, adds and removes by publishing further ones.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.footprint import own_peak_bytes
from benchmarks.index_contenders import AutoFaiss, Contender, FlatIP, Hnswlib, Searched, Usearch
from benchmarks.index_ours import (
    IndexAlone,
    Releases,
    build_of_releases,
    seconds_of,
    spread_ids,
    upkeep_of_releases,
)
from benchmarks.index_vectors import BATCH_ROWS, ids_of_batch, vectors_of_batch
from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.metrics import IdMatrix, recall_at_k
from clip_pipeline.core.store import Store
from clip_pipeline.index.source import VectorBlock

K = 10
TARGET_RECALL = 0.99
TUNING_QUERIES = 200
OURS, ALONE = "releases", "index-alone"
CONTENDERS: dict[str, Callable[[], Contender]] = {
    ALONE: IndexAlone,
    "flat-ip": FlatIP,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "autofaiss": lambda: AutoFaiss("4GB"),
    "autofaiss-same-memory": lambda: AutoFaiss(None),
}
"""autofaiss twice: with room for whatever it likes best, and with what ours takes."""
_TIMED_S, _TIMED_QUERIES = 10.0, 500


def main() -> None:
    """Do one phase and print what came of it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index_phases", description=__doc__)
    parser.add_argument("name", choices=(OURS, *CONTENDERS))
    parser.add_argument("phase", choices=("build", "serve", "upkeep"))
    parser.add_argument("home", type=Path)
    parser.add_argument("--batches", type=int, required=True)
    arguments = parser.parse_args()
    store, folder = Store(arguments.home / "store"), arguments.home / arguments.name
    folder.mkdir(exist_ok=True)
    doing = {"build": _build, "serve": _serve, "upkeep": _upkeep}[arguments.phase]
    found = doing(arguments.name, store, folder, arguments.batches)
    sys.stdout.write(json.dumps(found | {f"{arguments.phase}_peak_mb": round(own_peak_bytes() / 1e6)}))


def _build(name: str, store: Store, folder: Path, batches: int) -> dict[str, Any]:
    if name == OURS:
        return build_of_releases(Releases(store), batches)
    made = CONTENDERS[name]()
    found: dict[str, Any] = {"build_s": round(seconds_of(lambda: made.build(store, batches)), 3)}
    found["described"] = made.described
    found["save_s"] = round(seconds_of(lambda: made.save(folder)), 3)
    saved = sum(path.stat().st_size for path in folder.iterdir())
    found["bytes_per_vector"] = round(saved / (batches * BATCH_ROWS), 1)
    new = VectorBlock(ids_of_batch(batches + 1), vectors_of_batch(store, batches + 1))
    found["add_s"] = round(seconds_of(lambda: made.add(new)), 3)
    try:
        found["remove_s"] = round(seconds_of(lambda: made.remove(spread_ids(batches))), 3)
    except NotImplementedError:
        found["remove_s"] = None
    return found


def _upkeep(name: str, store: Store, folder: Path, batches: int) -> dict[str, Any]:
    del folder
    return upkeep_of_releases(Releases(store), batches) if name == OURS else {}


def _serve(name: str, store: Store, folder: Path, batches: int) -> dict[str, Any]:
    """On one core. The files were just written or read, so they are in the page cache for everyone."""
    del batches
    faiss.omp_set_num_threads(1)
    asked, truth = (np.load(folder.parent / f"{part}.npy") for part in ("queries", "truth"))
    made = Releases(store) if name == OURS else CONTENDERS[name]()
    found: dict[str, Any] = {"load_s": round(seconds_of(lambda: made.load(folder)), 4)}
    if isinstance(made, Releases):
        found["load_verified_s"] = round(seconds_of(made.load_verified), 4)
    tuning, rest = slice(0, TUNING_QUERIES), slice(TUNING_QUERIES, None)
    found["tried"] = _tune(made, asked[tuning], truth[tuning])
    return found | _searched(made.search, asked[rest], truth[rest])


def _tune(made: Searched, asked: EmbeddingMatrix, truth: IdMatrix) -> list[dict[str, float]]:
    """Leave the cheapest effort that reaches the target, or the dearest; what each tried one found."""
    tried: list[dict[str, float]] = []
    for effort in made.efforts:
        made.set_effort(effort)
        recall = recall_at_k(made.search(asked, K), truth, k=K)
        tried.append({"effort": effort, "recall_at_10": round(recall, 4)})
        if recall >= TARGET_RECALL:
            break
    return tried


def _searched(search: Callable[[EmbeddingMatrix, int], IdMatrix], asked: EmbeddingMatrix, truth: IdMatrix) -> Any:
    search(asked[:20], K)
    began = time.perf_counter()
    found = search(asked, K)
    batch_s = time.perf_counter() - began
    times: list[float] = []
    while len(times) < _TIMED_QUERIES and sum(times) < _TIMED_S:
        query = asked[len(times) % len(asked)][None, :]
        times.append(seconds_of(lambda query=query: search(query, K)))
    return {
        "recall_at_10": round(recall_at_k(found, truth, k=K), 4),
        "batch_queries_per_s": round(len(asked) / batch_s, 1),
        "queries_per_s": round(len(times) / sum(times), 1),
        "median_ms": round(1000 * statistics.median(times), 3),
        "p99_ms": round(1000 * float(np.quantile(times, 0.99)), 3),
        "timed_queries": len(times),
    }


if __name__ == "__main__":
    main()
