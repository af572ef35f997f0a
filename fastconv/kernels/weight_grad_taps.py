"""The direct weight gradient tap by tap, for zero padding wide enough that many taps see nothing but zeros.

    C[(c, tap), oc] += sum over the pixels that the tap serves of x[at[c] + off[pixel]] * dY[pixel, oc]

Those pixels are a rectangle of the tile. dY of the whole tile is packed once, [pixel][output channel]; each tap brings
the rows of its rectangle together, which costs two of the hundred cycles of their products, and reads x where it lies.

A 3x3 kernel dilated by 18 on a 28x28 image does 33 % of the multiplications of the other form.
"""

from __future__ import annotations

from fastconv.cpu.jit import kernel
from fastconv.cpu.microkernel import gemm_pixels
from fastconv.cpu.rows import add_rows, copy_row, fill_row
from fastconv.cpu.simd import claim, unpack, vector_width
from fastconv.kernels.weight_grad_kernels import block, pack_grad, store
from fastconv.kernels.weight_grad_plan import FIELDS, TAP


@kernel
def accumulate(thread, counter, tasks, geometry, tile, tables, x, grad, out, scratch):  # type: ignore[no-untyped-def]
    """As `weight_grad_kernels.accumulate`; `at_last` is the table of taps, `at_full` that of a block's rows."""
    (
        channels_last, channels_all, IH, IW, sd, sh, sw, TH, _, G, C, OC, taps, OD, OH, OW, _,
        tiles, parts, segment, segmented, KC, CB, OCP, most, blocks,
        packed, panel_size, size, shared, per_thread, IP, at, at_rows, at_taps,
    ) = unpack(geometry, FIELDS)  # fmt: skip
    W = vector_width(x)
    K, OP = C * taps, OD * OH * OW
    tiles_h = (OH + TH - 1) // TH
    mine = shared + thread * per_thread
    panel = mine + packed
    corner = panel + panel_size - W * W
    own = panel + panel_size
    pixel = channels_all if channels_last else 1
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        part, index = divmod(task, blocks)
        g, c0, channels, oc0, filters = block(index, C, OC, CB, OCP)
        rows, vectors = channels * taps, (filters + W - 1) // W
        pieces = (vectors + most - 1) // most
        n_sums = rows * vectors * W
        total = task * size if parts > 1 else own
        sums = (own if parts > 1 else own + size) if segmented else total
        first, last = part * tiles // parts, (part + 1) * tiles // parts
        for t in range(first, last):
            rest, th = divmod(t, tiles_h)
            n, od = divmod(rest, OD)
            oh0 = th * TH
            height = min(TH, OH - oh0)
            if (t - first) % segment == 0 if segmented else t == first:
                fill_row(scratch, sums, n_sums)
            image = n * channels_all * IP + (g * C + c0) * (1 if channels_last else IP)
            for piece in range(pieces):  # 1. a few vectors of output channels
                v0, v1 = piece * vectors // pieces, (piece + 1) * vectors // pieces
                nv, lanes = v1 - v0, min(filters - v0 * W, (v1 - v0) * W)
                row = nv * W
                pack_grad(
                    grad, channels_last, OC * G, n * OP + (od * OH + oh0) * OW, g * OC + oc0 + v0 * W, lanes, nv, OP,
                    OW, OW, 0, height * OW, scratch, mine, scratch, corner,
                )  # fmt: skip
                for tap in range(taps):  # 2. a tap
                    at_tap = at_taps + tap * TAP
                    h0, h1 = max(tables[at_tap + 2], oh0), min(tables[at_tap + 3], oh0 + height)
                    w0, width = tables[at_tap + 4], tables[at_tap + 5] - tables[at_tap + 4]
                    if od < tables[at_tap] or od >= tables[at_tap + 1] or h0 >= h1 or width <= 0:
                        continue
                    off = tables[at_tap + 7]
                    a0 = image + tables[at_tap + 6] + ((od * sd * IH + h0 * sh) * IW + w0 * sw) * pixel
                    served = (h1 - h0) * width
                    for k in range(0, served, KC):  # 3. a chain of KC of its pixels
                        depth, p = min(KC, served - k), 0
                        while p < depth:
                            i, j = divmod(k + p, width)
                            run = min(width - j, depth - p)
                            src = mine + ((h0 - oh0 + i) * OW + w0 + j) * row
                            copy_row(scratch, src, scratch, panel + p * row, run * row)
                            p += run
                        gemm_pixels(
                            channels, nv, x, a0, tables, at, tables, at_taps + off + k, depth, scratch, panel, row,
                            scratch, sums + v0 * W * rows, tables, at_rows + tap * CB,
                        )  # fmt: skip
            if segmented and ((t - first) % segment == segment - 1 or t == last - 1):
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
