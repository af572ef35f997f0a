"""The input gradient of a strided depthwise convolution: all phases of a tile at once.

A tile of the output's gradient, bordered with zeros, lies in L1. Each row of the result is the sum of a few of its
rows, shifted and weighted, for each phase of the columns; channels first, these are merged on their way out, channels
last, every cell is a row of its own. The result is written once, and nothing else of its size is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np

from fastconv.adjoint import AxisPhase, axis_phases
from fastconv.cpu import isa, workspace
from fastconv.cpu import threads as pool
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import copy_row, fill_row, merge_rows
from fastconv.cpu.simd import claim, unpack, vector_width
from fastconv.cpu.weighted import weighted_channels, weighted_rows
from fastconv.kernels.common import LONGEST_CHAIN, Cost, ceil_div
from fastconv.kernels.epilogue import Epilogue, bias_of, store_channels, store_row
from fastconv.spec import ConvSpec

NAME = "depthwise-strided"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "sums of at most 128 terms"

#: Bytes of a packed tile and its phases, and of the rows of the result that a task should write at least.
TILE, TASK = 24 << 10, 32 << 10
FIELDS = 29


@dataclass(frozen=True)
class Params:
    threads: int
    workspace: int
    per_thread: int
    tasks: int
    order: np.ndarray = field(repr=False, compare=False)
    geometry: np.ndarray = field(repr=False, compare=False)
    tables: np.ndarray = field(repr=False, compare=False)


def refuses(spec: ConvSpec) -> str | None:
    if not spec.is_depthwise:
        return f"it has {spec.C // spec.groups} input channels per group, depthwise means 1"
    if max(spec.stride) == 1:
        return "without a stride there is one phase: a forward pass"
    if spec.padding_mode != "zeros":
        return f"it knows no padding with {spec.padding_mode}"
    if spec.channels_last and spec.OC != spec.C:
        return "channels-last it takes one output per channel"
    most = max(len(taps) for taps in _phases(spec)[1]) * (spec.OC // spec.C)
    if most > LONGEST_CHAIN:
        return f"a phase adds {most} terms, more than {LONGEST_CHAIN}"
    return None


@dataclass(frozen=True)
class _Axis:
    """An axis of three: its phases, the first cell that they read for their first output, and how many more."""

    phases: tuple[AxisPhase, ...]
    low: int
    halo: int


def _axis(spec: ConvSpec, index: int) -> _Axis:
    phases = axis_phases(
        spec.input3[index], spec.output3[index], spec.kernel3[index], spec.stride3[index], spec.dilation3[index],
        spec.padding3[index][0],
    )  # fmt: skip
    reads = [_first(a) + t * a.dilation for a in phases for t in range(a.taps)]
    low = min(reads, default=0)
    return _Axis(phases, low, max(reads, default=0) - low)


def _first(phase: AxisPhase) -> int:
    """The cell that the first tap reads for the phase's first output."""
    return phase.skip - phase.padding[0]


def _phases(spec: ConvSpec) -> tuple[list[_Axis], list[list[tuple[tuple[int, int, int], int]]]]:
    """The axes, and of each phase, in their order, the taps: cells from the tile's start, place among the weights."""
    axes = [_axis(spec, index) for index in range(3)]
    places = np.arange(prod(spec.kernel)).reshape(spec.kernel3)
    found = []
    for phase in product(*(axis.phases for axis in axes)):
        index = tuple(a.positions(k, spec.flip) for a, k in zip(phase, spec.kernel3, strict=True))
        chosen = places[index]
        found.append(
            [
                ((_first(phase[0]) + i * phase[0].dilation - axes[0].low,
                  _first(phase[1]) + j * phase[1].dilation - axes[1].low,
                  _first(phase[2]) + k * phase[2].dilation - axes[2].low), int(chosen[i, j, k]))
                for i, j, k in np.ndindex(chosen.shape)
            ]
        )  # fmt: skip
    return axes, found


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    axes, phases = _phases(spec)
    d, h, w = axes
    W, last = isa.width(spec.dtype), spec.channels_last
    M = spec.OC // spec.C
    counts = [len(axis.phases) for axis in axes]
    cells = [ceil_div(size, step) for size, step in zip(spec.input3, spec.stride3, strict=True)]
    columns = cells[2] + w.halo
    # Channels in a tile: one, or as many as fit beside the columns of a few rows.
    CB = spec.C if last else 1
    if last:
        CB = min(spec.C, max(W, TILE // spec.itemsize // (columns * (h.halo + 2) * (d.halo + 1)) // W * W))
    pitch = columns * CB
    size = spec.itemsize
    depth = M * (d.halo + 1)
    lines = 0 if last else counts[1] * counts[2]
    rows = max(1, min(cells[1], (TILE // (size * pitch) - depth * h.halo) // (depth + lines)))
    per_row = size * CB * spec.input3[2] * counts[1] * counts[0]
    rows = min(rows, max(1, ceil_div(TASK, per_row)))
    tile = depth * (rows + h.halo) * pitch + 2 * W
    line = 0 if last else workspace.aligned(rows * pitch + 2 * W, size)
    per_thread = workspace.aligned(tile, size) + lines * line
    if per_thread * threads * size > limit:
        return f"its smallest tile exceeds the workspace limit of {limit} bytes"
    tall = rows + h.halo
    order: list[int] = []
    starts: list[int] = []
    offsets: list[int] = []
    for taps in phases:
        starts.append(len(offsets))
        for m in range(M):
            for (i, j, k), place in taps:
                offsets.append((((m * (d.halo + 1) + i) * tall) + j) * pitch + k * CB)
                order.append(m * prod(spec.kernel) + place)
    starts.append(len(offsets))
    blocks, bands = ceil_div(spec.C, CB), ceil_div(cells[1], rows)
    geometry = np.array(
        [
            spec.C, M, CB, len(order), *spec.input3, *spec.output3, *spec.stride3, *counts,
            d.low, h.low, w.low, d.halo, rows, tall, pitch, columns, cells[2], blocks, bands, per_thread,
            line,
        ],
        np.int64,
    )  # fmt: skip
    assert len(geometry) == FIELDS
    return Params(
        threads=threads,
        workspace=per_thread * threads * size,
        per_thread=per_thread,
        tasks=spec.N * blocks * cells[0] * bands,
        order=np.array(order, np.int64),
        geometry=geometry,
        tables=np.array(starts + offsets, np.int64),
    )


def cost(spec: ConvSpec, params: Params) -> Cost:
    return Cost(
        flops=spec.flops,
        bytes=spec.input_bytes + spec.output_bytes,
        transform=prod(spec.out_shape) + 2 * prod(spec.x_shape),
        tasks=params.tasks,
    )


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """The taps of each channel, phase after phase; channels last, of each tap the channels."""
    taps = weight.reshape(spec.C, -1)[:, params.order]
    return np.ascontiguousarray(taps.T if spec.channels_last else taps).reshape(-1)


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    with workspace.scratch(spec.dtype, params.per_thread, params.threads) as scratch:
        arrays = (
            params.geometry, params.tables, x, packed, epilogue.bias, epilogue.residual, epilogue.constants, out,
            scratch,
        )  # fmt: skip
        pool.run(_cells if spec.channels_last else _planes, params.tasks, arrays, params.threads)


@inline
def _pack_rows(x, x0, OH, OW, first, rows, low, columns, dst, d0):  # type: ignore[no-untyped-def]
    """Rows first, first + 1, ... of a plane, from column `low` on, bordered with zeros.

    Whole vectors are copied where x has them: what they write beyond a row's end is overwritten by what follows it,
    after the last row by nothing that anybody reads.
    """
    W = vector_width(x)
    begin = min(max(-low, 0), columns)
    end = max(min(OW - low, columns), begin)
    vectors = (end - begin + W - 1) // W * W
    for row in range(rows):
        at, i = d0 + row * columns, first + row
        if i < 0 or i >= OH:
            fill_row(dst, at, (columns + W - 1) // W * W)
            continue
        for e in range(begin):
            dst[at + e] = dst.dtype.type(0)
        source = x0 + i * OW + low + begin
        copy_row(x, source, dst, at + begin, vectors if source + vectors <= x.size else end - begin)
        for e in range(end, columns):
            dst[at + e] = dst.dtype.type(0)


@kernel
def _planes(thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch):  # type: ignore[no-untyped-def]
    """Channels first. A task is a band of rows of one plane, all phases of it.

    A phase is computed as one long row that runs through the tile at the tile's pitch, halo columns and all.
    """
    (
        C, M, _, taps, D, H, W, OD, OH, OW, sd, sh, sw, nd, nh, nw, low_d, low_h, low_w, halo_d, rows, tall, pitch,
        columns, cells, _, bands, per_thread, line,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    L = vector_width(x)
    mine = thread * per_thread
    lines = mine + per_thread - nh * nw * line
    offsets = nd * nh * nw + 1
    planes_d, rows_all = (D + sd - 1) // sd, (H + sh - 1) // sh
    pairs = ((W + 1) // 2 + L - 1) // L * L
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, band = divmod(task, bands)
        rest, md = divmod(rest, planes_d)
        n, c = divmod(rest, C)
        m0 = band * rows
        height = min(rows, rows_all - m0)
        for m in range(M):
            for i in range(halo_d + 1):
                at_d = md + low_d + i
                dst = mine + (m * (halo_d + 1) + i) * tall * pitch
                if at_d < 0 or at_d >= OD:
                    fill_row(scratch, dst, (tall * pitch + L - 1) // L * L)
                else:
                    x0 = ((n * C * M + c * M + m) * OD + at_d) * OH * OW
                    _pack_rows(x, x0, OH, OW, m0 + low_h, tall, low_w, columns, scratch, dst)
        length = ((height - 1) * pitch + cells + L - 1) // L * L
        for pd in range(min(nd, D - md * sd)):
            plane = ((n * C + c) * D + md * sd + pd) * H * W
            end = plane + min(H, (m0 + height) * sh) * W
            for phase in range(nh * nw):  # 1. every phase of the rows
                t0, t1 = tables[pd * nh * nw + phase], tables[pd * nh * nw + phase + 1]
                weighted_rows(
                    scratch, mine, tables, offsets + t0, t1 - t0, weight, c * taps + t0, scratch,
                    lines + phase * line, length,
                )  # fmt: skip
            for h in range(m0 * sh, min(H, (m0 + height) * sh)):  # 2. the rows, from the top
                row, ph = divmod(h, sh)
                o0, src = plane + h * W, lines + ph * nw * line + (row - m0) * pitch
                if sw == 2 and nw == 2:
                    if o0 + 2 * pairs <= end:  # what whole vectors write beyond the row is yet to be written
                        merge_rows(scratch, src, src + line, out, o0, pairs)
                    else:
                        merge_rows(scratch, src, src + line, out, o0, W // 2)
                        if W % 2:
                            out[o0 + W - 1] = scratch[src + W // 2]
                elif sw == 1:
                    copy_row(scratch, src, out, o0, W)
                else:
                    for pw in range(nw):
                        for e in range((W - pw + sw - 1) // sw):
                            out[o0 + pw + e * sw] = scratch[src + pw * line + e]
            if bias.size or residual.size or constants[0] != 0:
                o0 = plane + m0 * sh * W
                store_row(out, o0, out, o0, end - o0, bias_of(bias, c), residual, constants)


@kernel
def _cells(thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch):  # type: ignore[no-untyped-def]
    """Channels last. A task is a band of rows of some channels, all phases of it."""
    (
        C, _, CB, _, D, H, W, OD, OH, OW, sd, sh, sw, nd, nh, nw, low_d, low_h, low_w, halo_d, rows, tall, pitch,
        columns, _, blocks, bands, per_thread, _,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    mine = thread * per_thread
    offsets = nd * nh * nw + 1
    planes_d = (D + sd - 1) // sd
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, band = divmod(task, bands)
        rest, md = divmod(rest, planes_d)
        n, block = divmod(rest, blocks)
        m0, c = band * rows, block * CB
        unit = min(CB, C - c)
        for i in range(halo_d + 1):
            at_d = md + low_d + i
            for row in range(tall):
                dst = mine + (i * tall + row) * pitch
                at_h = m0 + low_h + row
                for e in range(columns):
                    at_w = low_w + e
                    if at_d < 0 or at_d >= OD or at_h < 0 or at_h >= OH or at_w < 0 or at_w >= OW:
                        fill_row(scratch, dst + e * CB, unit)
                    else:
                        copy_row(x, (((n * OD + at_d) * OH + at_h) * OW + at_w) * C + c, scratch, dst + e * CB, unit)
        for pd in range(min(nd, D - md * sd)):
            for row in range(rows):
                for ph in range(min(nh, H - (m0 + row) * sh)):
                    o0 = (((n * D + md * sd + pd) * H + (m0 + row) * sh + ph) * W) * C + c
                    for at in range(W):
                        m, pw = divmod(at, sw)
                        phase = (pd * nh + ph) * nw + pw
                        t0, t1 = tables[phase], tables[phase + 1]
                        dst, src = o0 + at * C, mine + row * pitch + m * CB
                        weighted_channels(
                            scratch, src, tables, offsets + t0, t1 - t0, weight, t0 * C + c, C, out, dst, unit
                        )
                        if bias.size or residual.size or constants[0] != 0:
                            store_channels(out, dst, out, dst, unit, bias, c, residual, constants)
