"""Depthwise convolution of channels-last arrays: lanes are channels, windows roll along the pixels of a row.

Nothing is packed but the weights, to [tap][channel]. Taps outside the image are left out: rows by the range of taps
across, cells at the two ends of a row by a list of chunks for each such pixel. (Non-finite weights, which make NaN of
a padded zero, take the other way: see `depthwise.run`.)
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd

import numpy as np

from fastconv.cpu import isa
from fastconv.cpu.jit import kernel
from fastconv.cpu.rows import add_rows, copy_row
from fastconv.cpu.simd import claim, extremes, unpack
from fastconv.cpu.window import CHUNK, PIXEL_FORMS, VECTORS, best_heights, cut, window
from fastconv.kernels.epilogue import FURTHER, HIGHEST, LOWEST, activate
from fastconv.spec import ConvSpec

MOST_ACROSS = 128  # taps across that a chunk may add up in one go


def accepts(spec: ConvSpec) -> bool:
    """Whether lanes can be channels."""
    return (
        spec.channels_last
        and spec.OC == spec.C >= isa.width(spec.dtype)
        and (spec.padding_mode == "zeros" or not any(map(any, spec.padding3)))
        and spec.kernel3[1] <= MOST_ACROSS
    )


def _inside(size: int, lo: int, taps: int, dilation: int, stride: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """For each output the range of taps that lie in the image."""
    start = np.arange(outputs) * stride - lo
    first = np.clip(-(start // dilation), 0, taps)
    last = np.clip(-((start - size) // dilation), first, taps)
    return first, last


def _runs(begin: int, end: int, step: int, pitch: int, C: int, most: int) -> list[list[int]]:
    """Chunks of the taps begin, begin + step, ... below end."""
    taps = range(begin, end, step)
    parts = -(-len(taps) // most)
    bounds = [len(taps) * part // parts for part in range(parts + 1)] if parts else []
    return [[taps[a] * pitch, b - a, taps[a] * C, 0, 0, 0] for a, b in pairwise(bounds)]


def tables(spec: ConvSpec, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Geometry and tables of `pixels`, for tasks of `rows` output rows."""
    C = spec.C
    (ID, IH, IW), (OD, OH, OW), (KD, KH, KW) = spec.input3, spec.output3, spec.kernel3
    (sd, sh, sw), (dd, dh, dw) = spec.stride3, spec.dilation3
    (pd, _), (ph, _), (pw, _) = spec.padding3
    first, last = _inside(IW, pw, KW, dw, sw, OW)
    whole = np.flatnonzero((first == 0) & (last == KW))
    left, right = (int(whole[0]), int(whole[-1]) + 1) if len(whole) else (OW, OW)
    # Inside a row neighbouring taps of one stride phase share loads if they are one window step apart.
    step = sw // gcd(sw, dw)
    most = cut(KW, KH, whole=True)[0] if dw == gcd(sw, dw) else 1
    chunks = [run for phase in range(min(step, KW)) for run in _runs(phase, KW, step, dw * C, C, most)]
    ends = []  # (first chunk, chunks) of every pixel at an end of a row
    for ow in [*range(left), *range(right, OW)]:
        runs = _runs(int(first[ow]), int(last[ow]), 1, dw * C, C, cut(KW, KH, whole=True)[0])
        ends += [len(chunks), len(runs)]
        chunks += runs
    inner = len(chunks) - sum(ends[1::2])
    sections = [
        np.array(chunks, np.int64).reshape(-1),
        np.array(ends, np.int64),
        *_inside(ID, pd, KD, dd, sd, OD),
        *_inside(IH, ph, KH, dh, sh, OH),
        np.arange(KH, dtype=np.int64) * dh * IW * C,
        np.array(best_heights(max(right - left, 1)), np.int64),
    ]
    starts = np.cumsum([0, *(len(s) for s in sections)])
    geometry = np.array(
        [
            C, ID, IH, IW, OD, OH, OW, KH, KW, sd, sh, sw, dd, dw, pd, ph, pw, rows, left, right, inner, step,
            *starts[:8],
        ],
        np.int64,
    )  # fmt: skip
    return geometry, np.concatenate(sections)


@kernel
def pixels(thread, counter, tasks, geometry, tables, x, weight, bias, no_bias, residual, constants, out):  # type: ignore[no-untyped-def]
    """A task is some rows of all channels of an image."""
    (
        C, ID, IH, IW, OD, OH, OW, KH, KW, sd, sh, sw, dd, dw, pd, ph, pw, rows, left, right, inner, step,
        chunks_at, ends_at, d_first_at, d_last_at, first_at, last_at, taps_at, heights_at,
    ) = unpack(geometry, 30)  # fmt: skip
    W = no_bias.size - C  # it is as long as the channels and one vector
    columns = (C + W - 1) // W
    parts = (OH + rows - 1) // rows
    tall = tables[heights_at + max(right - left, 1)]
    blocks = (right - left) // tall
    lowest, highest = extremes(out)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, part = divmod(task, parts)
        n, od = divmod(rest, OD)
        for oh in range(part * rows, min(OH, part * rows + rows)):
            row_out = ((n * OD + od) * OH + oh) * OW * C
            first, last = tables[first_at + oh], tables[last_at + oh]
            d_first, d_last = tables[d_first_at + od], tables[d_last_at + od]
            terms = (last - first) * (d_last - d_first)
            # 1. pixels: those at the ends one by one, inside as blocks and a last one that overlaps
            for item in range(left + 2 + OW - right):
                if item < left or item >= left + 2:
                    end = item if item < left else item - 2
                    ow, rb, count = end if end < left else end - left + right, 1, 1
                    chunk, number = tables[ends_at + 2 * end], tables[ends_at + 2 * end + 1]
                    pitch, along = dw * C, C
                else:
                    ow, rb, count = left, tall, blocks
                    if item > left:
                        ow, count = right - tall, 1 if blocks * tall < right - left else 0
                    chunk, number, pitch, along = 0, inner, sw * C, step * C
                if count == 0:
                    continue
                target = row_out + ow * C
                if terms * number == 0:
                    for at in range(target, target + rb * count * C, C):
                        if residual.size:
                            add_rows(bias, 0, residual, at, out, at, C)
                        else:
                            copy_row(bias, 0, out, at, C)
                        if constants[0] != 0 and not constants[FURTHER]:
                            activate(out, at, C, constants)
                    continue
                # Sums in parts must not meet the last vector of channels, which overlaps the one before.
                wide = columns if d_last - d_first == 1 else 1
                for j in range(0, columns, wide):  # 2. vectors of channels
                    for kd in range(d_first, d_last):  # 3. planes of the kernel
                        at_d = od * sd + kd * dd - pd
                        source = ((n * ID + at_d) * IH + oh * sh - ph) * IW * C + (ow * sw - pw) * C
                        added, low, high = bias, constants[LOWEST], constants[HIGHEST]
                        adds, with_residual = kd > d_first, residual.size > 0
                        if kd + 1 < d_last:  # not finished
                            added, low, high, with_residual = no_bias, lowest, highest, False
                        window(
                            PIXEL_FORMS, VECTORS, rb, x, source, pitch, out, target, C, j, j + wide, C - W, W, weight,
                            (kd * KH + first) * KW * C, along, KW * C, added, 0, tables, chunks_at + chunk * CHUNK,
                            number, taps_at + first, last - first, 0, 0, 0, no_bias, 0, adds,
                            count, rb * sw * C, rb * C, 0, 0,
                            residual, target, with_residual, low, high,
                        )  # fmt: skip
            if constants[FURTHER]:
                activate(out, row_out, OW * C, constants)
