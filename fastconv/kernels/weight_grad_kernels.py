"""The kernels of the direct weight gradient. `weight_grad_plan` explains the fields they unpack."""

from __future__ import annotations

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.microkernel import gemm_channels
from fastconv.cpu.rows import add_rows, copy_row, fill_row
from fastconv.cpu.simd import claim, transpose_block, unpack, vector_width
from fastconv.kernels.input_tile import cut_tile
from fastconv.kernels.pack import pack_lanes
from fastconv.kernels.weight_grad_plan import FIELDS, REDUCED


@inline
def pack_grad(  # type: ignore[no-untyped-def]
    grad, channels_last, channels, place, oc, lanes, nv, OP, OW, width, k, depth, dst, d0, scratch, corner
):
    """One chain of pixels as [pixel][nv vectors of output channels]; `place` is the tile's first pixel."""
    W = vector_width(grad)
    row, p = nv * W, 0
    n, within = divmod(place, OP)
    while p < depth:  # an image row of the tile, or all of them if nothing lies between
        i, j = divmod(k + p, width)
        run = depth - p if width == OW else min(width - j, depth - p)
        at = i * OW + j
        if channels_last:
            src = (place + at) * channels + oc
            for q in range(run):
                copy_row(grad, src + q * channels, dst, d0 + (p + q) * row, lanes)
            if lanes < row:
                for q in range(run):
                    fill_row(dst, d0 + (p + q) * row + lanes, row - lanes)
        else:
            src = (n * channels + oc) * OP + within + at
            for v in range(nv):
                pack_lanes(
                    grad, src + v * W * OP, OP, min(W, lanes - v * W), run, dst, d0 + p * row + v * W, row,
                    scratch, corner,
                )  # fmt: skip
        p += run


@inline
def store(src, s0, first, count, nv, lanes, out, o0, K, scratch, corner):  # type: ignore[no-untyped-def]
    """out[o0 + lane*K + r] = src[s0 + r*nv*W + lane] for rows first .. first+count; src has room behind."""
    W = vector_width(out)
    row = nv * W
    for v in range(nv):
        have = min(W, lanes - v * W)
        for r in range(first, first + count, W):
            if have == W and count >= W:
                at = min(r, first + count - W)  # the last one overlaps: it stores the same again
                transpose_block(src, s0 + at * row + v * W, row, out, o0 + v * W * K + at, K)
                continue
            transpose_block(src, s0 + r * row + v * W, row, scratch, corner, W)
            for lane in range(have):
                copy_row(scratch, corner + lane * W, out, o0 + (v * W + lane) * K + r, min(W, first + count - r))


@inline
def block(index, C, OC, CB, OCP):  # type: ignore[no-untyped-def]
    """(group, first channel, channels, first output channel, output channels) of a block of the gradient."""
    rest, part_c = divmod(index, (C + CB - 1) // CB)
    g, part_oc = divmod(rest, (OC + OCP - 1) // OCP)
    return g, part_c * CB, min(CB, C - part_c * CB), part_oc * OCP, min(OCP, OC - part_oc * OCP)


@kernel
def accumulate(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """C[(c, tap), oc] = sum over a part's pixels of x[at[(c, tap)] + off[pixel]] * grad[pixel, oc]."""
    (
        channels_last, channels_all, IH, IW, sd, sh, sw, TH, in_place, G, C, OC, taps, OD, OH, OW, TW,
        tiles, parts, segment, segmented, KC, CB, OCP, most, blocks,
        packed, panel_size, size, shared, per_thread, IP, at, at_full, at_last,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    W = vector_width(x)
    K, OP = C * taps, OD * OH * OW
    tiles_h, tiles_w = (OH + TH - 1) // TH, (OW + TW - 1) // TW
    mine = shared + thread * per_thread
    panel = mine + packed
    corner = panel + panel_size - W * W
    own = panel + panel_size
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        part, index = divmod(task, blocks)
        g, c0, channels, oc0, filters = block(index, C, OC, CB, OCP)
        rows, vectors = channels * taps, (filters + W - 1) // W
        pieces = (vectors + most - 1) // most
        total = task * size if parts > 1 else own
        sums = (own if parts > 1 else own + size) if segmented else total
        first, last = part * tiles // parts, (part + 1) * tiles // parts
        for t in range(first, last):
            rest, tw = divmod(t, tiles_w)
            rest, th = divmod(rest, tiles_h)
            n, od = divmod(rest, OD)
            oh0, ow0 = th * TH, tw * TW
            height, width = min(TH, OH - oh0), min(TW, OW - ow0)
            P = height * width
            off = at_full if width == TW else at_last
            A, a0 = scratch, mine
            if in_place:
                pixel = (od * sd * IH + oh0 * sh) * IW + ow0 * sw
                first_c = g * C + c0
                A, a0 = x, (n * channels_all + first_c) * IP + pixel
                if channels_last:
                    a0 = (n * IP + pixel) * channels_all + first_c
            else:
                cut_tile(tile, tables, x, n, g * C + c0, channels, od, oh0, ow0, scratch, mine)
            fresh = (t - first) % segment == 0 if segmented else t == first
            place = n * OP + (od * OH + oh0) * OW + ow0
            for piece in range(pieces):  # 1. a few vectors of output channels
                v0, v1 = piece * vectors // pieces, (piece + 1) * vectors // pieces
                nv, lanes = v1 - v0, min(filters - v0 * W, (v1 - v0) * W)
                for k in range(0, P, KC):  # 2. a chain of KC pixels
                    depth = min(KC, P - k)
                    pack_grad(
                        grad, channels_last, OC * G, place, g * OC + oc0 + v0 * W, lanes, nv, OP, OW, width, k, depth,
                        scratch, panel, scratch, corner,
                    )  # fmt: skip
                    gemm_channels(
                        rows, nv, A, a0, tables, at, tables, off + k, depth, scratch, panel,
                        scratch, sums + v0 * W * rows, nv * W, k > 0 or not fresh,
                    )  # fmt: skip
            if segmented and ((t - first) % segment == segment - 1 or t == last - 1):
                n_sums = rows * vectors * W
                if t - first < segment:
                    copy_row(scratch, sums, scratch, total, n_sums)
                else:
                    add_rows(scratch, total, scratch, sums, scratch, total, n_sums)
        if parts == 1:
            for piece in range(pieces):
                v0, v1 = piece * vectors // pieces, (piece + 1) * vectors // pieces
                store(
                    scratch, total + v0 * W * rows, 0, rows, v1 - v0, filters - v0 * W, out,
                    (g * OC + oc0 + v0 * W) * K + c0 * taps, K, scratch, corner,
                )  # fmt: skip


@kernel
def reduce(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """out = the sum of the parts, in pairs, then pairs of pairs; a task is REDUCED rows of a block."""
    (
        _, _, _, _, _, _, _, _, _, _, C, OC, taps, _, _, _, _, _, parts, _, _, _, CB, OCP, most, blocks,
        packed, panel_size, size, shared, per_thread, _, _, _, _,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    W = vector_width(out)
    K = C * taps
    corner = shared + thread * per_thread + packed + panel_size - W * W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        strip, index = divmod(task, blocks)
        g, c0, channels, oc0, filters = block(index, C, OC, CB, OCP)
        rows, vectors = channels * taps, (filters + W - 1) // W
        pieces = (vectors + most - 1) // most
        first = strip * REDUCED
        count = min(REDUCED, rows - first)
        for piece in range(pieces):
            v0, v1 = piece * vectors // pieces, (piece + 1) * vectors // pieces
            row = (v1 - v0) * W
            base = index * size + v0 * W * rows
            if count > 0:
                n, at = count * row, base + first * row
                step = 1
                while step < parts:
                    for r in range(0, parts - step, 2 * step):
                        a, b = at + r * blocks * size, at + (r + step) * blocks * size
                        add_rows(scratch, a, scratch, b, scratch, a, n)
                    step *= 2
                store(
                    scratch, base, first, count, v1 - v0, filters - v0 * W, out,
                    (g * OC + oc0 + v0 * W) * K + c0 * taps, K, scratch, corner,
                )  # fmt: skip
