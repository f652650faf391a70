"""The newcomer's first command, twice."""

import json
import re

import pytest

from clip_pipeline_tests.e2e.stack import Stack


@pytest.mark.timeout(600)
def test_the_demo_indexes_the_samples_answers_three_queries_and_embeds_nothing_the_second_time(stack: Stack):
    first = stack.run("demo", "--once", timeout_s=400)
    assert first.returncode == 0, first.stderr + stack.log_end()
    assert "embedded in this run: 21" in first.stdout
    tables = re.split(r"\n(?=.*(?:a cat|a cup of coffee|a rocket launch))", first.stdout)
    for query, right in (("a cat", "cat.jpg"), ("a cup of coffee", "coffee.png"), ("a rocket launch", "rocket_")):
        table = next(part for part in tables if query in part)
        hits = re.findall(r"[\w]+\.(?:jpg|png|webp|tif)", table)
        assert hits[0].startswith(right), table

    verified = stack.run("verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    stats = json.loads(stack.run("stats", "--json").stdout)
    assert (stats["total_images"], stats["num_failed"], stats["embedding_dim"]) == (21, 0, 384)

    second = stack.run("demo", "--once", timeout_s=400)
    assert second.returncode == 0, second.stderr
    assert "embedded in this run: 0" in second.stdout
    assert stack.processes() == []
