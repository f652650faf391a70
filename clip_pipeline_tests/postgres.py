"""A PostgreSQL server that the tests start for themselves, with the programs that are installed, and throw away.

It listens on loopback and on a socket in its own folder, asks for a password, and never runs as root: as root it is
started as the user `postgres`. What it holds need not outlive a crash of the machine, so it waits for no disk; it
does outlive its own end by `stop`, and the loss of its processes by `kill`.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from clip_pipeline.ledger.database import open_ledger

USER, _ADMIN = "clip", "postgres"
START_TIMEOUT_S = 60
_MIGRATED = "migrated_ledger"
# No disk is waited for; small enough for a laptop, with connections enough for a whole stack of processes.
_SETTINGS = {
    "fsync": "off", "full_page_writes": "off", "max_connections": "300",
    "shared_buffers": "64MB", "wal_level": "minimal", "max_wal_senders": "0", "timezone": "UTC",
    "log_min_messages": "warning", "autovacuum_naptime": "10s",
}  # fmt: skip
# Row by row, without triggers: a test leaves few rows, and TRUNCATE makes new files for every table and index.
_EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid();
SET session_replication_role = replica;
DO $$
DECLARE found record;
BEGIN
  FOR found IN
    SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
  LOOP
    EXECUTE format('DELETE FROM %I', found.name);
  END LOOP;
  FOR found IN SELECT sequencename AS name FROM pg_sequences WHERE schemaname = 'public' LOOP
    PERFORM setval(quote_ident(found.name)::regclass, 1, false);
  END LOOP;
END $$
"""


class PostgresServer:
    """A running server. Databases belong to the user `clip`, who may do no more than their owner."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self.port = _free_port()
        self._addresses = ["127.0.0.1"]
        self._password = secrets.token_hex(16)
        self._numbers = count(1)
        self._process: subprocess.Popen[Any] | None = None
        self._schema: str | None = None
        self._emptied: list[str] = []

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh database that holds an empty ledger, migrated to the newest schema."""
        if self._emptied:
            return self._emptied.pop()
        if self._schema is None:
            template = self._create(_MIGRATED)
            open_ledger(template).close()
            with self.administration(_MIGRATED) as connection:
                self._schema = _schema_of(connection)
        return self._create(f"ledger_{next(self._numbers)}", template=_MIGRATED)

    def new_empty_database(self) -> str:
        """The SQLAlchemy URL of a fresh database without any table."""
        return self._create(f"empty_{next(self._numbers)}")

    def give_back(self, url: str) -> None:
        """Empty a ledger's database for the next who wants one, whoever is connected: quicker than a new one.

        One whose schema was tampered with is dropped.
        """
        name = url.rpartition("/")[2]
        with self.administration(name) as connection:
            is_whole = _schema_of(connection) == self._schema
            if is_whole:
                connection.execute(text(_EMPTY), {"name": name})
        if is_whole:
            self._emptied.append(url)
        else:
            self.drop_database(url)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        with self.administration() as connection:
            connection.execute(text(f'DROP DATABASE "{url.rpartition("/")[2]}" WITH (FORCE)'))

    @contextmanager
    def administration(self, database: str = "postgres") -> Generator[Connection, None, None]:
        """A connection that may do everything; each statement commits by itself."""
        engine = create_engine(self._url(database, user=_ADMIN), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection

    @property
    def pid(self) -> int:
        """The server's first process, which all others are children of."""
        assert self._process is not None, "the server is stopped"
        return self._process.pid

    def initialise(self) -> None:
        """Make the cluster and the user that owns the databases."""
        password = self.folder / "password"
        password.write_text(self._password)
        _hand_over(self.folder, password)
        command = [
            self.programs / "initdb", "--pgdata", self.folder / "data", "--username", _ADMIN, "--pwfile", password,
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
            *_sorting(self.programs),
        ]  # fmt: skip
        made = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, **_as_server_user())
        assert made.returncode == 0, made.stderr
        self.start()
        with self.administration() as connection:
            connection.execute(text(f"CREATE ROLE {USER} LOGIN PASSWORD '{self._password}'"))

    def start(self) -> None:
        """Start the server, on the port that it always has, and wait until it answers."""
        settings = _SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        settings["listen_addresses"] = ",".join(self._addresses)
        command = [self.programs / "postgres", "-D", self.folder / "data"]
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_ends_with_us(), *command, *options], stdout=log, stderr=log, cwd=self.folder, **_as_server_user()
            )
        self._await_answer()

    def listen_also(self, address: str, *, clients: str) -> None:
        """Listen at another address of this machine too, for clients of a network such as 10.0.0.0/24; restarts it."""
        self._addresses.append(address)
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {clients} scram-sha-256\n")
        self.restart()

    def stop(self) -> None:
        """End every session and stop the server; what was committed stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would, its processes dying where they are; `start` recovers what it holds."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop the server and start it again."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def _create(self, name: str, *, template: str = "template0") -> str:
        with self.administration() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER {USER}'))
        return self._url(name, user=USER)

    def _url(self, database: str, *, user: str) -> str:
        url = URL.create("postgresql", user, self._password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with self.administration() as connection:
                    connection.execute(text("SELECT 1"))
                return
            except OperationalError:
                said = (self.folder / "log").read_text(errors="replace")
                assert self._process is not None
                assert self._process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)


@contextmanager
def postgres_server() -> Generator[PostgresServer, None, None]:
    """A running server; it and everything in it is gone afterwards.

    Start it from the main thread: it ends with the thread that started it, so that a killed test run leaves none.
    Skips the test where no server is installed; with CI in the environment that is a failure.
    """
    programs = _installed()
    if programs is None:
        reason = "no PostgreSQL server is installed (Debian: apt-get install postgresql); its programs are looked for"
        _give_up(f"{reason} in PATH and in /usr/lib/postgresql/*/bin")
    # Not below pytest's own temporary folder, which only the user of the tests may enter.
    folder = Path(tempfile.mkdtemp(prefix="clip-postgres-"))
    server = PostgresServer(programs, folder)
    try:
        server.initialise()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer, None, None]:
    """One server for all tests that want one; each takes databases of its own."""
    with postgres_server() as server:
        yield server


def _schema_of(connection: Connection) -> str | None:
    """The version of the tables and their names, by which one that was renamed or dropped is found out."""
    version = "(SELECT version_num FROM alembic_version)"
    tables = "string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"
    return connection.execute(text(f"SELECT {version} || ' ' || {tables}")).scalar_one_or_none()


def _installed() -> Path | None:
    """The folder of the newest server's programs."""
    found = shutil.which("postgres")
    folders = [Path(found).parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: int(folder.parent.name), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def _sorting(programs: Path) -> list[str]:
    """Options that make text sort as in a dictionary, which is not as its bytes do: as many a real server has it."""
    said = subprocess.run([programs / "initdb", "--version"], capture_output=True, text=True, check=True).stdout
    has_icu = int(re.findall(r"\d+", said)[0]) >= 15
    return ["--locale-provider", "icu", "--icu-locale", "en-US"] if has_icu else []


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _as_server_user() -> dict[str, Any]:
    """What makes a child process run as the server's user: the user `postgres` for root, anybody else as themselves."""
    if os.geteuid() != 0:
        return {}
    user = _server_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _server_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _hand_over(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, _server_user().pw_uid, _server_user().pw_gid)


def _ends_with_us() -> list[str]:
    """A prefix of a command that has Linux stop it when whoever started it dies, by whatever cause."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "INT", "--"] if found else []


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
