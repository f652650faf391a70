"""Sealed embeddings: read back whole, refused when anything about them is not as sealed."""

import json

import numpy as np
import pytest

from clip_pipeline.core.embeddings import (
    QUARANTINE,
    ROWS,
    SEAL,
    VECTORS,
    Quarantined,
    Seal,
    check_files,
    check_unit_length,
    content_digest,
    read_embeddings,
    read_seal,
    write_rows,
    write_seal,
)
from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import ManifestRow, file_sha256
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.core.store import Store

BATCH, KEY = BatchKey(1), "encoder"


def row(image_id):
    return ManifestRow(image_id, f"{image_id:064x}", f"/photos/ä {image_id}.jpg", 10, 20, "JPEG", 640, 480, 1)


def seal(store, *, embedded=3, quarantined=2, dim=4):
    """A sealed batch of images 1, 2, ... and the folder it lies in."""
    folder = store.embeddings_dir(KEY, BATCH)
    folder.mkdir(parents=True)
    vectors = np.eye(dim, dtype=np.float16)[np.arange(embedded) % dim]
    np.save(folder / VECTORS, vectors)
    failed = [Quarantined(row(100 + i), Reason(ReasonCode.TRUNCATED, "ends early")) for i in range(quarantined)]
    write_rows(folder, [row(1 + i) for i in range(embedded)], failed)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    digest = content_digest(files, manifest_digest="m", fingerprint="f")
    write_seal(folder, Seal(str(BATCH), "m", "f", "e", dim, embedded, quarantined, files, digest, "r", "c"))
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_batch_is_read_back_as_it_was_sealed(store):
    seal(store)
    found = read_embeddings(store, KEY, BATCH)
    np.testing.assert_array_equal(found.vectors, np.eye(4, dtype=np.float16)[:3])
    assert found.rows["image_id"].tolist() == [1, 2, 3]
    assert found.rows["path"].tolist() == [f"/photos/ä {i}.jpg" for i in (1, 2, 3)]
    assert found.quarantine["reason"].tolist() == ["truncated: ends early"] * 2
    assert (found.seal.embedded, found.seal.quarantined, found.seal.dim) == (3, 2, 4)
    assert not found.vectors.flags.writeable


@pytest.mark.parametrize(("embedded", "quarantined"), [(0, 2), (3, 0), (0, 0)])
def test_batches_without_embedded_or_without_failed_images_are_batches(store, embedded, quarantined):
    seal(store, embedded=embedded, quarantined=quarantined)
    found = read_embeddings(store, KEY, BATCH)
    assert (found.vectors.shape, len(found.rows), len(found.quarantine)) == ((embedded, 4), embedded, quarantined)
    assert found.rows["image_id"].dtype == np.int64


def test_a_batch_that_is_not_sealed_is_a_store_error(store):
    with pytest.raises(StoreError, match="no sealed embeddings"):
        read_embeddings(store, KEY, BATCH)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"batch": "b0000001", "other": 1}'])
def test_a_seal_that_is_none_is_an_integrity_error(store, text):
    (seal(store) / SEAL).write_text(text)
    with pytest.raises(IntegrityError, match="is not a seal"):
        read_seal(store, KEY, BATCH)


@pytest.mark.parametrize("name", [VECTORS, ROWS, QUARANTINE])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_any_damage_to_any_file_is_an_integrity_error(store, name, damage):
    path = seal(store) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flipped":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
    with pytest.raises(IntegrityError, match=name):
        read_embeddings(store, KEY, BATCH)


@pytest.mark.parametrize("change", [{"embedded": 4}, {"quarantined": 1}, {"dim": 5}])
def test_counts_that_the_files_do_not_have_are_an_integrity_error(store, change):
    path = seal(store) / SEAL
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="the seal says"):
        read_embeddings(store, KEY, BATCH)


def test_the_content_digest_covers_files_manifest_and_encoder():
    digests = {
        content_digest({"a": "1"}, manifest_digest="m", fingerprint="f"),
        content_digest({"a": "2"}, manifest_digest="m", fingerprint="f"),
        content_digest({"a": "1"}, manifest_digest="n", fingerprint="f"),
        content_digest({"a": "1"}, manifest_digest="m", fingerprint="g"),
    }
    assert len(digests) == 4
    ordered = [
        content_digest(files, manifest_digest="m", fingerprint="f")
        for files in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    ]
    assert ordered[0] == ordered[1]


def test_files_are_compared_with_their_recorded_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    check_files(tmp_path, {"a": file_sha256(tmp_path / "a")})
    with pytest.raises(IntegrityError, match="found missing"):
        check_files(tmp_path, {"b": "0" * 64})


@pytest.mark.parametrize("wrong", [0.0, 0.9, 1.1, np.nan, np.inf])
def test_a_vector_that_is_not_of_unit_length_is_found(wrong):
    vectors = np.eye(4, dtype=np.float16)
    check_unit_length(vectors)
    vectors[2] *= np.float16(wrong) if np.isfinite(wrong) else 1
    vectors[2, 2] = wrong
    with pytest.raises(IntegrityError, match=r"1 of 4 vectors .* first at row 2"):
        check_unit_length(vectors)


@pytest.mark.parametrize("dim", [8, 384, 768, 1024])
def test_rounding_to_float16_keeps_unit_length_within_the_tolerance(dim):
    vectors = np.random.default_rng(0).standard_normal((500, dim))
    check_unit_length((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))
