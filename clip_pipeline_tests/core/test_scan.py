"""Scanning: the walk's order, its bounds, and what a comparison with the known files finds."""

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from clip_pipeline.core.paths import display_path, path_to_text, text_to_path
from clip_pipeline.core.scan import SeenFile, Walk, compare


@dataclass(frozen=True)
class Known:
    path: str
    file_id: int
    size_bytes: int
    mtime_ns: int


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(walk: Walk, after: str = "") -> list[str]:
    return [file.path for file in walk.files(after=after)]


def test_a_walk_is_sorted_as_the_text_of_its_paths_is(tmp_path: Path):
    write(tmp_path, "a.jpg", "a/x.jpg", "a-b/y.jpg", "a/b/z.jpg", "Z.jpg", "é.jpg", "a0")
    found = names(Walk(tmp_path))
    assert found == sorted(found)
    assert len(found) == 7


def test_a_walk_goes_on_after_any_of_its_files(tmp_path: Path):
    write(tmp_path, "a/1", "a/2", "a.b/1", "b", "c/d/e", "c/f")
    full = names(Walk(tmp_path))
    for position, path in enumerate(full):
        assert names(Walk(tmp_path), after=path) == full[position + 1 :]


def test_names_of_any_bytes_are_found(tmp_path: Path):
    raw = [b"with space.jpg", b"new\nline.jpg", b"latin1-\xe9.jpg", b"x" * 255]
    for name in raw:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    found = [os.path.basename(os.fsencode(text_to_path(path))) for path in names(Walk(tmp_path))]
    assert sorted(found) == sorted(raw)


def test_links_to_folders_and_loops_are_not_followed(tmp_path: Path):
    write(tmp_path, "real/a.jpg")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert [Path(p).name for p in names(Walk(tmp_path))] == ["a.jpg"]


def test_a_link_to_a_file_counts_only_below_the_roots(tmp_path: Path):
    write(tmp_path, "inside/a.jpg", "outside/secret.jpg")
    (tmp_path / "inside" / "good").symlink_to(tmp_path / "inside" / "a.jpg")
    (tmp_path / "inside" / "bad").symlink_to(tmp_path / "outside" / "secret.jpg")
    assert [Path(p).name for p in names(Walk(tmp_path / "inside"))] == ["a.jpg", "good"]


def test_ignored_names_are_passed_over(tmp_path: Path):
    write(tmp_path, "a.jpg", ".hidden.jpg", "b.jpg.part", ".git/c.jpg")
    assert [Path(p).name for p in names(Walk(tmp_path, [".*", "*.part"]))] == ["a.jpg"]


@pytest.mark.parametrize("patterns", [[], ["*"], ["[ab].*", "x?z", "*~"], ["a|b", "(c", "d.jpg|e"], ["", "A.JPG"]])
def test_all_patterns_together_ignore_what_each_alone_would(tmp_path: Path, patterns: list[str]):
    there = ["a.jpg", "b.jpg", "xyz", "x.z", "old~", "a|b", "(c", "d.jpg", "line\nbreak~", "A.JPG"]
    write(tmp_path, *there)
    kept = [name for name in there if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    assert sorted(Path(p).name for p in names(Walk(tmp_path, patterns))) == sorted(kept)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_reported(tmp_path: Path):
    write(tmp_path, "locked/a.jpg")
    (tmp_path / "locked").chmod(0)
    walk = Walk(tmp_path)
    assert names(walk) == []
    assert walk.unreadable == [str(tmp_path / "locked")]
    (tmp_path / "locked").chmod(0o700)


def test_comparison_finds_new_changed_and_gone():
    seen = [SeenFile("/a", 1, 1), SeenFile("/b", 2, 2), SeenFile("/d", 4, 4)]
    known = [Known("/a", 1, 1, 1), Known("/b", 2, 2, 99), Known("/c", 3, 3, 3), Known("/e", 5, 5, 5)]
    found = compare(seen, known)
    assert ([f.path for f in found.new], found.gone, found.unchanged) == (["/b", "/d"], [3, 5], 1)
    assert found.next_after is None


def test_what_lies_below_an_unreadable_folder_is_not_gone():
    found = compare([], [Known("/m/a", 1, 1, 1), Known("/n/b", 2, 1, 1)], unreadable=["/m"])
    assert found.gone == [2]


def test_a_missing_root_makes_nothing_gone(tmp_path: Path):
    walk = Walk(tmp_path / "unmounted")
    found = compare(walk.files(), [Known(f"{tmp_path}/unmounted/a", 1, 1, 1)], unreadable=walk.unreadable)
    assert (found.gone, walk.unreadable) == ([], [str(tmp_path / "unmounted")])


def test_a_file_still_being_written_is_left_for_the_next_time(tmp_path: Path):
    write(tmp_path, "fresh.jpg", "old.jpg")
    os.utime(tmp_path / "old.jpg", (1, 1))
    found = compare(Walk(tmp_path).files(), [], settle_s=60)
    assert ([Path(f.path).name for f in found.new], found.unsettled) == (["old.jpg"], 1)


def test_a_bounded_comparison_goes_on_where_it_stopped(tmp_path: Path):
    write(tmp_path, *[f"d{i}/{j}.jpg" for i in range(4) for j in range(5)])
    collected: list[str] = []
    after = ""
    for _ in range(100):
        found = compare(Walk(tmp_path).files(after=after), [], most=3)
        collected += [f.path for f in found.new]
        if found.next_after is None:
            break
        after = found.next_after
    assert collected == names(Walk(tmp_path))


@pytest.mark.parametrize("raw", [b"/plain.jpg", b"/\xff\xfe", "/é\U0010ff41".encode(), b"/a\nb", b"/\xed\xa0\x80"])
def test_every_path_has_a_text_that_leads_back_to_it(raw: bytes):
    text = path_to_text(raw)
    assert os.fsencode(text_to_path(text)) == raw
    text.encode()
    assert display_path(text).isprintable()
