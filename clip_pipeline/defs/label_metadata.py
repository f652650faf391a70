"""The picture of a labelled collection, for the Dagster UI."""

import io
from collections.abc import Sequence


def label_bars(counts: Sequence[tuple[str, int]]) -> bytes:
    """A PNG of horizontal bars, one for each label and how many images it is the best of, in the order given."""
    # matplotlib takes a second to import: only a run that draws pays for it.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, max(1.5, 0.26 * len(counts) + 0.8)), layout="constrained")
    axes = figure.add_subplot()
    names = [label if label.isascii() else ascii(label)[1:-1] for label, _ in counts]
    axes.barh(range(len(counts)), [count for _, count in counts], color="#3b5bdb")
    axes.set_yticks(range(len(counts)), names)
    axes.invert_yaxis()
    axes.set_xlabel("images whose best label this is")
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()
