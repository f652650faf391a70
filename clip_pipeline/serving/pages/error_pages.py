"""Problem documents on the addresses of pages, shown as pages: whatever refused the request, a person reads why."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_pipeline.serving.pages.site import render

PAGES = ("/ui", "/docs")
logger = logging.getLogger(__name__)
_PROBLEM = "application/problem+json"
# Of the document, not of the answer.
_REPLACED = frozenset({"content-type", "content-length"})


class ErrorPages:
    """ASGI middleware around all that refuses requests: routes, limits and the guard alike answer with problems."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; only HTTP to the address of a page is looked at."""
        if scope["type"] == "http" and is_page(scope["path"]):
            send = _ProblemReader(scope, receive, send).send
        await self._app(scope, receive, send)


class _ProblemReader:
    """Lets an answer pass, unless it is a problem document: that is collected and sent as a page."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        headers = Headers(raw=message.get("headers", []))
        if message["type"] == "http.response.start" and headers.get("content-type") == _PROBLEM:
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_page(self._start)

    async def _send_page(self, start: Message) -> None:
        try:
            page = await self._page()
        except Exception:
            logger.exception("an error page cannot be shown, the problem document is sent instead")
            await self._send(start)
            await self._send({"type": "http.response.body", "body": self._body})
            return
        for name, value in Headers(raw=start["headers"]).items():
            if name not in _REPLACED:
                page.headers[name] = value
        await page(self._scope, self._receive, self._send)

    async def _page(self) -> Response:
        problem: Mapping[str, Any] = json.loads(self._body)
        status = int(problem["status"])
        # In a thread, as every page: the first one reads its template.
        return await run_in_threadpool(
            lambda: render(Request(self._scope), "error.html", {"problem": problem}, status=status)
        )


def is_page(path: str) -> bool:
    """Whether people, not programs, ask for this path."""
    return path.startswith(tuple(f"{page}/" for page in PAGES)) or path in PAGES
