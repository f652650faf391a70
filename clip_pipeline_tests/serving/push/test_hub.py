"""Fan-out: who hears what, and what happens to those who do not listen fast enough."""

import asyncio

import pytest

from clip_pipeline.serving.push.events import Event
from clip_pipeline.serving.push.hub import End, Hub, TooManyListenersError


def event(key, topic="job", n=0):
    return Event(topic, key, n, f"{n}", is_final=False)


async def heard(listener):
    """All that waits in the queue."""
    found = []
    while isinstance(one := await listener.next(within_s=0), Event):
        found.append((one.topic, one.key, one.moment_ms))
    return found, one


def test_a_listener_hears_what_it_asked_about_and_nothing_else():
    async def scene():
        hub = Hub()
        with (
            hub.listening() as everything,
            hub.listening(topic="job") as jobs,
            hub.listening(topic="job", key="a") as a,
        ):
            for one in (event("a"), event("b"), event("a", topic="analysis")):
                hub.publish(one)
            return [[(t, k) for t, k, _ in (await heard(listener))[0]] for listener in (everything, jobs, a)]

    assert asyncio.run(scene()) == [
        [("job", "a"), ("job", "b"), ("analysis", "a")], [("job", "a"), ("job", "b")], [("job", "a")],
    ]  # fmt: skip


def test_a_listener_too_far_behind_is_let_go_and_keeps_nothing_while_the_others_hear_all():
    async def scene():
        hub = Hub(queued_events=3)
        with hub.listening() as slow, hub.listening() as quick:
            quickly = []
            for n in range(10):
                hub.publish(event("a", n=n))
                quickly += (await heard(quick))[0]
            return await heard(slow), len(slow._waiting), [n for _, _, n in quickly]

    (slowly, end), kept, quickly = asyncio.run(scene())
    assert (slowly, end, kept) == ([], End.SLOW, 0)
    assert quickly == list(range(10))


def test_when_the_service_stops_listeners_hear_what_waits_and_then_the_end():
    async def scene():
        hub = Hub()
        with hub.listening() as early:
            hub.publish(event("a", n=1))
            hub.end(End.STOPPING)
            with hub.listening() as late:
                return await heard(early), await heard(late)

    assert asyncio.run(scene()) == (([("job", "a", 1)], End.STOPPING), ([], End.STOPPING))


def test_one_listener_too_many_is_refused_and_room_comes_back_when_another_leaves():
    async def scene():
        hub = Hub(most_listeners=1)
        with hub.listening(), pytest.raises(TooManyListenersError, match="try again later"), hub.listening():
            pass
        with hub.listening():
            assert hub.listeners == 1
        return hub.listeners

    assert asyncio.run(scene()) == 0


def test_an_event_wakes_a_listener_that_waits():
    async def scene():
        hub = Hub()
        with hub.listening() as listener:
            waiting = asyncio.create_task(listener.next(within_s=20))
            await asyncio.sleep(0)
            hub.publish(event("a"))
            return await waiting

    assert asyncio.run(scene()) == event("a")
