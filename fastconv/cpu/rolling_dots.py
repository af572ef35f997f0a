"""Dot products of a plane with the nine shifts of another: the SIMD kernel of weight gradients of 3x3 depthwise layers.

    C[tap][lane] (+)= sum over rows and vectors of Y[i, p] * X[i*stride + r, p*every + s]        tap = 3 r + s

Nothing is copied first: cells outside the image are lanes that masked loads leave at zero, and a row of zeros. With a
stride across, outputs are spread to every second lane, zeros between them. A column of vectors has sums of its own,
which are added up from left to right.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu.rolling import SIZE, bits
from fastconv.cpu.rows import _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64

TAPS = SIZE * SIZE


def _emit_column(b: Any, e: Emitter, p: dict[str, Any], at: Any, masks: list[Any], every: int) -> list[Any]:
    """The sums of one column, over all rows."""
    y_at = b.udiv(at, i64(every))
    narrow = Emitter(b, e.dtype, e.width // every)
    left = b.sub(p["width"], y_at)
    some = b.select(b.icmp_signed(">=", left, i64(narrow.width)), i64(-1), b.sub(b.shl(i64(1), left), i64(1)))
    reader = _Row(narrow, i64(0), bits(b, some, narrow.width))
    source, zeros, first = b.gep(p["src"], [at]), b.gep(p["zeros"], [at]), b.gep(p["grad"], [y_at])
    entry, loop, leave = b.block, b.append_basic_block(f"dots{every}_"), b.append_basic_block(f"done{every}_")
    b.branch(loop)
    b.position_at_end(loop)
    i, place = b.phi(I64), b.phi(first.type)
    sums = [b.phi(e.vector) for _ in range(TAPS)]
    for phi, value in zip((i, place, *sums), (i64(0), first, *[e.constant(0)] * TAPS), strict=True):
        phi.add_incoming(value, entry)
    y = reader.load(place)
    if every > 1:
        spread = [lane // 2 if lane % 2 == 0 else narrow.width for lane in range(e.width)]
        y = e.shuffle(y, narrow.constant(0), spread)
    new = []
    for r in range(SIZE):
        down = b.add(b.mul(i, p["stride"]), i64(r))
        pointer = b.gep(source, [b.mul(down, p["pitch"])])
        pointer = b.select(b.icmp_unsigned("<", b.add(p["row"], down), p["height"]), pointer, zeros)
        for s, mask in enumerate(masks):
            x = _Row(e, i64(s), mask).load(pointer)
            new.append(e.fma(y, x, sums[SIZE * r + s]))
    following = b.add(i, i64(1))
    for phi, value in zip((i, place, *sums), (following, b.gep(place, [p["g_pitch"]]), *new), strict=True):
        phi.add_incoming(value, loop)
    b.cbranch(b.icmp_signed("<", following, p["rows"]), loop, leave)
    b.position_at_end(leave)
    return new


@intrinsic
def roll_dots(
    typingctx: Any, stride: Any, every: Any, src: Any, s0: Any, pitch: Any, row: Any, height: Any,
    grad: Any, g0: Any, g_pitch: Any, rows: Any, columns: Any, width: Any, C: Any, c0: Any, c_step: Any,
    tables: Any, masks: Any, zeros: Any, z0: Any, accumulate: Any,
) -> Any:  # fmt: skip
    """C[c0 + tap*c_step] (+)= the sums of `rows` rows of `width` outputs, for the nine taps.

    Arguments are those of `rolling.roll`, but that columns do not overlap; `every` is 1 or 2.
    """
    dtype, n = element_dtype(src, grad, C, zeros), types.int64
    signature = types.void(
        n, n, src, n, n, n, n, grad, n, n, n, n, n, C, n, n, tables, n, zeros, n, types.boolean
    )  # fmt: skip

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        (
            stride, every, _, s0, pitch, row, height, _, g0, g_pitch, rows, columns, width, _, c0, c_step,
            _, masks, _, z0, accumulate,
        ) = a  # fmt: skip

        def pointer(array: int, at: Any) -> Any:
            return array_pointer(context, b, sig.args[array], a[array], at)

        p = {
            "stride": stride, "src": pointer(2, s0), "pitch": pitch, "row": row, "height": height,
            "grad": pointer(7, g0), "g_pitch": g_pitch, "rows": rows, "width": width, "zeros": pointer(18, z0),
        }  # fmt: skip
        target, inside = pointer(13, c0), pointer(16, masks)
        entry = b.block
        names = ("column", "one", "two", "joined", "right", "update", "fresh", "end")
        column, one, two, joined, right, update, fresh, end = (b.append_basic_block(name) for name in names)
        b.branch(column)
        b.position_at_end(column)
        j = b.phi(I64)
        totals = [b.phi(e.vector) for _ in range(TAPS)]
        for phi, value in zip((j, *totals), (i64(0), *[e.constant(0)] * TAPS), strict=True):
            phi.add_incoming(value, entry)
        at, first = b.mul(j, i64(e.width)), b.mul(j, i64(SIZE))
        lanes = [bits(b, b.load(b.gep(inside, [b.add(first, i64(s))])), e.width) for s in range(SIZE)]
        b.cbranch(b.icmp_signed(">", every, i64(1)), two, one)
        sums = []
        for step, block in ((1, one), (2, two)):
            b.position_at_end(block)
            sums.append((_emit_column(b, e, p, at, lanes, step), b.block))
            b.branch(joined)
        b.position_at_end(joined)
        parts = [b.phi(e.vector) for _ in range(TAPS)]
        for values, block in sums:
            for phi, value in zip(parts, values, strict=True):
                phi.add_incoming(value, block)
        added = [e.add(total, part) for total, part in zip(totals, parts, strict=True)]
        following = b.add(j, i64(1))
        for phi, value in zip((j, *totals), (following, *added), strict=True):
            phi.add_incoming(value, joined)
        b.cbranch(b.icmp_signed("<", following, columns), column, right)
        b.position_at_end(right)
        cells = [b.gep(target, [b.mul(c_step, i64(tap))]) for tap in range(TAPS)]
        b.cbranch(accumulate, update, fresh)
        b.position_at_end(update)
        for value, cell in zip(added, cells, strict=True):
            e.store(e.add(e.load(cell), value), cell)
        b.branch(end)
        b.position_at_end(fresh)
        for value, cell in zip(added, cells, strict=True):
            e.store(value, cell)
        b.branch(end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return signature, codegen
