"""`clip-pipeline keys`: create, list and revoke the keys of the HTTP service."""

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from clip_pipeline.cli.configuration import existing_ledger, load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.ledger.api_keys import ApiKey, Scope, create_key, list_keys, revoke_key, usable_keys
from clip_pipeline.ledger.database import Ledger, utc_now

NEVER = "never"
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LIFETIME = re.compile(r"([1-9]\d{0,5})([mhdw])")


def create(name: str, *, scope: str, expires: str, as_json: bool) -> None:
    """Make a key and print its secret, this once."""
    expires_at = expiry(expires, now=datetime.now(UTC))
    settings = load_settings()
    prepare_home(settings)
    with opened_ledger(settings) as ledger:
        is_first = not list_keys(ledger)
        created = create_key(ledger, name, scope=Scope(scope), expires_at=expires_at)
    if as_json:
        print_json(_document(created.key) | {"key": created.token})
        return
    # The key alone on standard output, so that a script can keep it; what to know about it beside.
    console().print(created.token)
    news = error_console()
    news.print(f"Key {created.key.key_id} ({created.key.name}), scope {created.key.scope}, {_until(created.key)}.")
    news.print("Nothing can show it again. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`;")
    news.print("the command line sends CLIP_PIPELINE_API_KEY.")
    if is_first:
        news.print("It is the first: from now on the HTTP service needs a key for every request.")


def list_all(*, as_json: bool) -> None:
    """Every key ever made, without its secret."""
    with existing_ledger(load_settings()) as ledger:
        keys = list_keys(ledger)
    if as_json:
        print_json([_document(key) for key in keys])
        return
    if not keys:
        console().print("No keys: the HTTP service is open to this machine, and to no other.")
        return
    rows = [(k.key_id, k.scope, _state(k), k.expires_at or NEVER, k.last_used_at or NEVER, k.name) for k in keys]
    print_table("", ("id", "scope", "state", "expires", "last used", "name"), rows)


def revoke(key_id: str, *, as_json: bool) -> None:
    """Make a key useless, for good."""
    with existing_ledger(load_settings()) as ledger:
        key = revoke_key(ledger, key_id)
        left = _usable(ledger)
    if as_json:
        print_json(_document(key))
        return
    console().print(f"Key {key.key_id} ({key.name}) is revoked; running services know within seconds.")
    if not left:
        console().print("No valid key is left: the HTTP service refuses every request until one is created.")
    else:
        console().print(f"{count(left, 'valid key')} left.")


def expiry(text: str, *, now: datetime) -> datetime | None:
    """The moment that `90d`, `12h`, `30m` or `2w` from now names; None for `never`.

    Raises:
        ConfigurationError: the text is none of these, or names a time beyond the calendar.
    """
    if text == NEVER:
        return None
    match = _LIFETIME.fullmatch(text)
    try:
        if match is not None:
            return now + int(match[1]) * _UNITS[match[2]]
    except OverflowError:
        pass
    raise ConfigurationError(f"expected --expires such as 90d, 12h, 30m, 2w or never, got {text!r}")


def _usable(ledger: Ledger) -> int:
    return len(usable_keys(list_keys(ledger)))


def _document(key: ApiKey) -> dict[str, object]:
    fields = asdict(key)
    return {"id": fields.pop("key_id"), "state": _state(key)} | fields


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.fault(utc_now()) else "valid"


def _until(key: ApiKey) -> str:
    return "valid for ever" if key.expires_at is None else f"valid until {key.expires_at}"
