"""What the Dagster UI shows of a release."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_pipeline.core.release import Release
from clip_pipeline.defs.metadata import file_megabytes, table
from clip_pipeline.index.publish import MergeResult
from clip_pipeline.index.verify import RecallAtK


def describe_merge(merged: MergeResult, *, folder: Path) -> dict[str, Any]:
    """Counts, recall and segments of the current release, and what this merge changed."""
    release = merged.release
    return {
        "release": release.number,
        "published": merged.published,
        "images": release.images,
        "added": merged.plan.rows_added if merged.published else 0,
        "hidden": sum(segment.dead for segment in release.segments),
        "without_vector": len(merged.plan.missing),
        "segments": len(release.segments),
        "recall_at_10": release.recall,
        "index_megabytes": file_megabytes([folder / s.index_file for s in release.segments]),
        "encoder": release.encoder_name,
        "fingerprint": release.fingerprint,
        "dim": release.dim,
        "segment_table": segment_table(release),
    }


def segment_table(release: Release) -> Any:
    """One row a segment."""
    return table(
        [
            {
                "segment": segment.name, "type": segment.index_type, "rows": segment.rows, "hidden": segment.dead,
                "batches": len(segment.batches),
            }
            for segment in release.segments
        ]
    )  # fmt: skip


def recall_plot(measured: Sequence[RecallAtK]) -> bytes:
    """A PNG of recall over k."""
    # Imported here: it takes a second, and only a merge draws.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5, 3), dpi=110, layout="constrained")
    axes = figure.subplots()
    names = [str(entry.k) for entry in measured]
    bars = axes.bar(names, [entry.recall for entry in measured], color="#4f7cac", width=0.6)
    axes.bar_label(bars, labels=[f"{entry.recall:.3f}" for entry in measured], padding=2, fontsize=8)
    axes.set(ylim=(0, 1.12), xlabel="k", ylabel="recall@k", title="Index against exact search")
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
