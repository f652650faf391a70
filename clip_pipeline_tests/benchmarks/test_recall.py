"""Captions as they are read, and recall against a case counted by hand."""

import numpy as np
import pytest

from benchmarks.recall import Caption, read_captions, text_to_image_recall


def test_recall_counts_the_captions_whose_photograph_is_among_the_first_k():
    found = np.array([[7, 8, 9], [8, 7, 9], [9, 8, 7], [8, 9, -1]])
    truth = np.array([7, 7, 7, 7])
    assert [text_to_image_recall(found, truth, k=k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_captions_may_hold_commas_and_quotes(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text('file,caption\na.jpg,"a dog, ""Rex"""\n')
    assert read_captions(path) == [Caption("a.jpg", 'a dog, "Rex"')]


@pytest.mark.parametrize("text", ["name,words\na.jpg,a dog\n", "file,caption\n", ""])
def test_a_file_without_captions_is_refused(tmp_path, text):
    path = tmp_path / "captions.csv"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"captions\.csv"):
        read_captions(path)
