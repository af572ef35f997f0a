"""The kernels of weight gradients as dot products. `weight_grad_dots` explains the fields they unpack."""

from __future__ import annotations

from fastconv.cpu.dots import add_lanes, dot_block
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rolling_dots import TAPS, roll_dots
from fastconv.cpu.rows import add_rows, copy_row, copy_rows, fill_row
from fastconv.cpu.simd import claim, transpose_block, unpack, vector_width
from fastconv.kernels.common import LONGEST_CHAIN
from fastconv.kernels.input_tile import TILE_FIELDS, cut_tile
from fastconv.kernels.pack import interior, pack_rows_last

FIELDS = 28

#: Elements of the gradient that one task of the reduction adds up.
REDUCED = 4096


@inline
def _locate(t, tiles_w, tiles_h, OD):  # type: ignore[no-untyped-def]
    """(n, od, tile row, tile column) of a tile."""
    rest, tw = divmod(t, tiles_w)
    rest, th = divmod(rest, tiles_h)
    n, od = divmod(rest, OD)
    return n, od, th, tw


@inline
def _multiply(rows, shifts, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):  # type: ignore[no-untyped-def]
    """The dot products of one tile, in chains of at most LONGEST_CHAIN vectors."""
    W = vector_width(C)
    for v in range(0, vectors, LONGEST_CHAIN):
        dot_block(
            rows, shifts, Y, y0 + v * W, y_row, X, x0 + v * W, off, j0, min(LONGEST_CHAIN, vectors - v), C, c0, c_row,
            v > 0 or accumulate,
        )  # fmt: skip


@inline
def _add_lanes(sums, s0, dst, d0, length, corner):  # type: ignore[no-untyped-def]
    """dst[d0 + i] = the lanes of vector i of the sums added up, i < length; sums[corner] has room for a vector."""
    W = vector_width(sums)
    for j in range(0, length, W):
        if length - j >= W:
            add_lanes(sums, s0 + j * W, dst, d0 + j)
        else:
            add_lanes(sums, s0 + j * W, sums, corner)
            copy_row(sums, corner, dst, d0 + j, length - j)


@kernel
def rolling(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """Lanes are pixels of planes that are read where they lie. A task: some channels."""
    (
        _, C, ID, IH, IW, OD, OH, OW, sd, sh, sw, ph, pw, N, columns, _, GB, flip, zeros, _, _, _, _, per_thread, at,
        _, _, shared,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    W = vector_width(x)
    none = shared + thread * per_thread
    acc = none + zeros
    corner = none + per_thread - W
    first, step = (acc + (TAPS - 1) * W, -W) if flip else (acc, W)
    fill_row(scratch, none, zeros)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        g0, g_end = task * GB, min(C, task * GB + GB)
        for g in range(g0, g_end):
            for n in range(N):
                for od in range(OD):
                    for oh in range(0, OH, LONGEST_CHAIN):
                        row, rows = oh * sh - ph, min(LONGEST_CHAIN, OH - oh)
                        roll_dots(
                            sh, sw, x, (((n * C + g) * ID + od * sd) * IH + row) * IW - pw, IW, row, IH,
                            grad, (((n * C + g) * OD + od) * OH + oh) * OW, OW, rows, columns, OW,
                            scratch, first + (g - g0) * TAPS * W, step, tables, at, scratch, none - pw, n + od + oh > 0,
                        )  # fmt: skip
        _add_lanes(scratch, acc, out, g0 * TAPS, (g_end - g0) * TAPS, corner)


@kernel
def planes(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """Lanes are pixels. A task: a part of the pixels, some groups or a block of one group's channels."""
    (
        channels_last, G, C, OC, taps, OD, OH, OW, TH, TW, pitch, c_pitch, cell_size, y_row, tiles, parts, GB, cut,
        CB, OCB, packed, grads, sums, per_thread, at, blocks, gap, shared,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    W = vector_width(x)
    K, OP = C * taps, OD * OH * OW
    tiles_h, tiles_w = (OH + TH - 1) // TH, (OW + TW - 1) // TW
    c_blocks, oc_blocks = (C + CB - 1) // CB, (OC + OCB - 1) // OCB
    size = G * OC * K
    mine = shared + thread * per_thread
    Y = mine + packed
    acc = Y + grads
    corner = acc + sums - W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        part, rest = divmod(task, blocks)
        rest, ocb = divmod(rest, oc_blocks)
        block, cb = divmod(rest, c_blocks)
        g_end = min(G, block * GB + GB)
        c0, oc0 = cb * CB, ocb * OCB
        channels, rows = min(CB, C - c0), min(OCB, OC - oc0)
        c_row = channels * taps
        for g in range(block * GB, g_end, cut):  # 1. groups cut together
            count = min(cut, g_end - g)
            many = count * C if cut > 1 else channels
            for t in range(part * tiles // parts, (part + 1) * tiles // parts):  # 2. tiles
                n, od, th, tw = _locate(t, tiles_w, tiles_h, OD)
                oh0, ow0 = th * TH, tw * TW
                height, width = min(TH, OH - oh0), min(TW, OW - ow0)
                cut_tile(tile, tables, x, n, g * C + c0, many, od, oh0, ow0, scratch, mine)
                # Vectors read on behind a channel, where dY is zero: no old scratch, which may be NaN, may be there.
                for c in range(many):
                    fill_row(scratch, mine + c * c_pitch + cell_size, gap if c + 1 < many else gap + W)
                first, place = g * OC + oc0, (od * OH + oh0) * OW + ow0
                filters = count * OC if cut > 1 else rows
                for i in range(height):
                    if channels_last:
                        pack_rows_last(
                            grad, (n * OP + place + i * OW) * G * OC + first, G * OC, filters, tables, 0, 0, 0, width,
                            0, 1, pitch, scratch, Y + i * pitch, y_row,
                        )  # fmt: skip
                for r in range(filters):
                    if not channels_last:
                        copy_rows(
                            grad, (n * G * OC + first + r) * OP + place, OW, scratch, Y + r * y_row, pitch, height, 0,
                            width, pitch,
                        )  # fmt: skip
                    fill_row(scratch, Y + r * y_row + height * pitch, y_row - height * pitch)
                vectors = ((height - 1) * pitch + width + W - 1) // W
                for i in range(count):  # 3. a group
                    _multiply(
                        rows, c_row, scratch, Y + i * OC * y_row, y_row, scratch, mine + i * C * c_pitch, tables, at,
                        vectors, scratch, acc + (g + i - block * GB) * rows * c_row * W, c_row,
                        t > part * tiles // parts,
                    )  # fmt: skip
        # 4. Lanes are added up: rows of the gradient follow each other if they are whole.
        dst, d0 = (scratch, part * size) if parts > 1 else (out, 0)
        whole = channels == C
        lines = 1 if whole else rows
        length = (g_end - block * GB) * rows * K if whole else c_row
        for line in range(lines):
            target = d0 + (block * GB * OC + oc0 + line) * K + c0 * taps
            source = acc + line * c_row * W
            _add_lanes(scratch, source, dst, target, length, corner)


@inline
def _cut_lanes(tile, tables, x, n, channel, lanes, od, oh0, ow0, dst, d0):  # type: ignore[no-untyped-def]
    """The tile as `cut_tile` lays it out, of one vector of channels: each cell is a vector."""
    (
        _, C, ID, IH, IW, sd, sh, sw, _, _, lw, hd, hh, nd, nh, nw, TH, pitch, plane, _,
        src_h, src_w, phase_d, phase_h, phase_w, _,
    ) = unpack(tile, TILE_FIELDS)  # fmt: skip
    W = vector_width(x)
    count_h, count_w = src_w - src_h, phase_d - src_w
    for a in range(nd):
        for b in range(nh):
            for e in range(nw):
                first = ow0 * sw + tables[phase_w + e]
                begin, end = interior(first, sw, lw, IW, pitch)
                for i in range(1 + hd):
                    at_d = (od + i) * sd + tables[phase_d + a]
                    from_d = tables[at_d] if at_d < src_h else -1
                    for j in range(TH + hh):
                        at_h = (oh0 + j) * sh + tables[phase_h + b]
                        from_h = tables[src_h + at_h] if at_h < count_h else -1
                        row = d0 + (((a * nh + b) * nw + e) * plane + (i * (TH + hh) + j) * pitch) * W
                        if from_d < 0 or from_h < 0:
                            fill_row(dst, row, pitch * W)
                            continue
                        x0 = ((n * ID + from_d) * IH + from_h) * IW * C + channel
                        inside = x0 + (first + begin * sw - lw) * C
                        copy_rows(x, inside, sw * C, dst, row + begin * W, W, end - begin, 0, lanes, W)
                        for q in range(begin + pitch - end):
                            cell = q if q < begin else q - begin + end
                            at_w = first + cell * sw
                            from_w = tables[src_w + at_w] if at_w < count_w else -1
                            if from_w < 0:
                                fill_row(dst, row + cell * W, W)
                            else:
                                copy_rows(x, x0 + from_w * C, 0, dst, row + cell * W, W, 1, 0, lanes, W)


@kernel
def lanes(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """Lanes are channels of a channels-last depthwise convolution. A task: some channels, a part of the pixels."""
    (
        _, C, _, _, taps, OD, OH, OW, TH, TW, pitch, _, _, _, tiles, parts, VB, _, _, _,
        packed, grads, sums, per_thread, at, blocks, _, shared,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    W = vector_width(x)
    OP, size, vectors = OD * OH * OW, C * taps, (C + W - 1) // W
    tiles_h, tiles_w = (OH + TH - 1) // TH, (OW + TW - 1) // TW
    mine = shared + thread * per_thread
    Y = mine + packed
    acc = Y + grads
    corner = acc + sums - W * W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        part, block = divmod(task, blocks)
        v_end = min(vectors, block * VB + VB)
        first = part * tiles // parts
        for t in range(first, (part + 1) * tiles // parts):  # 1. tiles
            n, od, th, tw = _locate(t, tiles_w, tiles_h, OD)
            oh0, ow0 = th * TH, tw * TW
            height, width = min(TH, OH - oh0), min(TW, OW - ow0)
            pixels = (height - 1) * pitch + width
            for v in range(block * VB, v_end):  # 2. vectors of channels
                have = min(W, C - v * W)
                _cut_lanes(tile, tables, x, n, v * W, have, od, oh0, ow0, scratch, mine)
                for i in range(height):
                    row = Y + i * pitch * W
                    source = (n * OP + (od * OH + oh0 + i) * OW + ow0) * C + v * W
                    copy_rows(grad, source, C, scratch, row, W, width, 0, have, W)
                    fill_row(scratch, row + width * W, (pitch - width) * W)
                _multiply(
                    1, taps, scratch, Y, 0, scratch, mine, tables, at, pixels, scratch,
                    acc + (v - block * VB) * taps * W, taps, t > first,
                )  # fmt: skip
        dst, d0 = (scratch, part * size) if parts > 1 else (out, 0)
        for v in range(block * VB, v_end):  # 3. [tap][channel] to [channel][tap]
            for tap in range(0, taps, W):
                transpose_block(scratch, acc + ((v - block * VB) * taps + tap) * W, W, scratch, corner, W)
                for lane in range(min(W, C - v * W)):
                    copy_row(scratch, corner + lane * W, dst, d0 + (v * W + lane) * taps + tap, min(W, taps - tap))


@kernel
def total(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """out = the sum of the parts, in pairs, then pairs of pairs."""
    parts, size = geometry[15], out.size
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        at = task * REDUCED
        n = min(REDUCED, size - at)
        step = 1
        while step < parts:
            for part in range(0, parts - step, 2 * step):
                a, b = part * size + at, (part + step) * size + at
                add_rows(scratch, a, scratch, b, scratch, a, n)
            step *= 2
        copy_row(scratch, at, out, at, n)
