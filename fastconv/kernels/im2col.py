"""Convolution as a GEMM with im2col, a panel at a time: the patch matrix never exists as a whole.

For one group of one image, B [K x P] holds in column p the patch under output pixel p (Chellapilla et al. 2006):

    C[oc, p] = sum_k A[oc, k] * B[k, p]          [OC x K] * [K x P] -> [OC x P]

A task is a panel of PB pixels and OCP output channels. It walks down K: a chain of rows of B is copied out of the
padded input into a packed panel (Goto & van de Geijn 2008), multiplied and added to C. Scratch is (chain + OCP) * PB
elements a thread whatever the kernel's size. No column between image rows is wasted, at the price of KH*KW times the
packing of `direct`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from fastconv.cpu import isa, threads, workspace
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.microkernel import gemm_block
from fastconv.cpu.simd import claim, transpose_block, unpack, vector_width
from fastconv.kernels import pack
from fastconv.kernels.common import Cost, chain
from fastconv.kernels.direct_plan import SMALL, row_tile
from fastconv.kernels.epilogue import Epilogue, bias_of, store_channels, store_row
from fastconv.kernels.pack import pack_row
from fastconv.spec import ConvSpec

NAME = "im2col"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "sums of at most 128 terms, added in blocks"

# B, chain x PB, is an eighth of a 1 MB L2 in float32 (128 x 240 x 4 B = 123 KB); 240 is 5 register tiles of 3 x 16
# lanes, and a multiple of every other vector width. C, OCP x PB, takes at most a quarter.
PB, MAX_OCP = 240, 256


@dataclass(frozen=True)
class Params:
    geometry: np.ndarray
    tables: np.ndarray
    tasks: int
    threads: int
    per_thread: int
    workspace: int
    cost: Cost


def refuses(spec: ConvSpec) -> str | None:
    """Nothing is refused: every spec is a GEMM."""
    return None


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    """Panel sizes, shrunk until the scratch of all threads fits `limit`."""
    W, size = isa.width(spec.dtype), spec.itemsize
    threads = threads if spec.flops > SMALL else 1
    OC, OP = spec.OC // spec.groups, prod(spec.output)
    mr = row_tile(OC)
    pb, kc, ocp = min(PB, -(-OP // W) * W), min(chain(spec), spec.K), min(MAX_OCP, OC)

    def sizes() -> tuple[int, int]:
        rows = -(-ocp // W) * W if spec.channels_last else ocp
        return workspace.aligned(kc * pb, size), workspace.aligned(rows * pb + W * W, size)

    panels = -(-OP // pb) * spec.N * spec.groups
    while panels * -(-OC // ocp) < 2 * threads and ocp > 2 * mr:  # too few tasks for the threads
        ocp = -(-ocp // 2 // mr) * mr
    while sum(sizes()) * size * threads > limit:
        if max(pb, kc, ocp) <= W:
            return f"its smallest panel exceeds the workspace limit of {limit} bytes"
        if pb > W and pb >= max(kc, ocp):
            pb = max(W, pb // 2 // W * W)
        elif kc >= ocp:
            kc = max(1, kc // 2)
        else:
            ocp = max(1, ocp // 2)
    b_size, c_size = sizes()
    axes = tuple(pack.axis(spec, i) for i in range(3))
    taps = [range(0, k * d, d) for k, d in zip(spec.kernel3, spec.dilation3, strict=True)]
    places = [np.array(t[::-1] if spec.flip else t, np.int64) for t in taps]
    sections = [*(a.sources for a in axes), *places, np.arange(kc, dtype=np.int64) * pb]
    starts = np.cumsum([0, *(len(s) for s in sections)])[:7]
    geometry = np.array(
        [
            spec.channels_last, spec.C // spec.groups, OC, spec.groups, *spec.input3, *spec.output3, *spec.kernel3,
            *spec.stride3, *(lo for lo, _ in spec.padding3), mr, pb, kc, ocp, b_size, b_size + c_size, *starts,
        ],
        np.int64,
    )  # fmt: skip
    tasks = -(-OP // pb) * spec.N * spec.groups * -(-OC // ocp)
    per_thread = b_size + c_size
    outputs = spec.N * spec.OC * OP
    cost = Cost(
        flops=2.0 * outputs * spec.K * (-(-OP // W) * W / OP),
        bytes=spec.moved_bytes,
        transform=float(
            spec.N * spec.groups * -(-OC // ocp) * spec.K * OP * (8 if spec.channels_last else 1) + outputs
        ),
        tasks=tasks if threads > 1 else 1,
    )
    return Params(
        geometry, np.concatenate(sections), tasks, threads, per_thread, per_thread * threads * size, cost
    )  # fmt: skip


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """Weights are used as they lie: row oc of A is K contiguous elements."""
    return weight.reshape(-1)


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    with workspace.scratch(spec.dtype, params.per_thread, params.threads) as scratch:
        arrays = (
            params.geometry, params.tables, x, packed, epilogue.bias, epilogue.residual, epilogue.constants, out,
            scratch,
        )  # fmt: skip
        threads.run(im2col, params.tasks, arrays, params.threads)


@inline
def _fill(geometry, tables, x, n, channel, k0, depth, p0, P, dst, d0):  # type: ignore[no-untyped-def]
    """dst[k][p]: rows k0..k0+depth of the patch matrix, pixels p0..p0+P of the output."""
    (
        channels_last, C, _, G, ID, IH, IW, _, OH, OW, KD, KH, KW, sd, sh, sw, _, _, lo, _, pb, _, _, _, _,
        src_d, src_h, src_w, tap_d, tap_h, tap_w, _,
    ) = unpack(geometry, 32)  # fmt: skip
    count_w = tap_d - src_w
    channels_all = C * G
    for k in range(depth):
        rest, kw = divmod(k0 + k, KW)
        rest, kh = divmod(rest, KH)
        c, kd = divmod(rest, KD)
        p = 0
        while p < P:  # one output row, or what the panel has of it
            row, ow = divmod(p0 + p, OW)
            od, oh = divmod(row, OH)
            run = min(OW - ow, P - p)
            from_d = tables[src_d + od * sd + tables[tap_d + kd]]
            from_h = tables[src_h + oh * sh + tables[tap_h + kh]]
            at = d0 + k * pb + p
            if from_d < 0 or from_h < 0:
                for i in range(run):
                    dst[at + i] = dst.dtype.type(0)
            else:
                step = channels_all if channels_last else 1
                x0 = ((n * channels_all + channel + c) * ID + from_d) * IH + from_h
                x0 = ((n * ID + from_d) * IH + from_h) * IW * step + channel + c if channels_last else x0 * IW
                first = ow * sw + tables[tap_w + kw]
                pack_row(x, x0, step, tables, src_w, count_w, lo, IW, first, sw, run, dst, at)
            p += run


@kernel
def im2col(thread, counter, tasks, geometry, tables, x, weight, bias, residual, constants, out, scratch):  # type: ignore[no-untyped-def]
    (
        channels_last, C, OC, G, _, _, _, OD, OH, OW, KD, KH, KW, _, _, _, _, _, _, mr, pb, kc, ocp, c_start,
        per_thread, _, _, _, _, _, _, off,
    ) = unpack(geometry, 32)  # fmt: skip
    W = vector_width(x)
    K, OP = C * KD * KH * KW, OD * OH * OW
    panels, parts = (OP + pb - 1) // pb, (OC + ocp - 1) // ocp
    B = thread * per_thread
    sums = B + c_start
    corner = B + per_thread - W * W  # where channels-last stores transpose
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        rest, part = divmod(task, parts)
        rest, panel = divmod(rest, panels)
        n, g = divmod(rest, G)
        p0, oc0 = panel * pb, g * OC + part * ocp
        P, rows = min(pb, OP - p0), min(ocp, OC - part * ocp)
        for k in range(0, K, kc):
            depth = min(kc, K - k)
            _fill(geometry, tables, x, n, g * C, k, depth, p0, P, scratch, B)
            gemm_block(  # tables[off + k] = k * pb: the panel is packed
                rows, P, mr, weight, oc0 * K + k, K, scratch, B, tables, off, depth, scratch, sums, pb, k > 0, False,
                scratch, (0, 0, 1, 0, 0, 0), bias, 0, bias, False, scratch, B, off, 0,
            )  # fmt: skip
        if not channels_last:
            for r in range(rows):
                dst, value = (n * G * OC + oc0 + r) * OP + p0, bias_of(bias, oc0 + r)
                store_row(scratch, sums + r * pb, out, dst, P, value, residual, constants)
            continue
        for p in range(0, P, W):
            for r in range(0, rows, W):
                transpose_block(scratch, sums + r * pb + p, pb, scratch, corner, W)
                for i in range(min(W, P - p)):
                    store_channels(
                        scratch, corner + i * W, out, (n * OP + p0 + p + i) * G * OC + oc0 + r, min(W, rows - r), bias,
                        oc0 + r, residual, constants,
                    )  # fmt: skip
