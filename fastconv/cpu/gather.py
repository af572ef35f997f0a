"""Weighted sums of rows, and of cells picked from a row, as explicit vectors: the inner loops of resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.reduce import BLOCK, _blocks, function_of, steps
from fastconv.cpu.rows import _for_row, _Row
from fastconv.cpu.simd import I32, Emitter, array_pointer, element_dtype, i64


def _weighted(dtype: str) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        src, table, weights, scale, count, dst, n = args
        slots = [cgutils.alloca_once(b, e.vector) for _ in range(BLOCK)]

        def body(block: list[_Row]) -> None:
            for slot in slots[: len(block)]:
                b.store(e.constant(0), slot)
            with steps(b, i64(0), count) as t:
                here = b.gep(src, [b.mul(b.load(b.gep(table, [t])), scale)])
                weight = e.splat(b.load(b.gep(weights, [t])))
                for row, slot in zip(block, slots, strict=False):
                    b.store(e.fma(row.load(here), weight, b.load(slot)), slot)
            for row, slot in zip(block, slots, strict=False):
                row.store(b.load(slot), dst)

        _blocks(e, n, body)

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
