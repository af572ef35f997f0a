"""Dot products of rows: the SIMD kernels of weight gradients with few channels, and of layers with few pixels.

    dots           C[i, j][lane] (+)= sum_v Y[i, v*W + lane] * X[off[j] + v*W + lane]
    dot_products   C[i, j]       (+)= the same, its lanes added up

MR rows of Y meet NT rows, or shifts, of X; all MR x NT sums are vectors that stay in registers while v runs. Lanes are
added up in pairs, at the very end, or, where they are channels, never.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.jit import inline, outlined
from fastconv.cpu.rows import _first_lanes, _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, each_tile, element_dtype, i64, prefetch_line, vector_width
from fastconv.cpu.window import _once_each

# MR -> most shifts. Every step loads MR + NT vectors, most of them across cache lines: two loads for MR * NT
# multiply-adds. Nine sums are a 3x3 kernel; with 16 registers ten are all that fit beside Y and X.
_MOST_32 = {4: 6, 2: 10, 1: 12}
_MOST_16 = {4: 2, 2: 5, 1: 9}


def most_shifts() -> dict[int, int]:
    """Rows of Y -> the most shifts of X that have code; every smaller number has, too."""
    return _MOST_32 if isa.registers() >= 32 else _MOST_16


def most_products() -> dict[int, int]:
    """The same of `dot_products`: any number of rows in fours, with as many rows of X throughout."""
    return dict.fromkeys(most_shifts(), most_shifts()[4])


#: Where a tile's sums go: (access, vector, pointer) each.
Ends = list[tuple[_Row, Any, Any]]


def _emit(e: Emitter, mr: int, nt: int, p: dict[str, Any], ends: Callable[[dict[tuple[int, int], Any]], Ends]) -> None:
    """One register tile at the builder's position; the builder ends behind it."""
    b = e.builder
    cells = [(i, j) for i in range(mr) for j in range(nt)]
    rows = [b.gep(p["Y"], [b.mul(p["y_row"], i64(i))]) for i in range(mr)]
    shifts = [b.gep(p["X"], [b.load(b.gep(p["off"], [i64(j)]))]) for j in range(nt)]
    entry = b.block
    loop, leave, update, fresh, done = (
        b.append_basic_block(f"{name}{mr}x{nt}") for name in ("v", "leave", "add", "set", "end")
    )
    b.branch(loop)

    b.position_at_end(loop)
    at = b.phi(I64)
    sums = {cell: b.phi(e.vector) for cell in cells}
    if p["ahead"]:
        for row in rows:
            prefetch_line(b, b.gep(row, [b.add(at, i64(p["ahead"] * e.width))]), near=True)
    y = [e.load(b.gep(row, [at])) for row in rows]
    new = {}
    for j in range(nt):
        x = e.load(b.gep(shifts[j], [at]))
        for i in range(mr):
            new[i, j] = e.fma(y[i], x, sums[i, j])
    following = b.add(at, i64(e.width))
    at.add_incoming(i64(0), entry)
    at.add_incoming(following, loop)
    for cell in cells:
        sums[cell].add_incoming(e.constant(0), entry)
        sums[cell].add_incoming(new[cell], loop)
    again = b.cbranch(b.icmp_signed("<", following, p["end"]), loop, leave)
    again.set_metadata("llvm.loop", _once_each(b.module))

    b.position_at_end(leave)
    found = ends(new)
    b.cbranch(p["add"], update, fresh)
    b.position_at_end(update)
    for row, value, target in found:
        row.store(row.e.add(row.load(target), value), target)
    b.branch(done)
    b.position_at_end(fresh)
    for row, value, target in found:
        row.store(value, target)
    b.branch(done)
    b.position_at_end(done)


def _vectors(e: Emitter, p: dict[str, Any], sums: dict[tuple[int, int], Any]) -> Ends:
    """Each sum is a vector of C."""
    b, whole = e.builder, _Row(e, i64(0), None)
    return [
        (whole, value, b.gep(p["C"], [b.mul(b.add(b.mul(p["c_row"], i64(i)), i64(j)), i64(e.width))]))
        for (i, j), value in sums.items()
    ]


def _numbers(e: Emitter, p: dict[str, Any], sums: dict[tuple[int, int], Any]) -> Ends:
    """Each sum is a number of C: rows of C share a vector while its lanes are added up."""
    b = e.builder
    nt = 1 + max(j for _, j in sums)
    room = next(n for n in (1, 2, 4, 8, 16) if n >= min(nt, e.width))
    pieces = [(i, j) for i, j in sorted(sums) if j % room == 0]
    found: Ends = []
    for first in range(0, len(pieces), e.width // room):
        together = pieces[first : first + e.width // room]
        lanes = [sums.get((i, j + k)) for i, j in together for k in range(room)]
        total = _across(e, [*lanes, *[None] * (e.width - len(lanes))])
        for place, (i, j) in enumerate(together):
            short = Emitter(b, e.dtype, room)
            mask = None if nt - j >= room else _first_lanes(short, i64(nt - j))
            value = e.shuffle(total, total, range(place * room, (place + 1) * room))
            target = b.gep(p["C"], [b.add(b.mul(p["c_row"], i64(i)), i64(j))])
            found.append((_Row(short, i64(0), mask), value, target))
    return found


def _across(e: Emitter, rows: list[Any]) -> Any:
    """The vector whose lane i is the sum of the lanes of rows[i], in pairs; None stands for a row nobody asks for."""
    even, odd = range(0, 2 * e.width, 2), range(1, 2 * e.width, 2)
    while len(rows) > 1:
        pairs = [(one, one if other is None else other) for one, other in zip(rows[::2], rows[1::2], strict=True)]
        rows = [a if a is None else e.add(e.shuffle(a, b, even), e.shuffle(a, b, odd)) for a, b in pairs]
    return rows[0]


def _dots(
    most: Callable[[], dict[int, int]], ends: Callable[[Emitter, dict[str, Any], Any], Ends], ahead: int = 0
) -> Any:
    """The intrinsic of both forms; a step asks for rows of Y `ahead` vectors further on."""

    @intrinsic
    def op(
        typingctx: Any, mr: Any, nt: Any, Y: Any, y0: Any, y_row: Any, X: Any, x0: Any, off: Any, j0: Any,
        vectors: Any, C: Any, c0: Any, c_row: Any, accumulate: Any,
    ) -> Any:  # fmt: skip
        dtype, n = element_dtype(Y, X, C), types.int64
        signature = types.void(n, n, Y, n, n, X, n, off, n, n, C, n, n, types.boolean)

        def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
            e = Emitter(b, dtype)
            mr_, nt_, Y_, y0_, y_row_, X_, x0_, off_, j0_, vectors_, C_, c0_, c_row_, accumulate_ = args
            p = {
                "Y": array_pointer(context, b, sig.args[2], Y_, y0_), "y_row": y_row_,
                "X": array_pointer(context, b, sig.args[5], X_, x0_),
                "off": array_pointer(context, b, sig.args[7], off_, j0_),
                "C": array_pointer(context, b, sig.args[10], C_, c0_), "c_row": c_row_,
                "end": b.mul(vectors_, i64(e.width)), "add": accumulate_, "ahead": ahead,
            }  # fmt: skip
            pairs = [(rows, shifts) for rows, widest in most().items() for shifts in range(1, widest + 1)]
            each_tile(b, mr_, nt_, pairs, lambda i, j: _emit(e, i, j, p, lambda sums: ends(e, p, sums)))
            return context.get_dummy_value()

        return signature, codegen

    return op


#: dots(mr, nt, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):
#: C[c0 + (i*c_row + j)*W + lane] (+)= sum over v < vectors of
#: Y[y0 + i*y_row + v*W + lane] * X[x0 + off[j0 + j] + v*W + lane], for i < mr, j < nt; vectors >= 1.
#: (mr, nt) is one of `most_shifts`; anything else computes nothing.
dots = _dots(most_shifts, _vectors)

#: The same with lanes added up: C[c0 + i*c_row + j] (+)= the sum over v and lane. (mr, nt) is one of `most_products`.
#: Rows of Y pass through L1 once for each block of X; they seldom begin on a cache line, and the prefetcher of L1 sees
#: too few vectors of a row: asked for four steps ahead, 64 vectors take 95 % of the peak instead of 87 %.
dot_products = _dots(most_products, _numbers, ahead=4)


@intrinsic
def _most(typingctx: Any, mr: Any) -> Any:
    """The most shifts for `mr` rows."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        result = i64(0)
        for rows, most in most_shifts().items():
            result = b.select(b.icmp_signed("==", args[0], i64(rows)), i64(most), result)
        return result

    return types.int64(types.int64), codegen


@inline
def dot_block(rows, shifts, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):  # type: ignore[no-untyped-def]
    """`dots` of any number of rows and shifts."""
    W = vector_width(C)
    i = 0
    while i < rows:
        mr = 4 if rows - i >= 4 else 2 if rows - i >= 2 else 1
        pieces = (shifts + _most(mr) - 1) // _most(mr)
        for piece in range(pieces):
            j, end = piece * shifts // pieces, (piece + 1) * shifts // pieces
            dots(
                mr, end - j, Y, y0 + i * y_row, y_row, X, x0, off, j0 + j, vectors, C, c0 + (i * c_row + j) * W, c_row,
                accumulate,
            )  # fmt: skip
        i += mr


def _most_few() -> dict[int, int]:
    """As many shifts for one row as for four: fewer kinds of tiles."""
    return dict.fromkeys((4, 1), most_shifts()[4])


#: `dots` with (mr, nt) one of `_most_few`.
_dots_few = _dots(_most_few, _vectors)


@inline
def dot_few_block(rows, shifts, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):  # type: ignore[no-untyped-def]
    """`dots` of any number of rows, and few enough shifts for one tile."""
    W = vector_width(C)
    i = 0
    while i < rows:
        mr = 4 if rows - i >= 4 else 1
        _dots_few(
            mr, shifts, Y, y0 + i * y_row, y_row, X, x0, off, j0, vectors, C, c0 + i * c_row * W, c_row, accumulate
        )
        i += mr


@outlined
def product_block(rows, nt, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):  # type: ignore[no-untyped-def]
    """`dot_products` of any number of rows of Y, and few enough of X for one tile."""
    i = 0
    while i < rows:
        mr = 4 if rows - i >= 4 else 2 if rows - i >= 2 else 1
        dot_products(mr, nt, Y, y0 + i * y_row, y_row, X, x0, off, j0, vectors, C, c0 + i * c_row, c_row, accumulate)
        i += mr


@intrinsic
def add_lanes(typingctx: Any, src: Any, s0: Any, dst: Any, d0: Any) -> Any:
    """dst[d0 + i] = sum over the lanes of src[s0 + i*W + lane], in pairs; i < W."""
    dtype = element_dtype(src, dst)

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        total = _across(e, [e.load(b.gep(source, [i64(i * e.width)])) for i in range(e.width)])
        e.store(total, array_pointer(context, b, sig.args[2], a[2], a[3]))
        return context.get_dummy_value()

    n = types.int64
    return types.void(src, n, dst, n), codegen


def dots_twin(
    mr: int, nt: int, Y: np.ndarray, y0: int, y_row: int, X: np.ndarray, x0: int, off: np.ndarray, j0: int,
    vectors: int, C: np.ndarray, c0: int, c_row: int, accumulate: bool,
) -> None:  # fmt: skip
    """`dots` in plain Python, its oracle in the tests."""
    W = isa.width(C.dtype)
    for i in range(mr):
        for j in range(nt):
            for lane in range(W):
                total = C.dtype.type(0)
                for v in range(vectors):
                    total += Y[y0 + i * y_row + v * W + lane] * X[x0 + off[j0 + j] + v * W + lane]
                cell = c0 + (i * c_row + j) * W + lane
                C[cell] = C[cell] + total if accumulate else total
