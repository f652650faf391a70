"""Our own contenders: releases as they are published and served, and the index code alone, in place and unverified."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_contenders import Faiss, Ids
from benchmarks.index_vectors import BATCH_ROWS, DIM, blocks, live_images, made_up_spec
from clip_pipeline import __version__
from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.metrics import IdMatrix
from clip_pipeline.core.store import Store
from clip_pipeline.index.build import build_index, read_index, write_index
from clip_pipeline.index.choice import choose_index
from clip_pipeline.index.compact import compact_release
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.publish import DEFAULT_POLICY, merge_release
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.index.staging import Provenance
from clip_pipeline.index.verify import verify_release


class IndexAlone(Faiss):
    """`clip_pipeline.index.build`: what a release puts into a segment, with nothing around it."""

    def build(self, store: Store, batches: int) -> None:
        """Chosen, trained, filled, and its probes tuned."""
        choice = choose_index(batches * BATCH_ROWS, DIM, policy=DEFAULT_POLICY)
        self.index = build_index(choice, DIM, rows=batches * BATCH_ROWS, blocks=lambda: blocks(store, batches))
        probes = f", {self.index.nprobe} probes" if choice.lists else ""
        self.described = f"{choice.index_type}{probes}, built, added to and saved as one index"

    def add(self, block: Any) -> None:
        """In place, which a release never does."""
        self.index.add_with_ids(block.vectors, block.ids)

    def save(self, folder: Path) -> None:
        """One file."""
        write_index(self.index, folder / "index.faiss")

    def load(self, folder: Path) -> None:
        """Mapped."""
        self.index = read_index(folder / "index.faiss")


class Releases:
    """Every step publishes a release of the store: sealed embeddings read and checked, index built, verified."""

    efforts: tuple[int, ...] = ()
    described = "releases: sealed embeddings in, a verified release out, at every step"
    _reader: ReleaseReader

    def __init__(self, store: Store) -> None:
        self._store = store

    def publish(self, live: LiveImages) -> str:
        """Merge what is live now; returns the index types of the segments."""
        merged = merge_release(self._store, made_up_spec(), live=live, provenance=_provenance())
        return " + ".join(segment.index_type for segment in merged.release.segments)

    def compact(self) -> None:
        """The segments but the first, which is the large one, become one."""
        release = ReleaseReader.open(self._store, made_up_spec().key, verify=False).release
        small = frozenset(segment.name for segment in release.segments[1:])
        compact_release(self._store, made_up_spec(), provenance=_provenance(), segments=small)

    def verify(self) -> None:
        """Everything against the sealed embeddings, as the checks at the end of a merging run do after publishing."""
        report = verify_release(self._store, made_up_spec())
        if report.faults:
            raise SystemExit(f"the release has faults, so its figures say nothing: {report.faults}")

    def load(self, folder: Path) -> None:
        """Mapped, digests not compared. folder: not looked at."""
        del folder
        self._reader = ReleaseReader.open(self._store, made_up_spec().key, verify=False)

    def load_verified(self) -> None:
        """As the service opens it: each file is read and compared with its digest."""
        self._reader = ReleaseReader.open(self._store, made_up_spec().key)

    def search(self, queries: EmbeddingMatrix, k: int) -> IdMatrix:
        """int64 [q, k]."""
        return self._reader.search(queries, k).ids

    def set_effort(self, effort: int) -> None:
        """Nothing to set: the probes are in the release."""
        raise NotImplementedError

    def disk_bytes(self) -> int:
        """Of the current release."""
        number = self._store.current_release_number(made_up_spec().key)
        assert number is not None, "nothing was published"
        folder = self._store.release_dir(made_up_spec().key, number)
        return sum(path.stat().st_size for path in folder.iterdir())


def build_of_releases(releases: Releases, batches: int) -> dict[str, Any]:
    """Seconds and bytes of publishing everything from nothing."""
    began = time.perf_counter()
    kind = releases.publish(live_images(batches))
    seconds = time.perf_counter() - began
    stored = releases.disk_bytes() / (batches * BATCH_ROWS)
    return {
        "described": f"{kind}; {releases.described}", "build_s": round(seconds, 3), "save_s": None,
        "bytes_per_vector": round(stored, 1),
    }  # fmt: skip


def upkeep_of_releases(releases: Releases, batches: int) -> dict[str, Any]:
    """Seconds of adding a batch, verifying all, adding another, making one segment of the two, and removing as many."""
    steps: dict[str, Callable[[], object]] = {
        "add_s": lambda: releases.publish(live_images(batches + 1)),
        "verify_s": releases.verify,
        "second_add_s": lambda: releases.publish(live_images(batches + 2)),
        "compact_two_added_s": releases.compact,
        "remove_s": lambda: releases.publish(_without_removed(batches)),
    }
    return {name: round(seconds_of(do), 3) for name, do in steps.items()}


def seconds_of(do: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def spread_ids(batches: int) -> Ids:
    """As many images as a batch has, spread evenly over all of them: what is removed."""
    return np.linspace(0, batches * BATCH_ROWS - 1, BATCH_ROWS).astype(np.int64)


def _without_removed(batches: int) -> LiveImages:
    live = live_images(batches + 2)
    keep = np.ones(len(live), dtype=bool)
    keep[spread_ids(batches)] = False
    return live.only(keep)


def _provenance() -> Provenance:
    return Provenance("benchmark", __version__, datetime.now(UTC))
