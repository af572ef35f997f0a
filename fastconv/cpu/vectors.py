"""Maps and reductions over rows as explicit vectors, each made from one line of arithmetic.

`row_map` makes  dst[i] = f(sources[i]; scalars),  `row_reduce` sums of such terms along a row, `column_reduce` down
columns. The tail of a row is one masked vector. Sums run in several chains and are joined by a fixed tree, so that
the same numbers always give the same bits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.rows import _first_lanes, _for_row, _Row
from fastconv.cpu.simd import I32, I64, Emitter, array_pointer, element_dtype, i64

#: emit(e, vectors, scalars) returns one vector (maps) or a list of terms (reductions).
Emit = Callable[[Emitter, Sequence[Any], Sequence[Any]], Any]

#: Independent sums of a reduction: an addition takes 4 cycles and two start in each.
CHAINS = 4


def _intrinsic(define: Callable[..., Any], arguments: int) -> Any:
    """An intrinsic with so many arguments; numba reads their number from the signature."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typingctx", *(f"a{i}" for i in range(arguments))]
    define.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return intrinsic(define)


def row_map(sources: int, scalars: int, emit: Emit, vectors: int = 0) -> Any:
    """An intrinsic ``op(n, dst, d0, src, s0, ..., row, r0, ..., scalar, ...)``: dst[d0 + i] = f(...), i < n.

    `vectors` of the operands are coefficients that differ from element to element: they lie in rows like the sources
    and reach `emit` among the scalars, before them. dst may be one of the sources.
    """

    def define(typingctx: Any, *given: Any) -> Any:
        arrays = [given[1], *given[3 : 3 + 2 * (sources + vectors) : 2]]
        dtype, n = element_dtype(*arrays), types.int64
        pairs = [kind for array in arrays for kind in (array, n)]
        signature = types.void(n, *pairs, *[given[1].dtype] * scalars)

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            e = Emitter(b, dtype)
            pointers = [array_pointer(context, b, sig.args[1 + 2 * i], a[1 + 2 * i], a[2 + 2 * i]) for i in
                        range(1 + sources + vectors)]  # fmt: skip
            splats = [e.splat(value) for value in a[3 + 2 * (sources + vectors) :]]

            def body(row: _Row) -> None:
                loaded = [row.load(pointer) for pointer in pointers[1:]]
                row.store(emit(e, loaded[:sources], [*loaded[sources:], *splats]), pointers[0])

            _for_row(e, a[0], body)
            return context.get_dummy_value()

        return signature, codegen

    return _intrinsic(define, 3 + 2 * (sources + vectors) + scalars)


def _join(e: Emitter, values: Sequence[Any], join: Callable[[Any, Any], Any]) -> Any:
    """One vector from several, pairwise."""
    values = list(values)
    while len(values) > 1:
        values = [
            join(values[i], values[i + 1]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)
        ]
    return values[0]


def _across(e: Emitter, vector: Any, join: Callable[[Any, Any], Any]) -> Any:
    """One scalar from a vector's lanes, halves with halves."""
    half = e.width // 2
    while half:
        lanes = [(i + half) % e.width if i < half else i for i in range(e.width)]
        vector = join(vector, e.shuffle(vector, vector, lanes))
        half //= 2
    return e.builder.extract_element(vector, ir.Constant(I32, 0))


def maximum(e: Emitter, a: Any, b: Any) -> Any:
    """The larger, lane by lane; where one is NaN, `b`."""
    return e.builder.select(e.builder.fcmp_ordered(">", a, b), a, b)


def row_reduce(sources: int, scalars: int, sums: int, emit: Emit, largest: bool = False) -> Any:
    """An intrinsic ``op(n, rows, pitch, src, s0, ..., scalar, ...)``: a tuple of `sums` sums of terms over the rows.

    Row r of a source begins at ``src[s0 + r*pitch]`` and has n elements. With `largest` the terms are not added up: the
    largest is taken, minus infinity if there is none.
    """

    def define(typingctx: Any, *given: Any) -> Any:
        arrays = given[3 : 3 + 2 * sources : 2]
        dtype, n = element_dtype(*arrays), types.int64
        pairs = [kind for array in arrays for kind in (array, n)]
        scalar = arrays[0].dtype
        signature = types.UniTuple(scalar, sums)(n, n, n, *pairs, *[scalar] * scalars)

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            e = Emitter(b, dtype)
            start = e.constant(float("-inf") if largest else 0)

            def join(x: Any, y: Any) -> Any:
                return maximum(e, x, y) if largest else e.add(x, y)

            starts = [array_pointer(context, b, sig.args[3 + 2 * i], a[3 + 2 * i], a[4 + 2 * i]) for i in
                      range(sources)]  # fmt: skip
            splats = [e.splat(value) for value in a[3 + 2 * sources :]]
            # Totals live in stack slots, which LLVM turns into registers.
            slots = [[cgutils.alloca_once(b, e.vector) for _ in range(sums)] for _ in range(CHAINS)]
            for chain in slots:
                for slot in chain:
                    b.store(start, slot)
            whole = b.and_(a[0], i64(-e.width))
            left = b.sub(a[0], whole)
            mask = _first_lanes(e, left)
            position = cgutils.alloca_once(b, I64)

            with cgutils.for_range(b, a[1], intp=I64) as lines:
                down = b.mul(lines.index, a[2])
                pointers = [b.gep(pointer, [down]) for pointer in starts]

                def step(at: Any, lanes: Any, chain: int) -> None:
                    row = _Row(e, at, lanes)
                    terms = emit(e, [row.load(pointer) for pointer in pointers], splats)
                    for term, slot in zip(terms, slots[chain], strict=True):
                        if lanes is not None:
                            term = b.select(lanes, term, start)
                        b.store(join(b.load(slot), term), slot)

                def loop(stride: int, chains: int) -> None:
                    head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
                    b.branch(head)
                    b.position_at_end(head)
                    at = b.load(position)
                    b.cbranch(b.icmp_signed("<=", b.add(at, i64(stride)), whole), body, done)
                    b.position_at_end(body)
                    for chain in range(chains):
                        step(b.add(at, i64(chain * e.width)), None, chain)
                    b.store(b.add(at, i64(stride)), position)
                    b.branch(head)
                    b.position_at_end(done)

                b.store(i64(0), position)
                loop(CHAINS * e.width, CHAINS)
                loop(e.width, 1)
                with b.if_then(b.icmp_signed(">", left, i64(0))):
                    step(whole, mask, 1)
            totals = [_across(e, _join(e, [b.load(chain[i]) for chain in slots], join), join) for i in range(sums)]
            return context.make_tuple(b, sig.return_type, totals)

        return signature, codegen

    return _intrinsic(define, 3 + 2 * sources + scalars)


def column_reduce(sources: int, vectors: int, sums: int, emit: Emit) -> Any:
    """An intrinsic ``op(n, rows, pitch, dst, d0, ..., src, s0, ..., row, r0, ...)``: sums down columns, `sums` of them.

    dst[d0 + j] += sum over r < rows of f(src[s0 + r*pitch + j]; row[r0 + j]), j < n, from the first row to the last.
    """

    def define(typingctx: Any, *given: Any) -> Any:
        count = sums + sources + vectors
        arrays = given[3 : 3 + 2 * count : 2]
        dtype, n = element_dtype(*arrays), types.int64
        pairs = [kind for array in arrays for kind in (array, n)]
        signature = types.void(n, n, n, *pairs)

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            e = Emitter(b, dtype)
            columns, rows, pitch = a[:3]
            pointers = [
                array_pointer(context, b, sig.args[3 + 2 * i], a[3 + 2 * i], a[4 + 2 * i]) for i in range(count)
            ]
            targets, read, coefficients = pointers[:sums], pointers[sums : sums + sources], pointers[sums + sources :]
            slots = [[cgutils.alloca_once(b, e.vector) for _ in range(sums)] for _ in range(CHAINS)]

            def strip(at: Any, mask: Any, width: int) -> None:
                places = [_Row(e, b.add(at, i64(i * e.width)), mask) for i in range(width)]
                fixed = [[place.load(pointer) for pointer in coefficients] for place in places]
                for place, chain in zip(places, slots, strict=False):
                    for slot, pointer in zip(chain, targets, strict=True):
                        b.store(place.load(pointer), slot)
                with cgutils.for_range(b, rows, intp=I64) as loop:
                    down = b.mul(loop.index, pitch)
                    for place, chain, values in zip(places, slots, fixed, strict=False):
                        terms = emit(e, [place.load(b.gep(pointer, [down])) for pointer in read], values)
                        for term, slot in zip(terms, chain, strict=True):
                            b.store(e.add(b.load(slot), term), slot)
                for place, chain in zip(places, slots, strict=False):
                    for slot, pointer in zip(chain, targets, strict=True):
                        place.store(b.load(slot), pointer)

            position = cgutils.alloca_once_value(b, i64(0))
            for width in (CHAINS, 1):
                head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
                b.branch(head)
                b.position_at_end(head)
                at = b.load(position)
                b.cbranch(b.icmp_signed("<=", b.add(at, i64(width * e.width)), columns), body, done)
                b.position_at_end(body)
                strip(at, None, width)
                b.store(b.add(at, i64(width * e.width)), position)
                b.branch(head)
                b.position_at_end(done)
            at = b.load(position)
            left = b.sub(columns, at)
            with b.if_then(b.icmp_signed(">", left, i64(0))):
                strip(at, _first_lanes(e, left), 1)
            return context.get_dummy_value()

        return signature, codegen

    return _intrinsic(define, 3 + 2 * (sums + sources + vectors))


# ---- arithmetic for the lines above ---------------------------------------------------------------------------------


def less(e: Emitter, a: Any, b: Any) -> Any:
    """Mask of lanes where a < b; false where one is NaN."""
    return e.builder.fcmp_ordered("<", a, b) if e.is_float else e.builder.icmp_signed("<", a, b)


def at_least(e: Emitter, x: Any, low: float) -> Any:
    """x, or `low` where it is less; NaN stays."""
    return e.builder.select(less(e, x, e.constant(low)), e.constant(low), x)


def at_most(e: Emitter, x: Any, high: float) -> Any:
    """x, or `high` where it is more; NaN stays."""
    return e.builder.select(less(e, e.constant(high), x), e.constant(high), x)


def divide(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.fdiv(a, b)


def square_root(e: Emitter, x: Any) -> Any:
    kind = ir.FunctionType(e.vector, [e.vector])
    name = f"llvm.sqrt.v{e.width}f{8 * e.itemsize}"
    return e.builder.call(cgutils.get_or_insert_function(e.builder.module, kind, name), [x])


def magnitude(e: Emitter, x: Any) -> Any:
    """|x|."""
    kind = ir.FunctionType(e.vector, [e.vector])
    name = f"llvm.fabs.v{e.width}f{8 * e.itemsize}"
    return e.builder.call(cgutils.get_or_insert_function(e.builder.module, kind, name), [x])


# Per dtype: exponent bits below which nothing is left, mantissa bits, exponent bias, the number whose addition rounds
# to an integer, ln 2 in two parts (the first with so few bits that its product with an exponent is exact: Cody and
# Waite 1980), terms of the Taylor series that reach the last bit for |r| <= ln 2 / 2.
_EXP = {
    "float32": (-110.0, 100.0, 23, 127, 1.5 * 2.0**23, 0.693359375, -2.12194440054690583e-4, 8),
    "float64": (-760.0, 720.0, 52, 1023, 1.5 * 2.0**52, 6.93145751953125e-1, 1.42860682030941723212e-6, 14),
}


def _scale(e: Emitter, exponent: Any) -> Any:
    """2 to the power of an integer vector."""
    b = e.builder
    _, _, mantissa, bias, *_ = _EXP[e.dtype]
    kind = ir.VectorType(ir.IntType(8 * e.itemsize), e.width)
    shifted = b.shl(b.add(exponent, ir.Constant(kind, [bias] * e.width)), ir.Constant(kind, [mantissa] * e.width))
    return b.bitcast(shifted, e.vector)


def _exponential_parts(e: Emitter, x: Any) -> tuple[Any, Any]:
    """(q, n) with exp(x) = 2**n (1 + q), |q| < 0.42; x is cut to where the result is 0 or infinite anyway."""
    b = e.builder
    low, high, _, _, magic, ln2_high, ln2_low, terms = _EXP[e.dtype]
    x = at_most(e, at_least(e, x, low), high)
    rounded = e.fma(x, e.constant(1.4426950408889634), e.constant(magic))
    whole = e.sub(rounded, e.constant(magic))
    kind = ir.VectorType(ir.IntType(8 * e.itemsize), e.width)
    n = b.sub(b.bitcast(rounded, kind), b.bitcast(e.constant(magic), kind))
    r = e.fma(whole, e.constant(-ln2_high), x)
    r = e.fma(whole, e.constant(-ln2_low), r)
    factorials = [1.0]
    for k in range(1, terms + 1):
        factorials.append(factorials[-1] * k)
    total = e.constant(1 / factorials[terms - 1])
    for k in range(terms - 2, 1, -1):
        total = e.fma(total, r, e.constant(1 / factorials[k]))
    return e.fma(e.mul(r, r), total, r), n


def exponential(e: Emitter, x: Any) -> Any:
    """exp(x) within 2 units of the last place, denormal results included; NaN stays."""
    b = e.builder
    q, n = _exponential_parts(e, x)
    kind = ir.VectorType(ir.IntType(8 * e.itemsize), e.width)
    half = b.ashr(n, ir.Constant(kind, [1] * e.width))  # two steps: 2**n itself may not be a number
    value = e.mul(e.add(q, e.constant(1)), _scale(e, half))
    return e.mul(value, _scale(e, b.sub(n, half)))


def exponential_minus_one(e: Emitter, x: Any) -> Any:
    """exp(x) - 1 without cancellation, for x up to 80 in float32, 700 in float64."""
    q, n = _exponential_parts(e, x)
    scale = _scale(e, _at_least_exponent(e, n))
    return e.fma(q, scale, e.sub(scale, e.constant(1)))


def _at_least_exponent(e: Emitter, n: Any) -> Any:
    """Exponents whose power of two is a normal number: below them exp(x) - 1 is -1 anyway."""
    kind = ir.VectorType(ir.IntType(8 * e.itemsize), e.width)
    least = ir.Constant(kind, [-(_EXP[e.dtype][3] - 1)] * e.width)
    return e.builder.select(e.builder.icmp_signed("<", n, least), least, n)


def sigmoid(e: Emitter, x: Any) -> Any:
    """1 / (1 + exp(-x)), to the last places for negative x too."""
    power = exponential(e, e.sub(e.constant(0), magnitude(e, x)))
    above = e.builder.select(less(e, x, e.constant(0)), power, e.constant(1))
    return divide(e, above, e.add(e.constant(1), power))


def tangent(e: Emitter, x: Any) -> Any:
    """tanh(x) = m / (m + 2) with m = exp(2|x|) - 1, and the sign of x."""
    size = magnitude(e, x)
    m = exponential_minus_one(e, at_most(e, e.add(size, size), 60.0))
    kind = ir.FunctionType(e.vector, [e.vector, e.vector])
    name = f"llvm.copysign.v{e.width}f{8 * e.itemsize}"
    copysign = cgutils.get_or_insert_function(e.builder.module, kind, name)
    return e.builder.call(copysign, [divide(e, m, e.add(m, e.constant(2))), x])
