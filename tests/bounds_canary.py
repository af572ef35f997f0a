"""A kernel with a mistake, to see that the guards of `bounds_calls` find such."""

from __future__ import annotations

import numpy as np

from fastconv.cpu import threads
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import copy_row
from fastconv.cpu.simd import claim


@inline
def _element(array, i):
    return array[i]


@kernel
def _copy(thread, counter, tasks, count, src, dst):
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        copy_row(src, 0, dst, 0, count[0])
        for i in range(dst.size + 1):  # numba sees this one
            if count[0] == dst.size:
                dst[0] += _element(dst, i)


def copy_too_much(src: np.ndarray, dst: np.ndarray, count: np.ndarray) -> None:
    """Copy count[0] elements by vectors; if dst has room for them, read one too many of it after that."""
    threads.run(_copy, 1, (count, src, dst), 1)
