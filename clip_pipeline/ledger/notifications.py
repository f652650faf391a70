"""Hearing that another process committed a change: PostgreSQL's LISTEN, on one connection, in one thread.

Triggers of the database (migration `notify`) announce a change when it commits, by whomever it was made. An
announcement names a topic and nothing more, and it is lost with the connection it comes by: whoever hears one looks
for what changed, and looks now and then without one.
"""

import logging
import secrets
import selectors
import socket
from collections.abc import Callable
from enum import StrEnum
from threading import Event, Lock, Thread
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, func, select

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.database import Ledger

logger = logging.getLogger(__name__)

CHANNEL = "clip_pipeline"
PROBE_EVERY_S = 15.0
"""After so long without an announcement the listener sends itself one: a connection that died says nothing either."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
CLOSE_PATIENCE_S = 1.0

APPLICATION = "clip-pipeline listener"

# A server that is gone without a word is noticed within seconds, not after the hours that TCP allows by itself.
_CLIENT = {
    "connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2,
    "tcp_user_timeout": 15_000, "application_name": APPLICATION,
}  # fmt: skip


class Topic(StrEnum):
    """What an announcement may be about, as the triggers write it."""

    JOBS = "jobs"
    ANALYSES = "analyses"
    KEYS = "keys"


def announces_changes(ledger: Ledger) -> bool:
    """Whether the ledger's database tells of changes, by the driver that is understood here."""
    dialect = ledger.engine.dialect
    return dialect.name == "postgresql" and dialect.driver == "psycopg2"


class Notifications:
    """Calls `hear` in a thread of its own for each topic that may have changed, from `start` to `close`.

    Also when the connection is made or lost: what was committed around that moment was announced to nobody here.
    """

    def __init__(self, ledger: Ledger, hear: Callable[[Topic], None]) -> None:
        url = ledger.engine.url
        # What the URL says of itself wins.
        given = {name: value for name, value in _CLIENT.items() if name not in url.query}
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=given)
        self._hear = hear
        self._hearing = Lock()
        self._closed = Event()
        self._live = Event()
        self._pause_s = FIRST_PAUSE_S
        self._woken, self._waker = socket.socketpair()
        self._thread = Thread(target=self._follow, name="hear-ledger", daemon=True)

    @property
    def is_live(self) -> bool:
        """Whether a change that is committed now would be heard of."""
        return self._live.is_set()

    def start(self) -> None:
        """Begin to listen, without waiting for the database."""
        self._thread.start()

    def close(self) -> None:
        """Call `hear` no more and let go of the connection; a database that does not answer is not waited for."""
        with self._hearing:
            if not self._closed.is_set():
                # Before the flag: once it is set, the thread closes both ends.
                self._waker.send(b"\0")
                self._closed.set()
        self._thread.join(CLOSE_PATIENCE_S)

    def _follow(self) -> None:
        while not self._closed.is_set():
            reason = "closed"
            try:
                with self._engine.connect() as connection:
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001 - the driver's own errors too: a lost connection is made again
                reason = str(error)
            self._lose(reason)
            self._closed.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._woken.close()
        self._waker.close()

    def _lose(self, reason: str) -> None:
        if self._live.is_set():
            self._live.clear()
            self._tell(*Topic)
        if not self._closed.is_set():
            logger.warning("changes of the ledger are not announced, looked for instead", extra={"reason": reason})

    def _listen(self, connection: Connection) -> None:
        """Tell what is announced, until closed or the connection fails."""
        driver: Any = connection.connection.driver_connection
        connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        self._probe(connection, driver)
        self._live.set()
        self._pause_s = FIRST_PAUSE_S
        logger.info("changes of the ledger are announced")
        self._tell(*Topic)
        with selectors.DefaultSelector() as selector:
            selector.register(driver, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closed.is_set():
                if selector.select(PROBE_EVERY_S):
                    driver.poll()
                else:
                    self._probe(connection, driver)
                announced = {notice.payload for notice in driver.notifies}
                driver.notifies.clear()
                self._tell(*(topic for topic in Topic if topic in announced))

    def _probe(self, connection: Connection, driver: Any) -> None:
        """Raises StoreError where what is announced on this connection does not come back by it."""
        token = secrets.token_hex(8)
        connection.execute(select(func.pg_notify(CHANNEL, token)))
        if not any(notice.payload == token for notice in driver.notifies):
            raise StoreError(
                "announcements do not come through; a pooler that gives each transaction another connection keeps "
                "them back: let CLIP_PIPELINE_LEDGER_URL name the server itself, or a pooler in session mode"
            )

    def _tell(self, *topics: Topic) -> None:
        for topic in topics:
            with self._hearing:
                if not self._closed.is_set():
                    self._hear(topic)
