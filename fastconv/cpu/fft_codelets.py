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
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64

Complex = tuple[Any, Any]  # real and imaginary vector


# ---- butterflies -------------------------------------------------------------------------------------------------


class _ComplexEmitter(Emitter):
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


def _minus_i(w: Complex, e: _ComplexEmitter) -> Complex:
    return w[1], e.negative(w[0])


def _radix2(e: _ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    return list(e.pair(x[0], x[1], w[0]))


def _radix4(e: _ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    """w = c^2, c"""
    a0, b0 = e.pair(x[0], x[2], w[0])
    a1, b1 = e.pair(x[1], x[3], w[0])
    y0, y2 = e.pair(a0, a1, w[1])
    y1, y3 = e.pair(b0, b1, _minus_i(w[1], e))
    return [y0, y1, y2, y3]


def _radix8(e: _ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
    """w = c^4, c^2, c, c e^(-i pi/4)"""
    halves = [e.pair(x[q], x[q + 4], w[0]) for q in range(4)]
    even = _radix4(e, [h[0] for h in halves], [w[1], w[2]])
    odd = _radix4(e, [h[1] for h in halves], [_minus_i(w[1], e), w[3]])
    return [v for both in zip(even, odd, strict=True) for v in both]


def _radix3(e: _ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
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


def _radix5(e: _ComplexEmitter, x: list[Complex], w: list[Complex]) -> list[Complex]:
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


def _product(e: _ComplexEmitter, a: Complex, factor: float) -> Complex:
    f = e.constant(factor)
    return e.mul(a[0], f), e.mul(a[1], f)


Butterfly = Callable[[_ComplexEmitter, list[Complex], list[Complex]], list[Complex]]
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


def _load(e: _ComplexEmitter, pointer: Any, re: Any, im: Any) -> Complex:
    return e.load(e.builder.gep(pointer, [re])), e.load(e.builder.gep(pointer, [im]))


def _store(e: _ComplexEmitter, value: Complex, pointer: Any, re: Any, im: Any) -> None:
    e.store(value[0], e.builder.gep(pointer, [re]))
    e.store(value[1], e.builder.gep(pointer, [im]))


@intrinsic
def fft_pass(
    typingctx: Any, radix: Any, data: Any, base: Any, backward: Any, table: Any, t0: Any,
    outer: Any, outer_step: Any, inner: Any, inner_step: Any, leg: Any, repeat: Any, repeat_step: Any,
) -> Any:  # fmt: skip
    """One pass: a butterfly on the legs ``base + o*outer_step + i*inner_step + k*repeat_step + q*leg`` for all o, i, k.

    Twiddles are those of o. `backward` exchanges real and imaginary parts.
    """
    dtype = element_dtype(data, table)
    n = types.int64

    def codegen(context: Any, b: Any, sig: Any, a: Any) -> Any:
        e = _ComplexEmitter(b, dtype)
        start = array_pointer(context, b, sig.args[1], a[1], a[2])
        constants = array_pointer(context, b, sig.args[4], a[4], a[5])
        turned = b.icmp_signed("!=", a[3], i64(0))
        re, im = b.select(turned, i64(e.width), i64(0)), b.select(turned, i64(0), i64(e.width))
        end = b.append_basic_block("fft_pass_end")
        choice = b.switch(a[0], end)
        for r, butterfly in _BUTTERFLIES.items():
            block = b.append_basic_block(f"radix{r}")
            choice.add_case(i64(r), block)
            b.position_at_end(block)
            legs = [b.mul(a[10], i64(q)) for q in range(r)]
            with cgutils.for_range(b, a[6]) as o:
                place = b.gep(start, [b.mul(o.index, a[7])])
                row = b.gep(constants, [b.mul(o.index, i64(2 * len(TWIDDLES[r])))])
                scalars = [b.load(b.gep(row, [i64(j)])) for j in range(2 * len(TWIDDLES[r]))]
                w = [(e.splat(scalars[2 * j]), e.splat(scalars[2 * j + 1])) for j in range(len(TWIDDLES[r]))]
                with cgutils.for_range(b, a[11]) as k:
                    with cgutils.for_range(b, a[8]) as i:
                        here = b.gep(place, [b.add(b.mul(i.index, a[9]), b.mul(k.index, a[12]))])
                        points = [b.gep(here, [leg]) for leg in legs]
                        results = butterfly(e, [_load(e, p, re, im) for p in points], w)
                        for value, p in zip(results, points, strict=True):
                            _store(e, value, p, re, im)
            b.branch(end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return types.void(n, data, n, n, table, n, n, n, n, n, n, n, n), codegen


@intrinsic
def multiply_vectors(
    typingctx: Any, count: Any, conjugate: Any, a: Any, a0: Any, a_step: Any, w: Any, w0: Any, w_step: Any, out: Any,
    o0: Any,
) -> Any:  # fmt: skip
    """out[o0 + j] = a[a0 + j*a_step] * w[w0 + j*w_step] for `count` complex vectors; by the conjugate of w if asked."""
    dtype = element_dtype(a, w, out)
    n = types.int64

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = _ComplexEmitter(b, dtype)
        pa = array_pointer(context, b, sig.args[2], args[2], args[3])
        pw = array_pointer(context, b, sig.args[5], args[5], args[6])
        po = array_pointer(context, b, sig.args[8], args[8], args[9])
        zero, width = i64(0), i64(e.width)
        flip = b.icmp_signed("!=", args[1], zero)
        sign = e.splat(b.select(flip, ir.Constant(e.scalar, -1.0), ir.Constant(e.scalar, 1.0)))
        with cgutils.for_range(b, args[0]) as j:
            x = _load(e, b.gep(pa, [b.mul(j.index, args[4])]), zero, width)
            y = _load(e, b.gep(pw, [b.mul(j.index, args[7])]), zero, width)
            product = e.times(x, (y[0], e.mul(y[1], sign)))
            _store(e, product, b.gep(po, [b.mul(j.index, i64(2 * e.width))]), zero, width)
        return context.get_dummy_value()

    return types.void(n, n, a, n, n, w, n, n, out, n), codegen


@intrinsic
def copy_vectors(
    typingctx: Any, count: Any, src: Any, s0: Any, s_step: Any, dst: Any, d0: Any, d_step: Any, re_scale: Any, im_scale: Any
) -> Any:
    """dst[d0 + j*d_step] = (re * re_scale, im * im_scale) of src[s0 + j*s_step], for `count` complex vectors."""
    dtype = element_dtype(src, dst)
    n = types.int64
    scalar = src.dtype

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = _ComplexEmitter(b, dtype)
        ps = array_pointer(context, b, sig.args[1], args[1], args[2])
        pd = array_pointer(context, b, sig.args[4], args[4], args[5])
        zero, width = i64(0), i64(e.width)
        re_scale, im_scale = e.splat(args[7]), e.splat(args[8])
        with cgutils.for_range(b, args[0]) as j:
            x = _load(e, b.gep(ps, [b.mul(j.index, args[3])]), zero, width)
            _store(e, (e.mul(x[0], re_scale), e.mul(x[1], im_scale)), b.gep(pd, [b.mul(j.index, args[6])]), zero, width)
        return context.get_dummy_value()

    return types.void(n, src, n, n, dst, n, n, scalar, scalar), codegen


@intrinsic
def cut_row(typingctx: Any, vectors: Any, src: Any, s0: Any, dst: Any, d0: Any, d_step: Any, stats: Any) -> Any:
    """dst[d0 + j*d_step] = src[s0 + j*W] (plain vectors), adding |x| to stats[0:W] and taking maxima in stats[W:2W].

    `stats` is a place in `dst`.
    """
    dtype = element_dtype(src, dst)
    n = types.int64

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = _ComplexEmitter(b, dtype)
        ps = array_pointer(context, b, sig.args[1], args[1], args[2])
        pd = array_pointer(context, b, sig.args[3], args[3], args[4])
        seen = array_pointer(context, b, sig.args[3], args[3], args[6])
        kind = ir.FunctionType(e.vector, [e.vector])
        absolute = cgutils.get_or_insert_function(b.module, kind, f"llvm.fabs.v{e.width}f{8 * e.itemsize}")
        total = cgutils.alloca_once_value(b, e.load(seen))
        highest = cgutils.alloca_once_value(b, e.load(b.gep(seen, [i64(e.width)])))
        with cgutils.for_range(b, args[0]) as j:
            x = e.load(b.gep(ps, [b.mul(j.index, i64(e.width))]))
            e.store(x, b.gep(pd, [b.mul(j.index, args[5])]))
            size = b.call(absolute, [x])
            b.store(e.add(b.load(total), size), total)
            old = b.load(highest)
            b.store(b.select(b.fcmp_ordered(">", size, old), size, old), highest)
        e.store(b.load(total), seen)
        e.store(b.load(highest), b.gep(seen, [i64(e.width)]))
        return context.get_dummy_value()

    return types.void(n, src, n, dst, n, n, n), codegen


@intrinsic
def all_tame(typingctx: Any, data: Any, stats: Any, limit: Any, factor: Any) -> Any:
    """Whether, in every lane of what `cut_row` gathered, the sum is below limit and the maximum at most factor * sum.

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


@intrinsic
def untwist_rows(
    typingctx: Any, first: Any, end: Any, data: Any, base: Any, table: Any, t0: Any, out: Any, re0: Any, im0: Any,
    pitch: Any, with_im: Any,
) -> Any:  # fmt: skip
    """Rows of real numbers from one panel of complex vectors: z = data[base + j] * conj(table[t0 + j]), first <= j < end.

    out[re0 + j*pitch] = re z; if asked, out[im0 + j*pitch] = im z.
    """
    dtype = element_dtype(data, table, out)
    n = types.int64

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = _ComplexEmitter(b, dtype)
        pa = array_pointer(context, b, sig.args[2], args[2], args[3])
        pt = array_pointer(context, b, sig.args[4], args[4], args[5])
        po = array_pointer(context, b, sig.args[6], args[6], i64(0))
        zero, width = i64(0), i64(e.width)
        with cgutils.for_range(b, b.sub(args[1], args[0])) as k:
            j = b.add(k.index, args[0])
            x = _load(e, b.gep(pa, [b.mul(j, i64(2 * e.width))]), zero, width)
            t = b.gep(pt, [b.mul(j, i64(2))])
            w = e.splat(b.load(t)), e.splat(b.load(b.gep(t, [i64(1)])))
            row = b.mul(j, args[9])
            e.store(e.fma(x[1], w[1], e.mul(x[0], w[0])), b.gep(po, [b.add(args[7], row)]))
            with b.if_then(b.icmp_signed("!=", args[10], zero)):
                im = e.fma(e.negative(x[0]), w[1], e.mul(x[1], w[0]))
                e.store(im, b.gep(po, [b.add(args[8], row)]))
        return context.get_dummy_value()

    return types.void(n, n, data, n, table, n, out, n, n, n, n), codegen


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


@intrinsic
def complex_gemm(
    typingctx: Any, rows: Any, cols: Any, K: Any, w: Any, w0: Any, x: Any, x0: Any, x_row: Any, out: Any, o0: Any,
    o_row: Any,
) -> Any:  # fmt: skip
    """out[i, p] = sum_k w[k, i] * x[k, p], lane by lane: one frequency in each lane, 0 <= k < K, K >= 1.

    [rows x K] * [K x cols] -> [rows x cols] of complex vectors, rows and cols being 1 or `register_tile()`'s.
    w is packed (k, i); rows of x and out are x_row and o_row elements apart.
    """
    dtype = element_dtype(w, x, out)
    n = types.int64

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = _ComplexEmitter(b, dtype)
        pw = array_pointer(context, b, sig.args[3], args[3], args[4])
        px = array_pointer(context, b, sig.args[5], args[5], args[6])
        po = array_pointer(context, b, sig.args[8], args[8], args[9])
        zero, width, size = i64(0), i64(e.width), 2 * e.width
        most = register_tile()
        end = b.append_basic_block("complex_gemm_end")
        choice = b.switch(b.add(b.mul(args[0], i64(16)), args[1]), end)
        for M, P in [(m, p) for m in (1, most[0]) for p in (1, most[1])]:
            block, loop, done = (b.append_basic_block(f"{name}{M}x{P}") for name in ("entry", "k", "done"))
            choice.add_case(i64(16 * M + P), block)
            b.position_at_end(block)
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(I64)
            k.add_incoming(zero, block)
            sums = {(i, p): (b.phi(e.vector), b.phi(e.vector)) for i in range(M) for p in range(P)}
            row = b.gep(px, [b.mul(k, args[7])])
            column = b.gep(pw, [b.mul(k, i64(M * size))])
            inputs = [_load(e, b.gep(row, [i64(p * size)]), zero, width) for p in range(P)]
            new = {}
            for i in range(M):
                v = _load(e, b.gep(column, [i64(i * size)]), zero, width)
                for p in range(P):
                    re, im = sums[i, p]
                    re, im = e.fma(v[0], inputs[p][0], re), e.fma(v[0], inputs[p][1], im)
                    new[i, p] = e.fma(e.negative(v[1]), inputs[p][1], re), e.fma(v[1], inputs[p][0], im)
            following = b.add(k, i64(1))
            k.add_incoming(following, loop)
            for cell, phis in sums.items():
                for phi, value in zip(phis, new[cell], strict=True):
                    phi.add_incoming(e.constant(0), block)
                    phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", following, args[2]), loop, done)
            b.position_at_end(done)
            for (i, p), value in new.items():
                place = b.gep(po, [b.add(b.mul(args[10], i64(i)), i64(p * size))])
                _store(e, value, place, zero, width)
            b.branch(end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return types.void(n, n, n, w, n, x, n, n, out, n, n), codegen
