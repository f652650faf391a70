"""A contact sheet: the first images of a batch, as the encoder sees them, in one small picture."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clip_pipeline.core.manifest import ManifestRow
from clip_pipeline.embedding.ring import PixelRing

COLUMNS, LINES = 8, 3
TILE_PX, GAP_PX = 84, 4
COLOURS = 128  # a palette picture is a fifth of the bytes, and it is carried inside a Dagster event


def contact_sheet(ring: PixelRing, rows: Sequence[ManifestRow]) -> bytes:
    """A PNG of the first `COLUMNS * LINES` of `rows`; one that cannot be decoded leaves its place empty.

    The ring must be idle: its first buffers are used for it.
    """
    shown = rows[: min(COLUMNS * LINES, ring.forward_batch)]
    lines = max(1, -(-len(shown) // COLUMNS))
    step = TILE_PX + GAP_PX
    sheet = Image.new("RGB", (COLUMNS * step + GAP_PX, lines * step + GAP_PX), "white")
    for slot in _decoded_slots(ring, shown):
        tile = Image.fromarray(np.ascontiguousarray(ring.pixels(0)[slot].transpose(1, 2, 0)))
        place = (GAP_PX + slot % COLUMNS * step, GAP_PX + slot // COLUMNS * step)
        sheet.paste(tile.resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR), place)
    picture = io.BytesIO()
    sheet.quantize(COLOURS).save(picture, format="PNG", optimize=True)
    return picture.getvalue()


def _decoded_slots(ring: PixelRing, rows: Sequence[ManifestRow]) -> list[int]:
    ring.drain()
    for slot, row in enumerate(rows):
        ring.submit(0, slot, row)
    good: list[int] = []
    waiting = len(rows)
    while waiting:
        filled = ring.collect()
        waiting -= len(filled)
        good += [one.slot for one in filled if one.reason is None]
    return good
