"""The compiled part of Winograd convolution: cut tiles, transform, multiply, transform back, store.

A *block* is a rectangle of tiles of one group: a few images, rows and columns of tiles, one in depth. Its transforms
stay in L2 while it is worked on:

1. forward   for 16 channels at a time (W, a vector): cut the padded input of the block into cells, transform along
             d, h, w; V[point][channel block][tile][W]
2. product   for each point of the transform: [tiles x C] * [C x OC] -> [tiles x OC], the channel form's microkernel
3. backward  for 16 output channels at a time: transform back along w, h, d, store rows through the epilogue

Weights that are used once are transformed between 1 and 2, for each block again, and never leave L2: writing all of
their transforms to memory and reading them back would take longer than the convolution.

A dilated convolution is the plain one on each of the sublattices; tile i of an axis begins at output
i // dilation * (m * dilation) + i % dilation and its cells are `dilation` apart.
"""

from __future__ import annotations

import numpy as np

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.microkernel import gemm_channels
from fastconv.cpu.rows import copy_row, fill_row
from fastconv.cpu.simd import claim, vector_width
from fastconv.cpu.winograd_codelets import (
    backward,
    forward,
    pack_last,
    pack_planes,
    store_last,
    store_planes,
    weights_forward,
)
from fastconv.kernels import tiles as t
from fastconv.kernels.epilogue import FURTHER, HIGHEST, LOWEST, activate
from fastconv.kernels.pack import interior
from fastconv.kernels.tiles import padded_row, row_source, tile_place

# Further places of `geometry`. X*: points of the transforms; M*: outputs of a tile; Q*: tiles of an axis; B*: images,
# rows and columns of tiles in a block; T: tiles of a block; *_STEP: elements between points of V, of M and of the
# weights; OCV: vectors of output channels multiplied together; KC: longest chain of a sum; OFF, AT: tables of the
# microkernel; WEIGHTS, SPECTRA: places in the packed weights; OWN, SHARED: elements of one thread's memory and of the
# memory in front of all; P_*: places in it; FEW: tiles transformed at a time; ONCE: weights come as they are.
(
    XD, XH, XW, MD, MH, MW, QD, QH, QW, BN, BH, BW, T, V_STEP, M_STEP, OCV, KC, OFF, AT, WEIGHTS, SPECTRA, OWN, SHARED,
    P_STATS, P_TAPS, P_WIDE, P_HIGH, P_U, P_STAGE, P_COLUMNS, P_BACK, P_OUT, P_M, P_V, V_SIZE, FEW, ONCE, ALL_FIELDS,
) = range(t.FIELDS, t.FIELDS + 38)  # fmt: skip

#: Input channels whose weights are gathered together: whole vectors of taps.
STAGED = 16

#: What a task does. ALL: a block, from input to output. FORWARD: 16 channels of a block. PRODUCT: some of the output
#: channels of a block, back and out.
ALL, FORWARD, PRODUCT = range(3)

FLOAT32_MAX, FLOAT64_MAX = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)

#: Header of the packed weights: whether a filter is bad, then a flag for each.
BAD, HEADER = range(2)

#: Filters whose sum of |w| is not below this are bad. No weights of any use are; a limit that does not depend on the
#: weights lets tiles be judged before weights are seen.
LARGEST_FILTER = 2.0**30


@inline
def largest_sum(g, S):  # type: ignore[no-untyped-def]
    """Sums of |x| below this overflow nowhere: neither in transforms (2^14) nor in products over all channels."""
    return S.dtype.type((FLOAT32_MAX if S.itemsize == 4 else FLOAT64_MAX) / 2.0**14 / LARGEST_FILTER) / g[t.C]


@inline
def largest_ratio(S):  # type: ignore[no-untyped-def]
    """One |x| may be so many times its surroundings: then their errors stay below 2^-12 of their size."""
    return S.dtype.type(2.0**12 if S.itemsize == 4 else 2.0**41)


@inline
def level(loud, quiet, cells, S):  # type: ignore[no-untyped-def]
    """Whether the largest |x| is no danger for the others, of which so many cells have a sum of `quiet` at least."""
    return loud * S.dtype.type(cells) <= largest_ratio(S) * quiet


@inline
def first_output(i, m, dilation):  # type: ignore[no-untyped-def]
    """Where tile i of an axis begins."""
    return i // dilation * (m * dilation) + i % dilation


@inline
def block_place(g, block):  # type: ignore[no-untyped-def]
    """Group, first image, depth, first row and first column of tiles of a block, and its images, rows and columns."""
    across, down = (g[QW] + g[BW] - 1) // g[BW], (g[QH] + g[BH] - 1) // g[BH]
    many = (g[t.N] + g[BN] - 1) // g[BN]
    q0, block = block % across * g[BW], block // across
    r0, block = block % down * g[BH], block // down
    d, block = block % g[QD], block // g[QD]
    n, group = block % many * g[BN], block // many
    return group, n, d, r0, q0, min(g[BN], g[t.N] - n), min(g[BH], g[QH] - r0), min(g[BW], g[QW] - q0)


@inline
def _cut_row(g, tables, x, x0, lanes, w0, cells, S, at, stats):  # type: ignore[no-untyped-def]
    """Cells w0 .. w0 + cells - 1 of the padded row that begins at x0, for `lanes` channels from there on, to S[at:]."""
    W = vector_width(S)
    plane = g[t.ID] * g[t.IH] * g[t.IW]
    step = g[t.C] * g[t.G] if g[t.LAST] else 1
    lane_step = 1 if g[t.LAST] else plane
    begin, end = interior(w0, 1, g[t.PW], g[t.IW], cells)
    fill_row(S, at, begin * W)
    start = x0 + (w0 - g[t.PW] + begin) * step
    if g[t.LAST]:
        pack_last(end - begin, lanes, x, start, step, S, at + begin * W, S, stats)
    else:
        pack_planes(end - begin, lanes, x, start, plane, S, at + begin * W, S, stats)
    fill_row(S, at + end * W, (cells - end) * W)
    if not g[t.ZEROS]:
        count = g[t.AT_END] - g[t.AT_W]
        for e in range(cells):
            if (e < begin or e >= end) and w0 + e < count:
                source = tables[g[t.AT_W] + w0 + e]
                for i in range(lanes):
                    S[at + e * W + i] = x[x0 + source * step + i * lane_step]


@inline
def _plane(g, width, W):  # type: ignore[no-untyped-def]
    """Elements between staged planes; `pack_planes` may overwrite a vector of cells behind the last row."""
    return (g[t.DH] * g[XH] * width + W) * W


@inline
def _cut(g, tables, x, n, channel, lanes, d0, h0, w0, first, width, S, m):  # type: ignore[no-untyped-def]
    """Stage rows of cells that begin at (d0, h0, w0), from row `first` on, transformed along d.

    Cell (d, h, w) goes to d*plane + (h*width + w)*W, d counting steps of the dilation.
    """
    W, rows = vector_width(S), g[t.DH] * g[XH]
    stage, plane = m + g[P_STAGE], _plane(g, width, W)
    for d in range(g[XD]):
        for r in range(first, rows):
            at, x0 = stage + d * plane + r * width * W, row_source(g, tables, n, channel, d0 + d * g[t.DD], h0 + r)
            if x0 < 0:
                fill_row(S, at, width * W)
            else:
                _cut_row(g, tables, x, x0, lanes, w0, width, S, at, m + g[P_STATS])
    if g[XD] > 1:
        at = stage + first * width * W
        forward(g[XD], 1, (rows - first) * width, S, at, plane, W, 0, S, at, plane, W, 0)


@inline
def _keep(g, width, S, m):  # type: ignore[no-untyped-def]
    """The rows that the next row of tiles shares go to the front."""
    W, rows = vector_width(S), g[t.DH] * g[XH]
    moved = g[t.DH] * g[MH] * width * W
    for d in range(g[XD]):
        at = m + g[P_STAGE] + d * _plane(g, width, W)
        copy_row(S, at + moved, S, at, rows * width * W - moved)


@inline
def _forward(g, tables, x, block, blocks, c, seen, V0, S, m):  # type: ignore[no-untyped-def]
    """V of 16 channels of a block; seen[c, block] says whether some tile of it needs a closer look.

    A few tiles at a time: what they share in `columns` must stay in L1, for a store to a line in L2 costs four cycles.
    """
    W = vector_width(S)
    group, n0, bd, r0, q0, images, rows, cols = block_place(g, block)
    d0, h0, w0 = first_output(bd, g[MD], g[t.DD]), first_output(r0, g[MH], g[t.DH]), first_output(q0, g[MW], g[t.DW])
    width = first_output(q0 + cols - 1, g[MW], g[t.DW]) - w0 + g[t.DW] * (g[XW] - 1) + 1
    lanes, stats = min(W, g[t.C] - c * W), m + g[P_STATS]
    for i in range(W):
        S[stats + i] = S[stats + W + i] = S.dtype.type(0)
        S[stats + 2 * W + i] = S.dtype.type(3e38)
    few, columns, overlap = g[FEW], m + g[P_COLUMNS], g[t.DW] * (g[XW] - g[MW])
    for k in range(images * rows):
        b, r = k // rows, k % rows
        if r % g[t.DH] == 0:
            begin = 0
            if r > 0:
                _keep(g, width, S, m)
                begin = g[t.DH] * (g[XH] - g[MH])
            _cut(g, tables, x, n0 + b, group * g[t.C] + c * W, lanes, d0, h0 + r * g[MH], w0, begin, width, S, m)
        for d in range(g[XD]):
            source = m + g[P_STAGE] + d * _plane(g, width, W) + r % g[t.DH] * width * W
            to = V0 + d * g[XH] * g[XW] * g[V_STEP] + (c * g[T] + k * cols) * W
            for q in range(0, cols, few):
                here, some, pitch = source + q * g[MW] * W, min(few, cols - q), width
                if g[XH] > 1:
                    pitch = min(few * g[MW] + overlap, width - q * g[MW])
                    forward(g[XH], 1, pitch, S, here, g[t.DH] * width * W, W, 0, S, columns, pitch * W, W, 0)
                    here = columns
                # Tiles of all sublattices lie side by side.
                together = some if g[t.DW] == 1 else g[t.DW]
                apart = g[MW] * W if g[t.DW] == 1 else W
                for i in range(0, some, together):
                    forward(
                        g[XW], g[XH], min(together, some - i), S, here + i * g[MW] * W, g[t.DW] * W, apart, pitch * W,
                        S, to + (q + i) * W, g[V_STEP], W, g[XW] * g[V_STEP],
                    )  # fmt: skip
    finite, loud, quiet = True, S.dtype.type(0), S.dtype.type(0)
    for i in range(lanes):
        finite = finite and S[stats + W + i] < largest_sum(g, S)
        loud = max(loud, S[stats + i])
        if S[stats + 2 * W + i] < S.dtype.type(3e38):
            quiet = max(quiet, S[stats + 2 * W + i])
    seen[c * blocks + block] = 0 if finite and level(loud, quiet, width, S) else 1


@inline
def _weights(g, source, group, v, first, end, U, u0, c_step, point_step, S, m):  # type: ignore[no-untyped-def]
    """Transforms of channels `first` .. `end` - 1 of the weights of vector v of output channels, to U[u0:].

    Returns how many channels the vector has; their sums of |w| are left in the second vector of the statistics.
    """
    W, taps = vector_width(S), g[t.KD] * g[t.KH] * g[t.KW]
    stats, staged, wide, high = m + g[P_STATS], m + g[P_TAPS], m + g[P_WIDE], m + g[P_HIGH]
    lanes, begin = min(W, g[t.OC] - v * W), g[WEIGHTS] + (group * g[t.OC] + v * W) * g[t.C] * taps
    points = g[XH] * g[XW]
    for i in range(3 * W):
        S[stats + i] = S.dtype.type(0)
    for c0 in range(first, end, STAGED):
        some = min(STAGED, end - c0)
        pack_planes(some * taps, lanes, source, begin + c0 * taps, g[t.C] * taps, S, staged, S, stats)
        for c in range(some):
            at, step, to = staged + c * taps * W, W, u0 + (c0 - first + c) * c_step
            if g[t.FLIP]:
                at, step = at + (taps - 1) * W, -W
            # 1. along w: [KD x KH][XW]
            weights_forward(
                16 * g[XW] + g[t.KW], 1, g[t.KD] * g[t.KH], S, at, step, g[t.KW] * step, 0, S, wide, W, g[XW] * W, 0
            )
            # 2. along h: [KD][XH][XW], and 3. along d, to where the microkernel wants them
            if g[XD] == 1:
                weights_forward(
                    16 * g[XH] + g[t.KH], 1, g[XW], S, wide, g[XW] * W, W, 0,
                    U, to, g[XW] * point_step, point_step, 0,
                )  # fmt: skip
            else:
                weights_forward(
                    16 * g[XH] + g[t.KH], g[t.KD], g[XW], S, wide, g[XW] * W, W, g[t.KH] * g[XW] * W,
                    S, high, g[XW] * W, W, g[XH] * g[XW] * W,
                )  # fmt: skip
                weights_forward(
                    16 * g[XD] + g[t.KD],
                    1,
                    points,
                    S,
                    high,
                    points * W,
                    W,
                    0,
                    U,
                    to,
                    points * point_step,
                    point_step,
                    0,
                )
    return lanes


@inline
def _product(g, tables, first, end, U, u0, u_step, tiles, vectors, V0, S, m):  # type: ignore[no-untyped-def]
    """M[point] = V[point] U[point]: [tiles x C] * [C x OC] -> [tiles x OC], for each point, u_step apart in U[u0:].

    Of channels `first` .. `end` - 1; what those before them gave is added to.
    """
    W = vector_width(S)
    row = vectors * W
    for p in range(g[XD] * g[XH] * g[XW]):
        for k in range(first, end, g[KC]):
            gemm_channels(
                tiles, vectors, S, V0 + p * g[V_STEP], tables, g[AT], tables, g[OFF] + k, min(g[KC], end - k),
                U, u0 + p * u_step + (k - first) * row, S, m + g[P_M] + p * g[M_STEP], row, k > 0,
            )  # fmt: skip


@inline
def _limits(oc, lanes, bias, epilogue, S, at):  # type: ignore[no-untyped-def]
    """Bias, lowest and highest result of a vector of channels."""
    W = vector_width(S)
    for i in range(W):
        S[at + i] = bias[oc + i] if bias.size and i < lanes else S.dtype.type(0)
        S[at + W + i] = epilogue[LOWEST]
        S[at + 2 * W + i] = epilogue[HIGHEST]


@inline
def _backward(g, block, v, vectors, oc, bias, residual, epilogue, out, S, m):  # type: ignore[no-untyped-def]
    """Vector v of the `vectors` that M holds for each tile, channels `oc` of the group on, to the output."""
    W = vector_width(S)
    group, n0, bd, r0, q0, images, rows, cols = block_place(g, block)
    d0, w0 = first_output(bd, g[MD], g[t.DD]), first_output(q0, g[MW], g[t.DW])
    row, back, result, limits = vectors * W, m + g[P_BACK], m + g[P_OUT], m + g[P_STATS]
    lanes, channel = min(W, g[t.OC] - oc), group * g[t.OC] + oc
    _limits(channel, lanes, bias, epilogue, S, limits)
    plane, channels = g[t.OD] * g[t.OH] * g[t.OW], g[t.OC] * g[t.G]
    few, add = g[FEW], 1 if residual.size else 0
    pitch = (few + g[t.DW] - 1) // g[t.DW] * g[t.DW] * g[MW]
    for k in range(images * rows):
        n, h0 = n0 + k // rows, first_output(r0 + k % rows, g[MH], g[t.DH])
        for q in range(0, cols, few):
            some, w = min(few, cols - q), w0 + q * g[MW]
            cells = min((some + g[t.DW] - 1) // g[t.DW] * g[t.DW] * g[MW], g[t.OW] - w)
            for d in range(g[XD]):
                source = m + g[P_M] + d * g[XH] * g[XW] * g[M_STEP] + (k * cols + q) * row + v * W
                together = some if g[t.DW] == 1 else g[t.DW]
                apart = g[MW] * W if g[t.DW] == 1 else W
                for i in range(0, some, together):
                    backward(
                        16 * g[XW] + g[MW], g[XH], min(together, some - i), S, source + i * row, g[M_STEP], row,
                        g[XW] * g[M_STEP], S, back + i * g[MW] * W, g[t.DW] * W, apart, pitch * W,
                    )  # fmt: skip
                to = result + d * g[MH] * pitch * W
                backward(16 * g[XH] + g[MH], 1, cells, S, back, pitch * W, W, 0, S, to, pitch * W, W, 0)
            if g[XD] > 1:
                step = g[MH] * pitch * W
                backward(16 * g[XD] + g[MD], 1, g[MH] * pitch, S, result, step, W, 0, S, result, step, W, 0)
            for i in range(g[MD] * g[MH]):
                d, h = d0 + i // g[MH] * g[t.DD], h0 + i % g[MH] * g[t.DH]
                if d >= g[t.OD] or h >= g[t.OH]:
                    continue
                source = result + i * pitch * W
                if g[t.LAST]:
                    o0 = (((n * g[t.OD] + d) * g[t.OH] + h) * g[t.OW] + w) * channels + channel
                    store_last(cells, lanes, S, source, out, o0, channels, residual, o0, add, S, limits)
                else:
                    o0 = (((n * channels + channel) * g[t.OD] + d) * g[t.OH] + h) * g[t.OW] + w
                    store_planes(cells, lanes, S, source, out, o0, plane, residual, o0, add, S, limits)
                if epilogue[FURTHER]:
                    for e in range(cells if g[t.LAST] else lanes):
                        if g[t.LAST]:
                            activate(out, o0 + e * channels, lanes, epilogue)
                        else:
                            activate(out, o0 + e * plane, cells, epilogue)


@kernel
def winograd(  # type: ignore[no-untyped-def]
    thread, counter, tasks, g, where, tables, x, packed, seen, bias, residual, epilogue, out, S
):
    """Convolution of blocks; where[0] is the stage. Between FORWARD and PRODUCT V lies in memory that all share.

    Weights used once are `packed` as the caller gave them; the sum of |w| of each filter goes to seen, behind flags.
    """
    stage, W = where[0], vector_width(S)
    m = g[SHARED] + thread * g[OWN]
    channel_blocks = (g[t.C] + W - 1) // W
    vectors = (g[t.OC] + W - 1) // W
    parts = (vectors + g[OCV] - 1) // g[OCV]
    points = g[XD] * g[XH] * g[XW]
    blocks = tasks // (channel_blocks if stage == FORWARD else parts if stage == PRODUCT else 1)
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        block, part = task % blocks, task // blocks
        V0 = m + g[P_V] if stage == ALL else block * g[V_SIZE]
        first, end = (0, channel_blocks) if stage == ALL else (part, part + 1 if stage == FORWARD else part)
        for c in range(first, end):
            _forward(g, tables, x, block, blocks, c, seen, V0, S, m)
        group, _, _, _, _, images, rows, cols = block_place(g, block)
        first, end = (0, parts) if stage == ALL else (part, part + 1 if stage == PRODUCT else part)
        for k in range(first, end):
            v0, v1 = k * vectors // parts, (k + 1) * vectors // parts
            row, together = (v1 - v0) * W, min(g[KC], g[t.C]) if g[ONCE] else g[t.C]
            for c in range(0, g[t.C], together):
                U, u0, u_step = packed, g[SPECTRA] + (group * vectors + v0) * points * g[t.C] * W, g[t.C] * row
                end = min(c + together, g[t.C])
                if g[ONCE]:
                    # One vector more between points: powers of two would fall into few cache sets.
                    U, u0, u_step = S, m + g[P_U], together * row + W
                    for v in range(v0, v1):
                        lanes = _weights(g, packed, group, v, c, end, S, u0 + (v - v0) * W, row, u_step, S, m)
                        if block % (blocks // g[t.G]) == 0:
                            to = blocks * channel_blocks + group * g[t.OC] + v * W
                            for i in range(lanes):
                                before = seen[to + i] if c > 0 else S.dtype.type(0)
                                seen[to + i] = before + S[m + g[P_STATS] + W + i]
                _product(g, tables, c, end, U, u0, u_step, images * rows * cols, v1 - v0, V0, S, m)
            for v in range(v0, v1):
                _backward(g, block, v - v0, v1 - v0, v * W, bias, residual, epilogue, out, S, m)


@kernel
def transform_weights(thread, counter, tasks, g, packed, S):  # type: ignore[no-untyped-def]
    """U[group][part][point][c][channel of the part] from the weights; packed[HEADER + oc]: sum of |w|.

    A task is a vector of output channels.
    """
    W, X = vector_width(S), g[XD] * g[XH] * g[XW]
    vectors = (g[t.OC] + W - 1) // W
    parts = (vectors + g[OCV] - 1) // g[OCV]
    m = thread * g[OWN]
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        group, v = task // vectors, task % vectors
        part = 0
        while (part + 1) * vectors // parts <= v:
            part += 1
        v0, v1 = part * vectors // parts, (part + 1) * vectors // parts
        row, to = (v1 - v0) * W, g[SPECTRA] + (group * vectors + v0) * X * g[t.C] * W + (v - v0) * W
        lanes = _weights(g, packed, group, v, 0, g[t.C], packed, to, row, g[t.C] * row, S, m)
        copy_row(S, m + g[P_STATS] + W, packed, HEADER + group * g[t.OC] + v * W, lanes)


@kernel
def inspect(thread, counter, tasks, g, todo, tables, x, spoilt, S):  # type: ignore[no-untyped-def]
    """spoilt[i] = whether a transform must not be trusted with rectangle todo[2i] (of all images), group todo[2i + 1].

    A transform spreads an error of u times the largest value over its whole tile. So NaN, infinity, a danger of
    overflow, and values that drown the others; the level of the others is that of the channel with the loudest of
    quietest rows, which spikes in a few cells leave alone.
    """
    row, count = g[SHARED] + thread * g[OWN], g[t.ND] * g[t.NH] * g[t.NW]
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        item, group = todo[2 * task], todo[2 * task + 1]
        n, tile = item // count, item % count
        d0, h0, w0, _, _, _ = tile_place(g, tile)
        tame, loud, quiet = True, S.dtype.type(0), S.dtype.type(0)
        for c in range(g[t.C]):
            total, least = S.dtype.type(0), S.dtype.type(0)
            for r in range(g[t.TD] * g[t.TH]):
                x0 = row_source(g, tables, n, group * g[t.C] + c, d0 + r // g[t.TH], h0 + r % g[t.TH])
                if x0 < 0:
                    continue
                padded_row(g, tables, x, x0, w0, g[t.TW], S, row)
                size = S.dtype.type(0)
                for e in range(g[t.TW]):
                    size += abs(S[row + e])
                    loud = max(loud, abs(S[row + e]))
                total += size
                if size > 0 and (least == 0 or size < least):
                    least = size
            tame = tame and total < largest_sum(g, S)
            quiet = max(quiet, least)
        spoilt[task] = 0 if tame and level(loud, quiet, g[t.TW], S) else 1
