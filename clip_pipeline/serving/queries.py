"""Search requests as they come in, parsed and checked, and what a search gives."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, model_validator
from pydantic.config import JsonDict

from clip_pipeline.core.errors import QueryError
from clip_pipeline.core.image_labels import Labelled
from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.lookup import ImageHit
from clip_pipeline.serving.filter_fields import FilterFields, SearchFilter
from clip_pipeline.serving.timings import Timings

DEFAULT_K, MAX_K = 10, 1000
MAX_ID = 2**63 - 1
MAX_TEXT_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class TextQuery:
    """Images that fit this text."""

    text: str

    def echo(self) -> dict[str, object]:
        """What the answer repeats of the question."""
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class PathQuery:
    """Images like this indexed one. image_path: the text form of any file known to the ledger."""

    image_path: str

    def echo(self) -> dict[str, object]:
        """What the answer repeats of the question."""
        return {"image_path": self.image_path}


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Images near this vector, of any length but zero. fingerprint: of the encoder that made it, where it is known."""

    vector: Sequence[float]
    fingerprint: str | None = None

    def echo(self) -> dict[str, object]:
        """What the answer repeats of the question: not hundreds of numbers."""
        return {"vector_dim": len(self.vector)}


@dataclass(frozen=True, slots=True)
class UploadQuery:
    """Images like the one in `file`, which came under the name `filename`."""

    file: Path
    filename: str | None

    def echo(self) -> dict[str, object]:
        """What the answer repeats of the question."""
        return {"file": self.filename}


Query: TypeAlias = TextQuery | PathQuery | VectorQuery | UploadQuery


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of the answer is wanted: the k best that fit `filter`, none that scores below `min_score`."""

    k: int = DEFAULT_K
    min_score: float | None = None
    filter: SearchFilter | None = None

    def echo(self) -> dict[str, object]:
        """What the answer repeats of the limits."""
        limits: dict[str, object] = {"k": self.k}
        if self.min_score is not None:
            limits["min_score"] = self.min_score
        if self.filter is not None:
            limits["filter"] = {name: limit for name, limit in asdict(self.filter).items() if limit is not None}
        return limits


@dataclass(frozen=True, slots=True)
class ScoredHit:
    """One result: the score, an inner product of unit vectors, the image, and its best labels where it has any."""

    score: float
    image: ImageHit
    labels: Sequence[Labelled] = ()


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What a search gave, best first. model_name, release: None before the first encoder, release is there."""

    model_name: str | None
    release: int | None
    hits: Sequence[ScoredHit]
    timings: Timings = field(default_factory=Timings)


class InvalidFieldError(QueryError):
    """One field of a request is at fault; `field` names it."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:  # so that it can come from another process
        return type(self), (self.field, str(self))


class UndecodableQueryError(QueryError):
    """The uploaded image cannot be a query, for a reason that an indexed image would have failed with."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"the uploaded image cannot be used: {reason}")
        self.reason = reason


def _some_text(text: str) -> str:
    if not text.strip():
        raise ValueError("expected some text, got none")
    if "\0" in text:
        raise ValueError("expected text without null characters")
    return text


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


QueryText = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TEXT_CHARS, json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}),
    AfterValidator(_some_text),
]
PlainText = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Text without null characters, which not every database takes."""

ResultCount = Annotated[int, Field(ge=1, le=MAX_K)]


Score = Annotated[float, AfterValidator(_finite)]


class TextFields(FilterFields):
    """The parameters of `GET /api/v1/search`: the filter's among them."""

    # In an address a number is text too.
    model_config = ConfigDict(extra="ignore", strict=False)

    q: QueryText = Field(description="what to look for, in words")
    k: ResultCount = Field(default=DEFAULT_K, description="how many results")
    min_score: Score | None = Field(default=None, description="leave out what scores less")

    @property
    def wanted(self) -> Wanted:
        """How much of the answer is wanted."""
        return Wanted(self.k, self.min_score, self.image_filter)


class UploadFields(BaseModel):
    """The fields beside the file of a multipart search request; `filter` is a JSON object."""

    model_config = ConfigDict(extra="forbid")

    k: ResultCount = DEFAULT_K
    min_score: Score | None = None
    filter: Json[FilterFields] | None = None

    @property
    def wanted(self) -> Wanted:
        """How much of the answer is wanted."""
        return Wanted(self.k, self.min_score, self.filter.image_filter if self.filter else None)


QUESTIONS = ("text", "image_path", "vector")


def _asks(question: str) -> JsonDict:
    """The schema of a body that asks this question."""
    return {"required": [question], "properties": {question: {"not": {"type": "null"}}}}


class SearchBody(BaseModel):
    """The JSON body of a search request: exactly one of `text`, `image_path` and `vector`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"text": "a red bicycle", "k": 10},
                {"image_path": "/data/photos/a.jpg", "k": 5, "min_score": 0.2},
                {"text": "a cat", "filter": {"path_prefix": "/data/photos/2024/", "format": "JPEG", "min_width": 640}},
            ],
            "oneOf": [_asks(name) for name in QUESTIONS],
        },
    )

    k: ResultCount = DEFAULT_K
    min_score: Score | None = None
    filter: FilterFields | None = None
    text: QueryText | None = None
    image_path: QueryText | None = None
    vector: list[float] | None = None
    fingerprint: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="with `vector`: fingerprint of the encoder that made it; refused (409) if another's"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_query(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        given = [name for name in QUESTIONS if fields.get(name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of text, image_path and vector, got {', '.join(given) or 'none'}")
        if fields.get("fingerprint") is not None and given != ["vector"]:
            raise ValueError("expected fingerprint together with vector only")
        return fields

    @property
    def wanted(self) -> Wanted:
        """How much of the answer is wanted."""
        return Wanted(self.k, self.min_score, self.filter.image_filter if self.filter else None)

    @property
    def query(self) -> Query:
        """The one query of the body."""
        if self.text is not None:
            return TextQuery(self.text)
        if self.image_path is not None:
            return PathQuery(self.image_path)
        return VectorQuery(self.vector or (), self.fingerprint)
