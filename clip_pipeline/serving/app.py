"""The web application: routes, problem documents, request log, and what is open while it runs."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI

from clip_pipeline import __version__
from clip_pipeline.serving.auth import Guard
from clip_pipeline.serving.body_limits import BodyLimits
from clip_pipeline.serving.encoder_slot import LoadEncoder
from clip_pipeline.serving.openapi import describe_bodies
from clip_pipeline.serving.pages import docs_page, jobs_page, login_page, search_page, shell_page, stats_page
from clip_pipeline.serving.pages.error_pages import ErrorPages
from clip_pipeline.serving.pages.static_files import mount_static_files
from clip_pipeline.serving.problems import add_problem_handlers
from clip_pipeline.serving.push.job_look import JobLook
from clip_pipeline.serving.push.job_watch import watching_jobs
from clip_pipeline.serving.queries import SearchBody, UploadFields
from clip_pipeline.serving.rate_limit import RateLimiter
from clip_pipeline.serving.request_log import RequestLog
from clip_pipeline.serving.routes import events, images, index, jobs, search, service
from clip_pipeline.serving.services import open_services
from clip_pipeline.serving.submissions import AddImagesBody, RemoveImagesBody
from clip_pipeline.settings import Settings

ROUTES = (service, events, index, jobs, images, search)
PAGES = (search_page, docs_page, shell_page, jobs_page, stats_page, login_page)
BODIES = (AddImagesBody, RemoveImagesBody, SearchBody, UploadFields)


def create_app(settings: Settings, *, load: LoadEncoder | None = None) -> FastAPI:
    """The application for one home; nothing is opened before it starts. load: see `open_services`.

    Raises:
        ConfigurationError: a rate limit, or where to count for it, is malformed.
    """
    limiter = RateLimiter(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        with open_services(settings, load=load) as services:
            app.state.services = services
            look = JobLook(services.ledger, services.orchestrator)
            watching = watching_jobs(look, services.keys, is_stopping=lambda: bool(app.state.is_stopping()))
            async with aclosing(limiter), watching as app.state.job_watch:
                yield

    # The documentation pages of FastAPI load their scripts from elsewhere; `pages/docs_page.py` has one that does not.
    app = FastAPI(title="clip-pipeline", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.is_stopping = lambda: False  # whoever runs the server knows, and says so here
    add_problem_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimits, settings=settings)
    app.add_middleware(Guard, limiter=limiter)
    app.add_middleware(RequestLog)
    app.add_middleware(ErrorPages)
    mount_static_files(app)
    for routes in (*ROUTES, *PAGES):
        app.include_router(routes.router)
    describe_bodies(app, BODIES)
    return app
