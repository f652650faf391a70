"""Log records as lines: for people, and as JSON that any program reads."""

import json
import logging
import subprocess
import sys
import textwrap

import pytest
import structlog

from clip_pipeline.ledger.api_keys import PREFIX, parse_token
from clip_pipeline.observability.logging import LogFormat, line_formatter


def formatted(log_format: LogFormat = "json", **attributes):
    record = logging.makeLogRecord({"name": "clip", "levelname": "INFO", "msg": "batch %s", "args": ("done",)})
    vars(record).update(attributes)
    return line_formatter(log_format).format(record)


def process_of(code, *arguments):
    """Standard error of a process that sets up its logs and runs this."""
    setup = "import logging\nfrom clip_pipeline.observability.logging import log_to_stderr\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(code), *arguments], capture_output=True, text=True
    )
    assert done.stdout == ""
    return done.stderr


def test_a_record_is_one_line_with_its_extra_fields():
    line = formatted(images=3, path="a\nb \ud800", odd=object)
    assert "\n" not in line
    document = json.loads(line)
    assert document.pop("timestamp").endswith("Z")
    assert document == {
        "level": "info", "logger": "clip", "event": "batch done", "images": 3, "path": "a\nb \ud800",
        "odd": "<class 'object'>",
    }  # fmt: skip
    line.encode()


def test_bound_ids_are_on_every_line_and_gone_afterwards():
    with structlog.contextvars.bound_contextvars(request_id="r1", job_id="idx_1"):
        document = json.loads(formatted())
    assert (document["request_id"], document["job_id"]) == ("r1", "idx_1")
    assert "request_id" not in json.loads(formatted())


def test_an_exception_is_fields_without_the_values_of_variables():
    password = "open " + "sesame"
    try:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise ValueError("broken") from cause
    except ValueError:
        line = formatted(exc_info=sys.exc_info())
    assert password not in line
    first, cause = json.loads(line)["exception"]
    assert (first["exc_type"], first["exc_value"], cause["exc_type"]) == ("ValueError", "broken", "KeyError")
    assert first["frames"][-1]["name"] == "test_an_exception_is_fields_without_the_values_of_variables"
    assert "locals" not in first["frames"][-1]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_keys_and_passwords_are_hidden_wherever_they_come_from(log_format):
    token = f"{PREFIX}_0123456789abcdef_{'5' * 64}"
    assert parse_token(token) is not None
    line = formatted(log_format, key=token, url="postgresql://clip:open+sesame@db/clip", args=(token,))
    assert "5555" not in line
    assert "sesame" not in line
    assert line.count(f"{PREFIX}_0123456789abcdef_***") == 2
    assert "postgresql://clip:***@db/clip" in line


def test_for_people_a_record_is_one_line_without_quotes_around_its_message():
    line = formatted("console", images=3)
    assert "batch done" in line
    assert "images=3" in line
    assert "\n" not in line


def test_a_process_in_json_mode_writes_nothing_but_json_whoever_speaks():
    lines = process_of(
        """
        import sys, threading, warnings
        log_to_stderr("json")
        logging.getLogger("uvicorn.error").warning("from a library\\nof two lines")
        logging.getLogger("httpx").info("every request")
        warnings.warn("odd", UserWarning)
        thread = threading.Thread(target=lambda: 1 / 0, name="divider")
        thread.start()
        thread.join()
        raise SystemError("the end")
        """
    ).splitlines()
    documents = [json.loads(line) for line in lines]
    assert [(d["logger"], d["level"]) for d in documents] == [
        ("uvicorn.error", "warning"), ("py.warnings", "warning"), ("clip_pipeline", "error"),
        ("clip_pipeline", "critical"),
    ]  # fmt: skip
    assert documents[0]["event"] == "from a library\nof two lines"
    assert documents[2]["in_thread"] == "divider"
    assert [d["exception"][0]["exc_type"] for d in documents[2:]] == ["ZeroDivisionError", "SystemError"]


def test_lines_go_to_what_is_standard_error_by_then():
    """They went to what it was at first: where that was captured, and closed since, each line was an error itself."""
    said = process_of(
        """
        import io, sys
        ours, sys.stderr = sys.stderr, io.StringIO()
        log_to_stderr("json")
        sys.stderr.close()
        sys.stderr = ours
        logging.info("well")
        """
    )
    assert json.loads(said)["event"] == "well"


def test_a_process_for_people_shows_an_ordinary_trace():
    said = process_of('log_to_stderr("console")\ntry: 1 / 0\nexcept Exception: logging.exception("broken")')
    assert "Traceback (most recent call last):" in said
    assert "ZeroDivisionError: division by zero" in said
    assert "{" not in said.splitlines()[0]
