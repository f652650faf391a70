"""Server-sent events as an HTTP response: heartbeats while nothing happens, an end for clients that stopped reading."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from clip_pipeline.serving.push.events import Event, EventId
from clip_pipeline.serving.push.hub import End, Hub
from clip_pipeline.serving.push.watch import Watch

HEARTBEAT_S = 15.0
RETRY_MS = 2_000
SEND_S = 20.0
"""A client that takes nothing for so long, its buffers full, is let go."""

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold small events back
}


class EventStream(Response):
    """A response that goes on until the frames end or the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send the frames as they come."""
        async with anyio.create_task_group() as group, aclosing(self._frames):
            group.start_soon(_cancel_when_gone, receive, group.cancel_scope)
            await self._send_all(send)
            group.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        with anyio.move_on_after(SEND_S) as patience:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for frame in self._frames:
                patience.deadline = anyio.current_time() + SEND_S
                await send(_body(frame, more=True))
                patience.deadline = float("inf")
            await send(_body(b"", more=False))


async def event_frames(
    hub: Hub, watches: Sequence[Watch], *, last: EventId | None, key_id: str | None = None
) -> AsyncGenerator[bytes, None]:
    """What a client is sent: what it missed after `last`, what stands now, then every change that the watches tell.

    key_id: of the API key that the client came with, None for without one.
    """
    with hub.listening(key_id=key_id) as listener:
        for watch in watches:
            await watch.primed()
        primed_s = time.time()
        yield f"retry: {RETRY_MS}\n\n".encode()
        if last is not None:
            async for event in in_order(*(watch.told_since(last, until_s=primed_s) for watch in watches)):
                last = _id_of(event).after(last)
                yield event.frame(last)
        for event in [event for watch in watches for event in watch.standing()]:
            last = EventId(int(1000 * primed_s)).after(last)
            yield event.frame(last)
        while not isinstance(heard := await listener.next(within_s=HEARTBEAT_S), End):
            if heard is None:
                yield b": nothing new\n\n"
                continue
            last = _id_of(heard).after(last)
            yield heard.frame(last)
        yield _farewell(heard)


async def in_order(*streams: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The events of streams that are in the order of their moments, as one that is."""
    heads = {stream: event for stream in streams if (event := await anext(stream, None)) is not None}
    while heads:
        stream, event = min(heads.items(), key=lambda head: head[1].moment_ms)
        following = await anext(stream, None)
        if following is None:
            del heads[stream]
        else:
            heads[stream] = following
        yield event


def _id_of(event: Event) -> EventId:
    return EventId(event.moment_ms)


def _farewell(why: End) -> bytes:
    return f"event: end\ndata: {json.dumps({'reason': why.name.lower(), 'detail': why.value})}\n\n".encode()


def _body(frame: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": frame, "more_body": more}


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
