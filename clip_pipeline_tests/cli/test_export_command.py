"""The export: vectors and rows in the same order, whole or not at all."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clip_pipeline.cli.export_command import METADATA, VECTORS
from clip_pipeline.core.keys import BatchKey
from clip_pipeline_tests.cli.indexing import index_folder


@pytest.fixture
def indexed(world, pictures):
    index_folder(world, pictures)
    return world


def read(folder):
    return np.load(folder / VECTORS), pd.read_parquet(folder / METADATA)


def test_row_i_describes_vector_i(command, indexed, tmp_path):
    target = tmp_path / "new" / "export"
    document = json.loads(command("export", target, "--json").out)
    vectors, rows = read(target)
    assert (document["images"], document["embedding_dim"]) == (2, 64)
    assert (vectors.shape, vectors.dtype) == ((2, 64), np.float16)
    names = [path.rpartition("/")[2] for path in rows["image_path"]]
    expected = indexed.encoder.encode_texts([f"a {name.partition('.')[0]} thing" for name in names])
    np.testing.assert_allclose(vectors.astype(np.float32), expected, atol=1e-3)
    assert sorted(names) == ["blue.png", "copy.png"]
    assert rows["width"].tolist() == [40, 40]
    assert rows["sha256"].str.len().tolist() == [64, 64]
    assert [path.name for path in target.parent.iterdir()] == ["export"]


def test_several_batches_follow_each_other_and_what_was_deleted_is_left_out(command, indexed, pictures, tmp_path):
    Image.new("RGB", (8, 8), "green").save(pictures / "green.png")
    index_folder(indexed, pictures)
    indexed.delete(f"{pictures}/below/blue.png")
    assert command("export", tmp_path / "export").status == 0
    vectors, rows = read(tmp_path / "export")
    assert len(vectors) == 2
    assert [path.rpartition("/")[2] for path in rows["image_path"]] == ["copy.png", "green.png"]
    assert rows["image_path"].dtype == "str"


@pytest.mark.usefixtures("indexed")
def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_filled(command, tmp_path):
    target = tmp_path / "export"
    target.mkdir()
    assert command("export", target).status == 0
    refused = command("export", target)
    assert refused.status == 3
    assert "is not empty; name a new or empty folder" in refused.err


def test_damaged_embeddings_leave_no_export_behind(command, indexed, tmp_path):
    path = indexed.store.embeddings_dir(indexed.spec.key, BatchKey(1)) / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    assert command("export", tmp_path / "export").status == 6
    assert not (tmp_path / "export").exists()
    assert list(tmp_path.glob(".tmp-*")) == []


def test_before_anything_is_embedded_there_is_nothing_to_export(command, pictures, tmp_path):
    command("index", pictures)
    ended = command("export", tmp_path / "export")
    assert ended.status == 9
    assert "nothing is embedded yet" in ended.err
