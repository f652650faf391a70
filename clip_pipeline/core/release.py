"""What a release states about itself: `release.json`, as dataclasses that are written and read here only.

The id maps beside it are plain NumPy files, so whoever wants to know what a release holds needs no FAISS.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.errors import IntegrityError, NotFoundError
from clip_pipeline.core.store import Store

IdArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """The rows `offset` to `offset + rows` of a segment's ids: one batch at one content digest (its seal's)."""

    key: str
    digest: str
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One FAISS file over some batches, with its id map and, where images left, the ids that no longer count.

    index_type: `flat-fp16`, `ivf<nlist>-fp16` or `ivf<nlist>-sq8`. files: file name -> SHA-256. rows counts all
    vectors in the file, dead those hidden in this release. An image id occurs at most once in a segment.
    """

    name: str
    index_type: str
    rows: int
    dead: int
    batches: tuple[SegmentBatch, ...]
    index_file: str
    ids_file: str
    dead_file: str | None
    files: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRows:
    """The id map of one segment. ids: int64 [rows], in row order; dead: int64, ascending, those hidden."""

    ids: IdArray
    dead: IdArray


@dataclass(frozen=True, slots=True)
class Release:
    """An immutable published set of segments and where they came from.

    images: live images, rows minus dead over all segments. recall: k-recall@k of `recall_queries` sampled queries
    against exact float32 search of the stored vectors, k = `recall_k`. created_at: UTC, ISO 8601, `Z`.
    """

    number: int
    encoder_name: str
    model_name: str
    fingerprint: str
    dim: int
    metric: str
    images: int
    segments: tuple[Segment, ...]
    recall: float
    recall_k: int
    recall_queries: int
    parent: int | None
    run_id: str
    code_version: str
    created_at: str


def write_release(folder: Path, release: Release) -> None:
    """Write `release.json`, the last file of a release, into its (temporary) folder."""
    (folder / "release.json").write_text(json.dumps(asdict(release), indent=1))


def read_release(store: Store, encoder_key: str, number: int) -> Release:
    """The statement of one release; its files are not checked here.

    Raises:
        NotFoundError: no such release.
        IntegrityError: `release.json` is not readable as one.
    """
    path = store.release_dir(encoder_key, number) / "release.json"
    try:
        fields = json.loads(path.read_text())
        segments = tuple(
            Segment(**(s | {"batches": tuple(SegmentBatch(**b) for b in s["batches"])})) for s in fields["segments"]
        )
        return Release(**(fields | {"segments": segments}))
    except FileNotFoundError as error:
        raise NotFoundError(f"release {number} does not exist at {path.parent}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a release ({error}); materialize merged_index to publish anew") from error


def read_segment_rows(folder: Path, segment: Segment) -> SegmentRows:
    """The id map of one segment of the release in `folder`; `ids` is mapped read-only.

    Raises:
        IntegrityError: a file is missing, is no int64 array, or does not have the stated number of rows.
    """
    try:
        ids = np.load(folder / segment.ids_file, mmap_mode="r")
        dead = np.load(folder / segment.dead_file) if segment.dead_file else np.empty(0, np.int64)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{folder}: the id map of segment {segment.name} is not readable ({error})") from error
    expected = [((segment.rows,), np.int64), ((segment.dead,), np.int64)]
    if [(ids.shape, ids.dtype), (dead.shape, dead.dtype)] != expected:
        raise IntegrityError(
            f"{folder}: segment {segment.name} states {segment.rows} rows and {segment.dead} dead ones, its id map "
            f"holds {ids.shape} {ids.dtype} and {dead.shape} {dead.dtype}; materialize merged_index"
        )
    return SegmentRows(ids, dead)


def release_numbers(store: Store, encoder_key: str) -> list[int]:
    """The numbers of all complete releases of one encoder, ascending; one of them may never have been published."""
    folder = store.releases_dir(encoder_key)
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def read_current_release(store: Store, encoder_key: str) -> Release | None:
    """The published release of one encoder, or None before the first."""
    number = store.current_release_number(encoder_key)
    return None if number is None else read_release(store, encoder_key, number)


def referenced_batches(store: Store) -> set[str]:
    """The keys of all batches that some release on disk holds rows of, under whatever encoder.

    Raises:
        IntegrityError: a release cannot be read, so that nobody can say.
    """
    found: set[str] = set()
    for encoder_key in store.encoders_with_releases():
        for number in release_numbers(store, encoder_key):
            try:
                release = read_release(store, encoder_key, number)
            except NotFoundError:  # pruned meanwhile
                continue
            found |= {batch.key for segment in release.segments for batch in segment.batches}
    return found
