"""Scratch memory: alignment, reuse, bounds, and its end."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from fastconv.cpu import workspace
from fastconv.cpu.workspace import ALIGNMENT, aligned, held, release, scratch


@pytest.fixture(autouse=True)
def _clean():
    release()
    yield
    release()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "complex64", "complex128", "uint8"])
def test_aligned_flat_writable(dtype):
    for per_thread in (0, 1, 7, 1000):
        with scratch(dtype, per_thread, 3) as array:
            assert array.shape == (3 * per_thread,)
            assert array.dtype == dtype
            assert per_thread == 0 or array.ctypes.data % ALIGNMENT == 0
            array[:] = 1


def test_aligned_rounds_up_to_a_cache_line():
    assert [aligned(n, 4) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]
    assert [aligned(n, 8) for n in (1, 8, 9)] == [8, 8, 16]
    assert aligned(5, 16) == 8


def used(dtype: str, per_thread: int, threads: int) -> np.ndarray:
    """The array of a call that is over."""
    with scratch(dtype, per_thread, threads) as array:
        return array


def test_reused_from_call_to_call():
    first = used("float32", 1000, 2)
    assert used("float32", 1000, 2) is first
    for dtype, n in (("float64", 1000), ("float32", 10), ("float32", 2000)):
        assert np.shares_memory(used(dtype, n, 1), first)
    assert held() == 8000


def test_a_call_within_a_call_gets_memory_of_its_own():
    with scratch("float32", 1000, 1) as outer:
        with scratch("float32", 1000, 1) as inner:
            assert not np.shares_memory(outer, inner)
        assert held() == 4000
    assert held() == 8000


def test_given_back_after_an_error():
    with pytest.raises(ZeroDivisionError), scratch("float32", 1000, 1) as first:
        1 / 0  # noqa: B018
    assert used("float32", 1000, 1) is first


def test_grows_and_never_holds_two_arenas():
    small = weakref.ref(used("float32", 100, 1).base)
    used("float32", 100_000, 1)
    gc.collect()
    assert small() is None
    assert held() == 400_000


def test_shrinks_after_a_large_call():
    used("float32", 10_000_000, 1)
    for _ in range(2 * workspace._WINDOW + 2):
        assert used("float32", 1000, 1).size == 1000
    assert held() == 4000


def test_alternating_sizes_keep_the_arena():
    large = used("float32", 100_000, 1)
    for n in range(5 * workspace._WINDOW):
        assert np.shares_memory(used("float32", 100_000 if n % 10 == 0 else 10, 1), large)
    assert held() == 400_000


def test_release():
    with scratch("float32", 1000, 1) as kept:
        release()
        assert held() == 0
        kept[:] = 1  # an array in use outlives the release
    release()
    assert used("float32", 1000, 1).size == 1000


def test_threads_have_their_own_and_free_it_when_they_die():
    mine = used("float32", 1000, 1)
    seen = {}

    def work():
        theirs = used("float32", 1000, 1)
        seen["shared"] = np.shares_memory(mine, theirs)
        seen["memory"] = weakref.ref(theirs.base)
        seen["alive"] = seen["memory"]() is not None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert seen["shared"] is False
    assert seen["alive"] is True
    assert seen["memory"]() is None
