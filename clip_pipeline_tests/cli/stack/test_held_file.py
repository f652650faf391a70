"""Files that are believed only while their process lives."""

import subprocess
import sys

import pytest

from clip_pipeline.cli.stack.held_file import announced, facts_of_holder, hold, last_facts
from clip_pipeline.cli.stack.state import (
    StackFacts,
    last_code_ports,
    running_stack,
    service_file,
    service_url,
    stack_file,
)

HOLD = """
import sys, time
from pathlib import Path
from clip_pipeline.cli.stack.held_file import hold
hold(Path(sys.argv[1])).write({"pid": 7, "port": 8, "dagster_port": 9, "code_ports": {"gpu": 10}})
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(stack_file(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("holder")
def test_the_facts_of_a_living_holder_are_believed(tmp_path):
    assert running_stack(tmp_path) == StackFacts(7, 8, 9, {"gpu": 10})
    assert hold(stack_file(tmp_path)) is None


def test_a_killed_holder_is_not_believed_but_its_ports_are_remembered(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert running_stack(tmp_path) is None
    assert last_code_ports(tmp_path) == {"gpu": 10}
    held = hold(stack_file(tmp_path))
    assert held is not None
    held.release()


def test_shorter_facts_replace_longer_ones_whole(tmp_path):
    path = tmp_path / "file.json"
    held = hold(path)
    assert held is not None
    held.write({"a": "x" * 1000})
    held.write({"b": 1})
    assert last_facts(path) == {"b": 1}
    held.release()


def test_an_announcement_ends_with_its_block_and_a_second_one_does_not_replace_it(tmp_path):
    path = service_file(tmp_path)
    assert service_url(tmp_path) is None
    with announced(path, {"url": "http://first"}), announced(path, {"url": "http://second"}):
        assert service_url(tmp_path) == "http://first"
    assert service_url(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"code_ports": [1], "pid": "x"}'])
def test_a_file_that_makes_no_sense_is_taken_as_empty(tmp_path, content):
    stack_file(tmp_path).write_text(content)
    assert last_code_ports(tmp_path) == {}
    assert facts_of_holder(stack_file(tmp_path)) is None
