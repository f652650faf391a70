"""The web application: routes, problem documents, request log, and what is open while it runs."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, closing

from fastapi import FastAPI

from clip_pipeline import __version__
from clip_pipeline.ledger.notifications import Topic
from clip_pipeline.serving.auth import Guard
from clip_pipeline.serving.body_limits import BodyLimits
from clip_pipeline.serving.encoder_slot import LoadEncoder
from clip_pipeline.serving.metric_parts import parts_of
from clip_pipeline.serving.openapi import describe_bodies
from clip_pipeline.serving.pages import (
    analyze_page,
    docs_page,
    jobs_page,
    labels_page,
    login_page,
    search_page,
    shell_page,
    stats_page,
    workers_page,
)
from clip_pipeline.serving.pages.error_pages import ErrorPages
from clip_pipeline.serving.pages.static_files import mount_static_files
from clip_pipeline.serving.problems import add_problem_handlers
from clip_pipeline.serving.push.analysis_look import AnalysisLook
from clip_pipeline.serving.push.bells import wired_bells
from clip_pipeline.serving.push.hub import Hub
from clip_pipeline.serving.push.job_look import JobLook
from clip_pipeline.serving.push.key_watch import watching_keys
from clip_pipeline.serving.push.watch import watching
from clip_pipeline.serving.queries import SearchBody, UploadFields
from clip_pipeline.serving.rate_limit import RateLimiter
from clip_pipeline.serving.request_log import RequestLog
from clip_pipeline.serving.request_metrics import RequestMetrics
from clip_pipeline.serving.routes import (
    analysis,
    events,
    images,
    index,
    jobs,
    label_sets,
    metrics,
    search,
    service,
    workers,
)
from clip_pipeline.serving.routes.label_sets import LabelSetBody, UseBody
from clip_pipeline.serving.scrape import Scrape
from clip_pipeline.serving.services import Services, open_services
from clip_pipeline.serving.submissions import AddImagesBody, RemoveImagesBody
from clip_pipeline.settings import Settings

ROUTES = (service, workers, metrics, events, index, jobs, images, search, analysis, label_sets)
PAGES = (search_page, docs_page, shell_page, jobs_page, analyze_page, labels_page, workers_page, stats_page, login_page)
BODIES = (AddImagesBody, RemoveImagesBody, SearchBody, UploadFields, LabelSetBody, UseBody)


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
            async with aclosing(limiter), _watching(app, services):
                yield

    # The documentation pages of FastAPI load their scripts from elsewhere; `pages/docs_page.py` has one that does not.
    app = FastAPI(title="clip-pipeline", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.is_stopping = lambda: False  # whoever runs the server knows, and says so here
    add_problem_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimits, settings=settings)
    app.add_middleware(Guard, limiter=limiter)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestMetrics)
    app.add_middleware(ErrorPages)
    mount_static_files(app)
    for routes in (*ROUTES, *PAGES):
        app.include_router(routes.router)
    describe_bodies(app, BODIES)
    return app


@asynccontextmanager
async def _watching(app: FastAPI, services: Services) -> AsyncGenerator[None, None]:
    """What tells listeners of changes, and whoever asks of numbers, while the application runs."""

    def is_stopping() -> bool:
        return bool(app.state.is_stopping())

    hub, ledger = Hub(), services.ledger
    jobs, analyses = JobLook(ledger, services.orchestrator), AnalysisLook(ledger)
    with closing(Scrape(services.measures, parts_of(services, hub))) as app.state.scrape:
        async with (
            wired_bells(ledger, on_keys=services.keys.expire) as bells,
            watching_keys(hub, services.keys, bell=bells[Topic.KEYS]),
            watching(jobs, hub, bell=bells[Topic.JOBS], is_stopping=is_stopping) as app.state.job_watch,
            watching(analyses, hub, bell=bells[Topic.ANALYSES], is_stopping=is_stopping) as app.state.analysis_watch,
        ):
            yield
