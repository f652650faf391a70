"""Events as they are pushed, and the ids by which a client that reconnects says where it was.

An id names a moment in the ledger's own clock, not a place in a list in memory: that is why it means the same after
a restart. See `watch` for what is promised about it.
"""

import re
from dataclasses import dataclass

_ID = re.compile(r"(\d{1,15})-(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class EventId:
    """`1763721354678-3`: milliseconds since 1970 and a number that keeps ids of one moment apart."""

    moment_ms: int
    number: int = 0

    def __str__(self) -> str:
        return f"{self.moment_ms}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> "EventId | None":
        """The id, or None where the text is none of ours."""
        match = _ID.fullmatch(text.strip())
        return cls(int(match[1]), int(match[2])) if match else None

    def after(self, last: "EventId | None") -> "EventId":
        """This id, or where it is not above `last`, the next one above `last`."""
        return self if last is None or self > last else EventId(last.moment_ms, last.number + 1)


@dataclass(frozen=True, slots=True)
class Event:
    """The latest state of one thing. data: its document, JSON on one line; is_final: nothing follows."""

    topic: str
    key: str
    moment_ms: int
    data: str
    is_final: bool

    def frame(self, event_id: EventId) -> bytes:
        """The event as a server-sent one, UTF-8."""
        return f"event: {self.topic}\nid: {event_id}\ndata: {self.data}\n\n".encode()
