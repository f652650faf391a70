"""Taking uploads in, whichever way they come."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip_pipeline.core.errors import ConflictError, QueryError, StoreError
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.ledger.analysis_lookup import analysis_stats
from clip_pipeline.ledger.analysis_requests import submit_analysis
from clip_pipeline.serving import uploads as uploads_module
from clip_pipeline.serving.queries import InvalidFieldError, UndecodableQueryError
from clip_pipeline.serving.uploads import Asked, Uploads, clean_filename
from clip_pipeline_tests.defs.uploads import picture

CAT = Asked("cli", "cat.png", labels=["cat"])


@pytest.fixture
def uploads(world):
    opened = Uploads(world.store, world.ledger, ImageLimits(max_bytes=10_000))
    yield opened
    opened.close()


def files_of(world):
    return {path.name: path.read_bytes() for path in world.store.uploads_dir.rglob("*") if path.is_file()}


def test_bytes_a_path_and_an_open_file_are_the_same_upload(world, uploads, tmp_path):
    content, path = picture("red"), tmp_path / "red.png"
    path.write_bytes(content)
    taken = [uploads.accept(given, CAT) for given in (content, path, io.BytesIO(content))]
    assert len({one.sha256 for one in taken}) == 1
    assert len({one.request_id for one in taken}) == 3
    assert files_of(world) == {taken[0].sha256: content}
    assert path.read_bytes() == content


def test_what_cannot_be_taken_in_leaves_neither_file_nor_request(world, uploads, tmp_path):
    refused = [
        (b"no image", CAT, UndecodableQueryError),
        (b"", CAT, UndecodableQueryError),
        (bytes(10_001), CAT, UndecodableQueryError),
        (tmp_path / "missing.png", CAT, FileNotFoundError),
        (picture("red"), Asked("kafka", request_id="not/an id"), QueryError),
        (picture("red"), Asked("api", labels=[]), InvalidFieldError),
        (picture("red"), Asked("api", top_k=0), InvalidFieldError),
    ]
    for content, asked, error in refused:
        with pytest.raises(error):
            uploads.accept(content, asked)
    assert (files_of(world), analysis_stats(world.ledger).total) == ({}, 0)


def test_a_refused_repetition_removes_only_what_it_brought(world, uploads):
    first = uploads.accept(picture("red"), Asked("kafka", labels=["cat"], request_id="one"))
    for colour in ("red", "blue"):
        with pytest.raises(ConflictError):
            uploads.accept(picture(colour), Asked("kafka", labels=["dog"], request_id="one"))
    assert list(files_of(world)) == [first.sha256]


def test_an_upload_that_was_forgotten_between_file_and_request_is_put_back(world, uploads, monkeypatch):
    """The file of an earlier request goes when that is deleted, just as a new request finds it in its place."""
    earlier = uploads.accept(picture("red"), CAT)

    def delete_earlier_first(ledger, new, *, request_id):
        uploads.delete(earlier.request_id)
        return submit_analysis(ledger, new, request_id=request_id)

    monkeypatch.setattr(uploads_module, "submit_analysis", delete_earlier_first)
    later = uploads.accept(picture("red"), CAT)
    assert files_of(world) == {later.sha256: picture("red")}


def test_requests_that_come_and_go_at_once_leave_the_file_for_those_that_stayed(world, uploads):
    def come_and_go(_):
        for _ in range(15):
            uploads.delete(uploads.accept(picture("red"), CAT).request_id)
        return uploads.accept(picture("red"), CAT).sha256

    with ThreadPoolExecutor(4) as threads:
        (sha256,) = set(threads.map(come_and_go, range(4)))
    assert files_of(world) == {sha256: picture("red")}
    assert analysis_stats(world.ledger).total == 4


def test_a_store_that_cannot_be_written_is_an_error_of_the_store(world, uploads):
    world.store.root.mkdir(parents=True, exist_ok=True)
    world.store.uploads_dir.write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        uploads.accept(picture("red"), CAT)
    assert analysis_stats(world.ledger).total == 0


def test_only_old_temporary_files_are_swept(world, uploads):
    world.store.uploads_dir.mkdir(parents=True)
    old, new = (world.store.uploads_dir / name for name in (".tmp-upload-old", ".tmp-upload-new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    kept = uploads.accept(picture("red"), CAT)
    assert uploads.sweep() == 1
    assert set(files_of(world)) == {new.name, kept.sha256}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\Katze.png", "Katze.png"),
        ("a\0b\n\x1b[31mc.png", "ab[31mc.png"),
        ("exe.\u202egnp.png", "exe.gnp.png"),
        ("\ud800cat.png", "cat.png"),
        ("e\u0301te\u0301.png", "\u00e9t\u00e9.png"),
        ("猫🐈.png", "猫🐈.png"),
        ("x" * 300, "x" * 255),
        *[(nothing, "upload") for nothing in (None, "", "  ", "..", "/", "a/", "\0")],
    ],
)
def test_a_file_name_is_shown_without_folders_and_control_characters(given, shown):
    assert clean_filename(given) == shown
