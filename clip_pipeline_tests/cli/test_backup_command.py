"""Backup and restore: the same ledger, the same files, the same hits; whole or refused."""

import json
import shutil

import pytest

from clip_pipeline.cli import backup_command
from clip_pipeline.cli.backup_command import make_backup
from clip_pipeline.cli.restore_command import WORKPLACE, restore_backup
from clip_pipeline.core.backup import BackupFolder
from clip_pipeline.core.canary import CanaryVectors, check_reproduced, read_golden, record_golden
from clip_pipeline.core.errors import ConflictError, IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import read_manifest
from clip_pipeline.core.release import read_current_release
from clip_pipeline.core.store_identity import ensure_store_id, store_id
from clip_pipeline.defs.maintenance.compaction import compact_batches
from clip_pipeline.index.publish import prune_releases
from clip_pipeline.ledger.analysis_requests import NewAnalysis, submit_analysis
from clip_pipeline.ledger.balance import balance
from clip_pipeline.settings import Settings
from clip_pipeline_tests.ledgers import SQLITE
from clip_pipeline_tests.small_home import SmallHome, a_day_ago

UPLOAD = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of "a"


@pytest.fixture
def source(home, monkeypatch):
    """A home with three batches, a failed image and a release."""
    monkeypatch.setattr("clip_pipeline.cli.verify_command.PAUSE_S", 0.0)
    made = SmallHome(home, ledger_url=Settings().ledger_location)
    ensure_store_id(made.store)
    record_golden(made.store, made.spec, golden(made))
    made.add_many(3)
    made.add("good.jpg", "bad.jpg", failing=["bad.jpg"], duplicates={"copy.jpg": "good.jpg"})
    made.merge()
    yield made
    made.close()


def golden(home):
    """What the workers of the home have to reproduce."""
    return CanaryVectors(home.spec.fingerprint, "eight pictures", home.encoder.encode_texts(list("abcdefgh")))


@pytest.fixture
def folder(tmp_path):
    return BackupFolder(tmp_path / "backups")


@pytest.fixture
def other_ledger(ledger_database, new_ledger_url):
    """Makes the setting of a restored home's ledger: SQLite below it, or another database."""
    return (lambda: "") if ledger_database == SQLITE else new_ledger_url


@pytest.fixture
def restored(folder, tmp_path, other_ledger):
    """Restores the newest backup into a new home; all homes are closed afterwards."""
    opened = []

    def restore(name="restored", *, ledger_url=None):
        url = other_ledger() if ledger_url is None else ledger_url
        settings = Settings(home=tmp_path / name, ledger_url=url)
        settings.home_path.mkdir(exist_ok=True)
        restore_backup(folder, folder.read(), settings)
        opened.append(SmallHome(settings.home_path, ledger_url=settings.ledger_location))
        return opened[-1]

    yield restore
    for home in opened:
        home.close()


def take(source, folder, **options):
    return make_backup(source.ledger, source.store, folder, **options)


def test_a_restored_home_is_sound_and_finds_the_same(source, folder, restored):
    take(source, folder)
    again = restored()
    assert again.faults() == []
    assert again.answers() == source.answers()
    assert balance(again.ledger) == balance(source.ledger)
    assert store_id(again.store) == store_id(source.store)
    kept = read_golden(again.store.canary_path(again.spec.key))
    assert kept is not None
    assert check_reproduced(kept, golden(source), names=list("abcdefgh")) > 0.9999
    again.add("new.jpg")
    again.merge()
    assert again.faults() == []
    assert not (again.store.root.parent / WORKPLACE).exists()


def test_a_backup_of_either_database_is_restored_to_the_other(source, folder, restored, postgres, tmp_path):
    take(source, folder)
    moved = restored("moved", ledger_url=postgres.new_database())
    assert moved.faults() == []
    assert moved.answers() == source.answers()
    moved.add("new.jpg")
    moved.merge()
    take(moved, folder)
    back = restored("back", ledger_url=f"sqlite:///{tmp_path}/back.sqlite3")
    assert back.faults() == []
    assert back.answers() == moved.answers()
    back.add("newer.jpg")
    back.merge()
    assert back.faults() == []


def test_a_second_backup_copies_only_what_is_new(source, folder, restored):
    first = take(source, folder)
    assert first.copied == len(set(first.backup.files.values()) | {first.backup.ledger})
    source.add("more.jpg")
    source.merge()
    second = take(source, folder)
    new = set(second.backup.files) - set(first.backup.files)
    assert second.copied <= len(new) + 1
    assert restored().answers() == source.answers()


def test_an_earlier_backup_can_be_restored_by_name(command, source, folder, monkeypatch, tmp_path, other_ledger):
    first = json.loads(command("backup", folder.root, "--json").out)
    source.add("more.jpg")
    source.merge()
    command("backup", folder.root)
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("CLIP_PIPELINE_LEDGER_URL", other_ledger())
    ended = command("restore", folder.root, "--name", first["backup"], "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["ok"] is True
    assert "0000001, 7 images" in command("verify").out


def test_the_commands_say_what_they_did_and_refuse_a_home_that_is_not_empty(
    command, source, folder, monkeypatch, tmp_path, other_ledger
):
    answers = source.answers()
    made = command("backup", folder.root, "--keep", "3")
    assert made.status == 0
    assert made.out.startswith("Backup ")
    refused = command("restore", folder.root)
    assert refused.status == ConflictError.exit_code
    assert "is not empty" in refused.err
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path / "restored"))
    monkeypatch.setenv("CLIP_PIPELINE_LEDGER_URL", other_ledger())
    done = command("restore", folder.root)
    assert done.status == 0
    assert "FAULT" not in done.out
    assert "Restored backup" in done.out
    again = SmallHome(tmp_path / "restored", ledger_url=Settings().ledger_location)
    assert again.answers() == answers
    again.close()


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("where", ["", "inside", ".."])
def test_a_backup_does_not_lie_in_the_home_nor_the_home_in_it(command, home, where):
    ended = command("backup", home / where)
    assert ended.status == 3
    assert "lie in each other" in ended.err


def test_what_changes_while_it_is_copied_is_looked_at_again(source, folder, restored, monkeypatch):
    """A batch is embedded anew, merged, and its release pruned, between the copies of the ledger and of the store."""
    changes = 0
    contents = backup_command._contents

    def change_first(path, store, **options):
        nonlocal changes
        changes += 1
        if changes <= 2:
            manifest = read_manifest(source.store, BatchKey(1))
            source.embed(BatchKey(1), manifest, seed=f"anew {changes} ")
            source.merge()
            prune_releases(source.store, source.spec.key, keep=1)
        return contents(path, store, **options)

    monkeypatch.setattr(backup_command, "_contents", change_first)
    take(source, folder)
    assert changes == 3
    again = restored()
    assert again.faults() == []
    assert again.answers() == source.answers()


def test_what_is_registered_and_merged_meanwhile_is_left_for_the_next_backup(source, folder, restored, monkeypatch):
    answers = source.answers()
    contents = backup_command._contents

    def go_on(path, store, **options):
        source.add("meanwhile.jpg")
        source.merge()
        return contents(path, store, **options)

    monkeypatch.setattr(backup_command, "_contents", go_on)
    take(source, folder)
    again = restored()
    assert again.faults() == []
    assert again.answers() == answers != source.answers()


def test_a_home_between_compaction_and_merge_is_restored_so(source, folder, restored):
    source.add_many(6)
    source.merge()
    source.age()
    compact_batches(source.ledger, source.store, batch_size=100, older_than=a_day_ago(), run_id="r")
    take(source, folder)
    again = restored()
    assert again.faults() == []
    assert again.answers() == source.answers()
    again.merge()
    assert again.faults() == []
    assert again.answers() == source.answers()


def test_a_damaged_store_is_not_backed_up(source, folder):
    path = source.store.manifest_path(BatchKey(2))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="recorded digest"):
        take(source, folder)
    assert folder.names() == []


def test_a_damaged_backup_restores_nothing(source, folder, restored, tmp_path):
    made = take(source, folder)
    release = read_current_release(source.store, source.spec.key)
    assert release
    sha256 = release.segments[0].files[release.segments[0].index_file]
    assert sha256 in {kept.sha256 for kept in made.backup.files.values()}
    folder.object_path(sha256).write_bytes(b"x")
    with pytest.raises(IntegrityError, match="damaged"):
        restored()
    assert not (tmp_path / "restored" / "ledger.sqlite3").exists()
    assert not (tmp_path / "restored" / "store").exists()


@pytest.mark.parametrize("moment", ["files", "ledger"])
def test_a_restore_that_was_killed_begins_anew(source, folder, restored, moment, tmp_path):
    take(source, folder)
    half = tmp_path / "restored"
    (half / WORKPLACE / "store").mkdir(parents=True)
    (half / WORKPLACE / "store" / "half.parquet").write_bytes(b"x")
    if moment == "ledger":
        shutil.move(half / WORKPLACE / "store", half / "store")
    again = restored()
    assert again.faults() == []
    assert not list(again.store.root.rglob("half.parquet"))


def test_uploads_are_kept_only_where_asked_for(source, folder, restored):
    submit_analysis(source.ledger, NewAnalysis("api", UPLOAD, "u.jpg", "JPEG", 1, 1, 1))
    path = source.store.upload_path(UPLOAD)
    path.parent.mkdir(parents=True)
    path.write_text("a")
    take(source, folder)
    assert not restored("without").store.upload_path(UPLOAD).exists()
    take(source, folder, with_uploads=True)
    assert restored("with").store.upload_path(UPLOAD).read_text() == "a"


def test_a_full_disk_costs_earlier_backups_nothing(source, folder, restored, monkeypatch):
    take(source, folder)
    answers = source.answers()
    source.add("more.jpg")
    source.merge()

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clip_pipeline.core.backup._copy_hashed", full)
    with pytest.raises(StoreError, match="No space left"):
        take(source, folder)
    monkeypatch.undo()
    assert restored().answers() == answers


def test_a_home_without_a_release_is_backed_up(home, folder, restored):
    empty = SmallHome(home, ledger_url=Settings().ledger_location)
    take(empty, folder)
    assert restored().faults() == []
    empty.add("a.jpg")
    take(empty, folder)
    again = restored("second")
    again.merge()
    assert again.faults() == []
    empty.close()
