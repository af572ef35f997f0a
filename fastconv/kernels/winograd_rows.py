"""Winograd F(4x4, 3x3) of wide images with few channels: lanes are tiles, on `cpu/winograd_rows.py`.

In the form of `winograd_kernels` lanes are channels, and cells are gathered from W planes by transposes. Here rows are
read and written as they lie; a block is one row of tiles of all channels. What the transform along w makes of a row of
cells, its products and their transform back stay in L1:

1. lift      each channel's rows as they lie in memory, transformed along h    T[channel][row][phase][tile]
   for some vectors of tiles, for each of the 6 rows:
2.   spread  transform along w                                                 V[column][channel][tile]
3.   product [OC x C] * [C x tiles] for each point, the pixel form             M[column][oc][tile]
4.   gather  transform back along w                                            R[oc][row][phase][tile]
5. land      back along h, rows of the output through the epilogue

Sums are made of the same terms in the same order as in the other form: results are the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.microkernel import microkernel, widest_tile
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, vector_width
from fastconv.cpu.winograd_codelets import STATS
from fastconv.cpu.winograd_rows import POINTS, M, gather, land, lift, spread
from fastconv.kernels import tiles as t
from fastconv.kernels import winograd_kernels as k
from fastconv.kernels.common import ceil_div
from fastconv.kernels.epilogue import FURTHER, HIGHEST, LOWEST, activate, bias_of
from fastconv.kernels.winograd_kernels import block_place, largest_sum, level
from fastconv.kernels.winograd_plan import FAR, LAUNCH, NEAR, Axis, Way
from fastconv.spec import ConvSpec

#: Vectors of tiles multiplied together: the widest register tile.
TOGETHER = 3

#: Cycles of a vector of tiles, as measured: `lift` and `land` of a channel, `spread` and `gather` of a row. T and
#: R lie in L2, and the arrays beyond it.
LIFT, SPREAD, GATHER, LAND = 180.0, 24.0, 29.0, 170.0


def way(spec: ConvSpec, elements: int) -> Rows | None:
    """How it would be done in so many elements of memory; None where it cannot."""
    fits = (
        spec.kernel3 == (1, 3, 3)
        and spec.padding3[0] == (0, 0)
        and spec.dilation3 == (1, 1, 1)
        and spec.padding_mode == "zeros"
        and not spec.channels_last
        and isa.name() != "baseline"  # no masked loads
    )
    if not fits:
        return None
    axes = Axis.of(spec, 0, 1), Axis.of(spec, 1, M), Axis.of(spec, 2, M)
    W, tiles = isa.width(spec.dtype), axes[2].tiles
    # A row of tiles in as many parts as leave half of L2 for T. A part's last tile reads two cells of the next one.
    room = cache_sizes()[1] // 2 // (spec.C // spec.groups * POINTS * M * spec.itemsize)
    most = max(1, room // W) * W - 1
    parts = ceil_div(tiles, most)
    cols = tiles if parts == 1 else min(most, ceil_div(ceil_div(tiles, parts) + 1, W) * W - 1)
    found = Rows(spec, axes, (1, 1, cols), ceil_div(spec.OC // spec.groups, W))
    return found if found.elements(1, False) <= elements else None


@dataclass(frozen=True)
class Rows(Way):
    """A way whose blocks are rows of tiles of all channels."""

    by_rows = True

    @cached_property
    def phase(self) -> int:
        """Elements between phases of a transformed row."""
        return ceil_div(self.block[2] + 1, self.W) * self.W

    @cached_property
    def few(self) -> int:
        """Vectors of tiles multiplied together, evenly."""
        vectors = ceil_div(self.block[2], self.W)
        return ceil_div(vectors, ceil_div(vectors, TOGETHER))

    @cached_property
    def places(self) -> list[int]:
        W, tiles, OC = self.W, self.few * self.W, self.spec.OC // self.spec.groups
        parts = [
            STATS * W, 0, 0, 0, 0,
            self.C * (POINTS * M * self.phase + W) + W,  # one cell behind the last phase is read
            POINTS * self.C * tiles, POINTS * M * OC * tiles, M * self.phase, POINTS * OC * tiles, 0,
        ]  # fmt: skip
        return [int(v) for v in np.cumsum([0, *parts])]

    @cached_property
    def flags(self) -> int:
        return self.blocks

    @cached_property
    def channel_offsets(self) -> np.ndarray:
        return np.arange(self.C) * self.few * self.W

    # ---- cycles ----

    @cached_property
    def work(self) -> tuple[float, float]:
        W, OC = self.W, self.spec.OC // self.spec.groups
        vectors, lifted = ceil_div(self.block[2], W), self.phase // W
        strips = ceil_div(vectors, self.few)
        # A register tile has 8 channels; one of few takes as long as a multiply-add waits for the one before.
        tiles = [8] * (OC // 8) + [OC % 8] * (OC % 8 > 0)
        sums = sum(max(mr / 2 * vectors, 4.0 * strips) for mr in tiles)
        product = 1.22 * sums * self.C + 30 * len(tiles) * strips + 1.5 * vectors * OC
        stream = strips * self.C * self.out_vectors * W * self.spec.itemsize
        product += stream / (NEAR if self.weights < cache_sizes()[1] // 2 else FAR)
        moves = self.C * (70 + lifted * LIFT + vectors * POINTS * SPREAD)
        moves += OC * vectors * (POINTS * GATHER + LAND)
        return self.blocks * POINTS**2 * product, self.blocks * float(moves)

    @cached_property
    def crowded(self) -> float:
        return 0.0

    def cycles(self, threads: int, staged: bool) -> float:
        return sum(self.work) / self.blocks * ceil_div(self.blocks, threads) + (LAUNCH if threads > 1 else 0)

    def own(self, staged: bool) -> int:
        return workspace.aligned(max(self.places[-1], self.direct), self.spec.itemsize)


@inline
def _lift(g, x, group, n, d, r, q0, cols, phase, S, m):  # type: ignore[no-untyped-def]
    """T of a block; whether its values are tame."""
    W = vector_width(S)
    vectors, stats = cols // W + 1, m + g[k.P_STATS]
    row, column = r * g[k.MH] - g[t.PH], q0 * g[k.MW] - g[t.PW]
    finite, loud, quiet = True, S.dtype.type(0), S.dtype.type(0)
    for c in range(g[t.C]):
        for i in range(2 * W):
            S[stats + i] = S.dtype.type(0)
        x0 = (((n * g[t.C] * g[t.G] + group * g[t.C] + c) * g[t.ID] + d) * g[t.IH] + row) * g[t.IW] + column
        lift(
            vectors, x, x0, g[t.IW], row, g[t.IH], column, g[t.IW], S, m + g[k.P_OUT],
            S, m + g[k.P_STAGE] + c * (POINTS * M * phase + W), phase, S, stats,
        )  # fmt: skip
        least = S.dtype.type(0)
        for i in range(W):
            loud, size = max(loud, S[stats + i]), S[stats + W + i]
            finite = finite and size < largest_sum(g, S)
            if size > 0 and (least == 0 or size < least):
                least = size
        quiet = max(quiet, least)
    return finite and level(loud, quiet, vectors * POINTS * M, S)


@inline
def _product(g, tables, packed, u0, V, row, vectors, S, to):  # type: ignore[no-untyped-def]
    """S[to + oc*row:] = sum over channels of packed[u0 + c*.. + oc] * S[V + c*row:], `vectors` of tiles."""
    W = vector_width(S)
    wide = g[k.OCV] * W
    for c in range(0, g[t.C], g[k.KC]):
        mr, oc = 8, 0
        while oc < g[t.OC]:
            while mr > g[t.OC] - oc or widest_tile(mr) < vectors:
                mr -= 1
            times = (g[t.OC] - oc) // mr
            microkernel(
                mr, vectors, packed, u0 + c * wide + oc, 1, wide, S, V, tables, g[k.OFF] + c, min(g[k.KC], g[t.C] - c),
                S, to + oc * row, row, c > 0, S, to + oc * row, row, False, S, 0, S, False, False, times, True,
                S, V, 0, 0, False,
            )  # fmt: skip
            oc += times * mr


@kernel
def winograd_rows(  # type: ignore[no-untyped-def]
    thread, counter, tasks, g, tables, x, packed, seen, bias, residual, epilogue, out, S
):
    """Convolution of blocks: a task is a row of tiles, or a part of one."""
    W = vector_width(S)
    m = g[k.SHARED] + thread * g[k.OWN]
    C, OC, OW, add = g[t.C], g[t.OC], g[t.OW], 1 if residual.size else 0
    phase, row, wide = (g[k.BW] // W + 1) * W, g[k.FEW] * W, g[k.OCV] * W
    T, V, R, Y = m + g[k.P_STAGE], m + g[k.P_COLUMNS], m + g[k.P_BACK], m + g[k.P_M]
    fill_row(S, m + g[k.P_OUT], M * phase)
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        group, n, d, r, q0, _, _, cols = block_place(g, task)
        seen[task] = 0 if _lift(g, x, group, n, d, r, q0, cols, phase, S, m) else 1
        for q in range(0, cols, row):
            vectors = min(g[k.FEW], (cols - q + W - 1) // W)
            for i in range(POINTS):
                spread(C, vectors, S, T + i * M * phase + q, phase, POINTS * M * phase + W, S, V, C * row, row)
                for j in range(POINTS):
                    u0 = g[k.SPECTRA] + (group * POINTS * POINTS + i * POINTS + j) * C * wide
                    _product(g, tables, packed, u0, V + j * C * row, row, vectors, S, Y + j * OC * row)
                gather(0, OC, vectors, S, Y, OC * row, W, row, S, R + i * M * row, row, W, POINTS * M * row)
            h0, w0 = r * M, (q0 + q) * M
            high_rows, cells = min(M, g[t.OH] - h0), min(min(row, cols - q) * M, OW - w0)
            for v in range(OC):
                oc = group * OC + v
                o0 = (((n * OC * g[t.G] + oc) * g[t.OD] + d) * g[t.OH] + h0) * OW + w0
                land(
                    vectors, S, R + v * POINTS * M * row, row, out, o0, OW, high_rows, cells, residual, o0, add,
                    bias_of(bias, oc), epilogue[LOWEST], epilogue[HIGHEST],
                )  # fmt: skip
                if epilogue[FURTHER]:
                    for i in range(high_rows):
                        activate(out, o0 + i * OW, cells, epilogue)
