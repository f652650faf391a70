"""Preparing Dagster's instance before anything uses it: its storage is made, its pool limits are set explicitly.

A default limit is not enough: with one, four runs were seen to pass a limit of two.
"""

from collections.abc import Mapping

import dagster as dg

POOL_LIMITS: Mapping[str, int] = {"gpu": 1, "inspect": 1, "index": 1, "analysis": 1, "labels": 1, "maintenance": 1}
"""Runs that may hold a slot of the pool at once, on one machine. One run fills it: each uses every core, or, in
maintenance, has the store to itself."""


def set_pool_limits(instance: dg.DagsterInstance, limits: Mapping[str, int]) -> list[str]:
    """Give each pool its limit, unless a person gave it one in the UI; returns the pools that had none."""
    storage = instance.event_log_storage
    explicit = {pool.name for pool in storage.get_pool_limits() if not pool.from_default}
    missing = [name for name in limits if name not in explicit]
    for name in missing:
        storage.set_concurrency_slots(name, limits[name])
    return missing


def prepare_instance() -> list[str]:
    """Prepare the instance that DAGSTER_HOME names; returns the pools that had no limit before."""
    with dg.DagsterInstance.get() as instance:
        return set_pool_limits(instance, POOL_LIMITS)


def reach_instance() -> str:
    """What keeps the runs of the instance that DAGSTER_HOME names, after having asked it. Raises as its driver does."""
    with dg.DagsterInstance.get() as instance:
        instance.get_run_ids(limit=1)
        return type(instance.run_storage).__name__


if __name__ == "__main__":
    prepare_instance()
