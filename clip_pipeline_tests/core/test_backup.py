"""The folder of backups: each content once, a backup there whole or not at all, damage found."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from clip_pipeline.core.backup import Backup, BackupFolder, checked_path, new_backup_name
from clip_pipeline.core.errors import IntegrityError, NotFoundError, StoreError

DIGEST_OF_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


@pytest.fixture
def folder(tmp_path):
    return BackupFolder(tmp_path / "backups")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    return path


def backup_of(folder, file, *, name=None):
    kept, _ = folder.keep(file)
    made = Backup(name or new_backup_name(), "2025-01-01T00:00:00.000Z", "1", kept, "e", 3, {"x/a.txt": kept})
    folder.record(made)
    return made


def test_of_two_backups_within_a_second_the_later_is_the_newest():
    """It was whichever got the greater random number."""
    moment = datetime(2025, 11, 14, 14, 30, 25, tzinfo=UTC)
    names = [new_backup_name(moment + timedelta(milliseconds=n)) for n in range(20)]
    assert names == sorted(names)


def test_a_backup_reads_as_it_was_recorded_and_restores(folder, file, tmp_path):
    made = backup_of(folder, file)
    assert folder.read() == made
    folder.restore(made.files["x/a.txt"], tmp_path / "new" / "b.txt")
    assert (tmp_path / "new" / "b.txt").read_text() == "a"
    assert made.size_bytes == 2


def test_a_content_is_copied_once(folder, file):
    assert folder.keep(file)[1]
    assert not folder.keep(file)[1]
    assert not folder.keep(file, sha256=DIGEST_OF_A)[1]
    assert len(list(folder.root.glob("objects/*/*"))) == 1
    assert list(folder.root.glob(".tmp*")) == []


def test_a_file_that_is_not_what_was_recorded_is_not_kept(folder, file):
    with pytest.raises(IntegrityError, match="recorded digest"):
        folder.keep(file, sha256="b" * 64)
    assert not any(folder.root.rglob("objects/*/*"))


def test_a_backup_that_was_killed_is_refused_in_clear_words_and_costs_earlier_ones_nothing(folder, file, tmp_path):
    with pytest.raises(NotFoundError, match="holds no backup"):
        folder.read()
    folder.keep(file)
    with pytest.raises(NotFoundError, match="never finished"):
        folder.read()
    made = backup_of(folder, file)
    (tmp_path / "b").write_text("another")
    folder.keep(tmp_path / "b")
    assert folder.read() == made


def test_no_backup_is_recorded_whose_contents_are_not_there(folder, file):
    made = backup_of(folder, file)
    folder.object_path(made.ledger.sha256).unlink()
    with pytest.raises(StoreError, match="vanished"):
        folder.record(replace(made, name=new_backup_name()))


def test_the_newest_is_read_unless_one_is_named(folder, file):
    first = backup_of(folder, file, name="20250101T000000.000000Z-0000")
    second = backup_of(folder, file, name="20250102T000000.000000Z-0000")
    assert folder.read() == second
    assert folder.read(first.name) == first
    with pytest.raises(NotFoundError, match="there are"):
        folder.read("20250103T000000.000000Z-0000")


@pytest.mark.parametrize("change", [{"release": 4}, {"files": {}}, {"format": 2}])
def test_a_document_that_was_changed_is_refused(folder, file, change):
    made = backup_of(folder, file)
    path = folder.root / "backups" / f"{made.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="changed since"):
        folder.read()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_document_that_is_none_is_refused(folder, file, content):
    made = backup_of(folder, file)
    (folder.root / "backups" / f"{made.name}.json").write_text(content)
    with pytest.raises(IntegrityError):
        folder.read()


def test_a_damaged_or_missing_content_is_not_restored(folder, file, tmp_path):
    made = backup_of(folder, file)
    folder.object_path(made.ledger.sha256).write_text("b")
    with pytest.raises(IntegrityError, match="damaged"):
        folder.restore(made.ledger, tmp_path / "one")
    folder.object_path(made.ledger.sha256).unlink()
    with pytest.raises(IntegrityError, match="missing"):
        folder.restore(made.ledger, tmp_path / "two")


def test_old_backups_go_with_what_only_they_needed(folder, tmp_path):
    for number in range(3):
        (tmp_path / "file").write_text(f"content {number // 2}")
        backup_of(folder, tmp_path / "file", name=f"2025010{number + 1}T000000.000000Z-0000")
    removed, freed = folder.drop_old(keep=2)
    assert (removed, freed) == (["20250101T000000.000000Z-0000"], 0)
    removed, freed = folder.drop_old(keep=1)
    assert (removed, freed) == (["20250102T000000.000000Z-0000"], len("content 0"))
    assert folder.names() == ["20250103T000000.000000Z-0000"]
    folder.restore(folder.read().ledger, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "content 1"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "."])
def test_a_path_that_leads_out_of_the_store_is_refused(name):
    with pytest.raises(IntegrityError, match="no store"):
        checked_path(name)
