"""Winograd transforms and the moves around them, as vector intrinsics.

A *cell* is one position of a tile for W channels: a vector. Every transform is along one axis and straight vertical
arithmetic on cells, a program of `cook_toom` unrolled; two and three axes are one after another, so that neighbouring
tiles share the transform of their common columns. Cells are gathered from rows of planes by transposes in registers,
from channels-last rows by plain loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu import cook_toom
from fastconv.cpu.cook_toom import LARGEST, Program
from fastconv.cpu.fft_codelets import routine
from fastconv.cpu.simd import I32, Emitter, element_dtype, i64

_IDENTITY: Program = (((cook_toom.Fraction(1), 0),),)

#: Number of places that `pack_planes` and `pack_last` leave their three vectors in.
STATS = 3


@cache
def forward_programs() -> dict[int, tuple[Program, int, int]]:
    """n -> B^T as (program, inputs, outputs); 1 copies."""
    found = {1: (_IDENTITY, 1, 1)}
    for n in range(3, LARGEST + 1):
        found[n] = cook_toom.program(cook_toom.input_matrix(n)), n, n
    return found


@cache
def backward_programs() -> dict[int, tuple[Program, int, int]]:
    """16 n + m -> A^T."""
    found = {17: (_IDENTITY, 1, 1)}
    for n in range(3, LARGEST + 1):
        for m in range(2, n):
            found[16 * n + m] = cook_toom.program(cook_toom.output_matrix(n, m)), n, m
    return found


@cache
def weight_programs() -> dict[int, tuple[Program, int, int]]:
    """16 n + r -> G."""
    found = {17: (_IDENTITY, 1, 1)}
    for n in range(3, LARGEST + 1):
        for r in range(2, n):
            found[16 * n + r] = cook_toom.program(cook_toom.weight_matrix(n, r)), r, n
    return found


# ---- transforms --------------------------------------------------------------------------------------------------


def _emit_sum(e: Emitter, terms: Sequence[tuple[Any, int]], values: Sequence[Any]) -> Any:
    (c, k), *rest = terms
    total = values[k] if c == 1 else e.builder.fneg(values[k]) if c == -1 else e.mul(values[k], e.constant(c))
    for c, k in rest:
        if abs(c) == 1:
            total = e.add(total, values[k]) if c == 1 else e.sub(total, values[k])
        else:
            total = e.fma(values[k], e.constant(c), total)
    return total


def _transform_with(programs: Callable[[], dict[int, tuple[Program, int, int]]]) -> Callable[..., None]:
    def emit(e: Emitter, args: Sequence[Any]) -> None:
        b = e.builder
        code, outer, inner, src, s_step, s_inner, s_outer, dst, d_step, d_inner, d_outer = args
        end = b.append_basic_block("end")
        choice = b.switch(code, end)
        for key, (steps, inputs, outputs) in programs().items():
            block = b.append_basic_block(f"program{key}")
            choice.add_case(i64(key), block)
            b.position_at_end(block)
            sources = [b.mul(s_step, i64(k)) for k in range(inputs)]
            targets = [b.mul(d_step, i64(k)) for k in range(outputs)]
            with cgutils.for_range(b, outer) as o:
                row = b.gep(src, [b.mul(o.index, s_outer)])
                to_row = b.gep(dst, [b.mul(o.index, d_outer)])
                with cgutils.for_range(b, inner) as i:
                    here = b.gep(row, [b.mul(i.index, s_inner)])
                    to = b.gep(to_row, [b.mul(i.index, d_inner)])
                    values = [e.load(b.gep(here, [s])) for s in sources]
                    for terms in steps:
                        values.append(_emit_sum(e, terms, values))
                    for value, t in zip(values[len(values) - outputs :], targets, strict=True):
                        e.store(value, b.gep(to, [t]))
            b.branch(end)
        b.position_at_end(end)

    return emit


def transform(name: str, programs: Callable[[], dict[int, tuple[Program, int, int]]], text: str) -> Any:
    """An intrinsic that applies one of `programs`, by its code."""
    emit = _transform_with(programs)

    def typer(
        typingctx: Any, code: Any, outer: Any, inner: Any, src: Any, s0: Any, s_step: Any, s_inner: Any, s_outer: Any,
        dst: Any, d0: Any, d_step: Any, d_inner: Any, d_outer: Any,
    ) -> Any:  # fmt: skip
        element_dtype(src, dst)
        n = types.int64
        return types.void(n, n, n, src, n, n, n, n, dst, n, n, n, n), routine(name, emit, 3, 8)

    typer.__name__, typer.__doc__ = name, text
    return intrinsic(typer)


_WHAT = """For o < outer, i < inner: dst[d0 + k*d_step + i*d_inner + o*d_outer] = {} of the cells
    src[s0 + k*s_step + i*s_inner + o*s_outer]; code is {}. A transform may be in place; an unknown code does
    nothing.
    """

forward = transform("winograd_forward", forward_programs, _WHAT.format("B^T", "n"))
backward = transform("winograd_backward", backward_programs, _WHAT.format("A^T", "16 n + m"))
weights_forward = transform("winograd_weights", weight_programs, _WHAT.format("G", "16 n + r"))


# ---- cells in and out --------------------------------------------------------------------------------------------


class _Lanes:
    """Masked access: lanes below a count that is only known at run time."""

    def __init__(self, e: Emitter, count: Any) -> None:
        b, self.e = e.builder, e
        lanes = ir.VectorType(I32, e.width)
        small = Emitter(b, "int32", e.width)
        count = b.select(b.icmp_signed(">", count, i64(e.width)), i64(e.width), count)
        self.mask = b.icmp_signed("<", ir.Constant(lanes, list(range(e.width))), small.splat(b.trunc(count, I32)))
        self.none = ir.Constant(self.mask.type, [0] * e.width)

    def _call(self, name: str, result: Any, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        full = f"llvm.masked.{name}.v{self.e.width}f{8 * self.e.itemsize}.p0"
        return self.e.builder.call(cgutils.get_or_insert_function(self.e.builder.module, kind, full), arguments)

    def load(self, pointer: Any, when: Any) -> Any:
        """Zeros beyond the count, and nothing but zeros unless `when`."""
        e, b = self.e, self.e.builder
        mask = b.select(when, self.mask, self.none)
        pointer = b.bitcast(pointer, e.vector.as_pointer())
        return self._call("load", e.vector, [pointer, ir.Constant(I32, e.itemsize), mask, e.constant(0)])

    def store(self, value: Any, pointer: Any, when: Any) -> None:
        e, b = self.e, self.e.builder
        mask = b.select(when, self.mask, self.none)
        pointer = b.bitcast(pointer, e.vector.as_pointer())
        self._call("store", ir.VoidType(), [value, pointer, ir.Constant(I32, e.itemsize), mask])


class _Stats:
    """The largest |x| of each lane, the sum of all |x|, and the smallest sum of a row that is not zero."""

    def __init__(self, e: Emitter, pointer: Any) -> None:
        self.e, self.b = e, e.builder
        self.places = [self.b.gep(pointer, [i64(k * e.width)]) for k in range(STATS)]
        self.highest = cgutils.alloca_once_value(self.b, e.load(self.places[0]))
        self.row = cgutils.alloca_once_value(self.b, e.constant(0))
        self.absolute = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(e.vector, [e.vector]), f"llvm.fabs.v{e.width}f{8 * e.itemsize}"
        )

    def see(self, values: Sequence[Any]) -> None:
        b, e = self.b, self.e
        row, highest = b.load(self.row), b.load(self.highest)
        for value in values:
            size = b.call(self.absolute, [value])
            row = e.add(row, size)
            highest = b.select(b.fcmp_ordered(">", size, highest), size, highest)
        b.store(row, self.row)
        b.store(highest, self.highest)

    def end_row(self) -> None:
        b, e = self.b, self.e
        row, quiet = b.load(self.row), e.load(self.places[2])
        lower = b.and_(b.fcmp_ordered("<", row, quiet), b.fcmp_ordered(">", row, e.constant(0)))
        e.store(b.load(self.highest), self.places[0])
        e.store(e.add(e.load(self.places[1]), row), self.places[1])
        e.store(b.select(lower, row, quiet), self.places[2])


def _blocks(e: Emitter, cells: Any, body: Callable[[Any, Any], None]) -> None:
    """body(first cell, cells left) for every W cells."""
    b, W = e.builder, e.width
    count = b.sdiv(b.add(cells, i64(W - 1)), i64(W))
    with cgutils.for_range(b, count) as k:
        at = b.mul(k.index, i64(W))
        body(at, b.sub(cells, at))


def _emit_pack_planes(e: Emitter, args: Sequence[Any]) -> None:
    b, W = e.builder, e.width
    cells, lanes, src, plane, dst, stats_at = args
    stats = _Stats(e, stats_at)
    planes = [b.mul(plane, i64(i)) for i in range(W)]
    all_lanes = b.icmp_signed(">=", lanes, i64(W))

    def block(at: Any, left: Any) -> None:
        here, to = b.gep(src, [at]), b.gep(dst, [b.mul(at, i64(W))])

        def finish(rows: list[Any]) -> None:
            turned = e.transpose(rows)
            stats.see(turned)
            for i, cell in enumerate(turned):
                e.store(cell, b.gep(to, [i64(i * W)]))

        whole = b.and_(all_lanes, b.icmp_signed(">=", left, i64(W)))
        with b.if_else(whole) as (yes, no):
            with yes:
                finish([e.load(b.gep(here, [p])) for p in planes])
            with no:
                some = _Lanes(e, left)
                finish([some.load(b.gep(here, [p]), b.icmp_signed("<", i64(i), lanes)) for i, p in enumerate(planes)])

    _blocks(e, cells, block)
    stats.end_row()


@intrinsic
def pack_planes(
    typingctx: Any, cells: Any, lanes: Any, src: Any, s0: Any, plane: Any, dst: Any, d0: Any, stats: Any, at: Any
) -> Any:
    """dst[d0 + e*W + i] = src[s0 + i*plane + e], e < cells, i < lanes, zeros for further i < W.

    Cells up to the next multiple of W are overwritten. stats[at:] gather, in three vectors, the largest |x|, the sum of
    |x| and the least sum of a call that is above zero.
    """
    element_dtype(src, dst, stats)
    n = types.int64
    return types.void(n, n, src, n, n, dst, n, stats, n), routine("pack_planes", _emit_pack_planes, 2, 5, 7)


def _emit_pack_last(e: Emitter, args: Sequence[Any]) -> None:
    b, W = e.builder, e.width
    cells, lanes, src, step, dst, stats_at = args
    stats = _Stats(e, stats_at)
    some, always = _Lanes(e, lanes), b.icmp_signed(">", lanes, i64(0))
    with b.if_else(b.icmp_signed(">=", lanes, i64(W))) as (yes, no):
        for branch, whole in ((yes, True), (no, False)):
            with branch, cgutils.for_range(b, cells) as k:
                here = b.gep(src, [b.mul(k.index, step)])
                cell = e.load(here) if whole else some.load(here, always)
                stats.see([cell])
                e.store(cell, b.gep(dst, [b.mul(k.index, i64(W))]))
    stats.end_row()


@intrinsic
def pack_last(
    typingctx: Any, cells: Any, lanes: Any, src: Any, s0: Any, step: Any, dst: Any, d0: Any, stats: Any, at: Any
) -> Any:
    """The same from channels-last rows: dst[d0 + e*W + i] = src[s0 + e*step + i]; nothing else is overwritten."""
    element_dtype(src, dst, stats)
    n = types.int64
    return types.void(n, n, src, n, n, dst, n, stats, n), routine("pack_last", _emit_pack_last, 2, 5, 7)


class _Finish:
    """What happens to finished sums: bias, residual, limits. `limits` holds three vectors: bias, lowest, highest."""

    def __init__(self, e: Emitter, limits: Any, add: Any) -> None:
        b, W = e.builder, e.width
        self.e, self.add = e, b.icmp_signed("!=", add, i64(0))
        self.bias, self.low, self.high = (e.load(b.gep(limits, [i64(k * W)])) for k in range(3))

    def clamp(self, value: Any) -> Any:
        """NaN stays NaN."""
        b = self.e.builder
        value = b.select(b.fcmp_ordered("<", value, self.low), self.low, value)
        return b.select(b.fcmp_ordered(">", value, self.high), self.high, value)


def _emit_store_planes(e: Emitter, args: Sequence[Any]) -> None:
    b, W = e.builder, e.width
    cells, lanes, src, dst, plane, other, add, limits = args
    finish = _Finish(e, limits, add)
    planes = [b.mul(plane, i64(i)) for i in range(W)]
    all_lanes = b.icmp_signed(">=", lanes, i64(W))

    def block(at: Any, left: Any) -> None:
        here, to, more = b.gep(src, [b.mul(at, i64(W))]), b.gep(dst, [at]), b.gep(other, [at])
        rows = e.transpose([e.add(e.load(b.gep(here, [i64(i * W)])), finish.bias) for i in range(W)])
        whole = b.and_(b.and_(all_lanes, b.icmp_signed(">=", left, i64(W))), b.not_(finish.add))
        with b.if_else(whole) as (yes, no):
            with yes:
                for row, p in zip(rows, planes, strict=True):
                    e.store(finish.clamp(row), b.gep(to, [p]))
            with no:
                some = _Lanes(e, left)
                for i, (row, p) in enumerate(zip(rows, planes, strict=True)):
                    here = b.icmp_signed("<", i64(i), lanes)
                    row = e.add(row, some.load(b.gep(more, [p]), b.and_(here, finish.add)))
                    some.store(finish.clamp(row), b.gep(to, [p]), here)

    _blocks(e, cells, block)


@intrinsic
def store_planes(
    typingctx: Any, cells: Any, lanes: Any, src: Any, s0: Any, dst: Any, d0: Any, plane: Any, other: Any, o0: Any,
    add: Any, limits: Any, l0: Any,
) -> Any:  # fmt: skip
    """dst[d0 + i*plane + e] = src[s0 + e*W + i] + bias[i] + other[o0 + i*plane + e], e < cells, i < lanes, clamped.

    limits[l0:] are three vectors: bias, lowest and highest result. `other` is read only if `add` is not 0. src must be
    readable up to the next multiple of W cells.
    """
    element_dtype(src, dst, other, limits)
    n = types.int64
    signature = types.void(n, n, src, n, dst, n, n, other, n, n, limits, n)
    return signature, routine("store_planes", _emit_store_planes, 2, 4, 7, 10)


def _emit_store_last(e: Emitter, args: Sequence[Any]) -> None:
    b, W = e.builder, e.width
    cells, lanes, src, dst, step, other, add, limits = args
    finish = _Finish(e, limits, add)
    some, always = _Lanes(e, lanes), b.icmp_signed(">", lanes, i64(0))
    with b.if_else(b.and_(b.icmp_signed(">=", lanes, i64(W)), b.not_(finish.add))) as (yes, no):
        for branch, whole in ((yes, True), (no, False)):
            with branch, cgutils.for_range(b, cells) as k:
                cell = e.add(e.load(b.gep(src, [b.mul(k.index, i64(W))])), finish.bias)
                at = b.mul(k.index, step)
                to = b.gep(dst, [at])
                if whole:
                    e.store(finish.clamp(cell), to)
                else:
                    cell = e.add(cell, some.load(b.gep(other, [at]), finish.add))
                    some.store(finish.clamp(cell), to, always)


@intrinsic
def store_last(
    typingctx: Any, cells: Any, lanes: Any, src: Any, s0: Any, dst: Any, d0: Any, step: Any, other: Any, o0: Any,
    add: Any, limits: Any, l0: Any,
) -> Any:  # fmt: skip
    """The same to channels-last rows: dst[d0 + e*step + i] = src[s0 + e*W + i] + bias[i] + other[o0 + e*step + i]."""
    element_dtype(src, dst, other, limits)
    n = types.int64
    signature = types.void(n, n, src, n, dst, n, n, other, n, n, limits, n)
    return signature, routine("store_last", _emit_store_last, 2, 4, 7, 10)
