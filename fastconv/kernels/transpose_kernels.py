"""Bringing the phases of an input gradient together, and folding its padding back."""

from __future__ import annotations

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import add_rows, copy_row, fill_row, merge_rows
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.epilogue import bias_of, store_channels, store_row

GEOMETRY = 13  # fields of both kernels' geometry
PHASE = 7  # fields of a phase in the table


@inline
def _finish(channels_last, C, channel, cells, out, o0, bias, residual, constants):  # type: ignore[no-untyped-def]
    """Bias, residual and activation of a row of the output that is already in its place."""
    if not (bias.size or residual.size or constants[0] != 0):
        return
    if channels_last:
        for i in range(cells):
            store_channels(out, o0 + i * C, out, o0 + i * C, C, bias, 0, residual, constants)
    else:
        store_row(out, o0, out, o0, cells, bias_of(bias, channel), residual, constants)


@inline
def _locate(row, channels_last, C, D, H):  # type: ignore[no-untyped-def]
    """(image, channel, plane, line) of a row of an output; the channel is 0 where all lie in the row."""
    rest, h = divmod(row, H)
    rest, d = divmod(rest, D)
    if channels_last:
        return rest, 0, d, h
    n, c = divmod(rest, C)
    return n, c, d, h


@kernel
def interleave(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, phases, parts, bias, residual, constants, out
):
    """out[j] = parts[phase of j][j // stride]; a task is some rows of the output.

    A phase in the table: where its cells begin in `parts` (-1: they are zeros), their number along each axis, and how
    many to skip along each axis.
    """
    channels_last, rows, per_task, C, D, H, W, sd, sh, sw, _, nh, nw = unpack(geometry, GEOMETRY)
    unit = C if channels_last else 1
    zeros = parts.size - W  # a row of zeros ends the array
    each, more = divmod(W, sw)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        begin_row = task * per_task
        n, c, d, h = _locate(begin_row, channels_last, C, D, H)
        (cell_d, phase_d), (cell_h, phase_h) = divmod(d, sd), divmod(h, sh)
        for row in range(begin_row, min(rows, begin_row + per_task)):
            o0 = row * W * unit
            even = zeros
            first = (phase_d * nh + phase_h) * nw
            image = n if channels_last else n * C + c
            for e in range(nw):
                at = (first + e) * PHASE
                begin, PD, PH, PW = phases[at], phases[at + 1], phases[at + 2], phases[at + 3]
                count = each + (1 if e < more else 0)
                source = ((image * PD + cell_d + phases[at + 4]) * PH + cell_h + phases[at + 5]) * PW + phases[at + 6]
                source = begin + source * unit
                if sw == 1 and begin >= 0:
                    copy_row(parts, source, out, o0, count * unit)
                elif sw == 1:
                    fill_row(out, o0, count * unit)
                elif channels_last:
                    for m in range(count):
                        if begin >= 0:
                            copy_row(parts, source + m * C, out, o0 + (e + m * sw) * C, C)
                        else:
                            fill_row(out, o0 + (e + m * sw) * C, C)
                elif sw == 2 and nw == 2 and e == 0:
                    even = source if begin >= 0 else zeros
                elif sw == 2 and nw == 2:
                    odd = source if begin >= 0 else zeros
                    if even == zeros and odd == zeros:
                        fill_row(out, o0, W)
                    else:
                        merge_rows(parts, even, odd, out, o0, W // 2)
                        if W % 2:
                            out[o0 + W - 1] = parts[even + W // 2]
                else:
                    for m in range(count):
                        out[o0 + e + m * sw] = parts[source + m] if begin >= 0 else out.dtype.type(0)
            _finish(channels_last, C, c, W, out, o0, bias, residual, constants)
            # The next row, without divisions: they take longer than a short row.
            h, phase_h = h + 1, phase_h + 1
            if phase_h == sh:
                cell_h, phase_h = cell_h + 1, 0
            if h == H:
                d, phase_d, h, cell_h, phase_h = d + 1, phase_d + 1, 0, 0, 0
                if phase_d == sd:
                    cell_d, phase_d = cell_d + 1, 0
                if d == D:
                    d, cell_d, phase_d, c = 0, 0, 0, c + 1
                    if channels_last or c == C:
                        n, c = n + 1, 0


@kernel
def fold_padding(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, tables, padded, bias, residual, constants, out
):
    """out[j] = sum of the padded cells that showed j: the adjoint of padding. A task is some rows of the output.

    The table holds, for depth and for height, where the list of each cell begins and the lists; then the cell that
    each padded column shows.
    """
    channels_last, rows, per_task, C, D, H, W, PD, PH, PW, lo, at_h, at_w = unpack(geometry, GEOMETRY)
    unit = C if channels_last else 1
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * per_task, min(rows, task * per_task + per_task)):
            n, c, d, h = _locate(row, channels_last, C, D, H)
            o0 = row * W * unit
            fill_row(out, o0, W * unit)
            plane = n if channels_last else n * C + c
            for i in range(tables[d], tables[d + 1]):
                for j in range(tables[at_h + h], tables[at_h + h + 1]):
                    source = ((plane * PD + tables[i]) * PH + tables[j]) * PW * unit
                    add_rows(out, o0, padded, source + lo * unit, out, o0, W * unit)
                    for e in range(lo):
                        cell = o0 + tables[at_w + e] * unit
                        add_rows(out, cell, padded, source + e * unit, out, cell, unit)
                    for e in range(lo + W, PW):
                        cell = o0 + tables[at_w + e] * unit
                        add_rows(out, cell, padded, source + e * unit, out, cell, unit)
            _finish(channels_last, C, c, W, out, o0, bias, residual, constants)
