"""What the controller of a deployment is, for workers to compare themselves with: its store and its versions."""

from collections.abc import Mapping
from importlib.metadata import version

from sqlalchemy import select, update

from clip_pipeline import __version__
from clip_pipeline.core.store import Store
from clip_pipeline.core.store_identity import ensure_store_id, store_id
from clip_pipeline.ledger.database import Ledger, insert_if_new, utc_now
from clip_pipeline.ledger.schema import deployment

STORE_ID, VERSION, DAGSTER_VERSION = "store_id", "version", "dagster_version"


def own_versions() -> dict[str, str]:
    """The versions of what runs in this process, by the names that the controller records them under."""
    return {VERSION: __version__, DAGSTER_VERSION: version("dagster")}


def recorded_deployment(ledger: Ledger) -> dict[str, str]:
    """What the controller recorded; empty before it did."""
    with ledger.read() as connection:
        rows = connection.execute(select(deployment.c.name, deployment.c.value)).tuples()
        return dict(rows.all())


def adopt_store(ledger: Ledger, store: Store) -> str:
    """This store is the deployment's, on a person's word; returns its id. One without an id gets the recorded one."""
    found = ensure_store_id(store, wanted=recorded_deployment(ledger).get(STORE_ID))
    _record(ledger, own_versions() | {STORE_ID: found})
    return found


def record_controller(ledger: Ledger, store: Store) -> str | None:
    """Record the versions of this process, and the store where none is recorded; what is wrong with it, or None."""
    recorded = recorded_deployment(ledger).get(STORE_ID)
    if recorded is None:
        adopt_store(ledger, store)
        return None
    _record(ledger, own_versions())
    return store_fault(store, recorded)


def store_fault(store: Store, recorded: str) -> str | None:
    """Why a store is not the recorded one, in words, or None where it is."""
    found = store_id(store)
    if found == recorded:
        return None
    is_what = "has no id" if found is None else f"is store {found[:8]}"
    return (
        f"{store.root} {is_what}, but the controller's is store {recorded[:8]}; mount the controller's store there. If "
        "it was moved or restored and this is right, say so on the controller with `clip-pipeline init`"
    )


def _record(ledger: Ledger, facts: Mapping[str, str]) -> None:
    known = recorded_deployment(ledger)
    changed = {name: value for name, value in facts.items() if known.get(name) != value}
    if not changed:
        return
    with ledger.write_rows() as connection:
        for name, value in changed.items():
            row = {"value": value, "recorded_at": utc_now()}
            if not connection.execute(insert_if_new(connection, deployment).values(name=name, **row)).rowcount:
                connection.execute(update(deployment).where(deployment.c.name == name).values(row))
