"""Values to and from the cells that indices name, as explicit vectors: each lane's cell is one tap of its own window.

Lanes are channels and taps are pixels, or lanes are neighbouring pairs of cells of a row and taps are rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.reduce import BLOCK, _blocks, function_of, steps
from fastconv.cpu.rows import _Row, pair_halves, store_pairs
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64

#: What a lane does with the cell that its index names: add to it, write it (and 0 to every other), read it.
SEND, PLACE, FETCH = "send", "place", "fetch"


class _Matcher:
    """Compares places in a vector of int64 indices with those of taps, in integers as wide as the values."""

    def __init__(self, e: Emitter) -> None:
        self.e, self.wide = e, Emitter(e.builder, "int64", e.width)
        self.whole = Emitter(e.builder, f"int{8 * e.itemsize}", e.width)

    def places(self, row: _Row, indices: Any, base: Any) -> Any:
        """indices - base; -1, which is no tap's place, for what is too wide."""
        b, whole = self.e.builder, self.whole
        at = b.sub(_Row(self.wide, row.at, row.mask).load(indices), base)
        if self.e.itemsize == 8:
            return at
        short = b.trunc(at, whole.vector)
        return b.select(b.icmp_signed("==", b.sext(short, self.wide.vector), at), short, whole.constant(-1))

    def is_at(self, places: Any, tap: Any) -> Any:
        """Mask of lanes whose place is `tap`."""
        b, whole = self.e.builder, self.whole
        tap = whole.splat(b.trunc(tap, whole.scalar) if self.e.itemsize < 8 else tap)
        return b.icmp_signed("==", places, tap)

    def note(self, row: _Row, waiting: Any, lost: Any) -> None:
        """Set `lost` if a lane of `waiting` still is not 0."""
        b = self.e.builder
        left = b.icmp_signed("!=", waiting, self.whole.constant(0))
        if row.mask is not None:
            left = b.and_(left, row.mask)
        b.store(b.or_(b.load(lost), b.zext(b.bitcast(left, ir.IntType(self.e.width)), I64)), lost)


def _matching(dtype: str, deed: str) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        values, indices, cells, table, scale, count, base, n, lost = args
        match = _Matcher(e)
        narrow, whole = match.whole.vector, match.whole
        given = [cgutils.alloca_once(b, e.vector) for _ in range(BLOCK)]
        places = [cgutils.alloca_once(b, narrow) for _ in range(BLOCK)]
        open_lanes = [cgutils.alloca_once(b, narrow) for _ in range(BLOCK)]

        def body(block: list[_Row]) -> None:
            for row, value, place, waiting in zip(block, given, places, open_lanes, strict=False):
                b.store(e.constant(0) if deed == FETCH else row.load(values), value)
                b.store(match.places(row, indices, match.wide.splat(base)), place)
                b.store(whole.constant(-1), waiting)
            with steps(b, i64(0), count) as t:
                rank = b.load(b.gep(table, [t]))
                here = b.gep(cells, [b.mul(rank, scale)])
                for row, value, place, waiting in zip(block, given, places, open_lanes, strict=False):
                    mine = match.is_at(b.load(place), rank)
                    if deed == FETCH:
                        b.store(b.select(mine, row.load(here), b.load(value)), value)
                    elif deed == PLACE:
                        row.store(b.select(mine, b.load(value), e.constant(0)), here)
                    else:
                        old = row.load(here)
                        row.store(b.select(mine, e.add(old, b.load(value)), old), here)
                    b.store(b.select(mine, whole.constant(0), b.load(waiting)), waiting)
            for row, value, waiting in zip(block, given, open_lanes, strict=False):
                if deed == FETCH:
                    row.store(b.load(value), values)
                match.note(row, b.load(waiting), lost)

        _blocks(e, n, body)

    return emit


def _matcher(deed: str) -> Any:
    @intrinsic
    def op(
        typingctx: Any, values: Any, indices: Any, s0: Any, cells: Any, c0: Any, table: Any, t0: Any, scale: Any,
        count: Any, base: Any, n: Any,
    ) -> Any:  # fmt: skip
        dtype, size = element_dtype(values, cells), types.int64

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            _, _, s0, _, c0, _, t0, scale, count, base, n = a
            lost = cgutils.alloca_once(b, I64)
            b.store(i64(0), lost)
            given = [
                array_pointer(context, b, sig.args[0], a[0], s0),
                array_pointer(context, b, sig.args[1], a[1], s0),
                array_pointer(context, b, sig.args[3], a[3], c0),
                array_pointer(context, b, sig.args[5], a[5], t0),
                scale, count, base, n, lost,
            ]  # fmt: skip
            kinds = [v.type for v in given]
            b.call(function_of(b.module, f"fastconv_{deed}_{dtype}", kinds, _matching(dtype, deed)), given)
            return b.load(lost)

        return types.int64(values, indices, size, cells, size, table, size, size, size, size, size), codegen

    return op


#: send_row(values, indices, s0, cells, c0, table, t0, scale, count, base, n):
#: cells[c0 + table[t0 + t]*scale + i] += values[s0 + i] for the t with base + table[t0 + t] = indices[s0 + i], i < n.
#: Returns whether some element found no such t.
send_row = _matcher(SEND)

#: The same where nothing was sent before: = in place of +=, and 0 for every other t.
place_row = _matcher(PLACE)

#: The other way: values[s0 + i] = the cell that its index names; 0 for none.
fetch_row = _matcher(FETCH)


def _pairing(dtype: str, deed: str) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        values, indices, cells, table, count, base, n, lines, pitch, lost = args
        match, W = _Matcher(e), e.width
        ranks = ir.Constant(match.wide.vector, [2 * lane for lane in range(W)])
        total, waiting = cgutils.alloca_once(b, e.vector), cgutils.alloca_once(b, match.whole.vector)

        def body(block: list[_Row], line: Any) -> None:
            (row,) = block
            shift = b.mul(line, n)
            source, places = b.gep(values, [shift]), b.gep(indices, [shift])
            down, across = b.mul(line, pitch), b.add(row.at, row.at)
            first = b.add(match.wide.splat(b.add(b.add(base, down), across)), ranks)
            at = match.places(row, places, first)
            value = row.load(source) if deed == PLACE else None
            b.store(e.constant(0), total)
            b.store(match.whole.constant(-1), waiting)
            halves = pair_halves(row, n)
            with steps(b, i64(0), count) as t:
                rank = b.load(b.gep(table, [t]))
                here = b.gep(cells, [b.add(down, rank)])
                even, odd = match.is_at(at, rank), match.is_at(at, b.add(rank, i64(1)))
                if deed == PLACE:
                    one, other = (b.select(mask, value, e.constant(0)) for mask in (even, odd))
                    store_pairs(row, n, one, other, here)
                else:
                    one, other = (half.load(here) for half in halves)
                    for offset, mask in enumerate((even, odd)):
                        cell = e.shuffle(one, other, range(offset, 2 * W, 2))
                        b.store(b.select(mask, cell, b.load(total)), total)
                found = b.or_(even, odd)
                b.store(b.select(found, match.whole.constant(0), b.load(waiting)), waiting)
            if deed == FETCH:
                row.store(b.load(total), source)
            match.note(row, b.load(waiting), lost)

        with steps(b, i64(0), lines) as line:
            _blocks(e, n, lambda block: body(block, line), 1)

    return emit


def _pairer(deed: str) -> Any:
    @intrinsic
    def op(
        typingctx: Any, values: Any, indices: Any, s0: Any, cells: Any, c0: Any, table: Any, t0: Any, count: Any,
        base: Any, n: Any, lines: Any, pitch: Any,
    ) -> Any:  # fmt: skip
        dtype, size = element_dtype(values, cells), types.int64

        def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
            _, _, s0, _, c0, _, t0, count, base, n, lines, pitch = a
            lost = cgutils.alloca_once(b, I64)
            b.store(i64(0), lost)
            given = [
                array_pointer(context, b, sig.args[0], a[0], s0),
                array_pointer(context, b, sig.args[1], a[1], s0),
                array_pointer(context, b, sig.args[3], a[3], c0),
                array_pointer(context, b, sig.args[5], a[5], t0),
                count, base, n, lines, pitch, lost,
            ]  # fmt: skip
            kinds = [v.type for v in given]
            b.call(function_of(b.module, f"fastconv_{deed}_pairs_{dtype}", kinds, _pairing(dtype, deed)), given)
            return b.load(lost)

        return types.int64(values, indices, size, cells, size, table, size, size, size, size, size, size), codegen

    return op


#: place_pairs(values, indices, s0, cells, c0, table, t0, count, base, n, lines, pitch): line l < lines has n windows of
#: two cells across, those of window i at cells[c0 + l*pitch + table[t0 + t] + 2*i], t < count. One of them, the one
#: whose place is base + l*pitch + table[t0 + t] + 2*i (or one more) = indices[s0 + l*n + i], becomes
#: values[s0 + l*n + i], the others 0. Returns whether some element found none.
place_pairs = _pairer(PLACE)

#: The other way, as by `fetch_row`.
fetch_pairs = _pairer(FETCH)
