"""One WebSocket about one thing: its state at once, each change, a close that says why it ends."""

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.serving.auth import POLICY_VIOLATION
from clip_pipeline.serving.documents import Document
from clip_pipeline.serving.problems import Problem
from clip_pipeline.serving.push.event_stream import SEND_S
from clip_pipeline.serving.push.events import Event
from clip_pipeline.serving.push.hub import End, Listener, TooManyListenersError
from clip_pipeline.serving.push.watch import Watch

NORMAL, RESTART, TRY_LATER, UNKNOWN = 1000, 1012, 1013, 4404
_CLOSE_CODE = {End.SLOW: TRY_LATER, End.STOPPING: RESTART, End.KEY_OVER: POLICY_VIOLATION}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a conversation is about. read: its document now, NotFoundError where there is no such thing; blocks.

    text_of: what to send for an event; blocks. finals: statuses that nothing follows. idle_s: after so long without an
    event it is looked up again, so that one that was deleted ends the conversation.
    """

    topic: str
    key: str
    read: Callable[[], Document]
    text_of: Callable[[Event], str]
    finals: Collection[str]
    idle_s: float
    unknown: str


async def converse(socket: WebSocket, watch: Watch, subject: Subject, *, key_id: str | None) -> None:
    """Tell the client of a socket about the subject until its end, the client's, or that of its key."""
    await socket.accept()
    try:
        with watch.hub.listening(topic=subject.topic, key=subject.key, key_id=key_id) as listener:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when_gone, socket, group.cancel_scope)
                await watch.primed()
                code, reason = await _tell(socket, listener, subject)
                await _close(socket, code, reason)
                group.cancel_scope.cancel()
    except TooManyListenersError as error:
        await _close(socket, TRY_LATER, str(error))


async def _tell(socket: WebSocket, listener: Listener, subject: Subject) -> tuple[int, str]:
    """Send what there is to tell; returns how to close."""
    try:
        read_ms = int(1000 * time.time())
        document = await anyio.to_thread.run_sync(subject.read)
        is_sent = await _send(socket, json.dumps(document))
        is_final = document["status"] in subject.finals
        while is_sent and not is_final:
            heard = await listener.next(within_s=subject.idle_s)
            if isinstance(heard, End):
                return _CLOSE_CODE[heard], heard.value
            if heard is None:
                await anyio.to_thread.run_sync(subject.read)
            # One that was read before the document sent first is older than it.
            elif heard.is_final or heard.moment_ms >= read_ms:
                is_sent = await _send(socket, await anyio.to_thread.run_sync(subject.text_of, heard))
                is_final = heard.is_final
    except NotFoundError as error:
        await _send(socket, bytes(Problem(404, str(error)).body).decode())
        return UNKNOWN, subject.unknown
    return (NORMAL, "final") if is_sent else (TRY_LATER, End.SLOW.value)


async def _send(socket: WebSocket, text: str) -> bool:
    """Send one message; False where the client takes nothing any more."""
    with anyio.move_on_after(SEND_S), suppress(WebSocketDisconnect):
        await socket.send_text(text)
        return True
    return False


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with anyio.move_on_after(SEND_S), suppress(RuntimeError, WebSocketDisconnect):  # gone already
        await socket.close(code, reason)


async def _cancel_when_gone(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """What a client says is read and passed over; that it left ends the conversation."""
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, KeyError):
        scope.cancel()
