"""Weighted sums of rows, and of cells picked from a row, as explicit vectors: the inner loops of resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.reduce import BLOCK, _blocks, function_of, steps
from fastconv.cpu.rows import _for_row, _Row, store_pairs
from fastconv.cpu.simd import I32, Emitter, array_pointer, element_dtype, i64

#: Numbers of rows whose places and weights stay in registers: those of linear maps along one and two axes.
FEW = (2, 4)


def _weighted_sum(e: Emitter, row: _Row, terms: list[tuple[Any, Any]]) -> Any:
    """The sum of (pointer, weight)."""
    total = e.constant(0)
    for here, weight in terms:
        total = e.fma(row.load(here), weight, total)
    return total


def _weighted(dtype: str) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        src, table, weights, scale, count, dst, n = args
        slots = [cgutils.alloca_once(b, e.vector) for _ in range(BLOCK)]

        def term(t: Any) -> tuple[Any, Any]:
            return b.gep(src, [b.mul(b.load(b.gep(table, [t])), scale)]), e.splat(b.load(b.gep(weights, [t])))

        def body(block: list[_Row]) -> None:
            for slot in slots[: len(block)]:
                b.store(e.constant(0), slot)
            with steps(b, i64(0), count) as t:
                here, weight = term(t)
                for row, slot in zip(block, slots, strict=False):
                    b.store(e.fma(row.load(here), weight, b.load(slot)), slot)
            for row, slot in zip(block, slots, strict=False):
                row.store(b.load(slot), dst)

        def few(terms: list[tuple[Any, Any]], block: list[_Row]) -> None:
            for row in block:
                row.store(_weighted_sum(e, row, terms), dst)

        end, other = b.append_basic_block("weighed"), b.append_basic_block("many")
        choice = b.switch(count, other)
        for number in FEW:
            case = b.append_basic_block("few")
            choice.add_case(i64(number), case)
            b.position_at_end(case)
            terms = [term(i64(t)) for t in range(number)]
            _blocks(e, n, lambda block, terms=terms: few(terms, block))  # type: ignore[misc]
            b.branch(end)
        b.position_at_end(other)
        _blocks(e, n, body)
        b.branch(end)
        b.position_at_end(end)

    return emit


@intrinsic
def weigh_rows(
    typingctx: Any, src: Any, s0: Any, table: Any, t0: Any, weights: Any, w0: Any, scale: Any, count: Any, dst: Any,
    d0: Any, n: Any,
) -> Any:  # fmt: skip
    """dst[d0 + i] = sum over t < count of weights[w0 + t] * src[s0 + table[t0 + t]*scale + i], i < n."""
    dtype, size = element_dtype(src, weights, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        _, s0, _, t0, _, w0, scale, count, _, d0, n = a
        given = [
            array_pointer(context, b, sig.args[0], a[0], s0),
            array_pointer(context, b, sig.args[2], a[2], t0),
            array_pointer(context, b, sig.args[4], a[4], w0),
            scale,
            count,
            array_pointer(context, b, sig.args[8], a[8], d0),
            n,
        ]
        function = function_of(b.module, f"fastconv_weigh_{dtype}", [v.type for v in given], _weighted(dtype))
        b.call(function, given)
        return context.get_dummy_value()

    return types.void(src, size, table, size, weights, size, size, size, dst, size, size), codegen


@intrinsic
def weigh_squares(
    typingctx: Any, src: Any, s0: Any, s1: Any, first: Any, second: Any, cells: Any, t0: Any, weights: Any, w0: Any,
    dst: Any, d0: Any, pixels: Any, n: Any,
) -> Any:  # fmt: skip
    """Pixels of n channels, each from two cells of two rows of pixels. With c = cells[t0 + 2*p], v = weights[w0 + 2*p]
    and c', v' one further::

        dst[d0 + p*n + i] = first  * (v * src[s0 + c*n + i] + v' * src[s0 + c'*n + i])
                          + second * (v * src[s1 + c*n + i] + v' * src[s1 + c'*n + i]),  p < pixels, i < n
    """
    dtype, size = element_dtype(src, weights, dst), types.int64

    def run(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        one, other, first, second, cells, weights, dst, pixels, n = args
        with steps(b, i64(0), pixels) as p:
            terms = []
            for t in range(2):
                at = b.add(b.add(p, p), i64(t))
                across, weight = b.mul(b.load(b.gep(cells, [at])), n), b.load(b.gep(weights, [at]))
                for row, down in ((one, first), (other, second)):
                    terms.append((b.gep(row, [across]), e.splat(b.fmul(weight, down))))
            target = b.gep(dst, [b.mul(p, n)])

            def body(block: list[_Row], terms: list[Any] = terms, target: Any = target) -> None:
                for row in block:
                    row.store(_weighted_sum(e, row, terms), target)

            _blocks(e, n, body)

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        _, s0, s1, first, second, _, t0, _, w0, _, d0, pixels, n = a
        given = [
            array_pointer(context, b, sig.args[0], a[0], s0),
            array_pointer(context, b, sig.args[0], a[0], s1),
            first,
            second,
            array_pointer(context, b, sig.args[5], a[5], t0),
            array_pointer(context, b, sig.args[7], a[7], w0),
            array_pointer(context, b, sig.args[9], a[9], d0),
            pixels,
            n,
        ]
        b.call(function_of(b.module, f"fastconv_squares_{dtype}", [v.type for v in given], run), given)
        return context.get_dummy_value()

    scalar = src.dtype
    return types.void(src, size, size, scalar, scalar, cells, size, weights, size, dst, size, size, size), codegen


def _doubling(dtype: str, taps: int) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        src, cells, down, across, edges, count, size, dst, pitch, lines, begin, end = args
        factors = [b.load(b.gep(across, [i64(t)])) for t in range(2 * taps)]
        splats, n = [e.splat(factor) for factor in factors], b.sub(end, begin)
        with steps(b, i64(0), lines) as line:
            target, rows = b.gep(dst, [b.mul(line, pitch)]), []
            for t in range(taps):
                at = b.add(b.mul(line, i64(taps)), i64(t))
                rows.append((b.gep(src, [b.mul(b.load(b.gep(cells, [at])), size)]), b.load(b.gep(down, [at]))))
            terms = [(b.gep(here, [b.sub(begin, i64(taps - 1))]), e.splat(weight)) for here, weight in rows]
            usual = b.gep(target, [b.add(begin, begin)])

            def body(block: list[_Row], target: Any = usual, terms: list[Any] = terms) -> None:
                (row,) = block
                if taps == 1:
                    even = odd = row.load(terms[0][0])
                else:
                    shifted = [[(b.gep(here, [i64(i)]), weight) for here, weight in terms] for i in range(taps + 1)]
                    columns = [_weighted_sum(e, row, each) for each in shifted]
                    even, odd = (
                        e.fma(columns[i + 1], splats[2 * i + 1], e.mul(columns[i], splats[2 * i])) for i in range(2)
                    )
                store_pairs(row, n, even, odd, target)

            _blocks(e, n, body, 1)
            with steps(b, i64(0), count) as edge:
                sums = []
                for t in range(taps):
                    cell = b.load(b.gep(edges, [b.add(b.mul(edge, i64(1 + taps)), i64(1 + t))]))
                    weight = b.load(b.gep(across, [b.add(b.mul(edge, i64(taps)), i64(2 * taps + t))]))
                    column = [b.fmul(b.load(b.gep(here, [cell])), value) for here, value in rows]
                    sums.append(b.fmul(weight, b.fadd(*column) if taps == 2 else column[0]))
                place = b.load(b.gep(edges, [b.mul(edge, i64(1 + taps))]))
                b.store(b.fadd(*sums) if taps == 2 else sums[0], b.gep(target, [place]))

    return emit


def _doubler(taps: int) -> Any:
    @intrinsic
    def op(
        typingctx: Any, src: Any, s0: Any, tables: Any, t0: Any, weights: Any, v0: Any, w0: Any, e0: Any, edges: Any,
        size: Any, dst: Any, d0: Any, pitch: Any, lines: Any, begin: Any, end: Any,
    ) -> Any:  # fmt: skip
        dtype, whole = element_dtype(src, weights, dst), types.int64

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            _, s0, _, t0, _, v0, w0, e0, edges, size, _, d0, pitch, lines, begin, end = a
            given = [
                array_pointer(context, b, sig.args[0], a[0], s0),
                array_pointer(context, b, sig.args[2], a[2], t0),
                array_pointer(context, b, sig.args[4], a[4], v0),
                array_pointer(context, b, sig.args[4], a[4], w0),
                array_pointer(context, b, sig.args[2], a[2], e0),
                edges,
                size,
                array_pointer(context, b, sig.args[10], a[10], d0),
                pitch, lines, begin, end,
            ]  # fmt: skip
            name = f"fastconv_double_{taps}_{dtype}"
            b.call(function_of(b.module, name, [v.type for v in given], _doubling(dtype, taps)), given)
            return context.get_dummy_value()

        sizes = [whole] * 5
        return types.void(src, whole, tables, whole, weights, *sizes[:4], whole, dst, *sizes), codegen

    return op


#: repeat_rows(src, s0, tables, t0, weights, v0, w0, e0, edges, size, dst, d0, pitch, lines, begin, end): rows of pairs,
#: dst[d0 + l*pitch + 2*i] = dst[d0 + l*pitch + 2*i + 1] = src[s0 + tables[t0 + l]*size + i], begin <= i < end,
#: l < lines. Weights are 1; edges as below, each of one cell.
repeat_rows = _doubler(1)

#: The same from two neighbours of two rows. With row(l, i) the sum over t < 2 of
#: weights[v0 + 2*l + t] * src[s0 + tables[t0 + 2*l + t]*size + i] and w = weights[w0:]:
#: dst[d0 + l*pitch + 2*i + j] = w[2*j] * row(l, i + j - 1) + w[2*j + 1] * row(l, i + j), j < 2.
#: Then as many elements of another kind as `edges` says: with (o, c, c') the k-th three of tables[e0:],
#: dst[d0 + l*pitch + o] = w[2*k + 4] * row(l, c) + w[2*k + 5] * row(l, c').
double_rows = _doubler(2)


@intrinsic
def weigh_cells(
    typingctx: Any,
    src: Any,
    s0: Any,
    cells: Any,
    weights: Any,
    w0: Any,
    pitch: Any,
    count: Any,
    dst: Any,
    d0: Any,
    n: Any,
) -> Any:
    """dst[d0 + i] = sum over t < count of weights[w0 + t*pitch + i] * src[s0 + cells[t*pitch + i]], i < n.

    `cells` are int32; a cell of -1 is left out.
    """
    dtype, size = element_dtype(src, weights, dst), types.int64
    if element_dtype(cells) != "int32":
        raise TypeError("cells must be int32")

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        indices = Emitter(b, "int32", e.width)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        places = array_pointer(context, b, sig.args[2], a[2], i64(0))
        factors = array_pointer(context, b, sig.args[3], a[3], a[4])
        target = array_pointer(context, b, sig.args[7], a[7], a[8])
        pitch, count = a[5], a[6]
        total = cgutils.alloca_once(b, e.vector)
        pointers = ir.VectorType(source.type, e.width)
        suffix = f"v{e.width}f{8 * e.itemsize}.v{e.width}p0"
        kind = ir.FunctionType(e.vector, [pointers, I32, ir.VectorType(ir.IntType(1), e.width), e.vector])
        gather = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.gather.{suffix}")

        def body(row: _Row) -> None:
            b.store(e.constant(0), total)
            with steps(b, i64(0), count) as t:
                shift = b.mul(t, pitch)
                here = _Row(indices, row.at, row.mask).load(b.gep(places, [shift]))
                weight = row.load(b.gep(factors, [shift]))
                used = b.icmp_signed(">=", here, indices.constant(0))
                if row.mask is not None:
                    used = b.and_(used, row.mask)
                at = b.gep(source, [here], source_etype=e.scalar)
                at.type = pointers  # llvmlite expects a scalar index, and so a scalar pointer
                value = b.call(gather, [at, ir.Constant(I32, e.itemsize), used, e.constant(0)])
                b.store(e.fma(value, weight, b.load(total)), total)
            row.store(b.load(total), target)

        _for_row(e, a[9], body)
        return context.get_dummy_value()

    return types.void(src, size, cells, weights, size, size, size, dst, size, size), codegen
