"""Pools: the maximum, sum or sum of squares of every window.

Channels last, the lanes are channels and a window is a list of pixels. Channels first, the lanes are pixels of a row,
and a window is two steps: its rows become one (down), then shifted copies of that row become one (across). A stride of
2 splits the row into even and odd cells first, so that the shifted copies lie side by side. One window over a whole
plane is a run of memory.

Only the list of rows or pixels knows about padding: cells outside are left out, or, across, hold what changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu import threads as pool
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.reduce import MAX, SQUARES, SUM, divide_row, rank_rows, reduce_rows, reduce_run, root_row
from fastconv.cpu.rows import copy_every_second
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.common import LONGEST_CHAIN
from fastconv.pool_spec import PoolSpec
from fastconv.spec import ITEMSIZES

#: What is done to the finished sums. EXCLUDE and INCLUDE divide by the number of cells without and with padding.
PLAIN, DIVIDE, EXCLUDE, INCLUDE, ROOT = range(5)

TASK = 60_000  # cycles that make a task worth claiming
ALONE = 120_000  # cycles up to which the second thread would wake up too late
PACKED = 24 << 10  # bytes of a packed tile: half of L1
TILE = 2048  # columns of a row computed at a time, so that they stay in L1

Windows = tuple[tuple[tuple[int, int], ...] | None, ...]


@dataclass(frozen=True)
class Plan:
    """How a pool runs: everything about its kernel but the data."""

    kernel: object
    geometry: np.ndarray
    tables: np.ndarray
    constants: np.ndarray
    tasks: int
    threads: int
    per_thread: int
    list_size: int
    dtype: str


def tasks_of(rows: int, cycles: float, threads: int) -> tuple[int, int, int]:
    """(rows of a task, tasks, threads) for so many rows of so many cycles each."""
    if rows * cycles < ALONE:
        threads = 1
    if threads == 1:
        return rows, 1, 1
    step = max(1, min(int(TASK / cycles), -(-rows // (4 * threads))))
    return step, -(-rows // step), threads


def divisor_constants(dtype: str, divisor: int) -> np.ndarray:
    """The divisor and its rounded reciprocal, as `divide_row` wants them."""
    if np.dtype(dtype).kind != "f":
        return np.zeros(2, dtype)
    value = np.dtype(dtype).type(divisor)
    return np.array([value, 1 / value], dtype)


def _fill_windows(windows: Windows, at: int) -> tuple[list[int], list[int]]:
    """Tables of irregular windows, and where each of the three axes has its own (-1: it is regular)."""
    places: list[int] = []
    values: list[int] = []
    for axis in (None,) * (3 - len(windows)) + windows:
        places.append(-1 if axis is None else at + len(values))
        values += [number for pair in axis or () for number in pair]
    return places, values


@lru_cache(maxsize=1024)
def plan(
    spec: PoolSpec, op: int, finish: int, divisor: int, indexed: bool, threads: int, windows: Windows = ()
) -> Plan:
    """The plan of a pool. `windows` holds per axis the (first cell, cells) of irregular windows, or None."""
    ID, IH, IW, OD, OH, OW, KD, KH, KW, _, sh, sw, dd, dh, dw = spec.three[:15]
    if not windows and (spec.is_within_padding if finish == INCLUDE else finish == EXCLUDE and spec.is_inside):
        finish, divisor = DIVIDE, KD * KH * KW  # all windows have as many cells
    W, planes = isa.width(spec.dtype), spec.N if spec.channels_last else spec.N * spec.C
    C = spec.C if spec.channels_last else 1
    rows, constants = planes * OD * OH, divisor_constants(spec.dtype, divisor)
    work, list_size, per_thread = 2.0 if op == MAX else 1.0, 0, 0
    head = [op, finish, planes, C, *spec.three]
    full = np.add.outer(np.add.outer(np.arange(KD) * dd * IH, np.arange(KH) * dh) * IW, np.arange(KW) * dw).reshape(-1)
    if spec.channels_last:
        chunk = min(KD * KH * KW, LONGEST_CHAIN)
        taps = full if len(full) <= chunk else full[:0]
        cycles = OW * (20 + KD * KH * KW * (work * C / W + 3 + 3 * indexed))
        step, tasks, threads = tasks_of(rows, cycles, threads)
        places, values = _fill_windows(windows, len(taps))
        geometry = [*head, step, *places, chunk, len(taps)]
        tables = [taps, values]
        function, list_size = channels_kernel, 0 if len(taps) and spec.is_inside and not windows else chunk
    elif spec.is_global and not indexed:
        cycles = 20 + work * ID * IH * IW / W
        step, tasks, threads = tasks_of(planes, cycles, threads)
        geometry, tables, function = [*head, step], [], planes_kernel
    elif indexed:
        # Rows of a tile with their padding, cut into stride phases: [d][row][phase][column].
        used = sorted({k * dw % sw for k in range(KW)})
        TW = min(OW, TILE)
        half = TW + (KW - 1) * dw // sw + W
        pitch, extent = half * len(used), (KH - 1) * dh + 1
        TH = max(1, min(OH, (PACKED // (ITEMSIZES[spec.dtype] * KD * pitch) - extent) // sh + 1))
        tall = (TH - 1) * sh + extent
        across = np.array([used.index(k * dw % sw) * half + k * dw // sw for k in range(KW)])
        taps = np.add.outer(np.add.outer(np.arange(KD) * tall, np.arange(KH) * dh) * pitch, across).reshape(-1)
        blocks = planes * OD * -(-OH // TH)
        cycles = TH * (40 + TW / W * (KD * KH * KW * 4 + 4))
        step, tasks, threads = tasks_of(blocks, cycles, threads)
        per_thread = KD * tall * pitch + W
        geometry = [*head, step, TH, TW, half, pitch, tall, len(used), 0, len(taps), 2 * len(taps)]
        tables, function = [taps, full, used], ranked_kernel
    else:
        TW = min(OW, TILE)
        span = (TW - 1) * sw + (KW - 1) * dw + 1
        half = (span + 1) // 2 + W
        taps = np.array([k * dw % 2 * half + k * dw // 2 if sw == 2 else k * dw for k in range(KW)])
        places, values = _fill_windows(windows, len(taps))
        if places[2] >= 0:
            TW, span = OW, IW
        list_size = min(KD * KH, LONGEST_CHAIN)
        per_thread = span + 2 * half + 2 * W
        cycles = 60 + IW / W * (KD * KH * work + 4) + OW / W * (KW * work + 4) * (1 if sw < 3 else W)
        step, tasks, threads = tasks_of(rows, cycles, threads)
        geometry = [*head, step, *places, list_size, TW, workspace.aligned(span + W, 4), half]
        tables, function = [taps, values], rows_kernel
        per_thread += W
    per_thread = workspace.aligned(per_thread, 4)
    table = np.concatenate([np.empty(0, np.int64), *(np.asarray(t, np.int64) for t in tables)])
    numbers = np.array([*geometry, per_thread], np.int64)
    return Plan(
        function, numbers, table, constants, tasks, threads, per_thread, workspace.aligned(list_size, 8),
        spec.dtype,
    )  # fmt: skip


_NO_INDICES = np.empty(0, np.int64)


def run(how: Plan, x: np.ndarray, out: np.ndarray, indices: np.ndarray = _NO_INDICES) -> None:
    """Run a plan on arrays in memory order."""
    if not how.list_size + how.per_thread:
        arrays = (how.geometry, how.tables, _NO_INDICES, indices, how.constants, x, how.constants, out)
        pool.run(how.kernel, how.tasks, arrays, how.threads)
        return
    lists = workspace.scratch("int64", how.list_size, how.threads)
    scratch = workspace.scratch(how.dtype, how.per_thread, how.threads)
    arrays = (how.geometry, how.tables, lists.view, indices, how.constants, x, scratch.view, out)
    pool.run(how.kernel, how.tasks, arrays, how.threads)
    scratch.give_back()
    lists.give_back()


# ---- windows ------------------------------------------------------------------------------------------------------


@inline
def window(tables, at, o, stride, lo, taps, dilation, size):
    """(first cell, cells) of window o along an axis: those of its taps that lie in the input."""
    if at >= 0:
        return tables[at + 2 * o], tables[at + 2 * o + 1]
    start = o * stride - lo
    if dilation == 1:
        return max(start, 0), max(min(start + taps, size) - max(start, 0), 0)
    first = max(0, -(start // dilation))
    return start + first * dilation, max(min(taps, -((start - size) // dilation)) - first, 0)


@inline
def _padded(o, stride, lo, hi, taps, dilation, size):
    """Taps of window o that lie in the input or its padding."""
    return min(taps, -((o * stride - lo - size - hi) // dilation))


@inline
def _least(array):
    """What every element of the array's dtype is at least, as `cpu.reduce.least`."""
    kind = array.dtype.type
    return kind(-np.inf) if kind(0.5) != kind(0) else kind(-(1 << (8 * array.itemsize - 1)))


@inline
def _across(op, src, s0, tables, t0, count, dst, d0, n):
    """Shifted copies of a row become one, in chains that are not too long."""
    for t in range(0, count, LONGEST_CHAIN):
        reduce_rows(op, src, s0, tables, t0 + t, 1, min(LONGEST_CHAIN, count - t), dst, d0, n, t)


@kernel
def channels_kernel(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """Channels last. A task is some rows of the output; scratch is not used."""
    (
        op, finish, planes, C, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, qd, qh, qw,
        step, at_d, at_h, at_w, chunk, static,
    ) = unpack(geometry, 31)  # fmt: skip
    full, mine = KD * KH * KW if static else -1, thread * ((chunk + 7) // 8 * 8)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(planes * OD * OH, task * step + step)):
            rest, oh = divmod(row, OH)
            n, od = divmod(rest, OD)
            d0, nd = window(tables, at_d, od, sd, pd, KD, dd, ID)
            h0, nh = window(tables, at_h, oh, sh, ph, KH, dh, IH)
            first = row * OW * C
            for ow in range(OW):
                w0, nw = window(tables, at_w, ow, sw, pw, KW, dw, IW)
                target, count, cell = first + ow * C, nd * nh * nw, (d0 * IH + h0) * IW + w0
                source = (n * ID * IH * IW + cell) * C
                if count == 0:
                    for c in range(target, target + C):
                        out[c] = _least(out) if op == MAX else 0
                        if indices.size:
                            indices[c] = -1
                for t in range(0, count, chunk):
                    taps = min(chunk, count - t)
                    if count != full:
                        # The next taps of this window: t, t + 1, ... along (d, h, w).
                        b, c = divmod(t, nw)
                        a, b = divmod(b, nh)
                        for i in range(taps):
                            lists[mine + i] = (a * dd * IH + b * dh) * IW + c * dw
                            c += 1
                            if c == nw:
                                b, c = b + 1, 0
                                if b == nh:
                                    a, b = a + 1, 0
                    initial = 0 if t == 0 else -1
                    if indices.size and count == full:
                        rank_rows(x, source, tables, 0, 0, C, taps, out, target, indices, C, initial, t, cell, 0)
                    elif indices.size:
                        rank_rows(x, source, lists, mine, mine, C, taps, out, target, indices, C, initial, t, cell, 0)
                    elif count == full:
                        reduce_rows(op, x, source, tables, 0, C, taps, out, target, C, t)
                    else:
                        reduce_rows(op, x, source, lists, mine, C, taps, out, target, C, t)
                if finish == EXCLUDE or finish == INCLUDE:
                    if finish == INCLUDE:
                        count = _padded(od, sd, pd, qd, KD, dd, ID) * _padded(oh, sh, ph, qh, KH, dh, IH)
                        count *= _padded(ow, sw, pw, qw, KW, dw, IW)
                    divisor = out.dtype.type(max(count, 1))
                    divide_row(C, out, target, out, target, divisor, constants.dtype.type(1 / divisor))
            if finish == DIVIDE:
                divide_row(OW * C, out, first, out, first, constants[0], constants[1])
            elif finish == ROOT:
                root_row(OW * C, out, first, out, first)


@kernel
def planes_kernel(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """One window over each whole plane, channels first."""
    op, finish, planes, _, ID, IH, IW = unpack(geometry, 7)
    step, size = geometry[25], ID * IH * IW
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        first, last = task * step, min(planes, task * step + step)
        for plane in range(first, last):
            out[plane] = reduce_run(op, x, plane * size, size)
        if finish == DIVIDE:
            divide_row(last - first, out, first, out, first, constants[0], constants[1])
        elif finish == ROOT:
            root_row(last - first, out, first, out, first)


@kernel
def rows_kernel(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """Channels first. A task is some rows of the output."""
    (
        op, finish, planes, _, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, qd, qh, qw,
        step, at_d, at_h, at_w, chunk, TW, halves, half, per_thread,
    ) = unpack(geometry, 34)  # fmt: skip
    line, mine, again = thread * per_thread, thread * ((chunk + 7) // 8 * 8), SUM if op == SQUARES else op
    halves += line
    direct = KW == 1 and sw == 1 and pw == 0 and OW == IW and at_w < 0
    nothing = _least(out) if op == MAX else out.dtype.type(0)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(planes * OD * OH, task * step + step)):
            rest, oh = divmod(row, OH)
            n, od = divmod(rest, OD)
            d0, nd = window(tables, at_d, od, sd, pd, KD, dd, ID)
            h0, nh = window(tables, at_h, oh, sh, ph, KH, dh, IH)
            count, source = nd * nh, ((n * ID + d0) * IH + h0) * IW
            for w0 in range(0, OW, TW):
                width, target = min(TW, OW - w0), row * OW + w0
                # 1. Down: the rows of the window become one, with its padding.
                start, span = w0 * sw - pw, (width - 1) * sw + (KW - 1) * dw + 1
                if at_w >= 0:
                    start, span = 0, IW
                begin = min(max(-start, 0), span)
                end = min(max(IW - start, begin), span)
                if count == 0:
                    begin = end = 0
                for i in range(begin):
                    scratch[line + i] = nothing
                for i in range(end, span):
                    scratch[line + i] = nothing
                if end > begin:
                    for t in range(0, count, chunk):
                        taps = min(chunk, count - t)
                        a, b = divmod(t, nh)
                        for i in range(taps):
                            lists[mine + i] = (a * dd * IH + b * dh) * IW
                            b += 1
                            if b == nh:
                                a, b = a + 1, 0
                        if direct:
                            reduce_rows(op, x, source + start, lists, mine, 1, taps, out, target, width, t)
                        else:
                            reduce_rows(
                                op, x, source + start + begin, lists, mine, 1, taps, scratch, line + begin,
                                end - begin, t,
                            )  # fmt: skip
                # 2. Across: its shifted copies become one.
                if direct:
                    if count == 0:
                        for i in range(width):
                            out[target + i] = nothing
                elif sw == 1 and at_w < 0:
                    _across(again, scratch, line, tables, 0, KW, out, target, width)
                elif sw == 2 and at_w < 0:
                    copy_every_second(scratch, line, scratch, halves, (span + 1) // 2)
                    copy_every_second(scratch, line + 1, scratch, halves + half, span // 2)
                    _across(again, scratch, halves, tables, 0, KW, out, target, width)
                else:
                    for ow in range(width):
                        first, number, apart = ow * sw, KW, dw
                        if at_w >= 0:
                            first, number, apart = tables[at_w + 2 * ow], tables[at_w + 2 * ow + 1], 1
                        total = scratch[line + first]
                        for k in range(1, number):
                            value = scratch[line + first + k * apart]
                            if again == SUM:
                                total += value
                            elif value > total or value != value:
                                total = value
                        out[target + ow] = total
                # 3. What is done to the sums.
                if finish == DIVIDE:
                    divide_row(width, out, target, out, target, constants[0], constants[1])
                elif finish == ROOT:
                    root_row(width, out, target, out, target)
                elif finish != PLAIN:
                    # Windows inside the row share a divisor; those at its ends come one by one.
                    high = 0 if finish == EXCLUDE else qw
                    low = 0 if finish == INCLUDE else min(max((pw + sw - 1) // sw - w0, 0), width)
                    last = min(max((IW + high - (KW - 1) * dw - 1 + pw) // sw + 1 - w0, low), width)
                    if IW + high + pw < (KW - 1) * dw + 1 or at_w >= 0:
                        low = last = 0
                    rows = count
                    if finish == INCLUDE:
                        rows = _padded(od, sd, pd, qd, KD, dd, ID) * _padded(oh, sh, ph, qh, KH, dh, IH)
                    divisor = out.dtype.type(max(rows * KW, 1))
                    inverse = constants.dtype.type(1 / divisor)
                    divide_row(last - low, out, target + low, out, target + low, divisor, inverse)
                    for i in range(width - (last - low)):
                        ow = i if i < low else i + last - low
                        if finish == INCLUDE:
                            cells = rows * _padded(w0 + ow, sw, pw, qw, KW, dw, IW)
                        else:
                            cells = rows * window(tables, at_w, w0 + ow, sw, pw, KW, dw, IW)[1]
                        out[target + ow] = out[target + ow] / out.dtype.type(max(cells, 1))


@kernel
def ranked_kernel(thread, counter, tasks, geometry, tables, lists, indices, constants, x, scratch, out):
    """Maxima and their places, channels first. A task is some tiles of rows; a tile is packed with its padding."""
    (
        _, _, planes, _, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, _, _, _,
        step, TH, TW, half, pitch, tall, phases, taps, ranks, used, per_thread,
    ) = unpack(geometry, 36)  # fmt: skip
    mine, count = thread * per_thread, KD * KH * KW
    bands, nothing = (OH + TH - 1) // TH, _least(out)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for block in range(task * step, min(planes * OD * bands, task * step + step)):
            rest, band = divmod(block, bands)
            n, od = divmod(rest, OD)
            height = min(TH, OH - band * TH)
            for w0 in range(0, OW, TW):
                width = min(TW, OW - w0)
                for kd in range(KD):
                    for r in range((height - 1) * sh + (KH - 1) * dh + 1):
                        at_d, at_h = od * sd - pd + kd * dd, band * TH * sh - ph + r
                        inside = at_d >= 0 and at_d < ID and at_h >= 0 and at_h < IH
                        for p in range(phases):
                            target = mine + (kd * tall + r) * pitch + p * half
                            cells = width + ((KW - 1) * dw - tables[used + p]) // sw
                            start = w0 * sw - pw + tables[used + p]
                            begin = min(max((-start + sw - 1) // sw, 0), cells) if inside else cells
                            end = min(max((IW - start + sw - 1) // sw, begin), cells)
                            source = ((n * ID + at_d) * IH + at_h) * IW + start
                            for i in range(begin):
                                scratch[target + i] = nothing
                            for i in range(end, cells):
                                scratch[target + i] = nothing
                            _copy(x, source + begin * sw, sw, scratch, target + begin, end - begin)
                for i in range(height):
                    oh = band * TH + i
                    target = ((n * OD + od) * OH + oh) * OW + w0
                    base = ((od * sd - pd) * IH + oh * sh - ph) * IW + w0 * sw - pw
                    none = rank_rows(
                        scratch, mine + i * sh * pitch, tables, taps, ranks, 1, count, out, target, indices, width, -1,
                        0, base, sw,
                    )  # fmt: skip
                    if none:  # nothing beats minus infinity: the first cell of the window stands for it
                        a, nd = window(tables, -1, od, sd, pd, KD, dd, ID)
                        b, nh = window(tables, -1, oh, sh, ph, KH, dh, IH)
                        for ow in range(width):
                            c, nw = window(tables, -1, w0 + ow, sw, pw, KW, dw, IW)
                            if indices[target + ow] < 0 and nd * nh * nw > 0:
                                indices[target + ow] = (a * IH + b) * IW + c


@inline
def _copy(src, s0, step, dst, d0, n):
    """dst[d0 + i] = src[s0 + i*step]."""
    if step == 2:
        copy_every_second(src, s0, dst, d0, n)
    else:
        for i in range(n):
            dst[d0 + i] = src[s0 + i * step]
