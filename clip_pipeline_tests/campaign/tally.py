"""What a campaign found: one record for each round, and the table over all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Round:
    """One or two faults at a time and what came of them.

    hit: what each of them struck; held_s: how long they lasted; recovery_s: from their end to the completion of the
    job that they interrupted, None where it never completed. Retries are those of that job's runs: of_workers of them
    had a worker before and after, elsewhere is how many of these were on another one.
    """

    kinds: tuple[str, ...]
    hit: tuple[str, ...]
    held_s: float
    recovery_s: float | None
    runs: int = 0
    retries: int = 0
    of_workers: int = 0
    elsewhere: int = 0
    violations: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line."""
        names = " + ".join(f"{kind} ({hit})" if hit else kind for kind, hit in zip(self.kinds, self.hit, strict=True))
        recovered = "NOT RECOVERED" if self.recovery_s is None else f"recovered in {self.recovery_s:.1f} s"
        moved = f", {self.elsewhere} on the other worker" if self.elsewhere else ""
        return f"{names}: held {self.held_s:.1f} s, {recovered}, {self.retries} retries{moved}"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind over all its rounds; seconds of rounds in which it came alone, longest_s of all."""

    kind: str
    faults: int
    in_pairs: int
    median_s: float | None
    longest_s: float | None
    retries: int
    elsewhere: int


@dataclass(slots=True)
class Tally:
    """The rounds so far. violations: those of the whole, an image lost or so; undisturbed_s: a job without a fault."""

    rounds: list[Round] = field(default_factory=list[Round])
    violations: list[str] = field(default_factory=list[str])
    checks: int = 0
    images: int = 0
    undisturbed_s: float = 0.0

    @property
    def faults(self) -> int:
        """Faults injected."""
        return sum(len(one.kinds) for one in self.rounds)

    @property
    def all_violations(self) -> list[str]:
        """Everything that should not have been."""
        return [*(text for one in self.rounds for text in one.violations), *self.violations]

    @property
    def longest_s(self) -> float | None:
        """The longest recovery of all."""
        return max(_recoveries(self.rounds), default=None)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "faults": self.faults,
            "images": self.images,
            "checks": self.checks,
            "retries": sum(one.retries for one in self.rounds),
            "undisturbed_s": self.undisturbed_s,
            "longest_recovery_s": self.longest_s,
            "violations": self.all_violations,
            "kinds": [asdict(row) for row in rows(self.rounds)],
            "rounds": [asdict(one) for one in self.rounds],
        }


def rows(found: Sequence[Round]) -> list[Row]:
    """A row for each kind, in the order of their names."""
    return [
        _row(kind, [one for one in found if kind in one.kinds]) for kind in sorted({k for r in found for k in r.kinds})
    ]


def rounds_of(document: Mapping[str, Any]) -> list[Round]:
    """The rounds of a campaign that was written down as JSON."""
    tuples = ("kinds", "hit", "violations")
    return [Round(**(one | {name: tuple(one[name]) for name in tuples})) for one in document["rounds"]]


def _row(kind: str, found: Sequence[Round]) -> Row:
    alone = _recoveries(one for one in found if len(one.kinds) == 1)
    return Row(
        kind, len(found), sum(len(one.kinds) > 1 for one in found), median(alone) if alone else None,
        max(_recoveries(found), default=None), sum(one.retries for one in found), sum(one.elsewhere for one in found),
    )  # fmt: skip


def _recoveries(found: Iterable[Round]) -> list[float]:
    return [one.recovery_s for one in found if one.recovery_s is not None]
