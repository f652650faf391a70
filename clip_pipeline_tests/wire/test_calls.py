"""Requests as they are built."""

from pathlib import Path

import pytest

from clip_pipeline.wire import calls
from clip_pipeline.wire.calls import Question


def body_of_search(question, **limits):
    return calls.search(question, **{"k": 10, "min_score": None, "filter": None} | limits).content


def test_a_submission_has_a_key_of_its_own_or_the_one_given():
    def key(given):
        call = calls.add_images([Path("/a.jpg")], priority=0, recursive_dirs=(), idempotency_key=given)
        assert call.content["json"] == {"image_paths": ["/a.jpg"], "priority": 0}
        return call.content["headers"]["Idempotency-Key"]

    assert key("mine") == "mine"
    assert key(None) != key(None)


def test_one_text_where_paths_are_expected_is_a_mistake_that_is_told():
    with pytest.raises(TypeError, match="put it into a list"):
        calls.delete_images("/a.jpg")


def test_an_id_cannot_leave_its_place_in_the_address():
    assert calls.job("../stats?x=1").path == "/api/v1/index/status/..%2Fstats%3Fx%3D1"


def test_a_search_names_only_what_was_given():
    assert body_of_search(Question(text="red")) == {"json": {"text": "red", "k": 10}}
    assert body_of_search(Question(vector=(1, 2), fingerprint="f"), min_score=0.0, filter={"format": "PNG"}) == {
        "json": {"vector": [1.0, 2.0], "fingerprint": "f", "k": 10, "min_score": 0.0, "filter": {"format": "PNG"}}
    }


def test_an_upload_carries_its_limits_as_form_fields(tmp_path):
    file = tmp_path / "query.png"
    file.write_bytes(b"content")
    content = body_of_search(Question(file=file), k=3, filter={"format": "PNG"})
    assert content == {
        "files": {"file": ("query.png", b"content", "image/png")},
        "data": {"k": "3", "filter": '{"format": "PNG"}'},
    }


@pytest.mark.parametrize("question", [Question(), Question(text="red", vector=[1.0])])
def test_a_search_asks_exactly_one_question(question):
    with pytest.raises(ValueError, match="exactly one of text, file, image_path and vector"):
        body_of_search(question)
