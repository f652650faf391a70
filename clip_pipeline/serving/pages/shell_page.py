"""What the shell itself asks for: the colour of the dot that tells how the service is."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from clip_pipeline.serving.health import health_of
from clip_pipeline.serving.services import OpenServices

router = APIRouter(prefix="/ui", include_in_schema=False)


@router.get("/health")
def health(services: OpenServices) -> JSONResponse:
    """What the dot shows and says. 200 even where a part is failing: the question itself was answered."""
    parts = health_of(services.ledger, services.engine, services.orchestrator)
    failing = [name for name, part in parts.items() if part.fault is not None]
    if failing:
        return JSONResponse({"health": "failing", "text": f"Failing: {', '.join(failing)}"})
    return JSONResponse({"health": "ok", "text": "Every part of the service is well"})
