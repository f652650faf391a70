"""The API keys as the service knows them: read from the ledger every few seconds, compared in memory."""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.api_keys import ApiKey, Scope, StoredKey, note_use, parse_token, stored_keys
from clip_pipeline.ledger.database import Ledger, utc_now

logger = logging.getLogger(__name__)

CACHE_S = 2.0
"""How long a key that another process revoked goes on working here."""

USE_NOTED_S = 60.0

# Compared with where the id is unknown, so that the time of an answer does not tell which ids exist.
_NOBODY = StoredKey(ApiKey("", "", Scope.READ, "", None, None, None), bytes(16), bytes(32))


@dataclass(frozen=True, slots=True)
class RejectedToken:
    """What a client sent that is no key, or no longer one. reason: tells of a key only to those who have its secret."""

    reason: str


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """Every key of the ledger at one moment, by id; revoked and expired ones too."""

    by_id: Mapping[str, StoredKey]

    @property
    def exist(self) -> bool:
        """Whether a key was ever created. Revoking the last one must not open the service again."""
        return bool(self.by_id)

    def key_of(self, token: str) -> ApiKey | RejectedToken:
        """The key whose secret was sent, or why there is none."""
        key_id, secret = parse_token(token) or ("", "")
        stored = self.by_id.get(key_id, _NOBODY)
        if not stored.matches(secret) or stored is _NOBODY:
            return RejectedToken("the key is not one of this service; `clip-pipeline keys list` shows those it has")
        return _unless_over(stored.key)

    def key_named(self, key_id: str) -> ApiKey | RejectedToken:
        """The key with this id, where something other than its secret proves that it may be used."""
        stored = self.by_id.get(key_id)
        return RejectedToken("the key is not one of this service") if stored is None else _unless_over(stored.key)

    def admit(self, key_id: str | None) -> bool:
        """Whether a connection that was opened with this key, None for without one, may stay open."""
        if not self.exist:
            return True
        return key_id is not None and isinstance(self.key_named(key_id), ApiKey)


def _unless_over(key: ApiKey) -> ApiKey | RejectedToken:
    fault = key.fault(utc_now())
    return key if fault is None else RejectedToken(fault)


class KeyRing:
    """The keys of one ledger, for one event loop. `cache_s`: age at which they are read again."""

    def __init__(self, ledger: Ledger, *, cache_s: float = CACHE_S) -> None:
        self._ledger = ledger
        self._cache_s = cache_s
        self._known: KnownKeys | None = None
        self._read_at = 0.0
        self._expired_at = 0.0
        self._noted: dict[str, float] = {}
        self._reading = anyio.Lock()
        # A thread of its own: busy searches must not keep a request waiting for its key to be known.
        self._reader = anyio.CapacityLimiter(1)
        # Noting a use may queue behind a long registration for the ledger's write lock; no request waits for it.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="note-key-use")

    async def known(self) -> KnownKeys:
        """The keys, at most `cache_s` old; older ones only while the ledger cannot be read.

        Raises:
            StoreError: the ledger was never readable.
        """
        known = self._fresh()
        if known is None:
            async with self._reading:
                known = self._fresh() or await self._read()
        return known

    def expire(self) -> None:
        """Have the keys read again when they are asked for next: they have changed."""
        self._expired_at = time.monotonic()

    def note_use(self, key: ApiKey) -> None:
        """Record in the background that the key was used, at most once a minute."""
        now = time.monotonic()
        if now - self._noted.get(key.key_id, -USE_NOTED_S) >= USE_NOTED_S:
            self._noted[key.key_id] = now
            self._writer.submit(self._write_use, key.key_id)

    def close(self) -> None:
        """Return once no use is being written any more."""
        self._writer.shutdown(cancel_futures=True)

    def _fresh(self) -> KnownKeys | None:
        is_fresh = self._read_at > self._expired_at and time.monotonic() - self._read_at < self._cache_s
        return self._known if is_fresh else None

    async def _read(self) -> KnownKeys:
        begun = time.monotonic()
        try:
            stored = await anyio.to_thread.run_sync(stored_keys, self._ledger, limiter=self._reader)
        except Exception as error:  # whatever the driver raises, the database is at fault
            if self._known is None:
                raise StoreError(f"the API keys cannot be read from the ledger: {error}") from error
            # Nothing can have been revoked in a ledger that cannot be reached; tried again after another period.
            logger.warning("keys not read again", extra={"reason": str(error)})
            known = self._known
        else:
            known = KnownKeys({entry.key.key_id: entry for entry in stored})
        self._known, self._read_at = known, begun
        return known

    def _write_use(self, key_id: str) -> None:
        since = datetime.now(UTC) - timedelta(seconds=USE_NOTED_S)
        try:
            note_use(self._ledger, key_id, unless_since=since)
        except Exception as error:  # noqa: BLE001 - the request that used the key was answered all the same
            logger.warning("use of a key not noted", extra={"key": key_id, "reason": str(error)})
