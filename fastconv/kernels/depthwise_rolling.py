"""Depthwise convolution by 3x3 kernels, which most networks use, on `cpu/rolling.py`: lanes are pixels.

Nothing is packed. A call of the inner kernel covers some planes that lie in L1 together, or a band of rows of a larger
one, and brings the next plane or band into L1 on the way.
"""

from __future__ import annotations

import numpy as np

from fastconv.cpu import isa
from fastconv.cpu.jit import kernel
from fastconv.cpu.rolling import SIZE, STRIDES, roll
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.epilogue import FURTHER, HIGHEST, LOWEST, activate
from fastconv.spec import ConvSpec

#: Bytes of input of one call. With its outputs, and the same again that is fetched meanwhile, half of L1 at most.
BAND = 8 << 10

TAPS = SIZE * SIZE


def accepts(spec: ConvSpec) -> bool:
    """Whether kernel, stride and padding are of the kind that is compiled."""
    return (
        spec.kernel3 == (1, SIZE, SIZE)
        and spec.padding3[0] == (0, 0)
        and spec.dilation3[1:] == (1, 1)
        and set(spec.stride3[1:]) <= set(STRIDES)
        and spec.padding_mode == "zeros"
        and not spec.channels_last
        and isa.name() != "baseline"  # no masked loads
    )


def cycles(spec: ConvSpec) -> float:
    """Of one output plane: multiply-adds and what a row costs besides."""
    columns = -(-spec.output3[2] * spec.stride3[2] // isa.width(spec.dtype))
    return columns * spec.output3[1] * (spec.K / 2 + 4.0) + 40


def lanes_inside(spec: ConvSpec, last: int = 1 << 62) -> tuple[int, np.ndarray]:
    """Columns of a row, the last beginning at cell `last`, and lanes inside the image for each (column, tap).

    A strided convolution computes the sums between its outputs too.
    """
    W = isa.width(spec.dtype)
    start = np.minimum(np.arange(-(-spec.output3[2] * spec.stride3[2] // W)) * W, last)
    cell = start[:, None, None] + np.arange(SIZE)[:, None] + np.arange(W) - spec.padding3[2][0]
    inside = (cell >= 0) & (cell < spec.input3[2])
    return len(start), (inside << np.arange(W)).sum(axis=2).astype(np.int64).reshape(-1)


def tables(spec: ConvSpec, group: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Geometry and tables of `planes`, for tasks of `group` channels and `rows` output rows."""
    (ID, IH, IW), (OD, OH, OW), M = spec.input3, spec.output3, spec.OC // spec.C
    sd, sh, sw = spec.stride3
    cells, W, pw, size = OW * sw, isa.width(spec.dtype), spec.padding3[2][0], spec.itemsize
    columns, masks = lanes_inside(spec, max(cells - W, 0))
    together = max(1, min(group, BAND // (IH * IW * size))) if M == 1 else 1
    band = rows if IH * IW * size <= BAND else max(4, min(rows, BAND // (sh * IW * size)))
    geometry = [
        spec.C, M, ID, IH, IW, OD, OH, OW, sd, sh, sw, spec.padding3[1][0], pw, spec.flip, group, rows, together,
        band, columns, max(cells - W, 0),
    ]  # fmt: skip
    return np.array(geometry, np.int64), masks


@kernel
def rolling(thread, counter, tasks, geometry, tables, x, weight, bias, zeros, residual, constants, out):  # type: ignore[no-untyped-def]
    """A task is some channels of an image, or some rows of a large plane."""
    (
        C, M, ID, IH, IW, OD, OH, OW, sd, sh, sw, ph, pw, flip, group, rows, together, band, columns, last,
    ) = unpack(geometry, 20)  # fmt: skip
    x_plane, o_plane = ID * IH * IW, OD * OH * OW
    groups, parts = (C + group - 1) // group, (OH + rows - 1) // rows
    first_tap, w_tap = (TAPS - 1, -1) if flip else (0, 1)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, part = divmod(task, parts)
        rest, block = divmod(rest, groups)
        n, od = divmod(rest, OD)
        stop = min(C, block * group + group)
        for g in range(block * group, stop, together):  # 1. channels
            count = min(together, stop - g)
            for oc in range(g * M, g * M + M):  # 2. outputs of this channel
                for oh in range(part * rows, min(OH, part * rows + rows), band):  # 3. bands
                    height, row = min(band, min(OH, part * rows + rows) - oh), oh * sh - ph
                    s0 = (((n * C + g) * ID + od * sd) * IH + row) * IW - pw
                    d0 = (((n * C * M + oc) * OD + od) * OH + oh) * OW
                    ahead, d_ahead = (x_plane, o_plane) if height == OH else (height * sh * IW, height * OW)
                    roll(
                        sh, sw, x, s0, IW, row, IH, out, d0, OW, height, columns, last, OW,
                        weight, oc * TAPS + first_tap, w_tap, bias, oc, tables, 0, zeros, -pw,
                        count, x_plane, o_plane, ahead, d_ahead,
                        residual, d0, residual.size > 0, constants[LOWEST], constants[HIGHEST],
                    )  # fmt: skip
                    if constants[FURTHER]:
                        for i in range(count):
                            activate(out, d0 + i * o_plane, height * OW, constants)
