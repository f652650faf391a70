"""`labels`: sets are created from text, listed, shown as they can be read again, and put in use."""

import io
import json
import sys

import pytest


@pytest.fixture
def animals(tmp_path):
    path = tmp_path / "animals.txt"
    path.write_text("\ufeffcat\n\n dog \r\n猫\ncat\n", encoding="utf-8")
    return path


def lines(ended):
    assert ended.status == 0, ended.err
    return ended.out.splitlines()


def test_a_set_is_created_from_a_file_and_shown_as_it_can_be_read_again(command, animals, tmp_path):
    created = command("labels", "create", "animals", animals)
    assert lines(created) == ["animals version 1: 3 labels"]
    assert "labels use animals" in created.err
    shown = command("labels", "show", "animals")
    assert lines(shown) == ["cat", "dog", "猫"]
    assert "`a photo of a {}`" in shown.err
    (tmp_path / "again.txt").write_text(shown.out, encoding="utf-8")
    assert lines(command("labels", "create", "animals", tmp_path / "again.txt")) == ["animals version 1: 3 labels"]


def test_other_labels_or_templates_are_the_next_version_and_standard_input_will_do(command, animals, monkeypatch):
    command("labels", "create", "animals", animals)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"cat\nhorse\n")))
    created = command("labels", "create", "animals", "-", "--template", "a {}", "--template", "the {}", "--json")
    document = json.loads(created.out)
    assert (document["version"], document["labels_count"], document["templates"]) == (2, 2, ["a {}", "the {}"])
    assert lines(command("labels", "show", "animals", "--version", "1")) == ["cat", "dog", "猫"]
    assert json.loads(command("labels", "show", "animals", "--json").out)["labels"] == ["cat", "horse"]


def test_the_list_says_which_one_is_in_use(command, animals):
    command("labels", "create", "animals", animals)
    in_use = {one["name"]: one["in_use"] for one in json.loads(command("labels", "list", "--json").out)}
    assert in_use == {"animals": False, "everyday": True}
    used = command("labels", "use", "animals")
    assert used.out.startswith("animals version 1 is in use.")
    rows = [line.split() for line in lines(command("labels", "list"))[1:]]
    assert [row[0] for row in rows if row[-2:] == ["in", "use"]] == ["animals"]
    assert json.loads(command("labels", "use", "everyday", "--version", "1", "--json").out)["in_use"] is True


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["create", "two words", "FILE"], 11, "expected a name"),
        (["create", "x", "FILE", "--template", "no slot"], 11, "exactly one {}"),
        (["create", "x", "/no/such.txt"], 11, "cannot be read"),
        (["create", "x", "BINARY"], 11, "not UTF-8"),
        (["show", "none"], 9, "labels list"),
        (["show", "everyday", "--version", "7"], 9, "labels list"),
        (["use", "none"], 9, "labels list"),
        (["use", "everyday", "--version", "0"], 2, "--version"),
    ],
)
@pytest.mark.usefixtures("world")
def test_what_is_wrong_with_a_command_is_one_line(command, animals, tmp_path, arguments, status, message):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    files = {"FILE": animals, "BINARY": tmp_path / "binary"}
    ended = command("labels", *(files.get(one, one) for one in arguments))
    assert (ended.status, ended.out) == (status, "")
    assert message in ended.err
