"""The register-blocked SIMD microkernels behind every matrix product, in two forms.

    pixels:    C[i, j] (+)= sum_k A[i*a_row + k*a_col] * B[off[k] + j]        vectors along j: pixels of B
    channels:  C[i, j] (+)= sum_k A[at[i] + off[k]] * B[k*NV*W + j]           vectors along j: channels of B

MR x NV vectors of C stay in registers while k runs; each step loads NV vectors of B and broadcasts MR scalars of A.
The convolution's input is the operand with the offset table: row k = (c, r, s) starts at the place of channel c shifted
by r rows and s columns, so no im2col exists in memory. In the pixel form the weights are A, as they lie in memory; in
the channel form they are B, packed, and the table `at` may name any pixels.

The sum over k starts at zero and is added to C at the end: the chain of roundings is as long as one k block, however
many blocks there are (Higham 1993, blocked summation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.jit import inline
from fastconv.cpu.rows import _first_lanes, _Row
from fastconv.cpu.simd import (
    I64,
    Emitter,
    array_pointer,
    each_tile,
    element_dtype,
    i64,
    opaque,
    prefetch_line,
    repeated,
    vector_width,
)
from fastconv.cpu.vectors import less

# (MR, NV): accumulators + NV vectors of B + one broadcast must fit the registers, and a step's MR + 2 NV loads (an
# unaligned vector costs two cache lines) should take no longer than its MR * NV multiply-adds. With 32 registers
# (AVX-512, NEON) 8x3 and 6x4 keep 24 sums; with 16 registers 4x3 and 6x2 keep 12. The narrower ones serve the edges.
# One vector of B needs many rows: two multiply-adds a cycle, each of 4 cycles, keep at least 8 sums waiting.
_WIDEST_32 = {16: 1, 8: 3, 6: 4, 4: 4, 2: 4, 1: 4}
_WIDEST_16 = {12: 1, 6: 2, 4: 3, 2: 4, 1: 4}

#: Rows to begin with where one vector is left; a CPU without so tall a tile goes down from there.
TALLEST = max(*_WIDEST_32, *_WIDEST_16)


def widest() -> dict[int, int]:
    """The register tiles of this CPU: MR -> its largest NV; every smaller NV exists too."""
    return _WIDEST_32 if isa.registers() >= 32 else _WIDEST_16


def tiles() -> list[tuple[int, int]]:
    """Every compiled (MR, NV)."""
    return [(mr, nv) for mr, most in widest().items() for nv in range(1, most + 1)]


#: The sums of a register tile, by row and vector.
_Sums = dict[tuple[int, int], Any]


def _when(b: Any, condition: Any, sums: _Sums, change: Callable[[_Sums], _Sums]) -> _Sums:
    """The sums, changed if `condition` holds."""
    before, changed, joined = b.block, b.append_basic_block("changed"), b.append_basic_block("joined")
    b.cbranch(condition, changed, joined)
    b.position_at_end(changed)
    new = change(sums)
    after = b.block
    b.branch(joined)
    b.position_at_end(joined)
    result = {}
    for cell, value in sums.items():
        phi = result[cell] = b.phi(value.type)
        phi.add_incoming(value, before)
        phi.add_incoming(new[cell], after)
    return result


def _emit_tile(  # one register tile at the builder's position; the builder ends behind it
    e: Emitter, mr: int, nv: int, step: Callable[[Any], tuple[list[Any], Any]], c_rows: list[Any], K: Any, add: Any,
    d_rows: list[Any] | None = None, finish: Callable[[_Sums], _Sums] | None = None,
) -> None:  # fmt: skip
    """`step(k)` gives the pointers to A's `mr` scalars and to B's row at k; `c_rows` are those to the rows of C.

    Sums are stored there, or finished and stored in `d_rows`.
    """
    b = e.builder
    cells = [(i, j) for i in range(mr) for j in range(nv)]
    c_cells, d_cells = (
        {(i, j): b.gep(rows[i], [i64(j * e.width)]) for i, j in cells} for rows in (c_rows, d_rows or c_rows)
    )

    entry = b.block
    loop, leave, done = (b.append_basic_block(f"{n}{mr}x{nv}") for n in ("k", "leave", "end"))
    b.branch(loop)

    b.position_at_end(loop)
    k = b.phi(I64)
    sums = {cell: b.phi(e.vector) for cell in cells}
    scalars, row = step(k)
    vectors = [e.load(b.gep(row, [i64(j * e.width)])) for j in range(nv)]
    new = {}
    for i in range(mr):
        a = e.splat(b.load(scalars[i]))
        for j in range(nv):
            new[i, j] = e.fma(a, vectors[j], sums[i, j])
    k_next = b.add(k, i64(1))
    k.add_incoming(i64(0), entry)
    k.add_incoming(k_next, loop)
    for cell in cells:
        sums[cell].add_incoming(e.constant(0), entry)
        sums[cell].add_incoming(new[cell], loop)
    b.cbranch(b.icmp_signed("<", k_next, K), loop, leave)

    b.position_at_end(leave)
    new = _when(b, add, new, lambda sums: {cell: e.add(e.load(c_cells[cell]), sums[cell]) for cell in cells})
    if finish is not None:
        new = finish(new)
    for cell in cells:
        e.store(new[cell], d_cells[cell])
    b.branch(done)
    b.position_at_end(done)


def _biased(e: Emitter, sums: _Sums, bias: Any, has_bias: Any) -> _Sums:
    """Row i of the sums plus bias[i]."""
    b = e.builder
    return _when(b, has_bias, sums, lambda s: {
        (i, j): e.add(value, e.splat(b.load(b.gep(bias, [i64(i)])))) for (i, j), value in s.items()
    })  # fmt: skip


def _rectified(e: Emitter, sums: _Sums, relu: Any) -> _Sums:
    zero = e.constant(0)
    return _when(e.builder, relu, sums, lambda s: {
        cell: e.builder.select(less(e, value, zero), zero, value) for cell, value in s.items()
    })  # fmt: skip


def _array(context: Any, b: Any, kind: Any, array: Any, index: Any) -> tuple[Any, Any]:
    """Pointer to array[index], and whether the array has elements."""
    size = context.make_array(kind)(context, b, array).nitems
    return array_pointer(context, b, kind, array, index), b.icmp_signed(">", size, i64(0))


@intrinsic
def microkernel(
    typingctx: Any, mr: Any, nv: Any, A: Any, a0: Any, a_row: Any, a_col: Any, B: Any, b0: Any, off: Any, k0: Any,
    K: Any, C: Any, c0: Any, c_row: Any, accumulate: Any, D: Any, d0: Any, d_row: Any, last: Any, bias: Any, oc: Any,
    residual: Any, add: Any, relu: Any, times: Any, down: Any, N: Any, ahead: Any, n0: Any, lines: Any, fetch: Any,
) -> Any:  # fmt: skip
    """D[d0 + i*d_row + j] = sum_k A[a0 + i*a_row + k*a_col] * B[b0 + off[k0 + k] + j], 0 <= k < K, K >= 1.

    C[c0 + i*c_row + j] is added if `accumulate`. If `last`, bias[oc + i] is, unless bias is empty; if `add` holds too,
    residual at the same place as in D; then comes relu if it is wanted. (mr, nv) is one of `tiles()`; anything else
    computes nothing.

    The same for `times` >= 1 tiles one below another (`down`), or beside another. Meanwhile data used next come nearer:
    step k asks for the first line behind its vectors, into L1, and for the line of N[ahead + off[n0 + k]], into L2. Of
    tiles beside each other each asks at its own columns behind `ahead`, below each other for one line after another; as
    many as `lines` do. Lines of the residual, and with `fetch` of D, are asked for before the sums are begun.
    """
    dtype = element_dtype(A, B, C, D, bias, residual, N)
    n, flag = types.int64, types.boolean
    signature = types.void(
        n, n, A, n, n, n, B, n, off, n, n, C, n, n, flag, D, n, n, flag, bias, n, residual, flag, flag, n, flag, N, n,
        n, n, flag,
    )  # fmt: skip

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        mr_, nv_, A_, a0_, a_row_, a_col_, B_, b0_, off_, k0_, K_, C_, c0_, c_row_, accumulate_ = args[:15]
        D_, d0_, d_row_, last_, bias_, oc_, residual_, add_, relu_, times_, down_, N_, ahead_, n0_ = args[15:29]
        lines_, fetch_ = args[29:]
        po = array_pointer(context, b, sig.args[8], off_, k0_)
        next_o = array_pointer(context, b, sig.args[8], off_, n0_)
        biases, has_bias = _array(context, b, sig.args[19], bias_, oc_)
        add_bias, add_more, rectify = (b.and_(last_, flag) for flag in (has_bias, add_, relu_))
        starts = [
            array_pointer(context, b, sig.args[at], array, index)
            for at, array, index in (
                (2, A_, a0_),
                (6, B_, b0_),
                (26, N_, ahead_),
                (11, C_, c0_),
                (15, D_, d0_),
                (21, residual_, d0_),
            )
        ]
        starts.append(biases)

        def emit(mr: int, nv: int) -> None:
            high, wide, line = i64(mr), i64(nv * e.width), i64(64 // e.itemsize)
            across = [i64(0), wide, wide, wide, wide, wide, i64(0)]
            down_d = b.mul(high, d_row_)
            below = [b.mul(high, a_row_), i64(0), line, b.mul(high, c_row_), down_d, down_d, high]
            steps = [b.select(down_, one, other) for one, other in zip(below, across, strict=True)]
            with repeated(b, times_, starts, steps) as (t, (pa, pb, next_b, pc, pd, pr, here)):
                asks = b.icmp_signed("<", t, lines_)
                next_b, pn = b.select(asks, next_b, pb), b.select(asks, next_o, po)
                rows = [opaque(b, b.gep(pa, [b.mul(a_row_, i64(i))])) for i in range(min(mr, 8))]
                eighth = b.mul(a_row_, i64(8))

                def step(k: Any) -> tuple[list[Any], Any]:
                    column, place = b.mul(k, a_col_), b.load(b.gep(po, [k]))
                    vectors = b.gep(pb, [place])
                    scalars = [b.gep(row, [column]) for row in rows]
                    if mr > 8:  # there are 15 registers for pointers: each serves the row 8 below it, too
                        scalars = [opaque(b, scalar) for scalar in scalars]
                        scalars += [b.gep(scalar, [eighth]) for scalar in scalars[: mr - 8]]
                    else:
                        prefetch_line(b, b.gep(next_b, [b.load(b.gep(pn, [k]))]))
                        prefetch_line(b, b.gep(vectors, [wide]), near=True)
                    return scalars, vectors

                def added(sums: _Sums) -> _Sums:
                    r_rows = [b.gep(pr, [b.mul(d_row_, i64(i))]) for i in range(mr)]
                    return {
                        (i, j): e.add(value, e.load(b.gep(r_rows[i], [i64(j * e.width)])))
                        for (i, j), value in sums.items()
                    }

                def finish(sums: _Sums) -> _Sums:
                    return _rectified(e, _when(b, add_more, _biased(e, sums, here, add_bias), added), rectify)

                c_rows, d_rows = (
                    [b.gep(first, [b.mul(row, i64(i))]) for i in range(mr)]
                    for first, row in ((pc, c_row_), (pd, d_row_))
                )
                for asked, first, write in ((fetch_, pd, True), (add_more, pr, False)):
                    with b.if_then(asked), cgutils.for_range(b, high, intp=I64) as row:
                        start = b.gep(first, [b.mul(row.index, d_row_)])
                        for vector in range(nv + 1):  # unaligned, they lie in so many lines
                            prefetch_line(b, b.gep(start, [i64(vector * e.width)]), near=True, write=write)
                _emit_tile(e, mr, nv, step, c_rows, K_, accumulate_, d_rows, finish)

        each_tile(b, mr_, nv_, tiles(), emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def move_vector(
    typingctx: Any, src: Any, s0: Any, s_row: Any, rows: Any, out: Any, o0: Any, o_row: Any, head: Any, o1: Any,
    begin: Any, end: Any, residual: Any, relu: Any,
) -> Any:  # fmt: skip
    """Lanes of src[s0 + i*s_row:], i < rows, finished: l < head to out[o0 + i*o_row + l], begin <= l < end behind o1.

    residual at the same places as in out is added, unless it is empty; then comes relu. Whole vectors of src are read.
    """
    dtype, n = element_dtype(src, out, residual), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        tail = b.and_(_first_lanes(e, a[10]), b.not_(_first_lanes(e, a[9])))

        def move(lanes: Any, to: Any) -> None:
            here = _Row(e, i64(0), lanes)
            target = array_pointer(context, b, sig.args[4], a[4], to)
            other, has_residual = _array(context, b, sig.args[11], a[11], to)
            with cgutils.for_range(b, a[3], intp=I64) as row:
                place = b.mul(row.index, a[6])
                sums = {(0, 0): e.load(b.gep(source, [b.mul(row.index, a[2])]))}
                sums = _when(b, has_residual, sums, lambda s: {
                    cell: e.add(value, here.load(b.gep(other, [place]))) for cell, value in s.items()
                })  # fmt: skip
                here.store(_rectified(e, sums, a[12])[0, 0], b.gep(target, [place]))

        move(_first_lanes(e, a[7]), a[5])
        with b.if_then(b.icmp_signed("<", a[9], a[10])):
            move(tail, a[8])
        return context.get_dummy_value()

    return types.void(src, n, n, n, out, n, n, n, n, n, n, residual, types.boolean), codegen


@intrinsic
def microkernel_channels(
    typingctx: Any, mr: Any, nv: Any, A: Any, a0: Any, at: Any, p0: Any, off: Any, k0: Any, K: Any, B: Any, b0: Any,
    C: Any, c0: Any, c_row: Any, accumulate: Any, times: Any, ahead: Any, lines: Any,
) -> Any:  # fmt: skip
    """C[c0 + i*c_row + j] (+)= sum_k A[a0 + at[p0 + i] + off[k0 + k]] * B[b0 + k*nv*W + j], 0 <= k < K, K >= 1.

    The same for the next rows, `times` >= 1 tiles in all. Each of the first `lines` asks for K cache lines behind
    B[ahead] and those before it, to be brought into L2.
    """
    dtype = element_dtype(A, B, C)
    n = types.int64
    signature = types.void(n, n, A, n, at, n, off, n, n, B, n, C, n, n, types.boolean, n, n, n)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        mr_, nv_, A_, a0_, at_, p0_, off_, k0_, K_, B_, b0_, C_, c0_, c_row_, accumulate_, times_, ahead_, lines_ = args
        pa = array_pointer(context, b, sig.args[2], A_, a0_)
        po = array_pointer(context, b, sig.args[6], off_, k0_)
        pb = array_pointer(context, b, sig.args[9], B_, b0_)
        starts = [
            array_pointer(context, b, sig.args[at], array, index)
            for at, array, index in ((4, at_, p0_), (9, B_, ahead_), (11, C_, c0_))
        ]
        line = i64(64 // e.itemsize)

        def emit(mr: int, nv: int) -> None:
            steps = [i64(mr), b.mul(K_, line), b.mul(c_row_, i64(mr))]
            with repeated(b, times_, starts, steps) as (t, (pp, next_b, pc)):
                asks = b.icmp_signed("<", t, lines_)
                next_b, far = b.select(asks, next_b, pb), b.select(asks, line, i64(0))
                pixels = [b.gep(pa, [b.load(b.gep(pp, [i64(i)]))]) for i in range(mr)]

                def step(k: Any) -> tuple[list[Any], Any]:
                    place = b.load(b.gep(po, [k]))
                    prefetch_line(b, b.gep(next_b, [b.mul(k, far)]))
                    return [b.gep(pixel, [place]) for pixel in pixels], b.gep(pb, [b.mul(k, i64(nv * e.width))])

                _emit_tile(e, mr, nv, step, [b.gep(pc, [b.mul(c_row_, i64(i))]) for i in range(mr)], K_, accumulate_)

        each_tile(b, mr_, nv_, tiles(), emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def microkernel_pixels(
    typingctx: Any, mr: Any, nv: Any, A: Any, a0: Any, at: Any, p0: Any, off: Any, k0: Any, K: Any, B: Any, b0: Any,
    b_row: Any, C: Any, c0: Any, rows: Any, r0: Any, ahead: Any,
) -> Any:  # fmt: skip
    """C[c0 + rows[r0 + i]*nv*W + j] += sum_k A[a0 + at[p0 + i] + off[k0 + k]] * B[b0 + k*b_row + j], k < K, K >= 1.

    The channel form for any choice of pixels. Step k asks for the cache line of B[ahead + k*b_row].
    """
    dtype = element_dtype(A, B, C)
    n = types.int64
    signature = types.void(n, n, A, n, at, n, off, n, n, B, n, n, C, n, rows, n, n)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        mr_, nv_, A_, a0_, at_, p0_, off_, k0_, K_, B_, b0_, b_row_, C_, c0_, rows_, r0_, ahead_ = args
        pa = array_pointer(context, b, sig.args[2], A_, a0_)
        pp = array_pointer(context, b, sig.args[4], at_, p0_)
        po = array_pointer(context, b, sig.args[6], off_, k0_)
        pb = array_pointer(context, b, sig.args[9], B_, b0_)
        pc = array_pointer(context, b, sig.args[12], C_, c0_)
        pr = array_pointer(context, b, sig.args[14], rows_, r0_)
        next_b = array_pointer(context, b, sig.args[9], B_, ahead_)

        def emit(mr: int, nv: int) -> None:
            pixels = [b.gep(pa, [b.load(b.gep(pp, [i64(i)]))]) for i in range(mr)]
            c_rows = [b.gep(pc, [b.mul(b.load(b.gep(pr, [i64(i)])), i64(nv * e.width))]) for i in range(mr)]

            def step(k: Any) -> tuple[list[Any], Any]:
                place, row = b.load(b.gep(po, [k])), b.mul(k, b_row_)
                prefetch_line(b, b.gep(next_b, [row]))
                return [b.gep(pixel, [place]) for pixel in pixels], b.gep(pb, [row])

            _emit_tile(e, mr, nv, step, c_rows, K_, ir.Constant(ir.IntType(1), 1))

        each_tile(b, mr_, nv_, tiles(), emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_finished(
    typingctx: Any, src: Any, s0: Any, src_row: Any, dst: Any, d0: Any, dst_row: Any, bias: Any, c: Any, residual: Any,
    relu: Any,
) -> Any:  # fmt: skip
    """dst[d0 + j*dst_row + i] = src[s0 + i*src_row + j] for i, j < vector width, finished.

    bias[c + j] and residual at the same place as in dst are added, unless they are empty; then relu.
    """
    dtype = element_dtype(src, dst, bias, residual)

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[3], a[3], a[4])
        other, has_residual = _array(context, b, sig.args[8], a[8], a[4])
        rows = e.transpose([e.load(b.gep(source, [b.mul(a[2], i64(i))])) for i in range(e.width)])
        places = [b.mul(a[5], i64(j)) for j in range(e.width)]
        sums = {(j, 0): row for j, row in enumerate(rows)}
        sums = _biased(e, sums, *_array(context, b, sig.args[6], a[6], a[7]))
        sums = _when(b, has_residual, sums, lambda s: {
            (j, i): e.add(value, e.load(b.gep(other, [places[j]]))) for (j, i), value in s.items()
        })  # fmt: skip
        for (j, _), value in _rectified(e, sums, a[9]).items():
            e.store(value, b.gep(target, [places[j]]))
        return context.get_dummy_value()

    n = types.int64
    return types.void(src, n, n, dst, n, n, bias, n, residual, types.boolean), codegen


@intrinsic
def widest_tile(typingctx: Any, mr: Any) -> Any:
    """The largest NV compiled for `mr` rows (0 if there is none)."""
    table = widest()

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        result = i64(0)
        for rows, most in table.items():
            result = b.select(b.icmp_signed("==", args[0], i64(rows)), i64(most), result)
        return result

    return types.int64(types.int64), codegen


@inline
def _move_to_rows(rows, vectors, p, src, s0, s_row, out, target, residual, relu):  # type: ignore[no-untyped-def]
    """Finished sums of a run's pixels from p on go to their rows of the output: see `gemm_block`."""
    W = vector_width(out)
    o0, plane, pitch, width, height, line = target
    row, column = divmod(p, pitch)
    for j in range(vectors):
        begin = pitch - column  # the lane at which the next row begins
        end = begin + width if begin < W and row + 1 < height else begin
        move_vector(
            src, s0 + j * W, s_row, rows, out, o0 + row * line + column, plane, width - column,
            o0 + (row + 1) * line - begin, begin, end, residual, relu,
        )  # fmt: skip
        column += W
        if column >= pitch:
            row, column = row + 1, column - pitch


@inline
def gemm_block(  # type: ignore[no-untyped-def]
    rows, cols, mr, A, a0, a_row, B, b0, off, k0, K, C, c0, c_row, accumulate, last, out, target, bias, oc, residual,
    relu, N, ahead, n0, lines,
):  # fmt: skip
    """The microkernel over `rows` x `cols`, in tiles of `mr` rows; `cols` is rounded up to whole vectors.

    B must be readable, and C writable, up to the rounded end of every row.

    If `last` holds the sums are finished, with bias, residual (unless they are empty) and relu, and stored in `out`.
    `cols` are the pixels of a run through `height` rows of `width` pixels, one `pitch` (at least a vector) after
    another; what lies between rows is left out. With target = (o0, plane, pitch, width, height, line) pixel q of row i
    belongs to out[o0 + i*plane + q // pitch * line + q % pitch], where residual has what is added. Register tiles that
    meet no end of a row go there from registers. The lines they will write are asked for first: misses overlap with
    sums, 3x3 layers on 570x570 pixels, 16 -> 16, take 0.93 times as long. (A single row, which is long, has line = 0:
    there the hardware's streams do.)

    Rows of many whole vectors are taken one by one, so that no tile meets an end; what lies between is not computed.

    Meanwhile N[ahead + off[n0 + k]:], used next, is brought into L2: tile i of rows asks for line i, of `lines`, of
    each vector tile.
    """
    W = vector_width(C)
    o0, plane, pitch, width, height, line = target
    whole = 0 < line and 6 * W <= width < pitch and width % W == 0
    step = 64 // B.itemsize
    i = 0
    while i < rows:  # 1. mr rows of A: a panel that stays in L1
        while mr > rows - i or widest_tile(mr) == 0:
            mr -= 1
        most = widest_tile(mr)
        q = row = column = 0
        high = 1
        while q < cols:  # 2. nv vectors of B
            left = (width - column) // W if whole else (cols - q + W - 1) // W
            nv = min(left, most)
            if most < left < most + 2:
                nv = (left + 1) // 2  # two middling tiles run faster than a full one and a sliver
            c = c0 + i * c_row + q
            D, d, d_row = C, c, c_row
            split = last and column + nv * W > width
            add = last and residual.size > 0 and not split
            rectify = relu and (add or residual.size == 0)
            if last and not split:
                D, d, d_row = out, o0 + i * plane + row * line + column, plane
            down, times = q == 0 and nv * W >= cols, 1
            if down and not split:
                high = times = (rows - i) // mr
            elif left >= most + 2 and not split:
                times = (left - 2) // most
                if last:
                    times = min(times, (width - column) // (nv * W))
            asking, fetch = lines if down else times if lines > 0 else 0, last and line > 0
            microkernel(
                mr, nv, A, a0 + i * a_row, a_row, 1, B, b0 + q, off, k0, K, C, c, c_row, accumulate, D, d, d_row,
                last, bias, oc + i, residual, add, rectify, times, down, N, ahead + q, n0, asking, fetch,
            )  # fmt: skip
            if split:
                _move_to_rows(
                    mr, nv, q, C, c, c_row, out, (o0 + i * plane, plane, pitch, width, height, line), residual, relu
                )  # fmt: skip
            if not down:
                q, column = q + times * nv * W, column + times * nv * W
            else:
                q = cols
            if whole and column == width:
                q, row, column = q + pitch - width, row + 1, 0
            while not whole and last and line > 0 and column >= pitch:
                row, column = row + 1, column - pitch
        i += mr * high
        ahead, lines = ahead + step * high, lines - high


@inline
def gemm_channels(pixels, nv, A, a0, at, p0, off, k0, K, B, b0, C, c0, c_row, accumulate):  # type: ignore[no-untyped-def]
    """The channel form over `pixels` rows of C and `nv` vectors of packed B, `nv` at most the widest tile's.

    Meanwhile the block of B behind this one, which is next, is brought into L2: a cache line with each step, until
    all of it is there.
    """
    mr, i = TALLEST if nv == 1 else 8, 0
    line = 64 // B.itemsize
    ahead, lines = b0 + K * nv * vector_width(B), nv * vector_width(B) // line
    while i < pixels:
        while mr > pixels - i or widest_tile(mr) < nv:
            mr -= 1
        times = (pixels - i) // mr
        microkernel_channels(
            mr, nv, A, a0, at, p0 + i, off, k0, K, B, b0, C, c0 + i * c_row, c_row, accumulate, times, ahead, lines
        )
        ahead, lines = ahead + times * K * line, lines - times
        i += times * mr


@inline
def gemm_pixels(pixels, nv, A, a0, at, p0, off, k0, K, B, b0, b_row, C, c0, rows, r0):  # type: ignore[no-untyped-def]
    """The channel form over a list of `pixels`, each with its row of C, which has `nv` vectors and is added to.

    Meanwhile the vectors behind those of B are brought into L2: one of each row with each register tile.
    """
    mr, i = 8, 0
    W = vector_width(B)
    ahead, end = b0 + nv * W, b0 + 2 * nv * W
    while i < pixels:
        while mr > pixels - i or widest_tile(mr) < nv:
            mr -= 1
        microkernel_pixels(mr, nv, A, a0, at, p0 + i, off, k0, K, B, b0, b_row, C, c0, rows, r0 + i, ahead)
        ahead = ahead + W if ahead + W < end else b0
        i += mr


def microkernel_twin(
    MR: int, NV: int, A: np.ndarray, a0: int, a_row: int, a_col: int, B: np.ndarray, b0: int, off: np.ndarray, k0: int,
    K: int, C: np.ndarray, c0: int, c_row: int, accumulate: bool, D: np.ndarray, d0: int, d_row: int, last: bool,
    bias: np.ndarray, oc: int, residual: np.ndarray, add: bool, relu: bool,
) -> None:  # fmt: skip
    """The microkernel in plain Python, its oracle in the tests."""
    for i in range(MR):
        for j in range(NV * isa.width(C.dtype)):
            total = C.dtype.type(0)
            for k in range(K):
                total += A[a0 + i * a_row + k * a_col] * B[b0 + off[k0 + k] + j]
            if accumulate:
                total += C[c0 + i * c_row + j]
            if last and bias.size:
                total += bias[oc + i]
            if last and add:
                total += residual[d0 + i * d_row + j]
            D[d0 + i * d_row + j] = max(total, 0) if last and relu else total


def microkernel_channels_twin(
    mr: int, nv: int, A: np.ndarray, a0: int, at: np.ndarray, p0: int, off: np.ndarray, k0: int, K: int, B: np.ndarray,
    b0: int, C: np.ndarray, c0: int, c_row: int, accumulate: bool,
) -> None:  # fmt: skip
    """The channel form in plain Python."""
    columns = nv * isa.width(C.dtype)
    for i in range(mr):
        for j in range(columns):
            total = C.dtype.type(0)
            for k in range(K):
                total += A[a0 + at[p0 + i] + off[k0 + k]] * B[b0 + k * columns + j]
            cell = c0 + i * c_row + j
            C[cell] = C[cell] + total if accumulate else total
