"""The filter of a search request, parsed: which images may be found at all."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from clip_pipeline.core.image_header import SUPPORTED_FORMATS
from clip_pipeline.core.label_set import MAX_LABEL_CHARS
from clip_pipeline.ledger.filters import ImageFilter

MAX_PATH_CHARS = 4096
MAX_SIDE = 2**31 - 1
_ALIASES = {"JPG": "JPEG", "TIF": "TIFF", "HEIC": "HEIF"}


def _path_prefix(text: str) -> str:
    if "\0" in text:
        raise ValueError("expected text without null characters")
    return text


def _format(text: str) -> str:
    name = text.strip().upper()
    name = _ALIASES.get(name, name)
    if name not in SUPPORTED_FORMATS:
        raise ValueError(f"expected one of {', '.join(SUPPORTED_FORMATS)}")
    return name


def _moment(text: str) -> str:
    """A moment as the ledger writes it; one without a time zone is UTC."""
    try:
        # A plus sign that a client did not escape in a query string arrives as a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text.strip())
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("expected a date or time in ISO 8601, such as 2025-11-14 or 2025-11-14T14:30:25Z") from error
    return aware.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


PathPrefix = Annotated[
    str,
    Field(max_length=MAX_PATH_CHARS, json_schema_extra={"pattern": r"^[^\x00]*$"}),
    AfterValidator(_path_prefix),
]
Side = Annotated[int, Field(ge=0, le=MAX_SIDE)]
Format = Annotated[
    str, Field(max_length=16, json_schema_extra={"enum": list[JsonValue](SUPPORTED_FORMATS)}), AfterValidator(_format)
]
Moment = Annotated[
    str,
    Field(max_length=64, json_schema_extra={"anyOf": [{"format": "date"}, {"format": "date-time"}]}),
    AfterValidator(_moment),
]


LabelText = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class SearchFilter(ImageFilter):
    """What the ledger knows and what the labels of the collection say: `label` among the best of an image."""

    label: str | None = None
    label_min_confidence: float | None = None


class FilterFields(BaseModel):
    """What an image must be to be found. Every field given must hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path_prefix: PathPrefix | None = Field(
        default=None, description="the beginning of one of its paths, such as /data/photos/2024/"
    )
    format: Format | None = Field(default=None, description=f"one of {', '.join(SUPPORTED_FORMATS)}, in any case")
    min_width: Side | None = Field(default=None, description="pixels, as displayed")
    max_width: Side | None = Field(default=None, description="pixels, as displayed")
    min_height: Side | None = Field(default=None, description="pixels, as displayed")
    max_height: Side | None = Field(default=None, description="pixels, as displayed")
    indexed_after: Moment | None = Field(default=None, description="ISO 8601; at this moment or later; UTC if unsaid")
    indexed_before: Moment | None = Field(default=None, description="ISO 8601; before this moment; UTC if unsaid")

    label: LabelText | None = Field(
        default=None, description="among the five best labels of the image, by the label set in use; case is ignored"
    )
    label_min_confidence: Share | None = Field(default=None, description="with `label`: at least so sure of it, 0 to 1")

    @property
    def image_filter(self) -> SearchFilter | None:
        """The filter of a search; None where nothing is asked."""
        given = SearchFilter(**{name: getattr(self, name) for name in FilterFields.model_fields})
        return None if given == SearchFilter() else given
