"""API keys in the ledger: what is stored, what matches, what ends them."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from clip_pipeline.core.errors import ConfigurationError, NotFoundError
from clip_pipeline.ledger.api_keys import (
    Scope,
    create_key,
    list_keys,
    note_use,
    parse_token,
    revoke_key,
    stored_keys,
    usable_keys,
)
from clip_pipeline.ledger.schema import api_keys

NOW = datetime.now(UTC)


def make(ledger, name="laptop", *, scope=Scope.READ, expires_at=None):
    return create_key(ledger, name, scope=scope, expires_at=expires_at)


def test_the_ledger_holds_no_secret_and_two_digests_of_one_secret_differ(ledger):
    token = make(ledger).token
    prefix, key_id, secret = token.split("_")
    assert (prefix, len(secret)) == ("clip", 64)
    with ledger.read() as connection:
        (row,) = connection.execute(select(api_keys)).mappings()
    assert row["key_id"] == key_id
    assert not [value for value in row.values() if secret in str(value)]
    (stored,) = stored_keys(ledger)
    other = type(stored)(stored.key, b"x" * 16, stored.digest)
    assert stored.matches(secret)
    assert not other.matches(secret)


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1] + ("0" if s[-1] != "0" else "1"), str.upper, lambda _: "", lambda s: s + "0"]
)
def test_only_the_exact_secret_matches(ledger, change):
    parsed = parse_token(make(ledger).token)
    assert parsed is not None
    secret = parsed[1]
    assert any(c.isalpha() for c in secret)
    assert not stored_keys(ledger)[0].matches(change(secret))


def test_a_secret_that_is_no_ascii_is_merely_wrong(ledger):
    make(ledger)
    assert not stored_keys(ledger)[0].matches("ÿ\udcff")


@pytest.mark.parametrize("token", ["", "clip", "clip_1", "clip__x", "clip_1_", "clip_1_2_3", "other_1_2"])
def test_a_text_of_another_form_is_no_token(token):
    assert parse_token(token) is None


def test_each_scope_includes_those_before_it():
    included = {scope: [needed for needed in Scope if scope.includes(needed)] for scope in Scope}
    assert included == {
        Scope.READ: [Scope.READ],
        Scope.WRITE: [Scope.READ, Scope.WRITE],
        Scope.ADMIN: [Scope.READ, Scope.WRITE, Scope.ADMIN],
    }


def test_expired_and_revoked_keys_are_not_usable_but_listed(ledger):
    lasting = make(ledger, "lasting", expires_at=NOW + timedelta(days=1)).key
    make(ledger, "over", expires_at=NOW - timedelta(seconds=1))
    gone = make(ledger, "gone").key
    revoke_key(ledger, gone.key_id)
    keys = list_keys(ledger)
    assert {key.name for key in keys} == {"lasting", "over", "gone"}
    assert usable_keys(keys) == [lasting]


def test_revoking_twice_keeps_the_first_moment_and_an_unknown_id_is_an_error(ledger):
    key = make(ledger).key
    first = revoke_key(ledger, key.key_id)
    assert first.revoked_at is not None
    assert revoke_key(ledger, key.key_id) == first
    with pytest.raises(NotFoundError, match="keys list"):
        revoke_key(ledger, "nope")


def test_a_use_is_noted_once_in_a_while(ledger):
    key = make(ledger).key
    note_use(ledger, key.key_id, unless_since=NOW - timedelta(minutes=1))
    first = list_keys(ledger)[0].last_used_at
    assert first is not None
    note_use(ledger, key.key_id, unless_since=NOW - timedelta(minutes=1))
    assert list_keys(ledger)[0].last_used_at == first
    with ledger.write() as connection:
        connection.execute(api_keys.update().values(last_used_at="2020-01-01T00:00:00.000Z"))
    note_use(ledger, key.key_id, unless_since=NOW - timedelta(minutes=1))
    assert str(list_keys(ledger)[0].last_used_at) >= str(first)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101])
def test_a_name_that_no_list_can_show_is_refused(ledger, name):
    with pytest.raises(ConfigurationError, match="printable characters"):
        make(ledger, name)
    assert list_keys(ledger) == []
