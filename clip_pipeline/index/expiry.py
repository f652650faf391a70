"""Old releases go, though nothing new is published: what they alone need can then go too."""

from datetime import UTC, datetime

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.release import read_release, release_numbers
from clip_pipeline.core.store import Store, discard
from clip_pipeline.index.publish import publishing_lock


def expired_releases(store: Store, encoder_key: str, *, before: datetime) -> list[int]:
    """The releases made before a moment, but for the current one, the one before it, and the newest of all.

    The one before may still be served, where the current one is damaged; the newest number must not be used twice.

    Raises:
        IntegrityError: a release cannot be read.
    """
    numbers = release_numbers(store, encoder_key)
    current = store.current_release_number(encoder_key)
    earlier = [number for number in numbers if current is not None and number < current]
    kept = {current, *earlier[-1:], *numbers[-1:]}
    # Nothing is current: the publisher died before it could say so, or somebody removed the pointer.
    candidates = [number for number in numbers if number not in kept] if current is not None else []
    return [number for number in candidates if _made_at(store, encoder_key, number) < before]


def expire_releases(store: Store, encoder_key: str, *, before: datetime) -> list[int]:
    """Remove the expired releases; returns their numbers.

    Raises:
        StoreError: a publisher is at work.
        IntegrityError: a release cannot be read.
    """
    with publishing_lock(store, encoder_key):
        expired = expired_releases(store, encoder_key, before=before)
        for number in expired:
            discard(store.release_dir(encoder_key, number))
    return expired


def _made_at(store: Store, encoder_key: str, number: int) -> datetime:
    try:
        made_at = datetime.fromisoformat(read_release(store, encoder_key, number).created_at)
    except NotFoundError:  # what is left of one that was being removed when its remover was killed
        return datetime.min.replace(tzinfo=UTC)
    return made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC)
