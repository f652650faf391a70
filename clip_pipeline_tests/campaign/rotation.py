"""Which fault comes when: a deck with every kind once is shuffled again and again, so that each gets its share."""

import random
from collections.abc import Iterator, Sequence

PAIRS = 0.2
"""Share of the rounds in which two faults come together."""


def rounds(kinds: Sequence[str], *, faults: int, rng: random.Random, pairs: float = PAIRS) -> Iterator[tuple[str, ...]]:
    """The faults of each round, one or two of different kinds, until there were so many in all.

    Kinds with the same first word never come together: they break the same thing.
    """
    deck: list[str] = []
    left = faults
    while left > 0:
        if not deck:
            deck = rng.sample(kinds, len(kinds))
        chosen = (deck.pop(),)
        others = [kind for kind in deck if _thing(kind) != _thing(chosen[0])]
        if left > 1 and others and rng.random() < pairs:
            deck.remove(others[-1])
            chosen = (*chosen, others[-1])
        left -= len(chosen)
        yield chosen


def _thing(kind: str) -> str:
    return kind.partition("_")[0]
