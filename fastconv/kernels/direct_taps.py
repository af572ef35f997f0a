"""Direct convolution tap by tap, for zero padding wide enough that many taps see nothing but zeros.

A third form of the implicit GEMM: for each tap a 1x1 convolution over just those pixels for which it lies inside the
input. No multiplication by a padded zero is ever done:

    C[row[p], oc] += sum_c x[at[p], c] * B[c, tap, oc]        for the pixels p that the tap serves

Channels-last input is read where it lies. Otherwise each thread turns an image round before its first task in it: a
chain of 128 channels in 128 planes lies in as many pages of memory, more than the first level of the page table cache.

A 3x3 kernel dilated by 18 on a 33x33 image does 41 % of the multiplications of the other forms.
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.jit import kernel
from fastconv.cpu.microkernel import gemm_pixels
from fastconv.cpu.rows import fill_row
from fastconv.cpu.simd import claim, unpack, vector_width
from fastconv.kernels.common import Cost, ceil_div, chain
from fastconv.kernels.direct_kernels import store_pixels
from fastconv.kernels.direct_plan import FIELDS, SMALL, Params, tile_cycles, transposed_row, vector_blocks
from fastconv.kernels.input_tile import TILE_FIELDS, InputTile
from fastconv.kernels.pack import pack_lanes
from fastconv.spec import ConvSpec

_ALL = TILE_FIELDS + FIELDS

#: Pixels of a task: its sums, 256 pixels of at most 64 channels in float32, are 64 KB, and with the weights of one tap
#: and the input they lie in L2.
PIXELS = 256

#: Pixels times taps, each with two table entries: 1 MB of tables at most, for a saving that large images seldom have.
ENTRIES = 1 << 16


def _inside(spec: ConvSpec, axis: int) -> np.ndarray:
    """[output, tap]: the input coordinate that a tap of an output reads, -1 in the padding."""
    out, kernel = np.arange(spec.output3[axis]), np.arange(spec.kernel3[axis])
    taps = kernel[::-1] if spec.flip else kernel
    places = np.add.outer(out * spec.stride3[axis], taps * spec.dilation3[axis]) - spec.padding3[axis][0]
    return np.where((places >= 0) & (places < spec.input3[axis]), places, -1)


def _served(spec: ConvSpec) -> float:
    """Share of the multiplications that are not by padded zeros."""
    return prod(float((_inside(spec, axis) >= 0).mean()) for axis in range(3))


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | None:
    """Everything `taps` needs; None where the form does not apply or cannot fit the limit."""
    OD, OH, OW = spec.output3
    C, OC, G = spec.C // spec.groups, spec.OC // spec.groups, spec.groups
    taps = spec.K // C
    if spec.padding_mode != "zeros" or not any(map(any, spec.padding3)) or prod(spec.output) * taps > ENTRIES:
        return None
    if not 0 < _served(spec) < 0.9:
        return None
    threads = threads if spec.flops > SMALL else 1
    W, size = isa.width(spec.dtype), spec.itemsize
    TH = ceil_div(OH, ceil_div(OH * OW, PIXELS))
    parts = 1
    while spec.N * G * OD * ceil_div(OH, TH) * parts < 4 * threads and OC > 4 * W * parts:
        parts *= 2
    OCP = min(OC, ceil_div(ceil_div(OC, parts), W) * W)
    cut = InputTile.of(spec, TH, OW)
    blocks = vector_blocks(OCP, W)
    nv = ceil_div(ceil_div(OCP, W), blocks)
    t_row = transposed_row(TH * OW, W, size)
    sums = (TH * OW + W) * nv * W
    c_row, turned = spec.C, 0
    if not spec.channels_last:
        c_row = ceil_div(C, W) * W
        turned = (prod(spec.input) + W) * c_row
    corner = workspace.aligned(sums + (0 if spec.channels_last else W * t_row), size)
    per_thread = workspace.aligned(turned, size) + corner + W * W
    if per_thread * threads * size > limit:
        return None

    at, rows, ends = _pixels(spec, TH, c_row)
    off = np.arange(C)
    sections = [*cut.tables(), off, at, rows, ends]
    starts = np.cumsum([0, *(len(s) for s in sections)])[-5:-1]
    geometry = np.array(
        [
            *cut.geometry(), spec.N, C, OC, G, taps, OD, OH, OW, OW, 1, OCP, C, 1, 0, 0, blocks, 0, chain(spec),
            per_thread, corner, nv * W, t_row, *starts,
        ],
        np.int64,
    )  # fmt: skip
    assert len(geometry) == _ALL
    vectors = ceil_div(OC, W)
    counts = np.diff(ends, prepend=0)
    one = sum(
        tile_cycles(int(n), nv, True, 8) * int(c) for n, c in zip(*np.unique(counts, return_counts=True), strict=True)
    )
    compute = one * C * vectors / nv
    # Every chain reads and writes its sums; the rest is clearing, storing and a task's start.
    other = len(at) * vectors * 3.0 * ceil_div(C, chain(spec))
    other += prod(spec.output) * vectors * (2.0 if spec.channels_last else 0.5 * W)
    other += 400.0 * OD * ceil_div(OH, TH) + turned * 0.5 * threads
    tasks = spec.N * G * OD * ceil_div(OH, TH) * ceil_div(OC, OCP)
    cost = Cost.of_cycles(spec, spec.N * G * compute, spec.N * G * other, spec.moved_bytes, tasks, threads)
    return Params(
        "taps", geometry, np.concatenate(sections), OCP, blocks, tasks, threads, per_thread,
        per_thread * threads * size, cost,
    )  # fmt: skip


def _pixels(spec: ConvSpec, TH: int, c_row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every tile and tap its pixels: place in x, row of C, and where its list ends."""
    OD, OH, OW = spec.output3
    _, IH, IW = spec.input3
    D, H, Wd = (_inside(spec, axis) for axis in range(3))
    at, rows, ends, total = [], [], [], 0
    for od in range(OD):
        for oh in range(0, OH, TH):
            block = H[oh : oh + TH]
            for kd in range(spec.kernel3[0]):
                for kh in range(spec.kernel3[1]):
                    for kw in range(spec.kernel3[2]):
                        if D[od, kd] >= 0:
                            h, w = np.flatnonzero(block[:, kh] >= 0), np.flatnonzero(Wd[:, kw] >= 0)
                            places = np.add.outer((D[od, kd] * IH + block[h, kh]) * IW, Wd[w, kw]) * c_row
                            at.append(places.reshape(-1))
                            rows.append(np.add.outer(h * OW, w).reshape(-1))
                            total += len(rows[-1])
                        ends.append(total)
    return np.concatenate(at), np.concatenate(rows), np.array(ends, np.int64)


@kernel
def taps(  # type: ignore[no-untyped-def]
    thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch
):
    """C[row[p], oc] += sum_c x[at[p] + off[c]] * weight[c, tap, oc], tap after tap."""
    (
        channels_last, C_all, ID, IH, IW, _, _, _, _, _, _, _, _, _, _, _, TH, _, _, _, _, _, _, _, _, _,
        _, C, OC, G, count, OD, OH, OW, _, _, OCP, _, _, _, _, blocks, _, KC, per_thread, corner, _, t_row,
        off, at, rows, ends,
    ) = unpack(geometry, _ALL)  # fmt: skip
    W = vector_width(x)
    K, group_size = C * count, (OC + W - 1) // W * W * C * count
    tiles, parts = (OH + TH - 1) // TH, (OC + OCP - 1) // OCP
    IP, c_row = ID * IH * IW, (C + W - 1) // W * W
    sums = thread * per_thread
    image, turned = sums + corner + W * W, -1
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, part = divmod(task, parts)
        rest, tile = divmod(rest, OD * tiles)
        n, g = divmod(rest, G)
        od, oh0 = tile // tiles, tile % tiles * TH
        height = min(TH, OH - oh0)
        A, a0 = x, n * C_all * IP + g * C
        if not channels_last:
            A, a0 = scratch, image
            if turned != n * G + g:
                turned = n * G + g
                for c in range(0, C, W):
                    src = (n * C_all + g * C + c) * IP
                    pack_lanes(x, src, IP, min(W, C - c), IP, scratch, image + c, c_row, scratch, sums + corner)
        oc0, oc_end = part * OCP, min(OC, part * OCP + OCP)
        vectors = (oc_end - oc0 + W - 1) // W
        for block in range(blocks):  # 1. a block of output channels
            v0, v1 = block * vectors // blocks, (block + 1) * vectors // blocks
            row = (v1 - v0) * W
            if row == 0:
                continue
            b0 = g * group_size + (oc0 + v0 * W) * K
            fill_row(scratch, sums, height * OW * row)
            for k in range(0, C, KC):  # 2. a chain of channels
                for tap in range(count):  # 3. a tap, over its pixels
                    served = tile * count + tap
                    begin = tables[ends + served - 1] if served > 0 else 0
                    gemm_pixels(
                        tables[ends + served] - begin, v1 - v0, A, a0, tables, at + begin, tables, off + k,
                        min(KC, C - k), weight, b0 + (k * count + tap) * row, count * row, scratch, sums, tables,
                        rows + begin,
                    )  # fmt: skip
            store_pixels(
                geometry, n, od, oh0, 0, height, OW, g * OC + oc0 + v0 * W, min(row, oc_end - oc0 - v0 * W), row,
                scratch, sums, sums + corner - W * t_row, bias, residual, constants, out,
            )  # fmt: skip
