"""Label sets: what an image may be called, and the sentences that put a label before a text encoder.

Whatever a request, a file or a page hands in as labels is parsed here once; inside, labels are clean and distinct.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from clip_pipeline.core.errors import QueryError

MAX_LABELS = 5_000
MAX_LABEL_CHARS = 200
MAX_TEMPLATES = 100
SLOT = "{}"
DEFAULT_TEMPLATES = ("a photo of a {}",)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Distinct labels in a fixed order, with the prompt templates that each of them is put into.

    name, version: empty and 0 for labels that came with one request (`ad_hoc_labels`); versions count from 1.
    """

    name: str
    version: int
    labels: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of labels and templates: two sets with one digest give every image the same predictions."""
        content = json.dumps([self.labels, self.templates], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def prompts(self, label: str) -> list[str]:
        """The sentence of each template about one label."""
        # Not str.format: a label or a template may hold braces of its own.
        return [template.replace(SLOT, label) for template in self.templates]


def ad_hoc_labels(labels: Sequence[str]) -> LabelSet:
    """The labels of one request as a label set without a name, in the default templates.

    Raises:
        QueryError: as `parse_labels`.
    """
    return LabelSet("", 0, parse_labels(labels), DEFAULT_TEMPLATES)


def named_label_set(name: str, labels: Sequence[str], *, templates: Sequence[str], version: int) -> LabelSet:
    """A label set of parsed parts.

    Raises:
        QueryError: the name, a label or a template cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise QueryError(
            f"expected a name of 1 to 64 letters, digits, dots, dashes and underscores that starts with a letter or "
            f"digit, got {_shown(name)}"
        )
    return LabelSet(name, version, parse_labels(labels), parse_templates(templates))


def split_labels(text: str) -> list[str]:
    """The parts of a comma separated text; an empty part, as a comma at the end leaves, is dropped."""
    return [part for part in text.split(",") if part.strip()]


def label_lines(text: str) -> list[str]:
    """The labels of a text with one a line; blank lines are dropped.

    Not `str.splitlines`, which also parts at control characters and U+2028: those are for `parse_labels` to refuse.
    """
    return [stripped for line in text.split("\n") if (stripped := line.strip(" \t\r"))]


def parse_labels(given: str | Sequence[str]) -> tuple[str, ...]:
    """Clean, distinct labels in the order given: a comma separated text, or a list of labels taken whole.

    Each is stripped and in Unicode normal form C. Labels that differ only in case count once, the first spelling
    stays: CLIP's tokenizer folds case, so two of them would share one label's confidence.

    Raises:
        QueryError: no label, too many, or one that is empty, too long or holds control characters.
    """
    parts = split_labels(given) if isinstance(given, str) else given
    distinct: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        label = _parse_text(part, what=f"label {number}", most=MAX_LABEL_CHARS)
        distinct.setdefault(label.casefold(), label)
    if not distinct:
        raise QueryError(f"expected 1 to {MAX_LABELS} labels, got none; give them as `cat,dog` or leave them out")
    if len(distinct) > MAX_LABELS:
        raise QueryError(f"expected at most {MAX_LABELS} labels, got {len(distinct)}; ask for fewer")
    return tuple(distinct.values())


def parse_templates(given: Sequence[str]) -> tuple[str, ...]:
    """Clean, distinct prompt templates in the order given, each with one `{}` where the label goes.

    Raises:
        QueryError: no template, too many, or one that cannot be used.
    """
    distinct: dict[str, None] = {}
    for number, part in enumerate(given, start=1):
        template = _parse_text(part, what=f"template {number}", most=MAX_LABEL_CHARS)
        if template.count(SLOT) != 1:
            raise QueryError(
                f"expected exactly one {{}} in template {number}, where the label goes, got {_shown(template)}; "
                "write it like `a photo of a {}`"
            )
        distinct[template] = None
    if not 1 <= len(distinct) <= MAX_TEMPLATES:
        raise QueryError(f"expected 1 to {MAX_TEMPLATES} templates, got {len(distinct)}")
    return tuple(distinct)


def parse_top_k(given: int) -> int:
    """How many labels to show, at least 1; a number beyond `MAX_LABELS` means all, as that does.

    Raises:
        QueryError: below 1.
    """
    if given < 1:
        raise QueryError(f"expected top_k of at least 1, got {given}; leave it out to see every label")
    return min(given, MAX_LABELS)


def _parse_text(given: str, *, what: str, most: int) -> str:
    text = unicodedata.normalize("NFC", given).strip()
    if not 1 <= len(text) <= most:
        raise QueryError(f"expected 1 to {most} characters in {what}, got {len(text)}: {_shown(text)}")
    kinds = [unicodedata.category(character) for character in text]
    if not _CONTROL.isdisjoint(kinds):
        raise QueryError(f"{what} holds a control character: {_shown(text)}; labels and templates are one line of text")
    # Joiners (Cf) belong to words of many scripts, so they may stand between letters, but not alone.
    if all(kind[0] in "CZ" for kind in kinds):
        raise QueryError(f"{what} holds no visible character: {_shown(text)}")
    return text


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")
