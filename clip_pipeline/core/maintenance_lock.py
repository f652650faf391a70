"""One at a time: whoever deletes from the store, and whoever copies it as a whole."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager

from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.store import Store

_LOOK_EVERY_S = 0.2


@contextmanager
def maintenance_lock(store: Store, *, patience_s: float = 0.0) -> Generator[None, None, None]:
    """Be the only one to maintain or back up this store. The lock ends with the process, however that ends.

    Raises:
        StoreError: another process or thread still holds it after `patience_s`.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(store.maintenance_lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, store, give_up_at=time.monotonic() + patience_s)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, store: Store, *, give_up_at: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up_at:
                raise StoreError(
                    f"maintenance or a backup of {store.root} is under way; try again when it is done"
                ) from error
            time.sleep(_LOOK_EVERY_S)
        else:
            return
