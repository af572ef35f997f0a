"""Gradient of the weights as dot products of dY with shifts of x: for depthwise convolution and others of few channels.

    dW[oc, c, tap] = sum over n, p of dY[n, oc, p] * tile[n, c, p + shift[tap]]

Where a group has few output channels, vectors along them would be mostly empty. Here lanes are pixels, or channels
where a channels-last convolution has one input channel per output. Both operands are copied into L1, a tile at a time:
x with its padding, in planes by stride phase, so that every tap is a shift; dY with zeros where a row of x is longer,
so that one run of vectors passes through all rows of the tile. A vector of dY then meets up to twelve shifts of x, and
the sums stay in registers. Lanes are added up once, at the end.

3x3 planes are multiplied where they lie: `cpu/rolling_dots.py`.

Zeros of dY meet cells of x that the tap does not touch. Were they not finite, the product would be NaN: a result that
is not finite is computed again by `weight_grad_direct`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastconv.cpu import isa, threads, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.dots import most_shifts
from fastconv.kernels import depthwise_rolling, weight_grad_direct, weight_grad_dots_kernels
from fastconv.kernels.common import LONGEST_CHAIN, Cost, ceil_div
from fastconv.kernels.direct_plan import SMALL, as_line
from fastconv.kernels.input_tile import InputTile
from fastconv.kernels.weight_grad_dots_kernels import FIELDS, REDUCED
from fastconv.kernels.weight_grad_plan import SEGMENT, TASKS
from fastconv.spec import ConvSpec

NAME = "dots"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "a sum for every lane, of at most 128 terms, added in blocks"

TASK = 30_000  # cycles that make a task worth claiming


@dataclass(frozen=True)
class Params:
    form: str
    geometry: np.ndarray
    tile: np.ndarray  # what `cut_tile` reads
    tables: np.ndarray
    tasks: int
    reductions: int
    threads: int
    elements: int
    workspace: int
    limit: int
    cost: Cost


def refuses(spec: ConvSpec) -> str | None:
    """Nothing is refused, but with many channels per group the sums of all lanes leave the caches."""
    return None


def lanes_are_channels(spec: ConvSpec) -> bool:
    return spec.channels_last and spec.OC == spec.C == spec.groups and isa.width(spec.dtype) <= spec.C


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    spec = as_line(spec)
    threads = threads if spec.flops > SMALL / 4 else 1
    if _rolls(spec):
        return _rolling(spec, threads, limit)
    return _by_channel(spec, threads, limit) if lanes_are_channels(spec) else _by_pixel(spec, threads, limit)


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def run(spec: ConvSpec, params: Params, x: np.ndarray, grad_output: np.ndarray, out: np.ndarray) -> None:
    kernel = _KERNELS[params.form]
    with workspace.scratch(spec.dtype, params.elements, 1) as scratch:
        arrays = (params.geometry, params.tile, params.tables, x, grad_output, out, scratch)
        threads.run(kernel, params.tasks, arrays, params.threads)
        if params.reductions:
            threads.run(weight_grad_dots_kernels.total, params.reductions, arrays, params.threads)
    if out.dtype.kind == "f" and not np.isfinite(out).all():
        other = weight_grad_direct.parameters(spec, params.threads, params.limit)
        if not isinstance(other, str):
            weight_grad_direct.run(spec, other, x, grad_output, out)


_KERNELS = {
    "planes": weight_grad_dots_kernels.planes,
    "lanes": weight_grad_dots_kernels.lanes,
    "rolling": weight_grad_dots_kernels.rolling,
}


def _rolls(spec: ConvSpec) -> bool:
    """Whether 3x3 planes are multiplied where they lie: a channel's sums are one segment, channels are the tasks."""
    columns = ceil_div(spec.output3[2] * spec.stride3[2], isa.width(spec.dtype))
    chains = spec.N * spec.output3[0] * ceil_div(spec.output3[1], LONGEST_CHAIN) * columns
    depthwise = spec.OC == spec.C == spec.groups >= TASKS
    return depthwise and depthwise_rolling.accepts(spec) and chains <= SEGMENT


def _rolling(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    W, size, C, taps = isa.width(spec.dtype), spec.itemsize, spec.C, spec.K
    columns, inside = depthwise_rolling.lanes_inside(spec)
    # A row of a column waits for memory rather than for its nine multiply-adds.
    one = spec.N * spec.output3[0] * columns * (spec.output3[1] * 10.0 + 30) + taps * 5
    GB = max(1, min(int(TASK / one), ceil_div(C, TASKS)))
    sums = workspace.aligned(GB * taps * W + W * W, size)
    zeros = workspace.aligned(spec.input3[2] + W, size)
    tile = InputTile.of(spec, 1, 1)
    at = sum(len(table) for table in tile.tables())
    geometry = [
        False, C, *spec.input3, *spec.output3, *spec.stride3, *(lo for lo, _ in spec.padding3[1:]), spec.N, columns,
        1, GB, spec.flip, zeros, 0, 0, 0, 0, sums + zeros, at, ceil_div(C, GB), 0,
    ]  # fmt: skip
    return _finished("rolling", spec, tile, geometry, inside, threads, limit, one * C, 0.0)


def _even(size: int, most: int) -> int:
    """The largest piece of at most about `most` that cuts `size` evenly."""
    return ceil_div(size, ceil_div(size, max(1, most)))


def _parts(tiles: int, chains: int, blocks: int, cycles: float, weight: int, limit: int) -> int:
    """Parts of the pixels: enough for accuracy, and for all threads if the work is worth it."""
    for_accuracy = ceil_div(tiles * chains, SEGMENT)
    for_threads = min(ceil_div(TASKS, blocks), max(1, int(cycles / TASK)))
    return max(1, min(tiles, max(for_accuracy, min(for_threads, limit // 2 // weight))))


def _by_pixel(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    W, size, G = isa.width(spec.dtype), spec.itemsize, spec.groups
    C, OC, taps = spec.C // G, spec.OC // G, spec.K // (spec.C // G)
    OD, OH, OW = spec.output3
    L2 = cache_sizes()[1]
    run = LONGEST_CHAIN * W

    # 1. A tile is one chain, or one row.
    TW = OW if OW <= run else _even(OW, run)
    tile = InputTile.of(spec, 1, TW)
    TH = _even(OH, run // tile.pitch)
    tile = InputTile.of(spec, TH, TW)
    y_row = ceil_div(TH * tile.pitch, W) * W + W  # whole vectors; rows never lie a page apart
    tiles = spec.N * OD * ceil_div(OH, TH) * ceil_div(OW, TW)
    vectors = ceil_div((TH - 1) * tile.pitch + TW, W)

    # 2. Blocks of the gradient: their sums stay in L2, x and dY as well.
    OCB = _even(OC, min(16, max(1, L2 // 4 // (taps * W * size))))
    CB = _even(C, min(L2 // 4 // (OCB * taps * W * size), L2 // 2 // (tile.c_pitch * size)))
    whole = CB == C and OCB == OC
    cut = min(G, ceil_div(W, C)) if whole and spec.channels_last else 1  # transposes want a vector of channels
    mr = 4 if OCB >= 4 else 2 if OCB >= 2 else 1
    pieces = ceil_div(CB * taps, most_shifts()[mr])
    step = max(CB * taps * mr / 2, (CB * taps * 1.7 + mr * pieces) / 2, 4.0 * pieces) * ceil_div(OCB, mr)
    update = OCB * CB * taps * (2 if OCB * CB * taps * W * size < 16384 else 4) + 20 * pieces * ceil_div(OCB, mr)
    cutting = tile.cycles(CB) + OCB * TH * ((40 + 0.6 * TW) if spec.channels_last else (6 + 0.2 * tile.pitch))
    one = step * vectors + update * ceil_div(vectors, LONGEST_CHAIN) + cutting
    GB = 1
    if whole:
        GB = max(cut, min(int(TASK / (one * tiles)), G // TASKS, 32768 // (OC * C * taps * W * size)) // cut * cut)
    blocks = ceil_div(G, GB) * ceil_div(C, CB) * ceil_div(OC, OCB)
    total = one * tiles * G * ceil_div(C, CB) * ceil_div(OC, OCB)
    parts = _parts(tiles, ceil_div(vectors, LONGEST_CHAIN), blocks, total, spec.weight_bytes, limit)

    # 3. Scratch.
    packed = workspace.aligned((cut * C if cut > 1 else CB) * tile.c_pitch + 2 * W, size)
    grads = workspace.aligned((cut * OC if cut > 1 else OCB) * y_row, size)
    sums = workspace.aligned((GB * OCB * CB * taps + W) * W + W, size)
    at = sum(len(table) for table in tile.tables())
    shifts = np.add.outer(np.arange(CB) * tile.c_pitch, tile.taps()).reshape(-1)
    cell = tile.phases * tile.plane
    geometry = [
        spec.channels_last, G, C, OC, taps, OD, OH, OW, TH, TW, tile.pitch, tile.c_pitch, cell, y_row, tiles, parts,
        GB, cut, CB, OCB, packed, grads, sums, packed + grads + sums, at, blocks, tile.c_pitch - cell,
    ]  # fmt: skip
    return _finished("planes", spec, tile, geometry, shifts, threads, limit, total, cutting * total / one)


def _by_channel(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    W, size, C, taps = isa.width(spec.dtype), spec.itemsize, spec.C, spec.K
    OD, OH, OW = spec.output3
    L1, L2, _ = cache_sizes()

    # 1. A tile of one vector of channels, x and dY together in L1 if the kernel's reach allows.
    def cells(TH: int, TW: int) -> int:
        tile = InputTile.of(spec, TH, TW)
        return tile.phases * tile.plane + TH * tile.pitch

    widths = {_even(OW, n) for n in (8, 14, 16, 28, 32, 56, 128)}
    choices = [(TH, TW) for TW in widths for TH in {_even(OH, n) for n in range(1, 33)}]
    fitting = [c for c in choices if cells(*c) * W * size <= 0.8 * L1] or [min(choices, key=lambda c: cells(*c))]
    TH, TW = min(fitting, key=lambda c: ((cells(*c) + 12) / (c[0] * c[1]), c))
    tile = InputTile.of(spec, TH, TW)
    tiles = spec.N * OD * ceil_div(OH, TH) * ceil_div(OW, TW)
    pixels = (TH - 1) * tile.pitch + TW

    # 2. Tasks.
    vectors = ceil_div(C, W)
    cutting = cells(TH, TW) * 6.0
    one = pixels * taps * 0.6 + cutting + taps * 5 + 60
    most = max(1, L2 // 8 // (taps * W * size))
    VB = _even(vectors, min(most, max(1, min(int(TASK / one), vectors // 2))))
    blocks = ceil_div(vectors, VB)
    total = one * tiles * vectors
    parts = _parts(tiles, ceil_div(pixels, LONGEST_CHAIN), blocks, total, spec.weight_bytes, limit)

    # 3. Scratch.
    packed = workspace.aligned(tile.phases * tile.plane * W, size)
    grads = workspace.aligned(TH * tile.pitch * W, size)
    sums = workspace.aligned((VB * taps + W) * W + W * W, size)
    at = sum(len(table) for table in tile.tables())
    geometry = [
        True, C, 1, 1, taps, OD, OH, OW, TH, TW, tile.pitch, 0, 0, 0, tiles, parts, VB, 0, 0, 0,
        packed, grads, sums, packed + grads + sums, at, blocks, 0,
    ]  # fmt: skip
    return _finished("lanes", spec, tile, geometry, tile.taps() * W, threads, limit, total, cutting * tiles * vectors)


def _finished(
    form: str, spec: ConvSpec, tile: InputTile, geometry: list[int], shifts: np.ndarray, threads: int, limit: int,
    cycles: float, cutting: float,
) -> Params | str:  # fmt: skip
    parts, per_thread, blocks = geometry[15], geometry[23], geometry[25]
    weights = spec.OC * spec.K
    shared = workspace.aligned(parts * weights if parts > 1 else 0, spec.itemsize)
    elements = shared + per_thread * threads
    if elements * spec.itemsize > limit:
        return f"its smallest tile exceeds the workspace limit of {limit} bytes"
    geometry = [*geometry, shared]
    assert len(geometry) == FIELDS
    tasks = blocks * parts
    return Params(
        form, np.array(geometry, np.int64), np.array(tile.geometry(), np.int64),
        np.concatenate([*tile.tables(), shifts]).astype(np.int64), tasks,
        ceil_div(weights, REDUCED) if parts > 1 else 0, threads, elements, elements * spec.itemsize, limit,
        Cost.of_cycles(spec, cycles - cutting, cutting, spec.moved_bytes, tasks, threads),
    )  # fmt: skip
