"""Submitting and deleting analysis requests: nothing twice, and no file removed that is needed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from clip_pipeline.core.errors import ConflictError, NotFoundError, QueryError
from clip_pipeline.ledger.analysis_lookup import analysis_of, recent_analyses
from clip_pipeline.ledger.analysis_queue import complete, mark_delivered
from clip_pipeline.ledger.analysis_requests import (
    delete_analysis,
    expired_analyses,
    forget_upload,
    submit_analysis,
    upload_is_needed,
)
from clip_pipeline.ledger.database import iso_utc
from clip_pipeline.ledger.upload_vectors import keep_vectors, stored_vectors
from clip_pipeline_tests.ledger.analyses import digest, done, submit, take, upload

SOON = iso_utc(datetime.now(UTC) + timedelta(days=1))


def test_the_same_request_submitted_again_is_the_same_request(ledger):
    new = upload()
    assert submit_analysis(ledger, new, request_id="order-7") == "order-7"
    # The label set in use and the file's name may have changed, what was asked has not.
    again = replace(new, filename="other.png", label_set="birds", label_set_version=2)
    assert submit_analysis(ledger, again, request_id="order-7") == "order-7"
    (only,) = recent_analyses(ledger)
    assert (only.filename, only.label_set) == ("cat.png", None)


@pytest.mark.parametrize(
    "change", [{"sha256": digest("dog")}, {"labels": ("dog", "cat")}, {"labels": None}, {"top_k": None}]
)
def test_an_id_used_for_something_else_is_a_conflict(ledger, change):
    submit_analysis(ledger, upload(), request_id="order-7")
    with pytest.raises(ConflictError, match="another upload"):
        submit_analysis(ledger, replace(upload(), **change), request_id="order-7")
    assert len(recent_analyses(ledger)) == 1


@pytest.mark.parametrize("request_id", ["", "a b", "-a", "a/b", "x" * 129, "ä", "a\n"])
def test_an_id_that_no_address_can_hold_is_refused(ledger, request_id):
    with pytest.raises(QueryError, match="request id"):
        submit_analysis(ledger, upload(), request_id=request_id)


def test_requests_without_an_id_get_one_each(ledger):
    assert len({submit_analysis(ledger, upload()) for _ in range(5)}) == 5


def test_one_id_submitted_by_many_threads_at_once_is_one_request(ledger):
    together = threading.Barrier(8)

    def submit_same(_):
        together.wait()
        return submit_analysis(ledger, upload(), request_id="order-7")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(submit_same, range(8))) == {"order-7"}
    assert len(recent_analyses(ledger)) == 1


def test_a_deleted_request_is_unknown(ledger):
    (request_id,) = submit(ledger, 1)
    assert delete_analysis(ledger, request_id) == digest("image 0")
    for look in (analysis_of, delete_analysis):
        with pytest.raises(NotFoundError, match="was removed since"):
            look(ledger, request_id)


def test_an_upload_is_forgotten_with_the_last_request_that_refers_to_it(ledger, tmp_path):
    file = tmp_path / "upload"
    file.touch()
    first, second = (submit_analysis(ledger, upload()) for _ in range(2))
    assert delete_analysis(ledger, first) == digest("cat")
    assert upload_is_needed(ledger, digest("cat"))
    assert not forget_upload(ledger, digest("cat"), remove=file.unlink)
    assert file.exists()
    delete_analysis(ledger, second)
    assert forget_upload(ledger, digest("cat"), remove=file.unlink)
    assert not file.exists()


def test_an_upload_that_cannot_be_removed_keeps_its_vector(ledger):
    def refuse():
        raise PermissionError

    request_id = submit_analysis(ledger, upload())
    keep_vectors(ledger, {digest("cat"): np.zeros(4)}, fingerprint="a")
    delete_analysis(ledger, request_id)
    with pytest.raises(PermissionError):
        forget_upload(ledger, digest("cat"), remove=refuse)
    assert list(stored_vectors(ledger, [digest("cat")], fingerprint="a")) == [digest("cat")]


def test_an_upload_submitted_while_it_is_forgotten_is_there_in_the_end(ledger, tmp_path):
    file, unwanted, stopped = tmp_path / "upload", [], threading.Event()

    def submit_often():
        for _ in range(40):
            file.touch()
            request_id = submit_analysis(ledger, upload())
            if not file.exists():
                file.touch()
            # From here on the request protects it, whatever is tried.
            assert not forget_upload(ledger, digest("cat"), remove=file.unlink)
            assert file.exists()
            unwanted.append(request_id)

    def forget_often():
        while not stopped.is_set() or unwanted:
            if unwanted:
                delete_analysis(ledger, unwanted.pop())
            forget_upload(ledger, digest("cat"), remove=lambda: file.unlink(missing_ok=True))

    with ThreadPoolExecutor(2) as pool:
        forgetting = pool.submit(forget_often)
        try:
            pool.submit(submit_often).result()
        finally:
            stopped.set()
        forgetting.result()
    assert (file.exists(), recent_analyses(ledger)) == (False, [])


def test_only_finished_requests_expire_and_none_whose_result_is_still_to_be_told(ledger):
    ids = [*submit(ledger, 3), *submit(ledger, 2, source="kafka")]
    take(ledger)
    complete(ledger, "run", [done(seq) for seq in (1, 2, 4, 5)])
    mark_delivered(ledger, [5])
    expired = expired_analyses(ledger, SOON, most=10)
    assert {one.request_id for one in expired} == {ids[0], ids[1], ids[4]}
    assert expired[0].sha256 == analysis_of(ledger, expired[0].request_id).sha256
    assert len(expired_analyses(ledger, SOON, most=2)) == 2
    assert expired_analyses(ledger, analysis_of(ledger, ids[0]).updated_at, most=10) == []
