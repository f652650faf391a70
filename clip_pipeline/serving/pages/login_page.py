"""The page to log in with a key, and the log-out. Without keys there is nobody to tell apart, and both lead on."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from clip_pipeline.serving.keys import RejectedToken
from clip_pipeline.serving.pages.site import posted_form, render
from clip_pipeline.serving.services import OpenServices, Services
from clip_pipeline.serving.sessions import LOGIN, LOGOUT, end, safe_target

router = APIRouter(include_in_schema=False)


@router.get(LOGIN)
async def login(
    request: Request, services: OpenServices, target: Annotated[str, Query(alias="next")] = "", out: str = ""
) -> Response:
    """The form; for whoever is logged in already, the page that was asked for."""
    if await _needs_no_login(request, services):
        return _leading_to(safe_target(target))
    return _form(request, target=safe_target(target), is_logged_out=out == "1")


@router.post(LOGIN)
async def log_in(request: Request, services: OpenServices) -> Response:
    """Begin a session with the key of the form, and go on to the page that was asked for."""
    fields = await posted_form(request)
    known, target = await services.keys.known(), safe_target(fields.get("next", ""))
    if not known.exist:
        return _leading_to(target)
    token = fields.get("api_key", "").strip()
    key = known.key_of(token) if token else RejectedToken("enter a key")
    if isinstance(key, RejectedToken):
        return _form(request, target=target, fault=key.reason, status=401)
    services.keys.note_use(key)
    response = _leading_to(target)
    services.sessions.begin(response, request.scope, key=key)
    return response


@router.post(LOGOUT)
async def log_out(request: Request) -> Response:
    """End the session in this browser; see `serving/sessions.py` for what that means."""
    await posted_form(request)
    response = _leading_to(f"{LOGIN}?{urlencode({'out': 1})}")
    end(response, request.scope)
    return response


async def _needs_no_login(request: Request, services: Services) -> bool:
    known, claim = await services.keys.known(), services.sessions.claim_of(request.scope)
    return known.admit(None if claim is None else claim.key_id)


def _form(
    request: Request, *, target: str, fault: str = "", is_logged_out: bool = False, status: int = 200
) -> Response:
    context = {"target": target, "fault": fault, "is_logged_out": is_logged_out, "action": LOGIN}
    response = render(request, "login.html", context, status=status)
    response.headers["Cache-Control"] = "no-store"
    return response


def _leading_to(address: str) -> Response:
    return RedirectResponse(address, 303, headers={"Cache-Control": "no-store"})
