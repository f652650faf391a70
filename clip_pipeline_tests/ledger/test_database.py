"""Promises of `Ledger` that hold on each database: one state for a reader, one writer, migrations by many at once."""

import multiprocessing
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError

from clip_pipeline.core.errors import ConfigurationError, LedgerBusyError, NotFoundError, QueryError, StoreError
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger, open_ledger, utc_now
from clip_pipeline.ledger.folder_progress import folder_progress
from clip_pipeline.ledger.lookup import failed_files, known_files_below
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files
from clip_pipeline.ledger.schema import files, jobs
from clip_pipeline.ledger.whereabouts import remove_paths, whereabouts
from clip_pipeline_tests.ledger.steps import finish, plan, register

ODD = [
    "/tab\there", "/line\nbreak", "/return\r", "/back\\slash", r"/\N", r"/\.", "/\\", "/quote'\"", "/é", "/\U0001f600",
    "/\U0010ff80", "/%s %(a)s :b", "/ " + "x" * 1000,
]  # fmt: skip


def test_a_reader_sees_one_state_while_others_write(ledger: Ledger):
    register(ledger, "/a")
    with ledger.read() as reading:
        count = select(func.count()).select_from(files)
        assert reading.execute(count).scalar_one() == 1
        register(ledger, "/b", "/c")
        assert reading.execute(count).scalar_one() == 1
    assert balance(ledger).files["registered"] == 3


def test_a_writer_sees_what_the_one_it_waited_for_has_written(ledger: Ledger):
    holding, done = threading.Event(), []

    def follow() -> None:
        holding.wait()
        with ledger.write() as connection:
            done.append(connection.execute(select(func.count()).select_from(jobs)).scalar_one())

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(follow)
        with ledger.write() as connection:
            holding.set()
            connection.execute(insert(jobs).values(
                job_id="idx_first", source="api", created_at=utc_now(), images_count=0, new_images_count=0,
                already_indexed_count=0, total_images=0,
            ))  # fmt: skip
        second.result()
    assert done == [1]


def test_an_error_in_the_middle_of_a_registration_is_the_one_that_is_told_and_leaves_nothing(ledger: Ledger):
    """On PostgreSQL another was told in its place: that no statement is taken after an error."""
    broken = [FileFacts("/a", 1, 1), FileFacts("/b", None, 1)]  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)null"):
        register_files(ledger, broken, submission=Submission("api"))
    assert sum(balance(ledger).files.values()) == 0
    assert register(ledger, "/a").new_images_count == 1


def test_paths_of_any_characters_come_back_as_they_went_in(ledger: Ledger):
    register(ledger, *ODD)
    assert sorted(known.path for known in known_files_below(ledger, "/")) == sorted(ODD)


def test_paths_of_any_length_are_registered_found_and_sorted_like_every_other(ledger: Ledger):
    """On PostgreSQL one of more than 2,704 bytes had the registration of all beside it refused."""
    rng = random.Random(7)
    folder = "/deep/" + "/".join(rng.randbytes(120).hex() for _ in range(15))
    escaped = "".join(chr(0x10FF80 + rng.randrange(0x80)) for _ in range(4_000))
    long = [f"{folder}/{name}" for name in ("b", "B", "a\\x41", "a\\101", "aA", "b/c", rng.randbytes(100).hex())]
    paths = [*long, folder, folder[:500], folder[:501], f"/{escaped}", "/deep", "/short"]
    assert register(ledger, *paths).new_images_count == len(paths)
    assert register(ledger, *paths).already_indexed_count == len(paths)
    assert [known.path for known in known_files_below(ledger, "/")] == sorted(paths, key=str.encode)
    assert [known.path for known in known_files_below(ledger, folder)] == sorted(long, key=str.encode)
    after = sorted(long, key=str.encode)[2]
    assert [known.path for known in known_files_below(ledger, folder, after=after)] == sorted(long, key=str.encode)[3:]
    assert folder_progress(ledger, folder).registered == len(long)
    assert {whereabouts(ledger, path).path for path in paths} == set(paths)
    assert remove_paths(ledger, [*long, f"{folder}/none"]) == (len(long), [f"{folder}/none"])
    finish(ledger, {})
    assert balance(ledger).files == balance(ledger).files | {"deleted": len(long), "failed": len(paths) - len(long)}


@pytest.mark.parametrize("path", ["/a", "/" + "b" * 3_000])
def test_no_two_files_have_the_same_path_however_long(ledger: Ledger, path: str):
    register(ledger, path)
    again = text(
        "INSERT INTO files (path, size_bytes, mtime_ns, job_id, state, updated_at) "
        "SELECT path, size_bytes, mtime_ns, job_id, state, updated_at FROM files"
    )
    with pytest.raises(IntegrityError, match=r"(?i)unique"), ledger.write() as connection:
        connection.execute(again)


def test_a_text_with_a_nul_is_nowhere_to_be_found(ledger: Ledger):
    """On PostgreSQL it was an error of the code, which a client that asked for one saw as 500."""
    with pytest.raises((NotFoundError, QueryError)):
        whereabouts(ledger, "/a\0b")
    assert register(ledger, "/a").new_images_count == 1


def test_paths_are_sorted_by_their_bytes_whatever_the_language_of_the_database(ledger: Ledger):
    paths = ["/B", "/a", "/a/b", "/a-b", "/a b", "/A/b", "/ä", "/_a", "/aB", "/\U0001f600", "/\uffee"]
    register(ledger, *paths)
    assert [known.path for known in known_files_below(ledger, "/")] == sorted(paths, key=str.encode)
    finish(ledger, {})
    assert [failed.path for failed in failed_files(ledger)] == sorted(paths, key=str.encode)


def test_a_writer_that_waits_too_long_is_told_that_the_ledger_is_busy(ledger: Ledger, ledger_database: str):
    url = ledger.engine.url
    brief = {"sqlite": {"timeout": "0.1"}, "postgres": {"options": "-c lock_timeout=100ms"}}[ledger_database]
    impatient = open_ledger(url.update_query_dict(brief).render_as_string(hide_password=False))
    with ledger.write(), pytest.raises(LedgerBusyError, match="another writer"):
        register(impatient, "/a")
    assert register(impatient, "/a").new_images_count == 1
    impatient.close()


def test_a_batch_gets_its_files_in_the_order_in_which_they_were_registered(ledger: Ledger):
    register(ledger, *[f"/{i:02d}" for i in range(20)])
    first, second = plan(ledger, batch_size=10)
    with ledger.read() as connection:
        in_first = select(files.c.path).where(files.c.batch == first.number).order_by(files.c.file_id)
        assert list(connection.execute(in_first).scalars()) == [f"/{i:02d}" for i in range(10)]
    assert second.number > first.number


def _open(url: str) -> int:
    ledger = open_ledger(url)
    try:
        return sum(balance(ledger).files.values())
    finally:
        ledger.close()


def test_processes_that_open_a_new_ledger_at_once_migrate_it_once(empty_ledger_url: str):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_open, [empty_ledger_url] * 3, chunksize=1) == [0, 0, 0]


@pytest.mark.parametrize("url", ["not a url", "mysql://u:secret@h/d", "postgres://u:secret@h/d", ""])
def test_a_url_that_no_ledger_can_be_at_is_refused_without_its_password(url: str):
    with pytest.raises(ConfigurationError, match="expected postgresql://") as caught:
        open_ledger(url)
    assert "secret" not in str(caught.value)


def test_a_ledger_of_a_newer_version_is_left_alone(ledger: Ledger, ledger_url: str):
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"'9999' is none of the ledger's.*a database of its own"):
        open_ledger(ledger_url)
    with ledger.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
