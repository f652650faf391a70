"""Verification: sound where nothing is wrong, and each kind of damage found under its name."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import update

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.release import read_release, write_release
from clip_pipeline.ledger.schema import batches, files, images
from clip_pipeline_tests.cli.indexing import index_folder


@pytest.fixture
def indexed(world, pictures, monkeypatch):
    monkeypatch.setattr("clip_pipeline.cli.verify_command.PAUSE_S", 0.0)
    index_folder(world, pictures)
    return world


def change(world, statement):
    with world.ledger.write() as connection:
        connection.execute(statement)


def faulty(command):
    """The names of the checks that fail."""
    ended = command("verify", "--json")
    assert ended.status == 12
    assert ended.err.startswith("error: verification failed: ")
    document = json.loads(ended.out)
    assert document["ok"] is False
    return {check["name"] for check in document["checks"] if check["ok"] is False}


@pytest.mark.usefixtures("indexed")
def test_a_sound_home_passes_every_check(command):
    ended = command("verify")
    assert ended.status == 0
    assert "files: 2 indexed, 1 duplicate" in ended.out
    assert "@10 1.0000" in ended.out
    document = json.loads(command("verify", "--json").out)
    assert [check["ok"] for check in document["checks"]] == [True] * 10


def test_a_home_with_files_but_no_release_is_sound(command, world, pictures):
    command("index", pictures)
    assert command("verify").status == 0
    world.pin()
    assert "none is published yet" in command("verify").out


def test_a_changed_manifest_is_found(command, indexed):
    path = indexed.store.manifest_path(BatchKey(1))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert faulty(command) == {"manifests"}


def test_a_missing_manifest_and_missing_embeddings_are_found(command, indexed):
    indexed.store.manifest_path(BatchKey(1)).unlink()
    (indexed.store.embeddings_dir(indexed.spec.key, BatchKey(1)) / "seal.json").unlink()
    assert faulty(command) >= {"manifests", "embeddings"}


def test_embeddings_that_are_not_those_recorded_are_found(command, indexed):
    change(indexed, update(batches).values(embeddings_digest="0" * 64, merged_digest="0" * 64))
    assert faulty(command) == {"embeddings"}


def test_a_flipped_bit_in_a_vector_is_found(command, indexed):
    path = indexed.store.embeddings_dir(indexed.spec.key, BatchKey(1)) / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "embeddings" in faulty(command)


def test_a_changed_file_of_the_release_is_found(command, indexed):
    (segment,) = indexed.store.release_dir(indexed.spec.key, 1).glob("*.faiss")
    segment.chmod(0o644)
    segment.write_bytes(segment.read_bytes() + b"x")
    assert faulty(command) == {"files"}


def test_an_image_that_the_release_lacks_is_found(command, indexed):
    """The ledger says that one more image is shown than the release holds."""
    with indexed.ledger.read() as connection:
        ids = connection.execute(images.select()).scalars().all()
    with indexed.ledger.write() as connection:
        first = dict(connection.execute(images.select().where(images.c.image_id == ids[0])).mappings().one())
        connection.execute(images.insert().values(first | {"image_id": 99, "sha256": "f" * 64, "state": "deleted"}))
    assert faulty(command) == {"ids"}


def test_a_release_that_nobody_recorded_is_found(command, indexed):
    change(indexed, update(images).values(in_release=False))
    assert faulty(command) == {"ledger", "ids"}


def test_an_unreadable_release_is_found(command, indexed):
    folder = indexed.store.release_dir(indexed.spec.key, 1)
    (folder / "release.json").write_text("{")
    assert faulty(command) == {"release"}


def test_wrong_counts_of_the_release_are_found(command, indexed):
    release = read_release(indexed.store, indexed.spec.key, 1)
    write_release(indexed.store.release_dir(indexed.spec.key, 1), replace(release, images=7))
    assert "structure" in faulty(command)


def test_a_ledger_that_does_not_balance_is_found(command, indexed):
    change(indexed, update(files).where(files.c.state == "duplicate").values(image_id=None))
    assert faulty(command) == {"ledger"}
