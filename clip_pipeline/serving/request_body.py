"""Bodies of a bounded size: a request that goes on for longer is refused while it is read, not after."""

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import Message


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
