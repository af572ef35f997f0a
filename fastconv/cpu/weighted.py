"""Weighted sums of rows: the inner loop where a few taps meet long rows and there is no matrix product."""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu.rows import _for_row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64


def _sum_over_taps(e: Emitter, count: Any, term: Any) -> Any:
    """A loop over taps: `term(t, total)` adds tap t to a vector."""
    b = e.builder
    entry = b.block
    loop, done = b.append_basic_block("taps"), b.append_basic_block("taps_end")
    zero = e.constant(0)
    b.cbranch(b.icmp_signed("<", i64(0), count), loop, done)
    b.position_at_end(loop)
    t, total = b.phi(I64), b.phi(e.vector)
    t.add_incoming(i64(0), entry)
    total.add_incoming(zero, entry)
    result = term(t, total)
    following = b.add(t, i64(1))
    t.add_incoming(following, b.block)
    total.add_incoming(result, b.block)
    last = b.block
    b.cbranch(b.icmp_signed("<", following, count), loop, done)
    b.position_at_end(done)
    final = b.phi(e.vector)
    final.add_incoming(zero, entry)
    final.add_incoming(result, last)
    return final


@intrinsic
def weighted_rows(
    typingctx: Any,
    src: Any,
    s0: Any,
    offsets: Any,
    t0: Any,
    count: Any,
    weight: Any,
    w0: Any,
    dst: Any,
    d0: Any,
    n: Any,
) -> Any:
    """dst[d0 + i] = sum over t < count of weight[w0 + t] * src[s0 + offsets[t0 + t] + i], i < n."""
    dtype, size = element_dtype(src, weight, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        places = array_pointer(context, b, sig.args[2], a[2], a[3])
        weights = array_pointer(context, b, sig.args[5], a[5], a[6])
        target = array_pointer(context, b, sig.args[7], a[7], a[8])

        def body(row: Any) -> None:
            def term(t: Any, total: Any) -> Any:
                tap = e.splat(b.load(b.gep(weights, [t])))
                return e.fma(tap, row.load(source, b.add(b.load(b.gep(places, [t])), row.at)), total)

            row.store(_sum_over_taps(e, a[4], term), target)

        _for_row(e, a[9], body)
        return context.get_dummy_value()

    return types.void(src, size, offsets, size, size, weight, size, dst, size, size), codegen


@intrinsic
def weighted_channels(
    typingctx: Any, src: Any, s0: Any, offsets: Any, t0: Any, count: Any, weight: Any, w0: Any, step: Any, dst: Any,
    d0: Any, n: Any,
) -> Any:  # fmt: skip
    """dst[d0 + i] = sum over t < count of weight[w0 + t*step + i] * src[s0 + offsets[t0 + t] + i], i < n."""
    dtype, size = element_dtype(src, weight, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        places = array_pointer(context, b, sig.args[2], a[2], a[3])
        weights = array_pointer(context, b, sig.args[5], a[5], a[6])
        target = array_pointer(context, b, sig.args[8], a[8], a[9])

        def body(row: Any) -> None:
            def term(t: Any, total: Any) -> Any:
                taps = row.load(weights, b.add(b.mul(t, a[7]), row.at))
                return e.fma(taps, row.load(source, b.add(b.load(b.gep(places, [t])), row.at)), total)

            row.store(_sum_over_taps(e, a[4], term), target)

        _for_row(e, a[10], body)
        return context.get_dummy_value()

    return types.void(src, size, offsets, size, size, weight, size, size, dst, size, size), codegen
