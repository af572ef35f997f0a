"""Rolling windows: the SIMD kernel of convolutions with one input channel per output.

RB accumulators lie `pitch` apart (rows of an image, or pixels of a channels-last row). A chunk of R kernel taps runs
along the same direction, so one loaded vector serves every accumulator whose window covers it:

    acc[i] += w[r] * src[(i + r) * pitch + tap]        0 <= i < RB, 0 <= r < R, for all taps across

RB + R - 1 loads feed RB * R multiply-adds, with the R weights in registers. A kernel is a list of chunks; each is
summed by itself and then added to the total, so that chains of roundings stay short. Where registers allow, odd and
even taps have sums of their own, which also halves the wait of a multiply-add for the one before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.rows import Finish, _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64, literal

#: Longest chunk. 7 accumulators, 5 weights and a loaded vector fit 16 registers.
MOST_TAPS = 5

#: Forms of a window. In the first three a weight serves all lanes; VECTORS has a weight and a bias for each lane.
#: MASKED reads zeros outside the image, MASKED_2 does and takes every second cell.
PLAIN, MASKED, MASKED_2, VECTORS = range(4)
IMAGE_FORMS, PIXEL_FORMS = 0b0111, 0b1000

#: Entries of a chunk in its table: place in the source, taps, place of its weights, place in the table of rows, first
#: tap across, taps across (0: as many as the window's argument says).
CHUNK = 6


def heights() -> tuple[int, int, int]:
    """The numbers of accumulators compiled; image heights of most networks are multiples of 7."""
    return 7, 3, 1


def sets(taps: int) -> int:
    """How many sums share the taps of a chunk."""
    return 2 if taps >= 3 and isa.registers() >= 32 else 1


def cut(along: int, across: int, times: int = 1, whole: bool = False) -> tuple[int, int]:
    """Chunks for a kernel of along x across taps, `times` over: (most taps of a chunk, pieces across).

    A chunk of R taps makes chains of R/sets * across terms, and every chunk adds `sets` roundings. Where all terms are
    equal, as in a flat area under a box filter, all of them go the same way, 0.44 u each as measured: 32 are 14 u.
    Long runs are fast: the longest is taken that keeps to 32, or comes near the fewest where none does. With `whole`
    there is one piece.
    """
    options = []
    for run in range(min(MOST_TAPS, along), 0, -1):
        for pieces in range(1, 2 if whole else across + 1):
            chunks = -(-along // run) * times * pieces
            options.append((-(-run // sets(run)) * -(-across // pieces) + chunks * sets(run), run, pieces))
    most = max(32, 1.25 * min(options)[0])
    return next((run, pieces) for roundings, run, pieces in options if roundings <= most)


def best_heights(most: int) -> list[int]:
    """For every number of rows up to `most` the height of windows that computes the fewest rows twice."""

    def best(rows: int) -> int:
        return min((h for h in heights() if h <= rows), key=lambda h: (-(-rows // h) * (h + 2), -h))

    return [0, *map(best, range(1, most + 1))]


def _once_each(module: Any) -> Any:
    """Loop metadata: the body is unrolled already, more copies only cost compile time."""
    loop = module.add_metadata([module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])])
    if loop.operands[0] is not loop:
        loop.operands = (loop, *loop.operands)  # a loop's metadata names itself first
    return loop


class _Window:
    """Emits one window of `rb` accumulators over all columns."""

    def __init__(self, b: Any, e: Emitter, p: dict[str, Any], rb: int, form: int) -> None:
        self.b, self.e, self.p, self.rb = b, e, p, rb
        self.vectors, self.masked, self.stride = form == VECTORS, form in (MASKED, MASKED_2), 1 + (form == MASKED_2)

    def blocks(self, *names: str) -> list[Any]:
        return [self.b.append_basic_block(f"{name}{self.rb}_") for name in names]

    def table(self, name: str, *index: Any) -> Any:
        at = index[0]
        for more in index[1:]:
            at = self.b.add(at, more)
        return self.b.load(self.b.gep(self.p[name], [at]))

    def emit(self, end: Any) -> None:
        """1. over planes, 2. over columns, 3. over chunks, 4. over the taps across."""
        b, e, p = self.b, self.e, self.p
        entry = b.block
        plane, column, chunk, joined, finish, turn = self.blocks("plane", "col", "chunk", "joined", "finish", "turn")
        b.branch(plane)

        b.position_at_end(plane)
        names = ("src", "dst", "weights", "bias", "other")
        counter = b.phi(I64)
        counter.add_incoming(i64(1), entry)
        here = [b.phi(p[name].type) for name in names]
        for phi, name in zip(here, names, strict=True):
            phi.add_incoming(p[name], entry)
        b.branch(column)

        b.position_at_end(column)
        j = b.phi(I64)
        j.add_incoming(p["first"], plane)
        start = b.mul(j, i64(e.width))
        at = b.select(b.icmp_signed("<", start, p["last"]), start, p["last"])  # the last one overlaps
        across = b.mul(at, i64(self.stride))
        source, target, self.weights, self.bias, other = here
        source, target, self.zeros = b.gep(source, [across]), b.gep(target, [at]), b.gep(p["zeros"], [across])
        if self.vectors:
            self.weights, self.bias = b.gep(self.weights, [at]), b.gep(self.bias, [at])
        masks = b.mul(j, p["across"]) if self.masked else None
        b.branch(chunk)

        b.position_at_end(chunk)
        c = b.phi(I64)
        sums = [b.phi(e.vector) for _ in range(self.rb)]
        for phi, value in ((c, i64(0)), *((s, e.constant(0)) for s in sums)):
            phi.add_incoming(value, column)
        entries = b.mul(c, i64(CHUNK))
        place, taps, weight, row, tap, own = (self.table("chunks", entries, i64(i)) for i in range(CHUNK))
        number = b.select(b.icmp_signed("==", own, i64(0)), p["across"], own)
        choice = b.switch(taps, joined)
        b.position_at_end(joined)
        after = [b.phi(e.vector) for _ in range(self.rb)]
        for phi, old in zip(after, sums, strict=True):
            phi.add_incoming(old, chunk)
        for r in range(1, MOST_TAPS + 1):
            (case,) = self.blocks(f"taps{r}x")
            choice.add_case(i64(r), case)
            b.position_at_end(case)
            parts = self.taps(r, source, place, weight, row, masks, tap, number)
            alone, (add,) = b.block, self.blocks("add")
            b.cbranch(b.icmp_signed("==", c, i64(0)), joined, add)
            b.position_at_end(add)
            for phi, old, part in zip(after, sums, parts, strict=True):
                phi.add_incoming(part, alone)
                phi.add_incoming(e.add(old, part), add)
            b.branch(joined)

        b.position_at_end(joined)
        c_next = b.add(c, i64(1))
        c.add_incoming(c_next, joined)
        for phi, new in zip(sums, after, strict=True):
            phi.add_incoming(new, joined)
        b.cbranch(b.icmp_signed("<", c_next, p["count"]), chunk, finish)

        b.position_at_end(finish)
        self.store(after, target, b.gep(other, [at]))
        j_next = b.add(j, i64(1))
        j.add_incoming(j_next, b.block)
        b.cbranch(b.icmp_signed("<", j_next, p["columns"]), column, turn)

        b.position_at_end(turn)
        for phi, step in zip(here, ("src_step", "dst_step", "w_step", "b_step", "dst_step"), strict=True):
            phi.add_incoming(b.gep(phi, [p[step]]), turn)
        following = b.add(counter, i64(1))
        counter.add_incoming(following, turn)
        b.cbranch(b.icmp_signed("<=", following, p["planes"]), plane, end)

    def taps(
        self, R: int, source: Any, place: Any, weight: Any, row: Any, masks: Any, tap: Any, number: Any
    ) -> list[Any]:
        """The sums of a chunk of R taps, over the taps across."""
        b, e, p = self.b, self.e, self.p
        entry = b.block
        loop, leave = self.blocks(f"loop{R}x", f"leave{R}x")
        base, first = b.gep(source, [place]), b.gep(self.weights, [weight])
        count = self.rb + R - 1
        places = self.inside(self.rows(base, count), row) if self.masked else []
        columns = b.add(masks, tap) if self.masked else None
        b.branch(loop)
        b.position_at_end(loop)
        s, w = b.phi(I64), b.phi(first.type)
        chains = [b.phi(e.vector) for _ in range(self.rb * sets(R))]
        phis = [s, w, *chains]
        for phi, value in zip(phis, (i64(0), first, *[e.constant(0)] * len(chains)), strict=True):
            phi.add_incoming(value, entry)
        cell, current = w, []
        for r in range(R):
            current.append(e.load(cell) if self.vectors else e.splat(b.load(cell)))
            if r + 1 < R:
                cell = b.gep(cell, [p["w_along"]])
        at = self.table("taps", tap, s)
        rows = (b.gep(pointer, [at]) for pointer in places) if self.masked else self.rows(b.gep(base, [at]), count)
        lanes = self.table("column_masks", columns, s) if self.masked else None
        values = list(chains)
        for i, row_at in enumerate(rows):
            vector = self.cells(row_at, lanes) if self.masked else e.load(row_at)
            for r in range(R):
                if 0 <= i - r < self.rb:
                    chain = i - r + self.rb * (r % sets(R))
                    values[chain] = e.fma(current[r], vector, values[chain])
        s_next = b.add(s, i64(1))
        for phi, value in zip(phis, (s_next, b.gep(w, [p["w_across"]]), *values), strict=True):
            phi.add_incoming(value, loop)
        again = b.cbranch(b.icmp_signed("<", s_next, number), loop, leave)
        again.set_metadata("llvm.loop", _once_each(b.module))
        b.position_at_end(leave)
        if sets(R) == 1:
            return values
        return [e.add(even, odd) for even, odd in zip(values[: self.rb], values[self.rb :], strict=True)]

    def rows(self, pointer: Any, count: int) -> list[Any]:
        """Pointers `pitch` apart."""
        found = [pointer]
        while len(found) < count:
            found.append(self.b.gep(found[-1], [self.p["pitch"]]))
        return found

    def inside(self, rows: list[Any], first: Any) -> list[Any]:
        """The same, with a row of zeros in place of rows outside the image."""
        b, found = self.b, []
        for i, row in enumerate(rows):
            valid = self.table("row_masks", first, b.mul(self.p["row_step"], i64(i)))
            found.append(b.select(b.icmp_signed("!=", valid, i64(0)), row, self.zeros))
        return found

    def cells(self, pointer: Any, mask: Any) -> Any:
        """One vector of cells: those of a run whose mask bits are set, or every second of two runs."""
        b, e = self.b, self.e
        runs = []
        for i in range(self.stride):
            bits = self.bits(b.lshr(mask, i64(i * e.width)))
            runs.append(_Row(e, i64(i * e.width), bits).load(pointer))
        return runs[0] if self.stride == 1 else e.shuffle(runs[0], runs[1], range(0, 2 * e.width, 2))

    def bits(self, number: Any) -> Any:
        """The lowest bits of an integer as a lane mask."""
        width = self.e.width
        return self.b.bitcast(self.b.trunc(number, ir.IntType(width)), ir.VectorType(ir.IntType(1), width))

    def store(self, sums: list[Any], target: Any, other: Any) -> None:
        """dst (+)= sums + bias, in the lanes below `lanes`. Only VECTORS can add, and it always has all lanes."""
        b, e, p = self.b, self.e, self.p
        bias = e.load(self.bias) if self.vectors else e.splat(b.load(self.bias))
        finish = Finish(e, bias, p["add"], p["low"], p["high"])
        plain, whole, special, simple, done = self.blocks("plain", "whole", "special", "simple", "stored")
        lanes = _Row(e, i64(0), None if self.vectors else self.bits(p["stored"]))
        b.cbranch(p["simple"], simple, special)
        b.position_at_end(simple)
        b.cbranch(b.icmp_signed("==", finish.kind, i64(Finish.PLAIN)), plain, whole)
        for block in (plain, whole, special):
            b.position_at_end(block)
            pointer, more = target, other
            for total in sums:
                value, row = e.add(total, bias), lanes if block is special else _Row(e, i64(0), None)
                if block is special and self.vectors:
                    value = finish.where(p["adds"], value, partial(self.plus, value, pointer))
                finish.store(Finish.PLAIN if block is plain else Finish.ALL, value, row, pointer, more)
                pointer, more = b.gep(pointer, [p["d_pitch"]]), b.gep(more, [p["d_pitch"]])
            b.branch(done)
        b.position_at_end(done)

    def plus(self, value: Any, pointer: Any) -> Any:
        return self.e.add(self.e.load(pointer), value)


@intrinsic
def window(
    typingctx: Any, forms: Any, form: Any, rb: Any, src: Any, s0: Any, pitch: Any, dst: Any, d0: Any, d_pitch: Any,
    first: Any, columns: Any, last: Any, lanes: Any, weights: Any, w0: Any, w_along: Any, w_across: Any,
    bias: Any, b0: Any, tables: Any, chunks: Any, count: Any, taps: Any, across: Any,
    column_masks: Any, row_masks: Any, row_step: Any, zeros: Any, z0: Any, accumulate: Any,
    planes: Any, src_step: Any, dst_step: Any, w_step: Any, b_step: Any,
    other: Any, o0: Any, add: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """Windows of `rb` (one of `heights()`) accumulators at the columns W*first, ..., W*(columns - 1), at most `last`.

    tables[chunks:] holds `count` chunks of CHUNK entries, tables[taps:] the places of the `across` taps across.
    The sums, plus `bias[b0]`, go to the lowest `lanes` lanes of dst; with VECTORS, which needs whole vectors, they may
    be added to dst.

    `forms` (compile-time) are those compiled, `form` is the one to use. With VECTORS weights and
    bias move along with the columns. With MASKED a lane of row i is read only if tables[row_masks + i*row_step] is not
    0 and its bit of tables[column_masks + column*across + tap] is set, else it is zero; `zeros`, zeros as long as an
    image row, begins at the row's first cell. All is repeated for `planes` planes, each a step further. At last
    other[o0], which lies as dst does, is added if `add`, and results are cut to low .. high.
    """
    compiled = [form for form in range(4) if literal(forms, "forms") >> form & 1]
    dtype, n = element_dtype(src, dst, weights, bias, zeros, other), types.int64
    signature = types.void(
        forms, n, n, src, n, n, dst, n, n, n, n, n, n, weights, n, n, n, bias, n, tables, n, n, n, n, n, n, n, zeros, n,
        types.boolean, n, n, n, n, n, other, n, types.boolean, src.dtype, src.dtype,
    )  # fmt: skip

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        (
            _, form, rb, _, s0, pitch, _, d0, d_pitch, first, columns, last, lanes, _, w0, w_along, w_across, _, b0,
            _, chunks, count, taps, across, column_masks, row_masks, row_step, _, z0, accumulate,
            planes, src_step, dst_step, w_step, b_step, _, o0, add, low, high,
        ) = a  # fmt: skip

        def pointer(array: int, at: Any) -> Any:
            return array_pointer(context, b, sig.args[array], a[array], at)

        full = b.icmp_signed(">=", lanes, i64(e.width))
        stored = b.select(full, i64(-1), b.sub(b.shl(i64(1), lanes), i64(1)))
        p = {
            "src": pointer(3, s0), "pitch": pitch, "dst": pointer(6, d0), "d_pitch": d_pitch, "first": first,
            "columns": columns, "last": last, "weights": pointer(13, w0), "w_along": w_along, "w_across": w_across,
            "bias": pointer(17, b0), "chunks": pointer(19, chunks), "count": count, "taps": pointer(19, taps),
            "across": across, "column_masks": pointer(19, column_masks), "row_masks": pointer(19, row_masks),
            "planes": planes, "src_step": src_step, "dst_step": dst_step, "w_step": w_step, "b_step": b_step,
            "row_step": row_step, "zeros": pointer(27, z0),
            "simple": b.and_(full, b.not_(accumulate)), "stored": stored, "adds": accumulate,
            "other": pointer(35, o0), "add": add, "low": low, "high": high,
        }  # fmt: skip
        end = b.append_basic_block("window_end")
        choice = b.switch(b.add(rb, b.mul(form, i64(256))), end)
        for height in heights():
            for kind in compiled:
                block = b.append_basic_block(f"window{height}_")
                choice.add_case(i64(height + 256 * kind), block)
                b.position_at_end(block)
                _Window(b, e, p, height, kind).emit(end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return signature, codegen
