"""The contact sheet of a batch."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.manifest import ManifestRow
from clip_pipeline.embedding.contact_sheet import COLUMNS, GAP_PX, TILE_PX, contact_sheet
from clip_pipeline.embedding.ring import PixelRing

SMALL = Preprocessing("shortest", 32, 32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def row(number: int, path: Path) -> ManifestRow:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
    return ManifestRow(number, sha256, str(path), 1, 1, "PNG", 40, 40, 1)


def test_each_image_has_its_place_and_a_broken_one_leaves_it_empty(tmp_path: Path):
    colours = ["red", "lime", "blue"]
    for colour in colours:
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    names = ["red.png", "broken.png", "lime.png", "blue.png"]
    with PixelRing(SMALL, limits=ImageLimits(), decode_workers=1) as ring:
        png = contact_sheet(ring, [row(i, tmp_path / name) for i, name in enumerate(names)])
    sheet = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    step = TILE_PX + GAP_PX
    centres = [tuple(sheet[GAP_PX + TILE_PX // 2, GAP_PX + i * step + TILE_PX // 2].tolist()) for i in range(4)]
    assert centres == [(255, 0, 0), (255, 255, 255), (0, 255, 0), (0, 0, 255)]
    assert sheet.shape == (step + GAP_PX, COLUMNS * step + GAP_PX, 3)


def test_an_empty_batch_has_an_empty_sheet():
    with PixelRing(SMALL, limits=ImageLimits(), decode_workers=1) as ring:
        picture = Image.open(io.BytesIO(contact_sheet(ring, [])))
    assert picture.convert("RGB").getcolors() == [(picture.width * picture.height, (255, 255, 255))]
