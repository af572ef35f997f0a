"""The padded input under a tile of output pixels, planar: [channel][phase][row of d][row of h][column].

A strided convolution sees a stride-1 convolution over phase planes (`kernels/pack.py`): in the tile every tap is a
shift, whatever stride, dilation, padding mode and memory order the problem has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastconv.cpu import isa
from fastconv.cpu.jit import inline
from fastconv.cpu.rows import copy_rows, copy_rows_by_two, fill_row
from fastconv.cpu.simd import unpack
from fastconv.kernels import pack
from fastconv.kernels.pack import pack_row, pack_rows_last
from fastconv.spec import ConvSpec

#: Fields of a tile at the head of a kernel's geometry, and the tables at the head of its tables.
TILE_FIELDS = 26
_SECTIONS = 6


@dataclass(frozen=True)
class InputTile:
    """The input of TH x TW output pixels (of one output plane) of one image or several; sizes in elements."""

    spec: ConvSpec
    axes: tuple[pack.Axis, pack.Axis, pack.Axis]
    TH: int
    TW: int
    images: int = 1

    @staticmethod
    def of(spec: ConvSpec, TH: int, TW: int) -> InputTile:
        return InputTile(spec, (pack.axis(spec, 0), pack.axis(spec, 1), pack.axis(spec, 2)), TH, TW)

    @cached_property
    def pitch(self) -> int:
        return self.TW + self.axes[2].halo

    @cached_property
    def plane(self) -> int:
        """One phase of one channel."""
        d, h, _ = self.axes
        return (1 + d.halo) * (self.TH + h.halo) * self.pitch

    @cached_property
    def phases(self) -> int:
        d, h, w = self.axes
        return len(d.phases) * len(h.phases) * len(w.phases)

    @cached_property
    def c_pitch(self) -> int:
        """Between channels; channels a page apart would share the cache sets of L1."""
        size = self.images * self.phases * self.plane
        return size + isa.width(self.spec.dtype) if size * self.spec.itemsize % 4096 < 64 else size

    @cached_property
    def is_plain(self) -> bool:
        """Whether rows of a phase are rows of x, or every second cell of them, between zeros: the short way."""
        spec = self.spec
        return spec.stride3[2] <= 2 and spec.padding_mode == "zeros" and not spec.channels_last

    def cycles(self, channels: int) -> float:
        """What cutting it costs."""
        d, h, _ = self.axes
        row = 4 + self.pitch * 0.2 if self.is_plain else 16 + self.pitch * 0.6
        return channels * self.images * self.phases * (1 + d.halo) * (self.TH + h.halo) * row

    def taps(self) -> np.ndarray:
        """Place of every tap, in the order of the weight."""
        d, h, w = self.axes
        nh, nw, rows = len(h.phases), len(w.phases), (self.TH + h.halo) * self.pitch
        places = [
            ((pd * nh + ph) * nw + pw) * self.plane + qd * rows + qh * self.pitch + qw
            for pd, qd in d.taps for ph, qh in h.taps for pw, qw in w.taps
        ]  # fmt: skip
        return np.array(places, np.int64)

    def geometry(self) -> list[int]:
        """The fields that `cut_tile` reads."""
        spec, (d, h, w) = self.spec, self.axes
        ends = np.cumsum([len(table) for table in self.tables()])[:_SECTIONS]
        return [
            spec.channels_last, spec.C, *spec.input3, *spec.stride3, *(lo for lo, _ in spec.padding3), d.halo, h.halo,
            len(d.phases), len(h.phases), len(w.phases), self.TH, self.pitch, self.plane, self.c_pitch,
            *map(int, ends[:5]), self.is_plain,
        ]  # fmt: skip

    def tables(self) -> list[np.ndarray]:
        """Sources and phases of each axis."""
        return [*(a.sources for a in self.axes), *(np.array(a.phases, np.int64) for a in self.axes)]


@inline
def _inside(first, stride, size, extent):  # type: ignore[no-untyped-def]
    """The range of cells e < extent for which first + e*stride lies in the input."""
    begin = min(max((stride - 1 - first) // stride, 0), extent)
    end = min(max((size + stride - 1 - first) // stride, begin), extent)
    return begin, end


@inline
def _cut_plain(  # type: ignore[no-untyped-def]
    x, x0, channels, ID, IH, IW, sd, sh, sw, d, h, w, depth, rows, width, c_pitch, dst, d0
):
    """One phase with zeros around x, which begins at x0; (d, h, w): its first cell, negative in the padding."""
    top, bottom = _inside(h, sh, IH, rows)
    left, right = _inside(w, sw, IW, width)
    for c in range(channels):
        for i in range(depth):
            begin, end = (top, bottom) if 0 <= d + i * sd < ID else (0, 0)
            place = d0 + c * c_pitch + i * rows * width
            source = x0 + ((c * ID + d + i * sd) * IH + h + begin * sh) * IW + w
            target = place + begin * width
            fill_row(dst, place, begin * width)
            if sw == 1:
                copy_rows(x, source, sh * IW, dst, target, width, end - begin, left, right, width)
            else:
                copy_rows_by_two(x, source, sh * IW, dst, target, width, end - begin, left, right, width)
            fill_row(dst, place + end * width, (rows - end) * width)


@inline
def cut_tile(geometry, tables, x, n, channel, channels, od, oh0, ow0, dst, d0):  # type: ignore[no-untyped-def]
    """dst[d0:] = the tile of `channels` channels from `channel` on whose first output is (od, oh0, ow0)."""
    (
        channels_last, C, ID, IH, IW, sd, sh, sw, ld, lh, lw, hd, hh, nd, nh, nw, TH, pitch, plane, c_pitch,
        src_h, src_w, phase_d, phase_h, phase_w, plain,
    ) = unpack(geometry, TILE_FIELDS)  # fmt: skip
    count_h, count_w = src_w - src_h, phase_d - src_w
    for a in range(nd):
        for b in range(nh):
            for e in range(nw):
                place = d0 + ((a * nh + b) * nw + e) * plane
                first_w = ow0 * sw + tables[phase_w + e]
                if plain:
                    _cut_plain(
                        x, (n * C + channel) * ID * IH * IW, channels, ID, IH, IW, sd, sh, sw,
                        od * sd + tables[phase_d + a] - ld, oh0 * sh + tables[phase_h + b] - lh, first_w - lw,
                        1 + hd, TH + hh, pitch, c_pitch, dst, place,
                    )  # fmt: skip
                    continue
                for i in range(1 + hd):
                    at_d = (od + i) * sd + tables[phase_d + a]
                    from_d = tables[at_d] if at_d < src_h else -1
                    for j in range(TH + hh):
                        at_h = (oh0 + j) * sh + tables[phase_h + b]
                        from_h = tables[src_h + at_h] if at_h < count_h else -1
                        row = place + (i * (TH + hh) + j) * pitch
                        if from_d < 0 or from_h < 0:
                            for c in range(channels):
                                fill_row(dst, row + c * c_pitch, pitch)
                        elif channels_last:
                            x0 = (((n * ID + from_d) * IH + from_h) * IW) * C + channel
                            pack_rows_last(
                                x,
                                x0,
                                C,
                                channels,
                                tables,
                                src_w,
                                count_w,
                                lw,
                                IW,
                                first_w,
                                sw,
                                pitch,
                                dst,
                                row,
                                c_pitch,
                            )
                        else:
                            for c in range(channels):
                                x0 = (((n * C + channel + c) * ID + from_d) * IH + from_h) * IW
                                pack_row(
                                    x, x0, 1, tables, src_w, count_w, lw, IW, first_w, sw, pitch, dst, row + c * c_pitch
                                )
