"""Many rows into one, as explicit vectors: the inner loop of every pool.

`reduce_rows` takes a list of rows (places in one array) and writes their maximum, sum or sum of squares, element by
element. Which rows those are decides what is computed: cells of a window with channels in the lanes, rows of an image,
or the same row shifted by one cell for each tap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.rows import _first_lanes, _for_row, _Row
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64
from fastconv.cpu.vectors import row_map, square_root
from fastconv.cpu.window import _once_each

#: What becomes of the rows. The maximum of NaN and anything is NaN.
MAX, SUM, SQUARES = range(3)

#: Vectors of a row that are computed side by side.
BLOCK = 4


def beats(e: Emitter, value: Any, best: Any) -> Any:
    """Mask of lanes where `value` replaces `best`: it is larger, or NaN."""
    b = e.builder
    if not e.is_float:
        return b.icmp_signed(">", value, best)
    return b.or_(b.fcmp_ordered(">", value, best), b.fcmp_unordered("uno", value, value))


def largest(e: Emitter, best: Any, value: Any) -> Any:
    """The larger one, lane by lane, or NaN if one is."""
    b = e.builder
    if not e.is_float:
        return b.select(b.icmp_signed(">", value, best), value, best)
    # This order of the comparison is one instruction on x86, and keeps a NaN in `best`.
    more = b.select(b.fcmp_ordered(">", value, best), value, best)
    return b.select(b.fcmp_unordered("uno", value, value), value, more)


def combine(e: Emitter, op: int, total: Any, value: Any) -> Any:
    """One more term."""
    if op == MAX:
        return largest(e, total, value)
    return e.add(total, value) if op == SUM else e.fma(value, value, total)


def join(e: Emitter, op: int, one: Any, other: Any) -> Any:
    """Two partial results as one."""
    return combine(e, MAX if op == MAX else SUM, one, other)


def least(e: Emitter) -> Any:
    """What every value beats or equals."""
    return e.constant(float("-inf") if e.is_float else -(2 ** (8 * e.itemsize - 1)))


@contextmanager
def steps(b: Any, begin: Any, end: Any, step: int = 1) -> Iterator[Any]:
    """A loop that LLVM does not unroll again: begin, begin + step, ... below `end`."""
    head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
    before = b.block
    b.branch(head)
    b.position_at_end(head)
    at = b.phi(I64)
    at.add_incoming(begin, before)
    b.cbranch(b.icmp_signed("<", at, end), body, done)
    b.position_at_end(body)
    yield at
    following = b.add(at, i64(step))
    at.add_incoming(following, b.block)
    b.branch(head).set_metadata("llvm.loop", _once_each(b.module))
    b.position_at_end(done)


def function_of(module: Any, name: str, kinds: Sequence[Any], emit: Callable[[Any, Sequence[Any]], None]) -> Any:
    """The function that runs `emit`'s code, made once in each module and never inlined."""
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "linkonce_odr"
        for attribute in ("noinline", "nounwind"):
            function.attributes.add(attribute)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        emit(builder, function.args)
        builder.ret_void()
    return function


def _blocks(e: Emitter, n: Any, body: Callable[[list[_Row]], None], width: int = BLOCK) -> None:
    """Run `body` on `width` vectors at a time, then on one at a time, the last under a mask."""
    b = e.builder
    many = b.and_(n, i64(-width * e.width))
    with steps(b, i64(0), many, width * e.width) as at:
        body([_Row(e, b.add(at, i64(i * e.width)), None) for i in range(width)])
    whole = b.and_(n, i64(-e.width))
    with steps(b, many, whole, e.width) as at:
        body([_Row(e, at, None)])
    left = b.sub(n, whole)
    with b.if_then(b.icmp_signed(">", left, i64(0))):
        body([_Row(e, whole, _first_lanes(e, left))])


def _reduction(dtype: str) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        op, src, table, scale, count, dst, n, accumulate = args
        slots = [cgutils.alloca_once(b, e.vector) for _ in range(BLOCK)]

        def rows(kind: int) -> Callable[[list[_Row]], None]:
            def body(block: list[_Row]) -> None:
                def place(t: Any) -> Any:
                    return b.gep(src, [b.mul(b.load(b.gep(table, [t])), scale)])

                start = place(i64(0)) if kind == MAX else None
                for row, slot in zip(block, slots, strict=False):
                    b.store(e.constant(0) if start is None else row.load(start), slot)
                with steps(b, i64(1 if kind == MAX else 0), count) as t:
                    here = place(t)
                    for row, slot in zip(block, slots, strict=False):
                        b.store(combine(e, kind, b.load(slot), row.load(here)), slot)
                with b.if_then(b.icmp_signed("!=", accumulate, i64(0))):
                    for row, slot in zip(block, slots, strict=False):
                        b.store(join(e, kind, row.load(dst), b.load(slot)), slot)
                for row, slot in zip(block, slots, strict=False):
                    row.store(b.load(slot), dst)

            return body

        end = b.append_basic_block("reduced")
        choice = b.switch(op, end)
        for kind in (MAX, SUM, SQUARES):
            case = b.append_basic_block("op")
            choice.add_case(i64(kind), case)
            b.position_at_end(case)
            _blocks(e, n, rows(kind))
            b.branch(end)
        b.position_at_end(end)

    return emit


@intrinsic
def reduce_rows(
    typingctx: Any, op: Any, src: Any, s0: Any, table: Any, t0: Any, scale: Any, count: Any, dst: Any, d0: Any, n: Any,
    accumulate: Any,
) -> Any:  # fmt: skip
    """dst[d0 + i] = op over t < count of src[s0 + table[t0 + t]*scale + i], i < n; count >= 1.

    With `accumulate` (not 0) what dst holds is one more partial result.
    """
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        op, _, s0, _, t0, scale, count, _, d0, n, accumulate = a
        source = array_pointer(context, b, sig.args[1], a[1], s0)
        places = array_pointer(context, b, sig.args[3], a[3], t0)
        target = array_pointer(context, b, sig.args[7], a[7], d0)
        given = [op, source, places, scale, count, target, n, accumulate]
        function = function_of(b.module, f"fastconv_reduce_{dtype}", [v.type for v in given], _reduction(dtype))
        b.call(function, given)
        return context.get_dummy_value()

    return types.void(size, src, size, table, size, size, size, dst, size, size, size), codegen


def _ranking(dtype: str) -> Callable[[Any, Sequence[Any]], None]:
    def emit(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        src, table, ranks, scale, count, dst, indices, n, initial, accumulate, base, step, none = args
        narrow = ir.VectorType(ir.IntType(8 * e.itemsize), e.width)
        wide = ir.VectorType(I64, e.width)
        lanes = Emitter(b, "int64", e.width)
        width = 2
        values = [cgutils.alloca_once(b, e.vector) for _ in range(width)]
        winners = [cgutils.alloca_once(b, narrow) for _ in range(width)]

        def splat(value: Any) -> Any:
            integers = Emitter(b, f"int{8 * e.itemsize}", e.width)
            return integers.splat(value if e.itemsize == 8 else b.trunc(value, narrow.element))

        def body(block: list[_Row]) -> None:
            keeps = b.icmp_signed("!=", accumulate, i64(0))
            for row, value, winner in zip(block, values, winners, strict=False):
                b.store(least(e), value)
                with b.if_then(keeps):
                    b.store(row.load(dst), value)
                b.store(splat(initial), winner)
            with steps(b, i64(0), count) as t:
                here = b.gep(src, [b.mul(b.load(b.gep(table, [t])), scale)])
                rank = splat(b.load(b.gep(ranks, [t])))
                for row, value, winner in zip(block, values, winners, strict=False):
                    candidate, best = row.load(here), b.load(value)
                    better = beats(e, candidate, best)
                    b.store(b.select(better, candidate, best), value)
                    b.store(b.select(better, rank, b.load(winner)), winner)
            for row, value, winner in zip(block, values, winners, strict=False):
                row.store(b.load(value), dst)
                chosen = b.load(winner)
                missing = b.icmp_signed("<", chosen, ir.Constant(narrow, [0] * e.width))
                cells = b.sext(chosen, wide) if e.itemsize < 8 else chosen
                position = b.add(lanes.splat(row.at), ir.Constant(wide, list(range(e.width))))
                cells = b.add(cells, b.add(lanes.splat(base), b.mul(position, lanes.splat(step))))
                row.at, at = row.at, row.at
                places = _Row(lanes, at, row.mask)
                before = b.select(keeps, places.load(indices), lanes.constant(-1))
                places.store(b.select(missing, before, cells), indices)
                with b.if_then(b.not_(keeps)):
                    absent = missing if row.mask is None else b.and_(missing, row.mask)
                    bits = b.zext(b.bitcast(absent, ir.IntType(e.width)), I64)
                    b.store(b.or_(b.load(none), bits), none)

        _blocks(e, n, body, width)

    return emit


@intrinsic
def rank_rows(
    typingctx: Any, src: Any, s0: Any, table: Any, t0: Any, r0: Any, scale: Any, count: Any, dst: Any, d0: Any,
    indices: Any, n: Any, initial: Any, accumulate: Any, base: Any, step: Any,
) -> Any:  # fmt: skip
    """The maximum as by `reduce_rows`, and where it is: the first of equal ones, the last NaN (as in PyTorch).

    indices[d0 + i] = base + i*step + table[r0 + t] of the row t that won. A lane won by none (all are minus infinity)
    has `initial` in place of the table's number, or -1 if that is negative; with `accumulate` it keeps its index.
    Returns whether a lane got -1.
    """
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        _, s0, _, t0, r0, scale, count, _, d0, _, n, initial, accumulate, base, step = a
        none = cgutils.alloca_once(b, I64)
        b.store(i64(0), none)
        given = [
            array_pointer(context, b, sig.args[0], a[0], s0),
            array_pointer(context, b, sig.args[2], a[2], t0),
            array_pointer(context, b, sig.args[2], a[2], r0),
            scale,
            count,
            array_pointer(context, b, sig.args[7], a[7], d0),
            array_pointer(context, b, sig.args[9], a[9], d0),
            n, initial, accumulate, base, step, none,
        ]  # fmt: skip
        function = function_of(b.module, f"fastconv_rank_{dtype}", [v.type for v in given], _ranking(dtype))
        b.call(function, given)
        return b.load(none)

    signature = types.int64(
        src, size, table, size, size, size, size, dst, size, indices, size, size, size, size, size,
    )  # fmt: skip
    return signature, codegen


@intrinsic
def reduce_run(typingctx: Any, op: Any, src: Any, s0: Any, n: Any) -> Any:
    """op over src[s0 + i], i < n (at least 1), in a fixed order."""
    dtype, size = element_dtype(src), types.int64

    def run(b: Any, args: Sequence[Any]) -> None:
        e = Emitter(b, dtype)
        op, source, n, result = args
        slots = [cgutils.alloca_once(b, e.vector) for _ in range(BLOCK)]
        end = b.append_basic_block("reduced")
        choice = b.switch(op, end)
        for kind in (MAX, SUM, SQUARES):
            case = b.append_basic_block("op")
            choice.add_case(i64(kind), case)
            b.position_at_end(case)
            empty = least(e) if kind == MAX else e.constant(0)
            for slot in slots:
                b.store(empty, slot)

            def body(block: list[_Row], kind: int = kind, empty: Any = empty) -> None:
                for row, slot in zip(block, slots, strict=False):
                    value = row.load(source)
                    if row.mask is not None:
                        value = b.select(row.mask, value, empty)
                    b.store(combine(e, kind, b.load(slot), value), slot)

            _blocks(e, n, body)
            values = [b.load(slot) for slot in slots]
            while len(values) > 1:
                values = [join(e, kind, values[i], values[i + 1]) for i in range(0, len(values), 2)]
            vector, half = values[0], e.width // 2
            while half:
                lanes = [(i + half) % e.width if i < half else i for i in range(e.width)]
                vector = join(e, kind, vector, e.shuffle(vector, vector, lanes))
                half //= 2
            b.store(b.extract_element(vector, i64(0)), result)
            b.branch(end)
        b.position_at_end(end)

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        source = array_pointer(context, b, sig.args[1], a[1], a[2])
        result = cgutils.alloca_once(b, Emitter(b, dtype).scalar)
        given = [a[0], source, a[3], result]
        b.call(function_of(b.module, f"fastconv_run_{dtype}", [v.type for v in given], run), given)
        return b.load(result)

    return src.dtype(size, src, size, size), codegen


@intrinsic
def interleave_rows(typingctx: Any, src: Any, s0: Any, s1: Any, dst: Any, d0: Any, n: Any) -> Any:
    """dst[d0 + 2*i] = src[s0 + i], dst[d0 + 2*i + 1] = src[s1 + i]: n elements in all.

    Whole vectors are read: src must reach a vector beyond the last element used.
    """
    dtype, size = element_dtype(src, dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        even = array_pointer(context, b, sig.args[0], a[0], a[1])
        odd = array_pointer(context, b, sig.args[0], a[0], a[2])
        target = array_pointer(context, b, sig.args[3], a[3], a[4])
        pairs, n = e.width, a[5]

        def body(row: _Row) -> None:
            first, second = (e.load(b.gep(pointer, [b.udiv(row.at, i64(2))])) for pointer in (even, odd))
            low = [i // 2 + pairs * (i % 2) for i in range(pairs)]
            row.store(e.shuffle(first, second, low), target)

        _for_row(e, n, body)
        return context.get_dummy_value()

    return types.void(src, size, size, dst, size, size), codegen


def _quotient(e: Emitter, vectors: Sequence[Any], scalars: Sequence[Any]) -> Any:
    """x / d with the rounded reciprocal r of d: one correction makes it the correctly rounded quotient (Markstein)."""
    b = e.builder
    (x,), (d, r) = vectors, scalars
    if not e.is_float:
        return x
    q = e.mul(x, r)
    better = e.fma(e.fma(e.sub(e.constant(0), q), d, x), r, q)
    return b.select(b.fcmp_unordered("uno", better, better), q, better)  # an infinite x has no correction


#: divide_row(n, dst, d0, src, s0, d, r): dst[d0 + i] = src[s0 + i] / d, r the reciprocal of d.
divide_row = row_map(1, 2, _quotient)

#: root_row(n, dst, d0, src, s0): dst[d0 + i] = sqrt(src[s0 + i]); integers stay as they are.
root_row = row_map(1, 0, lambda e, vectors, scalars: square_root(e, vectors[0]) if e.is_float else vectors[0])


@intrinsic
def splat_row(typingctx: Any, dst: Any, d0: Any, n: Any, value: Any) -> Any:
    """dst[d0 + i] = value, i < n."""
    dtype, size = element_dtype(dst), types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        target, splat = array_pointer(context, b, sig.args[0], a[0], a[1]), e.splat(a[3])
        _for_row(e, a[2], lambda row: row.store(splat, target))
        return context.get_dummy_value()

    return types.void(dst, size, size, dst.dtype), codegen
