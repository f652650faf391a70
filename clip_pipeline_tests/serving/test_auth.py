"""Keys over HTTP: what is open without them, what each scope may do, when they end."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.api_keys import Scope, create_key, list_keys, revoke_key
from clip_pipeline.serving import keys as keys_module
from clip_pipeline.serving.auth import needed_scope
from clip_pipeline.serving.keys import KeyRing
from clip_pipeline_tests.serving.world import serving


@pytest.fixture(autouse=True)
def keys_are_read_every_time(monkeypatch):
    monkeypatch.setattr(keys_module.KeyRing.__init__, "__kwdefaults__", {"cache_s": 0.0})


def make(world, *, scope=Scope.READ, lifetime=timedelta(days=1)):
    created = create_key(world.ledger, "test", scope=scope, expires_at=datetime.now(UTC) + lifetime)
    return created.key.key_id, created.token


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


STATS = "/api/v1/index/stats"


def check_problem(response, status):
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["X-Request-ID"]
    return response.json()["detail"]


def test_without_keys_everything_is_open_to_this_machine(client):
    assert client.get(STATS).status_code == 200
    assert client.delete("/nowhere").status_code == 404


def test_from_the_first_key_on_all_but_health_and_metrics_needs_one(world, client):
    _, token = make(world)
    for path in ("/", STATS, "/openapi.json", "/nowhere"):
        response = client.get(path)
        assert "Authorization: Bearer" in check_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="clip-pipeline"'
    assert client.get("/health").status_code == 200
    assert client.get("/metrics").status_code == 200
    assert client.post("/health").status_code == 401
    assert client.get("/health/").status_code == 401
    assert client.get(STATS, headers=bearer(token)).status_code == 200
    assert client.get(STATS, headers={"X-API-Key": token}).status_code == 200
    assert client.get(STATS, headers={"Authorization": f"bearer {token}"}).status_code == 200


def test_health_needs_a_key_from_elsewhere_and_under_another_name(world, client):
    make(world)
    # A proxy of this machine says for whom it asks.
    assert client.get("/health", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401
    assert client.get("/health", headers={"Host": "clip.example.org"}).status_code == 401


@pytest.mark.parametrize("wrong", ["", "clip_1_2", "nonsense", "clip_{id}_" + "0" * 64, "{token}0", "\xff"])
def test_a_wrong_key_is_unauthorized(world, client, wrong):
    key_id, token = make(world)
    sent = wrong.format(id=key_id, token=token).encode("latin-1")
    response = client.get(STATS, headers={b"X-API-Key": sent})
    check_problem(response, 401)
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


def test_expired_and_revoked_keys_are_unauthorized_and_closed_stays_closed(world, client):
    _, expired = make(world, lifetime=timedelta(seconds=-1))
    key_id, revoked = make(world)
    assert client.get(STATS, headers=bearer(revoked)).status_code == 200
    revoke_key(world.ledger, key_id)
    assert "expired" in check_problem(client.get(STATS, headers=bearer(expired)), 401)
    assert "revoked" in check_problem(client.get(STATS, headers=bearer(revoked)), 401)
    check_problem(client.get(STATS), 401)


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", STATS, Scope.READ),
        ("HEAD", STATS, Scope.READ),
        ("POST", "/api/v1/search", Scope.READ),
        ("POST", "/api/v1/index/add-images", Scope.WRITE),
        ("POST", "/api/v1/index/jobs/idx_1/retry", Scope.WRITE),
        ("DELETE", "/api/v1/index/jobs/idx_1", Scope.WRITE),
        ("DELETE", "/api/v1/index/images", Scope.WRITE),
        ("POST", "/analyze-image", Scope.WRITE),
        ("POST", "/ui/search", Scope.READ),
        ("POST", "/ui/logout", Scope.READ),
        ("POST", "/ui/jobs", Scope.WRITE),
        ("POST", "/ui/jobs/idx_1/retry", Scope.WRITE),
        ("POST", "/ui/jobs/idx_1/cancel", Scope.WRITE),
        ("POST", "/ui/forgotten", Scope.ADMIN),
        ("POST", "/api/v1/searching", Scope.ADMIN),
        ("DELETE", "/api/v1/search", Scope.ADMIN),
        ("PUT", "/api/v1/index/images", Scope.ADMIN),
        ("POST", "/forgotten", Scope.ADMIN),
    ],
)
def test_a_route_needs_its_scope_and_an_unknown_one_the_highest(method, path, needed):
    assert needed_scope(method, path) is needed


def test_a_key_of_too_small_a_scope_is_told_which_it_needs(world, client):
    _, reading = make(world)
    _, writing = make(world, scope=Scope.WRITE)
    _, admin = make(world, scope=Scope.ADMIN)
    assert client.post("/api/v1/search", json={"text": "red"}, headers=bearer(reading)).status_code == 200
    refused = client.request("DELETE", "/api/v1/index/jobs/idx_nope", headers=bearer(reading))
    assert "scope write" in check_problem(refused, 403)
    assert 'scope="write"' in refused.headers["WWW-Authenticate"]
    assert client.delete("/api/v1/index/jobs/idx_nope", headers=bearer(writing)).status_code not in (401, 403)
    assert "scope admin" in check_problem(client.post("/forgotten", headers=bearer(writing)), 403)
    assert client.post("/forgotten", headers=bearer(admin)).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "a@b:c", ""]
)
def test_an_open_service_answers_to_no_foreign_name(client, host):
    check_problem(client.get(STATS, headers={"Host": host}), 421)
    check_problem(client.get("/health", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:8000"])
def test_an_open_service_answers_to_the_names_of_this_machine(client, host):
    assert client.get(STATS, headers={"Host": host}).status_code == 200


def test_an_open_service_is_not_open_through_a_proxy(client):
    assert "keys create" in check_problem(client.get(STATS, headers={"X-Forwarded-For": "203.0.113.9"}), 401)


def test_pages_of_other_sites_cannot_write_to_an_open_service(client):
    for origin in ("https://evil.example", "null"):
        check_problem(client.post("/api/v1/search", json={"text": "x"}, headers={"Origin": origin}), 403)
    own = {"Origin": str(client.base_url)}
    assert client.post("/api/v1/search", json={"text": "x"}, headers=own).status_code == 200


def test_with_keys_any_name_and_origin_is_served(world, client):
    _, token = make(world)
    headers = bearer(token) | {"Host": "clip.example.org", "Origin": "https://other.example"}
    assert client.post("/api/v1/search", json={"text": "x"}, headers=headers).status_code == 200


def test_the_last_use_of_a_key_is_recorded(world):
    key_id, token = make(world)
    before = datetime.now(UTC) - timedelta(seconds=1)
    with serving(world) as client:
        client.get(STATS)
        for _ in range(3):
            client.get(STATS, headers=bearer(token))
    # The service has stopped, so what it had to write is written.
    (key,) = list_keys(world.ledger)
    assert key.key_id == key_id
    assert datetime.fromisoformat(str(key.last_used_at)) > before


def test_a_ledger_without_keys_to_read_is_a_problem_of_the_service(world, client):
    with world.ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO lost")
    assert "API keys cannot be read" in check_problem(client.get(STATS), 503)
    assert client.get("/health").status_code == 200


def test_known_keys_outlive_a_ledger_that_cannot_be_read(world):
    _, token = make(world)
    ring = KeyRing(world.ledger, cache_s=0.0)

    async def look():
        before = await ring.known()
        with world.ledger.write() as connection:
            connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO lost")
        return before, await ring.known()

    before, after = asyncio.run(look())
    assert after is before
    assert getattr(after.key_of(token), "scope", None) is Scope.READ
    with pytest.raises(StoreError):
        asyncio.run(KeyRing(world.ledger).known())
    ring.close()


def test_keys_are_read_once_in_a_while_however_many_ask(world):
    ring, reads = KeyRing(world.ledger, cache_s=3600.0), []
    real = keys_module.stored_keys

    def counted(ledger):
        reads.append(ledger)
        return real(ledger)

    async def ask():
        return await asyncio.gather(*(ring.known() for _ in range(50)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_module, "stored_keys", counted)
        known = asyncio.run(ask())
    assert len(reads) == 1
    assert len({id(keys) for keys in known}) == 1
    ring.close()


def test_checking_an_unknown_id_takes_as_long_as_checking_a_known_one(world):
    """Both compare one digest; a lookup that failed early would be several times faster."""
    key_id, _ = make(world)
    ring = KeyRing(world.ledger)
    known = asyncio.run(ring.known())
    ring.close()

    def best_of(token):
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            for _ in range(2000):
                known.key_of(token)
            times.append(time.perf_counter() - begun)
        return min(times)

    assert best_of(f"clip_nobody000000_{'0' * 64}") > 0.6 * best_of(f"clip_{key_id}_{'0' * 64}")


def test_an_answer_about_a_key_without_its_secret_says_nothing_of_it(world, client):
    """An expired id with a wrong secret reads like an unknown one."""
    key_id, _ = make(world, lifetime=timedelta(seconds=-1))
    details = [
        httpx.Response.json(client.get(STATS, headers=bearer(f"clip_{name}_{'0' * 64}")))["detail"]
        for name in (key_id, "nobody")
    ]
    assert details[0] == details[1]


def test_a_websocket_is_guarded_at_its_handshake(world, client):
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    foreign = handshake | {"Origin": "https://evil.example"}
    check_problem(client.get("/ws/jobs/idx_nope", headers=foreign), 403)
    check_problem(client.get("/ws/jobs/idx_nope", headers=handshake | {"Host": "evil.example"}), 421)
    make(world)
    refused = client.get("/ws/jobs/idx_nope", headers=handshake)
    assert "Authorization: Bearer" in check_problem(refused, 401)
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="clip-pipeline"'
