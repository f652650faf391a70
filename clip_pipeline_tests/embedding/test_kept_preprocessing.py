"""What transformers says of a model's preprocessing is asked for once, and anew where it could differ."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.embedding.huggingface import huggingface_spec
from clip_pipeline.embedding.kept_preprocessing import remembered_preprocessing
from clip_pipeline_tests.embedding.tiny_models import SIDE, rewrite_json, save_tiny_clip, save_tiny_siglip

ROOT = Path(__file__).resolve().parents[2]
FOUND = Preprocessing("shortest", 70, SIDE, SIDE, "bicubic", (0.1, 0.2, 0.3), (1 / 3, 0.25, 1e-3))


class Reader:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Preprocessing:
        self.asked += 1
        return FOUND


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the two files that decide."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def test_what_was_read_is_kept_to_the_last_digit(model, tmp_path):
    read = Reader()
    for _ in range(3):
        assert remembered_preprocessing(read, model, cache_dir=tmp_path) == FOUND
    assert read.asked == 1


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_another_file_is_read_anew(name, model, tmp_path):
    read = Reader()
    remembered_preprocessing(read, model, cache_dir=tmp_path)
    (model / name).write_text('{"size": 70}')
    remembered_preprocessing(read, model, cache_dir=tmp_path)
    assert read.asked == 2


def test_nothing_is_kept_without_a_folder_for_it_or_where_it_cannot_be(model, caplog):
    read = Reader()
    for cache_dir in (None, None, model / "config.json"):
        assert remembered_preprocessing(read, model, cache_dir=cache_dir) == FOUND
    assert read.asked == 3
    assert "a model's preprocessing is not kept" in caplog.text


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"resize": "shortest", "mean": [1], "std": [1]}'])
def test_what_is_damaged_is_read_anew(damage, model, tmp_path):
    read = Reader()
    remembered_preprocessing(read, model, cache_dir=tmp_path)
    next((tmp_path / "preprocessing").iterdir()).write_text(damage)
    for _ in range(2):
        assert remembered_preprocessing(read, model, cache_dir=tmp_path) == FOUND
    assert read.asked == 2


@pytest.mark.parametrize("make", [save_tiny_clip, save_tiny_siglip])
def test_a_specification_is_the_same_with_and_without_what_was_kept(make, tmp_path):
    folder = make(tmp_path / "model")
    fresh = huggingface_spec("model", folder, dtype="float32", cache_dir=None)
    for _ in range(2):
        assert huggingface_spec("model", folder, dtype="float32", cache_dir=tmp_path / "cache") == fresh


def test_a_refusal_is_not_kept(tmp_path):
    folder = save_tiny_clip(tmp_path / "model")
    before = json.loads((folder / "preprocessor_config.json").read_text())
    rewrite_json(folder / "preprocessor_config.json", do_resize=False)
    for _ in range(2):
        with pytest.raises(EncoderUnavailableError, match="not supported"):
            huggingface_spec("model", folder, dtype="float32", cache_dir=tmp_path)
    rewrite_json(folder / "preprocessor_config.json", **before)
    assert huggingface_spec("model", folder, dtype="float32", cache_dir=tmp_path).preprocessing.height == SIDE


CHILD = """
import sys
from pathlib import Path
from clip_pipeline.embedding.huggingface import huggingface_spec
huggingface_spec("model", Path(sys.argv[1]), dtype="float32", cache_dir=Path(sys.argv[2]))
sys.exit("torch's compiler was imported" if "torch._dynamo" in sys.modules else 0)
"""


def test_with_what_was_kept_a_process_does_not_import_what_it_has_no_use_for(tmp_path):
    folder, cache = save_tiny_clip(tmp_path / "model"), tmp_path / "cache"
    huggingface_spec("model", folder, dtype="float32", cache_dir=cache)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(cache)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=100, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
