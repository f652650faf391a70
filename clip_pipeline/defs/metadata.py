"""What the Dagster UI shows of a materialization: numbers to plot, tables to read, pictures to look at."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from clip_pipeline.core.embeddings import Quarantined
from clip_pipeline.core.paths import display_path
from clip_pipeline.ledger.manifesting import SealedManifest

TABLE_ROWS = 20


def describe_manifest(sealed: SealedManifest) -> dict[str, Any]:
    """Counts, rate and formats of one manifest."""
    rows = sealed.manifest.rows
    formats = Counter(row.format for row in rows).most_common()
    return {
        "images": len(rows),
        "duplicates": sealed.summary.duplicates,
        "failed": sealed.summary.failed,
        "files": sealed.files,
        "megapixels": round(sum(row.width * row.height for row in rows) / 1e6, 1),
        "seconds": round(sealed.seconds, 2),
        "files_per_s": round(sealed.files / max(sealed.seconds, 1e-9), 1),
        "megabytes_read": round(sealed.bytes_read / 1e6, 1),
        "digest": sealed.manifest.digest,
        "formats": table([{"format": name, "images": count} for name, count in formats]),
        "first_images": table(
            [
                {"image_id": r.image_id, "path": display_path(r.path), "width": r.width, "height": r.height}
                for r in rows[:TABLE_ROWS]
            ]
        ),
    }


def describe_quarantine(quarantined: Sequence[Quarantined]) -> dg.TableMetadataValue:
    """The first quarantined images with their reasons."""
    return table(
        [
            {"image_id": q.row.image_id, "path": display_path(q.row.path), "reason": str(q.reason)}
            for q in quarantined[:TABLE_ROWS]
        ]
    )


def table(rows: Sequence[Mapping[str, str | int | float]]) -> dg.TableMetadataValue:
    """Rows of plain values as a table; an empty one shows a single row that says so."""
    shown = rows or [{"": "none"}]
    columns = [dg.TableColumn(name, _column_type(value)) for name, value in shown[0].items()]
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in shown], schema=dg.TableSchema(columns))


def png_image(png: bytes, *, alt: str) -> dg.MarkdownMetadataValue:
    """A picture, carried inside the event itself: the UI shows it wherever the store is."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def file_megabytes(paths: Sequence[Path]) -> float:
    """Size of these files together, in units of 10^6 bytes."""
    return round(sum(path.stat().st_size for path in paths) / 1e6, 3)


def _column_type(value: object) -> str:
    if isinstance(value, bool | str):
        return "string"
    return "int" if isinstance(value, int) else "float"
