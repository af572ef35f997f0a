"""Locally connected layers: a convolution in which every output position has filters of its own.

A position is a small fully connected layer on its patch: [OC x K] * [K x N] with weights that no other position uses.
They are read from memory once, which is what limits the speed; the patches of some images wait in scratch meanwhile.
"""

from __future__ import annotations

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.cpu.vectors import row_map, row_reduce

#: Images whose patches are in scratch together.
IMAGES = 16

_dot = row_reduce(2, 0, 1, lambda e, x, s: [e.mul(x[0], x[1])])
_add_scaled = row_map(2, 1, lambda e, x, s: e.fma(x[1], s[0], x[0]))

# geometry: N, C, OC, input (3), output (3), kernel (3), stride (3), dilation (3), padding before (3),
# steps of x (image, channel, cell), steps of out (image, channel, cell), scratch of a thread, channels of a task


@inline
def _gather(geometry, x, n, position, scratch, s0):  # type: ignore[no-untyped-def]
    """The patch under an output position of image n, zeros outside the image."""
    (
        _, C, _, ID, IH, IW, _, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, image, channel, cell,
        _, _, _, _, _,
    ) = unpack(geometry, 29)  # fmt: skip
    rest, ow = divmod(position, OW)
    od, oh = divmod(rest, OH)
    for kd in range(KD):
        d = od * sd + kd * dd - pd
        for kh in range(KH):
            h = oh * sh + kh * dh - ph
            for kw in range(KW):
                w = ow * sw + kw * dw - pw
                at = s0 + (kd * KH + kh) * KW + kw
                inside = 0 <= d < ID and 0 <= h < IH and 0 <= w < IW
                source = n * image + ((d * IH + h) * IW + w) * cell
                for c in range(C):
                    scratch[at + c * KD * KH * KW] = x[source + c * channel] if inside else scratch.dtype.type(0)


@kernel
def forward(thread, counter, tasks, geometry, x, weight, bias, scratch, out):  # type: ignore[no-untyped-def]
    """A task is an output position of all images."""
    (
        N, C, OC, _, _, _, _, _, _, KD, KH, KW, _, _, _, _, _, _, _, _, _, _, _, _, image, channel, cell, per_thread, _,
    ) = unpack(geometry, 29)  # fmt: skip
    K, patches = C * KD * KH * KW, thread * per_thread
    while True:
        position = claim(counter)
        if position >= tasks:
            break
        for n in range(0, N, IMAGES):
            images = min(IMAGES, N - n)
            for i in range(images):
                _gather(geometry, x, n + i, position, scratch, patches + i * K)
            for oc in range(OC):
                row = position * OC + oc
                start = bias[row] if bias.size else bias.dtype.type(0)
                for i in range(images):
                    value = start + _dot(K, 1, 0, weight, row * K, scratch, patches + i * K)[0]
                    out[(n + i) * image + oc * channel + position * cell] = value


@kernel
def weight_gradient(thread, counter, tasks, geometry, x, gradient, scratch, out):  # type: ignore[no-untyped-def]
    """out[position, oc] = sum over images of g[n, oc, position] * patch."""
    (
        N, C, OC, _, _, _, _, _, _, KD, KH, KW, _, _, _, _, _, _, _, _, _, _, _, _, image, channel, cell, per_thread, _,
    ) = unpack(geometry, 29)  # fmt: skip
    K, patches = C * KD * KH * KW, thread * per_thread
    while True:
        position = claim(counter)
        if position >= tasks:
            break
        fill_row(out, position * OC * K, OC * K)
        for n in range(0, N, IMAGES):
            images = min(IMAGES, N - n)
            for i in range(images):
                _gather(geometry, x, n + i, position, scratch, patches + i * K)
            for oc in range(OC):
                row = (position * OC + oc) * K
                for i in range(images):
                    g = gradient[(n + i) * image + oc * channel + position * cell]
                    _add_scaled(K, out, row, out, row, scratch, patches + i * K, g)


@kernel
def input_gradient(thread, counter, tasks, geometry, gradient, weight, scratch, out):  # type: ignore[no-untyped-def]
    """A task is some channels of some images of the (zeroed) gradient of x, position by position."""
    (
        N, C, OC, ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, pd, ph, pw, x_image, x_channel, x_cell,
        image, channel, cell, per_thread, block,
    ) = unpack(geometry, 29)  # fmt: skip
    taps, patch = KD * KH * KW, thread * per_thread
    K, parts = C * taps, (C + block - 1) // block
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        batch, part = divmod(task, parts)
        c0, channels = part * block, min(block, C - part * block)
        for position in range(OD * OH * OW):
            rest, ow = divmod(position, OW)
            od, oh = divmod(rest, OH)
            for n in range(batch * IMAGES, min(N, batch * IMAGES + IMAGES)):
                fill_row(scratch, patch, channels * taps)
                for oc in range(OC):
                    g = gradient[n * image + oc * channel + position * cell]
                    row = (position * OC + oc) * K + c0 * taps
                    _add_scaled(channels * taps, scratch, patch, scratch, patch, weight, row, g)
                for kd in range(KD):
                    d = od * sd + kd * dd - pd
                    for kh in range(KH):
                        h = oh * sh + kh * dh - ph
                        for kw in range(KW):
                            w = ow * sw + kw * dw - pw
                            if not (0 <= d < ID and 0 <= h < IH and 0 <= w < IW):
                                continue
                            at = n * x_image + c0 * x_channel + ((d * IH + h) * IW + w) * x_cell
                            tap = patch + (kd * KH + kh) * KW + kw
                            for c in range(channels):
                                out[at + c * x_channel] += scratch[tap + c * taps]
