"""A fleet as its rows in the ledger say: every state that a worker can be seen in."""

from dataclasses import replace

from clip_pipeline.ledger.workers import (
    WorkerCard,
    WorkerReport,
    WorkerState,
    beat,
    leave_word,
    register_worker,
)

CARD = WorkerCard(
    "gpu01", 4000, "gpu01", "cuda:0, NVIDIA H200", "gpu01", 77, "clip-ViT-L-14", "f" * 64, "0.1.0", "1.13.27"
)
RUN_ID = "5f0c2c1e-8f0e-4b6a-9a57-0d8f5b2f3a11"
LONG_AGO = "2026-01-31T23:59:01.123Z"


def enter(world, host, *, report=None, **fields):
    """A worker that comes and says how it is."""
    card = replace(CARD, host=host, machine=host, **({"name": host} | fields))
    session = register_worker(world.ledger, card)
    if report is not None:
        beat(world.ledger, card.address, session=session, report=report)
    return card.address, session


def lose(world, address):
    """The last word of a worker was long ago."""
    with world.ledger.write() as connection:
        connection.exec_driver_sql(f"UPDATE workers SET seen_at = '{LONG_AGO}' WHERE address = '{address}'")


def enter_all(world):
    """One worker in each state that a row can be in."""
    enter(world, "gpu01", report=WorkerReport(WorkerState.BUSY, (RUN_ID,), 1843.25))
    enter(world, "gpu02", report=WorkerReport(WorkerState.READY))
    enter(world, "gpu03", report=WorkerReport(WorkerState.STARTING, detail="its code server does not answer"))
    enter(world, "gpu04", report=WorkerReport(WorkerState.DRAINING, ("another-run",), 12.5), name="the old one")
    lose(world, enter(world, "gpu05", report=WorkerReport(WorkerState.BUSY, ("lost-run",), 500.0))[0])
    address, session = enter(world, "gpu06", gpu="cpu, torch 2.13.0")
    leave_word(world.ledger, address, session=session)


def write_fleet(path, *hosts):
    """A fleet file that names these hosts."""
    entries = "".join(f"  - {{host: {host}, port: 4000, slots: 2}}\n" for host in hosts)
    path.write_text(f"gpu:\n{entries}")
    return path
