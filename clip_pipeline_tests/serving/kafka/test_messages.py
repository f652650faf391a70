"""What a message means, without a broker."""

import pytest

from clip_pipeline.serving.kafka.messages import (
    Outgoing,
    Partition,
    PoisonError,
    Received,
    dead_letter,
    parse_upload,
    without_value,
)


def message(key: bytes | None = b"id-1", value: bytes | None = b"image", *headers):
    return Received(Partition("image-uploads", 2), 17, key, value, headers)


def parse(received):
    return parse_upload(received, max_bytes=1000)


def test_an_upload_is_key_value_and_headers():
    headers = (("filename", b"cat.jpg"), ("labels", "cat,Hündin".encode()), ("top_k", b"3"), ("trace", b"\xff"))
    upload = parse(message(b"id-1", b"image", *headers))
    assert (upload.request_id, upload.content) == ("id-1", b"image")
    assert (upload.filename, upload.labels, upload.top_k) == ("cat.jpg", "cat,Hündin", 3)


def test_headers_may_be_missing_and_labels_repeated():
    assert (parse(message()).filename, parse(message()).labels, parse(message()).top_k) == (None, None, None)
    assert parse(message(b"id", b"x", ("labels", b"cat"), ("labels", b"dog"))).labels == "cat,dog"
    assert parse(message(b"id", b"x", ("labels", None))).labels is None


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (message(None), "no key"),
        (message(b""), "no key"),
        (message(b"../etc"), "no request id"),
        (message("Ümläut".encode()), "no request id"),
        (message(b"x" * 129), "no request id"),
        (message(b"id", None), "no value"),
        (message(b"id", b""), "no value"),
        (message(b"id", b"x" * 1001), "1001 bytes, the limit is 1000"),
        (message(b"id", b"x", ("labels", b"\xff\xfe")), "labels is not UTF-8"),
        (message(b"id", b"x", ("filename", b"\xff")), "filename is not UTF-8"),
        (message(b"id", b"x", ("top_k", b"many")), "top_k"),
        (message(b"id", b"x", ("top_k", b"-1")), "top_k"),
        (message(b"id", b"x", ("top_k", "³".encode())), "top_k"),
        (message(b"id", b"x", ("top_k", b"9" * 5000)), "top_k"),
    ],
)
def test_what_can_never_be_a_request_is_poison_with_a_reason(received, reason):
    with pytest.raises(PoisonError, match=reason):
        parse(received)


def test_a_dead_letter_is_the_message_with_its_reason_and_where_it_was():
    letter = dead_letter(message(b"\xff", b"junk", ("filename", b"a"), ("filename", None)), "no ümläut", topic="dlq")
    assert (letter.topic, letter.key, letter.value) == ("dlq", b"\xff", b"junk")
    assert letter.headers[:2] == (("filename", b"a"), ("filename", None))
    assert dict(letter.headers[2:]) == {"reason": "no ümläut".encode(), "origin": b"image-uploads/2/17"}


def test_a_dead_letter_that_is_too_large_says_how_much_was_left_out():
    left = without_value(Outgoing("dlq", b"k", b"x" * 5000, (("reason", b"r"),)))
    assert left == Outgoing("dlq", b"k", None, (("reason", b"r"), ("omitted_bytes", b"5000")))
