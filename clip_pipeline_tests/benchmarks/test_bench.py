"""One run of all benchmarks: which parts with which sizes, and the table that they end in."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench
from benchmarks.bench import PARTS, Part, Row, Run, all_rows, chosen_parts
from benchmarks.rounds import Goal


def embed_document(ratio: float) -> dict[str, Any]:
    return {
        "ours": {
            "images_per_s": 31.0,
            "peak_mb": 980,
            "first_start_peak_mb": 1120,
            "dtype": "bfloat16",
            "backend": "openvino",
        },
        "peers": {"open_clip": {"images_per_s": 11.5, "peak_mb": 1150}},
        "ratio": {"open_clip": ratio},
        "goals": [
            {**asdict(goal := Goal("images/s, times open_clip", ratio, 2.7, "at least")), "reached": goal.reached}
        ],
        "cosine": {"pictures": 1000, "mean": 0.99997, "min": 0.9998},
    }


def test_all_parts_run_unless_some_are_asked_for():
    assert list(chosen_parts(None, quick=False, photographs=None)) == ["embed", "register", "index", "search"]
    assert list(chosen_parts(["search"], quick=False, photographs=None)) == ["search"]


def test_quick_runs_are_given_smaller_sizes_and_photographs_go_to_embed_alone():
    parts = chosen_parts(None, quick=True, photographs=Path("/photographs"))
    assert parts["embed"].given == (*PARTS["embed"].given_quickly, "--fidelity-images", "/photographs")
    assert parts["register"].given == PARTS["register"].given_quickly != PARTS["register"].given


def test_ratios_of_several_runs_are_told_with_how_far_they_lie_apart():
    def spread_of(*ratios: float) -> Row:
        return all_rows([Run("embed", 1.0, 0, embed_document(ratio)) for ratio in ratios])[-1]

    assert spread_of(2.7, 2.8, 2.75) == Row(
        "embed", "times open_clip, 3 runs", "2.70, 2.80, 2.75: 4% apart", "at most 10%", reached=True
    )
    assert spread_of(2.0, 3.0).reached is False


def test_goals_and_the_least_cosine_stand_in_the_table():
    rows = all_rows([Run("embed", 1.0, 0, embed_document(2.5))])
    assert Row("embed", "images/s, times open_clip", "2.5", "at least 2.7", reached=False) in rows
    assert Row("embed", "cosine, least of 1,000 pictures", "0.999800") in rows


def test_a_part_that_fails_leaves_the_others_and_the_exit_status_tells(tmp_path, monkeypatch, capsys):
    """What an earlier run left in its file must not stand in the table."""
    published: list[dict[str, Any]] = []
    (tmp_path / "failing.json").write_text('{"figure": "old"}')
    (tmp_path / "made.json").write_text('{"figure": "new"}')
    copy = (str(tmp_path / "made.json"), str(tmp_path / "worked.json"))

    def rows_of(document: dict[str, Any]) -> list[Row]:
        return [Row("part", document["figure"], "1")]

    parts = {
        "failing": Part("benchmarks.no_such_module", "failing", (), (), rows_of),
        "worked": Part("json.tool", "worked", copy, (), rows_of),
    }
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "PARTS", parts)
    monkeypatch.setattr(bench, "publish", lambda _name, document: published.append(document))
    monkeypatch.setattr("sys.argv", ["bench"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    assert [row["figure"] for row in published[0]["rows"]] == ["run", "new"]
    assert "ended with status 1" in capsys.readouterr().err
