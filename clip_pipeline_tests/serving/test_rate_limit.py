"""Rate limits: per key, in memory and in a real Redis, and what happens when that is away."""

import asyncio
import logging
import time

import pytest

from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.serving.rate_limit import Client, ClientKind, RateLimiter
from clip_pipeline.serving.server import bind
from clip_pipeline_tests.serving.redis_server import redis_server
from clip_pipeline_tests.serving.world import World, free_port, serving, settings_of

STATS = "/api/v1/index/stats"
KEY = Client(ClientKind.KEY, "1")


def charge(limiter, *clients):
    """The allowances of requests made one after the other."""

    async def run():
        allowances = [await limiter.charge(client) for client in clients]
        await limiter.aclose()
        return allowances

    return asyncio.run(run())


@pytest.fixture
def redis(tmp_path):
    with redis_server(tmp_path) as url:
        yield url


def test_every_answer_says_what_is_left_and_the_first_beyond_it_when_to_come_back(tmp_path, dagster):
    world = World(tmp_path, dagster_port=dagster.port, rate_limit="3/hour", rate_limit_local="1000/minute")
    tokens = [create_key(world.ledger, name, scope=Scope.READ, expires_at=None).token for name in "ab"]
    with serving(world) as client:
        answers = [client.get(STATS, headers={"X-API-Key": tokens[0]}) for _ in range(5)]
        other = client.get(STATS, headers={"X-API-Key": tokens[1]})
        health = client.get("/health")
    world.close()
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["RateLimit-Limit"] for answer in answers} == {"3"}
    assert all(1 <= int(answer.headers["RateLimit-Reset"]) <= 3600 for answer in answers)
    refused = answers[3]
    assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["X-Request-ID"]
    assert "Retry-After" not in answers[2].headers
    assert (other.status_code, other.headers["RateLimit-Remaining"]) == (200, "2")
    assert (health.status_code, "RateLimit-Limit" in health.headers) == (200, False)


def test_wrong_keys_are_counted_for_the_address_they_come_from(tmp_path, dagster):
    world = World(tmp_path, dagster_port=dagster.port, rate_limit="3/hour")
    token = create_key(world.ledger, "a", scope=Scope.READ, expires_at=None).token
    with serving(world) as client:
        guesses = [client.get(STATS, headers={"X-API-Key": f"clip_{n}_x"}).status_code for n in range(5)]
        elsewhere = client.get(STATS, headers={"X-Forwarded-For": "203.0.113.9"}).status_code
        right = client.get(STATS, headers={"X-API-Key": token}).status_code
    world.close()
    assert (guesses, elsewhere, right) == ([401, 401, 401, 429, 429], 401, 200)


def test_an_open_service_has_the_limit_of_this_machine(tmp_path, dagster):
    world = World(tmp_path, dagster_port=dagster.port, rate_limit="1/hour", rate_limit_local="2/hour")
    with serving(world) as client:
        statuses = [client.get(STATS).status_code for _ in range(3)]
    world.close()
    assert statuses == [200, 200, 429]


def test_two_services_count_together_in_redis(tmp_path, redis):
    settings = settings_of(tmp_path, rate_limit="3/hour", rate_limit_storage=redis)
    first = charge(RateLimiter(settings), KEY, KEY)
    second = charge(RateLimiter(settings), KEY, KEY, Client(ClientKind.KEY, "2"))
    assert [(a.granted, a.remaining) for a in (*first, *second) if a is not None] == [
        (True, 2), (True, 1), (True, 0), (False, 0), (True, 2),
    ]  # fmt: skip


def test_a_redis_that_is_away_stops_nobody_and_is_told_once(tmp_path, caplog):
    limiter = RateLimiter(
        settings_of(tmp_path, rate_limit="1/hour", rate_limit_storage=f"redis://127.0.0.1:{free_port()}")
    )
    begun = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        allowances = charge(limiter, *[KEY] * 200)
    assert allowances == [None] * 200
    # It is not asked again for each request, which might wait for an answer in vain.
    assert time.perf_counter() - begun < 2.0
    assert [record.message for record in caplog.records] == [
        "rate limit storage does not answer, requests pass uncounted"
    ]


def test_a_redis_that_hangs_delays_one_request_only(tmp_path, caplog):
    async def run():
        limiter = RateLimiter(settings_of(tmp_path, rate_limit_storage=f"redis://127.0.0.1:{port}"))
        begun = time.perf_counter()
        allowances = [await limiter.charge(KEY) for _ in range(20)]
        elapsed = time.perf_counter() - begun
        await limiter.aclose()
        return allowances, elapsed

    with bind("127.0.0.1", 0) as silent:  # connections are made, and nobody answers
        port = silent.getsockname()[1]
        allowances, elapsed = asyncio.run(run())
    assert allowances == [None] * 20
    assert elapsed < 2.0
    assert len(caplog.records) == 1


def test_a_redis_that_comes_back_is_used_again(tmp_path, redis):
    limiter = RateLimiter(settings_of(tmp_path, rate_limit="5/hour", rate_limit_storage=redis))
    limiter._pass_for_a_while(OSError("away"))
    assert asyncio.run(limiter.charge(KEY)) is None
    limiter._silent_until = time.monotonic()
    (allowance,) = charge(limiter, KEY)
    assert allowance is not None
    assert allowance.remaining == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_limit": "many"}, r"CLIP_PIPELINE_RATE_LIMIT='many' is no rate"),
        ({"rate_limit_local": ""}, r"CLIP_PIPELINE_RATE_LIMIT_LOCAL='' is no rate"),
        ({"rate_limit_storage": "mongodb://user:secret@h"}, r"begins with 'mongodb'; write memory://"),
        ({"rate_limit_storage": "redis://h:port"}, r"is no URL of Redis"),
    ],
)
def test_a_malformed_setting_is_named_and_no_password_with_it(tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        RateLimiter(settings_of(tmp_path, **settings))
    assert "secret" not in str(caught.value)
