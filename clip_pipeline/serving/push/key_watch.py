"""Letting listeners go whose API key has ended: a connection is asked for its key only when it is opened."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from clip_pipeline.core.errors import StoreError
from clip_pipeline.serving.background import running
from clip_pipeline.serving.keys import KeyRing
from clip_pipeline.serving.push.bells import Bell
from clip_pipeline.serving.push.hub import Hub

KEYS_EVERY_S = 1.0


async def end_with_keys(hub: Hub, keys: KeyRing, bell: Bell) -> None:
    """Let listeners go once their keys are revoked or over, and those without one once there are keys; until canceled.

    A connection may stay open for days.
    """
    while True:
        await hub.anybody()
        bell.silence()
        # Older keys, or none, are what the ring has while the ledger cannot be read: asked again a moment later.
        with suppress(StoreError):
            hub.keep((await keys.known()).admit)
        await bell.rings(KEYS_EVERY_S)


@asynccontextmanager
async def watching_keys(hub: Hub, keys: KeyRing, *, bell: Bell) -> AsyncGenerator[None, None]:
    """Watch the keys of all listeners as long as the context is open."""
    async with running(end_with_keys(hub, keys, bell), name="watch-keys"):
        yield
