"""Local response normalisation, y = x d**-beta with d = k + (alpha / size) * sum of x**2 over `size` near channels.

The squares lie in scratch, with as many zeros before the first and after the last channel as the window reaches. In
(N, C, *spatial) memory a strip of pixels has one row of scratch for each channel, in (N, *spatial, C) memory a pixel
has one row in all: either way the window's sum is `size` rows added up, a row or an element apart.
"""

from __future__ import annotations

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.cpu.vectors import column_reduce, divide, row_map, square_root

#: Pixels of a strip: with 256 channels three arrays of squares stay in L2.
WIDE = 128

_window_sum = column_reduce(1, 0, 1, lambda e, x, s: [x[0]])
_square = row_map(1, 0, lambda e, x, s: e.mul(x[0], x[0]))
_multiply = row_map(2, 0, lambda e, x, s: e.mul(x[0], x[1]))
_affine = row_map(1, 2, lambda e, x, s: e.fma(x[0], s[0], s[1]))
_inverse = row_map(1, 0, lambda e, x, s: divide(e, e.constant(1), x[0]))
_inverse_root = row_map(1, 0, lambda e, x, s: divide(e, e.constant(1), square_root(e, x[0])))
#: x y z, sources x, y, z
_product = row_map(3, 0, lambda e, x, s: e.mul(e.mul(x[0], x[1]), x[2]))
#: g p - factor x t, sources g, p, x, t
_gradient = row_map(4, 1, lambda e, x, s: e.sub(e.mul(x[0], x[1]), e.mul(e.mul(s[0], x[2]), x[3])))


def _three_quarters(e, x, s):
    root = square_root(e, x[0])
    return divide(e, e.constant(1), e.mul(root, square_root(e, root)))


_inverse_three_quarters = row_map(1, 0, _three_quarters)


@inline
def _power(n, dst, d0, src, s0, beta):  # type: ignore[no-untyped-def]
    """dst = src**-beta; roots for AlexNet's 0.75 and other usual ones."""
    if beta == 0.75:
        _inverse_three_quarters(n, dst, d0, src, s0)
    elif beta == 0.5:
        _inverse_root(n, dst, d0, src, s0)
    elif beta == 1.0:
        _inverse(n, dst, d0, src, s0)
    else:
        for i in range(n):
            dst[d0 + i] = src[s0 + i] ** -beta


# geometry: channels_last, N, C, S, size, strips of an image (or pixels of a task), scratch of a thread
# constants: alpha / size, beta, k, 2 alpha beta / size


@inline
def _plan(geometry, task):  # type: ignore[no-untyped-def]
    """Lines to work on: first place, lines, their length, step from line to line, margin of zeros in lines' units."""
    last, N, C, S, _, part, _ = unpack(geometry, 7)
    if last:
        first = task * part
        return first * C, min(part, N * S - first), C, C
    n, strip = divmod(task, part)
    return n * C * S + strip * WIDE, C, min(WIDE, S - strip * WIDE), S


@kernel
def forward(thread, counter, tasks, geometry, constants, x, scratch, out):  # type: ignore[no-untyped-def]
    last, _, C, _, size, _, per_thread = unpack(geometry, 7)
    before = size // 2
    squares = thread * per_thread
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        begin, lines, n, step = _plan(geometry, task)
        pitch = 1 if last else n  # from a channel to the next in scratch
        line = (C + size) * pitch  # behind the squares: room for one line of results
        fill_row(scratch, squares, line)
        group = 1 if last else lines  # a line holds all channels of a pixel, or a strip one of all its lines
        for first in range(0, lines, group):
            for i in range(group):
                _square(n, scratch, squares + (i + before) * pitch, x, begin + (first + i) * step)
            for i in range(group):
                at = begin + (first + i) * step
                fill_row(scratch, squares + line, n)
                _window_sum(n, size, pitch, scratch, squares + line, scratch, squares + i * pitch)
                _affine(n, scratch, squares + line, scratch, squares + line, constants[0], constants[2])
                _power(n, scratch, squares + line, scratch, squares + line, constants[1])
                _multiply(n, out, at, x, at, scratch, squares + line)


@kernel
def backward(thread, counter, tasks, geometry, constants, gradient, x, scratch, out):  # type: ignore[no-untyped-def]
    """dx = g d**-beta - 2 alpha beta / size * x * (sum of g x d**(-beta - 1) over channels whose window holds x)."""
    last, _, C, _, size, _, per_thread = unpack(geometry, 7)
    before, after = size // 2, (size - 1) // 2
    squares = thread * per_thread
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        begin, lines, n, step = _plan(geometry, task)
        pitch = 1 if last else n
        width = (C + size) * pitch
        terms, powers = squares + width, squares + 2 * width  # then one line for sums
        total = powers + C * pitch
        fill_row(scratch, squares, 2 * width)
        group = 1 if last else lines
        for first in range(0, lines, group):
            for i in range(group):
                _square(n, scratch, squares + (i + before) * pitch, x, begin + (first + i) * step)
            for i in range(group):
                at = begin + (first + i) * step
                fill_row(scratch, total, n)
                _window_sum(n, size, pitch, scratch, total, scratch, squares + i * pitch)
                _affine(n, scratch, total, scratch, total, constants[0], constants[2])
                power = powers + i * pitch
                _power(n, scratch, power, scratch, total, constants[1])
                _inverse(n, scratch, total, scratch, total)
                _multiply(n, scratch, total, scratch, total, scratch, power)
                _product(n, scratch, terms + (i + after) * pitch, gradient, at, x, at, scratch, total)
            for i in range(group):
                at = begin + (first + i) * step
                fill_row(scratch, total, n)
                _window_sum(n, size, pitch, scratch, total, scratch, terms + i * pitch)
                _gradient(n, out, at, gradient, at, scratch, powers + i * pitch, x, at, scratch, total, constants[3])
