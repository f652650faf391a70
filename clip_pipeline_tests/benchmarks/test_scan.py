"""The scan that is measured sees every file of the tree, in bounded ticks; so does the walk beside it."""

import os

from benchmarks.scan import _scanned, _summary, _walked, ledger_bytes_per_image, make_tree


def test_a_tree_has_so_many_files_in_folders_of_a_thousand(tmp_path):
    make_tree(tmp_path / "tree", 2300)
    assert {name: len(os.listdir(tmp_path / "tree" / name)) for name in os.listdir(tmp_path / "tree")} == {
        "00000": 1000,
        "00001": 1000,
        "00002": 300,
    }


def test_the_first_scan_registers_all_and_the_next_finds_all_unchanged(tmp_path):
    make_tree(tmp_path / "tree", 1200)
    first, second, bare = _scanned(tmp_path), _scanned(tmp_path), _walked(tmp_path)
    assert (first["new"], first["unchanged"]) == (1200, 0)
    assert (second["new"], second["unchanged"]) == (0, 1200)
    assert (bare["new"], bare["unchanged"]) == (0, 1200)


def test_a_summary_is_of_the_median_pass_and_the_longest_tick_of_all():
    passes = [
        {"seconds": s, "cpu_seconds": s / 2, "ticks": [s, 1.0], "peak_bytes": 1_000_000 * s} for s in (9.0, 3.0, 4.0)
    ]
    assert _summary(passes, files=200_000) == {
        "seconds_per_100k": 2.0,
        "cpu_seconds_per_100k": 1.0,
        "seconds": [9.0, 3.0, 4.0],
        "ticks": 2,
        "longest_tick_s": 9.0,
        "peak_memory_mb": 9.0,
    }


def test_an_image_takes_more_of_the_ledger_than_its_path(tmp_path):
    assert 100 < ledger_bytes_per_image(tmp_path / "home", 2000) < 2000
