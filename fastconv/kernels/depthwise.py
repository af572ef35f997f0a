"""Depthwise convolution: one input channel per output, no sums over channels, and so no matrix product.

What bounds it is moving data, between memory and the core and between L1 and the registers. Rolling windows
(`cpu/window.py`) load each input vector once for all the output rows that it belongs to. Rows are read where they lie:
for zero padding, cells outside the image are lanes that a masked load leaves at zero, and only windows on the border
pay for masks. Strides, other padding modes and rows a page apart are packed first, a tile of one channel in L1. Small
kernels, those of most networks, have a simpler way: `depthwise_rolling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu import threads as pool
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, extremes, unpack, vector_width
from fastconv.cpu.window import IMAGE_FORMS, MASKED, MASKED_2, PLAIN, best_heights, cut, heights, window
from fastconv.kernels import depthwise_last, depthwise_rolling, pack
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import FURTHER, HIGHEST, LOWEST, Epilogue, activate
from fastconv.kernels.pack import pack_row
from fastconv.spec import ConvSpec

NAME = "depthwise"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "short sums, of some rows of the kernel each, added up"

TILE = 24 << 10  # bytes of a packed tile: half of L1, the other half holds outputs
TASK = 30_000  # cycles that make a task worth claiming


@dataclass(frozen=True)
class Params:
    geometry: np.ndarray
    tables: np.ndarray
    no_bias: np.ndarray
    tasks: int
    threads: int
    per_thread: int
    workspace: int
    cost: Cost
    last: Params | None = None  # where lanes can be channels: how
    rolls: bool = False  # whether geometry and tables are those of `depthwise_rolling`


def refuses(spec: ConvSpec) -> str | None:
    if not spec.is_depthwise:
        return f"it has {spec.C // spec.groups} input channels per group, depthwise means 1"
    return None


# ---- the plan ----------------------------------------------------------------------------------------------------


def _chunks(
    spec: ConvSpec, d: pack.Axis, h: pack.Axis, place: tuple[int, int, int], start: Sequence[int], planes: int
) -> list[list[int]]:
    """Kernel rows in runs along h that share loaded vectors.

    `place` is the pitch of (row of d, plane, row of h); phase p of h begins at plane start[p], `planes` to a phase.
    """
    _, KH, KW = spec.kernel3
    most, pieces = cut(KH if _row_step(spec) == 1 else 1, KW, spec.kernel3[0] * (1 if _row_step(spec) == 1 else KH))
    across = [(KW * i // pieces, KW * (i + 1) // pieces) for i in range(pieces)]
    chunks = []
    for i, (pd, qd) in enumerate(d.taps):
        for phase in range(len(h.phases)):
            rows = sorted((q, k) for k, (p, q) in enumerate(h.taps) if p == phase)
            parts = -(-len(rows) // most)
            bounds = [len(rows) * part // parts for part in range(parts + 1)]
            for begin, end in pairwise(bounds):
                q, k = rows[begin]
                at = qd * place[0] + (pd * len(h.phases) + start[phase]) * planes * place[1] + q * place[2]
                row = q * spec.stride3[1] + h.phases[phase]
                chunks += [[at, end - begin, (i * KH + k) * KW + s, row, s, e - s] for s, e in across]
    return chunks


def _row_step(spec: ConvSpec) -> int:
    """Rows between neighbouring taps of one stride phase."""
    return spec.dilation3[1] // gcd(spec.dilation3[1], spec.stride3[1]) if spec.kernel3[1] > 1 else 1


def _masks(spec: ConvSpec, taps: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Lanes inside the image per (column of vectors, tap), and the range of columns that need no mask."""
    W, OW, IW, lo, stride = isa.width(spec.dtype), spec.output3[2], spec.input3[2], spec.padding3[2][0], spec.stride3[2]
    start = np.minimum(np.arange(-(-OW // W)) * W, max(OW - W, 0)) * stride
    lanes = np.arange(0, W * stride, stride)
    cell = start[:, None, None] + np.array(taps)[None, :, None] + lanes - lo
    inside = (cell >= 0) & (cell < IW)
    whole = np.flatnonzero(inside.all(axis=(1, 2)))
    if stride > 1 or not len(whole):
        whole = np.array([len(start), len(start) - 1])  # none
    begin, end = int(whole[0]), int(whole[-1]) + 1
    return (inside << lanes).sum(axis=2).astype(np.int64).reshape(-1), begin, end


def _in_place(spec: ConvSpec) -> bool:
    """Whether windows can read the input where it lies."""
    aliased = spec.input3[2] * spec.itemsize % 2048 == 0 and spec.kernel3[1] > 5  # rows that share cache sets
    return (
        not spec.channels_last
        and spec.stride3[2] <= 2
        and spec.padding_mode == "zeros"
        and spec.kernel3[0] == 1
        and spec.padding3[0] == (0, 0)
        and spec.output3[1] > 1
        and not aliased
        and isa.name() != "baseline"  # no masked loads
    )


def _tasks(spec: ConvSpec, threads: int, cycles: float) -> tuple[int, int, int]:
    """Channels and rows of a task, where a plane takes `cycles`, and the number of tasks."""
    OD, OH, _ = spec.output3
    planes = spec.N * spec.C * OD
    group = max(1, min(spec.C, int(TASK / cycles), -(-planes // (4 * threads))))
    rows, tallest = OH, max(heights())
    if planes < 4 * threads and cycles > TASK:
        parts = min(-(-8 * threads // planes), int(cycles / TASK) + 1)
        rows = min(OH, (OH - 1) // (parts * tallest) * tallest + tallest)
    return group, rows, spec.N * OD * -(-spec.C // group) * -(-OH // rows)


def _rolling_parameters(spec: ConvSpec, threads: int) -> Params:
    group, rows, tasks = _tasks(spec, threads, depthwise_rolling.cycles(spec) * spec.OC // spec.C)
    geometry, tables = depthwise_rolling.tables(spec, group, rows)
    zeros = np.zeros(max(spec.OC, spec.input3[2]) + isa.width(spec.dtype), spec.dtype)
    columns = -(-spec.output3[2] // isa.width(spec.dtype)) * isa.width(spec.dtype)
    flops = 2.0 * spec.N * spec.OC * spec.output3[0] * spec.output3[1] * columns * spec.K
    return Params(geometry, tables, zeros, tasks, threads, 0, 0, Cost(flops, spec.moved_bytes, 0.0, tasks), rolls=True)


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    if depthwise_rolling.accepts(spec):
        return _rolling_parameters(spec, threads)
    params = _plane_parameters(spec, threads, limit)
    if isinstance(params, str) or not depthwise_last.accepts(spec):
        return params
    OD, OH, OW = spec.output3
    cycles = -(-spec.C // isa.width(spec.dtype)) * OW * (0.6 * spec.K + 3)  # of one row
    rows = max(1, min(OH, int(TASK / cycles), -(-spec.N * OD * OH // (4 * threads))))
    geometry, tables = depthwise_last.tables(spec, rows)
    tasks = spec.N * OD * -(-OH // rows)
    no_bias = np.zeros(spec.C + isa.width(spec.dtype), spec.dtype)
    work = Cost(float(spec.flops), params.cost.bytes, 0.0, tasks)
    last = Params(geometry, tables, no_bias, tasks, threads, 0, 0, work)
    return replace(params, cost=work, last=last)


def _plane_parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    d, h, w = (pack.axis(spec, i) for i in range(3))
    W, size, M = isa.width(spec.dtype), spec.itemsize, spec.OC // spec.C
    (ID, IH, IW), (OD, OH, OW), (_, _, KW) = spec.input3, spec.output3, spec.kernel3
    nh, nw = len(h.phases), len(w.phases)
    in_place = _in_place(spec)
    phases = len(d.phases) * nh * nw * (1 + d.halo)
    tallest = max(heights())

    # 1. The tile: whole rows if a few of them fit L1, else a part of each.
    TH, TW = OH, OW
    if not in_place:
        least = min(OH, tallest) + h.halo
        TW = min(OW, max(2 * W, (TILE // size // (phases * least) - w.halo) // W * W))
        TH = min(OH, max(min(OH, tallest), TILE // size // (phases * (TW + w.halo)) - h.halo))
        if TH < OH:
            TH = TH // tallest * tallest
    pitch = spec.stride3[1] * IW if in_place else TW + w.halo
    pitch += W if pitch * size % 1024 == 0 and not in_place else 0
    plane = (TH + h.halo) * pitch
    packed = workspace.aligned(0 if in_place else phases * plane + 2 * W, size)
    sums = workspace.aligned(TH * TW + W if spec.channels_last else 0, size)
    per_thread = packed + sums
    if per_thread * size * threads > limit:
        return f"a tile of {per_thread * size} bytes for each thread exceeds the workspace limit of {limit} bytes"

    # 2. Tasks: some channels of an image, or some rows of a large one.
    group, rows, tasks = _tasks(spec, threads, 0.7 * M * OH * -(-OW // W) * spec.K + 200 + OH * 10)
    if not in_place:
        TH = min(TH, rows)
    # Planes in L1 together share the set-up of each window.
    together = max(1, min(group, TILE // size // (IH * IW))) if in_place and M == 1 else 1

    # 3. Tables.
    depth = (TH + h.halo) * pitch
    plane = (1 + d.halo) * depth
    raw = np.arange(KW, dtype=np.int64)[:: -1 if spec.flip else 1] * spec.dilation3[2]
    if in_place:
        tap_w, chunks = raw, _chunks(spec, d, h, (0, IW, spec.stride3[1] * IW), h.phases, 1)
    else:  # packed: dst[phase d][phase h][phase w][row d][row h][column]
        tap_w = np.array([p * plane + q for p, q in w.taps], np.int64)
        chunks = _chunks(spec, d, h, (depth, plane, pitch), range(nh), nw)
    # Only windows on the input itself need masks; elsewhere a long signal's would fill the memory.
    masks, begin, end = _masks(spec, raw) if in_place else (np.empty(0, np.int64), 0, 0)
    fold = OH == 1 and all(chunk[1] == 1 for chunk in chunks)
    sections = [
        np.array(chunks, np.int64).reshape(-1),
        tap_w,
        masks,
        -((pack.padded_sources(IH, *spec.padding3[1], "zeros") >= 0).astype(np.int64)),
        np.array(best_heights(max(TH, TW // W)), np.int64),
        *(a.sources for a in (d, h, w)),
        *(np.array(a.phases, np.int64) for a in (d, h, w)),
    ]
    starts = np.cumsum([0, *(len(s) for s in sections)])
    along = KW * (spec.stride3[1] // gcd(spec.stride3[1], spec.dilation3[1])) * (-1 if spec.flip else 1)
    geometry = np.array(
        [
            spec.channels_last, in_place, fold, per_thread, packed, spec.C, M, spec.K, along, KW,
            ID, IH, IW, OD, OH, OW, *spec.stride3, *(lo for lo, _ in spec.padding3),
            d.halo, h.halo, w.halo, len(d.phases), nh, nw,
            TH, TW, rows, group, together, pitch, plane, depth, len(chunks), begin, end, *starts[:11],
            (spec.kernel3[1] - 1) * spec.dilation3[1],
        ],
        np.int64,
    )  # fmt: skip
    tiles = -(-OH // TH) * -(-OW // TW)
    again = 1.2 if spec.kernel3[0] > 1 else 1.0  # sums come back for every depth of the kernel
    cost = Cost(
        flops=2.0 * spec.N * OD * spec.OC * OH * -(-OW // W) * W * spec.K * again,
        bytes=spec.moved_bytes,
        transform=float(spec.N * spec.C * OD * tiles * (0 if in_place else phases * plane)),
        tasks=tasks,
    )
    return Params(
        geometry, np.concatenate(sections), np.zeros(max(spec.OC, IW) + W, spec.dtype), tasks, threads, per_thread,
        per_thread * threads * size, cost,
    )  # fmt: skip


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """Weights are used as they lie, or as [tap][channel] where lanes are channels."""
    flat = weight.reshape(spec.OC, spec.K)
    if params.last is None or not np.isfinite(flat).all():
        return flat.reshape(-1)
    packed = np.empty((spec.K + 1, spec.C), spec.dtype)  # a row more tells it from weights as they lie
    packed[:-1] = flat.T[:: -1 if spec.flip else 1]
    return packed.reshape(-1)


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    how = params.last if params.last is not None and packed.size > spec.OC * spec.K else params
    bias = epilogue.bias if epilogue.bias.size else how.no_bias
    arrays = (how.geometry, how.tables, x, packed, bias, how.no_bias, epilogue.residual, epilogue.constants, out)
    if how is params.last or how.rolls:
        function = depthwise_rolling.rolling if how.rolls else depthwise_last.pixels
        pool.run(function, how.tasks, arrays, how.threads, spec.is_brief)
    else:
        with workspace.scratch(spec.dtype, how.per_thread, how.threads) as scratch:
            pool.run(_planes, how.tasks, (*arrays, scratch), how.threads, spec.is_brief)


# ---- planes: lanes are pixels ------------------------------------------------------------------------------------


@inline
def _pack_tile(geometry, tables, x, n, g, od, oh0, ow0, height, width, dst, d0):  # type: ignore[no-untyped-def]
    """Cut the padded input of one tile of one channel: dst[phase d][phase h][phase w][row d][row h][column]."""
    (
        channels_last, _, _, _, _, C, _, _, _, _, ID, IH, IW, _, _, _, sd, sh, sw, _, _, pw, hd, hh, hw, nd, nh, nw,
        _, _, _, _, _, pitch, plane, depth, _, _, _, _, _, _, _, _, src_d, src_h, src_w, phase_d, phase_h, phase_w,
        _,
    ) = unpack(geometry, 51)  # fmt: skip
    count_d, count_h, count_w = src_h - src_d, src_w - src_h, phase_d - src_w
    step = C if channels_last else 1
    for a in range(nd):
        for i in range(1 + hd):
            at_d = (od + i) * sd + tables[phase_d + a]
            from_d = tables[src_d + at_d] if at_d < count_d else -1
            for b in range(nh):
                for j in range(height + hh):
                    at_h = (oh0 + j) * sh + tables[phase_h + b]
                    from_h = tables[src_h + at_h] if at_h < count_h else -1
                    if channels_last:
                        x0 = ((n * ID + from_d) * IH + from_h) * IW * C + g
                    else:
                        x0 = (((n * C + g) * ID + from_d) * IH + from_h) * IW
                    for e in range(nw):
                        row = d0 + ((a * nh + b) * nw + e) * plane + i * depth + j * pitch
                        if from_d < 0 or from_h < 0:
                            fill_row(dst, row, width + hw)
                        else:
                            first = ow0 * sw + tables[phase_w + e]
                            pack_row(
                                x, x0, step, tables, src_w, count_w, pw, IW, first, sw, width + hw, dst, row,
                            )  # fmt: skip


@kernel
def _planes(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, tables, x, weight, bias, no_bias, residual, constants, out, scratch
):
    (
        channels_last, in_place, fold, per_thread, sums, C, M, K, along, KW, ID, IH, IW, OD, OH, OW,
        sd, sh, sw, _, ph, pw, _, _, _, _, _, _, TH, TW, rows, group, together, pitch, _, _, chunks, begin, end,
        chunks_at, taps_at, masks_at, row_masks_at, heights_at, _, _, _, _, _, _, taps_h,
    ) = unpack(geometry, 51)  # fmt: skip
    W = vector_width(x)
    mine = thread * per_thread
    x_plane, o_plane = ID * IH * IW, OD * OH * OW
    adds, low, high = residual.size > 0, constants[LOWEST], constants[HIGHEST]
    if channels_last:  # finished when they are put apart
        adds = False
        low, high = extremes(out)
    groups, parts = (C + group - 1) // group, (OH + rows - 1) // rows
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, part = divmod(task, parts)
        rest, block = divmod(rest, groups)
        n, od = divmod(rest, OD)
        h0, h1 = part * rows, min(OH, part * rows + rows)
        stop = min(C, block * group + group)
        for g in range(block * group, stop, together):  # 1. channels
            planes = min(together, stop - g)
            for oh0 in range(h0, h1, TH):  # 2. tiles
                for ow0 in range(0, OW, TW):
                    height, width = min(TH, h1 - oh0), min(TW, OW - ow0)
                    columns, last = (width + W - 1) // W, max(width - W, 0)
                    if in_place:
                        src, s0 = x, ((n * C + g) * ID + od * sd) * IH * IW + (oh0 * sh - ph) * IW - pw
                    else:
                        _pack_tile(geometry, tables, x, n, g, od, oh0, ow0, height, width, scratch, mine)
                        src, s0 = scratch, mine
                    for oc in range(g * M, g * M + M):  # 3. outputs of this channel
                        d0 = ((n * C * M + oc) * OD + od) * OH * OW + oh0 * OW + ow0
                        dst, d_pitch, count, span, rest = out, OW, height, pitch, 0
                        if channels_last:
                            dst, d0, d_pitch = scratch, mine + sums, width
                        first_row, lanes = d0, width
                        if fold and width >= W:  # one long row: its vectors stand in for rows
                            d_pitch, count, span, rest = W, width // W, W, width % W
                            columns, last, lanes = 1, 0, W
                        rb = tables[heights_at + count]
                        bands = (count + rb - 1) // rb
                        for band in range(bands + (1 if rest else 0)):  # 4. bands of rows
                            at = min(band * rb, count - rb)
                            s_at, d_at, row = s0 + at * span, d0 + at * d_pitch, oh0 + at
                            if band == bands:
                                rb, s_at, d_at = 1, s0 + width - W, d0 + width - W
                            left, right = 0, columns
                            if in_place and not (row * sh >= ph and (row + rb - 1) * sh + taps_h - ph < IH):
                                left = right = columns
                            elif in_place:
                                left, right = begin, end
                            for side in range(3):  # 5. columns: left border, inside, right border
                                j0 = 0 if side == 0 else left if side == 1 else right
                                j1 = left if side == 0 else right if side == 1 else columns
                                if j1 > j0:
                                    form = PLAIN if side == 1 else MASKED if sw == 1 else MASKED_2
                                    window(
                                        IMAGE_FORMS, form, rb, src, s_at, span, dst, d_at, d_pitch, j0, j1, last, lanes,
                                        weight, oc * K, along, 1, bias, oc, tables, chunks_at, chunks, taps_at,
                                        KW, masks_at, row_masks_at + row * sh, sh, no_bias, -pw, False, planes, x_plane,
                                        o_plane, K, 1, residual, d_at, adds, low, high,
                                    )  # fmt: skip
                        if channels_last:
                            _scatter(
                                scratch, first_row, out, (((n * OD + od) * OH + oh0) * OW + ow0) * C * M + oc,
                                height, width, OW, C * M, residual, constants,
                            )  # fmt: skip
                        elif constants[FURTHER]:
                            whole = width == OW
                            length, lines = (height * width, 1) if whole else (width, height)
                            for i in range(planes * lines):
                                activate(out, first_row + i // lines * OD * OH * OW + i % lines * OW, length, constants)


@inline
def _scatter(src, s0, out, o0, height, width, OW, step, residual, constants):  # type: ignore[no-untyped-def]
    """One channel of a tile into a channels-last output."""
    if residual.size:
        for i in range(height):
            for j in range(width):
                src[s0 + i * width + j] += residual[o0 + (i * OW + j) * step]
    if constants[0] != 0:
        activate(src, s0, height * width, constants)
    for i in range(height):
        for j in range(width):
            out[o0 + (i * OW + j) * step] = src[s0 + i * width + j]
