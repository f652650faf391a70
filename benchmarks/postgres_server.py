"""A PostgreSQL server for a benchmark, from the programs that are installed, with disks waited for as in production."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

SETTINGS: Mapping[str, str] = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}
"""What differs from the defaults: what a database of ten million files is given."""
START_TIMEOUT_S = 60


@contextmanager
def running_postgres() -> Generator[str, None, None]:
    """The SQLAlchemy URL of an empty database; the server and all that it holds is gone afterwards.

    As root it runs as the user `postgres`, which Debian's package makes; anybody else runs it as themselves.
    """
    programs = _programs()
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="clip-pipeline-postgres-"))
    try:
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
        initialise = [
            programs / "initdb", "--pgdata", folder / "data", "--username", "clip", "--auth", "trust", "--encoding",
            "UTF8", "--locale", "C.UTF-8",
        ]  # fmt: skip
        subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, cwd=folder, **identity)
        options = dict(SETTINGS) | {"listen_addresses": "", "unix_socket_directories": str(folder)}
        command = [programs / "postgres", "-D", folder / "data"]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **identity)
        try:
            # Reached by its socket only, in a folder that nobody else can enter: it asks for no password.
            yield _ready(f"postgresql://clip@/postgres?host={folder}")
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(START_TIMEOUT_S)
    finally:
        shutil.rmtree(folder)


def _ready(url: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            return url
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _programs() -> Path:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    found = shutil.which("postgres")
    if not debian and not found:
        raise SystemExit("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    return debian[-1] if debian else Path(str(found)).parent
