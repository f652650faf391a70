"""Logging in and out, and what a session may do: over a real server, with cookies as a browser keeps them."""

from datetime import timedelta

import pytest
from starlette.responses import Response

from clip_pipeline.ledger.api_keys import Scope, revoke_key
from clip_pipeline.serving import keys as keys_module
from clip_pipeline.serving.app import create_app
from clip_pipeline.serving.sessions import LIFETIME_S, Sessions
from clip_pipeline_tests.serving.pages.elements import get, read
from clip_pipeline_tests.serving.pages.people import HTML, browser_at, log_in, make_key, origin, token_of_page
from clip_pipeline_tests.serving.world import World, serving

STATS = "/api/v1/index/stats"
COOKIE = "clip_session"


@pytest.fixture(autouse=True)
def keys_are_read_every_time(monkeypatch):
    monkeypatch.setattr(keys_module.KeyRing.__init__, "__kwdefaults__", {"cache_s": 0.0})


@pytest.fixture
def made(world):
    """A key of scope write, with its secret."""
    return make_key(world, scope=Scope.WRITE, name="Ada's key")


@pytest.fixture
def person(client, made):
    """A browser that is logged in with that key."""
    with browser_at(client) as browser:
        assert log_in(browser, made.token).status_code == 303
        yield browser


def jobs_of(world):
    with world.ledger.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()


def test_without_keys_the_pages_are_open_and_nobody_is_asked_to_log_in(client):
    page = get(client, "/ui/jobs")
    assert not list(page.all("form", action="/ui/logout"))
    assert not list(page.all("input", name="csrf_token"))
    for answer in (client.get("/ui/login?next=/ui/stats"), client.post("/ui/login", data={"next": "/ui/stats"})):
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/stats")
        assert "set-cookie" not in answer.headers


def test_whoever_has_no_session_is_led_to_the_log_in_and_back_to_what_was_asked_for(world, client):
    created = make_key(world)
    with browser_at(client) as browser:
        asked = browser.get("/ui/stats?a=b%20c")
        assert (asked.status_code, asked.headers["cache-control"]) == (303, "no-store")
        form = get(browser, asked.headers["location"]).one("form", action="/ui/login")
        password = form.one("input", name="api_key")
        assert (password["type"], password["autocomplete"]) == ("password", "current-password")
        assert "clip-pipeline keys create NAME --scope write" in form.text
        answer = log_in(browser, f" {created.token}\n", target=form.fields()["next"])
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/stats?a=b%20c")
        assert browser.get(answer.headers["location"]).status_code == 200
        # Whoever is logged in need not be again.
        assert browser.get("/ui/login?next=/ui/stats").headers["location"] == "/ui/stats"


@pytest.mark.parametrize("path", ["/", "/docs", "/ui/search", "/ui/nothing"])
def test_every_page_leads_to_the_log_in_and_programs_get_a_problem(world, client, path):
    make_key(world)
    assert client.get(path, headers=HTML).status_code == 303
    assert client.head(path, headers=HTML).status_code == 303
    assert client.get(path, headers={"Accept": "application/json"}).status_code == 401
    assert client.get(STATS, headers=HTML).status_code == 401
    assert client.post("/ui/jobs", headers=HTML | origin(client)).status_code == 401


def test_the_log_in_and_its_style_are_there_for_whoever_has_no_key_and_nothing_else_is(world, client):
    make_key(world)
    page = get(client, "/ui/login")
    for link in page.all("link"):
        assert client.get(link["href"]).status_code == 200
    # Neither links to pages, nor a dot that would ask how the service is.
    assert not list(page.all("nav"))
    assert not list(page.all(data_health="unknown"))
    assert client.get("/ui/login/").status_code == 401
    assert client.get("/ui/loginx").status_code == 401
    assert client.get("/ui/static").status_code == 401
    assert client.get("/ui/health").status_code == 401
    assert client.post("/ui/static/x/style.css", headers=origin(client)).status_code == 401
    assert client.get("/ui/login").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "/x"]
)
def test_the_log_in_leads_to_no_other_site(world, client, target):
    created = make_key(world)
    assert log_in(client, created.token, target=target).headers["location"] == "/ui/search"
    again = client.get("/ui/login", params={"next": target})
    assert again.headers["location"] == "/ui/search"


def test_a_wrong_key_shows_the_form_again_with_the_reason(world, client):
    good, over = make_key(world), make_key(world, lifetime=timedelta(seconds=-1))
    revoked = make_key(world)
    revoke_key(world.ledger, revoked.key.key_id)
    for token, reason in (
        ("", "Enter a key."),
        ("nonsense", "not one of this service"),
        (good.token + "0", "not one of this service"),
        (over.token, "expired at"),
        (revoked.token, "was revoked at"),
    ):
        answer = log_in(client, token, target="/ui/stats")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        page = read(answer)
        assert reason in page.one(role="alert").text
        form = page.one("form", action="/ui/login")
        assert form.fields() == {"next": "/ui/stats", "api_key": ""}
    assert log_in(client, good.token).status_code == 303


def test_guessing_keys_is_limited_as_any_request_without_one(tmp_path, dagster):
    world = World(tmp_path / "limited", dagster_port=dagster.port, rate_limit="3/hour")
    created = make_key(world)
    with serving(world) as client:
        assert [log_in(client, "guess").status_code for _ in range(4)] == [401, 401, 401, 429]
        assert log_in(client, created.token).status_code == 429
    world.close()


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_other_sites_can_log_nobody_in(world, client, headers):
    created = make_key(world)
    answer = client.post("/ui/login", data={"api_key": created.token}, headers=HTML | headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_the_cookie_holds_nothing_of_the_secret_and_lasts_for_its_lifetime(world, client):
    created = make_key(world)
    header = log_in(client, created.token).headers["set-cookie"]
    assert created.token.rpartition("_")[2] not in header
    assert {"HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={LIFETIME_S}"} <= set(header.split("; "))


def test_a_page_tells_who_is_logged_in_and_is_never_stored(person):
    answer = person.get("/ui/jobs")
    assert answer.headers["cache-control"] == "no-store"
    assert "Ada's key" in read(answer).one("header").text
    assert person.get("/ui/nothing").headers["cache-control"] == "no-store"


def test_a_session_reads_whatever_a_key_reads(person):
    for path in (STATS, "/openapi.json", "/ui/health", "/ui/stats", "/docs"):
        assert person.get(path).status_code == 200, path


def test_over_https_the_cookie_is_secure_where_the_proxy_is_trusted(world, client):
    created = make_key(world)
    with browser_at(client) as browser:
        browser.headers["X-Forwarded-Proto"] = "https"
        header = log_in(browser, created.token).headers["set-cookie"]
        assert header.startswith("__Host-clip_session=")
        assert "Secure" in header.split("; ")
        sent = {"Cookie": header.partition(";")[0]}
        assert browser.get("/ui/jobs", headers=sent).status_code == 200
        # The same over http is a cookie that no browser would send.
        assert browser.get("/ui/jobs", headers=sent | {"X-Forwarded-Proto": "http"}).status_code == 303


def test_logging_out_takes_the_cookie_and_says_so(person):
    answer = person.post("/ui/logout", data={"csrf_token": token_of_page(person)}, headers=origin(person))
    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert person.cookies == {}
    assert "You are logged out" in get(person, answer.headers["location"]).text
    assert person.get("/ui/jobs").status_code == 303


def test_revoking_the_key_ends_the_session_at_once(world, person, made):
    assert person.get("/ui/jobs").status_code == 200
    revoke_key(world.ledger, made.key.key_id)
    assert person.get("/ui/jobs").status_code == 303
    refused = person.get(STATS)
    assert refused.status_code == 401
    assert "was revoked at" in refused.json()["detail"]
    # The log-in is a form again, not a way back to the page that leads to it.
    assert person.get("/ui/login?next=/ui/jobs").status_code == 200


def test_an_expired_key_ends_the_session(world, person):
    with world.ledger.write() as connection:
        connection.exec_driver_sql("UPDATE api_keys SET expires_at = '2020-01-01T00:00:00.000000+00:00'")
    assert person.get("/ui/jobs").status_code == 303
    assert "expired at" in person.get(STATS).json()["detail"]


def test_a_forged_cookie_is_no_session(world, client):
    created = make_key(world)
    carrier = Response()
    Sessions(b"another secret").begin(carrier, {"scheme": "http"}, key=created.key)
    cookie = carrier.headers["set-cookie"].partition(";")[0]
    for sent in (cookie, f"{COOKIE}=", f"{COOKIE}=x.y.z", f"{COOKIE}={created.key.key_id}"):
        assert client.get(STATS, headers={"Cookie": sent}).status_code == 401
        assert client.get("/ui/jobs", headers=HTML | {"Cookie": sent}).status_code == 303


def test_a_key_sent_with_the_request_counts_not_the_session(world, person):
    reading = make_key(world)
    sent = {"X-API-Key": reading.token}
    assert person.post("/ui/jobs", headers=sent).status_code == 403
    assert person.get(STATS, headers={"X-API-Key": "wrong"}).status_code == 401


def test_a_scope_that_is_too_small_is_a_page_that_says_which_is_needed(world, client):
    created = make_key(world)
    with browser_at(client) as browser:
        log_in(browser, created.token)
        fields = {"csrf_token": token_of_page(browser), "image_paths": "/a.jpg"}
        answer = browser.post("/ui/jobs", data=fields, headers=origin(browser))
        assert answer.status_code == 403
        page = read(answer)
        assert "scope write" in page.text
        assert page.one("form", action="/ui/logout").fields()["csrf_token"] == fields["csrf_token"]


def test_a_session_writes_nowhere_but_through_the_forms_of_pages(person):
    add = person.post("/api/v1/index/add-images", json={"image_paths": []}, headers=origin(person))
    search = person.post("/api/v1/search", json={"text": "red"}, headers=origin(person))
    cancel = person.delete("/api/v1/index/jobs/idx_1", headers=origin(person))
    for answer in (add, search, cancel):
        assert answer.status_code == 403
        assert "send the key" in answer.json()["detail"]


def test_the_forms_of_pages_work_with_their_token(person):
    fields = {"csrf_token": token_of_page(person)}
    answer = person.post("/ui/jobs", data=fields, headers=origin(person))
    assert answer.status_code == 422
    assert "Name at least one image" in read(answer).text


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Origin": "{own}", "Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)  # fmt: skip
def test_a_form_of_another_site_is_refused_even_with_the_token(person, headers):
    own = origin(person)["Origin"]
    headers = {name: value.format(own=own) for name, value in headers.items()}
    fields = {"csrf_token": token_of_page(person)}
    assert person.post("/ui/jobs", data=fields, headers=headers).status_code == 403


def test_a_proxy_that_changes_the_host_does_not_make_own_pages_foreign(person):
    """Where the browser itself says `same-origin`, the names need not match."""
    fields = {"csrf_token": token_of_page(person)}
    headers = {"Origin": "https://clip.example.org", "Sec-Fetch-Site": "same-origin"}
    assert person.post("/ui/jobs", data=fields, headers=headers).status_code == 422


def _forms(settings):
    """(method, path) of every route below /ui/ that does more than read, with something in place of its parameters."""
    included = [getattr(route, "original_router", route) for route in create_app(settings).routes]
    routes = [route for router in included for route in getattr(router, "routes", [router])]
    return sorted(
        (method, route.path.replace("{job_id}", "idx_1").replace("{request_id}", "none"))
        for route in routes
        for method in (getattr(route, "methods", None) or set()) - {"GET", "HEAD", "OPTIONS"}
        if route.path.startswith("/ui/") and route.path != "/ui/login"
    )


def test_no_form_of_any_page_is_taken_without_the_token_of_its_session(world, client, person):
    other = make_key(world, scope=Scope.ADMIN)
    with browser_at(client) as stranger:
        log_in(stranger, other.token)
        foreign = token_of_page(stranger)
        forms = _forms(world.settings)
        assert {("POST", "/ui/search"), ("POST", "/ui/analyze/none/delete"), ("POST", "/ui/logout")} <= set(forms)
        log_in(person, other.token)
        for method, path in forms:
            assert "{" not in path, f"say above what stands for the parameters of {path}"
            files = {"file": ("a.png", b"no image")} if path in ("/ui/search", "/ui/analyze") else None
            for token in (None, "", "0" * 64, "\u00f6", foreign):
                fields = {} if token is None else {"csrf_token": token}
                answer = person.request(method, path, data=fields, files=files, headers=origin(person))
                assert answer.status_code == 403, (method, path, token)
                assert "belongs to another session" in answer.text
                assert "set-cookie" not in answer.headers
    assert jobs_of(world) == 0
