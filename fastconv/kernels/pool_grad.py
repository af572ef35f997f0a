"""Gradients of pools.

A maximum passes its gradient on to one cell, which its index names: `scatter` adds them up, plane by plane, in the
order of the outputs. A sum passes it on to every cell of its window. Seen from the input that is a sum again, over the
windows that hold a cell: `spread` computes

    grad[i] = sum over taps k of g[(i + lo - k*d) / s]    where the division leaves no rest

with the steps of `kernels/pool.py`, down and across. A stride of s makes s kinds of cells across, those whose i + lo
leave the same rest; each is a stride-1 problem, and they are written interleaved.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu import threads as pool
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.match import place_row, send_row
from fastconv.cpu.reduce import SUM, divide_row, interleave_rows, reduce_rows, splat_row
from fastconv.cpu.rows import copy_row, fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.common import LONGEST_CHAIN
from fastconv.kernels.pool import TILE, Plan, divisor_constants, tasks_of, window
from fastconv.pool_spec import PoolSpec

# ---- maxima -------------------------------------------------------------------------------------------------------

LANES = 512  # channels of a task, channels last
CLEARED = 512  # cells cleared at a time, channels first


def lanes_of(images: int, C: int, threads: int) -> int:
    """Channels of a task, channels last: long rows, but something for all threads to do."""
    lanes = LANES
    while lanes > 16 and images * -(-C // lanes) < threads:
        lanes //= 2
    return lanes


def scatter(
    planes: int, C: int, outputs: int, cells: int, values: np.ndarray, indices: np.ndarray, out: np.ndarray,
    add: bool, threads: int,
) -> bool:  # fmt: skip
    """out = 0, then out[index] += value (or = value, without `add`), plane by plane.

    `C` is 1 for channels first, else `planes` are images. An index of -1 adds nothing. Returns whether all indices were
    in range; the others are left out.
    """
    lanes = lanes_of(planes, C, threads)
    cycles = (2.5 * outputs + 0.3 * cells) * min(C, lanes)
    step, tasks, threads = tasks_of(planes * -(-C // lanes), cycles, threads)
    geometry = np.array([planes, C, outputs, cells, step, add, lanes], np.int64)
    wrong = np.zeros(1, np.int64)
    pool.run(_scatter, tasks, (geometry, wrong, indices, values, out), threads)
    return not wrong[0]


@kernel
def _scatter(thread, counter, tasks, geometry, wrong, indices, values, out):
    """A task is some planes, or some channels of an image."""
    planes, C, outputs, cells, step, add, lanes = unpack(geometry, 7)
    parts = (C + lanes - 1) // lanes
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for block in range(task * step, min(planes * parts, task * step + step)):
            n, part = divmod(block, parts)
            first, width = part * lanes, min(lanes, C - part * lanes)
            base, size = n * cells * C + first, np.uint64(cells)
            # Unsigned numbers: negative indices are out of range too, and numba wraps none around.
            if C == 1:
                # Cells are cleared shortly before they are first needed: windows come in order, so they stay in L1.
                ready, ahead, start = np.uint64(0), np.uint64(CLEARED), np.uint64(base)
                for o in range(n * outputs, n * outputs + outputs):
                    at = np.uint64(indices[o])
                    if at < size:
                        if at >= ready:
                            upto = min(at + ahead, size)
                            fill_row(out, base + np.int64(ready), np.int64(upto - ready))
                            ready = upto
                        out[start + at] = values[o] + out[start + at] if add else values[o]
                    elif indices[o] != -1 or not add:
                        wrong[0] = 1
                fill_row(out, base + np.int64(ready), np.int64(size - ready))
                continue
            if width == C:
                fill_row(out, base, cells * C)
            else:
                for i in range(cells):
                    fill_row(out, base + i * C, width)
            for o in range(outputs):
                source = (n * outputs + o) * C + first
                for c in range(width):
                    at = np.uint64(indices[source + c])
                    if at >= size:
                        if indices[source + c] != -1 or not add:
                            wrong[0] = 1
                    elif add:
                        out[np.uint64(base + c) + at * np.uint64(C)] += values[source + c]
                    else:
                        out[np.uint64(base + c) + at * np.uint64(C)] = values[source + c]


@lru_cache(maxsize=1024)
def send_plan(spec: PoolSpec, threads: int) -> Plan:
    """The gradient of maxima over the spec's windows, channels last."""
    ID, IH, IW, OD, OH, OW, KD, KH, KW, _, _, _, dd, dh, dw, pd, ph, pw = spec.three[:18]
    # Windows that lie side by side and leave no cell out write every cell once: none needs to be cleared.
    tiled = spec.is_tiled and OD * KD - pd >= ID and OH * KH - ph >= IH and OW * KW - pw >= IW
    W, taps = isa.width(spec.dtype), KD * KH * KW
    width = lanes_of(spec.N, spec.C, threads)
    cycles = (OD * OH * OW * (20 + 1.5 * taps * width / W)) + ID * IH * IW * 8
    step, tasks, threads = tasks_of(spec.N * -(-spec.C // width), cycles, threads)
    full = np.add.outer(np.add.outer(np.arange(KD) * dd * IH, np.arange(KH) * dh) * IW, np.arange(KW) * dw).reshape(-1)
    geometry = np.array([spec.N, spec.C, *spec.three[:18], step, width, tiled], np.int64)
    return Plan(
        _send, geometry, full.astype(np.int64), divisor_constants(spec.dtype, 1), tasks, threads, W,
        workspace.aligned(taps, 8), spec.dtype,
    )  # fmt: skip


def match(how: Plan, values: np.ndarray, indices: np.ndarray, cells: np.ndarray) -> bool:
    """Run a `send_plan`, or one of `kernels.blocks`.

    Returns whether every index is a place in its own window; else it must be done one by one.
    """
    wrong = np.zeros(1, np.int64)
    with workspace.scratch("int64", how.list_size, how.threads) as lists:
        pool.run(how.kernel, how.tasks, (how.geometry, how.tables, lists, wrong, indices, values, cells), how.threads)
    return not wrong[0]


@kernel
def _send(thread, counter, tasks, geometry, tables, lists, wrong, indices, values, out):
    """A task is some channels of an image: lanes are channels, and no other task writes to them."""
    (
        images, C, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, step, width, tiled,
    ) = unpack(geometry, 23)  # fmt: skip
    mine, parts = thread * ((tables.size + 7) // 8 * 8), (C + width - 1) // width
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for block in range(task * step, min(images * parts, task * step + step)):
            n, part = divmod(block, parts)
            first, lanes = part * width, min(width, C - part * width)
            if wrong[0]:
                break
            ready = n * ID * IH * IW  # cells up to here are zero or hold sums: cleared shortly before they are needed
            for od in range(OD):
                d0, nd = window(tables, -1, od, sd, pd, KD, dd, ID)
                for oh in range(OH):
                    h0, nh = window(tables, -1, oh, sh, ph, KH, dh, IH)
                    needed = (n * ID + d0 + (nd - 1) * dd) * IH + h0 + (nh - 1) * dh + 1
                    if (od == OD - 1 and oh == OH - 1) or needed > (n + 1) * ID * IH:  # of padding alone: beyond it
                        needed = (n + 1) * ID * IH
                    if tiled:
                        needed = 0
                    if lanes == C:
                        fill_row(out, ready * C, max(needed * IW - ready, 0) * C)
                    else:
                        for i in range(ready, needed * IW):
                            fill_row(out, i * C + first, lanes)
                    ready = max(ready, needed * IW)
                    for ow in range(OW):
                        w0, nw = window(tables, -1, ow, sw, pw, KW, dw, IW)
                        count, cell = nd * nh * nw, (d0 * IH + h0) * IW + w0
                        source = (((n * OD + od) * OH + oh) * OW + ow) * C + first
                        target = (n * ID * IH * IW + cell) * C + first
                        if tiled and count == tables.size:
                            lost = place_row(values, indices, source, out, target, tables, 0, C, count, cell, lanes)
                        elif count == tables.size:
                            lost = send_row(values, indices, source, out, target, tables, 0, C, count, cell, lanes)
                        else:
                            at = mine
                            for a in range(nd):
                                for b in range(nh):
                                    for c in range(nw):
                                        lists[at] = (a * dd * IH + b * dh) * IW + c * dw
                                        at += 1
                            if tiled:
                                lost = place_row(
                                    values, indices, source, out, target, lists, mine, C, count, cell, lanes
                                )  # fmt: skip
                            else:
                                lost = send_row(
                                    values, indices, source, out, target, lists, mine, C, count, cell, lanes
                                )  # fmt: skip
                        if lost:
                            wrong[0] = 1


# ---- sums ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def spread_plan(spec: PoolSpec, divisor: int, threads: int) -> Plan:
    """The adjoint of the sums over the spec's windows, divided by `divisor`."""
    ID, IH, IW, _, _, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw = spec.three[:15]
    W = isa.width(spec.dtype)
    planes, C = (spec.N, spec.C) if spec.channels_last else (spec.N * spec.C, 1)
    rows, per_thread, tables = planes * ID * IH, W, []
    if spec.is_global:
        step, tasks, threads = tasks_of(planes, 20 + 1.5 * ID * IH * IW * C / W, threads)
        numbers = np.array([planes, C, ID * IH * IW, step, workspace.aligned(C, 4)], np.int64)
        constants = divisor_constants(spec.dtype, divisor)
        return Plan(
            spread_planes, numbers, np.empty(0, np.int64), constants, tasks, threads, workspace.aligned(C, 4), 8,
            spec.dtype,
        )  # fmt: skip
    most = (-(-((KD - 1) * dd + 1) // sd)) * -(-((KH - 1) * dh + 1) // sh)
    if spec.channels_last:
        most *= -(-((KW - 1) * dw + 1) // sw)
        cycles = IW * (20 + (most * C) / W + 3 * most)
        geometry = []
        function = spread_channels
    else:
        # Across, cells of rest r read g at q - (k*d - r)/s for the taps k with k*d % s = r; q counts them.
        reach = (KW - 1) * dw // sw
        TW = min(TILE, -(-IW // sw) + 1)  # cells of one rest at a time
        taps = [
            [reach - (k * dw - r) // sw for k in range(KW) if k * dw % sw == r]
            for r in range(min(sw, (KW - 1) * dw + 1))
        ]
        starts = np.cumsum([0, *map(len, taps)])
        tables = [starts, *taps]
        cycles = 60 + OW / W * (most + 2) + IW / W * (-(-KW // sw) + 4) * (1 if sw < 3 else W / 2)
        line = workspace.aligned(TW + reach + W, 4)
        part = workspace.aligned(TW + W, 4)
        geometry = [TW, reach, line, part, len(taps)]
        per_thread = line + min(sw, max(len(taps), 2)) * part
        function = spread_rows
    step, tasks, threads = tasks_of(rows, cycles, threads)
    chunk = min(max(most, 1), LONGEST_CHAIN)
    per_thread = workspace.aligned(per_thread, 4)
    head = [planes, C, *spec.three, step, chunk, per_thread, divisor != 1, *geometry]
    return Plan(
        function, np.array(head, np.int64),
        np.concatenate([np.empty(0, np.int64), *(np.asarray(t, np.int64) for t in tables)]),
        divisor_constants(spec.dtype, divisor), tasks, threads, per_thread, workspace.aligned(chunk, 8), spec.dtype,
    )  # fmt: skip


@inline
def _holders(i, lo, taps, dilation, stride, outputs):
    """(first window, step, windows) along an axis of those that hold cell i; the step is that of dilated windows."""
    reach = (taps - 1) * dilation
    first = max(0, (i + lo - reach + stride - 1) // stride)
    last = min(outputs - 1, (i + lo) // stride)
    if dilation == 1:
        return first, 1, max(last - first + 1, 0)
    while first <= last and (i + lo - first * stride) % dilation:
        first += 1
    if first > last:
        return 0, 1, 0
    step = 1
    while step * stride % dilation:
        step += 1
    return first, step, (last - first) // step + 1


@kernel
def spread_planes(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """One window over each plane, in either memory order. A task is some planes or images."""
    planes, C, cells, step, per_thread = unpack(geometry, 5)
    line = thread * per_thread
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for plane in range(task * step, min(planes, task * step + step)):
            divide_row(C, scratch, line, x, plane * C, constants[0], constants[1])
            first = plane * cells * C
            if C == 1:
                splat_row(out, first, cells, scratch[line])
            else:
                for i in range(cells):
                    copy_row(scratch, line, out, first + i * C, C)


@kernel
def spread_channels(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """Channels last: x is the gradient of the output. A task is some rows of the input."""
    (
        planes, C, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, _, _, _,
        step, chunk, _, divide,
    ) = unpack(geometry, 27)  # fmt: skip
    mine = thread * ((chunk + 7) // 8 * 8)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(planes * ID * IH, task * step + step)):
            rest, ih = divmod(row, IH)
            n, i = divmod(rest, ID)
            d0, d_step, nd = _holders(i, pd, KD, dd, sd, OD)
            h0, h_step, nh = _holders(ih, ph, KH, dh, sh, OH)
            for iw in range(IW):
                w0, w_step, nw = _holders(iw, pw, KW, dw, sw, OW)
                target, count = (row * IW + iw) * C, nd * nh * nw
                source = (((n * OD + d0) * OH + h0) * OW + w0) * C
                if count == 0:
                    fill_row(out, target, C)
                elif count == 1:
                    copy_row(x, source, out, target, C)
                else:
                    for t in range(0, count, chunk):
                        taps = min(chunk, count - t)
                        b, c = divmod(t, nw)
                        a, b = divmod(b, nh)
                        for j in range(taps):
                            lists[mine + j] = ((a * d_step * OH) + b * h_step) * OW + c * w_step
                            c += 1
                            if c == nw:
                                b, c = b + 1, 0
                                if b == nh:
                                    a, b = a + 1, 0
                        reduce_rows(SUM, x, source, lists, mine, C, taps, out, target, C, t)
            if divide:
                first = row * IW * C
                divide_row(IW * C, out, first, out, first, constants[0], constants[1])


@kernel
def spread_rows(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """Channels first: x is the gradient of the output. A task is some rows of the input."""
    (
        planes, _, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, _, pd, ph, pw, _, _, _,
        step, chunk, per_thread, divide, TW, reach, parts, part, rests,
    ) = unpack(geometry, 32)  # fmt: skip
    line, mine = thread * per_thread, thread * ((chunk + 7) // 8 * 8)
    parts += line
    q_first, q_last = pw // sw, (IW - 1 + pw) // sw
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(planes * ID * IH, task * step + step)):
            rest, ih = divmod(row, IH)
            n, i = divmod(rest, ID)
            d0, d_step, nd = _holders(i, pd, KD, dd, sd, OD)
            h0, h_step, nh = _holders(ih, ph, KH, dh, sh, OH)
            count, target = nd * nh, row * IW
            if count == 0:
                fill_row(out, target, IW)
                continue
            for q0 in range(q_first, q_last + 1, TW):
                width = min(TW, q_last + 1 - q0)
                # 1. Down: line[j] is the sum at ow = q0 - reach + j, zero beyond the row.
                start, span = q0 - reach, width + reach
                begin = min(max(-start, 0), span)
                end = min(max(OW - start, begin), span)
                fill_row(scratch, line, begin)
                fill_row(scratch, line + end, span - end)
                for t in range(0, count if end > begin else 0, chunk):
                    taps = min(chunk, count - t)
                    a, b = divmod(t, nh)
                    for j in range(taps):
                        lists[mine + j] = (a * d_step * OH + b * h_step) * OW
                        b += 1
                        if b == nh:
                            a, b = a + 1, 0
                    source = ((n * OD + d0) * OH + h0) * OW + start + begin
                    reduce_rows(SUM, x, source, lists, mine, 1, taps, scratch, line + begin, end - begin, t)
                # 2. Across, for each rest: cells iw = q*sw + r - pw.
                if sw == 1:
                    for t in range(0, KW, LONGEST_CHAIN):
                        reduce_rows(
                            SUM, scratch, line, tables, rests + 1 + t, 1, min(LONGEST_CHAIN, KW - t), out,
                            target + q0 - pw, width, t,
                        )  # fmt: skip
                    continue
                for r in range(sw):
                    at = parts + (r if sw == 2 else 0) * part
                    first, taps = 0, 0
                    if r < rests:
                        first, taps = tables[r], tables[r + 1] - tables[r]
                    if taps == 0:
                        fill_row(scratch, at, width)
                    for t in range(0, taps, LONGEST_CHAIN):
                        reduce_rows(
                            SUM, scratch, line, tables, rests + 1 + first + t, 1, min(LONGEST_CHAIN, taps - t), scratch,
                            at, width, t,
                        )  # fmt: skip
                    if sw > 2:
                        for q in range(width):
                            iw = (q0 + q) * sw + r - pw
                            if iw >= 0 and iw < IW:
                                out[target + iw] = scratch[at + q]
                if sw == 2:
                    # The row begins with an even or an odd cell, and so it may end.
                    iw = q0 * 2 - pw
                    if iw < 0:
                        out[target] = scratch[parts + part]
                        number = min(2 * width - 2, IW - 1)
                        interleave_rows(scratch, parts + 1, parts + part + 1, out, target + 1, number)
                    else:
                        interleave_rows(scratch, parts, parts + part, out, target + iw, min(2 * width, IW - iw))
            if divide:
                divide_row(IW, out, target, out, target, constants[0], constants[1])
