"""Who may ask for what: the table of scopes, and the guard before every route that holds requests to it.

While no key exists the service is open to this machine alone, and only under a name of this machine. From the first
key on, everything but health and metrics asked from this machine, and the page to log in, needs one. It comes with
every request, or once: the cookie of a person who logged in with it stands for it in whatever a page of this service
asks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.api_keys import ApiKey
from clip_pipeline.ledger.api_keys import Scope as KeyScope
from clip_pipeline.serving.hosts import (
    client_network,
    comes_from_here,
    comes_from_local_page,
    comes_from_own_page,
    is_asked_for_as_local,
)
from clip_pipeline.serving.keys import KeyRing, KnownKeys, RejectedToken
from clip_pipeline.serving.pages.error_pages import is_page
from clip_pipeline.serving.pages.static_files import PREFIX as STATIC
from clip_pipeline.serving.problems import Problem
from clip_pipeline.serving.rate_limit import Allowance, Client, ClientKind, RateLimiter
from clip_pipeline.serving.sessions import LOGIN, LOGOUT, Session, Sessions, login_address

FREE_ON_LOOPBACK = frozenset({"/health", "/metrics"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY_VIOLATION = 1008
NEVER_STORED = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Rule:
    """The scope that requests of these methods to this path, and below it, need."""

    methods: frozenset[str]
    prefix: str
    scope: KeyScope

    def covers(self, method: str, path: str) -> bool:
        """Whole segments: `/a/b` covers `/a/b/c`, not `/a/bc`."""
        return method in self.methods and (path == self.prefix or path.startswith(f"{self.prefix}/"))


RULES = (
    Rule(frozenset({"POST"}), "/api/v1/search", KeyScope.READ),  # a question, whatever its method
    Rule(frozenset({"POST"}), "/api/v1/index/add-images", KeyScope.WRITE),
    Rule(frozenset({"POST", "DELETE"}), "/api/v1/index/jobs", KeyScope.WRITE),
    Rule(frozenset({"DELETE"}), "/api/v1/index/images", KeyScope.WRITE),
    Rule(frozenset({"POST"}), "/analyze-image", KeyScope.WRITE),
    Rule(frozenset({"DELETE"}), "/result", KeyScope.WRITE),
    Rule(frozenset({"POST"}), "/api/v1/label-sets", KeyScope.WRITE),
    Rule(frozenset({"POST"}), "/ui/search", KeyScope.READ),
    Rule(frozenset({"POST"}), "/ui/jobs", KeyScope.WRITE),
    Rule(frozenset({"POST"}), "/ui/analyze", KeyScope.WRITE),
    Rule(frozenset({"POST"}), "/ui/labels", KeyScope.WRITE),
    Rule(frozenset({"POST"}), LOGOUT, KeyScope.READ),
)
"""All that is not merely read. A route that nobody entered here is not open by oversight: it needs an admin's key."""


def needed_scope(method: str, path: str) -> KeyScope:
    """The least scope for a request; a WebSocket counts as GET."""
    rule = next((rule for rule in RULES if rule.covers(method, path)), None)
    if rule is not None:
        return rule.scope
    return KeyScope.READ if method in READING else KeyScope.ADMIN


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not let through, as its problem document says it; 303 has none, and sends to the log-in."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whom a request is counted for, the key it is for, why it is refused if it is, the session if it came by one."""

    client: Client
    key: ApiKey | None = None
    refusal: Refusal | None = None
    session: Session | None = None


def decide(scope: Scope, known: KnownKeys, sessions: Sessions) -> Decision:
    """Whether to let one HTTP request or WebSocket through."""
    headers = Headers(scope=scope)
    if not known.exist:
        return _decide_without_keys(scope, headers)
    anonymous = Client(ClientKind.ADDRESS, client_network(scope))
    token = token_of(headers)
    if token is None and _is_before_login(scope):
        return Decision(anonymous, refusal=_foreign_refusal(scope, headers))
    if token is None:
        return _decide_by_session(scope, headers, known, sessions=sessions)
    key = known.key_of(token)
    if isinstance(key, RejectedToken):
        return Decision(anonymous, refusal=_unauthorized(key.reason, error="invalid_token"))
    refusal = _scope_refusal(key, needed_scope(_method(scope), scope["path"]))
    return Decision(Client(ClientKind.KEY, key.key_id), key, refusal)


def token_of(headers: Headers) -> str | None:
    """The key that a request carries, if it carries one."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    return headers.get("x-api-key")


class Guard:
    """ASGI middleware: host and origin, key, scope and rate of every HTTP request and WebSocket handshake.

    The keys are those of `app.state.services`. What follows finds the key in `request.state.api_key`, None while the
    service is open, and `request.state.session` with its `csrf_token`, both None where the request brought the key
    itself; `is_stranger` where there are keys and it came with none. That a form carries the token is checked where
    forms are read, in `pages/site.py`.
    """

    def __init__(self, app: ASGIApp, *, limiter: RateLimiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP and WebSockets passes through."""
        if scope["type"] not in ("http", "websocket") or _is_free(scope):
            await self._app(scope, receive, send)
            return
        services = scope["app"].state.services
        keys: KeyRing = services.keys
        try:
            decision = decide(scope, await keys.known(), services.sessions)
        except StoreError as error:
            await _refuse(Refusal(503, str(error)), scope, receive, send)
            return
        allowance = await self._limiter.charge(decision.client)
        send = _with_headers(send, {} if allowance is None else allowance.headers())
        if decision.session is not None and _is_for_people(scope):
            send = _with_headers(send, NEVER_STORED)
        _tell(scope, decision)
        refusal = decision.refusal if allowance is None or allowance.granted else _too_many(allowance)
        if refusal is not None:
            await _refuse(refusal, scope, receive, send)
            return
        if decision.key is not None:
            keys.note_use(decision.key)
        await self._app(scope, receive, send)


def _tell(scope: Scope, decision: Decision) -> None:
    session = decision.session
    scope.setdefault("state", {}).update(
        api_key=decision.key,
        session=session,
        csrf_token=None if session is None else session.csrf_token,
        is_stranger=decision.client.kind is ClientKind.ADDRESS,
    )


def _decide_by_session(scope: Scope, headers: Headers, known: KnownKeys, *, sessions: Sessions) -> Decision:
    anonymous = Client(ClientKind.ADDRESS, client_network(scope))
    claim = sessions.claim_of(scope)
    if claim is None:
        detail = "this service needs a key: send it as `Authorization: Bearer <key>` or `X-API-Key: <key>`"
        return Decision(anonymous, refusal=_login_refusal(scope, headers, detail=detail))
    key = known.key_named(claim.key_id)
    if isinstance(key, RejectedToken):
        return Decision(anonymous, refusal=_login_refusal(scope, headers, detail=key.reason))
    refusal = _foreign_refusal(scope, headers) or _form_refusal(scope)
    refusal = refusal or _scope_refusal(key, needed_scope(_method(scope), scope["path"]))
    return Decision(Client(ClientKind.KEY, key.key_id), key, refusal, sessions.session(claim, key))


def _foreign_refusal(scope: Scope, headers: Headers) -> Refusal | None:
    """Pages of other sites must not act as whoever is logged in here, nor log anybody in."""
    if not _may_write(scope) or comes_from_own_page(headers):
        return None
    return Refusal(403, f"only pages of this service may do this, not those of {headers.get('origin', 'elsewhere')!r}")


def _form_refusal(scope: Scope) -> Refusal | None:
    # Below /ui/ every form has to carry the token of its session; no other route asks for one.
    if scope["type"] == "websocket" or _method(scope) in READING or scope["path"].startswith("/ui/"):
        return None
    return Refusal(403, "a session is for reading and for the forms of the pages; send the key with this request")


def _login_refusal(scope: Scope, headers: Headers, *, detail: str) -> Refusal:
    """To the log-in, where a person asks for a page; whoever sends a form is told that nothing was done."""
    is_http_read = scope["type"] == "http" and _method(scope) in READING
    if is_http_read and _is_for_people(scope) and "text/html" in headers.get("accept", ""):
        return Refusal(303, detail, NEVER_STORED | {"Location": login_address(scope)})
    return _unauthorized(detail)


def _is_before_login(scope: Scope) -> bool:
    """What a person needs in order to log in."""
    path, method = scope["path"], scope.get("method")
    if path == LOGIN:
        return method in ("GET", "HEAD", "POST")
    return method in ("GET", "HEAD") and path.startswith(f"{STATIC}/")


def _is_for_people(scope: Scope) -> bool:
    return is_page(scope["path"]) or scope["path"] == "/"


def _may_write(scope: Scope) -> bool:
    return scope["type"] == "websocket" or _method(scope) not in READING


def _decide_without_keys(scope: Scope, headers: Headers) -> Decision:
    client = Client(ClientKind.LOCAL, client_network(scope))
    if not comes_from_here(scope):
        detail = "this service has no keys yet and answers only its own machine; `clip-pipeline keys create` makes one"
        return Decision(client, refusal=_unauthorized(detail))
    if not is_asked_for_as_local(headers):
        detail = (
            f"expected a Host such as localhost or 127.0.0.1, got {headers.get('host', '')!r}: a service without keys "
            "answers to no other name; create a key with `clip-pipeline keys create`"
        )
        return Decision(client, refusal=Refusal(421, detail))
    if _may_write(scope) and not comes_from_local_page(headers):
        detail = f"pages of {headers.get('origin', '')!r} may not use a service without keys"
        return Decision(client, refusal=Refusal(403, detail))
    return Decision(client)


def _is_free(scope: Scope) -> bool:
    """Health and metrics, asked by this machine under its own name: they must answer when the ledger does not."""
    is_open_path = _method(scope) in ("GET", "HEAD") and scope["path"] in FREE_ON_LOOPBACK
    return is_open_path and comes_from_here(scope) and is_asked_for_as_local(Headers(scope=scope))


def _method(scope: Scope) -> str:
    return scope.get("method", "GET")


def _unauthorized(detail: str, *, error: str | None = None) -> Refusal:
    challenge = 'Bearer realm="clip-pipeline"' + (f', error="{error}"' if error else "")
    return Refusal(401, detail, {"WWW-Authenticate": challenge})


def _scope_refusal(key: ApiKey, needed: KeyScope) -> Refusal | None:
    if key.scope.includes(needed):
        return None
    challenge = f'Bearer realm="clip-pipeline", error="insufficient_scope", scope="{needed}"'
    detail = f"this needs a key of scope {needed}; key {key.key_id} has scope {key.scope}"
    return Refusal(403, detail, {"WWW-Authenticate": challenge})


def _too_many(allowance: Allowance) -> Refusal:
    return Refusal(429, f"{allowance.limit} requests were made; the next is answered in {allowance.reset_s} s")


def _with_headers(send: Send, fields: Mapping[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            MutableHeaders(scope=message).update(fields)
        await send(message)

    return send_with_headers


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake, which an answer may only follow
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.detail[:120]})
            return
    if refusal.status == 303:
        await Response(status_code=303, headers=refusal.headers)(scope, receive, send)
        return
    await Problem(refusal.status, refusal.detail, headers=refusal.headers)(scope, receive, send)
