"""Push: one job or one analysis request over a WebSocket, every change as server-sent events."""

import json
from typing import Annotated

from fastapi import APIRouter, Header, Request, WebSocket
from starlette.requests import HTTPConnection
from starlette.responses import Response

from clip_pipeline.ledger.analysis_lookup import analysis_of
from clip_pipeline.ledger.api_keys import ApiKey
from clip_pipeline.ledger.states import FINAL_ANALYSES
from clip_pipeline.serving.analysis_documents import result_document
from clip_pipeline.serving.documents import Document, status_document
from clip_pipeline.serving.problems import Problem
from clip_pipeline.serving.push import analysis_look, job_look
from clip_pipeline.serving.push.conversation import Subject, converse
from clip_pipeline.serving.push.event_stream import EventStream, event_frames
from clip_pipeline.serving.push.events import Event, EventId
from clip_pipeline.serving.push.hub import TooManyListenersError
from clip_pipeline.serving.push.watch import Watch
from clip_pipeline.serving.routes.jobs import known_job_id
from clip_pipeline.serving.services import Services

router = APIRouter(tags=["push"])

JOB_IDLE_S, ANALYSIS_IDLE_S = 3600.0, 30.0
_EXAMPLE = 'event: job\nid: 1763721354678-0\ndata: {"job_id":"idx_20251114_143025_7f3a9c","status":"running"}\n\n'


@router.get(
    "/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}}},
)
async def events(request: Request, last_event_id: Annotated[str, Header()] = "") -> Response:
    """Every change of a job or an analysis request, as server-sent events without end; first the jobs that are open.

    With `Last-Event-ID`, before that what was missed since. At least once, the latest state.
    """
    jobs: Watch = request.app.state.job_watch
    analyses: Watch = request.app.state.analysis_watch
    try:
        jobs.hub.check_room()
    except TooManyListenersError as error:
        return Problem(503, str(error), headers={"Retry-After": "10"})
    last = EventId.parse(last_event_id)
    return EventStream(event_frames(jobs.hub, (jobs, analyses), last=last, key_id=_key_id(request)))


@router.websocket("/ws/jobs/{job_id}")
async def follow_job(socket: WebSocket, job_id: str) -> None:
    """The status document of one job now, again after each change, and a normal close after a final state."""
    services: Services = socket.app.state.services

    def read() -> Document:
        return status_document(services.ledger, services.orchestrator, known_job_id(job_id))

    subject = Subject(job_look.TOPIC, job_id, read, _data_of, job_look.FINAL, JOB_IDLE_S, "unknown job")
    await converse(socket, socket.app.state.job_watch, subject, key_id=_key_id(socket))


@router.websocket("/ws/analysis/{request_id}")
async def follow_analysis(socket: WebSocket, request_id: str) -> None:
    """The status document of one request now, again after each change, at last its result, and a normal close."""
    services: Services = socket.app.state.services

    def read() -> Document:
        return result_document(analysis_of(services.ledger, request_id))

    def text_of(event: Event) -> str:
        # Events are without the predictions, which one listener of many wants.
        return json.dumps(read()) if event.is_final else event.data

    subject = Subject(
        analysis_look.TOPIC, request_id, read, text_of, FINAL_ANALYSES, ANALYSIS_IDLE_S, "unknown request"
    )
    await converse(socket, socket.app.state.analysis_watch, subject, key_id=_key_id(socket))


def _key_id(connection: HTTPConnection) -> str | None:
    key: ApiKey | None = connection.state.api_key
    return None if key is None else key.key_id


def _data_of(event: Event) -> str:
    return event.data
