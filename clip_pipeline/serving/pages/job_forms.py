"""The form that adds images: its text turned into a submission, and what was refused of it. No web framework here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from clip_pipeline.serving.path_checks import Refusal, RefusedPathsError
from clip_pipeline.serving.queries import InvalidFieldError
from clip_pipeline.serving.submissions import MAX_FOLDERS, MAX_PATHS, MAX_PRIORITY, AddImagesBody

REFUSED_SHOWN = 100


@dataclass(frozen=True, slots=True)
class SubmitForm:
    """The fields as a person filled them in."""

    image_paths: str = ""
    recursive_dirs: str = ""
    priority: str = "0"

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "SubmitForm":
        """From the fields of a request; a missing one is empty."""
        return cls(fields.get("image_paths", ""), fields.get("recursive_dirs", ""), fields.get("priority", "") or "0")

    def body(self) -> AddImagesBody:
        """The submission, one path a line.

        Raises:
            InvalidFormError: nothing is filled in, there is too much of it, or the priority is no number.
        """
        paths, folders = _lines(self.image_paths), _lines(self.recursive_dirs)
        if not paths and not folders:
            raise InvalidFormError("Name at least one image or folder.")
        try:
            priority = int(self.priority)
        except ValueError:
            raise InvalidFormError("The priority is a whole number.") from None
        try:
            return AddImagesBody(image_paths=paths, recursive_dirs=folders, priority=priority)
        except ValidationError:
            raise InvalidFormError(
                f"At most {MAX_PATHS:,} images and {MAX_FOLDERS:,} folders at once, with a priority from "
                f"{-MAX_PRIORITY:,} to {MAX_PRIORITY:,}."
            ) from None


class InvalidFormError(ValueError):
    """The form cannot be a submission; the message is for the person who filled it in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was queued. lines: the refused paths, the first of them; more: how many others there are."""

    summary: str
    lines: tuple[Refusal, ...] = ()
    more: int = 0


def refused(error: InvalidFormError | InvalidFieldError | RefusedPathsError) -> Refused:
    """What the page says of a submission that was refused."""
    if not isinstance(error, RefusedPathsError):
        return Refused(f"Nothing was queued. {error}")
    lines = error.refusals[:REFUSED_SHOWN]
    noun = "path was" if error.total == 1 else "paths were"
    return Refused(f"Nothing was queued: {error.total:,} {noun} refused.", lines, error.total - len(lines))


def _lines(text: str) -> list[str]:
    """The lines that hold something. Blanks around them are typing; a path that needs them can be sent as JSON."""
    # `splitlines` and a plain `strip` would also take away what may stand in a name: U+2028, U+0085, form feeds.
    return [stripped for line in re.split(r"\r?\n", text) if (stripped := line.strip(" \t"))]
