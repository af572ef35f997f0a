"""Row operations as explicit vectors: copy, gather by 2, add. The tail of a row is one masked vector.

LLVM's loop vectoriser runs 64 floats at a time and the rest one by one; most rows of a feature map are shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.simd import I32, I64, Emitter, array_pointer, element_dtype, ends, i64

I1 = ir.IntType(1)


class _Row:
    """Access to one row at the vector that starts at element `at`: whole, or its first lanes under a mask."""

    def __init__(self, e: Emitter, at: Any, mask: Any) -> None:
        self.e, self.b, self.at, self.mask = e, e.builder, at, mask

    def _masked(self, name: str, result: ir.Type, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        suffix = f"v{self.e.width}{'f' if self.e.is_float else 'i'}{8 * self.e.itemsize}.p0"
        return self.b.call(
            cgutils.get_or_insert_function(self.b.module, kind, f"llvm.masked.{name}.{suffix}"), arguments
        )

    def load(self, row: Any, offset: Any = None) -> Any:
        """The row's vector here (or `offset` elements from its start); masked lanes are zero and never touched."""
        e, b = self.e, self.b
        pointer = b.gep(row, [self.at if offset is None else offset])
        if self.mask is None:
            return e.load(pointer)
        pointer = b.bitcast(pointer, e.vector.as_pointer())
        return self._masked("load", e.vector, [pointer, ir.Constant(I32, e.itemsize), self.mask, e.constant(0)])

    def store(self, value: Any, row: Any) -> None:
        e, b = self.e, self.b
        pointer = b.gep(row, [self.at])
        if self.mask is None:
            e.store(value, pointer)
            return
        pointer = b.bitcast(pointer, e.vector.as_pointer())
        self._masked("store", ir.VoidType(), [value, pointer, ir.Constant(I32, e.itemsize), self.mask])


class Finish:
    """What happens to finished sums: `other` is added where `add` is set, then they are cut to low .. high.

    `bias` is for those who sum, to begin with. NaN stays NaN. Code that stores comes in KINDS, chosen outside of its
    loops by `kind`: with nothing to do, with nothing but a lower limit (relu), and with all of it. Kernels whose arrays
    lie in L2 have no cycle to spare.
    """

    KINDS = PLAIN, LOW, ALL = range(3)

    def __init__(self, e: Emitter, bias: Any, add: Any, low: Any, high: Any) -> None:
        b = self.b = e.builder
        self.is_float, self.bias, self.add, self.low, self.high = e.is_float, bias, add, e.splat(low), e.splat(high)
        lowest, highest = (ir.Constant(e.scalar, end) for end in ends(e.dtype))
        more = b.or_(add, self._less(high, highest))
        some = b.select(self._less(lowest, low), i64(self.LOW), i64(self.PLAIN))
        self.kind = b.select(more, i64(self.ALL), some)

    def store(self, kind: int, value: Any, row: _Row, target: Any, other: Any) -> None:
        """To a whole vector or, with `row` over half a vector, to its lower half."""
        b, e = self.b, row.e
        low, high = (x if x.type == e.vector else e.shuffle(x, x, range(e.width)) for x in (self.low, self.high))
        if kind == self.ALL:
            value = self.where(self.add, value, lambda: e.add(value, row.load(other)))
        if kind != self.PLAIN:
            value = b.select(self._less(value, low), low, value)
        if kind == self.ALL:
            value = b.select(self._less(high, value), high, value)
        row.store(value, target)

    def where(self, condition: Any, value: Any, change: Callable[[], Any]) -> Any:
        """`change()` if the condition holds, else the value: a branch."""
        before = self.b.block
        with self.b.if_then(condition):
            changed, inside = change(), self.b.block
        result = self.b.phi(value.type)
        result.add_incoming(value, before)
        result.add_incoming(changed, inside)
        return result

    def _less(self, x: Any, y: Any) -> Any:
        return self.b.fcmp_ordered("<", x, y) if self.is_float else self.b.icmp_signed("<", x, y)


def pair_halves(row: _Row, n: Any) -> list[_Row]:
    """The two vectors of a row of 2*n elements that a vector of n pairs takes."""
    e, b = row.e, row.b
    halves = [_Row(e, b.add(b.add(row.at, row.at), i64(half * e.width)), None) for half in range(2)]
    for half in halves if row.mask is not None else ():
        half.mask = _first_lanes(e, b.sub(b.add(n, n), half.at))
    return halves


def store_pairs(row: _Row, n: Any, one: Any, other: Any, target: Any) -> None:
    """target[2*i] = one, target[2*i + 1] = other for the lanes i < n of a row."""
    width = row.e.width
    for half, place in enumerate(pair_halves(row, n)):
        lanes = [lane // 2 + lane % 2 * width for lane in range(half * width, half * width + width)]
        place.store(row.e.shuffle(one, other, lanes), target)


def _first_lanes(e: Emitter, count: Any) -> Any:
    """Mask of lanes below `count`."""
    b, many = e.builder, ir.VectorType(I64, e.width)
    lanes = ir.Constant(many, list(range(e.width)))
    undefined = ir.Constant(many, ir.Undefined)
    one = b.insert_element(undefined, count, ir.Constant(I32, 0))
    splat = b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, e.width), [0] * e.width))
    return b.icmp_signed("<", lanes, splat)


def _for_row(e: Emitter, n: Any, body: Callable[[_Row], None]) -> None:
    """Run `body` on every whole vector of an n-element row, then once more on what is left, masked."""
    b = e.builder
    whole = b.and_(n, i64(-e.width))
    entry = b.block
    loop, tail, masked, done = (b.append_basic_block(name) for name in ("row", "tail", "masked", "row_end"))
    b.cbranch(b.icmp_signed("<", i64(0), whole), loop, tail)
    b.position_at_end(loop)
    at = b.phi(I64)
    at.add_incoming(i64(0), entry)
    body(_Row(e, at, None))
    following = b.add(at, i64(e.width))
    at.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, whole), loop, tail)
    b.position_at_end(tail)
    left = b.sub(n, whole)
    b.cbranch(b.icmp_signed(">", left, i64(0)), masked, done)
    b.position_at_end(masked)
    body(_Row(e, whole, _first_lanes(e, left)))
    b.branch(done)
    b.position_at_end(done)


@intrinsic
def copy_row(typingctx: Any, src: Any, s0: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + i] = src[s0 + i], i < n."""
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[2], a[2], a[3])
        _for_row(Emitter(b, dtype), a[4], lambda row: row.store(row.load(source), target))
        return context.get_dummy_value()

    return types.void(src, size, dst, size, size), codegen


def _copy_rows(step: int, src: Any, dst: Any) -> Any:
    """Signature and code of `copy_rows`, whose cells are `step` (1 or 2) apart in src."""
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[3], a[3], a[4])
        first, last = (b.mul(end, i64(step)) for end in a[7:9])
        last = b.sub(last, i64(step - 1))  # behind the last cell that is copied
        vectors = b.sdiv(b.add(a[9], i64(e.width - 1)), i64(e.width))
        with cgutils.for_range(b, vectors, intp=I64) as column:  # the masks of a column serve all its rows
            at = b.mul(column.index, i64(e.width))
            readers = []
            for part in range(step):
                place = b.add(b.mul(at, i64(step)), i64(part * e.width))
                inside = b.and_(_first_lanes(e, b.sub(last, place)), b.not_(_first_lanes(e, b.sub(first, place))))
                readers.append(_Row(e, place, inside))
            writer = _Row(e, at, _first_lanes(e, b.sub(a[9], at)))
            with cgutils.for_range(b, a[6], intp=I64) as row:
                begin = b.gep(source, [b.mul(row.index, a[2])])
                cells = [reader.load(begin) for reader in readers]
                value = cells[0] if step == 1 else e.shuffle(cells[0], cells[1], range(0, 2 * e.width, 2))
                writer.store(value, b.gep(target, [b.mul(row.index, a[5])]))
        return context.get_dummy_value()

    return types.void(src, size, size, dst, size, size, size, size, size, size), codegen


@intrinsic
def copy_rows(
    typingctx: Any, src: Any, s0: Any, s_row: Any, dst: Any, d0: Any, d_row: Any, rows: Any, begin: Any, end: Any,
    width: Any,
) -> Any:  # fmt: skip
    """dst[d0 + r*d_row + i] = src[s0 + r*s_row + i] for begin <= i < end, 0 for the other i < width; r < rows."""
    return _copy_rows(1, src, dst)


@intrinsic
def copy_rows_by_two(
    typingctx: Any, src: Any, s0: Any, s_row: Any, dst: Any, d0: Any, d_row: Any, rows: Any, begin: Any, end: Any,
    width: Any,
) -> Any:  # fmt: skip
    """The same with src[s0 + r*s_row + 2*i]. Reads nothing beyond the last cell."""
    return _copy_rows(2, src, dst)


@intrinsic
def copy_every_second(typingctx: Any, src: Any, s0: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + i] = src[s0 + 2*i], i < n. Reads nothing beyond src[s0 + 2*n - 2]."""
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[2], a[2], a[3])
        end = b.sub(b.add(a[4], a[4]), i64(1))  # elements of the source row

        def body(row: _Row) -> None:
            first = b.add(row.at, row.at)
            second = b.add(first, i64(e.width))
            halves = []
            for place in (first, second):
                # A whole vector's last element may be one past the end: every load is masked by what is left.
                reader = _Row(e, place, _first_lanes(e, b.sub(end, place)))
                halves.append(reader.load(source))
            row.store(e.shuffle(halves[0], halves[1], range(0, 2 * e.width, 2)), target)

        _for_row(e, a[4], body)
        return context.get_dummy_value()

    return types.void(src, size, dst, size, size), codegen


@intrinsic
def fill_row(typingctx: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + i] = 0, i < n."""
    dtype, size = element_dtype(dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        target = array_pointer(context, b, sig.args[0], a[0], a[1])
        _for_row(e, a[2], lambda row: row.store(e.constant(0), target))
        return context.get_dummy_value()

    return types.void(dst, size, size), codegen


@intrinsic
def add_row(typingctx: Any, src: Any, s0: Any, dst: Any, d0: Any, n: Any, value: Any) -> Any:
    """dst[d0 + i] = src[s0 + i] + value, i < n."""
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[2], a[2], a[3])
        splat = e.splat(a[5])
        _for_row(e, a[4], lambda row: row.store(e.add(row.load(source), splat), target))
        return context.get_dummy_value()

    return types.void(src, size, dst, size, size, src.dtype), codegen


@intrinsic
def add_rows(typingctx: Any, src: Any, s0: Any, other: Any, r0: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + i] = src[s0 + i] + other[r0 + i], i < n."""
    dtype, size = element_dtype(src, other, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        second = array_pointer(context, b, sig.args[2], a[2], a[3])
        target = array_pointer(context, b, sig.args[4], a[4], a[5])
        _for_row(e, a[6], lambda row: row.store(e.add(row.load(source), row.load(second)), target))
        return context.get_dummy_value()

    return types.void(src, size, other, size, dst, size, size), codegen


@intrinsic
def reverse_row(typingctx: Any, src: Any, s0: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + i] = src[s0 + n-1-i], i < n."""
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[2], a[2], a[3])
        backward = range(e.width - 1, -1, -1)

        def body(row: _Row) -> None:
            # The vector that ends where this one begins, seen from the row's end; its first lanes may lie before it.
            start = b.sub(b.sub(a[4], row.at), i64(e.width))
            mask = None
            if row.mask is not None:
                lanes = ir.Constant(ir.VectorType(I32, e.width), list(backward))
                mask = b.shuffle_vector(row.mask, row.mask, lanes)
            values = _Row(e, start, mask).load(source)
            row.store(e.shuffle(values, values, backward), target)

        _for_row(e, a[4], body)
        return context.get_dummy_value()

    return types.void(src, size, dst, size, size), codegen


@intrinsic
def merge_rows(typingctx: Any, src: Any, s0: Any, s1: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + 2*i] = src[s0 + i] and dst[d0 + 2*i + 1] = src[s1 + i], i < n."""
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        even = array_pointer(context, b, sig.args[0], a[0], a[1])
        odd = array_pointer(context, b, sig.args[0], a[0], a[2])
        target = array_pointer(context, b, sig.args[3], a[3], a[4])
        _for_row(e, a[5], lambda row: store_pairs(row, a[5], row.load(even), row.load(odd), target))
        return context.get_dummy_value()

    return types.void(src, size, size, dst, size, size), codegen
