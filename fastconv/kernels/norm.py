"""Normalisation where the values that share a mean lie in rows: (N, C, *spatial) memory, and layer norm.

A task owns all values that share one mean. It takes their statistics a chunk at a time and normalises them while they
are still in the core's own caches: x is fetched from memory once.

Statistics are the corrected two-pass algorithm (Chan, Golub & LeVeque 1983) on chunks that lie in L1: a first sum only
has to give a shift near the mean, the second takes sums of d = x - shift and of d**2, whose own mean corrects both
results. Chunks are joined in float64 (Chan et al. 1979), in order. Chunks depend on the shape alone, so results do not
depend on the number of threads.
"""

from __future__ import annotations

from math import sqrt

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.simd import claim, unpack
from fastconv.cpu.vectors import row_map, row_reduce

#: Elements of a chunk: two arrays of 4096 float64 numbers are read twice, from L2 at worst.
CHUNK = 4096

#: Elements up to which the end of a sum takes longer than the sum: 16 vectors of an instruction or two each, against
#: four shuffles and additions of 7 cycles and a square root and a division of 30.
FEW = 256

total = row_reduce(1, 0, 1, lambda e, x, s: [x[0]])


def _moments(e, x, s):
    d = e.sub(x[0], s[0])
    return [d, e.mul(d, d)]


moments = row_reduce(1, 1, 2, _moments)
#: (x - mean) * scale + shift
standardise = row_map(1, 3, lambda e, x, s: e.fma(e.sub(x[0], s[0]), s[1], s[2]))
#: The same with a weight and a bias for each element.
standardise_each = row_map(
    1, 3, lambda e, x, s: e.fma(e.fma(e.sub(x[0], s[2]), s[3], s[4]), s[0], s[1]), vectors=2
)  # fmt: skip
#: sum of g, sum of g * (x - mean); sources g, x
products = row_reduce(2, 1, 2, lambda e, x, s: [x[0], e.mul(x[0], e.sub(x[1], s[0]))])
#: The same of g * weight; sources g, x, weight
weighted_products = row_reduce(
    3, 1, 2, lambda e, x, s: [e.mul(x[0], x[2]), e.mul(e.mul(x[0], x[2]), e.sub(x[1], s[0]))]
)
#: p * g + q * (x - mean) + r
input_gradient = row_map(2, 4, lambda e, x, s: e.fma(x[0], s[0], e.fma(e.sub(x[1], s[1]), s[2], s[3])))
input_gradient_each = row_map(
    2, 4, lambda e, x, s: e.fma(e.mul(x[0], s[0]), s[1], e.fma(e.sub(x[1], s[2]), s[3], s[4])), vectors=1
)
scale_row = row_map(1, 1, lambda e, x, s: e.mul(x[0], s[0]))
#: sum + g and sum + g * ((x - mean) * scale + shift)
_add_to = row_map(2, 0, lambda e, x, s: e.add(x[0], x[1]))
_add_product = row_map(3, 3, lambda e, x, s: e.fma(x[1], e.fma(e.sub(x[2], s[0]), s[1], s[2]), x[0]))


@inline
def join(count, mean, m2, n, mean_n, m2_n):  # type: ignore[no-untyped-def]
    """Mean and sum of squared deviations of both parts together."""
    whole = count + n
    delta = mean_n - mean
    return whole, mean + delta * (n / whole), m2 + m2_n + delta * delta * (count * (n / whole))


@inline
def mean_and_variance(x, at, length, rows, pitch):  # type: ignore[no-untyped-def]
    """Those of `rows` rows of x, `pitch` apart."""
    count, mean, m2 = 0.0, 0.0, 0.0
    tall = max(1, CHUNK // length)
    for row in range(0, rows, tall):
        height = min(tall, rows - row)
        for begin in range(0, length, CHUNK):
            n = min(CHUNK, length - begin)
            here, size = at + row * pitch + begin, float(n * height)
            share = 1.0 / size
            shift = total(n, height, pitch, x, here)[0] * x.dtype.type(share)
            first, second = moments(n, height, pitch, x, here, shift)
            away = float(first) * share
            middle, m2_here = float(shift) + away, float(second) - away * float(first)
            if count == 0.0:
                count, mean, m2 = size, middle, m2_here
            else:
                count, mean, m2 = join(count, mean, m2, size, middle, m2_here)
    return mean, m2 / count


@inline
def add_products(gradient, x, at, length, mean, one, two):  # type: ignore[no-untyped-def]
    """Add a row's sums of g and of g * (x - mean) to `one` and `two`."""
    high = x.dtype.type(mean)
    low = mean - float(high)  # what rounding the mean to the data's precision leaves
    for begin in range(0, length, CHUNK):
        n = min(CHUNK, length - begin)
        first, second = products(n, 1, 0, gradient, at + begin, x, at + begin, high)
        one += float(first)
        two += float(second) - low * float(first)
    return one, two


# geometry: given, units, per, step, segments, between, channels, period, S. What shares a mean is a unit; a task is
# `per` of them. The values of unit u are `segments` runs, `between` apart, of `channels` rows of S elements; the first
# run begins at u * step, its channel is (u % period) * channels.
#
# Statistics of small units are taken of as many as make a chunk before these are normalised: a sum ends in a long chain
# of operations that wait for each other, and that of one unit and those of the next overlap.


@kernel
def forward(thread, counter, tasks, geometry, numbers, mean, variance, x, weight, bias, out):  # type: ignore[no-untyped-def]
    """Normalise; mean and variance are read if `given`, written else. numbers: epsilon."""
    given, units, per, step, segments, between, channels, period, S = unpack(geometry, 9)
    size = segments * channels * S
    block = CHUNK // size if size <= FEW else 1
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        end = min(units, task * per + per)
        for begin in range(task * per, end, block):
            some = range(begin, min(end, begin + block))
            for unit in some:
                if not given:
                    mean[unit], variance[unit] = mean_and_variance(x, unit * step, channels * S, segments, between)
            for unit in some:
                middle = mean[unit]
                inverse = 1.0 / sqrt(variance[unit] + numbers[0])
                high = x.dtype.type(middle)
                first = unit % period * channels
                for c in range(channels):
                    scale = inverse * float(weight[first + c]) if weight.size else inverse
                    shift = (float(high) - middle) * scale
                    if bias.size:
                        shift += float(bias[first + c])
                    scale_, shift_ = x.dtype.type(scale), x.dtype.type(shift)
                    for segment in range(segments):
                        at = unit * step + segment * between + c * S
                        standardise(S, out, at, x, at, high, scale_, shift_)


@kernel
def backward(thread, counter, tasks, geometry, numbers, mean, variance, sums, x, gradient, weight, out):  # type: ignore[no-untyped-def]
    """Gradient of x; sums gets, for each row of S elements, those of g and of g * (x - mean) / sigma.

    With a = the sum of w g and b = the sum of w g (x - mean) over the m values that share a mean, and s = 1/sigma:
        dx = s w g - s a / m - s**3 (x - mean) b / m        (constant statistics, `given`: the first term alone)
    """
    given, units, per, step, segments, between, channels, period, S = unpack(geometry, 9)
    m = segments * channels * S
    share, rows, down = 1.0 / m, step // S, between // S
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for unit in range(task * per, min(units, task * per + per)):
            middle = mean[unit]
            inverse = 1.0 / sqrt(variance[unit] + numbers[0])
            a, b, first = 0.0, 0.0, unit % period * channels
            for segment in range(segments):
                for c in range(channels):
                    row = unit * rows + segment * down + c
                    one, two = add_products(gradient, x, row * S, S, middle, 0.0, 0.0)
                    sums[row * 2], sums[row * 2 + 1] = one, two * inverse
                    w = float(weight[first + c]) if weight.size else 1.0
                    a, b = a + w * one, b + w * two
            high = x.dtype.type(middle)
            q = -inverse * inverse * inverse * b * share
            r = x.dtype.type(-inverse * a * share - q * (middle - float(high)))
            q = x.dtype.type(q)
            for c in range(channels):
                p = x.dtype.type(inverse * float(weight[first + c]) if weight.size else inverse)
                for segment in range(segments):
                    at = unit * step + segment * between + c * S
                    if given:
                        scale_row(S, out, at, gradient, at, p)
                    else:
                        input_gradient(S, out, at, gradient, at, x, at, p, high, q, r)


# geometry of layer norm: rows, M (elements of a row), rows of a task


@kernel
def layer_forward(thread, counter, tasks, geometry, numbers, mean, variance, x, weight, bias, out):  # type: ignore[no-untyped-def]
    """Every row of M elements normalised by itself; weight and bias have M elements, or none."""
    rows, M, block = unpack(geometry, 3)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * block, min(rows, task * block + block)):
            at = row * M
            middle, spread = mean_and_variance(x, at, M, 1, 0)
            mean[row], variance[row] = middle, spread
            inverse = 1.0 / sqrt(spread + numbers[0])
            high, scale = x.dtype.type(middle), x.dtype.type(inverse)
            shift = x.dtype.type((float(high) - middle) * inverse)
            if weight.size:
                standardise_each(M, out, at, x, at, weight, 0, bias, 0, high, scale, shift)
            else:
                standardise(M, out, at, x, at, high, scale, shift)


@kernel
def layer_backward(thread, counter, tasks, geometry, numbers, mean, variance, x, gradient, weight, parts, out):  # type: ignore[no-untyped-def]
    """Gradient of x as in `backward`; each task's share of the gradients of weight and bias goes into `parts`."""
    rows, M, block = unpack(geometry, 3)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        at_weight, at_bias = task * 2 * M, task * 2 * M + M
        for i in range(2 * M if parts.size else 0):
            parts[at_weight + i] = 0
        for row in range(task * block, min(rows, task * block + block)):
            at = row * M
            middle = mean[row]
            inverse = 1.0 / sqrt(variance[row] + numbers[0])
            high, scale = x.dtype.type(middle), x.dtype.type(inverse)
            low = middle - float(high)
            a, b = 0.0, 0.0
            for begin in range(0, M, CHUNK):
                n = min(CHUNK, M - begin)
                if weight.size:
                    first, second = weighted_products(n, 1, 0, gradient, at + begin, x, at + begin, weight, begin, high)
                else:
                    first, second = products(n, 1, 0, gradient, at + begin, x, at + begin, high)
                a, b = a + float(first), b + float(second) - low * float(first)
            q = -inverse * inverse * inverse * b / M
            r = x.dtype.type(-inverse * a / M - q * low)
            if parts.size:
                shift = x.dtype.type(-low * inverse)
                _add_product(
                    M, parts, at_weight, parts, at_weight, gradient, at, x, at, high, scale, shift
                )  # fmt: skip
                _add_to(M, parts, at_bias, parts, at_bias, gradient, at)
            if weight.size:
                input_gradient_each(
                    M, out, at, gradient, at, x, at, weight, 0, scale, high, x.dtype.type(q), r
                )  # fmt: skip
            else:
                input_gradient(M, out, at, gradient, at, x, at, scale, high, x.dtype.type(q), r)
