"""The sweep: what nobody owns goes, what somebody owns stays, whatever it looks like."""

import shutil

import pytest
from sqlalchemy import delete

from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.maintenance_lock import maintenance_lock
from clip_pipeline.core.release import release_numbers
from clip_pipeline.defs.maintenance.compaction import compact_batches
from clip_pipeline.defs.maintenance.orphans import find_orphans, sweep_orphans
from clip_pipeline.ledger.analysis_requests import NewAnalysis, submit_analysis
from clip_pipeline.ledger.label_sets import create_label_set
from clip_pipeline.ledger.schema import batches
from clip_pipeline_tests.small_home import a_day_ago

UPLOADED, GONE, SHOWN = "a" * 64, "b" * 64, "c" * 64


def sweep(home):
    return sweep_orphans(home.ledger, home.store, older_than=a_day_ago())


def look(home):
    return find_orphans(home.ledger, home.store, older_than=a_day_ago())


def write(path, content=b"12345"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def paths(swept):
    return {orphan.path for orphan in swept.orphans}


def everything(home):
    return sorted(path for path in home.store.root.rglob("*") if path.name not in {".lock", ".maintenance-lock"})


@pytest.fixture
def home(small_home):
    small_home.add_many(3)
    small_home.merge()
    submit_analysis(small_home.ledger, NewAnalysis("api", UPLOADED, "u.jpg", "JPEG", 1, 1, 5))
    write(small_home.store.upload_path(UPLOADED))
    write(small_home.store.thumbnail_path(UPLOADED))
    return small_home


def test_a_store_in_good_order_is_left_as_it_is(home):
    home.age_files()
    before = everything(home)
    assert look(home).orphans == sweep(home).orphans == ()
    assert everything(home) == before


def test_what_killed_writers_left_goes_everywhere(home):
    left = {
        write(home.store.root / ".tmp-encoder.json-1"),
        write(home.store.root / "manifests" / ".tmp-b0000009.parquet-1"),
        write(home.store.root / "embeddings" / home.spec.key / ".tmp-b0000009-1" / "vectors.npy").parent,
        write(home.store.releases_dir(home.spec.key) / ".tmp-0000009-1" / "x.faiss").parent,
        write(home.store.uploads_dir / ".tmp-upload-1"),
        write(home.store.upload_path(UPLOADED).parent / ".tmp-x-1"),
        write(home.store.thumbnail_path(UPLOADED).parent / ".tmp-x-1"),
        write(home.store.labels_dir(home.spec.key) / ".tmp-x-1"),
    }
    home.age_files()
    before = set(everything(home))
    found = look(home)
    assert paths(found) == left
    assert found.counts == {"temporaries": 8}
    assert found.size_bytes == 40
    assert set(everything(home)) == before, "looking removes nothing"
    assert paths(sweep(home)) == left
    assert not any(path.exists() for path in left)
    assert home.faults() == []


def test_what_is_young_is_left_alone_however_short_the_settings_are(home):
    path = write(home.store.root / ".tmp-young-1")
    write(home.store.upload_path(GONE))
    assert sweep(home).orphans == ()
    assert path.exists()
    home.age_files(hours=0.5)
    assert sweep(home).orphans == ()


def test_uploads_and_thumbnails_of_what_is_gone_go_with_each_other(home):
    left = {write(home.store.upload_path(GONE)), write(home.store.thumbnail_path(SHOWN, side=800))}
    home.age_files()
    assert paths(sweep(home)) == left
    assert home.store.upload_path(UPLOADED).is_file()
    assert home.store.thumbnail_path(UPLOADED).is_file()


def test_a_thumbnail_of_an_indexed_image_stays_and_goes_with_the_image(home):
    with home.ledger.read() as connection:
        sha256 = connection.exec_driver_sql("SELECT sha256 FROM images WHERE image_id = 1").scalar()
    thumbnail = write(home.store.thumbnail_path(str(sha256)))
    home.age_files()
    assert sweep(home).orphans == ()
    home.remove("0-0.jpg")
    assert paths(sweep(home)) == {thumbnail}


def test_files_of_batches_that_the_ledger_never_had_go_and_those_of_retired_ones_stay(home):
    shutil.copytree(home.store.embeddings_dir(home.spec.key, BatchKey(1)),
                    home.store.embeddings_dir(home.spec.key, BatchKey(77)))  # fmt: skip
    shutil.copy(home.store.manifest_path(BatchKey(1)), home.store.manifest_path(BatchKey(77)))
    home.add_many(8)
    home.merge()
    home.age()
    compact_batches(home.ledger, home.store, batch_size=100, older_than=a_day_ago(), run_id="r")
    home.age_files()
    swept = sweep(home)
    assert paths(swept) == {
        home.store.embeddings_dir(home.spec.key, BatchKey(77)), home.store.manifest_path(BatchKey(77)),
    }  # fmt: skip
    assert home.faults() == []


def test_labels_of_sets_that_the_ledger_does_not_have_go(home):
    made = create_label_set(home.ledger, "pets", labels=["cat", "dog"], templates=["{}"])
    assert isinstance(made, LabelSet)
    kept = write(home.store.label_vectors_path(home.spec.key, made.digest))
    write(home.store.image_labels_dir(home.spec.key, made.digest) / "seal.json")
    foreign = {
        write(home.store.label_vectors_path(home.spec.key, GONE)),
        write(home.store.image_labels_dir(home.spec.key, GONE) / "seal.json").parent,
    }
    home.age_files()
    assert paths(sweep(home)) == foreign
    assert kept.is_file()


def test_old_releases_go_but_not_the_current_one_nor_the_one_before(home):
    for number in range(3):
        home.add(f"more {number}.jpg")
        home.merge()
    assert release_numbers(home.store, home.spec.key) == [1, 2, 3, 4]
    home.age_files()
    assert sweep(home).orphans == (), "they are of today, whatever their files say"
    home.age_releases()
    swept = sweep(home)
    assert swept.counts == {"releases": 2}
    assert release_numbers(home.store, home.spec.key) == [3, 4]
    assert home.faults() == []


def test_what_is_left_of_a_release_that_was_being_removed_goes(home):
    """Found by the kills: removing a release file by file left a folder without a statement, and the sweep failed."""
    for number in range(3):
        home.add(f"more {number}.jpg")
        home.merge()
    (home.store.release_dir(home.spec.key, 1) / "release.json").unlink()
    home.age_files()
    assert sweep(home).counts == {"releases": 1}
    assert release_numbers(home.store, home.spec.key) == [2, 3, 4]


def test_the_ledger_of_another_store_has_nothing_swept(home):
    home.age_files()
    with home.ledger.write() as connection:
        connection.execute(delete(batches).where(batches.c.number == 2))
    before = everything(home)
    with pytest.raises(StoreError, match="never heard of"):
        sweep(home)
    with pytest.raises(StoreError, match="b0000002"):
        look(home)
    assert everything(home) == before


def test_nothing_is_swept_during_a_backup(home):
    with maintenance_lock(home.store), pytest.raises(StoreError, match="under way"):
        sweep(home)


def test_an_upload_that_is_submitted_again_meanwhile_stays(home):
    path = write(home.store.upload_path(GONE))
    home.age_files()
    assert paths(look(home)) == {path}
    submit_analysis(home.ledger, NewAnalysis("api", GONE, "g.jpg", "JPEG", 1, 1, 5))
    assert sweep(home).orphans == ()
    assert path.is_file()
