"""`keys`: the secret is shown once, the rest whenever asked."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from clip_pipeline.cli.keys_command import expiry
from clip_pipeline.core.errors import ConfigurationError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "lifetime"),
    [("30m", timedelta(minutes=30)), ("12h", timedelta(hours=12)), ("90d", timedelta(days=90)), ("2w", timedelta(14))],
)
def test_a_time_from_now_is_a_number_and_a_unit(text, lifetime):
    assert expiry(text, now=NOW) == NOW + lifetime
    assert expiry("never", now=NOW) is None


@pytest.mark.parametrize("text", ["", "90", "0d", "-1d", "1y", "d", "9999999d", "999999w", "٣d"])
def test_any_other_time_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError, match="such as 90d"):
        expiry(text, now=NOW)


def test_a_key_is_printed_alone_and_no_list_ever_shows_it(command):
    created = command("keys", "create", "laptop", "--scope", "write", "--expires", "30d")
    token = created.out.strip()
    assert (created.status, token.count("_")) == (0, 2)
    assert "It is the first" in created.err
    listed = [command("keys", "list"), command("keys", "list", "--json")]
    secret = token.rpartition("_")[2]
    assert all(secret not in ended.out + ended.err and "laptop" in ended.out for ended in listed)
    (document,) = json.loads(listed[1].out)
    assert (document["id"], document["scope"], document["state"]) == (token.split("_")[1], "write", "valid")


def test_creating_and_revoking_speak_json(command):
    created = json.loads(command("keys", "create", "laptop", "--expires", "never", "--json").out)
    assert created["key"] == f"clip_{created['id']}_{created['key'].rpartition('_')[2]}"
    assert (created["scope"], created["expires_at"]) == ("read", None)
    revoked = json.loads(command("keys", "revoke", created["id"], "--json").out)
    assert (revoked["id"], revoked["state"]) == (created["id"], "revoked")
    assert "key" not in revoked


def test_revoking_the_last_key_says_that_nothing_gets_in_any_more(command):
    first, second = (json.loads(command("keys", "create", name, "--json").out)["id"] for name in "ab")
    assert "1 valid key left" in command("keys", "revoke", first).out
    assert "refuses every request" in command("keys", "revoke", second).out
    assert command("keys", "list").out.count("revoked") == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["create", "x", "--scope", "all"], 2, "--scope"),
        (["create", "x", "--expires", "soon"], 3, "such as 90d"),
        (["create", " "], 3, "printable characters"),
        (["revoke", "nope"], 9, "keys list"),
    ],
)
@pytest.mark.usefixtures("world")
def test_what_is_wrong_with_a_command_is_one_line(command, arguments, status, message):
    ended = command("keys", *arguments)
    assert (ended.status, ended.out) == (status, "")
    assert message in ended.err
