"""The compiled part of FFT convolution: cut tiles, transform, multiply, transform back, store. See `fft_transform`.

A kernel exists for each memory order, made by a factory, so that a call compiles only the code it runs.
"""

from __future__ import annotations

from fastconv.cpu.fft_codelets import (
    all_tame, complex_gemm, conjugate_vectors, copy_vectors, cut_row, multiply_vectors, register_tile_size,
)  # fmt: skip
from fastconv.cpu.fft_transform import columns, finish, rows_backward, rows_forward
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.simd import claim, vector_width
from fastconv.kernels.tiles import (
    BLOCK, DD, DH, DW, FIELDS, FLIP, KD, KH, KW, LAST, LINE, ND, NH, NW, OC, PITCH, PW, SD, SH, SW, TD, TH, TW, UD, UH, UW,
    C, G, N, direct_tile, is_inside, padded_row, row_source, stage_channels, store_tile, store_tile_last,
)  # fmt: skip

# Further places of `geometry`. Q: row panels; F: frequency vectors of a spectrum; NEEDED: column panels with outputs;
# DEPTH, HEIGHT: planes and rows of them; PARTS: tasks that share a tile's output channels; CHUNK: tiles worked on
# together; OWN, SHARED: elements of one thread's memory, and of the memory in front of all; M_*: places in it.
(
    Q, F, NEEDED, DEPTH, HEIGHT, WEIGHTS, SPECTRA, PARTS, CHUNK, OWN, SHARED, M_ROW, M_ZERO, M_A, M_PANEL, M_OUT,
    M_STAGE, M_TURN, M_V, M_Y, ALL_FIELDS,
) = range(FIELDS, FIELDS + 21)  # fmt: skip


@inline
def _first_cell(g, tile):  # type: ignore[no-untyped-def]
    """The tile's first cell (d, h, w) in padded coordinates."""
    w = tile % g[NW] * (g[UW] * g[SW])
    h = tile // g[NW] % g[NH] * (g[UH] * g[SH])
    return tile // (g[NW] * g[NH]) * (g[UD] * g[SD]), h, w


@inline
def _cut(g, tables, x, n, channel, tile, limit, seen, at, S, m, staged):  # type: ignore[no-untyped-def]
    """Cut one channel of a tile into column panels, and note in seen[at] whether it needs a closer look.

    staged: where `stage_channels` has put this channel, or -1. Real row h is the real part of row h, or the imaginary
    part of row h - TH/2.
    """
    W = vector_width(S)
    stats, row, zero, a0 = m, m + g[M_ROW], m + g[M_ZERO], m + g[M_A]
    half, width, pitch, panels = g[TH] // 2, g[TW], g[PITCH], g[PITCH] // W
    d0, h0, w0 = _first_cell(g, tile)
    step = g[Q] * W * 2 * W
    for i in range(2 * W):
        S[stats + i] = S.dtype.type(0)
    # Rows that only fill up the last row panel: old memory there could be denormal, and slow.
    for p in range(panels):
        for i in range(a0 + p * step + g[TD] * half * 2 * W, a0 + (p + 1) * step):
            S[i] = S.dtype.type(0)
    for r in range(g[TD] * g[TH]):
        d, h = r // g[TH], r % g[TH]
        dst = a0 + ((d * half + h) * 2 if h < half else (d * half + h - half) * 2 + 1) * W
        if staged >= 0:
            cut_row(panels, S, staged + r * pitch, S, dst, step, S, stats)
            continue
        first = w0
        if g[LINE]:
            d, h, first = 0, 0, w0 + r * width
        x0 = row_source(g, tables, n, channel, d0 + d, h0 + h)
        if x0 < 0:
            cut_row(panels, S, zero, S, dst, step, S, stats)
        elif is_inside(g, first, pitch):
            cut_row(panels, x, x0 + first - g[PW], S, dst, step, S, stats)
        else:
            padded_row(g, tables, x, x0, first, width, S, row)
            cut_row(panels, S, row, S, dst, step, S, stats)
    # An even tile has no lane with a maximum far above its mean; most tiles pass here.
    tame = all_tame(S, stats, limit, S.dtype.type(64.0 * W / (g[TD] * g[TH] * width)))
    seen[at] = S.dtype.type(0 if tame else 1)
    if not tame:
        count = g[N] * g[ND] * g[NH] * g[NW] * g[C] * g[G]
        for i in range(2 * W):
            seen[count + at * 2 * W + i] = S[stats + i]


@inline
def _clear(g, S, m):  # type: ignore[no-untyped-def]
    """The row of zeros, and the end of the row buffer that only fills up a vector."""
    for i in range(g[M_A] - g[M_ROW]):
        S[m + g[M_ROW] + i] = S.dtype.type(0)


# ---- weights -----------------------------------------------------------------------------------------------------


@inline
def _weight_place(g, W, group, oc, c):  # type: ignore[no-untyped-def]
    """Where the spectrum of filter (oc, c) begins, and the step from one frequency to the next.

    With one channel per group spectra are contiguous; else frequency by frequency, packed for `complex_gemm`.
    """
    size = 2 * W
    if g[C] == 1:
        return g[SPECTRA] + (group * g[OC] + oc) * g[F] * size, size
    rows = register_tile_size(0)
    block = oc // rows * rows
    place = oc * g[C] + c
    if block + rows <= g[OC]:
        place = block * g[C] + c * rows + oc - block
    return g[SPECTRA] + (group * g[F] * g[OC] * g[C] + place) * size, g[OC] * g[C] * size


@kernel
def transform_weights(thread, counter, tasks, g, shape, tables, constants, packed, S):  # type: ignore[no-untyped-def]
    """Spectra of all filters, conjugated (for cross-correlation) and scaled; one task is one output channel.

    packed[2 + channel] becomes the filter's sum of |w|.
    """
    W = vector_width(S)
    size = 2 * W
    m = g[SHARED] + thread * g[OWN]
    a0, panel = m + g[M_A], m + g[M_PANEL]
    taps, half, width, rows = g[KD] * g[KH] * g[KW], g[TH] // 2, g[TW], g[Q] * W
    scale = S.dtype.type(1.0 / (g[TD] * half * width))
    panels = g[PITCH] // W if g[LINE] else ((g[KW] - 1) * g[DW] + W) // W
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        total = S.dtype.type(0)
        for c in range(g[C]):
            for i in range(a0, a0 + 2 * g[PITCH] * rows):
                S[i] = S.dtype.type(0)
            first = g[WEIGHTS] + (task * g[C] + c) * taps
            for tap in range(taps):
                w = tap % g[KW] * g[DW]
                h = tap // g[KW] % g[KH] * g[DH]
                d = tap // (g[KW] * g[KH]) * g[DD]
                if g[LINE]:
                    h, w = w // width, w % width
                row = (d * half + h) * 2 if h < half else (d * half + h - half) * 2 + 1
                value = packed[first + (taps - 1 - tap if g[FLIP] else tap)]
                S[a0 + w // W * rows * size + row * W + w % W] = value
                total += abs(value)
            columns(shape, constants, 0, S, a0, panels, 0)
            w0, step = _weight_place(g, W, task // g[OC], task % g[OC], c)
            for q in range(g[Q]):
                rows_forward(shape, constants, 0, S, a0, q, S, panel)
                conjugate_vectors(width, S, panel, packed, w0 + q * width * step, step, scale)
        packed[2 + task] = total


# ---- one channel per group ---------------------------------------------------------------------------------------


def _make_pointwise(last: bool):  # type: ignore[no-untyped-def]
    @kernel
    def pointwise(  # type: ignore[no-untyped-def]
        thread, counter, tasks, g, shape, tables, constants, seen, x, packed, bias, residual, epilogue, out, S
    ):
        """Convolution with one input channel per group: the product is one multiplication per frequency.

        A task is a tile of a few channels (one, unless channels lie last) and a part of each one's output channels.
        """
        W = vector_width(S)
        size, width, slots = 2 * W, g[TW], g[BLOCK]
        m = g[SHARED] + thread * g[OWN]
        a0, panel, spectra, results = m + g[M_A], m + g[M_PANEL], m + g[M_V], m + g[M_OUT]
        tiles, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
        blocks = (g[G] + slots - 1) // slots
        multiplier, parts = g[OC], g[PARTS]
        part = (multiplier + parts - 1) // parts
        _clear(g, S, m)
        while True:
            task = claim(counter)
            if task >= tasks:
                return
            begin = task % parts * part
            end = min(begin + part, multiplier)
            tile = task // parts % tiles
            first = task // (parts * tiles) % blocks * slots
            n = task // (parts * tiles * blocks)
            channels = min(slots, g[G] - first)
            if last:
                d0, h0, w0 = _first_cell(g, tile)
                stage_channels(g, tables, x, n, first, channels, d0, h0, w0, S, m + g[M_STAGE])
            for group in range(first, first + channels):
                staged = -1
                if last:
                    staged = m + g[M_STAGE] + (group - first) * rows
                at = (n * tiles + tile) * g[G] + group
                _cut(g, tables, x, n, group, tile, packed[0], seen, at, S, m, staged)
                columns(shape, constants, 0, S, a0, g[PITCH] // W, 0)
                if multiplier > 1:
                    for q in range(g[Q]):
                        rows_forward(shape, constants, 0, S, a0, q, S, panel)
                        copy_vectors(width, S, panel, size, S, spectra + q * width * size, size)
                for oc in range(begin, end):
                    w0 = g[SPECTRA] + (group * multiplier + oc) * g[F] * size
                    for q in range(g[Q]):
                        spectrum = panel
                        if multiplier > 1:
                            spectrum = spectra + q * width * size
                        else:
                            rows_forward(shape, constants, 0, S, a0, q, S, panel)
                        multiply_vectors(width, 0, S, spectrum, packed, w0 + q * width * size, S, panel)
                        rows_backward(shape, constants, 0, S, a0, q, S, panel, g[NEEDED])
                    slot = group - first if multiplier == 1 else (oc - begin) % slots
                    finish(shape, constants, 0, S, a0, S, results + slot * rows, g[NEEDED], g[DEPTH], g[HEIGHT])
                    if slot == slots - 1 or (oc == end - 1 and (multiplier > 1 or group == first + channels - 1)):
                        oc0 = group * multiplier + oc - slot
                        if last:
                            store_tile_last(
                                g, tile, n, oc0, slot + 1, S, results, rows, m + g[M_TURN], bias, residual, epilogue, out
                            )
                        else:
                            store_tile(g, tile, n, oc0, S, results, bias, residual, epilogue, out)

    return pointwise


# ---- several channels per group ----------------------------------------------------------------------------------


@inline
def _products(g, packed, w0, f, items, S, spectra, results):  # type: ignore[no-untyped-def]
    """Y[f] = W[f] V[f]: [OC x C] * [C x items] -> [OC x items] complex vectors."""
    size, chunk = 2 * vector_width(S), g[CHUNK]
    most_rows, most_cols = register_tile_size(0), register_tile_size(1)
    w0 += f * g[OC] * g[C] * size
    v0 = spectra + f * g[C] * chunk * size
    y0 = results + f * g[OC] * chunk * size
    p = 0
    while p < items:
        cols = most_cols if p + most_cols <= items else 1
        oc = 0
        while oc < g[OC]:
            rows = most_rows if oc + most_rows <= g[OC] else 1
            complex_gemm(
                rows, cols, g[C], packed, w0 + oc * g[C] * size, S, v0 + p * size, chunk * size,
                S, y0 + (oc * chunk + p) * size, chunk * size,
            )  # fmt: skip
            oc += rows
        p += cols


ALL, FORWARD, PRODUCT, INVERSE = range(4)


def _make_channelwise(last: bool):  # type: ignore[no-untyped-def]
    @kernel
    def channelwise(  # type: ignore[no-untyped-def]
        thread, counter, tasks, g, where, shape, tables, constants, seen, x, packed, bias, residual, epilogue, out, S
    ):
        """Convolution with several input channels per group: a small complex GEMM for each vector of frequencies.

        where = (stage, group, first item). Stage ALL takes chunks of tiles through everything in a thread's own
        memory; the other stages share memory, one launch after another, for problems whose spectra outgrow a cache.
        Their tasks are a tile and a block of channels, or a vector of frequencies.
        """
        stage, group, start = where[0], where[1], where[2]
        size, width, slots, chunk = 2 * vector_width(S), g[TW], g[BLOCK], g[CHUNK]
        m = g[SHARED] + thread * g[OWN]
        a0, panel = m + g[M_A], m + g[M_PANEL]
        tiles, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
        everything = g[N] * tiles
        in_blocks, out_blocks = (g[C] + slots - 1) // slots, (g[OC] + slots - 1) // slots
        chunks = (everything + chunk - 1) // chunk
        spectra = (m if stage == ALL else 0) + g[M_V]
        results = (m if stage == ALL else 0) + g[M_Y]
        in_step, out_step = g[C] * chunk * size, g[OC] * chunk * size
        _clear(g, S, m)
        while True:
            task = claim(counter)
            if task >= tasks:
                return
            if stage == ALL:
                group, start = task // chunks, task % chunks * chunk
            items = min(chunk, everything - start)
            # 1. spectra of the input: V[f][c][item]
            first, end = (0, items * in_blocks) if stage == ALL else (task, task + 1 if stage == FORWARD else task)
            for k in range(first, end):
                place, block = k // in_blocks, k % in_blocks * slots
                n, tile = (start + place) // tiles, (start + place) % tiles
                channels = min(slots, g[C] - block)
                channel = group * g[C] + block
                if last:
                    d0, h0, w0 = _first_cell(g, tile)
                    stage_channels(g, tables, x, n, channel, channels, d0, h0, w0, S, m + g[M_STAGE])
                for c in range(channels):
                    staged = -1
                    if last:
                        staged = m + g[M_STAGE] + c * rows
                    at = (start + place) * g[C] * g[G] + channel + c
                    _cut(g, tables, x, n, channel + c, tile, packed[0], seen, at, S, m, staged)
                    columns(shape, constants, 0, S, a0, g[PITCH] // (size // 2), 0)
                    to = spectra + ((block + c) * chunk + place) * size
                    for q in range(g[Q]):
                        rows_forward(shape, constants, 0, S, a0, q, S, panel)
                        copy_vectors(width, S, panel, size, S, to + q * width * in_step, in_step)
            # 2. products: Y[f][oc][item]
            first, end = (0, g[F]) if stage == ALL else (task, task + 1 if stage == PRODUCT else task)
            for f in range(first, end):
                _products(g, packed, g[SPECTRA] + group * g[F] * g[OC] * g[C] * size, f, items, S, spectra, results)
            # 3. back, and out
            first, end = (0, items * out_blocks) if stage == ALL else (task, task + 1 if stage == INVERSE else task)
            for k in range(first, end):
                place, block = k // out_blocks, k % out_blocks * slots
                n, tile = (start + place) // tiles, (start + place) % tiles
                channels = min(slots, g[OC] - block)
                for c in range(channels):
                    come = results + ((block + c) * chunk + place) * size
                    for q in range(g[Q]):
                        copy_vectors(width, S, come + q * width * out_step, out_step, S, panel, size)
                        rows_backward(shape, constants, 0, S, a0, q, S, panel, g[NEEDED])
                    finish(
                        shape, constants, 0, S, a0, S, m + g[M_OUT] + c * rows, g[NEEDED], g[DEPTH], g[HEIGHT]
                    )
                oc = group * g[OC] + block
                if last:
                    store_tile_last(
                        g, tile, n, oc, channels, S, m + g[M_OUT], rows, m + g[M_TURN], bias, residual, epilogue, out
                    )
                else:
                    store_tile(g, tile, n, oc, S, m + g[M_OUT], bias, residual, epilogue, out)

    return channelwise


POINTWISE = {last: _make_pointwise(last) for last in (False, True)}
CHANNELWISE = {last: _make_channelwise(last) for last in (False, True)}


# ---- tiles that a transform would spoil --------------------------------------------------------------------------


@kernel
def recompute(thread, counter, tasks, g, todo, tables, x, packed, bias, residual, epilogue, out, S):  # type: ignore[no-untyped-def]
    """Compute tiles directly: task t is tile todo[2t] (of all images) of output channel todo[2t + 1]."""
    m = g[SHARED] + thread * g[OWN]
    tiles, rows = g[ND] * g[NH] * g[NW], g[TD] * g[TH] * g[PITCH]
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        item, oc = todo[2 * task], todo[2 * task + 1]
        n, tile = item // tiles, item % tiles
        at = m + g[M_OUT]
        direct_tile(g, tables, x, packed, g[WEIGHTS], n, tile, oc, m + g[M_ROW], S, at)
        if g[LAST]:
            store_tile_last(g, tile, n, oc, 1, S, at, rows, m + g[M_TURN], bias, residual, epilogue, out)
        else:
            store_tile(g, tile, n, oc, S, at, bias, residual, epilogue, out)
