"""Winograd transforms whose lanes are tiles: the cells of W tiles side by side lie in one row of the image.

M neighbouring outputs make a tile, so the cells of a row fall into M *phases*, cell M*t + p being place p of phase t: a
tile's cells k < n are lane t of phase k % M, shifted by k // M tiles. Four vectors of a row become the four phases with
two shuffles each, where the channel form of `winograd_codelets` needs log2(W) for each vector; rows are read and
written whole, and any number of channels fills the lanes.

1. lift     rows of one channel -> B^T along h -> phases                T[row][phase][tile]
2. spread   B^T along w                                                 V[column][tile]
3. gather   A^T along w                                                 R[row][phase][tile]
4. land     A^T along h, phases side by side again, epilogue            rows of the output
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.cook_toom import input_matrix, output_matrix, program
from fastconv.cpu.fft_codelets import routine
from fastconv.cpu.rows import _Row
from fastconv.cpu.simd import I32, Emitter, element_dtype, i64
from fastconv.cpu.winograd_codelets import _emit_sum, _Stats, transform

#: Outputs of a tile along each axis, and cells of one: F(4, 3).
M, POINTS = 4, 6


def _apply(e: Emitter, steps: Any, values: Sequence[Any], outputs: int) -> list[Any]:
    known = list(values)
    for terms in steps:
        known.append(_emit_sum(e, terms, known))
    return known[-outputs:]


def _apart(e: Emitter, v: Sequence[Any]) -> list[Any]:
    """Four vectors of a row as its phases: lane t of phase p is cell 4*t + p."""
    W = e.width
    even = [e.shuffle(v[i], v[i + 1], range(0, 2 * W, 2)) for i in (0, 2)]
    odd = [e.shuffle(v[i], v[i + 1], range(1, 2 * W, 2)) for i in (0, 2)]
    return [e.shuffle(low, high, range(first, 2 * W, 2)) for first in (0, 1) for low, high in (even, odd)]


def _together(e: Emitter, v: Sequence[Any]) -> list[Any]:
    """The inverse of `_apart`."""
    W = e.width
    halves = [[lane // 2 + lane % 2 * W for lane in range(at, at + W)] for at in (0, W)]
    even = [e.shuffle(v[0], v[2], half) for half in halves]
    odd = [e.shuffle(v[1], v[3], half) for half in halves]
    return [e.shuffle(even[i], odd[i], half) for i in (0, 1) for half in halves]


def _lanes(e: Emitter) -> Any:
    return ir.Constant(ir.VectorType(I32, e.width), list(range(e.width)))


def _below(e: Emitter, first: Any, end: Any) -> Any:
    """Mask of the lanes with 0 <= first + lane < end."""
    b, small = e.builder, Emitter(e.builder, "int32", e.width)
    at = b.add(_lanes(e), small.splat(b.trunc(first, I32)))
    return b.icmp_unsigned("<", at, small.splat(b.trunc(end, I32)))


def _emit_lift(e: Emitter, args: Sequence[Any]) -> None:
    b, W, steps = e.builder, e.width, program(input_matrix(POINTS))
    vectors, src, pitch, row, height, column, width, zeros, dst, phase, stats_at = args
    stats = _Stats(e, stats_at)
    rows = []
    for i in range(POINTS):
        inside = b.icmp_unsigned("<", b.add(row, i64(i)), height)
        rows.append(b.select(inside, b.gep(src, [b.mul(pitch, i64(i))]), zeros))
    with cgutils.for_range(b, vectors) as v:
        cell = b.mul(v.index, i64(M * W))
        raw = []
        for s in range(M):
            at = b.add(cell, i64(s * W))
            piece = _Row(e, at, _below(e, b.add(column, at), width))
            cells = [piece.load(pointer) for pointer in rows]
            stats.see(cells)
            raw.append(_apply(e, steps, cells, POINTS))
        to = b.gep(dst, [b.mul(v.index, i64(W))])
        for i in range(POINTS):
            for p, value in enumerate(_apart(e, [raw[s][i] for s in range(M)])):
                e.store(value, b.gep(to, [b.mul(phase, i64(i * M + p))]))
    stats.end_row()


@intrinsic
def lift(
    typingctx: Any, vectors: Any, src: Any, s0: Any, pitch: Any, row: Any, height: Any, column: Any, width: Any,
    zeros: Any, z0: Any, dst: Any, d0: Any, phase: Any, stats: Any, at: Any,
) -> Any:  # fmt: skip
    """dst[d0 + (i*M + p)*phase + t] = row i of B^T d for cell M*t + p, t < vectors*W, of the rows at src[s0 + i*pitch].

    src[s0] is cell (row, column) of an image of height x width: what lies outside is never read, but zero. `zeros`
    holds as many zeros as there are cells. stats[at:] gather what `pack_planes` does; a call is a row.
    """
    element_dtype(src, zeros, dst, stats)
    n = types.int64
    signature = types.void(n, src, n, n, n, n, n, n, zeros, n, dst, n, n, stats, n)
    return signature, routine("winograd_lift", _emit_lift, 1, 8, 10, 13)


def _emit_spread(e: Emitter, args: Sequence[Any]) -> None:
    b, W, steps = e.builder, e.width, program(input_matrix(POINTS))
    channels, vectors, src, phase, s_channel, dst, d_step, d_channel = args
    sources = [b.add(b.mul(phase, i64(k % M)), i64(k // M)) for k in range(POINTS)]
    targets = [b.mul(d_step, i64(k)) for k in range(POINTS)]
    with cgutils.for_range(b, channels) as c:
        here, to = b.gep(src, [b.mul(c.index, s_channel)]), b.gep(dst, [b.mul(c.index, d_channel)])
        with cgutils.for_range(b, vectors) as v:
            at = b.mul(v.index, i64(W))
            values = [e.load(b.gep(here, [b.add(s, at)])) for s in sources]
            for value, t in zip(_apply(e, steps, values, POINTS), targets, strict=True):
                e.store(value, b.gep(to, [b.add(t, at)]))


@intrinsic
def spread(
    typingctx: Any, channels: Any, vectors: Any, src: Any, s0: Any, phase: Any, s_channel: Any, dst: Any, d0: Any,
    d_step: Any, d_channel: Any,
) -> Any:  # fmt: skip
    """dst[d0 + k*d_step + c*d_channel + t] = place k of B^T of the tile's cells in src[s0 + c*s_channel:], as `lift`
    leaves a row of them; t < vectors*W. Phase 1 must be readable one cell further.
    """
    element_dtype(src, dst)
    n = types.int64
    return types.void(n, n, src, n, n, n, dst, n, n, n), routine("winograd_spread", _emit_spread, 2, 6)


gather = transform(
    "winograd_gather",
    lambda: {0: (program(output_matrix(POINTS, M)), POINTS, M)},
    "A^T of one row, along w: as `winograd_codelets.backward`, whose only code is 0.",
)


def _emit_land(e: Emitter, args: Sequence[Any]) -> None:
    b, W, steps = e.builder, e.width, program(output_matrix(POINTS, M))
    vectors, src, phase, dst, pitch, rows, cells, other, add, bias, low, high = args
    bias, low, high = e.splat(bias), e.splat(low), e.splat(high)
    added = b.icmp_signed("!=", add, i64(0))

    def finish(value: Any) -> Any:
        value = b.select(b.fcmp_ordered("<", value, low), low, value)
        return b.select(b.fcmp_ordered(">", value, high), high, value)

    with cgutils.for_range(b, vectors) as v:
        here, cell = b.gep(src, [b.mul(v.index, i64(W))]), b.mul(v.index, i64(M * W))
        columns = [
            _apply(e, steps, [e.load(b.gep(here, [b.mul(phase, i64(i * M + p))])) for i in range(POINTS)], M)
            for p in range(M)
        ]
        pieces = []
        for s in range(M):
            at = b.add(cell, i64(s * W))
            pieces.append(_Row(e, at, _below(e, at, cells)))
        for i in range(M):
            with b.if_then(b.icmp_signed("<", i64(i), rows)):
                row = b.mul(pitch, i64(i))
                to, more = b.gep(dst, [row]), b.gep(other, [row])
                values = [e.add(value, bias) for value in _together(e, [column[i] for column in columns])]
                with b.if_else(added) as (yes, no):
                    with yes:
                        for value, piece in zip(values, pieces, strict=True):
                            piece.store(finish(e.add(value, piece.load(more))), to)
                    with no:
                        for value, piece in zip(values, pieces, strict=True):
                            piece.store(finish(value), to)


@intrinsic
def land(
    typingctx: Any, vectors: Any, src: Any, s0: Any, phase: Any, dst: Any, d0: Any, pitch: Any, rows: Any, cells: Any,
    other: Any, o0: Any, add: Any, bias: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """dst[d0 + i*pitch + j] = row i of A^T of the columns in src[s0 + (i*M + p)*phase + t], cell j = M*t + p.

    For i < rows and j < cells, t < vectors*W; plus bias, plus other[o0 + i*pitch + j] if `add` is not 0, and then cut
    to low .. high, where NaN stays.
    """
    element_dtype(src, dst, other)
    n, one = types.int64, src.dtype
    signature = types.void(n, src, n, n, dst, n, n, n, n, other, n, n, one, one, one)
    return signature, routine("winograd_land", _emit_land, 1, 4, 9)
