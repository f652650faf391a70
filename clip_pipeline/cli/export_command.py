"""`clip-pipeline export`: searchable embeddings in the layout that clip-retrieval and its relatives read."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clip_pipeline.cli.configuration import existing_ledger, load_settings
from clip_pipeline.cli.output import console, count, error_console, print_json, progress_bars
from clip_pipeline.core.embeddings import StoredVectors, read_embeddings
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ConfigurationError, NotFoundError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.store import Store, fsync_path, replace_dir
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.lookup import images_by_id
from clip_pipeline.ledger.publishing import live_vectors
from clip_pipeline.ledger.seals import released_images

VECTORS, METADATA = Path("img_emb/img_emb_0.npy"), Path("metadata/metadata_0.parquet")
SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("image_id", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("size_bytes", pa.int64()),
    ]
)

Advance = Callable[[int, int], None]


def export(folder: Path, *, as_json: bool) -> None:
    """Write both files into `folder`, all or nothing."""
    target = _empty_target(folder)
    settings = load_settings()
    with existing_ledger(settings) as ledger, progress_bars(error_console(), transient=True) as progress:
        spec = pinned_encoder(settings.store)
        if spec is None:
            raise NotFoundError("nothing is embedded yet; start with `clip-pipeline up --watch FOLDER`")
        task = progress.add_task("Exporting", total=None)
        images = write_export(
            ledger, settings.store, spec, target=target,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    if as_json:
        files = {"embeddings": str(target / VECTORS), "metadata": str(target / METADATA)}
        print_json({"images": images, "embedding_dim": spec.dim, "model_name": spec.model_name} | files)
    else:
        console().print(f"{count(images, 'embedding')} of {spec.dim} dimensions ({spec.model_name}) in {target}")


def write_export(
    ledger: Ledger, store: Store, spec: EncoderSpec, *, target: Path, advance: Advance = lambda _done, _total: None
) -> int:
    """Export the images of the recorded release that are live still; returns how many.

    Batch by batch: memory does not grow with their number. Rows are ordered by batch, then by image id.
    """
    ids, batches = live_vectors(ledger)
    shown = np.isin(ids, released_images(ledger))
    ids, batches = ids[shown], batches[shown]
    try:
        with replace_dir(target) as temporary:
            written = _write(ledger, store, spec, temporary, ids=ids, batches=batches, advance=advance)
    except OSError as error:
        raise StoreError(f"cannot write the export to {target}: {error.strerror or error}") from error
    return written


def _write(
    ledger: Ledger,
    store: Store,
    spec: EncoderSpec,
    folder: Path,
    *,
    ids: np.ndarray,
    batches: np.ndarray,
    advance: Advance,
) -> int:
    for path in (VECTORS, METADATA):
        (folder / path).parent.mkdir()
    done = 0
    vectors_path = folder / VECTORS
    with vectors_path.open("wb") as vectors, pq.ParquetWriter(folder / METADATA, SCHEMA) as metadata:
        _write_header(vectors, rows=len(ids), dim=spec.dim)
        for batch in np.unique(batches):
            mine = ids[batches == batch]
            for block, rows in _blocks(ledger, store, spec, BatchKey(int(batch)), mine):
                vectors.write(np.ascontiguousarray(block, dtype="<f2").tobytes())
                metadata.write_table(pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False))
                done += len(rows)
                advance(done, len(ids))
        # An image that went while this ran is in neither file: the header says what there is.
        vectors.seek(0)
        _write_header(vectors, rows=done, dim=spec.dim)
    for path in (VECTORS, METADATA):
        fsync_path(folder / path)
        fsync_path((folder / path).parent)
    return done


def _blocks(
    ledger: Ledger, store: Store, spec: EncoderSpec, batch: BatchKey, image_ids: np.ndarray
) -> Iterator[tuple[StoredVectors, pd.DataFrame]]:
    sealed = read_embeddings(store, spec.key, batch)
    positions = pd.Series(np.arange(len(sealed.rows)), index=sealed.rows["image_id"])
    live = images_by_id(ledger, image_ids.tolist())
    kept = [i for i in image_ids.tolist() if i in live and i in positions.index]
    rows = pd.DataFrame(
        {
            "image_path": [live[i].path for i in kept],
            "image_id": kept,
            "sha256": [live[i].sha256 for i in kept],
            "width": [live[i].width for i in kept],
            "height": [live[i].height for i in kept],
            "format": [live[i].format for i in kept],
            "size_bytes": [live[i].size_bytes for i in kept],
        }
    )
    if kept:
        yield sealed.vectors[positions.loc[kept].to_numpy()], rows


def _write_header(file: object, *, rows: int, dim: int) -> None:
    # Version 1.0 pads the header to a multiple of 64 bytes and leaves room for the shape to grow in place.
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]


def _empty_target(folder: Path) -> Path:
    target = Path(os.path.abspath(folder.expanduser()))
    with suppress(FileNotFoundError, NotADirectoryError):
        if any(target.iterdir()):
            raise ConfigurationError(f"{target} is not empty; name a new or empty folder")
    if target.exists() and not target.is_dir():
        raise ConfigurationError(f"{target} is not a folder; name a new or empty one")
    return target
