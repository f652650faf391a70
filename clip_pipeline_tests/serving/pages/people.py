"""People who log in, as tests use them: keys, the log-in by its form, and what a browser sends with a form."""

from datetime import UTC, datetime, timedelta

import httpx

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline_tests.serving.pages.elements import get

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def make_key(world, *, scope=Scope.READ, lifetime=timedelta(days=1), name="test"):
    """A new key of the ledger, with its secret."""
    return create_key(world.ledger, name, scope=scope, expires_at=datetime.now(UTC) + lifetime)


def origin(client):
    """What a browser names with every form of this client's service."""
    return {"Origin": str(client.base_url).rstrip("/")}


def browser_at(client):
    """Somebody else at the same service, with cookies of their own."""
    return httpx.Client(base_url=client.base_url, headers=HTML, trust_env=False, timeout=30)


def log_in(client, token, *, target="/ui/search"):
    """Fill in the form; returns the answer, and the client keeps the cookie."""
    fields = {"api_key": token, "next": target}
    return client.post("/ui/login", data=fields, headers=HTML | origin(client))


def token_of_page(client, path="/ui/jobs"):
    """The token that the forms of a page carry."""
    return get(client, path).one("form", action="/ui/logout").fields()["csrf_token"]
