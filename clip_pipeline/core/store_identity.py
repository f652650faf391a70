"""The identity of a store: an id made once and kept in it, so that a wrong mount is told from the right one."""

import json
import uuid

from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.store import Store, create_file


def store_id(store: Store) -> str | None:
    """The id of this store, or None where it never got one.

    Raises:
        IntegrityError: the file is there but says nothing of the kind.
    """
    path = store.identity_path
    try:
        found = json.loads(path.read_text())["store_id"]
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} does not name a store ({error}); restore it from a backup") from error
    return str(found)


def ensure_store_id(store: Store, *, wanted: str | None = None) -> str:
    """The id of this store, made where it has none: the wanted one, else a new one."""
    found = store_id(store)
    if found is not None:
        return found
    text = json.dumps({"store_id": wanted or uuid.uuid4().hex}) + "\n"
    if create_file(store.identity_path, text.encode()):
        return str(json.loads(text)["store_id"])
    return ensure_store_id(store)  # another process was quicker
