"""How many requests one client may make in a time: counted in memory, or in Redis for several services together."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import anyio
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.storage.base import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.settings import Settings

logger = logging.getLogger(__name__)

STORAGE_PATIENCE_S = 0.5
RETRY_S = 5.0
"""After Redis failed to answer, requests pass uncounted for this long before it is asked again."""
WARNING_EVERY_S = 60.0


class ClientKind(StrEnum):
    """What a client is told apart by."""

    KEY = "key"
    ADDRESS = "address"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a request is counted for. name: id of the key, or the network address."""

    kind: ClientKind
    name: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to a client after this request. reset_s: whole seconds until all of it is back."""

    granted: bool
    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """The `RateLimit` fields; `Retry-After` too where nothing was left.

        Source: draft-ietf-httpapi-ratelimit-headers-06, the version with one field for each number, which clients know.
        """
        fields = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }
        return fields if self.granted else fields | {"Retry-After": str(self.reset_s)}


class RateLimiter:
    """Counts requests in fixed windows.

    Fixed, not moving: a count costs one number for a client, not one time for each request, the three header fields
    say exactly what will happen, and twice the limit around the turn of a window does no harm here.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError where a limit or the storage's URL is malformed, or Redis' client is missing."""
        keyed = _limit("rate_limit", settings.rate_limit)
        local = _limit("rate_limit_local", settings.rate_limit_local)
        self._limits: Mapping[ClientKind, RateLimitItem] = {
            ClientKind.KEY: keyed, ClientKind.ADDRESS: keyed, ClientKind.LOCAL: local,
        }  # fmt: skip
        self._pool, storage = _storage(settings.rate_limit_storage)
        self._counting = FixedWindowRateLimiter(storage)
        self._silent_until = -math.inf
        self._warned_at = -math.inf

    async def charge(self, client: Client) -> Allowance | None:
        """Count one request. None where the storage does not answer: a lost Redis must not stop the service."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            with anyio.fail_after(STORAGE_PATIENCE_S):
                return await self._count(client)
        except (StorageError, OSError) as error:  # TimeoutError is an OSError
            self._pass_for_a_while(error)
            return None

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _count(self, client: Client) -> Allowance:
        limit = self._limits[client.kind]
        granted = await self._counting.hit(limit, client.kind, client.name)
        window = await self._counting.get_window_stats(limit, client.kind, client.name)
        reset_s = max(1, math.ceil(window.reset_time - time.time()))
        return Allowance(granted, limit.amount, window.remaining, min(reset_s, limit.get_expiry()))

    def _pass_for_a_while(self, error: Exception) -> None:
        now = time.monotonic()
        self._silent_until = now + RETRY_S
        if now - self._warned_at >= WARNING_EVERY_S:
            self._warned_at = now
            reason = str(error) or type(error).__name__
            logger.warning("rate limit storage does not answer, requests pass uncounted", extra={"reason": reason})


def _limit(setting: str, text: str) -> RateLimitItem:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigurationError(
            f"CLIP_PIPELINE_{setting.upper()}={text!r} is no rate; write a count and a time such as 600/minute"
        ) from error


def _storage(url: str) -> tuple[Any, Storage]:
    """Redis' connection pool, None for memory, and the storage on it."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return None, MemoryStorage()
    if scheme in ("redis", "rediss"):
        return _redis_storage(url)
    # What follows the scheme may hold a password.
    raise ConfigurationError(
        f"CLIP_PIPELINE_RATE_LIMIT_STORAGE begins with {scheme!r}; write memory:// or redis://host:6379/0"
    )


def _redis_storage(url: str) -> tuple[Any, Storage]:
    from redis.asyncio import ConnectionPool  # noqa: PLC0415 - 0.1 s of import that most services have no use for

    patience: dict[str, Any] = {"socket_connect_timeout": STORAGE_PATIENCE_S, "socket_timeout": STORAGE_PATIENCE_S}
    try:
        pool = ConnectionPool.from_url(url, **patience)
    except ValueError as error:
        raise ConfigurationError(f"CLIP_PIPELINE_RATE_LIMIT_STORAGE is no URL of Redis: {error}") from error
    options: dict[str, Any] = {"implementation": "redispy", "key_prefix": "clip-rate", "connection_pool": pool}
    return pool, RedisStorage(f"async+{url}", wrap_exceptions=True, **options)
