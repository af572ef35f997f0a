"""Vector code as Numba intrinsics: the little language in which microkernels and transforms are written.

Only this module, `microkernel.py` and the transform generators speak LLVM; everything above calls intrinsics.
An `Emitter` wraps one LLVM builder for one element type and emits whole-register operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.numpy_support import as_dtype

from fastconv.cpu import isa

I32, I64 = ir.IntType(32), ir.IntType(64)
_SCALARS = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "int32": I32, "int64": I64}


def i64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def array_pointer(context: Any, builder: Any, array_type: types.Array, array: Any, index: Any) -> Any:
    """Pointer to ``array[index]`` of a one-dimensional array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def element_dtype(*arrays: Any) -> str:
    """The common dtype name of one-dimensional contiguous array types; a typing error otherwise."""
    names = set()
    for array in arrays:
        if not isinstance(array, types.Array) or array.ndim != 1 or array.layout != "C":
            raise TypingError(f"a vector intrinsic needs a one-dimensional contiguous array, got {array}")
        names.add(as_dtype(array.dtype).name)
    if len(names) != 1 or next(iter(names)) not in _SCALARS:
        raise TypingError(f"vector intrinsics work on one of {sorted(_SCALARS)}, got {sorted(names)}")
    return str(names.pop())


def literal(value: Any, name: str) -> int:
    """The compile-time integer behind a literal type; a typing error if it is a run-time value."""
    if not isinstance(value, types.IntegerLiteral):
        raise TypingError(f"{name} must be a compile-time integer, got {value}")
    return int(value.literal_value)


def ends(dtype: str) -> tuple[float, float]:
    """The lowest and the highest value of a dtype, infinities for floats."""
    kind = np.dtype(dtype)
    return (-np.inf, np.inf) if kind.kind == "f" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))


def each_tile(
    b: Any, rows: Any, columns: Any, tiles: Sequence[tuple[int, int]], emit: Callable[[int, int], None]
) -> None:
    """Code of every register tile, of at most 15 columns, and the branch to the one asked for; another does nothing."""
    end = b.append_basic_block("tiles_end")
    choice = b.switch(b.add(b.mul(rows, i64(16)), columns), end)
    for i, j in tiles:
        block = b.append_basic_block(f"tile{i}x{j}")
        choice.add_case(i64(i * 16 + j), block)
        b.position_at_end(block)
        emit(i, j)
        b.branch(end)
    b.position_at_end(end)


@contextmanager
def repeated(b: Any, times: Any, starts: Sequence[Any], steps: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The body `times` >= 1 times, with its number and pointers that go on by a step of elements after each."""
    before, body, end = b.block, b.append_basic_block("again"), b.append_basic_block("over")
    b.branch(body)
    b.position_at_end(body)
    t = b.phi(I64)
    pointers = [b.phi(start.type) for start in starts]
    yield t, pointers
    further = b.add(t, i64(1))
    t.add_incoming(i64(0), before)
    t.add_incoming(further, b.block)
    for pointer, start, step in zip(pointers, starts, steps, strict=True):
        pointer.add_incoming(start, before)
        pointer.add_incoming(b.gep(pointer, [step]), b.block)
    b.cbranch(b.icmp_signed("<", further, times), body, end)
    b.position_at_end(end)


class Emitter:
    """Emits vector instructions on `width` elements of `dtype` into a builder."""

    def __init__(self, builder: Any, dtype: str, width: int | None = None) -> None:
        self.builder = builder
        self.dtype = dtype
        self.is_float = np.dtype(dtype).kind == "f"
        self.itemsize = np.dtype(dtype).itemsize
        self.width = isa.width(dtype) if width is None else width
        self.scalar = _SCALARS[dtype]
        self.vector = ir.VectorType(self.scalar, self.width)

    def constant(self, value: float) -> ir.Constant:
        """The same value in every lane."""
        return ir.Constant(self.vector, [float(value) if self.is_float else int(value)] * self.width)

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.itemsize)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.itemsize)

    def splat(self, scalar: Any) -> Any:
        """A scalar copied into every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        )

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b) if self.is_float else self.builder.add(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b) if self.is_float else self.builder.sub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b) if self.is_float else self.builder.mul(a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once where the CPU can; integers wrap."""
        if not self.is_float or not isa.has_fma():
            return self.add(self.mul(a, b), c)
        # llvmlite's declare_intrinsic rejects vector types, so the intrinsic is declared by name.
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.width}f{8 * self.itemsize}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def linear(self, coefficients: Sequence[float], vectors: Sequence[Any]) -> Any:
        """sum of coefficient * vector, without the multiplications by 0, 1 and -1."""
        total = None
        for c, v in zip(coefficients, vectors, strict=True):
            if c == 0:
                continue
            if total is None:
                total = v if c == 1 else self.mul(v, self.constant(c))
            elif c in (1, -1):
                total = self.add(total, v) if c == 1 else self.sub(total, v)
            else:
                total = self.fma(v, self.constant(c), total)
        return self.constant(0) if total is None else total

    def shuffle(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        """Lanes 0..width-1 pick from `a`, width..2*width-1 from `b`."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

    def transpose(self, rows: Sequence[Any]) -> list[Any]:
        """width x width transpose in registers: log2(width) rounds of two-vector shuffles."""
        v, n = list(rows), self.width
        step = 1
        while step < n:
            low = [i if not i & step else n + i - step for i in range(n)]
            high = [i + step if not i & step else n + i for i in range(n)]
            for i in range(n):
                if not i & step:
                    v[i], v[i + step] = self.shuffle(v[i], v[i + step], low), self.shuffle(v[i], v[i + step], high)
            step *= 2
        return v


@intrinsic
def transpose_block(typingctx: Any, src: Any, s0: Any, src_row: Any, dst: Any, d0: Any, dst_row: Any) -> Any:
    """dst[d0 + j*dst_row + i] = src[s0 + i*src_row + j] for i, j < vector width."""
    dtype = element_dtype(src, dst)

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source = array_pointer(context, b, sig.args[0], a[0], a[1])
        target = array_pointer(context, b, sig.args[3], a[3], a[4])
        rows = [e.load(b.gep(source, [b.mul(a[2], i64(i))])) for i in range(e.width)]
        for i, row in enumerate(e.transpose(rows)):
            e.store(row, b.gep(target, [b.mul(a[5], i64(i))]))
        return context.get_dummy_value()

    n = types.int64
    return types.void(src, n, n, dst, n, n), codegen


@intrinsic
def transpose_rows(
    typingctx: Any, src: Any, s0: Any, from_: Any, f0: Any, dst: Any, d0: Any, to: Any, t0: Any
) -> Any:  # fmt: skip
    """dst[d0 + to[t0 + j] + i] = src[s0 + from_[f0 + i] + j] for i, j < vector width; in the order of j."""
    dtype = element_dtype(src, dst)

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = Emitter(b, dtype)
        source, reads, target, writes = (
            array_pointer(context, b, sig.args[i], a[i], a[i + 1]) for i in range(0, len(a), 2)
        )
        rows = [e.load(b.gep(source, [b.load(b.gep(reads, [i64(i)]))])) for i in range(e.width)]
        for j, row in enumerate(e.transpose(rows)):
            e.store(row, b.gep(target, [b.load(b.gep(writes, [i64(j)]))]))
        return context.get_dummy_value()

    n = types.int64
    return types.void(src, n, from_, n, dst, n, to, n), codegen


@intrinsic
def vector_width(typingctx: Any, array: Any) -> Any:
    """Elements of the array's dtype in one vector register, as a compile-time constant."""
    width = isa.width(element_dtype(array))
    return types.int64(array), lambda context, builder, sig, args: i64(width)


@intrinsic
def extremes(typingctx: Any, array: Any) -> Any:
    """`ends` of the array's dtype."""
    dtype, result = element_dtype(array), types.UniTuple(array.dtype, 2)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, [ir.Constant(_SCALARS[dtype], end) for end in ends(dtype)])

    return result(array), codegen


@intrinsic
def claim(typingctx: Any, counter: Any) -> Any:
    """Atomically take the next task number from ``counter[0]``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = array_pointer(context, builder, sig.args[0], args[0], i64(0))
        return builder.atomic_rmw("add", pointer, i64(1), "monotonic")

    return types.int64(types.int64[::1]), codegen


@intrinsic
def unpack(typingctx: Any, array: Any, count: Any) -> Any:
    """The first `count` (a compile-time integer) elements of an array as a tuple."""
    n = literal(count, "count")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = array_pointer(context, builder, sig.args[0], args[0], i64(0))
        values = [builder.load(builder.gep(start, [i64(i)])) for i in range(n)]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(array.dtype, n)(array, count), codegen


@intrinsic
def past_vector(typingctx: Any, array: Any, index: Any) -> Any:
    """How many elements array[index] lies behind an address at which vectors are aligned."""
    dtype = element_dtype(array)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        address = b.ptrtoint(array_pointer(context, b, sig.args[0], args[0], args[1]), I64)
        return b.udiv(b.urem(address, i64(e.width * e.itemsize)), i64(e.itemsize))

    return types.int64(array, types.int64), codegen


def opaque(builder: Any, pointer: Any) -> Any:
    """The same pointer, of which LLVM knows nothing: it stays in a register of its own.

    Otherwise addresses of rows are summed up again in every step of a loop, on the ports of multiply-adds.
    """
    return builder.asm(ir.FunctionType(pointer.type, [pointer.type]), "", "=r,0", [pointer], False)


def prefetch_line(builder: Any, pointer: Any, near: bool = False, write: bool = False) -> None:
    """Ask for the cache line at `pointer` to be brought into L2, or L1; an address that does not exist does no harm."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    how, level, data = (ir.Constant(I32, v) for v in (int(write), 3 if near else 2, 1))
    builder.call(function, [pointer, how, level, data])
