"""Plain loops: the oracle every other algorithm is compared with.

    out[n, o, i] = sum over c, k of w[o, c, k] * x[n, c, i * stride + k * dilation - padding]

What lies outside x is a value like any other (zero with padding_mode "zeros"): an infinite or NaN weight on top of
it gives NaN, as it does when x is padded in memory. Sums of floats are accumulated in float64, those of integers in
int64, and what each addition loses is added at the end (Knuth's TwoSum), so that float64 has an oracle too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from fastconv.cpu import threads as pool
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.simd import claim
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue, bias_of, store_row
from fastconv.spec import PADDING_MODES, ConvSpec

NAME = "reference"
ACCURACY = "exact"
ERROR_BOUND = 2.5  # in float64 each product and the sum are rounded once; float32 only rounds the sum
NOTE = "plain loops, compensated sums in float64"

_REFLECT, _REPLICATE, _CIRCULAR = (PADDING_MODES.index(mode) for mode in ("reflect", "replicate", "circular"))


@dataclass(frozen=True)
class Params:
    """Sizes and memory steps of both arrays, in the order the kernel unpacks them."""

    threads: int
    workspace: int
    geometry: np.ndarray = field(repr=False, compare=False)


def refuses(spec: ConvSpec) -> str | None:
    return None


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    geometry = [
        *(spec.OC, spec.C // spec.groups, spec.OC // spec.groups),
        *spec.input3,
        *spec.output3,
        *spec.kernel3,
        *spec.stride3,
        *spec.dilation3,
        *(lo for lo, _ in spec.padding3),
        PADDING_MODES.index(spec.padding_mode),
        *_steps(spec.C, spec.input3, spec.channels_last),
        *_steps(spec.OC, spec.output3, spec.channels_last),
    ]
    return Params(threads, 0, np.array(geometry, np.int64))


def _steps(channels: int, size: tuple[int, int, int], channels_last: bool) -> tuple[int, int, int, int, int]:
    """Elements from one image, channel, plane, row and cell to the next."""
    d, h, w = size
    if channels_last:
        return channels * d * h * w, 1, h * w * channels, w * channels, channels
    return channels * d * h * w, d * h * w, h * w, w, 1


def cost(spec: ConvSpec, params: Params) -> Cost:
    tasks = spec.N * spec.OC * spec.output3[0] * spec.output3[1]
    return Cost(spec.flops, spec.moved_bytes, 0, tasks)


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """The weight in the dtype of the sums, turned round for a true convolution."""
    if spec.flip:
        weight = np.flip(weight, tuple(range(2, weight.ndim)))
    return np.ascontiguousarray(weight, np.float64 if weight.dtype.kind == "f" else np.int64).reshape(-1)


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    tasks = spec.N * spec.OC * prod(spec.output3[:2])
    arrays = (params.geometry, x, packed, out, epilogue.bias, epilogue.residual, epilogue.constants)
    pool.run(_rows, tasks, arrays, params.threads)


@inline
def _inside(position, size, mode):
    """Index of the cell that stands at `position`, which may be outside; -1 for a zero."""
    if 0 <= position < size:
        return position
    if mode == _REFLECT:
        return -position if position < 0 else 2 * (size - 1) - position
    if mode == _REPLICATE:
        return 0 if position < 0 else size - 1
    if mode == _CIRCULAR:
        return position % size
    return -1


@kernel
def _rows(thread, counter, tasks, geometry, x, w, out, bias, residual, constants):
    """A task is one row of one output channel."""
    OC, IC, OCG = geometry[0], geometry[1], geometry[2]
    ID, IH, IW = geometry[3], geometry[4], geometry[5]
    OD, OH, OW = geometry[6], geometry[7], geometry[8]
    KD, KH, KW = geometry[9], geometry[10], geometry[11]
    SD, SH, SW = geometry[12], geometry[13], geometry[14]
    DD, DH, DW = geometry[15], geometry[16], geometry[17]
    PD, PH, PW = geometry[18], geometry[19], geometry[20]
    mode = geometry[21]
    xn, xc, xd, xh, xw = geometry[22], geometry[23], geometry[24], geometry[25], geometry[26]
    on, oc, od, oh, ow = geometry[27], geometry[28], geometry[29], geometry[30], geometry[31]
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        row = task % OH
        plane = task // OH % OD
        channel = task // (OH * OD) % OC
        image = task // (OH * OD * OC)
        first = image * xn + channel // OCG * IC * xc
        for column in range(OW):
            total = w.dtype.type(0)
            lost = w.dtype.type(0)
            tap = channel * IC * KD * KH * KW
            for c in range(IC):
                for kd in range(KD):
                    d = _inside(plane * SD + kd * DD - PD, ID, mode)
                    for kh in range(KH):
                        h = _inside(row * SH + kh * DH - PH, IH, mode)
                        for kw in range(KW):
                            v = _inside(column * SW + kw * DW - PW, IW, mode)
                            value = w.dtype.type(0)
                            if d >= 0 and h >= 0 and v >= 0:
                                value += x[first + c * xc + d * xd + h * xh + v * xw]
                            product = w[tap] * value
                            before = total
                            total += product
                            added = total - before
                            lost += (before - (total - added)) + (product - added)
                            tap += 1
            if total - total == 0:  # finite: in an infinite sum, what was lost is NaN
                total += lost
            target = image * on + channel * oc + plane * od + row * oh + column * ow
            out[target] = total
            store_row(out, target, out, target, 1, bias_of(bias, channel), residual, constants)
