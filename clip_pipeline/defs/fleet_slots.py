"""How many runs the workers of location `gpu` take at once, and the pool that lets so many start."""

import dagster as dg

from clip_pipeline.defs.fleet import FleetRunLauncher

LOCATION = "gpu"


def fleet_slots(instance: dg.DagsterInstance) -> int | None:
    """Slots of all workers that the fleet file names, None where there is no fleet."""
    configured = instance.get_ref().run_launcher_data if instance.is_persistent else None
    if configured is None or configured.class_name != FleetRunLauncher.__name__:
        return (
            None  # not made, only to be looked at: another launcher may want a cluster that this process cannot reach
        )
    launcher = instance.run_launcher
    return launcher.slots_of(LOCATION) if isinstance(launcher, FleetRunLauncher) else None


def fit_pool(instance: dg.DagsterInstance, pool: str) -> int:
    """How many runs the pool lets work at once, after a fleet, if there is one, has given it its number of slots.

    Without a fleet the limit that a person set stays. In a fleet a lower one leaves workers idle, and a higher one
    takes runs out of the queue for which there is no slot.
    """
    slots = fleet_slots(instance)
    storage = instance.event_log_storage
    limit = {found.name: found.limit for found in storage.get_pool_limits()}.get(pool)
    if slots and limit != slots:
        storage.set_concurrency_slots(pool, slots)
    return slots or limit or 1
