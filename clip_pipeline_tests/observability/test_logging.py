"""Log records as lines of JSON."""

import json
import logging
import sys

from clip_pipeline.observability.logging import JsonFormatter


def formatted(**attributes):
    record = logging.makeLogRecord({"name": "clip", "levelname": "INFO", "msg": "batch %s", "args": ("done",)})
    vars(record).update(attributes)
    return JsonFormatter().format(record)


def test_a_record_is_one_line_with_its_extra_fields():
    line = formatted(created=0.5, images=3, path="a\nb", odd=object)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500Z", "level": "info", "logger": "clip", "message": "batch done",
        "images": 3, "path": "a\nb", "odd": "<class 'object'>",
    }  # fmt: skip


def test_an_exception_adds_its_trace():
    try:
        raise ValueError("broken")
    except ValueError:
        line = json.loads(formatted(exc_info=sys.exc_info()))
    assert line["trace"].splitlines()[-1] == "ValueError: broken"
