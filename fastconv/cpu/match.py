"""Gradients of maxima as explicit vectors: each lane's value goes to the one tap of its window that the index names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.reduce import BLOCK, _blocks, function_of, steps
from fastconv.cpu.rows import _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64


def _matching(dtype: str, fresh: bool) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        values, indices, dst, table, scale, count, base, n, lost = args
        narrow, wide = ir.VectorType(ir.IntType(8 * e.itemsize), e.width), Emitter(b, "int64", e.width)
        whole = Emitter(b, f"int{8 * e.itemsize}", e.width)
        given = [cgutils.alloca_once(b, e.vector) for _ in range(BLOCK)]
        places = [cgutils.alloca_once(b, narrow) for _ in range(BLOCK)]
        open_lanes = [cgutils.alloca_once(b, narrow) for _ in range(BLOCK)]

        def body(block: list[_Row]) -> None:
            for row, value, place, waiting in zip(block, given, places, open_lanes, strict=False):
                b.store(row.load(values), value)
                at = b.sub(_Row(wide, row.at, row.mask).load(indices), wide.splat(base))
                if e.itemsize < 8:  # what does not fit is no tap's place, nor is -1
                    short = b.trunc(at, narrow)
                    at = b.select(b.icmp_signed("==", b.sext(short, wide.vector), at), short, whole.constant(-1))
                b.store(at, place)
                b.store(whole.constant(-1), waiting)
            with steps(b, i64(0), count) as t:
                rank = b.load(b.gep(table, [t]))
                here = b.gep(dst, [b.mul(rank, scale)])
                tap = whole.splat(b.trunc(rank, narrow.element) if e.itemsize < 8 else rank)
                for row, value, place, waiting in zip(block, given, places, open_lanes, strict=False):
                    mine = b.icmp_signed("==", b.load(place), tap)
                    if fresh:
                        row.store(b.select(mine, b.load(value), e.constant(0)), here)
                    else:
                        old = row.load(here)
                        row.store(b.select(mine, e.add(old, b.load(value)), old), here)
                    b.store(b.select(mine, whole.constant(0), b.load(waiting)), waiting)
            for row, waiting in zip(block, open_lanes, strict=False):
                left = b.icmp_signed("!=", b.load(waiting), whole.constant(0))
                if row.mask is not None:
                    left = b.and_(left, row.mask)
                bits = b.zext(b.bitcast(left, ir.IntType(e.width)), I64)
                b.store(b.or_(b.load(lost), bits), lost)

        _blocks(e, n, body)

    return emit


def _sender(fresh: bool) -> Any:
    @intrinsic
    def send(
        typingctx: Any, values: Any, indices: Any, s0: Any, dst: Any, d0: Any, table: Any, t0: Any, scale: Any,
        count: Any, base: Any, n: Any,
    ) -> Any:  # fmt: skip
        dtype, size = element_dtype(values, dst), types.int64
        name = f"fastconv_{'place' if fresh else 'send'}_{dtype}"

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            _, _, s0, _, d0, _, t0, scale, count, base, n = a
            lost = cgutils.alloca_once(b, I64)
            b.store(i64(0), lost)
            given = [
                array_pointer(context, b, sig.args[0], a[0], s0),
                array_pointer(context, b, sig.args[1], a[1], s0),
                array_pointer(context, b, sig.args[3], a[3], d0),
                array_pointer(context, b, sig.args[5], a[5], t0),
                scale, count, base, n, lost,
            ]  # fmt: skip
            b.call(function_of(b.module, name, [v.type for v in given], _matching(dtype, fresh)), given)
            return b.load(lost)

        return types.int64(values, indices, size, dst, size, table, size, size, size, size, size), codegen

    return send


#: send_row(values, indices, s0, dst, d0, table, t0, scale, count, base, n):
#: dst[d0 + table[t0 + t]*scale + i] += values[s0 + i] for the t with base + table[t0 + t] = indices[s0 + i], i < n.
#: Returns whether some element found no such t.
send_row = _sender(fresh=False)

#: The same where nothing was sent before: = in place of +=, and 0 for every other t.
place_row = _sender(fresh=True)
