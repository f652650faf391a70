"""`/docs`: the OpenAPI schema in Swagger UI, from files that the package carries."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from clip_pipeline.serving.pages.site import render

SWAGGER = "vendor/swagger-ui-5.35.0"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs(request: Request) -> Response:
    """Every operation of the API, with a form to try it."""
    return render(request, "docs.html", {"swagger": SWAGGER})
