"""Bodies that are too long or too slow: refused while they arrive, whatever the route would have done with them."""

import time
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_pipeline.serving.problems import Problem
from clip_pipeline.settings import Settings

MIN_PROGRESS_BYTES = 1024
"""What a body must bring before patience ends and begins anew: a byte now and then is no progress."""

# Half a body is left in the connection: it cannot carry another request.
_CLOSE = {"Connection": "close"}


class BodyRefusedError(HTTPException):
    """Raised into whatever reads the body. A route that answers it as any HTTP error is overruled all the same."""


@dataclass(frozen=True, slots=True)
class BodyRules:
    """max_bytes: of a whole body; timeout_s: patience for each `MIN_PROGRESS_BYTES` of it; setting: of max_bytes."""

    max_bytes: int
    timeout_s: float
    setting: str


class BodyLimits:
    """ASGI middleware. Uploads (multipart) have a limit of their own; every other body has that for JSON."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._upload = BodyRules(settings.max_upload_bytes, settings.body_timeout_s, "CLIP_PIPELINE_MAX_UPLOAD_BYTES")
        self._other = BodyRules(settings.max_body_bytes, settings.body_timeout_s, "CLIP_PIPELINE_MAX_BODY_BYTES")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_upload = headers.get("content-type", "").lower().startswith("multipart/")
        body = _Body(receive, self._upload if is_upload else self._other)
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > body.rules.max_bytes:
            await body.too_long()(scope, receive, send)
            return
        await self._serve(body, scope, send)

    async def _serve(self, body: "_Body", scope: Scope, send: Send) -> None:
        is_answered = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_answered
            if body.refusal is None or is_answered:
                is_answered = True
                await send(message)

        try:
            await self._app(scope, body.receive, send_unless_refused)
        except Exception:
            if body.refusal is None or is_answered:
                raise
        if body.refusal is not None and not is_answered:
            await body.refusal(scope, body.receive, send)


class _Body:
    """One body as it arrives. refusal: what to answer instead, once it went beyond a limit."""

    def __init__(self, receive: Receive, rules: BodyRules) -> None:
        self.rules = rules
        self.refusal: Problem | None = None
        self._receive = receive
        self._is_whole = False
        self._bytes = 0
        self._waited_s = 0.0
        self._bytes_of_period = 0

    async def receive(self) -> Message:
        """The next message. Raises BodyRefusedError beyond a limit."""
        if self._is_whole:  # what comes now is the end of the connection, for which nobody is too slow
            return await self._receive()
        message = await self._receive_in_time()
        length = len(message.get("body", b""))
        self._bytes += length
        self._bytes_of_period += length
        if self._bytes_of_period >= MIN_PROGRESS_BYTES:
            self._waited_s, self._bytes_of_period = 0.0, 0
        self._is_whole = not message.get("more_body", False)
        if self._bytes > self.rules.max_bytes:
            raise self._refused(self.too_long())
        return message

    def too_long(self) -> Problem:
        """The 413 problem of this body."""
        detail = (
            f"expected a body of at most {self.rules.max_bytes} bytes, got more; {self.rules.setting} sets the limit"
        )
        return Problem(413, detail, headers=_CLOSE)

    async def _receive_in_time(self) -> Message:
        # Only time spent waiting for the client counts, not what the route takes between two reads.
        begun = time.monotonic()
        try:
            with anyio.fail_after(max(0.0, self.rules.timeout_s - self._waited_s)):
                return await self._receive()
        except TimeoutError as error:
            raise self._refused(self._too_slow()) from error
        finally:
            self._waited_s += time.monotonic() - begun

    def _too_slow(self) -> Problem:
        detail = (
            f"expected at least {MIN_PROGRESS_BYTES} bytes of the body in {self.rules.timeout_s:g} s, "
            f"got {self._bytes_of_period}"
        )
        return Problem(408, detail, headers=_CLOSE)

    def _refused(self, problem: Problem) -> BodyRefusedError:
        self.refusal = problem
        return BodyRefusedError(problem.status_code, "the body was refused")
