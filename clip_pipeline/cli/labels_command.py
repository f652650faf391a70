"""`clip-pipeline labels`: create, list, show and use the label sets of a home."""

import sys
from collections.abc import Sequence
from pathlib import Path

from clip_pipeline.cli.configuration import existing_ledger, load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table
from clip_pipeline.core.errors import QueryError
from clip_pipeline.core.label_set import DEFAULT_TEMPLATES, LabelSet, label_lines
from clip_pipeline.ledger.label_sets import (
    create_label_set,
    current_label_set,
    list_label_sets,
    show_label_set,
    use_label_set,
)
from clip_pipeline.serving.label_set_documents import label_set_document, label_set_line

STANDARD_INPUT = "-"


def create(name: str, *, file: str, templates: Sequence[str], as_json: bool) -> None:
    """Create a label set, or its next version, from a file with one label a line."""
    labels = label_lines(_text(file))
    settings = load_settings()
    prepare_home(settings)
    with opened_ledger(settings) as ledger:
        created = create_label_set(ledger, name, labels=labels, templates=templates or DEFAULT_TEMPLATES)
        stored = show_label_set(ledger, name, version=created.version)
        document = label_set_line(stored, current=current_label_set(ledger))
    if as_json:
        print_json(document)
        return
    console().print(f"{_named(created)}: {count(len(created.labels), 'label')}")
    if not document["in_use"]:
        error_console().print(f"Put it in use with `clip-pipeline labels use {name}`.")


def list_all(*, as_json: bool) -> None:
    """Every version of every label set."""
    with existing_ledger(load_settings()) as ledger:
        current = current_label_set(ledger)
        lines = [label_set_line(stored, current=current) for stored in list_label_sets(ledger)]
    if as_json:
        print_json(lines)
        return
    columns = ("name", "version", "labels_count", "created_at")
    rows = [(*(line[name] for name in columns), "in use" if line["in_use"] else "") for line in lines]
    print_table("", ("name", "version", "labels", "created", ""), rows)


def show(name: str, *, version: int | None, as_json: bool) -> None:
    """The labels of one version, one a line: as `create` reads them."""
    with existing_ledger(load_settings()) as ledger:
        current = current_label_set(ledger)  # which makes the default known
        stored = show_label_set(ledger, name, version=version)
    label_set = stored.label_set
    if as_json:
        print_json(label_set_document(stored, current=current))
        return
    error_console().print(f"{_named(label_set)}: {count(len(label_set.labels), 'label')}, {_said(label_set)}")
    for label in label_set.labels:
        console().print(label)


def use(name: str, *, version: int | None, as_json: bool) -> None:
    """Put one version in use."""
    with existing_ledger(load_settings()) as ledger:
        current_label_set(ledger)
        chosen = use_label_set(ledger, name, version=version)
        document = label_set_line(show_label_set(ledger, name, version=chosen.version), current=chosen)
    if as_json:
        print_json(document)
        return
    console().print(f"{_named(chosen)} is in use. A running stack labels the whole index with it.")


def _text(file: str) -> str:
    try:
        content = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).expanduser().read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise QueryError(f"the labels in {file} cannot be read: {error.strerror}; name a text file, or - ") from error
    except UnicodeDecodeError as error:
        raise QueryError(f"the labels in {file} are not UTF-8 text; convert the file") from error


def _named(label_set: LabelSet) -> str:
    return f"{label_set.name} version {label_set.version}"


def _said(label_set: LabelSet) -> str:
    return "templates " + ", ".join(f"`{template}`" for template in label_set.templates)
