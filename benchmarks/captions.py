"""Made-up captions, all different: ImageNet's class names put together the way people describe photographs."""

import itertools
import random
from collections.abc import Iterator

from clip_pipeline.embedding.builtin import class_texts

_SUBJECTS = ("a {a}", "two {a}s", "a photograph of a {a}", "an old {a}", "a close-up of a {a}", "a black and white {a}")
_RELATIONS = ("next to a {b}", "in front of a {b}", "with a {b} in the background", "and a {b}", "seen from a {b}")
_PLACES = (
    "", "on a beach", "in the snow", "at night", "in a crowded street", "on a kitchen table", "in tall grass",
    "under a cloudy sky while people walk by", "early in the morning", "at the edge of a lake",
)  # fmt: skip


def captions(seed: int = 0) -> Iterator[str]:
    """Captions of 3 to 20 words without end, none twice."""
    names = [text.partition(":")[0] for text in class_texts()]
    chance, told = random.Random(seed), set[str]()
    for _ in itertools.count():
        first, second = chance.sample(names, 2)
        subject = chance.choice(_SUBJECTS).format(a=first)
        relation = chance.choice(_RELATIONS).format(b=second)
        text = " ".join(filter(None, (subject, relation, chance.choice(_PLACES))))
        if text not in told:
            told.add(text)
            yield text
