"""The kernels of direct convolution. `direct_plan` explains the fields they unpack."""

from __future__ import annotations

from fastconv.cpu.dots import add_lanes, dot_few_block
from fastconv.cpu.jit import inline, kernel, outlined
from fastconv.cpu.microkernel import TALLEST, gemm_block, gemm_channels, transpose_finished, widest_tile
from fastconv.cpu.rows import copy_rows, fill_row
from fastconv.cpu.simd import claim, past_vector, transpose_block, unpack, vector_width
from fastconv.kernels.activations import RELU
from fastconv.kernels.direct_plan import FIELDS
from fastconv.kernels.epilogue import activate, bias_of, store_channels, store_row
from fastconv.kernels.input_tile import TILE_FIELDS, cut_tile

_ALL = TILE_FIELDS + FIELDS


@inline
def _chain(k, end, taps, KC):  # type: ignore[no-untyped-def]
    """Terms of the chain that begins at k: a chain longer than a channel's taps is whole channels (see the plan)."""
    return min(KC, end - k, taps - k % taps if taps > KC else KC)


@inline
def _store_rows(C, c0, c_row, pitch, base, plane, OW, height, width, rows, oc, bias, residual, constants, out):  # type: ignore[no-untyped-def]
    """Store `rows` output channels whose pixels lie side by side in C, image row after image row at `pitch`."""
    for r in range(rows):
        value = bias_of(bias, oc + r)
        src, dst = c0 + r * c_row, base + r * plane
        if pitch == OW and width == OW:  # rows follow each other on both sides
            store_row(C, src, out, dst, height * OW, value, residual, constants)
        else:
            for i in range(height):
                store_row(C, src + i * pitch, out, dst + i * OW, width, value, residual, constants)


#: Tiles of rows between which dot products come in: their weights are in L1 then, beside the pixels of a panel.
_TOGETHER = 4


@outlined
def _gemm(  # type: ignore[no-untyped-def]
    rows, P, few, chunk, mr, A, a0, K, depth, taps, KC, B, b0, tables, off, accumulate, complete, C, c0, c_row, out,
    target, bias, oc, residual, constants, S, s0, of_rows, of_panel,
):  # fmt: skip
    """`depth` terms of the pixel form, chain by chain: rows of A are K apart, those of C `c_row`.

    If `complete` holds sums are finished and stored in `out`, as `gemm_block` does it with `target`.

    With `chunk` C is the output, taken so many pixels at a time, whose part of B stays in L1 or L2 for all `rows`.
    Meanwhile the next part is asked for. Where P is no multiple of a vector the last one begins earlier and computes
    some pixels again, to the same sums; so does the second where that aligns all later loads. Or `few` pixels are left
    over, which are dot products: one vector in four of a 7x7 image would serve a single pixel.

    A part that stays in L1 and serves many rows is copied first: rows of an image lie pages apart, which is too much
    for the TLB of L1, and where that is a power of two for L1 itself. S[s0:] has room for this panel, whose rows begin
    at `tables[of_panel:]`, and for dot products: a row of terms for each pixel, vectors of sums, sums.
    """
    W = vector_width(C)
    o0, plane, pitch, width, height, line = target
    relu, step, many = constants[0] == RELU, 64 // C.itemsize, chunk > widest_tile(mr) * W
    copies = chunk > 0 and of_panel < tables.size
    pixels_at = s0 + KC * chunk if copies else s0
    lanes = pixels_at + few * K
    for j in range(few):
        for k in range(K):
            S[pixels_at + j * K + k] = B[b0 + tables[off + k] + P - few + j]
    p, end, lead = 0, P - few, 0
    apart = tables[off + 1] - tables[off] if K > 1 else 0
    if chunk > 0 and few == 0 and taps == 1 < K and P >= 2 * W and apart % W == 0 and not copies:
        lead = -past_vector(B, b0) % W
    while p < end:
        cols, following = end, end
        if chunk > 0:
            left = (end - p) // W * W
            cols = left // W // 2 * W if left == chunk + W else min(chunk, left)
            if cols == 0:
                p, cols = end - W, W
            following = p + cols
            if p < lead:
                cols, following = W, lead
        high = TALLEST if cols <= W else mr
        together = _TOGETHER * high if few > 0 else rows
        # Of many pixels the hardware sees streams; a panel lies a page away from the one before.
        lines = 0 if many or chunk == 0 else cols // step + 1
        k = 0
        while k < depth:
            terms = _chain(k, depth, taps, KC)
            final = k + terms == depth
            source, b, off_b = B, b0 + p, off + k
            if copies:
                copy_rows(B, b + tables[off + k], apart, S, s0, chunk, terms, 0, cols, cols)
                source, b, off_b = S, s0, of_panel
            ahead = b0 - tables[off + k] + (following + tables[off] if final else p + tables[off + k + terms])
            if final and following == end:
                lines = 0
            last = final and complete
            tile = 0
            for r in range(0, rows, together):
                here, dst = min(together, rows - r), o0 + r * plane + p
                gemm_block(
                    here, cols, high, A, a0 + r * K + k, K, source, b, tables, off_b, terms, C, c0 + r * c_row + p,
                    c_row, accumulate or k > 0, last, out, (dst, plane, pitch, width, height, line), bias, oc + r,
                    residual, relu, B, ahead + tile * step, off + k, lines - tile,
                )  # fmt: skip
                tile += _TOGETHER
                if chunk > 0 and last and constants[0] != 0 and not relu:
                    for i in range(here):
                        activate(out, dst + i * plane, cols, constants)
                if few > 0 and following == end:
                    dot_few_block(
                        here, few, A, a0 + r * K + k, K, S, pixels_at + k, tables, of_rows, terms // W, S,
                        lanes + r * few * W, few, k > 0,
                    )  # fmt: skip
            k += terms
        p = following
    if few > 0:
        sums = lanes + (rows * few + W - 1) // W * W * W
        for i in range(0, rows * few, W):
            add_lanes(S, lanes + i * W, S, sums + i)
        for r in range(rows):
            value = bias_of(bias, oc + r)
            store_row(S, sums + r * few, out, o0 + r * plane + P - few, few, value, residual, constants)


@inline
def _locate(task, parts, tiles_w, tiles_h, OD, G):  # type: ignore[no-untyped-def]
    """(n, g, od, tile row, tile column, part) of a task."""
    rest, part = divmod(task, parts)
    rest, tw = divmod(rest, tiles_w)
    rest, th = divmod(rest, tiles_h)
    rest, od = divmod(rest, OD)
    n, g = divmod(rest, G)
    return n, g, od, th, tw, part


@kernel
def pixels(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch
):
    """C[oc, p] = sum_k weight[oc, k] * tile[off[k] + p]."""
    (
        channels_last, _, ID, IH, IW, _, _, _, _, _, _, _, _, _, _, _, TH, pitch, _, c_pitch, _, _, _, _, _, _,
        _, C, OC, G, taps, OD, OH, OW, TW, _, OCP, CB, in_place, reach, mr, block, chunk, KC, per_thread,
        c_start, c_row, _, off_tile, off_input, of_rows, of_panel,
    ) = unpack(geometry, _ALL)  # fmt: skip
    W = vector_width(x)
    K = C * taps
    tiles_h, tiles_w, parts = (OH + TH - 1) // TH, (OW + TW - 1) // TW, (OC + OCP - 1) // OCP
    mine = thread * per_thread
    sums = mine + c_start
    corner = mine + per_thread - W * W  # where channels-last stores transpose
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        n, g, od, th, tw, part = _locate(task, parts, tiles_w, tiles_h, OD, G)
        oh0, ow0 = th * TH, tw * TW
        height, width = min(TH, OH - oh0), min(TW, OW - ow0)
        P = (height - 1) * pitch + width
        oc0, oc_end = part * OCP, min(OC, part * OCP + OCP)
        origin = ((n * G + g) * C * ID + od) * IH * IW + oh0 * IW + ow0
        # Pixels that follow each other in the output too: sums go straight there.
        straight = chunk > 0 and P >= W
        by_rows = chunk < 0
        few = P % W if of_panel > of_rows else 0
        relu, plane = constants[0] == RELU, OD * OH * OW
        # Elsewhere vectors may read up to a row of vectors past the last pixel: only inside x may it be used in place.
        use_x = in_place and (straight or origin + reach + (P + W - 1) // W * W <= x.size)
        B, b0, off, step = (x, origin, off_input, C) if use_x else (scratch, mine, off_tile, CB)
        for c in range(0, C, step):  # 1. channels that fit L2
            channels = min(step, C - c)
            if not use_x:
                cut_tile(geometry, tables, x, n, g * C + c, channels, od, oh0, ow0, scratch, mine)
                # The last vector of the last row may read past the tile: keep old scratch (denormals are slow) out.
                fill_row(scratch, mine + channels * c_pitch, 8 * W)
            if straight and step >= C:
                base = ((n * G * OC + g * OC + oc0) * OD + od) * OH * OW + oh0 * OW + ow0
                _gemm(
                    oc_end - oc0, P, few, chunk, mr, weight, (g * OC + oc0) * K, K, K, taps, KC, B, b0, tables, off,
                    c > 0, c + step >= C, out, base, plane, out, (base, plane, P, P, 0, 0), bias, g * OC + oc0,
                    residual, constants, scratch, sums, of_rows, of_panel,
                )  # fmt: skip
                break
            depth = channels * taps
            for oc in range(oc0, oc_end, block):  # 2. a block of output channels
                rows = min(block, oc_end - oc)
                c0 = sums if step >= C else sums + (oc - oc0) * c_row
                base = ((n * G * OC + g * OC + oc) * OD + od) * OH * OW + oh0 * OW + ow0
                _gemm(
                    rows, P, 0, 0, mr, weight, (g * OC + oc) * K + c * taps, K, depth, taps, KC, B, b0, tables,
                    off, c > 0, by_rows and c + step >= C, scratch, c0, c_row, out,
                    (base, plane, pitch, width, height, OW), bias, g * OC + oc, residual, constants, scratch, sums,
                    of_rows, of_panel,
                )  # fmt: skip
                if c + step < C:
                    continue
                if by_rows:
                    for r in range(rows if constants[0] != 0 and not relu else 0):
                        for i in range(height):
                            activate(out, base + r * plane + i * OW, width, constants)
                    continue
                if not channels_last:
                    _store_rows(
                        scratch, c0, c_row, pitch, base, plane, OW, height, width, rows, g * OC + oc, bias,
                        residual, constants, out,
                    )  # fmt: skip
                    continue
                for i in range(height):
                    base = (((n * OD + od) * OH + oh0 + i) * OW + ow0) * G * OC + g * OC + oc
                    for j in range(0, width, W):
                        for r in range(0, rows, W):  # W channels x W pixels; C has room for whole vectors of both
                            transpose_block(scratch, c0 + r * c_row + i * pitch + j, c_row, scratch, corner, W)
                            for p in range(min(W, width - j)):
                                store_channels(
                                    scratch, corner + p * W, out, base + (j + p) * G * OC + r, min(W, rows - r), bias,
                                    g * OC + oc + r, residual, constants,
                                )  # fmt: skip


@inline
def store_pixels(  # type: ignore[no-untyped-def]
    geometry, n, od, oh0, ow0, height, width, oc, channels, c_row, C, c0, turned, bias, residual, constants, out
):
    """Store a tile whose channels lie side by side in C, one pixel after another; `turned`: room for a transpose."""
    (
        channels_last, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _,
        _, _, OC, G, _, OD, OH, OW, _, _, _, _, _, _, _, _, _, _, _, _, _, t_row, _, _, _, _,
    ) = unpack(geometry, _ALL)  # fmt: skip
    W = vector_width(C)
    P = height * width
    if channels_last:
        for p in range(P):
            i, j = divmod(p, width)
            pixel = ((n * OD + od) * OH + oh0 + i) * OW + ow0 + j
            store_channels(C, c0 + p * c_row, out, pixel * G * OC + oc, channels, bias, oc, residual, constants)
        return
    o_plane = OD * OH * OW
    for r in range(0, channels, W):
        base = (n * G * OC + oc + r) * o_plane + (od * OH + oh0) * OW + ow0
        if P >= W and channels - r >= W and (height == 1 or width == OW):
            p = 0  # pixels that follow each other in the output: straight there; the last vector begins early
            while p < P:
                p = min(p, P - W)
                transpose_finished(
                    C, c0 + p * c_row + r, c_row, out, base + p, o_plane, bias, oc + r, residual,
                    constants[0] == RELU,
                )  # fmt: skip
                p += W
            if constants[0] != 0 and constants[0] != RELU:
                for i in range(W):
                    activate(out, base + i * o_plane, P, constants)
            continue
        for p in range(0, P, W):  # C has room for whole vectors of pixels
            transpose_block(C, c0 + p * c_row + r, c_row, C, turned + p, t_row)
        _store_rows(
            C, turned, t_row, width, base, o_plane, OW, height, width, min(W, channels - r), oc + r, bias, residual,
            constants, out,
        )  # fmt: skip


@kernel
def channels(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch
):
    """C[p, oc] = sum_k tile[at[p] + off[k]] * weight[k, oc]."""
    (
        channels_last, _, ID, IH, IW, sd, sh, sw, _, _, _, _, _, nd, nh, nw, TH, _, plane, _, _, _, _, _, _, _,
        N, C, OC, G, taps, OD, OH, OW, TW, together, OCP, CB, in_place, _, _, blocks, _, KC, per_thread,
        c_start, _, t_row, off_tile, off_input, at_full, at_last,
    ) = unpack(geometry, _ALL)  # fmt: skip
    W = vector_width(x)
    K, channels_all, group_size = C * taps, C * G, (OC + W - 1) // W * W * C * taps
    tiles_h, tiles_w, parts = (OH + TH - 1) // TH, (OW + TW - 1) // TW, (OC + OCP - 1) // OCP
    mine = thread * per_thread
    sums = mine + c_start
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        n, g, od, th, tw, part = _locate(task, parts, tiles_w, tiles_h, OD, G)
        n *= together
        images = min(together, N - n)
        oh0, ow0 = th * TH, tw * TW
        height, width = min(TH, OH - oh0), min(TW, OW - ow0)
        P = height * width
        at = at_full if width == TW else at_last
        oc0, oc_end = part * OCP, min(OC, part * OCP + OCP)
        vectors = (oc_end - oc0 + W - 1) // W
        A, a0, off, step = scratch, mine, off_tile, CB
        if in_place:
            pixel = (od * sd * IH + oh0 * sh) * IW + ow0 * sw
            base = (n * ID * IH * IW + pixel) * channels_all + g * C
            a0 = base if channels_last else (n * channels_all + g * C) * ID * IH * IW + pixel
            A, off, step = x, off_input, C
        turned = mine + per_thread - W * t_row
        for c in range(0, C, step):  # 1. channels that fit L2
            deep = min(step, C - c) * taps
            for i in range(0 if in_place else images):
                place = mine + i * nd * nh * nw * plane
                cut_tile(geometry, tables, x, n + i, g * C + c, min(step, C - c), od, oh0, ow0, scratch, place)
            for block in range(blocks):  # 2. a block of output channels
                v0, v1 = block * vectors // blocks, (block + 1) * vectors // blocks
                nv = v1 - v0
                if nv == 0:
                    continue
                c0 = sums if step >= C else sums + v0 * W * (together * TH * TW + W)
                b0 = g * group_size + (oc0 + v0 * W) * K + c * taps * nv * W
                k = 0
                while k < deep:  # 3. a chain of terms
                    depth = _chain(k, deep, taps, KC)
                    gemm_channels(
                        images * P, nv, A, a0, tables, at, tables, off + k, depth, weight, b0 + k * nv * W,
                        scratch, c0, nv * W, k > 0 or c > 0,
                    )  # fmt: skip
                    k += depth
                if c + step < C:
                    continue
                for i in range(images):
                    store_pixels(
                        geometry, n + i, od, oh0, ow0, height, width, g * OC + oc0 + v0 * W,
                        min(nv * W, oc_end - oc0 - v0 * W), nv * W, scratch, c0 + i * P * nv * W, turned, bias,
                        residual, constants, out,
                    )  # fmt: skip


@kernel
def pack_weights(thread, counter, tasks, sizes, weight, packed):  # type: ignore[no-untyped-def]
    """packed[group][part][block][k][NV*W] = weight[oc][k]; a task is one vector of output channels."""
    OC, K, OCP, blocks = unpack(sizes, 4)
    W = vector_width(weight)
    vectors = (OC + W - 1) // W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        g, v = divmod(task, vectors)
        part, within = divmod(v * W, OCP)
        of_part = (min(OCP, OC - part * OCP) + W - 1) // W
        block = 0
        while (block + 1) * of_part // blocks <= within // W:
            block += 1
        v0, v1 = block * of_part // blocks, (block + 1) * of_part // blocks
        row = (v1 - v0) * W
        dst = (g * vectors * W + part * OCP + v0 * W) * K + (within // W - v0) * W
        src = (g * OC + v * W) * K
        lanes = min(W, OC - v * W)
        k = 0
        if lanes == W:
            while k + W <= K:
                transpose_block(weight, src + k, K, packed, dst + k * row, row)
                k += W
        while k < K:
            for lane in range(lanes):
                packed[dst + k * row + lane] = weight[src + lane * K + k]
            for lane in range(lanes, W):
                packed[dst + k * row + lane] = packed.dtype.type(0)
            k += 1
