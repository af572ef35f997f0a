"""Cutting padded input tiles: the only place where padding, stride phases and memory order meet.

Along one axis, output o and tap k read the padded coordinate  o*stride + k*dilation. Written as
stride * (o + q) + phase  with  k*dilation = stride*q + phase, a strided convolution is a stride-1 convolution over
`phase` sub-images: the tile holds one plane for each phase that some tap uses, and o + q is the place in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastconv.cpu.jit import inline
from fastconv.cpu.rows import copy_every_second, copy_row, fill_row
from fastconv.cpu.simd import transpose_block, vector_width
from fastconv.spec import ConvSpec


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a tiled convolution.

    sources : for each padded coordinate the input coordinate it shows, or -1 for a zero.
    phases : the stride phases that taps use, ascending.
    taps : for each tap (index of its phase, q).
    halo : cells a tile needs beyond its outputs.
    """

    sources: np.ndarray
    phases: tuple[int, ...]
    taps: tuple[tuple[int, int], ...]
    halo: int


def padded_sources(size: int, lo: int, hi: int, mode: str) -> np.ndarray:
    """Input coordinate of every padded coordinate, -1 where a zero is read (numpy.pad's modes)."""
    at = np.arange(-lo, size + hi, dtype=np.int64)
    if mode == "zeros":
        return np.where((at >= 0) & (at < size), at, -1)
    if mode == "replicate":
        return np.clip(at, 0, size - 1)
    if mode == "circular":
        return at % size
    period = max(2 * (size - 1), 1)  # reflect: the edge cell is not repeated
    at = np.abs(at) % period
    return np.minimum(at, period - at) if size > 1 else np.zeros_like(at)


def axis(spec: ConvSpec, index: int) -> Axis:
    """The tiling description of axis `index` of the spec's three."""
    stride, dilation, kernel = spec.stride3[index], spec.dilation3[index], spec.kernel3[index]
    lo, hi = spec.padding3[index]
    places = [divmod(k * dilation, stride) for k in range(kernel)]
    phases = tuple(sorted({phase for _, phase in places}))
    taps = tuple((phases.index(phase), q) for q, phase in places)
    if spec.flip:
        taps = taps[::-1]
    sources = padded_sources(spec.input3[index], lo, hi, spec.padding_mode)
    return Axis(sources, phases, taps, max(q for q, _ in places))


@inline
def _edge(x, x0, step, sources, s0, count, first, stride, begin, end, dst, d0):  # type: ignore[no-untyped-def]
    """Cells begin..end-1 of a row that lie in the padding: looked up one by one."""
    for e in range(begin, end):
        at = first + e * stride
        source = sources[s0 + at] if at < count else -1
        dst[d0 + e] = x[x0 + source * step] if source >= 0 else dst.dtype.type(0)


@inline
def interior(first, stride, lo, size, extent):  # type: ignore[no-untyped-def]
    """The cells e in [begin, end) of a row whose padded coordinate first + e*stride is inside the input."""
    begin = min(max((lo - first + stride - 1) // stride, 0), extent)
    end = min(max((lo + size - first + stride - 1) // stride, begin), extent)
    return begin, end


@inline
def pack_row(x, x0, step, sources, s0, count, lo, size, first, stride, extent, dst, d0):  # type: ignore[no-untyped-def]
    """dst[d0 + e] = padded row at first + e*stride, for e < extent. Input cell i of the row is x[x0 + i*step]."""
    begin, end = interior(first, stride, lo, size, extent)
    _edge(x, x0, step, sources, s0, count, first, stride, 0, begin, dst, d0)
    start, stride_x = x0 + (first - lo) * step, stride * step
    if stride_x == 1:
        copy_row(x, start + begin, dst, d0 + begin, end - begin)
    elif stride_x == 2:
        copy_every_second(x, start + 2 * begin, dst, d0 + begin, end - begin)
    else:
        for e in range(begin, end):
            dst[d0 + e] = x[start + e * stride_x]
    _edge(x, x0, step, sources, s0, count, first, stride, end, extent, dst, d0)


@inline
def pack_rows_last(  # type: ignore[no-untyped-def]
    x, x0, C, channels, sources, s0, count, lo, size, first, stride, extent, dst, d0, pitch
):
    """The same for `channels` channels of a channels-last row: dst[d0 + c*pitch + e], by in-register transposes."""
    W = vector_width(x)
    begin, end = interior(first, stride, lo, size, extent)
    start, step = x0 + (first - lo) * C, stride * C
    whole_e, whole_c = begin + (end - begin) // W * W, channels // W * W
    for e in range(begin, whole_e, W):
        for c in range(0, whole_c, W):
            transpose_block(x, start + e * step + c, step, dst, d0 + c * pitch + e, pitch)
        for c in range(whole_c, channels):
            for i in range(e, e + W):
                dst[d0 + c * pitch + i] = x[start + i * step + c]
    for e in range(whole_e, end):
        for c in range(channels):
            dst[d0 + c * pitch + e] = x[start + e * step + c]
    for c in range(channels):
        _edge(x, x0 + c, C, sources, s0, count, first, stride, 0, begin, dst, d0 + c * pitch)
        _edge(x, x0 + c, C, sources, s0, count, first, stride, end, extent, dst, d0 + c * pitch)


@inline
def pack_lanes(src, s0, step, lanes, count, dst, d0, row, scratch, corner):  # type: ignore[no-untyped-def]
    """dst[d0 + p*row + lane] = src[s0 + lane*step + p], p < count; zero in lanes of a vector from `lanes` on.

    Up to a vector of rows behind the last are written too.
    """
    W = vector_width(dst)
    whole = count // W * W if lanes == W else 0
    for p in range(0, whole, W):
        transpose_block(src, s0 + p, step, dst, d0 + p * row, row)
    if lanes == W and whole and whole < count:  # the last vector of pixels overlaps the one before
        transpose_block(src, s0 + count - W, step, dst, d0 + (count - W) * row, row)
        return
    for p in range(whole, count, W):
        for lane in range(W):
            if lane < lanes:
                copy_row(src, s0 + lane * step + p, scratch, corner + lane * W, min(W, count - p))
            else:
                fill_row(scratch, corner + lane * W, W)
        transpose_block(scratch, corner, W, dst, d0 + p * row, row)
