"""Scalar loops of pools and unpools: windows that differ from plane to plane, the adjoint of writing by index."""

from __future__ import annotations

import numpy as np

from fastconv.cpu import threads as pool
from fastconv.cpu import workspace
from fastconv.cpu.jit import kernel
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.pool import tasks_of

#: What is picked from a window: the largest cell, one drawn with the cells' values as odds, or their mean under these.
LARGEST, DRAWN, EXPECTED = range(3)


def collect(
    planes: int, C: int, outputs: int, cells: int, grad: np.ndarray, indices: np.ndarray, out: np.ndarray, threads: int
) -> bool:
    """out[o] = grad[index[o]] for the last o of each index, 0 for the others: the adjoint of writing in order.

    `C` is 1 for channels first, else `planes` are images. Returns whether all indices were in range.
    """
    step, tasks, threads = tasks_of(planes * C, 6.0 * outputs, threads)
    size = workspace.aligned(cells, 8)
    wrong = np.zeros(1, np.int64)
    with workspace.scratch("int64", size, threads) as owners:
        geometry = np.array([planes, C, outputs, cells, step, size], np.int64)
        pool.run(_collect, tasks, (geometry, wrong, owners, indices, grad, out), threads)
    return not wrong[0]


@kernel
def _collect(thread, counter, tasks, geometry, wrong, owners, indices, grad, out):
    """A task is some channels of images. owners[i] is the last output that wrote to cell i."""
    planes, C, outputs, cells, step, size = unpack(geometry, 6)
    mine = thread * size
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for item in range(task * step, min(planes * C, task * step + step)):
            n, c = divmod(item, C)
            first, source = n * outputs * C + c, n * cells * C + c
            for o in range(outputs):
                at = indices[first + o * C]
                if at >= 0 and at < cells:
                    owners[mine + at] = o
                else:
                    wrong[0] = 1
            for o in range(outputs):
                at = indices[first + o * C]
                if at >= 0 and at < cells and owners[mine + at] == o:
                    out[first + o * C] = grad[source + at * C]
                else:
                    out[first + o * C] = 0


def pick(
    op: int, planes: int, sizes: tuple[int, ...], outputs: tuple[int, ...], tables: np.ndarray, table_step: int,
    random: np.ndarray, x: np.ndarray, out: np.ndarray, indices: np.ndarray, threads: int,
) -> None:  # fmt: skip
    """One value for each window, and its place in the plane; channels first, three axes.

    tables: (first cell, cells) of every window along d, then h, then w; `table_step` entries further for each plane
    (0: the same for all). random: a number in [0, 1) for each output, for DRAWN.
    """
    work = 3.0 * outputs[0] * outputs[1] * outputs[2] * max(1, sizes[2] // outputs[2]) * max(1, sizes[1] // outputs[1])
    step, tasks, threads = tasks_of(planes, work + 1, threads)
    geometry = np.array([op, planes, *sizes, *outputs, table_step, step], np.int64)
    pool.run(_pick, tasks, (geometry, tables, indices, random, x, out), threads)


@kernel
def _pick(thread, counter, tasks, geometry, tables, indices, random, x, out):
    """A task is some planes."""
    op, planes, ID, IH, IW, OD, OH, OW, table_step, step = unpack(geometry, 10)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for plane in range(task * step, min(planes, task * step + step)):
            base, at = plane * ID * IH * IW, plane * table_step
            for od in range(OD):
                d0, nd = tables[at + 2 * od], tables[at + 2 * od + 1]
                for oh in range(OH):
                    place = at + 2 * (OD + oh)
                    h0, nh = tables[place], tables[place + 1]
                    for ow in range(OW):
                        place = at + 2 * (OD + OH + ow)
                        w0, nw = tables[place], tables[place + 1]
                        target = ((plane * OD + od) * OH + oh) * OW + ow
                        best, total, squares, ends = x.dtype.type(0), x.dtype.type(0), x.dtype.type(0), True
                        found = (d0 * IH + h0) * IW + w0 if nd * nh * nw > 0 else -1
                        if op == LARGEST and found >= 0:
                            best = x[base + found]
                        for a in range(d0, d0 + nd):
                            for b in range(h0, h0 + nh):
                                for c in range(w0, w0 + nw):
                                    cell = (a * IH + b) * IW + c
                                    value = x[base + cell]
                                    if op == LARGEST:
                                        if value > best or value != value:
                                            best, found = value, cell
                                    else:
                                        total += value
                                        squares += value * value
                        if op == EXPECTED:
                            out[target] = squares / total if total != 0 else total
                            continue
                        if op == DRAWN and found >= 0:
                            best, threshold, total = x[base + found], random[target] * total, x.dtype.type(0)
                            for a in range(d0, d0 + nd):
                                for b in range(h0, h0 + nh):
                                    for c in range(w0, w0 + nw):
                                        cell = (a * IH + b) * IW + c
                                        value = x[base + cell]
                                        total += value
                                        # The last positive cell is taken where rounding leaves none above.
                                        if value != value or (ends and value > 0):
                                            best, found = value, cell
                                            ends = value == value and total <= threshold
                        out[target] = best
                        indices[target] = found
