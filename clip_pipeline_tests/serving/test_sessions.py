"""Sessions as plain objects: what a cookie may be changed to, when it ends, and the secret that signs it."""

import multiprocessing
import stat

import pytest
from itsdangerous import TimestampSigner
from starlette.responses import Response

from clip_pipeline.core.errors import ConfigurationError, StoreError
from clip_pipeline.ledger.api_keys import ApiKey, Scope
from clip_pipeline.serving.sessions import (
    LIFETIME_S,
    SECRET_FILE,
    Sessions,
    end,
    login_address,
    open_sessions,
    safe_target,
)
from clip_pipeline_tests.serving.world import settings_of

KEY = ApiKey("0123456789ab", "a person", Scope.READ, "2026-01-01", None, None, None)


def request(cookie="", *, scheme="http", path="/ui/search", query=b""):
    headers = [(b"cookie", cookie.encode())] if cookie else []
    return {"type": "http", "scheme": scheme, "path": path, "query_string": query, "headers": headers}


def cookie_of(response):
    """Name and value as a browser sends them back, and the attributes."""
    pair, *attributes = response.headers["set-cookie"].split("; ")
    return pair, set(attributes)


def begun(sessions, *, scheme="http"):
    response = Response()
    sessions.begin(response, request(scheme=scheme), key=KEY)
    return cookie_of(response)


@pytest.fixture
def sessions():
    return Sessions(bytes(32))


def test_a_cookie_names_its_key_and_holds_a_session_of_its_own(sessions):
    (first, _), (second, _) = begun(sessions), begun(sessions)
    claims = [sessions.claim_of(request(cookie)) for cookie in (first, second)]
    assert [claim.key_id for claim in claims] == [KEY.key_id] * 2
    assert claims[0].session_id != claims[1].session_id
    tokens = [sessions.session(claim, KEY).csrf_token for claim in claims]
    assert tokens[0] != tokens[1]
    assert tokens[0] == sessions.session(claims[0], KEY).csrf_token


def test_scripts_and_other_sites_do_not_get_the_cookie(sessions):
    pair, attributes = begun(sessions)
    assert pair.startswith("clip_session=")
    assert attributes == {"HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={LIFETIME_S}"}


def test_over_https_the_cookie_is_bound_to_this_host_and_to_https(sessions):
    pair, attributes = begun(sessions, scheme="https")
    assert pair.startswith("__Host-clip_session=")
    assert "Secure" in attributes
    assert sessions.claim_of(request(pair, scheme="https")) is not None
    # What a neighbour without https planted under the plain name counts for nothing.
    plain = pair.removeprefix("__Host-")
    assert sessions.claim_of(request(plain, scheme="https")) is None
    assert sessions.claim_of(request(plain, scheme="http")) is not None


def test_a_cookie_changed_in_any_place_is_none(sessions):
    pair, _ = begun(sessions)
    name, _, value = pair.partition("=")
    assert sessions.claim_of(request(pair)) is not None
    # All but the last letter: of that, base64 leaves two bits unused.
    for place, letter in enumerate(value[:-1]):
        changed = value[:place] + ("A" if letter != "A" else "B") + value[place + 1 :]
        assert sessions.claim_of(request(f"{name}={changed}")) is None, place
    for damaged in ("", "x", value[:-2], value + "x", value.replace(".", ""), "\xff", f'"{value}x"'):
        assert sessions.claim_of(request(f"{name}={damaged}")) is None, damaged


def test_a_cookie_of_another_secret_is_none(sessions):
    pair, _ = begun(Sessions(b"1" * 32))
    assert sessions.claim_of(request(pair)) is None


@pytest.mark.parametrize(("age_s", "lives"), [(0, True), (LIFETIME_S - 5, True), (LIFETIME_S + 5, False), (-60, False)])
def test_a_session_ends_after_its_lifetime_and_does_not_begin_in_the_future(sessions, monkeypatch, age_s, lives):
    real = TimestampSigner.get_timestamp
    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda signer: real(signer) - age_s)
        pair, _ = begun(sessions)
    assert (sessions.claim_of(request(pair)) is not None) == lives


def test_ending_a_session_takes_the_cookie_of_the_same_name(sessions):
    for scheme in ("http", "https"):
        pair, _ = begun(sessions, scheme=scheme)
        response = Response()
        end(response, request(scheme=scheme))
        emptied, attributes = cookie_of(response)
        assert emptied.partition("=")[0] == pair.partition("=")[0]
        assert "Max-Age=0" in attributes
        assert ("Secure" in attributes) == (scheme == "https")


def test_the_home_keeps_one_secret_that_only_its_owner_can_read(tmp_path):
    settings = settings_of(tmp_path / "home")
    first = open_sessions(settings)
    path = tmp_path / "home" / SECRET_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pair, _ = begun(first)
    assert open_sessions(settings).claim_of(request(pair)) is not None
    assert open_sessions(settings_of(tmp_path / "other")).claim_of(request(pair)) is None


def test_a_secret_that_was_half_written_is_made_anew(tmp_path):
    (tmp_path / SECRET_FILE).write_bytes(b"half")
    pair, _ = begun(open_sessions(settings_of(tmp_path)))
    assert open_sessions(settings_of(tmp_path)).claim_of(request(pair)) is not None


def _begin_in_process(home, results, barrier):
    barrier.wait()
    results.put(begun(open_sessions(settings_of(home)))[0])


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path):
    context = multiprocessing.get_context("spawn")
    results, barrier = context.Queue(), context.Barrier(4)
    processes = [context.Process(target=_begin_in_process, args=(tmp_path, results, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    pairs = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    sessions = open_sessions(settings_of(tmp_path))
    assert all(sessions.claim_of(request(pair)) is not None for pair in pairs)


def test_services_with_the_same_setting_know_each_others_sessions_and_keep_no_file(tmp_path):
    shared = {"session_secret": "s" * 32}
    pair, _ = begun(open_sessions(settings_of(tmp_path / "a", **shared)))
    assert open_sessions(settings_of(tmp_path / "b", **shared)).claim_of(request(pair)) is not None
    assert not (tmp_path / "a").exists()


def test_a_short_secret_is_refused_without_telling_it(tmp_path):
    settings = settings_of(tmp_path, session_secret="not a long one")
    with pytest.raises(ConfigurationError, match="14 bytes, expected at least 32") as refused:
        open_sessions(settings)
    assert "not a long one" not in str(refused.value) + repr(settings)


def test_a_home_that_can_keep_no_secret_says_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="CLIP_PIPELINE_SESSION_SECRET"):
        open_sessions(settings_of(tmp_path / "file"))


@pytest.mark.parametrize(
    "target",
    ["/", "/ui/jobs", "/ui/jobs/idx_1?failed_after=%2Fa%20b", "/ui/search?q=a+red+thing&k=3", "/docs", "/ui/stats#x"],
)
def test_a_page_of_this_service_may_follow_the_log_in(target):
    assert safe_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "", "https://evil.example", "https://evil.example/ui/jobs", "//evil.example", "//evil.example/ui/jobs",
        "/\\evil.example", "\\\\evil.example", "/ui/\\evil.example", "javascript:alert(1)", "ui/jobs", " /ui/jobs",
        "/ui/jobs\r\nSet-Cookie: a=b", "/\t/evil.example", "\t//evil.example", "/ui/jobs\0", "/ui/ö", "/ui/a b",
        "/api/v1/index/stats", "/uis", "/ui/login", "/ui/login?next=/ui/jobs", "/ui/logout", "/ui/" + "a" * 2000,
    ],
)  # fmt: skip
def test_anything_else_leads_to_the_start_page(target):
    assert safe_target(target) == "/ui/search"


def test_the_log_in_leads_back_to_what_was_asked_for():
    asked = request(path="/ui/jobs/idx 1", query=b"failed_after=%2Fa&x=1")
    assert login_address(asked) == "/ui/login?next=%2Fui%2Fjobs%2Fidx%25201%3Ffailed_after%3D%252Fa%26x%3D1"
    assert login_address(request(path="/ui/" + "a" * 3000)) == "/ui/login"
