"""Rolling windows: the SIMD kernel of convolutions with one input channel per output.

RB accumulators lie `pitch` apart (rows of an image, or pixels of a channels-last row). A chunk of R kernel taps runs
along the same direction, so one loaded vector serves every accumulator whose window covers it:

    acc[i] += w[r] * src[(i + r) * pitch + tap]        0 <= i < RB, 0 <= r < R, for all taps across

RB + R - 1 loads feed RB * R multiply-adds, with the R weights in registers. A kernel is a list of chunks.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.rows import _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64, literal

#: Longest chunk. RB + 5 weights + a loaded vector fit 32 registers with RB = 14 and 16 registers with RB = 7.
MOST_TAPS = 5

CHUNK = 4  # entries of a chunk in its table: place in the source, taps, place of its weights, place in the row masks


def heights() -> tuple[int, ...]:
    """The numbers of accumulators compiled; image heights of most networks are multiples of 7."""
    return (14, 7, 3, 1) if isa.registers() >= 32 else (7, 3, 1)


class _Window:
    """Emits one window of `rb` accumulators over all columns."""

    def __init__(self, b: Any, e: Emitter, p: dict[str, Any], rb: int, vectors: bool, masked: bool) -> None:
        self.b, self.e, self.p, self.rb, self.vectors, self.masked = b, e, p, rb, vectors, masked

    def blocks(self, *names: str) -> list[Any]:
        return [self.b.append_basic_block(f"{name}{self.rb}_") for name in names]

    def table(self, name: str, *index: Any) -> Any:
        at = index[0]
        for more in index[1:]:
            at = self.b.add(at, more)
        return self.b.load(self.b.gep(self.p[name], [at]))

    def emit(self, end: Any) -> None:
        """1. over columns, 2. over chunks, 3. over the taps across."""
        b, e, p = self.b, self.e, self.p
        entry = b.block
        column, chunk, joined, finish = self.blocks("column", "chunk", "joined", "finish")
        b.branch(column)

        b.position_at_end(column)
        j = b.phi(I64)
        j.add_incoming(p["first"], entry)
        start = b.mul(j, i64(e.width))
        at = b.select(b.icmp_signed("<", start, p["last"]), start, p["last"])  # the last one overlaps
        source, target = b.gep(p["src"], [at]), b.gep(p["dst"], [at])
        if self.vectors:
            self.weights, self.bias = b.gep(p["weights"], [at]), b.gep(p["bias"], [at])
        else:
            self.weights, self.bias = p["weights"], p["bias"]
        masks = b.mul(j, p["across"]) if self.masked else None
        b.branch(chunk)

        b.position_at_end(chunk)
        c = b.phi(I64)
        sums = [b.phi(e.vector) for _ in range(self.rb)]
        for phi, value in ((c, i64(0)), *((s, e.constant(0)) for s in sums)):
            phi.add_incoming(value, column)
        entries = b.mul(c, i64(CHUNK))
        place, taps, weight, row = (self.table("chunks", entries, i64(i)) for i in range(CHUNK))
        choice = b.switch(taps, joined)
        b.position_at_end(joined)
        after = [b.phi(e.vector) for _ in range(self.rb)]
        for phi, old in zip(after, sums, strict=True):
            phi.add_incoming(old, chunk)
        for r in range(1, MOST_TAPS + 1):
            (case,) = self.blocks(f"taps{r}x")
            choice.add_case(i64(r), case)
            b.position_at_end(case)
            results = self.taps(r, sums, source, place, weight, row, masks, joined)
            for phi, (value, block) in zip(after, results, strict=True):
                phi.add_incoming(value, block)

        b.position_at_end(joined)
        c_next = b.add(c, i64(1))
        c.add_incoming(c_next, joined)
        for phi, new in zip(sums, after, strict=True):
            phi.add_incoming(new, joined)
        b.cbranch(b.icmp_signed("<", c_next, p["count"]), chunk, finish)

        b.position_at_end(finish)
        self.store(after, target)
        j_next = b.add(j, i64(1))
        j.add_incoming(j_next, b.block)
        b.cbranch(b.icmp_signed("<", j_next, p["columns"]), column, end)

    def taps(
        self, R: int, sums: list[Any], source: Any, place: Any, weight: Any, row: Any, masks: Any, joined: Any
    ) -> list[tuple[Any, Any]]:
        """The loop over the taps across, for a chunk of R taps."""
        b, e, p = self.b, self.e, self.p
        entry = b.block
        (loop,) = self.blocks(f"loop{R}x")
        base, first = b.gep(source, [place]), b.gep(self.weights, [weight])
        b.branch(loop)
        b.position_at_end(loop)
        s, w = b.phi(I64), b.phi(first.type)
        new = [b.phi(e.vector) for _ in range(self.rb)]
        phis = [s, w, *new]
        for phi, value in zip(phis, (i64(0), first, *sums), strict=True):
            phi.add_incoming(value, entry)
        cell, current = w, []
        for r in range(R):
            current.append(e.load(cell) if self.vectors else e.splat(b.load(cell)))
            if r + 1 < R:
                cell = b.gep(cell, [p["w_along"]])
        columns = self.table("column_masks", masks, s) if self.masked else None
        pointer = b.gep(base, [self.table("taps", s)])
        values = list(new)
        for i in range(self.rb + R - 1):
            if self.masked:
                lanes = b.and_(columns, self.table("row_masks", row, i64(i)))
                vector = _Row(e, i64(0), self.bits(lanes)).load(pointer)
            else:
                vector = e.load(pointer)
            for r in range(R):
                if 0 <= i - r < self.rb:
                    values[i - r] = e.fma(current[r], vector, values[i - r])
            pointer = b.gep(pointer, [p["pitch"]])
        s_next = b.add(s, i64(1))
        for phi, value in zip(phis, (s_next, b.gep(w, [p["w_across"]]), *values), strict=True):
            phi.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", s_next, p["across"]), loop, joined)
        return [(value, loop) for value in values]

    def bits(self, number: Any) -> Any:
        """The lowest bits of an integer as a lane mask."""
        width = self.e.width
        return self.b.bitcast(self.b.trunc(number, ir.IntType(width)), ir.VectorType(ir.IntType(1), width))

    def store(self, sums: list[Any], target: Any) -> None:
        """dst (+)= sums + bias, in the lanes below `lanes`."""
        b, e, p = self.b, self.e, self.p
        bias = e.load(self.bias) if self.vectors else e.splat(b.load(self.bias))
        whole, part, done = self.blocks("whole", "part", "stored")
        b.cbranch(p["simple"], whole, part)
        b.position_at_end(whole)
        pointer = target
        for total in sums:
            e.store(e.add(total, bias), pointer)
            pointer = b.gep(pointer, [p["d_pitch"]])
        b.branch(done)
        b.position_at_end(part)
        lanes = _Row(e, i64(0), self.bits(p["stored"]))
        kept = _Row(e, i64(0), self.bits(p["kept"]))
        pointer = target
        for total in sums:
            lanes.store(e.add(e.add(total, bias), kept.load(pointer)), pointer)
            pointer = b.gep(pointer, [p["d_pitch"]])
        b.branch(done)
        b.position_at_end(done)


@intrinsic
def window(
    typingctx: Any, vectors: Any, masked: Any, rb: Any, src: Any, s0: Any, pitch: Any, dst: Any, d0: Any, d_pitch: Any,
    first: Any, columns: Any, last: Any, lanes: Any, weights: Any, w0: Any, w_along: Any, w_across: Any,
    bias: Any, b0: Any, tables: Any, chunks: Any, count: Any, taps: Any, across: Any,
    column_masks: Any, row_masks: Any, accumulate: Any,
) -> Any:  # fmt: skip
    """Windows of `rb` (one of `heights()`) accumulators at the columns W*first, ..., W*(columns - 1), at most `last`.

    tables[chunks:] holds `count` chunks of CHUNK entries, tables[taps:] the places of the `across` taps across.
    The sums, plus `bias[b0]`, go to (or are added to) the lowest `lanes` lanes of dst.

    `vectors` (compile-time): 0, one weight serves all lanes; 1, weights and bias are vectors, a lane's own each, that
    move along with the columns. `masked`, only without `vectors`: a lane of row i is read only where the bits
    tables[column_masks + column*across + tap] and tables[row_masks + i] are both set, else it is zero.
    """
    has_vectors = bool(literal(vectors, "vectors"))
    dtype, n = element_dtype(src, dst, weights, bias), types.int64
    yes = types.boolean
    signature = types.void(
        vectors, yes, n, src, n, n, dst, n, n, n, n, n, n, weights, n, n, n, bias, n, tables, n, n, n, n, n, n, yes
    )

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        (
            _, masked, rb, _, s0, pitch, _, d0, d_pitch, first, columns, last, lanes, _, w0, w_along, w_across, _, b0,
            _, chunks, count, taps, across, column_masks, row_masks, accumulate,
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
            "simple": b.and_(full, b.not_(accumulate)), "stored": stored, "kept": b.select(accumulate, stored, i64(0)),
        }  # fmt: skip
        end = b.append_basic_block("window_end")
        choice = b.switch(b.add(rb, b.mul(b.zext(masked, I64), i64(256))), end)
        for height in heights():
            for with_masks in (False,) if has_vectors else (False, True):
                block = b.append_basic_block(f"window{height}_")
                choice.add_case(i64(height + 256 * with_masks), block)
                b.position_at_end(block)
                _Window(b, e, p, height, has_vectors, with_masks).emit(end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return signature, codegen
