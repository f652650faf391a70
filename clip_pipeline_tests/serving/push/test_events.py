"""Event ids: text, order, and what is not one."""

import pytest

from clip_pipeline.serving.push.events import Event, EventId


def test_an_id_survives_the_way_to_the_client_and_back():
    assert EventId.parse(str(EventId(1_763_721_354_678, 3))) == EventId(1_763_721_354_678, 3)


@pytest.mark.parametrize("text", ["", "7", "x-1", "1-", "-1-1", "1-2-3", "٣-1", "9" * 40 + "-0"])
def test_a_text_that_is_no_id_of_ours_is_none(text):
    assert EventId.parse(text) is None


def test_ids_of_one_stream_only_rise():
    last, seen = None, []
    for moment in (5, 5, 4, 9, 9, 2):
        last = EventId(moment).after(last)
        seen.append(last)
    assert seen == sorted(set(seen))
    assert [i.moment_ms for i in seen] == [5, 5, 5, 9, 9, 9]


def test_a_frame_is_one_event_by_the_standard():
    event = Event("job", "idx_1", 7, '{"job_id":"idx_1"}', is_final=False)
    assert event.frame(EventId(7)) == b'event: job\nid: 7-0\ndata: {"job_id":"idx_1"}\n\n'
