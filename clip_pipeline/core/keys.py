"""Names of batches and jobs: made here, parsed here, nowhere else."""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

_BATCH_KEY = re.compile(r"b(\d{7,})")


@dataclass(frozen=True, slots=True, order=True)
class BatchKey:
    """`b0000042`: sortable as text up to ten million batches; doubles as the Dagster partition key."""

    number: int

    def __str__(self) -> str:
        return f"b{self.number:07d}"

    @classmethod
    def parse(cls, text: str) -> "BatchKey":
        """Raises ValueError when `text` is not `b` and at least seven digits."""
        match = _BATCH_KEY.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a batch key such as b0000042, got {text!r}")
        return cls(int(match.group(1)))


def new_job_id(now: datetime | None = None) -> str:
    """`idx_20251114_143025_7f3a9c`: UTC time of the submission and six random hex digits.

    The suffix keeps two submissions of one second apart without asking the ledger.
    """
    moment = now or datetime.now(UTC)
    return f"idx_{moment:%Y%m%d_%H%M%S}_{secrets.token_hex(3)}"
