"""Softmax and its logarithm, forward and backward, along any axis.

In memory an axis of C numbers lies between `outer` and `inner` others. With inner == 1 its numbers are neighbours and
vectors run along it; else vectors run along `inner`, a strip of `WIDE` at a time, and the axis is walked down.
"""

from __future__ import annotations

import math

from fastconv.cpu.jit import kernel
from fastconv.cpu.rows import copy_row, fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.cpu.vectors import divide, exponential, maximum, row_map, row_reduce

#: Positions of a strip: 256 float64 numbers a row, of which four are in use at a time, stay in L1.
WIDE = 256

_largest = row_reduce(1, 0, 1, lambda e, x, s: [x[0]], largest=True)
_total = row_reduce(1, 0, 1, lambda e, x, s: [x[0]])
_total_power = row_reduce(1, 1, 1, lambda e, x, s: [exponential(e, e.sub(x[0], s[0]))])
_total_product = row_reduce(2, 0, 1, lambda e, x, s: [e.mul(x[0], x[1])])
_power = row_map(1, 1, lambda e, x, s: exponential(e, e.sub(x[0], s[0])))
_scale = row_map(1, 1, lambda e, x, s: e.mul(x[0], s[0]))
_lower = row_map(1, 2, lambda e, x, s: e.sub(e.sub(x[0], s[0]), s[1]))
#: y * (g - t) and g - exp(y) * t; sources y, g
_slope = row_map(2, 1, lambda e, x, s: e.mul(x[0], e.sub(x[1], s[0])))
_log_slope = row_map(2, 1, lambda e, x, s: e.sub(x[1], e.mul(exponential(e, x[0]), s[0])))

# The same down columns: what was a scalar is a row.
_most = row_map(2, 0, lambda e, x, s: maximum(e, x[1], x[0]))
_powers = row_map(2, 0, lambda e, x, s: exponential(e, e.sub(x[0], x[1])))
_add = row_map(2, 0, lambda e, x, s: e.add(x[0], x[1]))
_add_power = row_map(3, 0, lambda e, x, s: e.add(x[0], exponential(e, e.sub(x[1], x[2]))))
_add_product = row_map(3, 0, lambda e, x, s: e.fma(x[1], x[2], x[0]))
_divide = row_map(2, 0, lambda e, x, s: divide(e, x[0], x[1]))
_lowers = row_map(3, 0, lambda e, x, s: e.sub(e.sub(x[0], x[1]), x[2]))
_slopes = row_map(3, 0, lambda e, x, s: e.mul(x[0], e.sub(x[1], x[2])))
_log_slopes = row_map(3, 0, lambda e, x, s: e.sub(x[1], e.mul(exponential(e, x[0]), x[2])))

# geometry: logarithm, outer, C, inner, rows of a task (inner == 1), elements of scratch a thread


@kernel
def forward(thread, counter, tasks, geometry, x, scratch, out):  # type: ignore[no-untyped-def]
    logarithm, outer, C, inner, block, per_thread = unpack(geometry, 6)
    strips = (inner + WIDE - 1) // WIDE
    most, sums = thread * per_thread, thread * per_thread + WIDE
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        if inner == 1:
            for row in range(task * block, min(outer, task * block + block)):
                at = row * C
                top = _largest(C, 1, 0, x, at)[0]
                if logarithm:
                    total = _total_power(C, 1, 0, x, at, top)[0]
                    _lower(C, out, at, x, at, top, x.dtype.type(math.log(total)))
                else:
                    _power(C, out, at, x, at, top)
                    _scale(C, out, at, out, at, x.dtype.type(1) / _total(C, 1, 0, out, at)[0])
            continue
        begin, strip = divmod(task, strips)
        n = min(WIDE, inner - strip * WIDE)
        begin = begin * C * inner + strip * WIDE
        copy_row(x, begin, scratch, most, n)
        for c in range(1, C):
            _most(n, scratch, most, scratch, most, x, begin + c * inner)
        fill_row(scratch, sums, n)
        for c in range(C):
            at = begin + c * inner
            if logarithm:
                _add_power(n, scratch, sums, scratch, sums, x, at, scratch, most)
            else:
                _powers(n, out, at, x, at, scratch, most)
                _add(n, scratch, sums, scratch, sums, out, at)
        if logarithm:
            for i in range(n):
                scratch[sums + i] = math.log(scratch[sums + i])
        for c in range(C):
            at = begin + c * inner
            if logarithm:
                _lowers(n, out, at, x, at, scratch, most, scratch, sums)
            else:
                _divide(n, out, at, out, at, scratch, sums)


@kernel
def backward(thread, counter, tasks, geometry, gradient, y, scratch, out):  # type: ignore[no-untyped-def]
    """From the result y of the forward pass: dx = y (g - sum g y), of the logarithm dx = g - exp(y) sum g."""
    logarithm, outer, C, inner, block, per_thread = unpack(geometry, 6)
    strips = (inner + WIDE - 1) // WIDE
    sums = thread * per_thread
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        if inner == 1:
            for row in range(task * block, min(outer, task * block + block)):
                at = row * C
                if logarithm:
                    _log_slope(C, out, at, y, at, gradient, at, _total(C, 1, 0, gradient, at)[0])
                else:
                    _slope(C, out, at, y, at, gradient, at, _total_product(C, 1, 0, gradient, at, y, at)[0])
            continue
        begin, strip = divmod(task, strips)
        n = min(WIDE, inner - strip * WIDE)
        begin = begin * C * inner + strip * WIDE
        fill_row(scratch, sums, n)
        for c in range(C):
            at = begin + c * inner
            if logarithm:
                _add(n, scratch, sums, scratch, sums, gradient, at)
            else:
                _add_product(n, scratch, sums, scratch, sums, gradient, at, y, at)
        for c in range(C):
            at = begin + c * inner
            if logarithm:
                _log_slopes(n, out, at, y, at, gradient, at, scratch, sums)
            else:
                _slopes(n, out, at, y, at, gradient, at, scratch, sums)
