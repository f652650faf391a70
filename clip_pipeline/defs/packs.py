"""Which waiting batches share a run.

The start of a run (a process, torch, the encoder's weights) takes some ten seconds, whether ten images follow or ten
thousand. Batches that follow one another therefore share one, as many as the workers that are to share the work allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from clip_pipeline.defs.partitions import MAX_BATCHES_PER_RUN
from clip_pipeline.defs.work import Work

RUNS_OF_A_SLOT = 2

PACK_S = 300.0
"""A pack that works for longer holds up what is more urgent; a much shorter one pays for its start too often."""

MOST_JOBS = 100
"""Every job of a pack is a tag on its run."""


@dataclass(frozen=True, slots=True)
class WaitingBatch:
    """A batch that awaits its run. position: its place in the order of partitions, which a run takes a stretch of."""

    work: Work
    position: int
    images: int


def most_images_of_a_pack(batch_size: int, *, images_per_s: float) -> int:
    """One full batch, or as many images as a worker of that rate embeds in `PACK_S`, whichever is more.

    A GPU may be done with a full batch in half the time that its run took to start.
    """
    return max(batch_size, int(images_per_s * PACK_S))


def divide_into_packs(waiting: Sequence[WaitingBatch], *, slots: int, most_images: int) -> list[list[Work]]:
    """The batches of each run, in the order in which the batches were given, most urgent first.

    A pack is a stretch of neighbours of one priority: what is more urgent never waits for what is less. It holds at
    most `most_images` images, and no more than its share where `slots` runs can work at once, so that no worker
    stands idle while another has a pack to work through. A batch beyond either limit has a run to itself.
    """
    packs: list[list[WaitingBatch]] = []
    for batch in waiting:
        rivals = [other.images for other in waiting if other.work.priority == batch.work.priority]
        limit = min(most_images, ceil(sum(rivals) / max(1, slots)))
        if packs and _fits(packs[-1], batch, limit):
            packs[-1].append(batch)
        else:
            packs.append([batch])
    return [[batch.work for batch in pack] for pack in packs]


def due_packs(packs: Sequence[list[Work]], *, unfinished: Sequence[int], slots: int) -> list[list[Work]]:
    """Those of the packs that are worth a run now. unfinished: the priorities of the runs that wait or work.

    One run in work and one in the queue keep a slot busy. What is beyond that would only wait in the queue, where no
    other batch can join it any more; but it is not held back by runs that are less urgent.
    """
    due: list[list[Work]] = []
    ahead = list(unfinished)
    for pack in packs:
        priority = pack[0].priority
        if sum(other >= priority for other in ahead) < RUNS_OF_A_SLOT * slots:
            due.append(pack)
            ahead.append(priority)
    return due


def _fits(pack: Sequence[WaitingBatch], batch: WaitingBatch, limit: int) -> bool:
    last = pack[-1]
    jobs = {job_id for member in (*pack, batch) for job_id in member.work.job_ids}
    return (
        batch.position == last.position + 1
        and batch.work.priority == last.work.priority
        and sum(member.images for member in pack) + batch.images <= limit
        and len(pack) < MAX_BATCHES_PER_RUN
        and len(jobs) <= MOST_JOBS
    )
