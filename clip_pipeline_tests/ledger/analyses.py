"""Analysis requests for tests, and a worker that runs as a process of its own so that it can be killed."""

import hashlib
import sys
import time

from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.ledger.analysis_queue import Claimed, Completed, Failed, claim, complete, fail
from clip_pipeline.ledger.analysis_requests import NewAnalysis, submit_analysis
from clip_pipeline.ledger.database import Ledger, open_ledger

NOW = 1_700_000_000.0
LEASE_S = 30.0
TRUNCATED = Reason(ReasonCode.TRUNCATED)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def upload(
    content: str = "cat", *, source: str = "api", labels: tuple[str, ...] | None = ("cat", "dog")
) -> NewAnalysis:
    return NewAnalysis(
        source=source, sha256=digest(content), filename=f"{content}.png", format="PNG", width=4, height=3,
        size_bytes=101, labels=labels, top_k=2,
    )  # fmt: skip


def submit(ledger: Ledger, count: int, *, source: str = "api") -> list[str]:
    return [submit_analysis(ledger, upload(f"image {i}", source=source)) for i in range(count)]


def take(ledger: Ledger, owner: str = "run", *, most: int = 16, now: float = NOW) -> list[Claimed]:
    return claim(ledger, owner=owner, most=most, lease_s=LEASE_S, now=now)


def done(seq: int) -> Completed:
    return Completed(seq, f'{{"seq": {seq}}}', 41.5)


def work_until_idle(ledger: Ledger, owner: str) -> None:
    """Claim and end what waits, and tell on standard output; every fifth request fails."""
    while claimed := claim(ledger, owner=owner, most=4, lease_s=600, now=time.time()):
        say("claimed", [one.seq for one in claimed])
        good, bad = [c.seq for c in claimed if c.seq % 5], [c.seq for c in claimed if not c.seq % 5]
        ended = complete(ledger, owner, [done(seq) for seq in good])
        ended |= fail(ledger, owner, [Failed(seq, TRUNCATED) for seq in bad])
        say("ended", sorted(ended))


def say(what: str, seqs: list[int]) -> None:
    sys.stdout.write(f"{what} {' '.join(map(str, seqs))}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work_until_idle(open_ledger(sys.argv[1]), sys.argv[2])
