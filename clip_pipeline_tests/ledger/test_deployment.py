"""Which store is the controller's, and what it runs: recorded once, compared ever after."""

from pathlib import Path

import pytest

from clip_pipeline import __version__
from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.store import Store, create_file
from clip_pipeline.core.store_identity import ensure_store_id, store_id
from clip_pipeline.ledger.database import Ledger, StoreError, open_existing_ledger
from clip_pipeline.ledger.deployment import (
    STORE_ID,
    VERSION,
    adopt_store,
    own_versions,
    record_controller,
    recorded_deployment,
    store_fault,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_store_keeps_the_id_it_got_first(store: Store):
    assert store_id(store) is None
    first = ensure_store_id(store)
    assert [ensure_store_id(store, wanted="another"), store_id(store)] == [first, first]


def test_a_damaged_id_is_no_new_one(store: Store):
    ensure_store_id(store)
    store.identity_path.write_text("{}")
    with pytest.raises(IntegrityError, match="restore it"):
        ensure_store_id(store)


def test_a_file_is_created_once(tmp_path: Path):
    target = tmp_path / "folder" / "file"
    assert [create_file(target, b"first"), create_file(target, b"second")] == [True, False]
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    assert target.read_bytes() == b"first"


def test_the_first_store_is_recorded_and_another_one_is_found_out(ledger: Ledger, store: Store, tmp_path: Path):
    assert recorded_deployment(ledger) == {}
    assert record_controller(ledger, store) is None
    recorded = recorded_deployment(ledger)
    assert recorded == own_versions() | {STORE_ID: store_id(store)}
    assert recorded[VERSION] == __version__
    empty, other = Store(tmp_path / "empty mount"), Store(tmp_path / "other")
    ensure_store_id(other)
    for wrong, said in ((empty, "has no id"), (other, "is store")):
        assert said in (store_fault(wrong, recorded[STORE_ID]) or "")
        assert said in (record_controller(ledger, wrong) or "")
    assert recorded_deployment(ledger) == recorded
    assert store_id(empty) is None


def test_a_person_may_say_that_another_store_is_the_right_one(ledger: Ledger, store: Store, tmp_path: Path):
    first = adopt_store(ledger, store)
    restored, other = Store(tmp_path / "restored without its id"), Store(tmp_path / "other")
    assert adopt_store(ledger, restored) == first
    theirs = ensure_store_id(other)
    assert adopt_store(ledger, other) == theirs
    assert record_controller(ledger, other) is None
    assert recorded_deployment(ledger)[STORE_ID] == theirs


def test_whoever_must_not_make_a_ledger_opens_it_as_it_is(ledger_url: str, ledger: Ledger, tmp_path: Path):
    opened = open_existing_ledger(ledger_url)
    assert recorded_deployment(opened) == {}
    opened.close()
    with ledger.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0004'")
    with pytest.raises(StoreError, match=r"schema 0004.*init"):
        open_existing_ledger(ledger_url)
    absent = tmp_path / "absent.sqlite3"
    with pytest.raises(StoreError, match=r"absent\.sqlite3.*init"):
        open_existing_ledger(f"sqlite:///{absent}")
    assert not absent.exists()
