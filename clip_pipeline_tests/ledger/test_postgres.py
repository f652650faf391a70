"""What only a server does: it restarts, dies, is full of frozen clients, refuses, or is another program's."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, select, text

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.filters import ImageFilter, images_that_fit
from clip_pipeline.ledger.folder_progress import first_indexed_file
from clip_pipeline.ledger.jobs import recent_jobs
from clip_pipeline.ledger.lookup import image_id_of_path, known_files_below
from clip_pipeline.ledger.registration import Submission, register_files
from clip_pipeline.ledger.schema import files, jobs
from clip_pipeline.ledger.whereabouts import remove_paths, whereabouts
from clip_pipeline_tests.ledger.steps import facts, register
from clip_pipeline_tests.postgres import PostgresServer, postgres_server

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from clip_pipeline.ledger.database import open_ledger
with open_ledger(sys.argv[1]).write():
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def own_ledger(own_server: PostgresServer) -> Iterator[Ledger]:
    opened = open_ledger(own_server.new_database(), patience_s=0)
    yield opened
    opened.close()


@pytest.fixture
def fresh(postgres: PostgresServer) -> Iterator[str]:
    url = postgres.new_database()
    yield url
    postgres.give_back(url)


def patient(ledger: Ledger, seconds: float) -> Ledger:
    return Ledger(ledger.engine, seconds)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_calls_go_on_after_the_server_was_stopped_and_started(own_server, own_ledger, how):
    register(own_ledger, "/a")
    getattr(own_server, how)()
    own_server.start()
    assert register(own_ledger, "/a", "/b").new_images_count == 1
    assert balance(own_ledger).files["registered"] == 2


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_lost_in_the_middle_of_a_transaction_is_a_store_error_and_nothing_is_kept(own_server, own_ledger, how):
    def write() -> None:
        with own_ledger.write() as connection:
            connection.execute(text("INSERT INTO deployment VALUES ('a', 'b', 'c')"))
            getattr(own_server, how)()
            own_server.start()
            connection.execute(select(jobs))

    with pytest.raises(StoreError, match="server runs and can be reached"):
        write()
    with own_ledger.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM deployment")).scalar_one() == 0


def test_a_server_lost_while_rows_are_copied_is_a_store_error_and_nothing_is_kept(own_server, own_ledger, monkeypatch):
    """COPY goes past SQLAlchemy, whose translation of errors and dropping of dead connections it has to do itself."""
    from clip_pipeline.ledger import bulk  # noqa: PLC0415

    told = bulk._field

    def restart_once(value):
        monkeypatch.setattr(bulk, "_field", told)
        own_server.restart()
        return told(value)

    monkeypatch.setattr(bulk, "_field", restart_once)
    with pytest.raises(StoreError, match="server runs and can be reached"):
        register(own_ledger, "/a", "/b")
    assert register(own_ledger, "/a", "/b").new_images_count == 2


def test_a_stopped_server_is_told_at_once_to_the_impatient_and_waited_for_by_the_patient(own_server, own_ledger):
    own_server.stop()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"CLIP_PIPELINE_LEDGER_URL.*server runs") as caught:
        recent_jobs(own_ledger)
    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(recent_jobs, patient(own_ledger, 30))
        own_server.start()
        assert waiting.result() == []


def test_a_writer_that_waits_for_the_lock_when_the_server_restarts_gets_it_afterwards(own_server, own_ledger):
    """Until it has the lock it has done nothing, so it may begin again."""
    done = []
    submit = threading.Thread(
        target=lambda: done.append(register_files(patient(own_ledger, 30), facts("/a"), submission=Submission("api")))
    )

    def hold_until_somebody_waits() -> None:
        with own_ledger.write() as connection:
            submit.start()
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            deadline = time.monotonic() + 30
            while not connection.execute(waiting).scalar_one():
                assert time.monotonic() < deadline
            own_server.restart()
            connection.execute(select(jobs))

    with pytest.raises(StoreError):
        hold_until_somebody_waits()
    submit.join()
    assert done[0].new_images_count == 1


def test_a_frozen_writer_loses_its_transaction_and_the_next_one_gets_the_lock(fresh):
    """It would have kept every other writer waiting for as long as it stays frozen."""
    url = f"{fresh}?options=-c%20idle_in_transaction_session_timeout%3D500ms"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        holder.send_signal(signal.SIGSTOP)
        try:
            ledger = open_ledger(fresh)
            assert register(ledger, "/a").new_images_count == 1
            ledger.close()
        finally:
            holder.send_signal(signal.SIGCONT)
        _, said = holder.communicate(timeout=60)
    assert holder.returncode != 0
    assert "StoreError" in said


def test_frozen_writers_are_not_waited_for_longer_than_a_minute_by_default(fresh):
    ledger = open_ledger(fresh)
    with ledger.read() as connection:
        told = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in (
            "idle_in_transaction_session_timeout", "lock_timeout", "tcp_keepalives_idle", "application_name",
            "transaction_isolation", "transaction_read_only",
        )}  # fmt: skip
    with ledger.write() as connection:
        writing = connection.execute(text("SHOW transaction_isolation")).scalar_one()
    ledger.close()
    assert told["idle_in_transaction_session_timeout"] == told["lock_timeout"] == "1min"
    assert (told["transaction_isolation"], told["transaction_read_only"]) == ("repeatable read", "on")
    assert (told["application_name"], writing) == ("clip-pipeline", "read committed")


def test_a_reader_cannot_write(fresh):
    ledger = open_ledger(fresh)
    with pytest.raises(StoreError, match="read-only"), ledger.read() as connection:
        connection.execute(text("DELETE FROM jobs"))
    ledger.close()


def test_files_are_found_by_the_index_of_their_paths(fresh):
    """It is on an expression: a query that does not say the same in its own words would read all files."""
    ledger, plans, asked = open_ledger(fresh), {}, {}

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def note(connection, _cursor, statement, parameters, _context, _many):
        if "files.path" in statement and statement.startswith("SELECT"):
            asked[statement] = parameters
        elif "files.path" in statement and statement.startswith("UPDATE"):  # of a table that is gone afterwards
            with connection.connection.cursor() as asking:
                asking.execute("SET LOCAL enable_seqscan = off")
                plans[statement] = plan_of(asking, statement, parameters)

    register(ledger, "/a/b", "/a/c")
    assert [known.path for known in known_files_below(ledger, "/a", after="/a/b")] == ["/a/c"]
    assert first_indexed_file(ledger, "/a") is None
    assert image_id_of_path(ledger, "/a/b") is None
    assert list(images_that_fit(ledger, ImageFilter(path_prefix="/a"))) == []
    assert whereabouts(ledger, "/a/b").state == "registered"
    assert remove_paths(ledger, ["/a/b"]) == (1, [])
    event.remove(ledger.engine, "before_cursor_execute", note)
    with ledger.engine.connect() as connection:
        asking = connection.connection.cursor()
        # Of so few files those of a state may be found as well by their state. Taken back with the transaction.
        for index in files.indexes:
            asking.execute(f"DROP INDEX {index.name}")
        asking.execute("SET LOCAL enable_seqscan = off")
        plans |= {statement: plan_of(asking, statement, parameters) for statement, parameters in asked.items()}
        connection.connection.rollback()
    ledger.close()
    assert len(plans) > 6
    assert not {s: p for s, p in plans.items() if "uq_files_path" not in p}


def plan_of(cursor, statement, parameters):
    cursor.execute(f"EXPLAIN {statement}", parameters)
    return "\n".join(row[0] for row in cursor.fetchall())


def test_whether_a_job_waits_is_known_without_reading_the_files_of_others(fresh):
    """To find one waiting file of each open job, PostgreSQL read all files from the first."""
    ledger, plans = open_ledger(fresh), []
    for number in range(20):
        register(ledger, *(f"/{number}/{file}" for file in range(200)))
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def explain(connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT jobs.job_id") and "job_files" in statement:
            with connection.connection.cursor() as asking:
                asking.execute(f"EXPLAIN {statement}", parameters)
                plans.append("\n".join(row[0] for row in asking.fetchall()))

    register(ledger, "/another")
    ledger.close()
    (plan,) = plans
    assert "Scan using pk_job_files on job_files" in plan
    assert "Scan using ix_files_job on files" in plan
    assert "Seq Scan on files" not in plan


def test_a_server_that_refuses_is_told_without_the_password(fresh):
    user, _, rest = fresh.rpartition("@")
    name = user.rpartition(":")[0]
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot open the ledger.*password authentication failed") as caught:
        open_ledger(f"{name}:hunter2@{rest}")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        open_ledger(fresh.rpartition("/")[0] + "/nowhere")
    assert time.monotonic() - began < 5


def test_a_database_whose_encoding_cannot_hold_every_path_is_refused(postgres):
    with postgres.administration() as connection:
        connection.execute(text("CREATE DATABASE latin OWNER clip ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))
    url = postgres.new_empty_database()
    with pytest.raises(StoreError, match=r"encoding is LATIN1.*ENCODING 'UTF8'"):
        open_ledger(url.rpartition("/")[0] + "/latin")
    postgres.drop_database("/latin")
    postgres.drop_database(url)


def test_a_user_who_may_not_make_tables_is_told_whom_the_database_must_belong_to(postgres):
    url = postgres.new_empty_database()
    with postgres.administration() as connection:
        connection.execute(text(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO postgres'))
    with pytest.raises(StoreError, match=r"permission denied.*the user owns the database"):
        open_ledger(url)
    postgres.drop_database(url)


def test_the_database_of_dagster_is_refused(postgres):
    dg = pytest.importorskip("dagster_postgres")
    url = postgres.new_empty_database()
    storage = dg.PostgresRunStorage(url)
    storage.dispose()
    with pytest.raises(StoreError, match=r"another program such as Dagster.*a database of its own"):
        open_ledger(url)
    postgres.drop_database(url)
