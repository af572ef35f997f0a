"""3x3 kernels rolling down the columns of an image: the SIMD kernel of most depthwise convolutions.

A column is one vector wide. Each step reads the next row (with a stride, rows) of the image, once for every tap
across, and multiplies it into all outputs whose window it belongs to; one of them is finished and stored:

    row r of the image     acc of output r      += w[0] * x     begins
                           acc of output r - 1  += w[1] * x
                           acc of output r - 2  += w[2] * x     is finished

So each vector is loaded once, and nothing but the sums of unfinished outputs is carried along, a sum for each tap
across to keep them independent. (For 5x5 kernels neither sums nor weights fit the registers, and `window.py` is as
fast.) What lies outside the image is lanes that masked loads leave at zero, and a row of zeros. A stride across stores
every second sum: half of the multiply-adds are wasted so, but loads and shuffles are fewer than if the cells of each
tap were brought together first.

Memory is what bounds these layers, so each step also asks for the input and output that a later pass will need.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu.rows import Finish, _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64, prefetch_line

SIZE = 3
STRIDES = (1, 2)  # those compiled


class _Column:
    """Emits all rows of one column, with stores of one kind."""

    def __init__(self, b: Any, e: Emitter, p: dict[str, Any], stride: int, kind: int) -> None:
        self.b, self.e, self.p, self.stride, self.kind = b, e, p, stride, kind
        self.open = -(-SIZE // stride) - 1  # outputs that are begun and not finished between two steps

    def emit(
        self, weights: list[Any], finish: Finish, source: Any, zeros: Any, target: Any, other: Any, masks: list[Any]
    ) -> None:
        b, e, p = self.b, self.e, self.p
        self.weights, self.finish, self.source, self.zeros, self.masks = weights, finish, source, zeros, masks
        sums: list[list[Any]] = []
        for r in range(SIZE - self.stride):
            self.meet(self.row(b.add(p["row"], i64(r)))[0], r, sums)
        begin = b.add(p["row"], i64(SIZE - self.stride))
        entry, loop, leave = b.block, b.append_basic_block("step"), b.append_basic_block("bottom")
        b.branch(loop)

        b.position_at_end(loop)
        i, row, place, more = b.phi(I64), b.phi(I64), b.phi(target.type), b.phi(other.type)
        carried = [[b.phi(e.vector) for _ in range(SIZE)] for _ in range(self.open)]
        for phi, value in zip((i, row, place, more), (i64(0), begin, target, other), strict=True):
            phi.add_incoming(value, entry)
        for phis, values in zip(carried, sums, strict=True):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, entry)
        sums = [list(phis) for phis in carried]
        for t in range(self.stride):
            cells, pointer = self.row(b.add(row, i64(t)))
            self.meet(cells, SIZE - self.stride + t, sums)
            prefetch_line(b, b.gep(pointer, [p["ahead"]]), near=True)
        prefetch_line(b, b.gep(place, [p["d_ahead"]]), near=True, write=True)
        total = finish.bias
        for value in sums[0]:
            total = e.add(total, value)
        self.store(total, place, more)
        following = b.add(i, i64(1))
        i.add_incoming(following, b.block)
        row.add_incoming(b.add(row, i64(self.stride)), b.block)
        for phi in (place, more):
            phi.add_incoming(b.gep(phi, [p["d_pitch"]]), b.block)
        for phis, values in zip(carried, sums[1:], strict=True):
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", following, p["rows"]), loop, leave)
        b.position_at_end(leave)

    def row(self, row: Any) -> tuple[list[Any], Any]:
        """The vectors of a row under each tap across, and where the row lies (or would lie)."""
        b, p = self.b, self.p
        pointer = b.gep(self.source, [b.mul(b.sub(row, p["row"]), p["pitch"])])
        readable = b.select(b.icmp_unsigned("<", row, p["height"]), pointer, self.zeros)
        return [_Row(self.e, i64(s), mask).load(readable) for s, mask in enumerate(self.masks)], pointer

    def meet(self, cells: list[Any], r: int, sums: list[list[Any]]) -> None:
        """Multiply row r, counted from the first row of output 0, into all outputs that it belongs to."""
        for output in range(r // self.stride + 1):
            tap = (r - output * self.stride) * SIZE
            if tap >= SIZE * SIZE:
                continue
            weights = self.weights[tap : tap + SIZE]
            if output == len(sums):
                sums.append([self.e.mul(w, x) for w, x in zip(weights, cells, strict=True)])
            else:
                sums[output] = [self.e.fma(w, x, s) for w, x, s in zip(weights, cells, sums[output], strict=True)]

    def store(self, value: Any, pointer: Any, other: Any) -> None:
        """The lowest `lanes` of all sums or of every second."""
        b, e, p = self.b, self.e, self.p
        every, second, done = (b.append_basic_block(name) for name in ("every", "second", "stored"))
        b.cbranch(b.icmp_signed(">", p["every"], i64(1)), second, every)
        b.position_at_end(every)
        self.finish.store(self.kind, value, p["some"], pointer, other)
        b.branch(done)
        b.position_at_end(second)
        half = e.shuffle(value, value, range(0, e.width, 2))
        self.finish.store(self.kind, half, p["some_of_half"], pointer, other)
        b.branch(done)
        b.position_at_end(done)


def bits(b: Any, number: Any, width: int) -> Any:
    """The lowest bits of an integer as a lane mask."""
    return b.bitcast(b.trunc(number, ir.IntType(width)), ir.VectorType(ir.IntType(1), width))


@intrinsic
def roll(
    typingctx: Any, stride: Any, every: Any, src: Any, s0: Any, pitch: Any, row: Any, height: Any,
    dst: Any, d0: Any, d_pitch: Any, rows: Any, columns: Any, last: Any, lanes: Any, weights: Any, w0: Any, w_tap: Any,
    bias: Any, b0: Any, tables: Any, masks: Any, zeros: Any, z0: Any,
    planes: Any, src_step: Any, dst_step: Any, ahead: Any, d_ahead: Any,
    other: Any, o0: Any, add: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """`rows` rows of outputs of a 3x3 kernel with `stride` down and `every` (1 or 2) across, plus bias[b0].

    src[s0] is the cell under the first tap of the first output, in row `row` of an image of `height` rows; cells are
    read only in rows of the image, and in lanes whose bit of tables[masks + column*3 + tap] is set. `zeros`, as long
    as a row, stands in for other rows. Columns begin W cells apart, the last one at `last`, and store their lowest
    `lanes` lanes. Weights are w[w0 + tap*w_tap]. All is repeated for `planes` planes with weights of their own, and
    asks for the input `ahead` and the output `d_ahead` elements further on to be brought into L1. Results
    have other[o0] added, which lies as dst does, if `add`, and are cut to low .. high, where NaN stays.
    """
    dtype, n = element_dtype(src, dst, weights, bias, zeros, other), types.int64
    signature = types.void(
        n, n, src, n, n, n, n, dst, n, n, n, n, n, n, weights, n, n, bias, n, tables, n, zeros, n, n, n, n, n, n,
        other, n, types.boolean, src.dtype, src.dtype,
    )  # fmt: skip

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        (
            stride, every, _, s0, pitch, row, height, _, d0, d_pitch, rows, columns, last, lanes, _, w0, w_tap,
            _, b0, _, masks, _, z0, planes, src_step, dst_step, ahead, d_ahead, _, o0, add, low, high,
        ) = a  # fmt: skip

        def pointer(array: int, at: Any) -> Any:
            return array_pointer(context, b, sig.args[array], a[array], at)

        half = Emitter(b, dtype, e.width // 2)
        whole = b.icmp_signed(">=", lanes, i64(e.width))
        stored = b.select(whole, i64(-1), b.sub(b.shl(i64(1), lanes), i64(1)))
        p = {
            "pitch": pitch, "row": row, "height": height, "d_pitch": d_pitch, "rows": rows, "every": every,
            "ahead": ahead, "d_ahead": d_ahead,
            "some": _Row(e, i64(0), bits(b, stored, e.width)),
            "some_of_half": _Row(half, i64(0), bits(b, stored, half.width)),
        }  # fmt: skip
        starts = pointer(2, s0), pointer(7, d0), pointer(14, w0), pointer(17, b0), pointer(28, o0)
        inside, zeros = pointer(19, masks), pointer(21, z0)
        end = b.append_basic_block("roll_end")
        choice = b.switch(stride, end)
        for down in STRIDES:
            entry, plane, column, turn = (b.append_basic_block(f"{x}{down}_") for x in ("in", "pl", "col", "turn"))
            choice.add_case(i64(down), entry)
            b.position_at_end(entry)
            b.branch(plane)
            b.position_at_end(plane)
            number = b.phi(I64)
            here = [b.phi(start.type) for start in starts]
            for phi, start in zip((number, *here), (i64(1), *starts), strict=True):
                phi.add_incoming(start, entry)
            taps = [e.splat(b.load(b.gep(here[2], [b.mul(w_tap, i64(tap))]))) for tap in range(SIZE * SIZE)]
            finish = Finish(e, e.splat(b.load(here[3])), add, low, high)
            b.branch(column)
            b.position_at_end(column)
            j = b.phi(I64)
            j.add_incoming(i64(0), plane)
            start = b.mul(j, i64(e.width))
            at = b.select(b.icmp_signed("<", start, last), start, last)  # the last one overlaps
            target, more = (b.gep(here[i], [b.lshr(at, b.sub(every, i64(1)))]) for i in (1, 4))
            first = b.mul(j, i64(SIZE))
            lanes_in = [bits(b, b.load(b.gep(inside, [b.add(first, i64(s))])), e.width) for s in range(SIZE)]
            places = b.gep(here[0], [at]), b.gep(zeros, [at]), target, more
            done = b.append_basic_block(f"col_end{down}_")
            kinds = b.switch(finish.kind, done)
            for kind in Finish.KINDS:
                block = b.append_basic_block(f"kind{down}_")
                kinds.add_case(i64(kind), block)
                b.position_at_end(block)
                _Column(b, e, p, down, kind).emit(taps, finish, *places, lanes_in)
                b.branch(done)
            b.position_at_end(done)
            following = b.add(j, i64(1))
            j.add_incoming(following, b.block)
            b.cbranch(b.icmp_signed("<", following, columns), column, turn)
            b.position_at_end(turn)
            steps = src_step, dst_step, i64(SIZE * SIZE), i64(1), dst_step
            for phi, step in zip(here, steps, strict=True):
                phi.add_incoming(b.gep(phi, [step]), turn)
            following = b.add(number, i64(1))
            number.add_incoming(following, turn)
            b.cbranch(b.icmp_signed("<=", following, planes), plane, end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return signature, codegen
