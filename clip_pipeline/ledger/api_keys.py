"""API keys: made, listed, revoked and compared. What is stored of a secret is a salted hash, never the secret."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, RowMapping, insert, or_, select, update

from clip_pipeline.core.errors import ConfigurationError, NotFoundError
from clip_pipeline.ledger.database import Ledger, iso_utc, utc_now
from clip_pipeline.ledger.schema import api_keys

PREFIX = "clip"
MAX_NAME = 100
_ID_BYTES, _SECRET_BYTES, _SALT_BYTES, _DIGEST_BYTES = 6, 32, 16, 32


class Scope(StrEnum):
    """What a key may do: each includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, needed: "Scope") -> bool:
        """True where a key of this scope may do what `needed` names."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be told of a key. Times as the ledger has them; expires_at: None for never."""

    key_id: str
    name: str
    scope: Scope
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None

    def fault(self, now: str) -> str | None:
        """Why the key is not accepted at `now`, or None when it is."""
        if self.revoked_at is not None:
            return f"key {self.key_id} was revoked at {self.revoked_at}"
        # Times of one width compare as text.
        if self.expires_at is not None and self.expires_at <= now:
            return f"key {self.key_id} expired at {self.expires_at}"
        return None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is stored. salt: 16 bytes; digest: 32 bytes, of salt and secret."""

    key: ApiKey
    salt: bytes
    digest: bytes

    def matches(self, secret: str) -> bool:
        """Whether this is the key's secret; takes the same time whatever the answer."""
        return hmac.compare_digest(_digest(secret, self.salt), self.digest)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key with its only copy of the secret: `clip_<id>_<secret>`, what clients send."""

    key: ApiKey
    token: str


def create_key(ledger: Ledger, name: str, *, scope: Scope, expires_at: datetime | None) -> CreatedKey:
    """A new key; nothing can show its secret again.

    Raises:
        ConfigurationError: the name is empty, too long or not printable.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigurationError(f"expected a name of 1 to {MAX_NAME} printable characters, got {name!r}")
    key_id, secret, salt = (
        secrets.token_hex(_ID_BYTES),
        secrets.token_hex(_SECRET_BYTES),
        secrets.token_bytes(_SALT_BYTES),
    )
    expiry = None if expires_at is None else iso_utc(expires_at)
    key = ApiKey(key_id, name, scope, utc_now(), expiry, None, None)
    row = {
        "key_id": key_id, "name": name, "scope": str(scope), "salt": salt.hex(), "digest": _digest(secret, salt).hex(),
        "created_at": key.created_at, "expires_at": expiry,
    }  # fmt: skip
    with ledger.write() as connection:
        connection.execute(insert(api_keys).values(row))
    return CreatedKey(key, f"{PREFIX}_{key_id}_{secret}")


def parse_token(token: str) -> tuple[str, str] | None:
    """Id and secret of `clip_<id>_<secret>`; None where the text has another form."""
    parts = token.split("_")
    if len(parts) != 3 or parts[0] != PREFIX or not parts[1] or not parts[2]:
        return None
    return parts[1], parts[2]


def stored_keys(ledger: Ledger) -> list[StoredKey]:
    """Every key that was ever made, oldest first."""
    with ledger.read() as connection:
        rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)).mappings()
        return [StoredKey(_key(row), bytes.fromhex(row["salt"]), bytes.fromhex(row["digest"])) for row in rows]


def list_keys(ledger: Ledger) -> list[ApiKey]:
    """What may be told of every key, oldest first."""
    return [stored.key for stored in stored_keys(ledger)]


def usable_keys(keys: Sequence[ApiKey]) -> list[ApiKey]:
    """Those that are neither expired nor revoked now."""
    now = utc_now()
    return [key for key in keys if key.fault(now) is None]


def revoke_key(ledger: Ledger, key_id: str) -> ApiKey:
    """The key, revoked now, or earlier where it was already.

    Raises:
        NotFoundError: no key has this id.
    """
    this = api_keys.c.key_id == key_id
    with ledger.write() as connection:
        connection.execute(update(api_keys).where(this, api_keys.c.revoked_at.is_(None)).values(revoked_at=utc_now()))
        row = connection.execute(select(api_keys).where(this)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"no key {key_id!r}; `clip-pipeline keys list` shows the ids")
    return _key(row)


def note_use(ledger: Ledger, key_id: str, *, unless_since: datetime) -> None:
    """Record that the key is in use now, unless a use since then is recorded: several processes share one key."""
    old: ColumnElement[bool] = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < iso_utc(unless_since))
    with ledger.write() as connection:
        connection.execute(update(api_keys).where(api_keys.c.key_id == key_id, old).values(last_used_at=utc_now()))


def _digest(secret: str, salt: bytes) -> bytes:
    # One pass of a fast hash, no slow KDF: those make guessing expensive where people choose the secret. These are
    # 256 random bits, beyond any guessing, and are checked on every request. The salt (BLAKE2's own) makes two stored
    # digests unrelated, `person` makes them of no use to any other program.
    return hashlib.blake2b(
        secret.encode("utf-8", "surrogateescape"), digest_size=_DIGEST_BYTES, salt=salt, person=b"clip-api-key"
    ).digest()


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(
        row["key_id"], row["name"], Scope(row["scope"]), row["created_at"], row["expires_at"], row["revoked_at"],
        row["last_used_at"],
    )  # fmt: skip
