"""What Prometheus asks for."""

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from clip_pipeline.serving.scrape import Scrape

router = APIRouter(tags=["service"])

_TEXT = {"schema": {"type": "string"}}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}},
)
async def metrics(request: Request) -> Response:
    """The numbers of the service for Prometheus; OpenMetrics for what accepts it."""
    scrape: Scrape = request.app.state.scrape
    accept = request.headers.get("accept", "")
    text, media_type = await anyio.to_thread.run_sync(scrape.answer, accept, limiter=scrape.threads)
    return Response(text, headers={"Content-Type": media_type, "Vary": "Accept", "Cache-Control": "no-store"})
