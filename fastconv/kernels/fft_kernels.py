"""The compiled part of FFT convolution: cut tiles, transform, multiply, transform back, store. See `fft_transform`.

A kernel exists for each memory order, made by a factory, so that a call compiles only the code it runs.
"""

from __future__ import annotations

from fastconv.cpu.fft_codelets import (
    all_tame,
    complex_gemm,
    conjugate_vectors,
    copy_vectors,
    cut_rows,
    multiply_vectors,
    register_tile_size,
)
from fastconv.cpu.fft_transform import TOGETHER, columns, finish, rows_backward, rows_forward
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import copy_row, fill_row
from fastconv.cpu.simd import claim, vector_width
from fastconv.cpu.vectors import magnitude, row_reduce
from fastconv.kernels import tiles as t
from fastconv.kernels.tiles import padded_row, row_source, stage_channels, store_tile, store_tile_last

# Further places of `geometry`. Q: row panels; F: frequency vectors of a spectrum; NEEDED: column panels with outputs;
# DEPTH, HEIGHT: planes and rows of them; PARTS: tasks that share a tile's output channels; CHUNK: tiles worked on
# together; OWN, SHARED: elements of one thread's memory, and of the memory in front of all; M_*: places in it.
(
    Q, F, NEEDED, DEPTH, HEIGHT, WEIGHTS, SPECTRA, PARTS, CHUNK, OWN, SHARED, M_ROW, M_A, M_PANEL, M_OUT, M_STAGE,
    M_TURN, M_V, M_Y, ALL_FIELDS,
) = range(t.FIELDS, t.FIELDS + 20)  # fmt: skip


@inline
def _first_cell(g, tile):  # type: ignore[no-untyped-def]
    """The tile's first cell (d, h, w) in padded coordinates."""
    w = tile % g[t.NW] * (g[t.UW] * g[t.SW])
    h = tile // g[t.NW] % g[t.NH] * (g[t.UH] * g[t.SH])
    return tile // (g[t.NW] * g[t.NH]) * (g[t.UD] * g[t.SD]), h, w


@inline
def _odd_row(g, tables, x, n, channel, d, h, first, cells, vectors, S, m, dst, step):  # type: ignore[no-untyped-def]
    """Cut `cells` cells of a row that does not lie in x as it is: padding, or the end of a line."""
    row, x0 = m + g[M_ROW], row_source(g, tables, n, channel, d, h)
    if x0 < 0:
        cells = 0
    else:
        padded_row(g, tables, x, x0, first, cells, S, row)
    cut_rows(1, vectors, 0, cells, S, row, 0, S, dst, step, S, m)


@inline
def _cut(g, shape, tables, constants, x, n, channel, tile, limit, seen, at, S, m, staged):  # type: ignore[no-untyped-def]
    """Cut one channel of a tile into column panels and transform the columns, a few panels at a time that stay in L1.

    Real row h is the real part of row h, or the imaginary part of row h - TH/2. seen[at] says whether the tile needs a
    closer look. staged: where `stage_channels` has put this channel, or -1.
    """
    W = vector_width(S)
    half, width, panels, together = g[t.TH] // 2, g[t.TW], g[t.PITCH] // W, shape[TOGETHER]
    d0, h0, w0 = _first_cell(g, tile)
    step = g[Q] * W * 2 * W
    for i in range(2 * W):
        S[m + i] = S.dtype.type(0)
    # The columns and rows of the tile (of a line: cells, and rows without padding) that lie in x.
    left, right, x_row = g[t.PW] - w0, g[t.PW] + g[t.IW] - w0, g[t.IW]
    top, bottom = max(g[t.PH] - h0, 0), g[t.PH] + g[t.IH] - h0
    if g[t.LINE]:
        top, bottom, x_row = (max(left, 0) + width - 1) // width, right // width, width
    for p in range(0, panels, together):
        many, first = min(together, panels - p), p * W
        a0, cells = m + g[M_A] + p * step, min(many * W, width - first)
        begin, end = max(left - first, 0), min(right - first, cells)
        straight = g[t.ZEROS] or (begin == 0 and end == cells)
        if g[t.LINE]:
            begin, end, straight = 0, cells, True
        for r in range(2 * g[t.TD]):
            d, part = r // 2, r % 2 * half
            dst = a0 + (d * half * 2 + r % 2) * W
            if staged >= 0:
                row = staged + (d * g[t.TH] + part) * g[t.PITCH] + first
                cut_rows(half, many, 0, many * W, S, row, g[t.PITCH], S, dst, step, S, m)
                continue
            # Rows low .. high - 1 of this half lie in x one after another; what is beside x in them is zeros.
            low = min(max(top - part, 0), half)
            high = min(max(bottom - part, low), half)
            at_d = tables[g[t.AT_D] + d0 + d] if d0 + d < g[t.AT_H] - g[t.AT_D] else -1
            if at_d < 0 or not straight:
                high = low
            x0 = ((n * g[t.C] * g[t.G] + channel) * g[t.ID] + at_d) * g[t.IH] * g[t.IW] + first - left
            x0 += (part + low + h0 - g[t.PH]) * x_row
            cut_rows(high - low, many, begin, end, x, x0, x_row, S, dst + low * 2 * W, step, S, m)
            for h in range(half - (high - low)):
                if h >= low:
                    h += high - low
                to, at_h, at_w = dst + h * 2 * W, h0 + part + h, w0 + first
                if g[t.LINE]:
                    at_h, at_w = 0, at_w + (part + h) * width
                _odd_row(g, tables, x, n, channel, d0 + d, at_h, at_w, cells, many, S, m, to, step)
        # Rows that only fill up the last row panel: old memory there could be denormal, and slow.
        for k in range(many):
            for i in range(a0 + k * step + g[t.TD] * half * 2 * W, a0 + (k + 1) * step):
                S[i] = S.dtype.type(0)
        columns(shape, constants, 0, S, a0, many, 0)
    # An even tile has no lane with a maximum far above its mean; most tiles pass here.
    tame = all_tame(S, m, limit, S.dtype.type(64.0 * W / (g[t.TD] * g[t.TH] * width)))
    seen[at] = S.dtype.type(0 if tame else 1)
    if not tame:
        count = g[t.N] * g[t.ND] * g[t.NH] * g[t.NW] * g[t.C] * g[t.G]
        for i in range(2 * W):
            seen[count + at * 2 * W + i] = S[m + i]


@inline
def _clear(g, S, m):  # type: ignore[no-untyped-def]
    """The row buffer: its last vector may be filled in part only."""
    for i in range(g[M_A] - g[M_ROW]):
        S[m + g[M_ROW] + i] = S.dtype.type(0)


# ---- weights -----------------------------------------------------------------------------------------------------


_sum_of_sizes = row_reduce(1, 0, 1, lambda e, x, s: [magnitude(e, x[0])])


@inline
def _place_weights(g, packed, first, width, rows, S, a0):  # type: ignore[no-untyped-def]
    """Put one filter into column panels of zeros; returns the sum of |w|."""
    W = vector_width(S)
    size, half, taps = 2 * W, g[t.TH] // 2, g[t.KD] * g[t.KH] * g[t.KW]
    fill_row(S, a0, 2 * g[t.PITCH] * rows)
    tap, step = first, 1
    if g[t.FLIP]:
        tap, step = first + taps - 1, -1
    straight = g[t.DW] == 1 and step == 1 and not g[t.LINE]
    for d in range(g[t.KD]):
        for h in range(g[t.KH]):
            row, w = h * g[t.DH], 0
            while w < g[t.KW] * g[t.DW]:
                line, place = row + w // width, w % width  # a line goes on in the next row
                at = (d * g[t.DD] * half + line) * 2 if line < half else (d * g[t.DD] * half + line - half) * 2 + 1
                to = a0 + place // W * rows * size + at * W + place % W
                if straight:  # a vector of a panel at once
                    copy_row(packed, tap, S, to, min(W, g[t.KW] - w))
                    tap, w = tap + min(W, g[t.KW] - w), w + W
                else:
                    S[to] = packed[tap]
                    tap, w = tap + step, w + g[t.DW]
    return _sum_of_sizes(taps, 1, 0, packed, first)[0]


@kernel
def transform_weights(thread, counter, tasks, g, shape, tables, constants, packed, S):  # type: ignore[no-untyped-def]
    """Spectra of all filters, conjugated (for cross-correlation) and scaled; packed[2 + channel]: sum of |w|.

    With one channel per group spectra are contiguous. Else they lie frequency by frequency, packed for `complex_gemm`;
    a task is as many output channels as it takes at once, and collects spectra of several input channels in S, for
    single vectors scattered over all of the weights would miss every cache.
    """
    W = vector_width(S)
    size = 2 * W
    m = thread * g[OWN]
    a0, panel, buffer = m + g[M_A], m + g[M_PANEL], m + g[M_V]
    taps, width, rows = g[t.KD] * g[t.KH] * g[t.KW], g[t.TW], g[Q] * W
    scale = S.dtype.type(1.0 / (g[t.TD] * (g[t.TH] // 2) * width))
    panels = g[t.PITCH] // W if g[t.LINE] else ((g[t.KW] - 1) * g[t.DW] + W) // W
    most = 1 if g[t.C] == 1 else register_tile_size(0)
    blocks, whole = (g[t.OC] + most - 1) // most, g[t.OC] // most * most
    while True:
        task = claim(counter)
        if task >= tasks:
            return
        group, begin = task // blocks, task % blocks * most
        end = min(begin + most, g[t.OC])
        together = end - begin if end <= whole else 1
        for oc0 in range(begin, end, together):
            for c0 in range(0, g[t.C], g[CHUNK]):
                channels = min(g[CHUNK], g[t.C] - c0)
                column = channels * together * size
                for oc in range(oc0, oc0 + together):
                    for c in range(c0, c0 + channels):
                        at = (group * g[t.OC] + oc) * g[t.C] + c
                        total = _place_weights(g, packed, g[WEIGHTS] + at * taps, width, rows, S, a0)
                        if c == 0:
                            packed[2 + group * g[t.OC] + oc] = S.dtype.type(0)
                        packed[2 + group * g[t.OC] + oc] += total
                        columns(shape, constants, 0, S, a0, panels, 0)
                        for q in range(g[Q]):
                            rows_forward(shape, constants, 0, S, a0, q, S, panel)
                            to = buffer + (q * width * channels + c - c0) * together * size + (oc - oc0) * size
                            conjugate_vectors(width, S, panel, S, to, column, scale)
                w0 = g[SPECTRA] + (group * g[F] * g[t.OC] * g[t.C] + oc0 * g[t.C] + c0 * together) * size
                step = g[t.OC] * g[t.C] * size
                if g[t.C] == 1:
                    w0, step = g[SPECTRA] + (group * g[t.OC] + oc0) * g[F] * size, size
                for f in range(g[F]):
                    copy_vectors(channels * together, S, buffer + f * column, size, packed, w0 + f * step, size)


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
        size, width, slots = 2 * W, g[t.TW], g[t.BLOCK]
        m = g[SHARED] + thread * g[OWN]
        a0, panel, spectra, results = m + g[M_A], m + g[M_PANEL], m + g[M_V], m + g[M_OUT]
        tiles, rows = g[t.ND] * g[t.NH] * g[t.NW], g[t.TD] * g[t.TH] * g[t.PITCH]
        blocks = (g[t.G] + slots - 1) // slots
        multiplier, parts = g[t.OC], g[PARTS]
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
            channels = min(slots, g[t.G] - first)
            if last:
                d0, h0, w0 = _first_cell(g, tile)
                stage_channels(g, tables, x, n, first, channels, d0, h0, w0, S, m + g[M_STAGE])
            for group in range(first, first + channels):
                staged = -1
                if last:
                    staged = m + g[M_STAGE] + (group - first) * rows
                at = (n * tiles + tile) * g[t.G] + group
                _cut(g, shape, tables, constants, x, n, group, tile, packed[0], seen, at, S, m, staged)
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
                                g, tile, n, oc0, slot + 1, S, results, rows, m + g[M_TURN],
                                bias, residual, epilogue, out,
                            )  # fmt: skip
                        else:
                            store_tile(g, tile, n, oc0, S, results, bias, residual, epilogue, out)

    return pointwise


# ---- several channels per group ----------------------------------------------------------------------------------


@inline
def _products(g, packed, w0, f, items, S, spectra, results):  # type: ignore[no-untyped-def]
    """Y[f] = W[f] V[f]: [OC x C] * [C x items] -> [OC x items] complex vectors."""
    size, chunk = 2 * vector_width(S), g[CHUNK]
    most_rows, most_cols = register_tile_size(0), register_tile_size(1)
    w0 += f * g[t.OC] * g[t.C] * size
    v0 = spectra + f * (g[t.C] * chunk + 1) * size
    y0 = results + f * (g[t.OC] * chunk + 1) * size
    p = 0
    while p < items:
        cols = most_cols if p + most_cols <= items else 1
        oc = 0
        while oc < g[t.OC]:
            rows = most_rows if oc + most_rows <= g[t.OC] else 1
            complex_gemm(
                rows, cols, g[t.C], packed, w0 + oc * g[t.C] * size, S, v0 + p * size, chunk * size,
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
        size, width, slots, chunk = 2 * vector_width(S), g[t.TW], g[t.BLOCK], g[CHUNK]
        m = g[SHARED] + thread * g[OWN]
        a0, panel = m + g[M_A], m + g[M_PANEL]
        tiles, rows = g[t.ND] * g[t.NH] * g[t.NW], g[t.TD] * g[t.TH] * g[t.PITCH]
        everything = g[t.N] * tiles
        in_blocks, out_blocks = (g[t.C] + slots - 1) // slots, (g[t.OC] + slots - 1) // slots
        chunks = (everything + chunk - 1) // chunk
        spectra = (m if stage == ALL else 0) + g[M_V]
        results = (m if stage == ALL else 0) + g[M_Y]
        # One vector more between frequencies: powers of two would fall into few cache sets.
        in_step, out_step = (g[t.C] * chunk + 1) * size, (g[t.OC] * chunk + 1) * size
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
                channels = min(slots, g[t.C] - block)
                channel = group * g[t.C] + block
                if last:
                    d0, h0, w0 = _first_cell(g, tile)
                    stage_channels(g, tables, x, n, channel, channels, d0, h0, w0, S, m + g[M_STAGE])
                for c in range(channels):
                    staged = -1
                    if last:
                        staged = m + g[M_STAGE] + c * rows
                    at = (start + place) * g[t.C] * g[t.G] + channel + c
                    _cut(g, shape, tables, constants, x, n, channel + c, tile, packed[0], seen, at, S, m, staged)
                    to = spectra + ((block + c) * chunk + place) * size
                    for q in range(g[Q]):
                        rows_forward(shape, constants, 0, S, a0, q, S, panel)
                        copy_vectors(width, S, panel, size, S, to + q * width * in_step, in_step)
            # 2. products: Y[f][oc][item]
            first, end = (0, g[F]) if stage == ALL else (task, task + 1 if stage == PRODUCT else task)
            for f in range(first, end):
                _products(g, packed, g[SPECTRA] + group * g[F] * g[t.OC] * g[t.C] * size, f, items, S, spectra, results)
            # 3. back, and out
            first, end = (0, items * out_blocks) if stage == ALL else (task, task + 1 if stage == INVERSE else task)
            for k in range(first, end):
                place, block = k // out_blocks, k % out_blocks * slots
                n, tile = (start + place) // tiles, (start + place) % tiles
                channels = min(slots, g[t.OC] - block)
                for c in range(channels):
                    come = results + ((block + c) * chunk + place) * size
                    for q in range(g[Q]):
                        copy_vectors(width, S, come + q * width * out_step, out_step, S, panel, size)
                        rows_backward(shape, constants, 0, S, a0, q, S, panel, g[NEEDED])
                    finish(shape, constants, 0, S, a0, S, m + g[M_OUT] + c * rows, g[NEEDED], g[DEPTH], g[HEIGHT])
                oc = group * g[t.OC] + block
                if last:
                    store_tile_last(
                        g, tile, n, oc, channels, S, m + g[M_OUT], rows, m + g[M_TURN], bias, residual, epilogue, out
                    )
                else:
                    store_tile(g, tile, n, oc, S, m + g[M_OUT], bias, residual, epilogue, out)

    return channelwise


POINTWISE = {last: _make_pointwise(last) for last in (False, True)}
CHANNELWISE = {last: _make_channelwise(last) for last in (False, True)}
