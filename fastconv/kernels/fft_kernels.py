"""The compiled part of FFT convolution.

A real tile of TH x TW cells (TD of them in 3-D) is a complex tile of half as many rows: row h is the real part and row
h + TH/2 the imaginary part. As polynomials in y (rows), a product modulo y^(TH/2) - i of such tiles is exactly the
product of the real ones modulo y^TH + 1 (the right-angle convolution of Crandall & Fagin 1994): no half spectra, no
Nyquist rows, no pairing of tiles. Its wrap-round differs in sign from the usual one, and overlap-save drops it anyway.

1. columns:  panels of W columns, W = vector lanes; transforms along h (and d) are vertical vector arithmetic
2. transpose blocks of W rows x W columns in registers
3. rows:     panels of W rows; transforms along w, again vertical
4. product with the spectrum of the weights; the spectrum's order does not matter, so it is never sorted
5. the way back

A `line` is a long signal: row-major, cell j is row j // TW, column j % TW, the ring is the one of x^(TW*TH/2) - i, and
step 3 begins with a twist by the row's root (the four-step transform of Bailey 1990).
"""

from __future__ import annotations

from fastconv.cpu.fft_codelets import (
    all_tame, complex_gemm, copy_vectors, cut_row, fft_pass, multiply_vectors, register_tile_size, untwist_rows,
)  # fmt: skip
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.simd import claim, transpose_block, vector_width
from fastconv.kernels.fft_axes import PASS
from fastconv.kernels.tiles import (
    AT_W, BLOCK, C, DD, DH, DW, FIELDS, FLIP, G, KD, KH, KW, LAST, LINE, NW, N, ND, NH, OC, PITCH, PW, SD, SH, SW,
    TD, TH, TW, UD, UH, UW, direct_tile, is_inside, padded_row, row_source, stage_channels, store_tile,
)  # fmt: skip

# Further places of `geometry`. PLAN_*, COUNT_*, TWIDDLE_*: passes of an axis; M_*: places in a thread's memory.
(
    HALF, ROWS, PANELS, TOGETHER, Q, F, PLAN_D, COUNT_D, TWIDDLE_D, PLAN_H, COUNT_H, TWIDDLE_H, PLAN_W, COUNT_W,
    TWIDDLE_W, UNTWIST, TWIST, WEIGHTS, SPECTRA, PARTS, CHUNK, OWN, M_ROW, M_ZERO, M_A, M_PANEL, M_OUT, M_STAGE, M_TURN,
    M_V, M_Y, M_FLAGS, SHARED, ALL_FIELDS,
) = range(FIELDS, FIELDS + 34)  # fmt: skip


# ---- transforms --------------------------------------------------------------------------------------------------


@inline
def _axis(data, base, backward, tables, plan, count, constants, twiddle, unit, repeat, repeat_step):  # type: ignore[no-untyped-def]
    """All passes along one axis whose points are `unit` elements apart, for `repeat` transforms side by side."""
    for p in range(count):
        t = plan + (p + count * backward) * PASS
        fft_pass(
            tables[t], data, base, backward, constants, twiddle + tables[t + 1], tables[t + 2], tables[t + 3] * unit,
            tables[t + 4], tables[t + 5] * unit, tables[t + 6] * unit, repeat, repeat_step,
        )  # fmt: skip


@inline
def _columns(g, tables, constants, S, a0, panels, backward):  # type: ignore[no-untyped-def]
    """Transform the first `panels` column panels along h and d."""
    size = 2 * vector_width(S)
    panel = g[ROWS] * size
    for p in range(0, panels, g[TOGETHER]):  # panels that fit L1 together go through a pass together
        many, at = min(g[TOGETHER], panels - p), a0 + p * panel
        for d in range(g[TD]):
            _axis(
                S, at + d * g[HALF] * size, backward, tables, g[PLAN_H], g[COUNT_H], constants, g[TWIDDLE_H],
                size, many, panel,
            )  # fmt: skip
        if g[TD] > 1:
            for k in range(many):
                _axis(
                    S, at + k * panel, backward, tables, g[PLAN_D], g[COUNT_D], constants, g[TWIDDLE_D],
                    g[HALF] * size, g[HALF], size,
                )  # fmt: skip


@inline
def _rows_forward(g, tables, constants, S, a0, q, panel):  # type: ignore[no-untyped-def]
    """Row panel q of the tile at a0, transformed along w."""
    W = vector_width(S)
    size = 2 * W
    for p in range(g[PANELS]):
        src, dst = a0 + (p * g[ROWS] + q * W) * size, panel + p * W * size
        transpose_block(S, src, size, S, dst, size)
        transpose_block(S, src + W, size, S, dst + W, size)
    if g[LINE]:
        multiply_vectors(g[TW], 0, S, panel, size, constants, g[TWIST] + q * g[TW] * size, size, S, panel)
    _axis(S, panel, 0, tables, g[PLAN_W], g[COUNT_W], constants, g[TWIDDLE_W], size, 1, 0)


@inline
def _rows_backward(g, tables, constants, S, a0, q, panel, panels):  # type: ignore[no-untyped-def]
    """The way back of `_rows_forward`, for the first `panels` column panels."""
    W = vector_width(S)
    size = 2 * W
    _axis(S, panel, 1, tables, g[PLAN_W], g[COUNT_W], constants, g[TWIDDLE_W], size, 1, 0)
    if g[LINE]:
        multiply_vectors(g[TW], 1, S, panel, size, constants, g[TWIST] + q * g[TW] * size, size, S, panel)
    for p in range(panels):
        src, dst = panel + p * W * size, a0 + (p * g[ROWS] + q * W) * size
        transpose_block(S, src, size, S, dst, size)
        transpose_block(S, src + W, size, S, dst + W, size)


@inline
def _panels_needed(g, W):  # type: ignore[no-untyped-def]
    """Column panels that hold outputs."""
    return g[PANELS] if g[LINE] else ((g[UW] - 1) * g[SW] + W) // W


@inline
def _finish(g, tables, constants, S, a0, out):  # type: ignore[no-untyped-def]
    """Transform columns back and write the real rows that hold outputs to S[out:]."""
    W = vector_width(S)
    panels = _panels_needed(g, W)
    _columns(g, tables, constants, S, a0, panels, 1)
    need = (g[UH] - 1) * g[SH] + 1
    if g[LINE]:
        need = ((g[UW] - 1) * g[SW] + g[TW]) // g[TW]
    both, half = max(need - g[HALF], 0), min(need, g[HALF])
    for p in range(panels):
        for d in range((g[UD] - 1) * g[SD] + 1):
            at = a0 + (p * g[ROWS] + d * g[HALF]) * 2 * W
            re = out + d * g[TH] * g[PITCH] + p * W
            im = re + g[HALF] * g[PITCH]
            untwist_rows(0, both, S, at, constants, g[UNTWIST], S, re, im, g[PITCH], 1)
            untwist_rows(both, half, S, at, constants, g[UNTWIST], S, re, im, g[PITCH], 0)


# ---- cutting -----------------------------------------------------------------------------------------------------


@inline
def _zero_spare_rows(g, S, a0):  # type: ignore[no-untyped-def]
    """Rows that only fill up the last row panel: old memory there could be denormal, and slow."""
    size = 2 * vector_width(S)
    for p in range(g[PANELS]):
        for k in range((p * g[ROWS] + g[TD] * g[HALF]) * size, (p + 1) * g[ROWS] * size):
            S[a0 + k] = S.dtype.type(0)


@inline
def _is_wild(g, packed, S, stats):  # type: ignore[no-untyped-def]
    """Whether a tile holds NaN, infinity, something that may overflow, or a few values that would drown all others.

    packed[0] is the largest harmless sum of a tile, packed[1] how far the maximum may exceed the quiet lanes' mean.
    """
    W = vector_width(S)
    cells = g[TD] * g[TH] * g[TW]
    limit = packed[0]
    if all_tame(S, stats, limit, S.dtype.type(64.0 * W / cells)):
        return False
    highest, used = S.dtype.type(0), 0
    for i in range(W):
        if not S[stats + i] < limit:
            return True
        highest = max(highest, S[stats + W + i])
        used += S[stats + i] > 0
    # The quiet level is the median lane: spikes in a few lanes leave it alone, and so do stripes of zeros.
    quiet = S.dtype.type(0)
    for i in range(W):
        below = 0
        for j in range(W):
            below += S[stats + j] < S[stats + i]
        if below <= W - used + (used - 1) // 2:
            quiet = max(quiet, S[stats + i])
    return highest * cells > packed[1] * quiet * W


@inline
def _cut(g, tables, constants, x, n, channel, tile, packed, S, m, staged):  # type: ignore[no-untyped-def]
    """Cut one channel of a tile into column panels and transform the columns; whether it is wild (see `_is_wild`).

    staged: where `stage_channels` has put this channel, or -1.
    """
    W = vector_width(S)
    a0, row, stats = m + g[M_A], m + g[M_ROW], m
    half, width, pitch = g[HALF], g[TW], g[PITCH]
    step = g[ROWS] * 2 * W
    for i in range(2 * W):
        S[stats + i] = S.dtype.type(0)
    _zero_spare_rows(g, S, a0)
    w0 = tile % g[NW] * g[UW] * g[SW]
    h0 = tile // g[NW] % g[NH] * g[UH] * g[SH]
    d0 = tile // (g[NW] * g[NH]) * g[UD] * g[SD]
    for d in range(g[TD]):
        for h in range(2 * half):
            dst = a0 + (d * half + (h if h < half else h - half)) * 2 * W + (0 if h < half else W)
            if staged >= 0:
                cut_row(g[PANELS], S, staged + (d * 2 * half + h) * pitch, S, dst, step, stats)
                continue
            if g[LINE]:
                x0, first = row_source(g, tables, n, channel, 0, 0), w0 + h * width
            else:
                x0, first = row_source(g, tables, n, channel, d0 + d, h0 + h), w0
            if x0 < 0:
                cut_row(g[PANELS], S, m + g[M_ZERO], S, dst, step, stats)
            elif is_inside(g, first, g[PANELS] * W):
                cut_row(g[PANELS], x, x0 + first - g[PW], S, dst, step, stats)
            else:
                padded_row(g, tables, x, x0, first, width, S, row)
                for k in range(width, pitch):
                    S[row + k] = S.dtype.type(0)
                cut_row(g[PANELS], S, row, S, dst, step, stats)
    _columns(g, tables, constants, S, a0, g[PANELS], 0)
    return _is_wild(g, packed, S, stats)


# ---- weights -----------------------------------------------------------------------------------------------------


@inline
def _weight_place(g, packed, group, oc, c):  # type: ignore[no-untyped-def]
    """Where the spectrum of filter (oc, c) begins, and the step from one frequency to the next.

    With one channel per group spectra are contiguous; else frequency by frequency, packed for `complex_gemm`.
    """
    size = 2 * vector_width(packed)
    if g[C] == 1:
        return g[SPECTRA] + (group * g[OC] + oc) * g[F] * size, size
    rows = register_tile_size(0)
    block = oc // rows * rows
    place = oc * g[C] + c
    if block + rows <= g[OC]:
        place = block * g[C] + c * rows + oc - block
    return g[SPECTRA] + (group * g[F] * g[OC] * g[C] + place) * size, g[OC] * g[C] * size


@kernel
def transform_weights(thread, counter, tasks, g, tables, constants, packed, S):  # type: ignore[no-untyped-def]
    """Spectra of all filters, conjugated (for cross-correlation) and scaled; one task is one output channel."""
    W = vector_width(S)
    size = 2 * W
    m = g[SHARED] + thread * g[OWN]
    a0, panel = m + g[M_A], m + g[M_PANEL]
    taps, half, width = g[KD] * g[KH] * g[KW], g[HALF], g[TW]
    scale = S.dtype.type(1.0 / (g[TD] * half * width))
    columns = g[PANELS] if g[LINE] else ((g[KW] - 1) * g[DW] + W) // W
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        total = S.dtype.type(0)
        for i in range(g[C] * taps):
            total += abs(packed[g[WEIGHTS] + task * g[C] * taps + i])
        packed[2 + task] = total
        for c in range(g[C]):
            for i in range(g[PANELS] * g[ROWS] * size):
                S[a0 + i] = S.dtype.type(0)
            for tap in range(taps):
                w = tap % g[KW] * g[DW]
                h = tap // g[KW] % g[KH] * g[DH]
                d = tap // (g[KW] * g[KH]) * g[DD]
                if g[LINE]:
                    h, w = w // width, w % width
                row = d * half + (h if h < half else h - half)
                place = a0 + (w // W * g[ROWS] + row) * size + w % W + (0 if h < half else W)
                S[place] = packed[g[WEIGHTS] + (task * g[C] + c) * taps + (taps - 1 - tap if g[FLIP] else tap)]
            _columns(g, tables, constants, S, a0, columns, 0)
            w0, step = _weight_place(g, packed, task // g[OC], task % g[OC], c)
            for q in range(g[Q]):
                _rows_forward(g, tables, constants, S, a0, q, panel)
                copy_vectors(width, S, panel, size, packed, w0 + q * width * step, step, scale, -scale)


# ---- one channel per group ---------------------------------------------------------------------------------------


@kernel
def pointwise(thread, counter, tasks, g, tables, constants, x, packed, bias, residual, epilogue, out, S):  # type: ignore[no-untyped-def]
    """Convolution with one input channel per group: the product is one multiplication per frequency.

    A task is a tile of a few channels (one, unless channels lie last) and a part of each one's output channels.
    """
    W = vector_width(S)
    size = 2 * W
    m = g[SHARED] + thread * g[OWN]
    a0, panel, zero = m + g[M_A], m + g[M_PANEL], m + g[M_ZERO]
    tiles, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
    blocks = (g[G] + g[BLOCK] - 1) // g[BLOCK]
    part = (g[OC] + g[PARTS] - 1) // g[PARTS]
    for i in range(g[PITCH]):
        S[zero + i] = S.dtype.type(0)
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        begin = task % g[PARTS] * part
        end = min(begin + part, g[OC])
        tile = task // g[PARTS] % tiles
        first = task // (g[PARTS] * tiles) % blocks * g[BLOCK]
        n = task // (g[PARTS] * tiles * blocks)
        channels = min(g[BLOCK], g[G] - first)
        if g[LAST]:
            _stage(g, tables, x, n, first, channels, tile, S, m)
        for c in range(channels):
            group = first + c
            staged = m + g[M_STAGE] + c * rows if g[LAST] else -1
            wild = _cut(g, tables, constants, x, n, group, tile, packed, S, m, staged)
            if g[OC] > 1 and not wild:
                for q in range(g[Q]):
                    _rows_forward(g, tables, constants, S, a0, q, panel)
                    copy_vectors(
                        g[TW], S, panel, size, S, m + g[M_V] + q * g[TW] * size, size, S.dtype.type(1), S.dtype.type(1)
                    )
            for oc in range(begin, end):
                slot = c if g[OC] == 1 else (oc - begin) % g[BLOCK]
                at = m + g[M_OUT] + slot * rows
                if wild or packed[2 + group * g[OC] + oc] != 0:
                    direct_tile(g, tables, x, packed, g[WEIGHTS], n, tile, group, oc, m + g[M_ROW], S, at)
                else:
                    for q in range(g[Q]):
                        w0 = g[SPECTRA] + ((group * g[OC] + oc) * g[F] + q * g[TW]) * size
                        spectrum = panel
                        if g[OC] == 1:
                            _rows_forward(g, tables, constants, S, a0, q, panel)
                        else:
                            spectrum = m + g[M_V] + q * g[TW] * size
                        multiply_vectors(g[TW], 0, S, spectrum, size, packed, w0, size, S, panel)
                        _rows_backward(g, tables, constants, S, a0, q, panel, _panels_needed(g, W))
                    _finish(g, tables, constants, S, a0, at)
                if slot == g[BLOCK] - 1 or (oc == end - 1 and (g[OC] > 1 or c == channels - 1)):
                    store_tile(
                        g, tile, n, group * g[OC] + oc - slot, slot + 1, S, m + g[M_OUT], rows, m + g[M_TURN],
                        bias, residual, epilogue, out,
                    )  # fmt: skip


@inline
def _stage(g, tables, x, n, channel, channels, tile, S, m):  # type: ignore[no-untyped-def]
    w0 = tile % g[NW] * g[UW] * g[SW]
    h0 = tile // g[NW] % g[NH] * g[UH] * g[SH]
    d0 = tile // (g[NW] * g[NH]) * g[UD] * g[SD]
    stage_channels(g, tables, x, n, channel, channels, d0, h0, w0, S, m + g[M_STAGE])


# ---- several channels per group ----------------------------------------------------------------------------------


@inline
def _forward_item(g, tables, constants, x, packed, group, item, place, block, S, m, shared):  # type: ignore[no-untyped-def]
    """Spectra of a block of channels of tile `item`: V[f][c][place]."""
    size = 2 * vector_width(S)
    tiles, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
    n, tile = item // tiles, item % tiles
    channels = min(g[BLOCK], g[C] - block)
    channel = group * g[C] + block
    step = g[C] * g[CHUNK] * size
    if g[LAST]:
        _stage(g, tables, x, n, channel, channels, tile, S, m)
    for i in range(g[PITCH]):
        S[m + g[M_ZERO] + i] = S.dtype.type(0)
    for c in range(channels):
        staged = m + g[M_STAGE] + c * rows if g[LAST] else -1
        wild = _cut(g, tables, constants, x, n, channel + c, tile, packed, S, m, staged)
        S[shared + g[M_FLAGS] + place * g[C] + block + c] = S.dtype.type(1 if wild else 0)
        v0 = shared + g[M_V] + ((block + c) * g[CHUNK] + place) * size
        for q in range(g[Q]):
            _rows_forward(g, tables, constants, S, m + g[M_A], q, m + g[M_PANEL])
            copy_vectors(
                g[TW], S, m + g[M_PANEL], size, S, v0 + q * g[TW] * step, step, S.dtype.type(1), S.dtype.type(1)
            )


@inline
def _products(g, packed, group, f, items, S, shared):  # type: ignore[no-untyped-def]
    """Y[f] = W[f] V[f]: [OC x C] * [C x items] -> [OC x items] complex vectors."""
    size = 2 * vector_width(S)
    most_rows, most_cols = register_tile_size(0), register_tile_size(1)
    w0 = g[SPECTRA] + (group * g[F] + f) * g[OC] * g[C] * size
    v0 = shared + g[M_V] + f * g[C] * g[CHUNK] * size
    y0 = shared + g[M_Y] + f * g[OC] * g[CHUNK] * size
    p = 0
    while p < items:
        cols = most_cols if p + most_cols <= items else 1
        oc = 0
        while oc < g[OC]:
            rows = most_rows if oc + most_rows <= g[OC] else 1
            complex_gemm(
                rows, cols, g[C], packed, w0 + oc * g[C] * size, S, v0 + p * size, g[CHUNK] * size,
                S, y0 + (oc * g[CHUNK] + p) * size, g[CHUNK] * size,
            )  # fmt: skip
            oc += rows
        p += cols


@inline
def _inverse_item(  # type: ignore[no-untyped-def]
    g, tables, constants, x, packed, group, item, place, block, S, m, shared, bias, residual, epilogue, out
):
    """Transform a block of output channels of tile `item` back and store it."""
    W = vector_width(S)
    size = 2 * W
    tiles, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
    n, tile = item // tiles, item % tiles
    channels = min(g[BLOCK], g[OC] - block)
    a0, panel = m + g[M_A], m + g[M_PANEL]
    step = g[OC] * g[CHUNK] * size
    wild = False
    for c in range(g[C]):
        if S[shared + g[M_FLAGS] + place * g[C] + c] != 0:
            wild = True
    for k in range(channels):
        oc = block + k
        at = m + g[M_OUT] + k * rows
        if wild or packed[2 + group * g[OC] + oc] != 0:
            direct_tile(g, tables, x, packed, g[WEIGHTS], n, tile, group, oc, m + g[M_ROW], S, at)
            continue
        y0 = shared + g[M_Y] + (oc * g[CHUNK] + place) * size
        for q in range(g[Q]):
            copy_vectors(
                g[TW], S, y0 + q * g[TW] * step, step, S, panel, size, S.dtype.type(1), S.dtype.type(1)
            )
            _rows_backward(g, tables, constants, S, a0, q, panel, _panels_needed(g, W))
        _finish(g, tables, constants, S, a0, at)
    store_tile(
        g, tile, n, group * g[OC] + block, channels, S, m + g[M_OUT], rows, m + g[M_TURN], bias, residual, epilogue, out
    )


ALL, FORWARD, PRODUCT, INVERSE = range(4)


@kernel
def channelwise(thread, counter, tasks, g, where, tables, constants, x, packed, bias, residual, epilogue, out, S):  # type: ignore[no-untyped-def]
    """Convolution with several input channels per group: a small complex GEMM for each vector of frequencies.

    where = (stage, group, first item): stage ALL takes chunks of tiles through everything in a thread's own memory;
    the other stages share memory, one launch after another, for problems whose spectra outgrow the caches. Their
    tasks are a tile and a block of channels, or a vector of frequencies.
    """
    stage, group, start = where[0], where[1], where[2]
    m = g[SHARED] + thread * g[OWN]
    items_all = g[N] * g[ND] * g[NH] * g[NW]
    in_blocks, out_blocks = (g[C] + g[BLOCK] - 1) // g[BLOCK], (g[OC] + g[BLOCK] - 1) // g[BLOCK]
    chunks = (items_all + g[CHUNK] - 1) // g[CHUNK]
    shared = m if stage == ALL else 0
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        f_begin, f_end, in_begin, in_end, out_begin, out_end = 0, 0, 0, 0, 0, 0
        if stage == ALL:
            group, start = task // chunks, task % chunks * g[CHUNK]
        items = min(g[CHUNK], items_all - start)
        if stage == ALL:
            f_end, in_end, out_end = g[F], items * in_blocks, items * out_blocks
        elif stage == FORWARD:
            in_begin, in_end = task, task + 1
        elif stage == PRODUCT:
            f_begin, f_end = task, task + 1
        else:
            out_begin, out_end = task, task + 1
        for k in range(in_begin, in_end):
            place, block = k // in_blocks, k % in_blocks * g[BLOCK]
            _forward_item(g, tables, constants, x, packed, group, start + place, place, block, S, m, shared)
        for f in range(f_begin, f_end):
            _products(g, packed, group, f, items, S, shared)
        for k in range(out_begin, out_end):
            place, block = k // out_blocks, k % out_blocks * g[BLOCK]
            _inverse_item(
                g, tables, constants, x, packed, group, start + place, place, block, S, m, shared,
                bias, residual, epilogue, out,
            )  # fmt: skip
