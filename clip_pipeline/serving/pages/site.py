"""The shell of every page: templates, what they are given, the headers they are sent with, and forms read back."""

import hmac
from collections.abc import Mapping
from functools import cache
from typing import Any

import anyio
from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from clip_pipeline import __version__
from clip_pipeline.core.paths import display_path
from clip_pipeline.serving.pages import words
from clip_pipeline.serving.pages.static_files import static_url
from clip_pipeline.serving.request_body import SMALL_FORM_BYTES, text_form

MAX_FORM_BYTES = 16 * 1024**2
"""Of a form that takes a list: of paths, or of labels."""

CSRF_FIELD = "csrf_token"

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",  # blob: the preview of an image that is being searched with
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # What a page shows is for whoever holds the key, and old a moment later.
    "Cache-Control": "private, no-cache",
}
NAVIGATION = (("/ui/search", "Search"), ("/ui/jobs", "Jobs"), ("/ui/analyze", "Analyze"), ("/ui/labels", "Labels"),
              ("/ui/workers", "Workers"), ("/ui/stats", "Stats"), ("/docs", "API docs"))  # fmt: skip
_LISTED_UNDER = {"/ui/analyses": "/ui/analyze"}


def render(request: Request, name: str, context: Mapping[str, Any] | None = None, *, status: int = 200) -> HTMLResponse:
    """The template `name` as a page: `context` beside what `base.html` needs."""
    template = _templates().get_template(name)
    return HTMLResponse(template.render(**_shell(request), **(context or {})), status, headers=HEADERS)


async def posted_form(
    request: Request, *, max_bytes: int = SMALL_FORM_BYTES, threads: anyio.CapacityLimiter | None = None
) -> dict[str, str]:
    """The text fields of a form that one of these pages sent; a large one is parsed in one of `threads`.

    Raises a 413 problem where it is too long, a 403 one where it lacks the token of its session.
    """
    fields = await text_form(request, max_bytes=max_bytes, threads=threads)
    check_token(request, fields)
    return fields


def check_token(request: Request, fields: Mapping[str, str]) -> None:
    """Raises a 403 problem where a session is used by a form that no page of that session has shown."""
    token = _csrf_token(request.state)
    sent = fields.get(CSRF_FIELD, "")
    if token is not None and not hmac.compare_digest(sent.encode(), token.encode()):
        raise HTTPException(403, "this form belongs to another session; load its page again and send it once more")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("clip_pipeline.serving", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(static=static_url, version=__version__, navigation=NAVIGATION)
    environment.filters.update(
        path=display_path,
        number="{:,}".format,
        bytes=words.said_bytes,
        duration=words.said_duration,
        moment=words.said_moment,
        rate=words.said_rate,
    )
    return environment


def _shell(request: Request) -> dict[str, Any]:
    """What every page is given. session: None while the service has no keys; is_stranger: there are, and none came."""
    token = _csrf_token(request.state)

    def csrf_field() -> Markup:
        if token is None:
            return Markup()
        return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, token)

    here = _LISTED_UNDER.get(request.url.path, request.url.path)
    return {
        "session": getattr(request.state, "session", None),
        "is_stranger": getattr(request.state, "is_stranger", False),
        "csrf_field": csrf_field,
        "current": next((url for url, _ in NAVIGATION if here == url or here.startswith(f"{url}/")), None),
    }


def _csrf_token(state: State) -> str | None:
    return getattr(state, "csrf_token", None)
