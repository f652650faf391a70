"""Around every request: counted by its route, method and outcome. No path that a client made up becomes a label."""

import time
from collections.abc import Sequence

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_pipeline.observability.metrics import Measures

OTHER = "other"
"""Paths that no route has, requests refused before a route was looked for, methods that nobody knows."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})

_STATUS = {"http.response.start": 200, "websocket.http.response.start": 403, "websocket.accept": 101,
           "websocket.close": 403}  # fmt: skip
"""What begins an answer, with its status where the message has none; a handshake that is closed is answered 403."""


class RequestMetrics:
    """ASGI middleware; the measures are those of `app.state.services`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP and WebSockets passes through."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        counted = _Count(scope)

        async def send_counted(message: Message) -> None:
            if message["type"] in _STATUS:
                counted.end(message.get("status", _STATUS[message["type"]]))
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            counted.end(0)


class _Count:
    """One request, counted once: when its answer begins, or when it ends without one (status 0)."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._started = time.perf_counter()
        self._is_counted = False

    def end(self, status: int) -> None:
        """The outcome is known; all but the first time changes nothing."""
        if self._is_counted:
            return
        self._is_counted = True
        measures: Measures = self._scope["app"].state.services.measures
        method = self._scope.get("method", "WEBSOCKET")
        measures.count_request(
            route_of(self._scope),
            method=method if method in METHODS else OTHER,
            status=f"{status // 100}xx" if status else "none",
            seconds=time.perf_counter() - self._started,
        )


def route_of(scope: Scope) -> str:
    """The template of the route that a request was given to (`/status/{request_id}`), once it was, else `other`."""
    route = scope.get("route") or _route_to(scope.get("endpoint"), scope["app"].routes)
    path = getattr(route, "path", None)
    return path if isinstance(path, str) and path else OTHER


def _route_to(endpoint: object | None, routes: Sequence[BaseRoute]) -> BaseRoute | None:
    """The mount or plain route behind an endpoint: of those, Starlette says no more to whoever stands outside."""
    if endpoint is None:
        return None
    return next((r for r in routes if endpoint in (getattr(r, "endpoint", None), getattr(r, "app", None))), None)
