"""Bodies of a bounded size, JSON or forms: one that goes on for longer is refused while it is read, not after."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import IO
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.types import Message

SMALL_FORM_BYTES = 16 * 1024
"""Parsed in less time than a thread takes; what everything but a list of paths or labels fits into."""

MAX_FORM_FIELDS = 32
MAX_PART_BYTES = 1024**2
_URLENCODED, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


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


async def text_form(
    request: Request, *, max_bytes: int, threads: anyio.CapacityLimiter | None = None
) -> dict[str, str]:
    """The fields of a form without files; of those of one name the last. Large ones are parsed in one of `threads`.

    Raises problems: 400 for too many fields, 413 for one that is too long, 415 for what is no such form.
    """
    if request.headers.get("content-type"):  # a form of no fields may go without
        _check_kind(request, _URLENCODED)
    content = await read_body(request, max_bytes=max_bytes)
    if len(content) <= SMALL_FORM_BYTES:
        return _fields_of(content)
    return await anyio.to_thread.run_sync(_fields_of, content, limiter=threads)


@asynccontextmanager
async def upload_form(
    request: Request, *, max_bytes: int, max_fields: int, max_part_bytes: int = MAX_PART_BYTES
) -> AsyncGenerator[FormData, None]:
    """A form with at most one file, which is closed afterwards. max_part_bytes: of a field that is no file.

    Raises problems: 400 for what is no form, 413 for one that is too long, 415 for one of another type.
    """
    if kind_of(request) in ("", _URLENCODED):  # holds no file, about which the caller has more to say
        yield FormData()
        return
    _check_kind(request, _MULTIPART)
    form = limited(request, max_bytes=max_bytes).form(max_files=1, max_fields=max_fields, max_part_size=max_part_bytes)
    async with form as fields:
        yield fields


def kind_of(request: Request) -> str:
    """The media type that a request says its body has, without parameters; empty where it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_kind(request: Request, expected: str) -> None:
    if kind_of(request) != expected:
        raise HTTPException(415, f"expected {expected}, got {kind_of(request) or 'no content type'}")
    # By the parser that reads the form: it would decode by any codec there is, those that can fail among them.
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8"):
        raise HTTPException(415, "expected a form in UTF-8; leave the charset out of its content type")


def _fields_of(content: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(content.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))
    except ValueError as error:
        raise HTTPException(400, f"expected a form of at most {MAX_FORM_FIELDS} fields, got more") from error


def _check_is_json(request: Request) -> None:
    if kind_of(request) != "application/json":
        raise HTTPException(415, f"expected application/json, got {kind_of(request) or 'no content type'}")


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
