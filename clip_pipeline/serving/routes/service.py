"""The service itself: what it is, and whether all is well."""

from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import JSONResponse, RedirectResponse, Response

from clip_pipeline import __version__
from clip_pipeline.serving.health import health_of
from clip_pipeline.serving.problems import Problem
from clip_pipeline.serving.services import OpenServices

router = APIRouter(tags=["service"])


@router.get("/", responses={303: {"description": "To the search page, for what asks for HTML"}})
def root(services: OpenServices, accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
    """The name of the service, its version, and where to go on; a browser goes on to the search page."""
    if "text/html" in accept:
        return RedirectResponse("/ui/search", 303, headers={"Vary": "Accept"})
    links = {
        "health": "/health",
        "search": "/api/v1/search?q=a+red+bicycle&k=10",
        "stats": "/api/v1/index/stats",
        "status": "/api/v1/index/status",
        "pages": "/ui/search",
        "docs": "/docs",
        "openapi": "/openapi.json",
        "dagster": services.orchestrator.url,
    }
    return JSONResponse(
        {"service": "clip-pipeline", "version": __version__, "links": links}, headers={"Vary": "Accept"}
    )


@router.get("/health")
def health(services: OpenServices) -> JSONResponse:
    """200 when every part is well, else 503 naming those that are not."""
    parts = health_of(services.ledger, services.engine, services.orchestrator)
    documents = {name: part.as_document() for name, part in parts.items()}
    failing = [name for name, part in parts.items() if part.fault is not None]
    if not failing:
        return JSONResponse({"status": "ok", "version": __version__, "parts": documents})
    detail = "; ".join(f"{name}: {parts[name].fault}" for name in failing)
    return Problem(503, detail, failing=failing, version=__version__, parts=documents)
