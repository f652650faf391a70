"""One submission, checked and registered in a process of its own: the child's side of `serving.registrar`.

It is given an order on standard input and a body under an open descriptor, and answers with one pickle on what was
its standard output. The end of its standard input means that the service is gone: it ends too, at once, and the
database takes back what was not committed. Imports no web framework: half a second goes by before the first path.
"""

import os
import pickle
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.ledger.database import LARGE_CACHE_KIB, open_ledger
from clip_pipeline.ledger.registration import Registration
from clip_pipeline.serving.body_models import parsed
from clip_pipeline.serving.submissions import AddImagesBody, submit
from clip_pipeline.settings import Settings

NICENESS = 5
"""Whoever sends a hundred thousand paths waits seconds; who asks for a status at the same time should not."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to register for whom. body: the descriptor under which the child finds the JSON."""

    settings: Settings
    body: int
    idempotency_key: str | None


Outcome: TypeAlias = Registration | ClipPipelineError
"""What became of a submission, or why nothing did."""


def main() -> None:
    """Do what the order on standard input says."""
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not end up in the answer
    os.nice(NICENESS)
    with open(0, "rb", closefd=False) as orders:
        order: Order = pickle.load(orders)  # noqa: S301 - from the process that started this one
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    outcome = pickle.dumps(_outcome(order))
    with open(answer, "wb") as pipe:
        pipe.write(outcome)


def _outcome(order: Order) -> Outcome:
    with open(order.body, "rb") as file:
        content = file.read()
    try:
        body = parsed(partial(AddImagesBody.model_validate_json, content))
        del content
        ledger = open_ledger(order.settings.ledger_location, cache_kib=LARGE_CACHE_KIB)
        try:
            return submit(ledger, order.settings, body, idempotency_key=order.idempotency_key)
        finally:
            ledger.close()
    except ClipPipelineError as error:
        return error.with_traceback(None)


def _end_with_the_service() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit("this module is started by the HTTP service")
