"""When a watch looks: at once when its bell rings, now and then without, never more than its pace allows."""

import asyncio
import contextlib
import time

import pytest

from clip_pipeline.serving.push import watch as watch_module
from clip_pipeline.serving.push.bells import Bell
from clip_pipeline.serving.push.events import Event
from clip_pipeline.serving.push.hub import End, Hub
from clip_pipeline.serving.push.watch import PER_WAIT, Pace, watching

NEVER_S = 60.0


class Pile:
    """A look at a list of events; notes when it was looked at."""

    topic = "pile"
    waited_s = 0.0

    def __init__(self, pace, *, takes_s=0.0, computes_s=0.0):
        self.pace = pace
        self.looked_at, self.waiting = [], []
        self.fault: Exception | None = None
        self._takes_s, self._computes_s = takes_s, computes_s

    def forget(self):
        self.waiting.clear()

    def changes(self):
        self.looked_at.append(time.monotonic())
        time.sleep(self._takes_s)
        until = time.thread_time() + self._computes_s
        while time.thread_time() < until:
            pass
        if self.fault is not None:
            raise self.fault
        found, self.waiting = self.waiting, []
        return found

    def standing(self):
        return []

    def between(self, since_s, until_s):  # noqa: ARG002 - as every look has it
        yield []


def event(n=0):
    return Event("pile", "a", n, "{}", is_final=False)


@contextlib.asynccontextmanager
async def scene(pile, *, is_wired=lambda: True, is_stopping=lambda: False):
    """A watch of the pile, primed, its bell and one listener."""
    hub, bell = Hub(), Bell(is_wired)
    async with watching(pile, hub, bell=bell, is_stopping=is_stopping) as watch:
        with hub.listening(topic="pile") as listener:
            await watch.primed()
            yield bell, listener


async def looks(pile, count):
    """Wait until the pile was looked at so often."""
    async with asyncio.timeout(20):
        while len(pile.looked_at) < count:  # noqa: ASYNC110 - it is looked at in a thread
            await asyncio.sleep(0.001)


def test_a_ring_has_the_watch_look_at_once():
    async def run():
        pile = Pile(Pace(NEVER_S, NEVER_S, per_look=0, longest_s=0))
        async with scene(pile) as (bell, listener):
            delays = []
            for n in range(5):
                pile.waiting.append(event(n))
                begun = time.monotonic()
                bell.ring()
                assert await listener.next(within_s=20) == event(n)
                delays.append(time.monotonic() - begun)
        return min(delays)

    assert asyncio.run(run()) < 0.1


@pytest.mark.parametrize("is_wired", [True, False])
def test_without_a_ring_it_looks_as_often_as_its_pace_says_for_a_bell_that_is_wired_or_not(is_wired):
    pace = Pace(NEVER_S, 0.01, per_look=0, longest_s=0) if is_wired else Pace(0.01, NEVER_S, per_look=0, longest_s=0)

    async def run():
        pile = Pile(pace)
        async with scene(pile, is_wired=lambda: is_wired):
            await looks(pile, 4)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("cost", "least_s"), [({"takes_s": 0.05}, 0.05 * (1 + PER_WAIT)), ({"computes_s": 0.02}, 0.02 * (1 + 9))]
)
def test_a_bell_that_never_stops_has_it_look_no_more_than_its_pace_allows(cost, least_s):
    async def run():
        pile = Pile(Pace(NEVER_S, NEVER_S, per_look=9, longest_s=1), **cost)
        async with scene(pile) as (bell, _):
            async with asyncio.timeout(20):
                while len(pile.looked_at) < 4:
                    bell.ring()
                    await asyncio.sleep(0.001)
        return [after - before for before, after in zip(pile.looked_at, pile.looked_at[1:], strict=False)]

    assert min(asyncio.run(run())) >= least_s


def test_a_ring_while_it_looks_has_it_look_again():
    async def run():
        pile = Pile(Pace(NEVER_S, NEVER_S, per_look=0, longest_s=0), takes_s=0.2)
        async with scene(pile) as (bell, _):
            bell.ring()
            await looks(pile, 2)
            bell.ring()  # the look has begun: what changed just now it may not see
            await looks(pile, 3)

    asyncio.run(run())


def test_a_fault_is_waited_out_and_then_looked_past(monkeypatch):
    monkeypatch.setattr(watch_module, "FAULT_PAUSE_S", 0.01)

    async def run():
        pile = Pile(Pace(NEVER_S, NEVER_S, per_look=0, longest_s=0))
        pile.fault = OSError("away")
        async with scene(pile) as (_, listener):
            await looks(pile, 3)
            pile.waiting.append(event())
            pile.fault = None
            return await listener.next(within_s=20)

    assert asyncio.run(run()) == event()


def test_a_service_that_is_about_to_stop_lets_its_listeners_go_between_two_looks():
    async def run():
        pile, stopping = Pile(Pace(NEVER_S, NEVER_S, per_look=0, longest_s=0)), []
        async with scene(pile, is_stopping=lambda: bool(stopping)) as (_, listener):
            stopping.append(True)
            return await listener.next(within_s=20)

    assert asyncio.run(run()) is End.STOPPING
