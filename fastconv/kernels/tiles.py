"""Tiles of a convolution computed in a transform domain: cut -> transform -> product -> inverse -> store.

The output is covered by tiles of `out` outputs (per axis); each needs `extent` cells of padded input, and neighbours
overlap by the kernel's reach ("overlap-save"). This module knows where tiles lie, cuts their input without ever padding
the whole array, stores their output through the epilogue, and computes one tile directly when a transform cannot:
a transform spreads a NaN, an infinity or a huge value over its whole tile, the direct sum does not.

`line` geometry serves long signals: one axis of TH * TW cells, seen as TH rows of TW.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.simd import claim, transpose_block, vector_width
from fastconv.kernels.epilogue import bias_of, store_channels, store_row
from fastconv.kernels.pack import pack_row, pack_rows_last, padded_sources
from fastconv.spec import ConvSpec

# The integers of a tiled convolution, by place in `geometry`. C and OC are per group; T*: cells of a tile; U*: outputs
# of a tile; N*: tiles; S*: stride; P*: low padding; K*: kernel; D*: dilation; AT_*: tables of source cells.
(
    LAST, LINE, FLIP, ZEROS, N, C, OC, G, ID, IH, IW, OD, OH, OW, SD, SH, SW, PD, PH, PW, KD, KH, KW, DD, DH, DW,
    TD, TH, TW, UD, UH, UW, ND, NH, NW, AT_D, AT_H, AT_W, AT_END, PITCH, BLOCK, FIELDS,
) = range(42)  # fmt: skip


@dataclass(frozen=True)
class TileGrid:
    """How a spec is cut: cells and outputs of a tile and number of tiles along each axis."""

    line: bool
    extent: tuple[int, int, int]
    out: tuple[int, int, int]
    tiles: tuple[int, int, int]

    @property
    def count(self) -> int:
        """Tiles of one image."""
        return self.tiles[0] * self.tiles[1] * self.tiles[2]


def outputs_of_tile(spec: ConvSpec, axis: int, extent: int) -> int:
    """Outputs along one axis that a cyclic tile of `extent` cells yields; 0 if the kernel does not fit.

    Overlap-save loses kernel - 1 of them to wrapping round. Zero padding may wrap: a tile that holds the whole input
    and the longer padding loses none, for the wrapped cells are the zeros of the other end.
    """
    kernel = (spec.kernel3[axis] - 1) * spec.dilation3[axis] + 1
    size, (lo, hi), stride = spec.input3[axis], spec.padding3[axis], spec.stride3[axis]
    dense = lo + size + hi - kernel + 1
    if spec.padding_mode == "zeros" and extent >= max(size + max(lo, hi), dense, kernel):
        return spec.output3[axis]
    return min((extent - kernel) // stride + 1, spec.output3[axis]) if extent >= kernel else 0


def geometry(spec: ConvSpec, grid: TileGrid, pitch: int, block: int) -> tuple[list[int], list[np.ndarray]]:
    """The `FIELDS` integers, and the tables of source cells that they point into.

    pitch: elements between rows of a tile; block: channels staged together.
    """
    tables = [
        padded_sources(size, lo, hi, spec.padding_mode)
        for size, (lo, hi) in zip(spec.input3, spec.padding3, strict=True)
    ]
    starts = [0, *(int(s) for s in np.cumsum([len(t) for t in tables]))]
    values = [
        spec.channels_last, grid.line, spec.flip, spec.padding_mode == "zeros",
        spec.N, spec.C // spec.groups, spec.OC // spec.groups, spec.groups,
        *spec.input3, *spec.output3, *spec.stride3, *(lo for lo, _ in spec.padding3), *spec.kernel3, *spec.dilation3,
        *grid.extent, *grid.out, *grid.tiles, *starts, pitch, block,
    ]  # fmt: skip
    return [int(v) for v in values], tables


@inline
def tile_place(g, tile):  # type: ignore[no-untyped-def]
    """First output (d, h, w) of a tile, and how many outputs it really has."""
    w = tile % g[NW] * g[UW]
    h = tile // g[NW] % g[NH] * g[UH]
    d = tile // (g[NW] * g[NH]) * g[UD]
    return d, h, w, min(g[UD], g[OD] - d), min(g[UH], g[OH] - h), min(g[UW], g[OW] - w)


@inline
def row_source(g, tables, n, channel, d, h):  # type: ignore[no-untyped-def]
    """Where row (d, h) of the padded input begins in x, -1 if it is zeros."""
    if d >= g[AT_H] - g[AT_D] or h >= g[AT_W] - g[AT_H]:
        return -1
    from_d, from_h = tables[g[AT_D] + d], tables[g[AT_H] + h]
    if from_d < 0 or from_h < 0:
        return -1
    if g[LAST]:
        return (((n * g[ID] + from_d) * g[IH] + from_h) * g[IW]) * (g[C] * g[G]) + channel
    return (((n * (g[C] * g[G]) + channel) * g[ID] + from_d) * g[IH] + from_h) * g[IW]


@inline
def padded_row(g, tables, x, x0, first, extent, dst, d0):  # type: ignore[no-untyped-def]
    """dst[d0 + e] = cell first + e of the padded row that begins at x0 (see `row_source`), for e < extent."""
    step = g[C] * g[G] if g[LAST] else 1
    pack_row(x, x0, step, tables, g[AT_W], g[AT_END] - g[AT_W], g[PW], g[IW], first, 1, extent, dst, d0)


@inline
def stage_channels(g, tables, x, n, channel, channels, d0, h0, w0, dst, at):  # type: ignore[no-untyped-def]
    """Cut a tile of channels-last input: dst[at + ((c*TD + d)*TH + h)*PITCH + w], padding resolved.

    (d0, h0, w0) is the tile's first padded cell. Channels come out apart, so that transforms see one after another.
    """
    rows, pitch, width = g[TD] * g[TH], g[PITCH], g[TW]
    for r in range(rows):
        if g[LINE]:
            x0, first = row_source(g, tables, n, channel, 0, 0), w0 + r * width
        else:
            x0, first = row_source(g, tables, n, channel, d0 + r // g[TH], h0 + r % g[TH]), w0
        row = at + r * pitch
        if x0 >= 0:
            pack_rows_last(
                x, x0, g[C] * g[G], channels, tables, g[AT_W], g[AT_END] - g[AT_W], g[PW], g[IW], first, 1, width,
                dst, row, rows * pitch,
            )  # fmt: skip
        for c in range(channels):
            for k in range(0 if x0 < 0 else width, pitch):
                dst[row + c * rows * pitch + k] = dst.dtype.type(0)


@inline
def _thin_out(g, width, src, row):  # type: ignore[no-untyped-def]
    """Keep the outputs of a row that the stride asks for, side by side."""
    if g[SW] > 1:
        for j in range(width):
            src[row + j] = src[row + j * g[SW]]


@inline
def store_tile(g, tile, n, oc, src, s0, bias, residual, constants, out):  # type: ignore[no-untyped-def]
    """Store a tile of finished output channel `oc`; output (d, h, w) is src[s0 + (d*SD*TH + h*SH)*PITCH + w*SW]."""
    d0, h0, w0, depth, height, width = tile_place(g, tile)
    value = bias_of(bias, oc)
    for r in range(depth * height):
        d, h = r // height, r % height
        row = s0 + (d * g[SD] * g[TH] + h * g[SH]) * g[PITCH]
        _thin_out(g, width, src, row)
        o0 = (((n * g[OC] * g[G] + oc) * g[OD] + d0 + d) * g[OH] + h0 + h) * g[OW] + w0
        store_row(src, row, out, o0, width, value, residual, constants)


@inline
def store_tile_last(  # type: ignore[no-untyped-def]
    g, tile, n, oc, channels, src, s0, s_channel, turned, bias, residual, constants, out
):
    """The same for `channels` channels from `oc` on, s_channel apart, of a channels-last output.

    turned: a place in src for one square block of vectors; whole vectors of channels must be readable.
    """
    d0, h0, w0, depth, height, width = tile_place(g, tile)
    OC_all, W = g[OC] * g[G], vector_width(src)
    for r in range(depth * height):
        d, h = r // height, r % height
        row = s0 + (d * g[SD] * g[TH] + h * g[SH]) * g[PITCH]
        for c in range(channels):
            _thin_out(g, width, src, row + c * s_channel)
        o0 = (((n * g[OD] + d0 + d) * g[OH] + h0 + h) * g[OW] + w0) * OC_all + oc
        for j in range(0, width, W):
            if channels > 1:
                transpose_block(src, row + j, s_channel, src, turned, W)
            else:
                for k in range(W):
                    src[turned + k * W] = src[row + j + k]
            for k in range(min(W, width - j)):
                place = o0 + (j + k) * OC_all
                store_channels(src, turned + k * W, out, place, channels, bias, oc, residual, constants)


@inline
def direct_tile(g, tables, x, weight, a0, n, tile, oc, row_at, dst, at):  # type: ignore[no-untyped-def]
    """One tile of output channel `oc` as a plain sum, where `store_tile` expects it.

    weight[a0:] are all weights as the caller gave them; row_at: room for one padded row in dst.
    """
    d0, h0, w0, depth, height, width = tile_place(g, tile)
    taps, channel = g[KD] * g[KH] * g[KW], oc // g[OC] * g[C]
    extent = (width - 1) * g[SW] + (g[KW] - 1) * g[DW] + 1
    for d in range(depth):
        for h in range(height):
            row = at + (d * g[SD] * g[TH] + h * g[SH]) * g[PITCH]
            for j in range(width):
                dst[row + j * g[SW]] = dst.dtype.type(0)
            for c in range(g[C]):
                for k in range(g[KD] * g[KH]):
                    kd, kh = k // g[KH], k % g[KH]
                    at_d, at_h = (d0 + d) * g[SD] + kd * g[DD], (h0 + h) * g[SH] + kh * g[DH]
                    x0 = row_source(g, tables, n, channel + c, at_d, at_h)
                    if x0 >= 0:
                        padded_row(g, tables, x, x0, w0 * g[SW], extent, dst, row_at)
                    else:
                        for e in range(extent):
                            dst[row_at + e] = dst.dtype.type(0)
                    first = a0 + (oc * g[C] + c) * taps
                    for kw in range(g[KW]):
                        tap = k * g[KW] + kw
                        a = weight[first + (taps - 1 - tap if g[FLIP] else tap)]
                        for j in range(width):
                            dst[row + j * g[SW]] += a * dst[row_at + j * g[SW] + kw * g[DW]]


#: Places that `recompute` works in: where the first thread's memory begins, its size, and in it: a padded row, the
#: finished tile, a block of vectors; and where the weights as the caller gave them lie among the packed ones.
START, OWN, AT_ROW, AT_OUT, AT_TURN, AT_WEIGHTS = range(6)


@kernel
def recompute(  # type: ignore[no-untyped-def]
    thread, counter, tasks, g, places, todo, tables, x, packed, bias, residual, epilogue, out, S
):
    """Compute tiles directly: task t is tile todo[2t] (of all images) of output channel todo[2t + 1]."""
    m = places[START] + thread * places[OWN]
    count, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        item, oc = todo[2 * task], todo[2 * task + 1]
        n, tile = item // count, item % count
        at = m + places[AT_OUT]
        direct_tile(g, tables, x, packed, places[AT_WEIGHTS], n, tile, oc, m + places[AT_ROW], S, at)
        if g[LAST]:
            store_tile_last(g, tile, n, oc, 1, S, at, rows, m + places[AT_TURN], bias, residual, epilogue, out)
        else:
            store_tile(g, tile, n, oc, S, at, bias, residual, epilogue, out)
