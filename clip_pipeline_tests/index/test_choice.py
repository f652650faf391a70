"""The choice of an index type, and how additions are split into segments."""

import numpy as np
import pytest

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.index.choice import IndexChoice, IndexPolicy, choose_index, index_bytes
from clip_pipeline.index.plan import Addition
from clip_pipeline.index.staging import segment_batches, split_additions


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, "flat-fp16"),
        (50_000, "flat-fp16"),
        (50_001, "ivf1024-fp16"),
        (1_000_000, "ivf4096-fp16"),
        (5_000_000, "ivf8192-sq8"),
        (100_000_000, "ivf16384-sq8"),
    ],
)
def test_the_choice_follows_size_and_memory(n, expected):
    policy = IndexPolicy(memory_bytes=4 * 1024**3)
    assert choose_index(n, 768, policy=policy).index_type == expected


def test_lists_stay_few_when_the_flat_limit_is_lowered():
    assert choose_index(10, 8, policy=IndexPolicy(flat_rows=1)) == IndexChoice(16, "fp16")


@pytest.mark.parametrize(("n", "d"), [(0, 8), (8, 0)])
def test_an_empty_index_cannot_be_chosen(n, d):
    with pytest.raises(ValueError, match="positive"):
        choose_index(n, d, policy=IndexPolicy())


@pytest.mark.parametrize("choice", [IndexChoice(0, "fp16"), IndexChoice(64, "fp16"), IndexChoice(4096, "sq8")])
def test_index_types_are_read_back(choice):
    assert IndexChoice.parse(choice.index_type) == choice


@pytest.mark.parametrize("text", ["", "flat-sq8", "ivf-fp16", "ivf12-pq"])
def test_unknown_index_types_are_refused(text):
    with pytest.raises(ValueError, match="expected flat-fp16"):
        IndexChoice.parse(text)


def test_index_bytes_count_vectors_and_ids():
    assert index_bytes(10, 4, codec="fp16") == 10 * (8 + 8)
    assert index_bytes(10, 4, codec="sq8") == 10 * (4 + 8)


def addition(number, rows):
    return Addition(BatchKey(number), f"d{number}", np.arange(rows) + 1000 * number)


def test_additions_are_split_in_order_and_a_large_batch_stays_whole():
    additions = [addition(number, rows) for number, rows in enumerate([3, 3, 5, 20, 1])]
    groups = split_additions(additions, rows=8)
    assert [[a.batch.number for a in group] for group in groups] == [[0, 1], [2], [3], [4]]
    assert split_additions([], rows=8) == []


def test_batches_of_a_segment_follow_one_another():
    batches = segment_batches([addition(1, 3), addition(2, 5)])
    assert [(b.key, b.digest, b.offset, b.rows) for b in batches] == [
        ("b0000001", "d1", 0, 3),
        ("b0000002", "d2", 3, 5),
    ]
