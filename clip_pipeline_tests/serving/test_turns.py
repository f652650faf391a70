"""Many uploads at once: they wait for one another, up to a number, and nobody else waits for them."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import pytest
from PIL import Image

from clip_pipeline.serving.query_images import QueryImages
from clip_pipeline.serving.services import QUERY_UPLOAD_THREADS, UPLOAD_THREADS
from clip_pipeline.serving.turns import MOST_WAITING
from clip_pipeline.serving.uploads import Uploads
from clip_pipeline_tests.fakes import COLOURS

TOO_MANY = 5
PATIENCE_S = 10


def held(monkeypatch, owner, name):
    """Let no call of a method begin before the event that is returned."""
    may_begin, real = threading.Event(), getattr(owner, name)

    def slowly(*args, **options):
        assert may_begin.wait(PATIENCE_S)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, slowly)
    return may_begin


@pytest.mark.parametrize(
    ("path", "owner", "method", "threads", "taken"),
    [
        ("/api/v1/search", QueryImages, "pixels", QUERY_UPLOAD_THREADS, 200),
        ("/ui/search", QueryImages, "pixels", QUERY_UPLOAD_THREADS, 200),
        ("/analyze-image", Uploads, "accept", UPLOAD_THREADS, 202),
    ],
)
def test_uploads_that_wait_keep_no_text_waiting_and_too_many_are_sent_away(
    world, client, monkeypatch, path, owner, method, threads, taken
):
    """Each upload held one of the threads of all searches while it waited for the one process that decodes."""
    world.index({f"/photos/{name}.jpg": f"a {name} thing" for name in COLOURS})
    assert client.get("/api/v1/search?q=red").status_code == 200  # the encoder is there
    may_begin = held(monkeypatch, owner, method)
    image = io.BytesIO()
    Image.new("RGB", (40, 30), COLOURS["red"]).save(image, "PNG")

    def send(_):
        return client.post(path, files={"file": ("red.png", image.getvalue())}, timeout=2 * PATIENCE_S)

    most = threads + MOST_WAITING
    with ThreadPoolExecutor(most + TOO_MANY) as people:
        answers = [people.submit(send, n) for n in range(most + TOO_MANY)]
        sent_away = [answer.result() for answer in islice(as_completed(answers, PATIENCE_S), TOO_MANY)]
        assert client.get("/api/v1/search?q=blue", timeout=5).status_code == 200
        may_begin.set()
        statuses = [answer.result().status_code for answer in answers]
    assert [answer.status_code for answer in sent_away] == [503] * TOO_MANY
    assert {answer.headers["retry-after"] for answer in sent_away} == {"5"}
    assert (statuses.count(taken), statuses.count(503)) == (most, TOO_MANY)
