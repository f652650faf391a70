"""What the search page is asked, parsed from an address or a form; and addresses that ask the same again, changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlencode

from pydantic import ConfigDict, Field, ValidationError

from clip_pipeline.serving.filter_fields import FilterFields
from clip_pipeline.serving.queries import MAX_ID, MAX_K, QueryText, ResultCount, Score, Wanted

COUNTS = (30, 60, 120, 300, MAX_K)
ADDRESS = "/ui/search"
_QUESTIONS = frozenset({"q", "like"})


class SearchFields(FilterFields):
    """The fields of the page. like: an image id, for more images like that one; words, where there are any, win."""

    # A page may be reached by an address that somebody decorated.
    model_config = ConfigDict(extra="ignore", strict=False)

    q: QueryText | None = None
    like: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    k: ResultCount = COUNTS[0]
    min_score: Score | None = None

    @property
    def wanted(self) -> Wanted:
        """How much is to be shown."""
        return Wanted(self.k, self.min_score, self.image_filter)


@dataclass(frozen=True, slots=True)
class SearchForm:
    """The fields as they were typed, and parsed where they can be. faults: what is wrong with a field, by its name."""

    typed: Mapping[str, str]
    fields: SearchFields | None
    faults: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "SearchForm":
        """From the parameters of an address or a form, where a field left empty is there, and empty."""
        typed = {name: text for name in SearchFields.model_fields if (text := given.get(name, "")).strip()}
        try:
            return cls(typed, SearchFields.model_validate(typed))
        except ValidationError as error:
            return cls(typed, None, {str(fault["loc"][0]): _said(fault["msg"]) for fault in error.errors()})

    @property
    def limits(self) -> Mapping[str, str]:
        """The fields that say what may be found, as typed."""
        return {name: text for name, text in self.typed.items() if name not in _QUESTIONS and name != "k"}

    @property
    def url_without_limits(self) -> str:
        """The address of the same question with no limits."""
        return _address({name: text for name, text in self.typed.items() if name in _QUESTIONS})

    @property
    def more(self) -> int | None:
        """How many results to show next; None where there cannot be more."""
        shown = self.fields.k if self.fields else MAX_K
        return next((count for count in COUNTS if count > shown), None)

    @property
    def url_of_more(self) -> str:
        """The address of the same question with more results."""
        return _address({**self.typed, "k": str(self.more or MAX_K)})

    def url_of_like(self, image_id: int) -> str:
        """The address of images like this one, within the same limits."""
        return _address({**self.limits, "like": str(image_id)})


def _address(parameters: Mapping[str, str]) -> str:
    return f"{ADDRESS}?{urlencode(parameters)}" if parameters else ADDRESS


def _said(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return text[:1].upper() + text[1:]
