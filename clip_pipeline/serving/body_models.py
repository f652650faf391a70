"""Bodies parsed into their models, and what is told of those that do not fit. No web framework here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from clip_pipeline.core.errors import QueryError

FAULTS_SHOWN = 100

Model = TypeVar("Model", bound=BaseModel)


class UnfitBodyError(QueryError):
    """A body does not fit its model. faults: the first of them, as pydantic describes them."""

    def __init__(self, faults: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("the body does not fit")
        self.faults = list(faults)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.faults,)


def parsed(parse: Callable[[], Model]) -> Model:
    """What `parse` gives.

    Raises:
        UnfitBodyError: the input does not fit the model.
    """
    try:
        return parse()
    except ValidationError as error:
        # The input itself is left out: it may be megabytes of paths.
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise UnfitBodyError([dict(fault) for fault in faults[:FAULTS_SHOWN]]) from error
