"""Gathering patches into columns, and adding columns back where they came from."""

from __future__ import annotations

from fastconv.cpu.jit import kernel
from fastconv.cpu.rows import add_rows, fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.pack import interior, pack_row

GEOMETRY = 21


@kernel
def gather(thread, counter, tasks, geometry, sources, x, columns):  # type: ignore[no-untyped-def]
    """columns[image, channel, tap, place] = the padded cell that the tap sees there. A task is one tap of a channel."""
    ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, _, _, pw, at_h, at_w, count_w = unpack(
        geometry, GEOMETRY
    )
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, kw = divmod(task, KW)
        rest, kh = divmod(rest, KH)
        plane, kd = divmod(rest, KD)
        dst = task * OD * OH * OW
        for od in range(OD):
            from_d = sources[od * sd + kd * dd]
            for oh in range(OH):
                from_h = sources[at_h + oh * sh + kh * dh]
                if from_d < 0 or from_h < 0:
                    fill_row(columns, dst, OW)
                else:
                    x0 = ((plane * ID + from_d) * IH + from_h) * IW
                    pack_row(x, x0, 1, sources, at_w, count_w, pw, IW, kw * dw, sw, OW, columns, dst)
                dst += OW


@kernel
def scatter(thread, counter, tasks, geometry, sources, columns, out):  # type: ignore[no-untyped-def]
    """The adjoint: out[image, channel, cell] = sum of the columns that show the cell. A task is one plane."""
    ID, IH, IW, OD, OH, OW, KD, KH, KW, sd, sh, sw, dd, dh, dw, _, _, pw, at_h, _, _ = unpack(geometry, GEOMETRY)
    while True:
        plane = claim(counter)
        if plane >= tasks:
            break
        fill_row(out, plane * ID * IH * IW, ID * IH * IW)
        for od in range(OD):
            for oh in range(OH):
                for kd in range(KD):
                    to_d = sources[od * sd + kd * dd]
                    for kh in range(KH):
                        to_h = sources[at_h + oh * sh + kh * dh]
                        if to_d < 0 or to_h < 0:
                            continue
                        o0 = ((plane * ID + to_d) * IH + to_h) * IW
                        for kw in range(KW):
                            tap = ((plane * KD + kd) * KH + kh) * KW + kw
                            src = ((tap * OD + od) * OH + oh) * OW
                            begin, end = interior(kw * dw, sw, pw, IW, OW)
                            first = o0 + kw * dw - pw + begin * sw
                            if sw == 1:
                                add_rows(out, first, columns, src + begin, out, first, end - begin)
                            else:
                                for i in range(end - begin):
                                    out[first + i * sw] += columns[src + begin + i]
