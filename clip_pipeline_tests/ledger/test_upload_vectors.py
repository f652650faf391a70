"""Vectors kept by the content of the upload they are of."""

import numpy as np
import pytest

from clip_pipeline.ledger.analysis_requests import delete_analysis, forget_upload, submit_analysis
from clip_pipeline.ledger.upload_vectors import IndexedImage, indexed_images, keep_vectors, stored_vectors
from clip_pipeline_tests.ledger.analyses import digest, upload
from clip_pipeline_tests.ledger.steps import embed, inspect, plan, register

CAT = digest("cat")


def test_a_vector_is_read_as_it_was_kept_and_for_its_encoder_only(ledger):
    submit_analysis(ledger, upload())
    vector = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    keep_vectors(ledger, {CAT: vector}, fingerprint="a")
    found = stored_vectors(ledger, [digest("dog"), CAT], fingerprint="a")
    assert list(found) == [CAT]
    assert (found[CAT].dtype, found[CAT].shape) == (np.float16, (64,))
    np.testing.assert_array_equal(found[CAT], vector.astype(np.float16))
    assert stored_vectors(ledger, [CAT], fingerprint="b") == {}


def test_a_vector_that_is_kept_already_stays(ledger):
    submit_analysis(ledger, upload())
    keep_vectors(ledger, {CAT: np.zeros(4)}, fingerprint="a")
    keep_vectors(ledger, {CAT: np.ones(4)}, fingerprint="a")
    keep_vectors(ledger, {CAT: np.ones(4)}, fingerprint="b")
    assert [stored_vectors(ledger, [CAT], fingerprint=f)[CAT][0] for f in "ab"] == [0, 1]


def test_no_vector_outlives_its_upload(ledger):
    request_id = submit_analysis(ledger, upload())
    keep_vectors(ledger, {CAT: np.zeros(4)}, fingerprint="a")
    delete_analysis(ledger, request_id)
    forget_upload(ledger, CAT, remove=lambda: None)
    assert stored_vectors(ledger, [CAT], fingerprint="a") == {}
    # A run that was still at work on it.
    keep_vectors(ledger, {CAT: np.zeros(4)}, fingerprint="a")
    assert stored_vectors(ledger, [CAT], fingerprint="a") == {}


@pytest.mark.parametrize("count", [0, 2000])
def test_any_number_of_contents_can_be_asked_for(ledger, count):
    names = [digest(str(i)) for i in range(count)]
    assert stored_vectors(ledger, names, fingerprint="a") == {}
    assert indexed_images(ledger, names) == {}


def test_images_with_a_vector_are_found_by_content_with_the_batch_that_holds_it(ledger):
    contents = {"/a": "cat", "/b": "dog", "/copy": "cat"}
    register(ledger, *contents)
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, contents)
    wanted = [CAT, digest("dog"), digest("bird")]
    assert indexed_images(ledger, wanted) == {}
    embed(ledger, batch, rows)
    assert indexed_images(ledger, wanted) == {row.sha256: IndexedImage(row.image_id, batch.number) for row in rows}
