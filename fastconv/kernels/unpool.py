"""Scalar loops of pools and unpools: windows that differ from plane to plane, the adjoint of writing by index."""

from __future__ import annotations

import numpy as np

from fastconv.cpu import threads as pool
from fastconv.cpu import workspace
from fastconv.cpu.jit import kernel
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.pool import tasks_of
from fastconv.kernels.pool_grad import lanes_of

#: What is picked from a window: the largest cell, one drawn with the cells' values as odds, or their mean under these.
LARGEST, DRAWN, EXPECTED = range(3)


MARKS = 4 << 20  # bytes of a task's marks, where not even one channel's take more


def collect(
    planes: int, C: int, outputs: int, cells: int, grad: np.ndarray, indices: np.ndarray, out: np.ndarray, threads: int
) -> bool:
    """out[o] = grad[index[o]] for the last o of each index, 0 for the others: the adjoint of writing in order.

    `C` is 1 for channels first, else `planes` are images. Returns whether all indices were in range.
    """
    width = max(1, min(C, lanes_of(planes, C, threads), MARKS // cells))
    step, tasks, threads = tasks_of(planes * -(-C // width), (4.0 * outputs + 0.1 * cells) * width, threads)
    size = workspace.aligned(cells * width, 1)
    wrong = np.zeros(1, np.int64)
    with workspace.scratch("int8", size, threads) as marks:
        geometry = np.array([planes, C, outputs, cells, step, size, width], np.int64)
        pool.run(_collect, tasks, (geometry, wrong, marks, indices, grad, out), threads)
    return not wrong[0]


@kernel
def _collect(thread, counter, tasks, geometry, wrong, marks, indices, grad, out):
    """A task is some planes, or some channels of an image. A mark says that a later output wrote to the cell."""
    planes, C, outputs, cells, step, size, lanes = unpack(geometry, 7)
    mine, parts = np.uint64(thread * size), (C + lanes - 1) // lanes
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for block in range(task * step, min(planes * parts, task * step + step)):
            n, part = divmod(block, parts)
            first, width = part * lanes, min(lanes, C - part * lanes)
            for i in range(cells * width):
                marks[mine + np.uint64(i)] = 0
            # Unsigned numbers: negative indices are out of range too, and numba wraps none around.
            if C == 1:
                base, target = np.uint64(n * cells), n * outputs
                for o in range(target + outputs - 1, target - 1, -1):
                    at, value = np.uint64(indices[o]), out.dtype.type(0)
                    if at < np.uint64(cells):
                        if marks[mine + at] == 0:
                            value = grad[base + at]
                        marks[mine + at] = 1
                    else:
                        wrong[0] = 1
                    out[np.uint64(o)] = value
                continue
            for o in range(outputs - 1, -1, -1):
                source, target = n * cells * C + first, (n * outputs + o) * C + first
                for c in range(width):
                    at, value = np.uint64(indices[target + c]), out.dtype.type(0)
                    if at < np.uint64(cells):
                        mark = mine + at * np.uint64(width) + np.uint64(c)
                        if marks[mark] == 0:
                            value = grad[np.uint64(source + c) + at * np.uint64(C)]
                        marks[mark] = 1
                    else:
                        wrong[0] = 1
                    out[target + c] = value


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
