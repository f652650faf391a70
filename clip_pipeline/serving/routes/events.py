"""Push: one job over a WebSocket, every change as server-sent events."""

import json
import time
from contextlib import suppress
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Request, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.ledger.api_keys import ApiKey
from clip_pipeline.serving.auth import POLICY_VIOLATION
from clip_pipeline.serving.documents import Document, status_document
from clip_pipeline.serving.problems import Problem
from clip_pipeline.serving.push.event_stream import SEND_S, EventStream, job_frames
from clip_pipeline.serving.push.events import EventId
from clip_pipeline.serving.push.hub import End, Listener, TooManyListenersError
from clip_pipeline.serving.push.job_look import FINAL, TOPIC
from clip_pipeline.serving.push.job_watch import JobWatch

router = APIRouter(tags=["push"])

IDLE_S = 3600.0
NORMAL, RESTART, TRY_LATER, UNKNOWN_JOB = 1000, 1012, 1013, 4404
_CLOSE_CODE = {End.SLOW: TRY_LATER, End.STOPPING: RESTART, End.KEY_OVER: POLICY_VIOLATION}
_EXAMPLE = 'event: job\nid: 1763721354678-0\ndata: {"job_id":"idx_20251114_143025_7f3a9c","status":"running"}\n\n'


@router.get(
    "/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}}},
)
async def events(request: Request, last_event_id: Annotated[str, Header()] = "") -> Response:
    """Every change of a job, as server-sent events without end; begins with the jobs that are open.

    With `Last-Event-ID`, first what was missed since. At least once, the latest state.
    """
    watch: JobWatch = request.app.state.job_watch
    try:
        watch.hub.check_room()
    except TooManyListenersError as error:
        return Problem(503, str(error), headers={"Retry-After": "10"})
    return EventStream(job_frames(watch, EventId.parse(last_event_id), key_id=_key_id(request)))


@router.websocket("/ws/jobs/{job_id}")
async def follow_job(socket: WebSocket, job_id: str) -> None:
    """The status document of one job now, again after each change, and a normal close after a final state."""
    watch: JobWatch = socket.app.state.job_watch
    await socket.accept()
    try:
        with watch.hub.listening(topic=TOPIC, key=job_id, key_id=_key_id(socket)) as listener:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when_gone, socket, group.cancel_scope)
                code, reason = await _tell(socket, watch, listener, job_id=job_id)
                await _close(socket, code, reason)
                group.cancel_scope.cancel()
    except TooManyListenersError as error:
        await _close(socket, TRY_LATER, str(error))


def _key_id(connection: HTTPConnection) -> str | None:
    key: ApiKey | None = connection.state.api_key
    return None if key is None else key.key_id


async def _tell(socket: WebSocket, watch: JobWatch, listener: Listener, *, job_id: str) -> tuple[int, str]:
    """Send what there is to tell; returns how to close."""
    await watch.primed()
    read_ms = int(1000 * time.time())
    try:
        document = await _document(socket, job_id)
    except NotFoundError as error:
        await _send(socket, bytes(Problem(404, str(error)).body).decode())
        return UNKNOWN_JOB, "unknown job"
    is_sent = await _send(socket, json.dumps(document))
    is_final = document["status"] in FINAL
    while is_sent and not is_final:
        heard = await listener.next(within_s=IDLE_S)
        if isinstance(heard, End):
            return _CLOSE_CODE[heard], heard.value
        # One that was read before the document sent first is older than it.
        if heard is not None and (heard.is_final or heard.moment_ms >= read_ms):
            is_sent, is_final = await _send(socket, heard.data), heard.is_final
    return (NORMAL, "final") if is_sent else (TRY_LATER, End.SLOW.value)


async def _document(socket: WebSocket, job_id: str) -> Document:
    services = socket.app.state.services
    return await anyio.to_thread.run_sync(status_document, services.ledger, services.orchestrator, job_id)


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
