"""Forward passes spread over cores: the same vectors, in order, and torch's threads left as they were."""

import threading

import numpy as np
import pytest
import torch

from clip_pipeline.embedding.device import on_all_cores, one_core_each


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pixels_of(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, 2, 2), np.uint8)


def sums(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32).cumsum(axis=1)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("n", [1, 3, 4, 7, 32])
def test_parts_come_back_in_order_whatever_the_number_of_images(n):
    np.testing.assert_array_equal(on_all_cores(sums, pixels_of(n)), sums(pixels_of(n)))


@pytest.mark.usefixtures("two_threads")
def test_each_part_runs_with_one_torch_thread_and_the_caller_keeps_its_own():
    seen: list[tuple[int, int, int]] = []

    def forward(pixels: np.ndarray) -> np.ndarray:
        seen.append((threading.get_ident(), torch.get_num_threads(), len(pixels)))
        return sums(pixels)

    on_all_cores(forward, pixels_of(8))
    assert sorted((threads, images) for _, threads, images in seen) == [(1, 4), (1, 4)]
    assert threading.get_ident() not in {thread for thread, _, _ in seen}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_memory_that_runs_out_in_a_part_is_the_callers_error():
    def forward(pixels: np.ndarray) -> np.ndarray:
        raise MemoryError(f"{len(pixels)} images")

    with pytest.raises(MemoryError, match="4 images"):
        on_all_cores(forward, pixels_of(8))


@pytest.mark.usefixtures("two_threads")
def test_fewer_images_than_cores_leave_a_core_to_others():
    """One image on both of two busy cores took 1.7 s where one core takes 60 ms: torch's threads wait by spinning."""
    seen: list[int] = []

    def forward(pixels: np.ndarray) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return sums(pixels)

    on_all_cores(forward, pixels_of(1))
    assert seen == [1]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("n", [0, 1, 5])
def test_each_part_of_any_work_is_done_on_one_core_and_comes_back_in_order(n):
    assert one_core_each(lambda part: (part, torch.get_num_threads()), list(range(n))) == [(i, 1) for i in range(n)]
