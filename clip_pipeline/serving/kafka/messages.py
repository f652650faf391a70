"""What a Kafka message means: an upload with what is asked of it, or poison with the reason. No client in here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from clip_pipeline.core.errors import QueryError
from clip_pipeline.ledger.analysis_requests import can_be_request_id

Header: TypeAlias = tuple[str, bytes | None]


class PoisonError(QueryError):
    """A message that can never become a request, however often it is read."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it was read."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class UploadMessage:
    """An upload and what is asked of it, as it came: name, labels and content are checked by whoever takes it in.

    labels: comma separated; None for those of the label set in use. top_k: None for all.
    """

    request_id: str
    content: bytes
    filename: str | None
    labels: str | None
    top_k: int | None


def parse_upload(message: Received, *, max_bytes: int) -> UploadMessage:
    """The upload in a message; whether its content is an image is not looked at.

    Raises:
        PoisonError: there is none, or it cannot be understood.
    """
    if not message.value:
        raise PoisonError("the message has no value; it must hold the bytes of an image")
    if len(message.value) > max_bytes:
        raise PoisonError(f"the image has {len(message.value)} bytes, the limit is {max_bytes}")
    filenames, labels = (_texts(message.headers, name) for name in ("filename", "labels"))
    return UploadMessage(
        _request_id(message.key),
        message.value,
        filenames[-1] if filenames else None,
        ",".join(labels) if labels else None,
        _top_k(message.headers),
    )


def dead_letter(message: Received, reason: str, *, topic: str) -> Outgoing:
    """The message as it came, with the headers `reason` and `origin` (topic, partition, offset) after its own."""
    origin = f"{message.partition.topic}/{message.partition.number}/{message.offset}"
    added: Sequence[Header] = (("reason", reason.encode()), ("origin", origin.encode()))
    return Outgoing(topic, message.key, message.value, (*message.headers, *added))


def without_value(message: Outgoing) -> Outgoing:
    """The same without its value, which the broker would not take; header `omitted_bytes` tells of how many."""
    omitted = str(len(message.value or b"")).encode()
    return Outgoing(message.topic, message.key, None, (*message.headers, ("omitted_bytes", omitted)))


def _request_id(key: bytes | None) -> str:
    if not key:
        raise PoisonError("the message has no key; it must be the request id")
    text = key.decode("ascii", errors="replace")
    if not can_be_request_id(text):
        raise PoisonError(
            "the key is no request id: expected 1 to 128 letters, digits, dots, colons, dashes and underscores that "
            f"start with a letter or digit, got {text[:40]!a}"
        )
    return text


def _top_k(headers: Sequence[Header]) -> int | None:
    given = _texts(headers, "top_k")
    if not given:
        return None
    if not (given[-1].isascii() and given[-1].isdigit() and len(given[-1]) <= 9):
        raise PoisonError(f"expected a whole number in header top_k, got {given[-1][:40]!a}")
    return int(given[-1])


def _texts(headers: Sequence[Header], name: str) -> list[str]:
    try:
        return [value.decode() for key, value in headers if key == name and value is not None]
    except UnicodeDecodeError:
        raise PoisonError(f"header {name} is not UTF-8") from None
