"""Bodies of a bounded size: a request that goes on for longer is refused while it is read, not after."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message

Model = TypeVar("Model", bound=BaseModel)

FAULTS_SHOWN = 100


async def read_json(request: Request, *, max_bytes: int) -> bytes:
    """The whole body of a request that says it is JSON; raises a 415 problem where it says otherwise, or a 413 one."""
    _check_is_json(request)
    return await read_body(request, max_bytes=max_bytes)


@asynccontextmanager
async def json_file(request: Request, *, max_bytes: int, in_memory: int) -> AsyncGenerator[IO[bytes], None]:
    """The body as a file, written as it arrives, on disk from `in_memory` bytes on; raises as `read_json`."""
    _check_is_json(request)
    with SpooledTemporaryFile(max_size=in_memory) as file:
        async for part in limited(request, max_bytes=max_bytes).stream():
            # Into the page cache, in pieces of what a socket gives: microseconds, a thread would take longer.
            file.write(part)
        yield file


def _check_is_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"expected application/json, got {kind or 'no content type'}")


def parsed(parse: Callable[[], Model]) -> Model:
    """What `parse` gives; raises a 422 problem that names the first faults where the input does not fit the model."""
    try:
        return parse()
    except ValidationError as error:
        # The input itself is left out: it may be megabytes of paths.
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(faults[:FAULTS_SHOWN]) from error


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The whole body; raises a 413 problem when it is longer."""
    return await limited(request, max_bytes=max_bytes).body()


def limited(request: Request, *, max_bytes: int) -> Request:
    """The same request; reading more than `max_bytes` of its body raises a 413 problem."""
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > max_bytes:
        raise _too_large(max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        return message

    return Request(request.scope, receive)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"expected a body of at most {max_bytes} bytes, got more")
