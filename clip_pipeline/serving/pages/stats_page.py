"""The pages of numbers: statistics with charts and health, and the failed files behind each reason."""

from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.job_history import failed_with_code
from clip_pipeline.ledger.jobs import FAILED_SHOWN
from clip_pipeline.serving.pages.site import render
from clip_pipeline.serving.pages.stats_view import meaning_of, stats_page
from clip_pipeline.serving.queries import PlainText
from clip_pipeline.serving.services import OpenServices

router = APIRouter(prefix="/ui", include_in_schema=False)


@router.get("/stats")
def stats(request: Request, services: OpenServices) -> Response:
    """What the index holds, in numbers and pictures, and how the service is."""
    page = stats_page(services)
    return render(request, "stats.html", {"page": page})


@router.get("/failures/{code}")
def failures(request: Request, services: OpenServices, code: str, after: PlainText = "") -> Response:
    """The files that failed for one reason, by path, from the one after `after` on."""
    if code not in set(ReasonCode):
        raise NotFoundError(f"no failure has the reason {code!r}")
    files = failed_with_code(services.ledger, code, path=after, most=FAILED_SHOWN + 1)
    shown = files[:FAILED_SHOWN]
    has_more = len(files) > FAILED_SHOWN
    next_url = f"/ui/failures/{quote(code)}?{urlencode({'after': shown[-1].path})}" if has_more else None
    context = {
        "code": code,
        "meaning": meaning_of(code),
        "files": shown,
        "is_later_page": bool(after),
        "next_url": next_url,
    }
    return render(request, "failures.html", context)
