"""Direct convolution as an implicit GEMM: no im2col, only an offset table.

For one group of one image, with weights A [OC x K], K = (c, kd, kh, kw), and a tile of padded input B:

    C[oc, p] = sum_k A[oc, k] * B[off[k] + p]          [OC x K] * [K x P] -> [OC x P]

Pixels p run through a tile row after row at the tile's own pitch, so vectors cross row ends and small images waste no
lanes; the few columns between rows are computed and never stored. A task is one tile of outputs and a part of the
output channels: it packs its input tile once (in place of packing, an unpadded stride-1 input is used where it lies),
then for each block of output channels runs the microkernel and stores finished rows while they are in L1.

Georganas et al. 2018 (direct convolution blocking); Goto & van de Geijn 2008 (GEMM blocking).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from fastconv.cpu import isa, threads, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.microkernel import gemm_block, widest
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, transpose_block, unpack, vector_width
from fastconv.kernels import pack
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue, bias_of, store_channels, store_row
from fastconv.kernels.pack import pack_row, pack_rows_last
from fastconv.spec import ConvSpec

NAME = "direct"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "sums of at most 512 terms, added in blocks"

# Longest chain of roundings. A chain of n positive terms errs by about 0.33 sqrt(n) u of the sum (each partial sum k/n
# rounds by u/2 at random): 7.5 u at 512, half of the contract; and 512 rows of an 8-row panel are 16 KB, half an L1.
KC = 512


@dataclass(frozen=True)
class Params:
    geometry: np.ndarray
    tables: np.ndarray
    tasks: int
    threads: int
    per_thread: int
    workspace: int
    cost: Cost


def refuses(spec: ConvSpec) -> str | None:
    """Nothing is refused: every spec is an implicit GEMM."""
    return None


# ---- the plan: tile sizes and tables -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """One way of cutting the output: sizes in outputs, bytes in the dtype's elements."""

    TH: int
    TW: int
    OCP: int  # output channels of one task
    pitch: int  # elements between tile rows
    plane: int  # elements of one phase plane
    c_pitch: int  # elements between channels
    CB: int  # channels packed at a time
    packed: int  # elements of the packed tile
    c_row: int  # elements between rows of C
    sums: int  # elements of C
    tasks: int
    cycles: float  # estimate for the whole convolution, in multiply-add vectors of one core


def _inputs_in_place(spec: ConvSpec) -> bool:
    return not spec.channels_last and max(spec.stride3) == 1 and not any(map(any, spec.padding3))


def _as_line(spec: ConvSpec) -> ConvSpec:
    """A 1x1 unpadded stride-1 convolution sees no rows: all pixels of an image are one line."""
    if max(*spec.kernel3, *spec.stride3) > 1 or any(map(any, spec.padding3)):
        return spec
    return ConvSpec(
        1, spec.N, spec.C, spec.OC, spec.groups, (prod(spec.input),), (1,), (1,), (1,), ((0, 0),), "zeros", False,
        spec.dtype, spec.channels_last,
    )  # fmt: skip


def _rows_per_block(spec: ConvSpec, mr: int) -> int:
    """Output channels finished together: one panel, or whole vectors of channels where they lie side by side."""
    return 48 if spec.channels_last else mr


def _tile(spec: ConvSpec, axes: tuple[pack.Axis, ...], TH: int, TW: int, OCP: int, mr: int, threads: int) -> _Tile:
    W, size = isa.width(spec.dtype), spec.itemsize
    d, h, w = axes
    OD, OH, OW = spec.output3
    C, OC, K = spec.C // spec.groups, spec.OC // spec.groups, spec.K
    taps = K // C
    in_place = _inputs_in_place(spec)
    pitch = spec.input3[2] if in_place and TW == OW else TW + w.halo
    plane = (1 + d.halo) * (TH + h.halo) * pitch
    phases = len(d.phases) * len(h.phases) * len(w.phases)
    c_pitch = phases * plane
    if c_pitch * size % 4096 < 64:
        c_pitch += W  # channels a page apart would share the cache sets of L1
    L2 = cache_sizes()[1]
    CB = max(1, min(C, (L2 // 2) // (c_pitch * size)))
    P = (TH - 1) * pitch + TW
    vectors = -(-P // W)
    c_row = vectors * W + (W if vectors * W * size % 4096 == 0 else 0)
    # Stores of channels-last outputs transpose whole vectors of channels and pixels.
    rows = min(_rows_per_block(spec, mr), OCP) if CB >= C else OCP
    sums = c_row * -(-rows // W) * W + W + W * W if spec.channels_last else c_row * rows
    packed = CB * c_pitch + 8 * W
    per_image = spec.groups * OD * -(-OH // TH) * -(-OW // TW) * -(-OC // OCP)
    tasks = spec.N * per_image
    # Vector multiply-adds; a register tile of few vectors or rows waits for loads and for the latency of its sums.
    rate = 1.0 if mr >= 6 and vectors >= 2 else 0.7 if mr >= 4 else 0.3
    compute = OCP * K * vectors / rate
    # Packing moves an element in about half the time of a vector multiply-add pair; weights stream from L2, or from
    # L3 (a third as fast) once they do not fit it; every block costs a few dozen cycles of prologue and stores.
    packing = 0.0 if in_place else C * phases * plane * (0.5 if w.phases == (0,) and not spec.channels_last else 1.0)
    streaming = OCP * K * size / (24 if spec.weight_bytes < L2 // 2 else 8)
    overhead = 60.0 * -(-OCP // mr) * -(-vectors // 3) * -(-K // KC) + OCP * TH * (10 + TW / W * 3)
    if CB < C:
        overhead += 2.0 * OCP * vectors * -(-C // CB)
    if (packed + sums) * size > L2:
        compute *= 1.3
    cycles = (compute + packing + streaming + overhead + 500) * -(-tasks // threads)
    return _Tile(TH, TW, OCP, pitch, plane, c_pitch, CB, packed, c_row, sums, tasks, cycles)


def _choose(spec: ConvSpec, axes: tuple[pack.Axis, ...], mr: int, threads: int, limit: int) -> _Tile | None:
    """The cheapest tile among heights and widths that divide the image evenly, and splits of the channels."""
    _, OH, OW = spec.output3
    OC, W = spec.OC // spec.groups, isa.width(spec.dtype)
    in_place = _inputs_in_place(spec)
    heights = sorted({-(-OH // n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 19, 24, 28, 32, 40, 56, OH) if n <= OH})
    # Rows of an input used in place keep its pitch, so such a tile is whole rows, or a part of one row.
    wide = [OW] if OW <= 8 * W else sorted({OW} | {-(-(-(-OW // n)) // W) * W for n in (2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512, 2048)})  # noqa: E501
    wide = [w for w in wide if w >= 3 * W or w == OW]
    parts = sorted({min(OC, -(-(-(-OC // n)) // mr) * mr) for n in (1, 2, 4, 8)})
    best = None
    for TH in heights:
        for TW in wide:
            if in_place and TW < OW and TH > 1:
                continue
            if TH * TW > 16384 and (TH, TW) != (heights[0], wide[0]):
                continue
            for OCP in parts:
                tile = _tile(spec, axes, TH, TW, OCP, mr, threads)
                if (tile.packed + tile.sums) * spec.itemsize * threads > limit:
                    continue
                if best is None or tile.cycles < best.cycles:
                    best = tile
    return best


def _row_tile(rows: int) -> int:
    """The register tile height that leaves the fewest slow rows at the end of `rows`."""
    heights = [mr for mr in widest() if mr >= 4]
    return min(heights, key=lambda mr: (rows % mr if rows > mr else (mr - rows) * 2 if mr > rows else 0, -mr))


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    """Tile sizes by a small cost search, the offset tables, and the geometry the kernel unpacks."""
    full, spec = spec, _as_line(spec)
    axes = tuple(pack.axis(spec, i) for i in range(3))
    d, h, w = axes
    C, OC, G = spec.C // spec.groups, spec.OC // spec.groups, spec.groups
    mr = _row_tile(OC)
    tile = _choose(spec, axes, mr, threads, limit)
    if tile is None:
        return f"its smallest tile exceeds the workspace limit of {limit} bytes"
    in_place = _inputs_in_place(spec)
    ID, IH, IW = spec.input3
    nh, nw, eh = len(h.phases), len(w.phases), tile.TH + h.halo

    def offsets(channels: int, c_pitch: int, plane: int, d_pitch: int, pitch: int) -> np.ndarray:
        taps = [
            ((pd * nh + ph) * nw + pw) * plane + qd * d_pitch + qh * pitch + qw
            for pd, qd in d.taps for ph, qh in h.taps for pw, qw in w.taps
        ]  # fmt: skip
        return (np.arange(channels, dtype=np.int64)[:, None] * c_pitch + np.array(taps, np.int64)).reshape(-1)

    sections = [
        offsets(tile.CB, tile.c_pitch, tile.plane, eh * tile.pitch, tile.pitch),
        offsets(C, ID * IH * IW, 0, IH * IW, IW) if in_place else np.empty(0, np.int64),
        *(a.sources for a in axes),
        *(np.array(a.phases, np.int64) for a in axes),
    ]
    starts = np.cumsum([0, *(len(s) for s in sections)])
    inside_end = int(sections[1].max()) if in_place else 0
    OD, OH, OW = spec.output3
    per_thread = workspace.aligned(tile.packed, spec.itemsize) + workspace.aligned(tile.sums, spec.itemsize)
    geometry = np.array(
        [
            spec.channels_last, in_place, inside_end, mr, _rows_per_block(spec, mr), per_thread,
            workspace.aligned(tile.packed, spec.itemsize), C, OC, G, spec.K // C,
            ID, IH, IW, OD, OH, OW, *spec.stride3, *(lo for lo, _ in spec.padding3),
            d.halo, h.halo, w.halo, len(d.phases), nh, nw,
            tile.TH, tile.TW, tile.OCP, tile.pitch, tile.plane, tile.c_pitch, tile.CB, tile.c_row, *starts[:8],
        ],
        np.int64,
    )  # fmt: skip
    W, tiles = isa.width(spec.dtype), OD * -(-OH // tile.TH) * -(-OW // tile.TW)
    lanes = -(-((tile.TH - 1) * tile.pitch + tile.TW) // W) * W
    moved = 0 if in_place else spec.N * G * tiles * -(-OC // tile.OCP) * C * tile.c_pitch
    cost = Cost(
        flops=2.0 * spec.N * G * OC * spec.K * tiles * lanes,
        bytes=float(full.input_bytes + full.output_bytes + full.weight_bytes),
        transform=float(moved + spec.N * spec.OC * prod(spec.output)),
        tasks=tile.tasks,
    )
    return Params(
        geometry, np.concatenate(sections), tile.tasks, threads, per_thread, per_thread * threads * spec.itemsize, cost
    )


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """Weights are used as they lie: row oc of A is K contiguous elements."""
    return weight.reshape(-1)


def run(
    spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue
) -> None:
    scratch = workspace.scratch(spec.dtype, params.per_thread, params.threads)
    arrays = (
        params.geometry, params.tables, x, packed, epilogue.bias, epilogue.residual, epilogue.constants, out, scratch,
    )  # fmt: skip
    threads.run(_direct, params.tasks, arrays, params.threads)


# ---- the kernel --------------------------------------------------------------------------------------------------


@inline
def _pack_tile(geometry, tables, x, n, channel, channels, od, oh0, ow0, dst, d0):  # type: ignore[no-untyped-def]
    """Cut the padded input of one tile: dst[c][phase][row d][row h][column]."""
    (
        channels_last, _, _, _, _, _, _, C, _, G, _, ID, IH, IW, _, _, _, sd, sh, sw, pd, ph, pw, hd, hh, hw, nd, nh, nw,
        TH, TW, _, pitch, plane, c_pitch, _, _, _, _, src_d, src_h, src_w, phase_d, phase_h, phase_w,
    ) = unpack(geometry, 45)  # fmt: skip
    count_d, count_h, count_w = src_h - src_d, src_w - src_h, phase_d - src_w
    channels_all = C * G
    for a in range(nd):
        for b in range(nh):
            for e in range(nw):
                place = d0 + ((a * nh + b) * nw + e) * plane
                first_w = ow0 * sw + tables[phase_w + e]
                for i in range(1 + hd):
                    at_d = (od + i) * sd + tables[phase_d + a]
                    from_d = tables[src_d + at_d] if at_d < count_d else -1
                    for j in range(TH + hh):
                        at_h = (oh0 + j) * sh + tables[phase_h + b]
                        from_h = tables[src_h + at_h] if at_h < count_h else -1
                        row = place + (i * (TH + hh) + j) * pitch
                        if from_d < 0 or from_h < 0:
                            for c in range(channels):
                                fill_row(dst, row + c * c_pitch, pitch)
                        elif channels_last:
                            x0 = (((n * ID + from_d) * IH + from_h) * IW) * channels_all + channel
                            pack_rows_last(
                                x, x0, channels_all, channels, tables, src_w, count_w, pw, IW, first_w, sw, pitch,
                                dst, row, c_pitch,
                            )  # fmt: skip
                        else:
                            for c in range(channels):
                                x0 = (((n * channels_all + channel + c) * ID + from_d) * IH + from_h) * IW
                                pack_row(
                                    x, x0, 1, tables, src_w, count_w, pw, IW, first_w, sw, pitch, dst, row + c * c_pitch
                                )
    # The last vector of the last row may read past the tile: keep old scratch (denormals are slow) out of it.
    fill_row(dst, d0 + channels * c_pitch, 8 * vector_width(dst))


@inline
def _store(  # type: ignore[no-untyped-def]
    C, c0, c_row, pitch, channels_last, n, oc, rows, OC_all, od, oh0, ow0, TH, TW, OD, OH, OW,
    bias, residual, constants, out, block,
):  # fmt: skip
    """Store `rows` finished output channels of a tile."""
    height, width = min(TH, OH - oh0), min(TW, OW - ow0)
    if not channels_last:
        for r in range(rows):
            value = bias_of(bias, oc + r)
            base = ((n * OC_all + oc + r) * OD + od) * OH * OW + ow0
            src = c0 + r * c_row
            if pitch == OW:  # rows follow each other on both sides
                store_row(C, src, out, base + oh0 * OW, height * OW, value, residual, constants)
            else:
                for i in range(height):
                    store_row(C, src + i * pitch, out, base + (oh0 + i) * OW, width, value, residual, constants)
        return
    W = vector_width(C)
    for i in range(height):
        base = (((n * OD + od) * OH + oh0 + i) * OW + ow0) * OC_all + oc
        for j in range(0, width, W):
            for r in range(0, rows, W):  # W channels x W pixels; C has room for whole vectors of both
                transpose_block(C, c0 + r * c_row + i * pitch + j, c_row, C, block, W)
                for k in range(min(W, width - j)):
                    at = base + (j + k) * OC_all + r
                    store_channels(C, block + k * W, out, at, min(W, rows - r), bias, oc + r, residual, constants)


@kernel
def _direct(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch
):
    (
        channels_last, in_place, inside_end, mr, block, per_thread, c_start, C, OC, G, taps,
        ID, IH, IW, OD, OH, OW, _, _, _, _, _, _, _, _, _, _, _, _,
        TH, TW, OCP, pitch, _, c_pitch, CB, c_row, off_tile, off_input, _, _, _, _, _, _,
    ) = unpack(geometry, 45)  # fmt: skip
    W = vector_width(x)
    K = C * taps
    tiles_h, tiles_w, parts = (OH + TH - 1) // TH, (OW + TW - 1) // TW, (OC + OCP - 1) // OCP
    mine = thread * per_thread
    sums = mine + c_start
    block_at = mine + per_thread - W * W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, part = divmod(task, parts)
        rest, tw = divmod(rest, tiles_w)
        rest, th = divmod(rest, tiles_h)
        rest, od = divmod(rest, OD)
        n, g = divmod(rest, G)
        oh0, ow0 = th * TH, tw * TW
        height, width = min(TH, OH - oh0), min(TW, OW - ow0)
        P = (height - 1) * pitch + width
        oc0, oc_end = part * OCP, min(OC, part * OCP + OCP)
        origin = ((n * G + g) * C * ID + od) * IH * IW + oh0 * IW + ow0
        # Vectors may read up to a row of vectors past the last pixel: only inside x may it be used in place.
        use_x = in_place and origin + inside_end + (P + W - 1) // W * W <= x.size
        B, b0, off, step = (x, origin, off_input, C) if use_x else (scratch, mine, off_tile, CB)
        for c in range(0, C, step):  # 1. channels that fit L2
            channels = min(step, C - c)
            if not use_x:
                _pack_tile(geometry, tables, x, n, g * C + c, channels, od, oh0, ow0, scratch, mine)
            first, last = c == 0, c + step >= C
            whole = step >= C
            for oc in range(oc0, oc_end, block):  # 2. a block of output channels
                rows = min(block, oc_end - oc)
                c0 = sums if whole else sums + (oc - oc0) * c_row
                for k in range(0, channels * taps, KC):  # 3. a chain of KC terms
                    depth = min(KC, channels * taps - k)
                    a0 = (g * OC + oc) * K + c * taps + k
                    gemm_block(
                        rows, P, mr, weight, a0, K, 1, B, b0, tables, off + k, depth, scratch, c0, c_row,
                        k > 0 or not first,
                    )  # fmt: skip
                if last:
                    _store(
                        scratch, c0, c_row, pitch, channels_last, n, g * OC + oc, rows, G * OC, od, oh0, ow0,
                        TH, TW, OD, OH, OW, bias, residual, constants, out, block_at,
                    )  # fmt: skip
