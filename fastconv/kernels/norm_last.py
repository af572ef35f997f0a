"""Normalisation of (N, *spatial, C) memory: vectors along channels, statistics down columns.

Three steps, each a kernel: blocks of rows give partial sums, the sums are joined in a fixed order and become a scale
and a shift for each channel, blocks of rows are normalised. Batch norm is the case of one image that holds the rows of
all. The arithmetic is that of `norm`.
"""

from __future__ import annotations

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.cpu.vectors import column_reduce, row_map

#: Rows added up at once: as many streams as the hardware prefetches with ease.
TALL = 8

_column_totals = column_reduce(1, 0, 1, lambda e, x, s: [x[0]])


def _moments(e, x, s):
    d = e.sub(x[0], s[0])
    return [d, e.mul(d, d)]


_column_moments = column_reduce(1, 1, 2, _moments)
_column_products = column_reduce(2, 1, 2, lambda e, x, s: [x[0], e.mul(x[0], e.sub(x[1], s[0]))])
_scale = row_map(1, 1, lambda e, x, s: e.mul(x[0], s[0]))
_standardise = row_map(1, 0, lambda e, x, s: e.fma(e.sub(x[0], s[0]), s[1], s[2]), vectors=3)
_input_gradient = row_map(
    2, 0, lambda e, x, s: e.fma(x[0], s[0], e.fma(e.sub(x[1], s[1]), s[2], s[3])), vectors=4
)  # fmt: skip

# geometry of all: given, images, S (rows of an image), C, channels of a group, rows of a block, blocks of an image,
# channels of a joining task, pixels that share one row of coefficients


@inline
def _rows_of(task, blocks, block, S):  # type: ignore[no-untyped-def]
    """Image, first row in it, number of rows."""
    image, part = divmod(task, blocks)
    return image, part * block, min(block, S - part * block)


@kernel
def gather_moments(thread, counter, tasks, geometry, x, parts):  # type: ignore[no-untyped-def]
    """For each block and channel: a shift near the mean, the sums of d = x - shift and of d**2."""
    _, _, S, C, _, block, blocks, _, _ = unpack(geometry, 9)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, first, rows = _rows_of(task, blocks, block, S)
        begin, at = (image * S + first) * C, task * 3 * C
        fill_row(parts, at, 3 * C)
        for row in range(0, rows, TALL):
            _column_totals(C, min(TALL, rows - row), C, parts, at, x, begin + row * C)
        share = x.dtype.type(1) / x.dtype.type(rows)
        _scale(C, parts, at, parts, at, share)
        for row in range(0, rows, TALL):
            _column_moments(
                C, min(TALL, rows - row), C, parts, at + C, parts, at + 2 * C, x, begin + row * C, parts, at
            )  # fmt: skip


@kernel
def join_moments(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, numbers, mean, variance, sums, parts, weight, bias, coefficients
):
    """Mean and variance of each group of channels, then what `standardise` needs: mean, scale, shift."""
    given, _, S, C, channels, block, blocks, span, repeat = unpack(geometry, 9)
    spans = (C + span - 1) // span
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, part = divmod(task, spans)
        begin, end = part * span, min(C, part * span + span)
        own = image * C * 2  # sums holds a mean and a deviation for each channel
        if not given:
            for c in range(begin, end):
                sums[own + c], sums[own + C + c] = 0.0, 0.0
            for item in range(blocks):
                rows = min(block, S - item * block)
                at = (image * blocks + item) * 3 * C
                count, each = float(item * block), 1.0 / rows
                share = rows / (count + rows)
                cross = count * share
                for c in range(begin, end):
                    first = float(parts[at + C + c])
                    away = first * each
                    delta = float(parts[at + c]) + away - sums[own + c]
                    sums[own + c] += delta * share
                    sums[own + C + c] += float(parts[at + 2 * C + c]) - away * first + delta * delta * cross
        for g in range(begin // channels, end // channels):
            group = image * (C // channels) + g
            if not given:
                middle = 0.0
                for c in range(g * channels, g * channels + channels):
                    middle += sums[own + c]
                middle /= channels
                m2 = 0.0
                for c in range(g * channels, g * channels + channels):
                    away = sums[own + c] - middle
                    m2 += sums[own + C + c] + away * away * S
                mean[group], variance[group] = middle, m2 / (float(S) * channels)
            middle = mean[group]
            inverse = 1.0 / (variance[group] + numbers[0]) ** 0.5
            high = weight.dtype.type(middle)
            for c in range(g * channels, g * channels + channels):
                scale = inverse * float(weight[c]) if weight.size else inverse
                shift = (float(high) - middle) * scale
                if bias.size:
                    shift += float(bias[c])
                for i in range(repeat):
                    at = image * 3 * repeat * C + i * C + c
                    coefficients[at] = high
                    coefficients[at + repeat * C] = scale
                    coefficients[at + 2 * repeat * C] = shift


@kernel
def standardise(thread, counter, tasks, geometry, x, coefficients, out):  # type: ignore[no-untyped-def]
    _, _, S, C, _, block, blocks, _, repeat = unpack(geometry, 9)
    wide = repeat * C
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, first, rows = _rows_of(task, blocks, block, S)
        begin, at = (image * S + first) * C, image * 3 * wide
        for row in range(0, rows, repeat):
            n, here = min(repeat, rows - row) * C, begin + row * C
            _standardise(
                n, out, here, x, here, coefficients, at, coefficients, at + wide, coefficients, at + 2 * wide
            )  # fmt: skip


@kernel
def gather_products(thread, counter, tasks, geometry, gradient, x, means, parts):  # type: ignore[no-untyped-def]
    """For each block and channel: sums of g and of g * (x - mean), the mean rounded to the data's precision."""
    _, _, S, C, _, block, blocks, _, _ = unpack(geometry, 9)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, first, rows = _rows_of(task, blocks, block, S)
        begin, at = (image * S + first) * C, task * 2 * C
        fill_row(parts, at, 2 * C)
        for row in range(0, rows, TALL):
            here = begin + row * C
            _column_products(
                C, min(TALL, rows - row), C, parts, at, parts, at + C, gradient, here, x, here, means, image * C
            )  # fmt: skip


@kernel
def join_products(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, numbers, mean, variance, sums, parts, weight, coefficients
):
    """Sums of g and of g * (x - mean) / sigma for each image and channel.

    Then what `input_gradient` needs: p, mean, q, r of p*g + q*(x - mean) + r.
    """
    given, _, S, C, channels, _, blocks, span, repeat = unpack(geometry, 9)
    spans = (C + span - 1) // span
    wide = repeat * C
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, part = divmod(task, spans)
        begin, end = part * span, min(C, part * span + span)
        own = image * C * 2
        for c in range(begin, end):
            sums[own + c], sums[own + C + c] = 0.0, 0.0
        for item in range(blocks):
            at = (image * blocks + item) * 2 * C
            for c in range(begin, end):
                sums[own + c] += float(parts[at + c])
                sums[own + C + c] += float(parts[at + C + c])
        m = float(S) * channels
        for g in range(begin // channels, end // channels):
            group = image * (C // channels) + g
            middle = mean[group]
            inverse = 1.0 / (variance[group] + numbers[0]) ** 0.5
            high = weight.dtype.type(middle)
            low = middle - float(high)
            a, b = 0.0, 0.0
            for c in range(g * channels, g * channels + channels):
                sums[own + C + c] -= low * sums[own + c]
                w = float(weight[c]) if weight.size else 1.0
                a, b = a + w * sums[own + c], b + w * sums[own + C + c]
            q = 0.0 if given else -inverse * inverse * inverse * b / m
            r = 0.0 if given else -inverse * a / m - q * low
            for c in range(g * channels, g * channels + channels):
                sums[own + C + c] *= inverse
                p = inverse * float(weight[c]) if weight.size else inverse
                for i in range(repeat):
                    at = image * 4 * wide + i * C + c
                    coefficients[at], coefficients[at + wide] = p, high
                    coefficients[at + 2 * wide], coefficients[at + 3 * wide] = q, r


@kernel
def input_gradient(thread, counter, tasks, geometry, gradient, x, coefficients, out):  # type: ignore[no-untyped-def]
    given, _, S, C, _, block, blocks, _, repeat = unpack(geometry, 9)
    wide = repeat * C
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, first, rows = _rows_of(task, blocks, block, S)
        begin, at = (image * S + first) * C, image * 4 * wide
        for row in range(0, rows, repeat):
            n, here = min(repeat, rows - row) * C, begin + row * C
            if given:
                _scale_each(n, out, here, gradient, here, coefficients, at)
                continue
            _input_gradient(
                n, out, here, gradient, here, x, here, coefficients, at, coefficients, at + wide,
                coefficients, at + 2 * wide, coefficients, at + 3 * wide,
            )  # fmt: skip


_scale_each = row_map(1, 0, lambda e, x, s: e.mul(x[0], s[0]), vectors=1)
