"""Style sheets, scripts and pictures of the pages, under addresses that change with their content."""

import hashlib
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import clip_pipeline.serving

PREFIX = "/ui/static"
FOLDER = Path(clip_pipeline.serving.__path__[0]) / "static"

_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_FIRST = "no-cache"


def static_url(name: str) -> str:
    """The address of one file below `static/`.

    The version is part of the path, not of a query: what a script imports relative to itself has it too.
    """
    return f"{PREFIX}/{static_version()}/{name}"


@cache
def static_version() -> str:
    """A digest of everything below `static/`: names and contents."""
    digest = hashlib.sha256()
    for path in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(FOLDER)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def mount_static_files(app: FastAPI) -> None:
    """Serve the files; a page from before an upgrade gets today's, and is told not to keep them."""
    app.mount(f"{PREFIX}/{{version}}", _Files(directory=FOLDER))


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        is_current = scope["path_params"]["version"] == static_version()
        response.headers["Cache-Control"] = _FOR_EVER if is_current else _ASK_FIRST
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
