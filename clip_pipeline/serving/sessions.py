"""Sessions of people who logged in with a key: a signed cookie, and what signs it.

Nothing is kept of a session but the cookie, so every process that has the secret knows it, and a restart ends none.
It names the key and does not hold its secret: whatever ends the key, ends its sessions at the next request. A session
itself ends `LIFETIME_S` after its log-in, used or not. Logging out takes the cookie from the browser; a copy that
somebody made of it before would go on until then, or until the key is revoked.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from clip_pipeline.core.errors import ConfigurationError, StoreError
from clip_pipeline.ledger.api_keys import ApiKey
from clip_pipeline.serving.pages.error_pages import is_page
from clip_pipeline.settings import Settings

LIFETIME_S = 7 * 24 * 3600
LOGIN, LOGOUT, START_PAGE = "/ui/login", "/ui/logout", "/ui/search"
SECRET_FILE = "session_secret"  # noqa: S105 - the name of the file
SECRET_BYTES = 32
MAX_ADDRESS_CHARS = 2_000

_COOKIE = "clip_session"
_ENCRYPTED = ("https", "wss")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a valid cookie says. session_id: random, of one log-in."""

    key_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Session:
    """Who is logged in. csrf_token: what forms of this session's pages carry, and those of no other."""

    key: ApiKey
    csrf_token: str


class Sessions:
    """Makes and reads the cookies of one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._signed = URLSafeTimedSerializer(
            secret,
            salt="clip-pipeline session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def claim_of(self, scope: Scope) -> Claim | None:
        """What the cookie of a request says; None without one, and for one that is forged, damaged or too old."""
        text = HTTPConnection(scope).cookies.get(_cookie_name(scope))
        if text is None:
            return None
        try:
            key_id, session_id = self._signed.loads(text, max_age=LIFETIME_S)
        except BadData:
            return None
        return Claim(key_id, session_id)

    def session(self, claim: Claim, key: ApiKey) -> Session:
        """The session of a claim, whose key this is."""
        token = hmac.digest(self._secret, f"clip-pipeline form of {claim.session_id}".encode(), "sha256")
        return Session(key, token.hex())

    def begin(self, response: Response, scope: Scope, *, key: ApiKey) -> None:
        """Let the browser that gets this response be logged in with the key."""
        text = self._signed.dumps([key.key_id, secrets.token_hex(16)])
        _set_cookie(response, scope, text=str(text), lifetime_s=LIFETIME_S)


def end(response: Response, scope: Scope) -> None:
    """Take the cookie from the browser that gets this response."""
    _set_cookie(response, scope, text="", lifetime_s=0)


def open_sessions(settings: Settings) -> Sessions:
    """The sessions of one home, signed with the secret that was set, or one that the home keeps.

    Raises:
        ConfigurationError: the secret that was set is too short.
        StoreError: none was set, and the home cannot keep one.
    """
    given = settings.session_secret.get_secret_value().encode()
    if not given:
        return Sessions(_kept_secret(settings.home_path / SECRET_FILE))
    if len(given) < SECRET_BYTES:
        raise ConfigurationError(
            f"CLIP_PIPELINE_SESSION_SECRET has {len(given)} bytes, expected at least {SECRET_BYTES}; "
            "`openssl rand -hex 32` makes one"
        )
    return Sessions(given)


def login_address(scope: Scope) -> str:
    """Where to log in, and come back from to the page that was asked for."""
    query = scope["query_string"].decode("latin-1")
    target = quote(scope["path"]) + (f"?{query}" if query else "")
    return f"{LOGIN}?{urlencode({'next': target})}" if safe_target(target) == target else LOGIN


def safe_target(text: str) -> str:
    """The address, where it is that of a page of this service and nothing a browser could read otherwise.

    Any other text gives the start page: whoever sends people to the log-in must not choose where they land.
    """
    # Browsers take a backslash for a slash, skip tabs and line ends, and read `//host` as another host.
    is_plain = text.isascii() and text.isprintable() and not {" ", "\\"} & set(text) and not text.startswith("//")
    path = text.partition("?")[0].partition("#")[0]
    is_safe = is_plain and len(text) <= MAX_ADDRESS_CHARS and (is_page(path) or path == "/")
    return text if is_safe and path not in (LOGIN, LOGOUT) else START_PAGE


def _cookie_name(scope: Scope) -> str:
    # With the prefix a browser takes it from this host alone, over https and for every path: no neighbour can plant
    # one. Browsers want `Secure` for it, which over http they would not send back.
    return f"__Host-{_COOKIE}" if _is_encrypted(scope) else _COOKIE


def _is_encrypted(scope: Scope) -> bool:
    """Whether the browser spoke https. A proxy says so by `X-Forwarded-Proto`, which the server believes its own."""
    return scope["scheme"] in _ENCRYPTED


def _set_cookie(response: Response, scope: Scope, *, text: str, lifetime_s: int) -> None:
    response.set_cookie(
        _cookie_name(scope), text, max_age=lifetime_s, path="/", secure=_is_encrypted(scope), httponly=True,
        samesite="lax",
    )  # fmt: skip


def _kept_secret(path: Path) -> bytes:
    """The secret in the file, made by whoever comes first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            # Under a lock, not by a rename: what is half written here was never used, so it may be written anew.
            fcntl.flock(file, fcntl.LOCK_EX)
            secret = file.read()
            if len(secret) != SECRET_BYTES:
                secret = secrets.token_bytes(SECRET_BYTES)
                file.seek(0)
                file.truncate()
                file.write(secret)
                file.flush()
                os.fsync(file.fileno())
            return secret
    except OSError as error:
        raise StoreError(
            f"the secret that signs sessions cannot be kept in {path} ({error.strerror}); "
            "make the home writable, or set CLIP_PIPELINE_SESSION_SECRET"
        ) from error
