"""Around every request: its id, one line in the log, and the answer of last resort when a route fails unexpectedly."""

import logging
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_pipeline.serving.problems import Problem

HEADER = "X-Request-ID"
logger = logging.getLogger(__name__)

# `websocket.accept` is the answer 101 to the handshake.
_ANSWERS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_USABLE_ID = re.compile(r"[\x21-\x7e]{1,200}")


class RequestLog:
    """ASGI middleware around all that answers requests, so that no response leaves without its id.

    Around it are only those that pass answers on: they are counted, and problems are shown as pages.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP and WebSockets passes through."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id, started, status = _request_id(scope), time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _ANSWERS:
                status = message.get("status", 101)
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                logger.exception("request failed", extra={"request_id": request_id})
                if status:  # half an answer is out; only cutting it off tells the client
                    raise
                detail = f"an unexpected error; the log of the service has it under request id {request_id}"
                await Problem(500, detail)(scope, receive, send_with_id)
            finally:
                _log(scope, status=status, request_id=request_id, seconds=time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get(HEADER, "")
    return sent if _USABLE_ID.fullmatch(sent) else uuid.uuid4().hex


def _log(scope: Scope, *, status: int, request_id: str, seconds: float) -> None:
    # The path alone: query strings hold what people search for.
    fields = {
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"],
        "status": status,
        "request_id": request_id,
    }
    logger.info("request", extra=fields | {"duration_ms": round(1000 * seconds, 1)})
