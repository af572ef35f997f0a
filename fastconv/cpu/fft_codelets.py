"""Butterflies and pointwise products of the FFT, as vector intrinsics.

Data are *complex vectors*: W real parts, then W imaginary parts, side by side. Each lane is a transform of its own, so
a transform along an axis is straight vertical arithmetic and never shuffles.

One butterfly serves every pass of every transform. For complex numbers x[0..r-1] it evaluates the polynomial
x[0] + x[1] y + ... + x[r-1] y^(r-1) at the r points  y = c e^(-2 pi i s / r),  s = 0..r-1, in place:

* forward, natural to digit-reversed order: the ring of polynomials modulo y^n - z splits into r rings modulo
  y^(n/r) - c e^(-2 pi i s / r), c^r = z; c belongs to the block (Fiduccia 1972; Bernstein 2007, "The tangent FFT");
* backward, digit-reversed to natural order: decimation in time (Cooley & Tukey 1965), c is the twiddle of the place.
  The inverse transform is the forward one with real and imaginary parts exchanged.

No pass ever reorders data, and a twiddle in front of a sum costs nothing extra with fused multiply-adds: a
complex radix-2 step is 6 of them (Linzer & Feig 1993), a radix-8 butterfly 72.
"""

from __future__ import annotations

from cmath import exp, pi
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.simd import I32, I64, Emitter, array_pointer, element_dtype, i64

Complex = tuple[Any, Any]  # real and imaginary vector


# ---- butterflies -------------------------------------------------------------------------------------------------


class ComplexEmitter(Emitter):
    """Complex arithmetic on pairs of vectors."""

    def negative(self, a: Any) -> Any:
        return self.builder.fneg(a)

    def plus(self, a: Complex, b: Complex) -> Complex:
        return self.add(a[0], b[0]), self.add(a[1], b[1])

    def minus(self, a: Complex, b: Complex) -> Complex:
        return self.sub(a[0], b[0]), self.sub(a[1], b[1])

    def times(self, a: Complex, w: Complex) -> Complex:
        return (
            self.fma(self.negative(a[1]), w[1], self.mul(a[0], w[0])),
            self.fma(a[1], w[0], self.mul(a[0], w[1])),
        )

    def scaled(self, a: Complex, factor: float, b: Complex) -> Complex:
        """a * factor + b"""
        f = self.constant(factor)
        return self.fma(a[0], f, b[0]), self.fma(a[1], f, b[1])

    def pair(self, a: Complex, b: Complex, w: Complex) -> tuple[Complex, Complex]:
        """(a + w b, a - w b), the difference as 2a - (a + w b): 6 fused multiply-adds."""
        if not isa.has_fma():
            t = self.times(b, w)
            return self.plus(a, t), self.minus(a, t)
        two = self.constant(2)
        re = self.fma(self.negative(w[1]), b[1], self.fma(w[0], b[0], a[0]))
        im = self.fma(w[1], b[0], self.fma(w[0], b[1], a[1]))
        return (re, im), (self.fma(two, a[0], self.negative(re)), self.fma(two, a[1], self.negative(im)))


def _minus_i(w: Complex, e: ComplexEmitter) -> Complex:
    return w[1], e.negative(w[0])


def _radix2(e: ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    return list(e.pair(x[0], x[1], w[0]))


def _radix4(e: ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    """w = c^2, c"""
    a0, b0 = e.pair(x[0], x[2], w[0])
    a1, b1 = e.pair(x[1], x[3], w[0])
    y0, y2 = e.pair(a0, a1, w[1])
    y1, y3 = e.pair(b0, b1, _minus_i(w[1], e))
    return [y0, y1, y2, y3]


def _radix8(e: ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    """w = c^4, c^2, c, c e^(-i pi/4)"""
    halves = [e.pair(x[q], x[q + 4], w[0]) for q in range(4)]
    even = _radix4(e, [h[0] for h in halves], [w[1], w[2]])
    odd = _radix4(e, [h[1] for h in halves], [_minus_i(w[1], e), w[3]])
    return [v for both in zip(even, odd, strict=True) for v in both]


def _radix3(e: ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    """w = c, c^2"""
    t1, t2 = e.times(x[1], w[0]), e.times(x[2], w[1])
    total, difference = e.plus(t1, t2), e.minus(t1, t2)
    middle = e.scaled(total, -0.5, x[0])
    s = 3**0.5 / 2
    return [
        e.plus(x[0], total),
        e.scaled((difference[1], e.negative(difference[0])), s, middle),
        e.scaled((difference[1], e.negative(difference[0])), -s, middle),
    ]


def _radix5(e: ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    """w = c, c^2, c^3, c^4"""
    t = [e.times(x[q + 1], w[q]) for q in range(4)]
    s1, s2 = e.plus(t[0], t[3]), e.plus(t[1], t[2])
    d1, d2 = e.minus(t[0], t[3]), e.minus(t[1], t[2])
    roots = [exp(2j * pi * k / 5) for k in range(3)]
    (c1, q1), (c2, q2) = (roots[1].real, roots[1].imag), (roots[2].real, roots[2].imag)
    m1 = e.scaled(s2, c2, e.scaled(s1, c1, x[0]))
    m2 = e.scaled(s2, c1, e.scaled(s1, c2, x[0]))
    n1 = e.scaled(d2, q2, _product(e, d1, q1))
    n2 = e.scaled(d2, -q1, _product(e, d1, q2))

    def turned(m: Complex, n: Complex) -> tuple[Complex, Complex]:
        """(m - i n, m + i n)"""
        return (e.add(m[0], n[1]), e.sub(m[1], n[0])), (e.sub(m[0], n[1]), e.add(m[1], n[0]))

    y1, y4 = turned(m1, n1)
    y2, y3 = turned(m2, n2)
    return [e.plus(x[0], e.plus(s1, s2)), y1, y2, y3, y4]


def _product(e: ComplexEmitter, a: Complex, factor: float) -> Complex:
    f = e.constant(factor)
    return e.mul(a[0], f), e.mul(a[1], f)


Butterfly = Callable[[ComplexEmitter, list[Complex], list[Complex]], list[Complex]]
_BUTTERFLIES: dict[int, Butterfly] = {2: _radix2, 3: _radix3, 4: _radix4, 5: _radix5, 8: _radix8}


#: The constants a butterfly at the points c e^(-2 pi i s / radix) reads, in order: c^power * e^(2 pi i eighths / 8).
TWIDDLES: dict[int, list[tuple[int, int]]] = {
    2: [(1, 0)],
    3: [(1, 0), (2, 0)],
    4: [(2, 0), (1, 0)],
    5: [(1, 0), (2, 0), (3, 0), (4, 0)],
    8: [(4, 0), (2, 0), (1, 0), (1, -1)],
}


# ---- intrinsics --------------------------------------------------------------------------------------------------


Emit = Callable[[ComplexEmitter, Sequence[Any]], None]


def function_of(module: Any, name: str, dtype: str, kinds: Sequence[Any], emit: Emit) -> Any:
    """The function that runs `emit`'s code, made once in each module; never inlined, for kernels call it often."""
    full = f"fastconv_{name}_{dtype}"
    function = module.globals.get(full)
    if function is None:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), full)
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        body = ir.IRBuilder(function.append_basic_block("entry"))
        emit(ComplexEmitter(body, dtype), function.args)
        body.ret_void()
    return function


def routine(name: str, emit: Emit, *arrays: int, plain: Sequence[int] = ()) -> Callable[..., Any]:
    """Code generation of an intrinsic that calls `function_of` `emit`, which gets pointers for arrays.

    arrays: the arguments that are arrays followed by an index; plain: integer arrays without one.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, at = [], 0
        while at < len(args):
            if at in plain:
                values.append(array_pointer(context, builder, sig.args[at], args[at], i64(0)))
            elif at in arrays:
                values.append(array_pointer(context, builder, sig.args[at], args[at], args[at + 1]))
                at += 1
            else:
                values.append(args[at])
            at += 1
        dtype = element_dtype(sig.args[arrays[0]])
        builder.call(function_of(builder.module, name, dtype, [v.type for v in values], emit), values)
        return context.get_dummy_value()

    return codegen


def load(e: ComplexEmitter, pointer: Any, re: Any = None, im: Any = None) -> Complex:
    re, im = (i64(0), i64(e.width)) if re is None else (re, im)
    return e.load(e.builder.gep(pointer, [re])), e.load(e.builder.gep(pointer, [im]))


def store(e: ComplexEmitter, value: Complex, pointer: Any, re: Any = None, im: Any = None) -> None:
    re, im = (i64(0), i64(e.width)) if re is None else (re, im)
    e.store(value[0], e.builder.gep(pointer, [re]))
    e.store(value[1], e.builder.gep(pointer, [im]))


def emit_pass(e: ComplexEmitter, args: Sequence[Any]) -> None:
    """radix, data, backward, twiddles, outer, outer_step, inner, inner_step, leg, repeat, repeat_step: one pass.

    A butterfly on the legs data + o*outer_step + i*inner_step + k*repeat_step + q*leg for all o, i, k; twiddles are
    those of o; `backward` exchanges real and imaginary parts.
    """
    b = e.builder
    radix, start, backward, constants, outer, outer_step, inner, inner_step, leg, repeat, repeat_step = args
    turned = b.icmp_signed("!=", backward, i64(0))
    re, im = b.select(turned, i64(e.width), i64(0)), b.select(turned, i64(0), i64(e.width))
    end = b.append_basic_block("end")
    choice = b.switch(radix, end)
    for r, butterfly in _BUTTERFLIES.items():
        block = b.append_basic_block(f"radix{r}")
        choice.add_case(i64(r), block)
        b.position_at_end(block)
        legs, count = [b.mul(leg, i64(q)) for q in range(r)], len(TWIDDLES[r])
        with cgutils.for_range(b, outer) as o:
            place = b.gep(start, [b.mul(o.index, outer_step)])
            row = b.gep(constants, [b.mul(o.index, i64(2 * count))])
            scalars = [b.load(b.gep(row, [i64(j)])) for j in range(2 * count)]
            w = [(e.splat(scalars[2 * j]), e.splat(scalars[2 * j + 1])) for j in range(count)]
            with cgutils.for_range(b, repeat) as k:
                with cgutils.for_range(b, inner) as i:
                    here = b.gep(place, [b.add(b.mul(i.index, inner_step), b.mul(k.index, repeat_step))])
                    points = [b.gep(here, [leg]) for leg in legs]
                    results = butterfly(e, [load(e, p, re, im) for p in points], w)
                    for value, p in zip(results, points, strict=True):
                        store(e, value, p, re, im)
        b.branch(end)
    b.position_at_end(end)


def emit_transpose(e: ComplexEmitter, args: Sequence[Any]) -> None:
    """Transpose `blocks` blocks of W complex vectors, each contiguous, blocks *_step elements apart."""
    b, W = e.builder, e.width
    blocks, src, src_step, dst, dst_step = args
    with cgutils.for_range(b, blocks) as k:
        source = b.gep(src, [b.mul(k.index, src_step)])
        target = b.gep(dst, [b.mul(k.index, dst_step)])
        for part in (0, W):
            rows = [e.load(b.gep(source, [i64(2 * W * i + part)])) for i in range(W)]
            for i, row in enumerate(e.transpose(rows)):
                e.store(row, b.gep(target, [i64(2 * W * i + part)]))


def emit_multiply(e: ComplexEmitter, args: Sequence[Any]) -> None:
    b = e.builder
    count, conjugate, pa, pw, po = args
    step = i64(2 * e.width)
    one = ir.Constant(e.scalar, 1.0), ir.Constant(e.scalar, -1.0)
    sign = e.splat(b.select(b.icmp_signed("!=", conjugate, i64(0)), one[1], one[0]))
    with cgutils.for_range(b, count) as j:
        at = [b.mul(j.index, step)]
        x, w = load(e, b.gep(pa, at)), load(e, b.gep(pw, at))
        store(e, e.times(x, (w[0], e.mul(w[1], sign))), b.gep(po, at))


@intrinsic
def multiply_vectors(
    typingctx: Any, count: Any, conjugate: Any, a: Any, a0: Any, w: Any, w0: Any, out: Any, o0: Any
) -> Any:
    """out = a * w for `count` complex vectors that follow each other; by the conjugate of w if asked."""
    element_dtype(a, w, out)
    n = types.int64
    return types.void(n, n, a, n, w, n, out, n), routine("multiply_vectors", emit_multiply, 2, 4, 6)


def _emit_copy(e: ComplexEmitter, args: Sequence[Any]) -> None:
    b = e.builder
    count, src, s_step, dst, d_step = args
    with cgutils.for_range(b, count) as j:
        value = load(e, b.gep(src, [b.mul(j.index, s_step)]))
        store(e, value, b.gep(dst, [b.mul(j.index, d_step)]))


@intrinsic
def copy_vectors(typingctx: Any, count: Any, src: Any, s0: Any, s_step: Any, dst: Any, d0: Any, d_step: Any) -> Any:
    """Copy `count` complex vectors, *_step elements apart."""
    element_dtype(src, dst)
    n = types.int64
    return types.void(n, src, n, n, dst, n, n), routine("copy_vectors", _emit_copy, 1, 4)


def _emit_conjugate(e: ComplexEmitter, args: Sequence[Any]) -> None:
    b = e.builder
    count, src, dst, d_step, scale = args
    factor = e.splat(scale)
    with cgutils.for_range(b, count) as j:
        x = load(e, b.gep(src, [b.mul(j.index, i64(2 * e.width))]))
        value = e.mul(x[0], factor), e.mul(e.negative(x[1]), factor)
        store(e, value, b.gep(dst, [b.mul(j.index, d_step)]))


@intrinsic
def conjugate_vectors(typingctx: Any, count: Any, src: Any, s0: Any, dst: Any, d0: Any, d_step: Any, scale: Any) -> Any:
    """dst = conj(src) * scale for `count` complex vectors that follow each other in src, d_step apart in dst."""
    element_dtype(src, dst)
    n = types.int64
    return types.void(n, src, n, dst, n, n, src.dtype), routine("conjugate_vectors", _emit_conjugate, 1, 3)


def _emit_cut(e: ComplexEmitter, args: Sequence[Any]) -> None:
    b, W = e.builder, e.width
    rows, vectors, first, end, src, s_row, dst, d_step, seen = args
    vector, flags = e.vector, ir.VectorType(ir.IntType(1), W)
    lanes = ir.VectorType(I32, W)
    absolute = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(vector, [vector]), f"llvm.fabs.v{W}f{8 * e.itemsize}"
    )
    kind = ir.FunctionType(vector, [vector.as_pointer(), I32, flags, vector])
    masked_load = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.load.v{W}f{8 * e.itemsize}.p0")
    total = cgutils.alloca_once_value(b, e.load(seen))
    highest = cgutils.alloca_once_value(b, e.load(b.gep(seen, [i64(W)])))
    value = cgutils.alloca_once(b, vector)
    small = Emitter(b, "int32", W)

    def clamped(x: Any) -> Any:
        x = b.select(b.icmp_signed("<", x, i64(0)), i64(0), x)
        return b.select(b.icmp_signed(">", x, i64(W)), i64(W), x)

    with cgutils.for_range(b, rows) as r:
        row, target = b.gep(src, [b.mul(r.index, s_row)]), b.gep(dst, [b.mul(r.index, i64(2 * W))])
        with cgutils.for_range(b, vectors) as v:
            cell = b.mul(v.index, i64(W))
            low, high = clamped(b.sub(first, cell)), clamped(b.sub(end, cell))
            here = b.gep(row, [cell])
            with b.if_else(b.icmp_signed("==", b.sub(high, low), i64(W))) as (whole, part):
                with whole:
                    b.store(e.load(here), value)
                with part:
                    place = ir.Constant(lanes, list(range(W)))
                    low, high = small.splat(b.trunc(low, I32)), small.splat(b.trunc(high, I32))
                    mask = b.and_(b.icmp_signed(">=", place, low), b.icmp_signed("<", place, high))
                    pointer = b.bitcast(here, vector.as_pointer())
                    align = ir.Constant(I32, e.itemsize)
                    b.store(b.call(masked_load, [pointer, align, mask, e.constant(0)]), value)
            x = b.load(value)
            e.store(x, b.gep(target, [b.mul(v.index, d_step)]))
            size = b.call(absolute, [x])
            b.store(e.add(b.load(total), size), total)
            old = b.load(highest)
            b.store(b.select(b.fcmp_ordered(">", size, old), size, old), highest)
    e.store(b.load(total), seen)
    e.store(b.load(highest), b.gep(seen, [i64(W)]))


@intrinsic
def cut_rows(
    typingctx: Any, rows: Any, vectors: Any, first: Any, end: Any, src: Any, s0: Any, s_row: Any, dst: Any, d0: Any,
    d_step: Any, stats: Any, stats0: Any,
) -> Any:  # fmt: skip
    """Cut rows of real cells into column panels: vector v of row r goes to dst[d0 + r*2W + v*d_step].

    Row r is src[s0 + r*s_row:]; cells before `first` and from `end` on are zeros, and src is not read there.
    stats[0:W] += |x|, stats[W:2W] = the largest |x|.
    """
    element_dtype(src, dst, stats)
    n = types.int64
    signature = types.void(n, n, n, n, src, n, n, dst, n, n, stats, n)
    return signature, routine("cut_rows", _emit_cut, 4, 7, 10)


def emit_untwist(e: ComplexEmitter, args: Sequence[Any]) -> None:
    """Rows of real numbers from a panel of complex vectors: z = data[j] * conj(table[j]), first <= j < end.

    re[j*pitch] = real part of z; if asked, im[j*pitch] = imaginary part.
    """
    b = e.builder
    first, end, pa, pt, re, im, pitch, with_im = args
    with cgutils.for_range(b, b.sub(end, first)) as k:
        j = b.add(k.index, first)
        x = load(e, b.gep(pa, [b.mul(j, i64(2 * e.width))]))
        t = b.gep(pt, [b.mul(j, i64(2))])
        w = e.splat(b.load(t)), e.splat(b.load(b.gep(t, [i64(1)])))
        row = b.mul(j, pitch)
        e.store(e.fma(x[1], w[1], e.mul(x[0], w[0])), b.gep(re, [row]))
        with b.if_then(b.icmp_signed("!=", with_im, i64(0))):
            e.store(e.fma(e.negative(x[0]), w[1], e.mul(x[1], w[0])), b.gep(im, [row]))


@intrinsic
def all_tame(typingctx: Any, data: Any, stats: Any, limit: Any, factor: Any) -> Any:
    """Whether, in every lane of what `cut_rows` gathered, the sum is below limit and the maximum at most factor * sum.

    False for any NaN.
    """
    dtype = element_dtype(data)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        seen = array_pointer(context, b, sig.args[0], args[0], args[1])
        total, highest = e.load(seen), e.load(b.gep(seen, [i64(e.width)]))
        finite = b.fcmp_ordered("<", total, e.splat(args[2]))
        flat = b.fcmp_ordered("<=", highest, e.mul(total, e.splat(args[3])))
        mask = b.bitcast(b.and_(finite, flat), ir.IntType(e.width))
        return b.icmp_unsigned("==", mask, ir.Constant(mask.type, -1))

    return types.boolean(data, types.int64, data.dtype, data.dtype), codegen


# ---- the complex product per frequency ---------------------------------------------------------------------------


def register_tile() -> tuple[int, int]:
    """(channels, tiles) whose complex sums stay in registers: 2*4*3 sums, 2*3 inputs, 2 weights fill 32 registers."""
    return (4, 3) if isa.registers() >= 32 else (2, 2)


@intrinsic
def register_tile_size(typingctx: Any, axis: Any) -> Any:
    """`register_tile()[axis]` as a constant of the kernel."""
    sizes = register_tile()
    return types.int64(types.int64), lambda context, b, sig, args: b.select(
        b.icmp_signed("==", args[0], i64(0)), i64(sizes[0]), i64(sizes[1])
    )


def _emit_gemm(e: ComplexEmitter, args: Sequence[Any]) -> None:
    b, size = e.builder, 2 * e.width
    rows, cols, K, pw, px, x_row, po, o_row = args
    most = register_tile()
    end = b.append_basic_block("end")
    choice = b.switch(b.add(b.mul(rows, i64(16)), cols), end)
    for M, P in [(m, p) for m in (1, most[0]) for p in (1, most[1])]:
        block, loop, done = (b.append_basic_block(f"{name}{M}x{P}") for name in ("entry", "k", "done"))
        choice.add_case(i64(16 * M + P), block)
        b.position_at_end(block)
        b.branch(loop)
        b.position_at_end(loop)
        k = b.phi(I64)
        k.add_incoming(i64(0), block)
        sums = {(i, p): (b.phi(e.vector), b.phi(e.vector)) for i in range(M) for p in range(P)}
        row = b.gep(px, [b.mul(k, x_row)])
        column = b.gep(pw, [b.mul(k, i64(M * size))])
        inputs = [load(e, b.gep(row, [i64(p * size)])) for p in range(P)]
        new = {}
        for i in range(M):
            w = load(e, b.gep(column, [i64(i * size)]))
            for p in range(P):
                re, im = sums[i, p]
                re, im = e.fma(w[0], inputs[p][0], re), e.fma(w[0], inputs[p][1], im)
                new[i, p] = e.fma(e.negative(w[1]), inputs[p][1], re), e.fma(w[1], inputs[p][0], im)
        following = b.add(k, i64(1))
        k.add_incoming(following, loop)
        for cell, phis in sums.items():
            for phi, value in zip(phis, new[cell], strict=True):
                phi.add_incoming(e.constant(0), block)
                phi.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", following, K), loop, done)
        b.position_at_end(done)
        for (i, p), value in new.items():
            store(e, value, b.gep(po, [b.add(b.mul(o_row, i64(i)), i64(p * size))]))
        b.branch(end)
    b.position_at_end(end)


@intrinsic
def complex_gemm(
    typingctx: Any, rows: Any, cols: Any, K: Any, w: Any, w0: Any, x: Any, x0: Any, x_row: Any, out: Any, o0: Any,
    o_row: Any,
) -> Any:  # fmt: skip
    """out[i, p] = sum_k w[k, i] * x[k, p], lane by lane: one frequency in each lane, 0 <= k < K, K >= 1.

    [rows x K] * [K x cols] -> [rows x cols] of complex vectors, rows and cols being 1 or `register_tile()`'s.
    w is packed (k, i); rows of x and out are x_row and o_row elements apart.
    """
    element_dtype(w, x, out)
    n = types.int64
    return types.void(n, n, n, w, n, x, n, n, out, n, n), routine("complex_gemm", _emit_gemm, 3, 5, 8)
