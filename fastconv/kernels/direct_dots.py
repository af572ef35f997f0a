"""Direct convolution as dot products, for few pixels and weights that are used once.

A fourth form of the implicit GEMM, with vectors along the terms of a sum:

    C[oc, p] = sum over lanes of sum_v A[oc, v] * B[p, v]        [OC x K] * [K x P] -> [OC x P]

Weights are read as they lie, row after row; what the pixel form reads in steps of a page, and the channel form must
transpose. The input is the operand that is turned round: B has a row for each pixel, its patch in the order of the
weights. Each thread lays the rows of an image out before its first task in it; those of a channels-last 1x1 layer lie
so already. No pixel is wasted, and a sum's lanes are added up in registers, some three cycles for an output.

Sums have two levels: lanes of at most CHAIN terms, added up in pairs, and all of these. Neither depends on the tile.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.dots import most_products, product_block
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import copy_row, fill_row
from fastconv.cpu.simd import claim, transpose_rows, unpack, vector_width
from fastconv.kernels.common import Cost, ceil_div
from fastconv.kernels.direct_plan import SMALL, Params, as_line, beyond_L2, waits
from fastconv.kernels.epilogue import bias_of, store_channels, store_row
from fastconv.kernels.input_tile import TILE_FIELDS, InputTile, cut_tile
from fastconv.spec import ConvSpec

#: The kernel's own fields, behind those of the tile; then starts of tables.
FIELDS = 25
_ALL = TILE_FIELDS + FIELDS

#: Vectors of a chain: six rows of B of so many, 24 KB in AVX-512, stay in L1 while rows of A pass.
CHAIN = 64

#: How the rows of B come to be: cut into a padded tile and turned, turned where the planes lie, or where they lie.
TILED, PLANES, ROWS = range(3)


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | None:
    """Everything `dots` needs; None where the form does not apply or cannot fit the limit."""
    full, spec = spec, as_line(spec)
    if spec.C == spec.groups:
        return None  # sums are short, and an image filter's chains should be
    threads = threads if spec.flops > SMALL else 1
    W, size = isa.width(spec.dtype), spec.itemsize
    L1, L2, _ = cache_sizes()
    C, OC, K, OP = spec.C // spec.groups, spec.OC // spec.groups, spec.K, prod(spec.output)

    # 1. Rows of B, of as many images as leave half of L2 to the weights; never a page apart.
    how = _how(spec)
    b_row = ceil_div(K, W) * W
    b_row += W if b_row * size % 4096 == 0 else 0
    images = min(spec.N, L2 // 2 // (OP * b_row * size))
    if images == 0:
        return None
    cut = InputTile.of(spec, *spec.output3[1:])
    CB = C if how == PLANES else min(C, max(1, L1 // 2 // (cut.c_pitch * W * size)) * W)
    rows = 0 if how == ROWS else (images * OP + 1) * b_row
    b_row = spec.C if how == ROWS else b_row

    # 2. Output channels of a task, in fours: their weights take an eighth of L2.
    OCP = min(L2 // 8 // (K * size), OC if threads == 1 else ceil_div(OC, 4 * threads))
    OCP = min(OC, max(1, ceil_div(OCP, 4)) * 4)
    c_row = (OCP if spec.channels_last else images * OP) + W
    sums = c_row * (images * OP if spec.channels_last else OCP)
    tile = CB * cut.c_pitch + 8 * W if how == TILED else 0
    places = np.cumsum([workspace.aligned(n, size) for n in (tile, rows, OCP * W if K % W else 0, sums)])
    per_thread = int(places[-1])
    if per_thread * size * threads > limit:
        return None

    # 3. Tables.
    sections = [*cut.tables(), *_turning(spec, cut, how, CB, b_row)]
    sections += [np.arange(images * OP) * b_row, np.arange(OCP) * K, np.arange(OCP) * W]
    starts = np.cumsum([0, *(len(s) for s in sections)])[-6:-1]
    span = (spec.output3[1] - 1) * cut.pitch + spec.output3[2]
    geometry = np.array(
        [
            *cut.geometry(), spec.N, C, OC, spec.groups, K // C, *spec.output3, images, OCP, how, CB, b_row, c_row,
            span, most_products()[4], *places, *starts,
        ],
        np.int64,
    )  # fmt: skip
    assert len(geometry) == _ALL
    tasks = ceil_div(spec.N, images) * spec.groups * ceil_div(OC, OCP)
    cost = Cost.of_cycles(spec, *_cycles(spec, how), beyond_L2(full), tasks, threads)
    return Params(
        "dots", geometry, np.concatenate(sections), OCP, 1, tasks, threads, per_thread, per_thread * threads * size,
        cost, 0.0 if how == ROWS else 4.0 * W * waits(spec, float(spec.input_bytes), True),
    )  # fmt: skip


def _how(spec: ConvSpec) -> int:
    """How the rows of B come to be."""
    W, OP = isa.width(spec.dtype), prod(spec.output)
    if max(*spec.kernel3, *spec.stride3) > 1 or any(map(any, spec.padding3)):
        return TILED
    if spec.channels_last or OP == 1:
        return ROWS if spec.K % W == 0 else TILED
    return PLANES if OP >= W else TILED


def _turning(spec: ConvSpec, cut: InputTile, how: int, CB: int, b_row: int) -> list[np.ndarray]:
    """Where the terms of CB channels are read, from one pixel on, and where each pixel's row is."""
    W, (_, OH, OW) = isa.width(spec.dtype), spec.output3
    step = OH * OW if how == PLANES else cut.c_pitch
    off = np.add.outer(np.arange(CB) * step, cut.taps()).reshape(-1)
    # Cells between two rows of pixels are taken for the pixel behind them, whose own cell comes later.
    row, column = np.divmod(np.arange((OH - 1) * cut.pitch + OW + W), cut.pitch)
    pixels = np.minimum(row * OW + np.minimum(column, OW), OH * OW)
    return [np.concatenate([off, np.zeros(W, np.int64)]), pixels * b_row]


def _cycles(spec: ConvSpec, how: int) -> tuple[float, float]:
    """Cycles of one thread for everything: in the microkernel, and outside of it."""
    W, G = isa.width(spec.dtype), spec.groups
    OC, OP, K = spec.OC // G, prod(spec.output), spec.K
    A, B = (OP, OC) if spec.channels_last else (OC, OP)
    widest = most_products()[4]
    nt = B / ceil_div(B, widest)
    # A row of A seldom begins on a cache line: a vector costs two loads, and the one that asks for it ahead.
    tiles = A // 4 * max(2.0 * nt, (12 + nt) / 2, 4.0) + A % 4 * max(nt / 2, 4.0)
    compute = tiles * ceil_div(B, widest) * ceil_div(K, W)
    # Lanes are added up and sums stored, once for each chain; weights come from L3 where they are beyond L2.
    folding = OC * OP * (2.0 * ceil_div(K, W * CHAIN) + 0.3) + (OP if spec.channels_last else OC) * 20.0
    laying = 0.0 if how == ROWS else OP * K * (0.3 if how == PLANES else 0.8)
    weights = OC * K * spec.itemsize / (96 if spec.weight_bytes < cache_sizes()[1] // 2 else 24)
    return compute * spec.N * G, (folding + laying + weights + 400) * spec.N * G


@inline
def _lay_rows(geometry, tables, x, n, images, g, scratch, mine):  # type: ignore[no-untyped-def]
    """The rows of B of some images: patches of pixels in the order of the weights, zeros up to a whole vector."""
    (
        _, C_all, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, c_pitch, _, _, _, _, _, _,
        _, C, _, _, taps, OD, OH, OW, _, _, how, CB, b_row, _, Q, _, rows, _, _, _, off, to, _, _, _,
    ) = unpack(geometry, _ALL)  # fmt: skip
    W = vector_width(x)
    K, OP = C * taps, OD * OH * OW
    for i in range(images):
        for od in range(OD):
            first = mine + rows + (i * OP + od * OH * OW) * b_row
            for c in range(0, C, CB):
                channels = min(CB, C - c)
                src, s0 = x, ((n + i) * C_all + g * C + c) * OP
                if how == TILED:
                    src, s0 = scratch, mine
                    cut_tile(geometry, tables, x, n + i, g * C + c, channels, od, 0, 0, scratch, mine)
                    fill_row(scratch, mine + channels * c_pitch, 8 * W)
                for k in range(0, channels * taps, W):
                    for q in range(0, Q, W):
                        p = max(0, min(q, Q - W))
                        transpose_rows(src, s0 + p, tables, off + k, scratch, first + c * taps + k, tables, to + p)
        if K % W:
            for p in range(OP):
                fill_row(scratch, mine + rows + (i * OP + p) * b_row + K, W - K % W)


@kernel
def dots(thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch):  # type: ignore[no-untyped-def]
    """C[oc, p] = the sum of the lanes of sum_v weight[oc, v] * rows[p, v]."""
    (
        channels_last, C_all, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _,
        N, C, OC, G, taps, OD, OH, OW, together, OCP, how, _, b_row, c_row, _, most, rows, rest, sums, per_thread,
        _, _, of_rows, of_weights, of_rest,
    ) = unpack(geometry, _ALL)  # fmt: skip
    W = vector_width(x)
    K, OP, parts = C * taps, OD * OH * OW, (OC + OCP - 1) // OCP
    vectors = K // W
    mine = thread * per_thread
    C0 = mine + sums
    laid = -1
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        image, part = divmod(task, parts)
        block, g = divmod(image, G)
        n = block * together
        images = min(together, N - n)
        P, oc = images * OP, part * OCP
        channels = min(OCP, OC - oc)
        oc += g * OC
        B, b0 = x, n * OP * C_all + g * C
        if how != ROWS:
            B, b0 = scratch, mine + rows
            if laid != image:
                laid = image
                _lay_rows(geometry, tables, x, n, images, g, scratch, mine)
        if K % W:  # the last terms of the weights, with zeros up to a whole vector
            for r in range(channels):
                copy_row(weight, (oc + r) * K + vectors * W, scratch, mine + rest + r * W, K % W)
                fill_row(scratch, mine + rest + r * W + K % W, W - K % W)
        if channels_last:
            A, a0, a_row, a_rows, B, b0, off, b_rows = B, b0, b_row, P, weight, oc * K, of_weights, channels
        else:
            A, a0, a_row, a_rows, off, b_rows = weight, oc * K, K, channels, of_rows, P
        pieces = (b_rows + most - 1) // most
        for piece in range(pieces):  # 1. as many rows of B as a tile takes
            j, end = piece * b_rows // pieces, (piece + 1) * b_rows // pieces
            for v in range(0, vectors, CHAIN):  # 2. a chain
                product_block(  # 3. rows of A
                    a_rows, end - j, A, a0 + v * W, a_row, B, b0 + v * W, tables, off + j, min(CHAIN, vectors - v),
                    scratch, C0 + j, c_row, v > 0,
                )  # fmt: skip
            if K % W and channels_last:
                product_block(
                    a_rows, end - j, A, a0 + vectors * W, a_row, scratch, mine + rest, tables, of_rest + j, 1,
                    scratch, C0 + j, c_row, vectors > 0,
                )  # fmt: skip
            elif K % W:
                product_block(
                    a_rows, end - j, scratch, mine + rest, W, B, b0 + vectors * W, tables, off + j, 1,
                    scratch, C0 + j, c_row, vectors > 0,
                )  # fmt: skip
        if channels_last:
            for p in range(P):
                store_channels(
                    scratch, C0 + p * c_row, out, (n * OP + p) * G * OC + oc, channels, bias, oc, residual, constants
                )
            continue
        for r in range(channels):
            for i in range(images):
                store_row(
                    scratch, C0 + r * c_row + i * OP, out, ((n + i) * G * OC + oc + r) * OP, OP, bias_of(bias, oc + r),
                    residual, constants,
                )  # fmt: skip
