"""The web application: routes, problem documents, request log, and what is open while it runs."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from clip_pipeline import __version__
from clip_pipeline.serving.encoder_slot import LoadEncoder
from clip_pipeline.serving.problems import add_problem_handlers
from clip_pipeline.serving.request_log import RequestLog
from clip_pipeline.serving.routes import index, search, service
from clip_pipeline.serving.services import open_services
from clip_pipeline.settings import Settings


def create_app(settings: Settings, *, load: LoadEncoder | None = None) -> FastAPI:
    """The application for one home; nothing is opened before it starts. load: see `open_services`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        with open_services(settings, load=load) as services:
            app.state.services = services
            yield

    # The documentation pages of FastAPI load their scripts from elsewhere; the schema itself is enough for tools.
    app = FastAPI(title="clip-pipeline", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    add_problem_handlers(app)
    app.add_middleware(RequestLog)
    for routes in (service, index, search):
        app.include_router(routes.router)
    return app
