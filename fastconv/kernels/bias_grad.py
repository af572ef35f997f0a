"""Gradient of a bias: the sum of every channel over all images and cells, at memory bandwidth.

Vectors add up short runs, at most 128 terms a lane; the runs' totals are added in double precision (integers: in 64
bits), image by image. What is added in which order depends on the shape alone, never on the number of threads.
"""

from __future__ import annotations

import numpy as np

from fastconv.cpu import threads as pool
from fastconv.cpu import workspace
from fastconv.cpu.jit import kernel
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, unpack, vector_width
from fastconv.cpu.vectors import CHAINS, column_reduce, row_reduce
from fastconv.kernels.common import LONGEST_CHAIN, ceil_div

#: Bytes that one task reads: 10 us at 12 GB/s.
TASK = 128 << 10

#: Rows added up at once: as many streams as the hardware prefetches with ease.
TALL = 8

_total = row_reduce(1, 0, 1, lambda e, x, s: [x[0]])
_column_totals = column_reduce(1, 0, 1, lambda e, x, s: [x[0]])


def run(gradient: np.ndarray, N: int, C: int, S: int, channels_last: bool, threads: int) -> np.ndarray:
    """Sums over N images of S cells for each of C channels; `gradient` is flat, in memory order."""
    itemsize, wide = gradient.itemsize, "float64" if gradient.dtype.kind == "f" else "int64"
    if not gradient.size:
        return np.zeros(C, gradient.dtype)
    if gradient.nbytes < 2 * TASK:
        threads = 1
    if channels_last:
        rows = N * S
        block = ceil_div(max(1, TASK // (C * itemsize)), LONGEST_CHAIN) * LONGEST_CHAIN
        parts = ceil_div(rows, block)
        geometry = np.array([rows, C, block, workspace.aligned(C, itemsize)], np.int64)
        totals = np.zeros((parts, C), wide)
        with workspace.scratch(gradient.dtype.name, int(geometry[3]), threads) as scratch:
            pool.run(_by_pixel, parts, (geometry, totals.reshape(-1), gradient, scratch), threads)
    else:
        planes = max(1, TASK // (S * itemsize))
        geometry = np.array([N * C, S, planes], np.int64)
        totals = np.empty((N, C), wide)
        pool.run(_by_plane, ceil_div(N * C, planes), (geometry, totals.reshape(-1), gradient), threads)
    return totals.sum(axis=0).astype(gradient.dtype)


@kernel
def _by_plane(thread, counter, tasks, geometry, totals, gradient):  # type: ignore[no-untyped-def]
    """totals[plane] = the sum of a plane; a task is some planes."""
    planes, S, group = unpack(geometry, 3)
    run = LONGEST_CHAIN * CHAINS * vector_width(gradient)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for plane in range(task * group, min(planes, task * group + group)):
            total = totals.dtype.type(0)
            for at in range(0, S, run):
                (part,) = _total(min(run, S - at), 1, 0, gradient, plane * S + at)
                total += part
            totals[plane] = total


@kernel
def _by_pixel(thread, counter, tasks, geometry, totals, gradient, scratch):  # type: ignore[no-untyped-def]
    """totals[task] = the sums of a block of pixels."""
    rows, C, block, per_thread = unpack(geometry, 4)
    mine = thread * per_thread
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        end = min(rows, task * block + block)
        for first in range(task * block, end, LONGEST_CHAIN):
            fill_row(scratch, mine, C)
            last = min(end, first + LONGEST_CHAIN)
            for row in range(first, last, TALL):
                _column_totals(C, min(TALL, last - row), C, scratch, mine, gradient, row * C)
            for c in range(C):
                totals[task * C + c] += scratch[mine + c]
