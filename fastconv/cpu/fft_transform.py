"""Transforms of a whole tile, out of the butterflies of `fft_codelets`.

A real tile of TD x TH x TW cells is a complex tile of half as many rows: row h is the real part and row h + TH/2 the
imaginary part. As polynomials in y (rows), a product modulo y^(TH/2) - i of such tiles is exactly the product of the
real ones modulo y^TH + 1 (the right-angle convolution of Crandall & Fagin 1994): no half spectra, no Nyquist rows, no
pairing of tiles. Its wrap-round differs in sign from the usual one, and overlap-save drops it anyway.

1. columns:  panels of W columns, W = vector lanes; transforms along h (and d) are vertical vector arithmetic
2. transposes of W x W blocks in registers
3. rows:     panels of W rows; transforms along w, again vertical
4. (the caller's product; the order of a spectrum does not matter, so it is never sorted)
5. the way back

A `line` is a long signal: cell j is row j // TW, column j % TW, the ring is the one of x^(TW*TH/2) - i, and step 3
begins with a twist by the row's root (the four-step transform of Bailey 1990).

These loops are LLVM rather than Numba code for one reason: they compile in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.fft_codelets import (
    ComplexEmitter,
    emit_multiply,
    emit_pass,
    emit_transpose,
    emit_untwist,
    function_of,
    routine,
)
from fastconv.cpu.simd import element_dtype, i64

# The integers that describe a transform. ROWS: rows of a column panel, filled up to whole vectors; PANELS: column
# panels; TOGETHER: panels that fit L1 together; AXIS_*: first pass in this same array, number of passes, first twiddle
# in `constants`; UNTWIST, TWIST: places in `constants`; PITCH: elements between rows of real output.
TD, HALF, TW, ROWS, PANELS, TOGETHER, LINE, PITCH, AXIS_D, AXIS_H, AXIS_W, UNTWIST, TWIST, FIELDS = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 17, 18, 19,
)  # fmt: skip

#: Integers of one pass: radix, twiddle, outer count and step, inner count and step, leg (in points).
PASS = 7


class _Shape:
    """Reads a description inside a function, and calls the routines it is for."""

    def __init__(self, e: ComplexEmitter, pointer: Any, constants: Any) -> None:
        self.e, self.b, self.pointer, self.constants = e, e.builder, pointer, constants

    def __getitem__(self, field: int) -> Any:
        return self.b.load(self.b.gep(self.pointer, [i64(field)]))

    def call(self, name: str, emit: Any, *values: Any) -> None:
        values = tuple(i64(v) if isinstance(v, int) else v for v in values)
        function = function_of(self.b.module, name, self.e.dtype, [v.type for v in values], emit)
        self.b.call(function, values)

    def place(self, pointer: Any, *terms: Any) -> Any:
        """pointer + the sum of the terms."""
        total = i64(0)
        for term in terms:
            total = self.b.add(total, term if not isinstance(term, int) else i64(term))
        return self.b.gep(pointer, [total])

    def times(self, *factors: Any) -> Any:
        product = i64(1)
        for factor in factors:
            product = self.b.mul(product, factor if not isinstance(factor, int) else i64(factor))
        return product

    def axis(self, which: int, data: Any, backward: Any, unit: Any, repeat: Any, repeat_step: Any) -> None:
        """All passes along one axis whose points are `unit` elements apart, for `repeat` transforms side by side."""
        values = which, data, backward, unit, repeat, repeat_step
        self.call("fft_axis", _emit_axis, self.pointer, self.constants, *values)


def _emit_axis(e: ComplexEmitter, args: Sequence[Any]) -> None:
    pointer, constants, which, data, backward, unit, repeat, repeat_step = args
    b = e.builder
    shape = _Shape(e, pointer, constants)
    first, count, twiddle = (b.load(shape.place(pointer, which, i)) for i in range(3))
    start = b.add(first, shape.times(backward, count, PASS))
    with cgutils.for_range(b, count) as p:
        row = shape.place(pointer, start, shape.times(p.index, PASS))
        radix, at, outer, outer_step, inner, inner_step, leg = (b.load(b.gep(row, [i64(i)])) for i in range(PASS))
        shape.call(
            "fft_pass", emit_pass, radix, data, backward, shape.place(constants, twiddle, at), outer,
            b.mul(outer_step, unit), inner, b.mul(inner_step, unit), b.mul(leg, unit), repeat, repeat_step,
        )  # fmt: skip


def _emit_columns(e: ComplexEmitter, args: Sequence[Any]) -> None:
    pointer, constants, tile, panels, backward = args
    b, size = e.builder, 2 * e.width
    shape = _Shape(e, pointer, constants)
    panel, half = shape.times(shape[ROWS], size), shape[HALF]
    together = shape[TOGETHER]
    groups = b.sdiv(b.sub(b.add(panels, together), i64(1)), together)
    with cgutils.for_range(b, groups) as group:  # panels that fit L1 together go through each pass together
        first = b.mul(group.index, together)
        left = b.sub(panels, first)
        many = b.select(b.icmp_signed("<", left, together), left, together)
        at = shape.place(tile, b.mul(first, panel))
        with cgutils.for_range(b, shape[TD]) as d:
            depth = shape.place(at, shape.times(d.index, half, size))
            shape.axis(AXIS_H, depth, backward, i64(size), many, panel)
        with b.if_then(b.icmp_signed(">", shape[TD], i64(1))), cgutils.for_range(b, many) as k:
            here = shape.place(at, b.mul(k.index, panel))
            shape.axis(AXIS_D, here, backward, shape.times(half, size), half, i64(size))


@intrinsic
def columns(
    typingctx: Any, shape: Any, constants: Any, c0: Any, data: Any, tile: Any, panels: Any, backward: Any
) -> Any:
    """Transform the first `panels` column panels of the tile at data[tile:] along h and d. c0 is 0."""
    element_dtype(constants, data)
    n = types.int64
    return types.void(shape, constants, n, data, n, n, n), routine("columns", _emit_columns, 1, 3, plain=[0])


def _twist(shape: _Shape, panel: Any, q: Any, backward: int) -> None:
    b, width = shape.b, shape[TW]
    with b.if_then(b.icmp_signed("!=", shape[LINE], i64(0))):
        table = shape.place(shape.constants, shape[TWIST], shape.times(q, width, 2 * shape.e.width))
        shape.call("multiply_vectors", emit_multiply, width, backward, panel, table, panel)


def _emit_rows_forward(e: ComplexEmitter, args: Sequence[Any]) -> None:
    pointer, constants, tile, q, panel = args
    W, shape = e.width, _Shape(e, pointer, constants)
    rows = shape.place(tile, shape.times(q, 2 * W * W))
    shape.call(
        "transpose_vectors", emit_transpose, shape[PANELS], rows, shape.times(shape[ROWS], 2 * W), panel, 2 * W * W
    )
    _twist(shape, panel, q, 0)
    shape.axis(AXIS_W, panel, i64(0), i64(2 * W), i64(1), i64(0))


@intrinsic
def rows_forward(
    typingctx: Any, shape: Any, constants: Any, c0: Any, data: Any, tile: Any, q: Any, spectrum: Any, panel: Any
) -> Any:
    """Row panel q of the tile at data[tile:], transformed along w, to spectrum[panel:]. c0 is 0."""
    element_dtype(constants, data, spectrum)
    n = types.int64
    signature = types.void(shape, constants, n, data, n, n, spectrum, n)
    return signature, routine("rows_forward", _emit_rows_forward, 1, 3, 6, plain=[0])


def _emit_rows_backward(e: ComplexEmitter, args: Sequence[Any]) -> None:
    pointer, constants, tile, q, panel, panels = args
    W, shape = e.width, _Shape(e, pointer, constants)
    shape.axis(AXIS_W, panel, i64(1), i64(2 * W), i64(1), i64(0))
    _twist(shape, panel, q, 1)
    rows = shape.place(tile, shape.times(q, 2 * W * W))
    shape.call("transpose_vectors", emit_transpose, panels, panel, 2 * W * W, rows, shape.times(shape[ROWS], 2 * W))


@intrinsic
def rows_backward(
    typingctx: Any, shape: Any, constants: Any, c0: Any, data: Any, tile: Any, q: Any, spectrum: Any, panel: Any,
    panels: Any,
) -> Any:  # fmt: skip
    """The way back of `rows_forward`, for the first `panels` column panels; it works in place of the spectrum."""
    element_dtype(constants, data, spectrum)
    n = types.int64
    signature = types.void(shape, constants, n, data, n, n, spectrum, n, n)
    return signature, routine("rows_backward", _emit_rows_backward, 1, 3, 6, plain=[0])


def _emit_finish(e: ComplexEmitter, args: Sequence[Any]) -> None:
    pointer, constants, tile, out, panels, depth, height = args
    b, size = e.builder, 2 * e.width
    shape = _Shape(e, pointer, constants)
    half, pitch = shape[HALF], shape[PITCH]
    shape.call("columns", _emit_columns, pointer, constants, tile, panels, 1)
    over = b.sub(height, half)
    both = b.select(b.icmp_signed(">", over, i64(0)), over, i64(0))  # rows whose imaginary part is an output too
    some = b.select(b.icmp_signed("<", height, half), height, half)
    table = shape.place(constants, shape[UNTWIST])
    with cgutils.for_range(b, panels) as p, cgutils.for_range(b, depth) as d:
        at = shape.place(tile, shape.times(p.index, shape[ROWS], size), shape.times(d.index, half, size))
        re = shape.place(out, shape.times(d.index, half, 2, pitch), shape.times(p.index, e.width))
        im = shape.place(re, b.mul(half, pitch))
        for first, end, with_im in ((i64(0), both, 1), (both, some, 0)):
            shape.call("untwist_rows", emit_untwist, first, end, at, table, re, im, pitch, with_im)


@intrinsic
def finish(
    typingctx: Any, shape: Any, constants: Any, c0: Any, data: Any, tile: Any, real: Any, out: Any, panels: Any,
    depth: Any, height: Any,
) -> Any:  # fmt: skip
    """Transform columns back; write the real cells of `panels` panels, `depth` planes, `height` rows to real[out:].

    Cell (d, h, w) goes to out + (d*TH + h)*PITCH + w. c0 is 0.
    """
    element_dtype(constants, data, real)
    n = types.int64
    signature = types.void(shape, constants, n, data, n, real, n, n, n, n)
    return signature, routine("finish", _emit_finish, 1, 3, 5, plain=[0])
