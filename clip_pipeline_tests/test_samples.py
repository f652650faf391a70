"""The sample photographs: really those of the wheels, written once, left alone afterwards."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pipeline import samples
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.samples import SAMPLES, Sample, gather_samples


def test_about_twenty_photographs_of_four_formats_can_all_be_decoded(photo_folder):
    formats = Counter()
    for path in photo_folder.iterdir():
        with Image.open(path) as image:
            image.load()
            formats[image.format] += 1
            assert min(image.size) >= 150
    assert formats.total() == len(SAMPLES) >= 20
    assert set(formats) == {"JPEG", "PNG", "WEBP", "TIFF"}
    assert min(formats.values()) >= 3


def test_the_cat_is_the_cat_of_the_wheel_within_the_loss_of_jpeg(photos):
    with Image.open(photos["cat"]) as written, Image.open(samples._source_path(SAMPLES[3])) as original:
        difference = np.abs(np.asarray(written, dtype=float) - np.asarray(original, dtype=float))
    assert difference.mean() < 3


def test_png_and_tiff_lose_nothing(photos):
    lossless = [sample for sample in SAMPLES if sample.name.endswith((".png", ".tif"))]
    for sample in lossless:
        with (
            Image.open(photos[Path(sample.name).stem]) as written,
            Image.open(samples._source_path(sample)) as original,
        ):
            assert np.array_equal(np.asarray(written), np.asarray(original)), sample.name


def test_two_folders_get_the_same_bytes(photo_folder, tmp_path):
    for path in gather_samples(tmp_path / "new" / "folder"):
        assert path.read_bytes() == (photo_folder / path.name).read_bytes()


def test_gathering_again_writes_only_what_is_missing_or_empty(tmp_path):
    paths = gather_samples(tmp_path)
    deleted, emptied, edited, *rest = paths
    deleted.unlink()
    emptied.write_bytes(b"")
    edited.write_bytes(b"the user's own")
    before = {path: path.stat().st_mtime_ns for path in rest}

    assert gather_samples(tmp_path) == paths
    assert edited.read_bytes() == b"the user's own"
    assert {path: path.stat().st_mtime_ns for path in rest} == before
    assert min(deleted.stat().st_size, emptied.stat().st_size) > 10_000
    assert sorted(tmp_path.iterdir()) == sorted(paths), "a temporary file was left behind"


def test_neither_scikit_is_imported(tmp_path, monkeypatch):
    """Their imports take seconds, of the few that a start may take."""
    for name in [name for name in sys.modules if name.partition(".")[0] in {"skimage", "sklearn"}]:
        monkeypatch.delitem(sys.modules, name)
    gather_samples(tmp_path)
    assert not {"skimage", "sklearn"} & set(sys.modules)


@pytest.mark.parametrize(
    ("package", "message"),
    [("no_such_package", "no_such_package is not installed"), ("clip_pipeline", "clip_pipeline holds no data/x.png")],
)
def test_a_missing_extra_names_the_command_that_installs_it(tmp_path, monkeypatch, package, message):
    monkeypatch.setattr(samples, "SAMPLES", (Sample("x.png", "x.png", (package, "data")),))
    with pytest.raises(ConfigurationError, match=message) as caught:
        gather_samples(tmp_path)
    assert "pip install 'clip-pipeline[samples]'" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot write the sample photograph"):
        gather_samples(tmp_path / "file" / "folder")
