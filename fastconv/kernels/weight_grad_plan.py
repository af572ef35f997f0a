"""How a direct weight gradient is cut: tiles of pixels, blocks of the gradient, and what is added up in which order.

Where many taps lie in zero padding for many pixels, the sums run tap by tap over just the pixels that the tap serves
(`weight_grad_taps`): no multiplication by a padded zero, and no padded copy of the input.

The order of every sum is decided by the problem alone: tiles, chains, segments and parts do not depend on the number
of threads. Blocks of channels do, but they only say who computes an element, not how.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.microkernel import widest
from fastconv.kernels.common import LONGEST_CHAIN, Cost, ceil_div
from fastconv.kernels.direct_plan import SMALL, as_line
from fastconv.kernels.input_tile import InputTile
from fastconv.spec import ConvSpec

#: Chains added up one by one before their sum is added to the next level: with chains of 128 products, the terms of
#: three levels are 128 * 64 * 64, half a million pixels, and no level adds more than 128 numbers in a row.
SEGMENT = 64

#: Pixels of a tile: four chains share a packed input tile and its halo.
TILE = 512

#: Tasks that a problem is cut into, so that any usual number of threads finds work.
TASKS = 16

#: Share of the multiplications that are not by padded zeros, and input channels, from which on taps go one by one.
SERVED, CHANNELS = 0.92, 16

#: Fields of a tap in the table of taps: the outputs it serves along each axis (from, to), the place of the input cell
#: that it shows the first output of all, and its list of pixels' places.
TAP = 8

#: Multiply-adds (times two) that make a part worth a copy of the gradient.
PART = 4e6


@dataclass(frozen=True)
class Params:
    """What `weight_grad_direct.run` needs; geometry and tables are read by the kernels."""

    by_taps: bool
    geometry: np.ndarray
    tile: np.ndarray  # what `cut_tile` reads
    tables: np.ndarray
    tasks: int
    reductions: int
    threads: int
    elements: int
    workspace: int
    cost: Cost


@dataclass(frozen=True)
class Blocks:
    """Blocks of the gradient, CB channels with all their taps x OCP output channels; sizes in elements."""

    CB: int
    OCP: int
    nv: int  # vectors of output channels in a panel, at most
    tasks: int  # of each part
    packed: int  # the input tile
    panel: int  # a chain of dY
    sums: int  # one block
    per_thread: int
    shared: int  # blocks of all parts
    elements: int
    compute: float  # cycles of all tasks in the microkernel
    other: float  # and outside of it
    cycles: float  # of the thread with the most tasks


#: Fields of `Params.geometry`.
FIELDS = 35

#: Rows of a block that one task of the reduction adds up.
REDUCED = 64


def pixel_tile(spec: ConvSpec) -> tuple[int, int]:
    """Rows and columns of a tile of output pixels."""
    _, OH, OW = spec.output3
    TW = OW if OW <= TILE else ceil_div(OW, ceil_div(OW, TILE))
    most = max(1, TILE // TW)
    return ceil_div(OH, ceil_div(OH, most)), TW


def _splits(size: int, unit: int) -> Iterator[int]:
    """Block sizes that cut `size` evenly, multiples of `unit` (the last block may be smaller)."""
    seen = set()
    for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, size):
        block = min(size, ceil_div(ceil_div(size, n), unit) * unit)
        if block not in seen:
            seen.add(block)
            yield block


def parts_of(spec: ConvSpec, tiles: int, limit: int) -> int:
    """Parts of the pixels that are summed by themselves, each with a copy of the gradient.

    Only a small gradient needs them: a large one has blocks enough for all threads.
    """
    blocks = spec.groups * max(1, spec.K // 96) * max(1, spec.OC // spec.groups // 64)
    parts = min(ceil_div(TASKS, blocks), tiles, max(1, int(spec.flops / PART)))
    room = limit // 2 // max(spec.weight_bytes, 1)
    return max(1, min(parts, room))


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    """Everything `weight_grad_direct.run` needs, or why the problem cannot be cut to fit `limit`."""
    full, spec = spec, as_line(spec)
    threads = threads if spec.flops > SMALL else 1
    W, size, G = isa.width(spec.dtype), spec.itemsize, spec.groups
    C, OC, taps = spec.C // G, spec.OC // G, spec.K // (spec.C // G)
    OD, OH, OW = spec.output3

    TH, TW = pixel_tile(spec)
    tile = InputTile.of(spec, TH, TW)
    share = served(spec) if TW == OW and C >= CHANNELS else 1.0
    by_taps = share < SERVED
    in_place = by_taps or not any(map(any, spec.padding3))
    KC = ceil_div(TH * TW, ceil_div(TH * TW, LONGEST_CHAIN))
    tiles = spec.N * OD * ceil_div(OH, TH) * ceil_div(OW, TW)
    parts = parts_of(spec, tiles, limit)
    segment = max(1, SEGMENT // ceil_div(TH * TW, KC))
    segmented = ceil_div(tiles, parts) > segment

    best = None
    for CB in _splits(C, 1):
        for OCP in _splits(OC, W):
            blocks = _evaluate(spec, tile, (CB, OCP), KC, (tiles, parts, segmented), threads, share)
            if blocks.elements * size <= limit and (best is None or blocks.cycles < best.cycles):
                best = blocks
    if best is None:
        return f"its smallest tile exceeds the workspace limit of {limit} bytes"

    _, sh, sw = spec.stride3
    pixel = spec.C if spec.channels_last else 1
    row, column = (sh * spec.input3[2] * pixel, sw * pixel) if in_place else (tile.pitch, 1)
    if by_taps:
        sections = [*tile.tables(), *_by_taps(spec, TH, best.CB)]
    else:
        sections = [
            *tile.tables(),
            _rows(spec, tile, best.CB, in_place),
            *(
                np.add.outer(np.arange(TH) * row, np.arange(width) * column).reshape(-1)
                for width in (TW, (OW - 1) % TW + 1)
            ),
        ]
    starts = np.cumsum([0, *(len(s) for s in sections)])[6:9]
    geometry = np.array(
        [
            spec.channels_last, spec.C, spec.input3[1], spec.input3[2], *spec.stride3, TH, in_place, G, C, OC, taps,
            *spec.output3, TW, tiles, parts, segment, segmented, KC, best.CB,
            best.OCP, best.nv, best.tasks, best.packed, best.panel, best.sums, best.shared, best.per_thread,
            prod(spec.input3), *starts,
        ],
        np.int64,
    )  # fmt: skip
    assert len(geometry) == FIELDS
    tasks = best.tasks * parts
    cost = Cost.of_cycles(spec, best.compute, best.other, full.moved_bytes, tasks, threads)
    reductions = best.tasks * ceil_div(best.CB * taps, REDUCED) if parts > 1 else 0
    return Params(
        by_taps, geometry, np.array(tile.geometry(), np.int64), np.concatenate(sections).astype(np.int64), tasks,
        reductions, threads, best.elements, best.elements * size, cost,
    )  # fmt: skip


def _rows(spec: ConvSpec, tile: InputTile, CB: int, in_place: bool) -> np.ndarray:
    """Place of every (channel, tap) of a block, in the tile or in the input itself."""
    if not in_place:
        return np.add.outer(np.arange(CB) * tile.c_pitch, tile.taps()).reshape(-1)
    _, IH, IW = spec.input3
    pixel, plane = (spec.C, 1) if spec.channels_last else (1, prod(spec.input3))
    d, h, w = (np.arange(k) * dilation for k, dilation in zip(spec.kernel3, spec.dilation3, strict=True))
    taps = (np.add.outer(np.add.outer(d * IH, h) * IW, w) * pixel).reshape(-1)
    return np.add.outer(np.arange(CB) * plane, taps[::-1] if spec.flip else taps).reshape(-1)


def _served_by(spec: ConvSpec, axis: int) -> list[tuple[int, int]]:
    """Of every tap along an axis the outputs, from and to, whose cell lies in the input."""
    size, out, step = spec.input3[axis], spec.output3[axis], spec.stride3[axis]
    taps = [k * spec.dilation3[axis] - spec.padding3[axis][0] for k in range(spec.kernel3[axis])]
    ranges = [(min(out, max(0, ceil_div(-tap, step))), min(out, max(0, (size - 1 - tap) // step + 1))) for tap in taps]
    return ranges[::-1] if spec.flip else ranges


def served(spec: ConvSpec) -> float:
    """Share of the multiplications that are not by padded zeros; 1 where padding is not zeros."""
    if spec.padding_mode != "zeros":
        return 1.0
    ranges = [_served_by(spec, axis) for axis in range(3)]
    return prod(
        sum(max(0, end - begin) for begin, end in taps) / (len(taps) * out)
        for taps, out in zip(ranges, spec.output3, strict=True)
    )


def _by_taps(spec: ConvSpec, TH: int, CB: int) -> list[np.ndarray]:
    """Places of channels; rows of a block, tap by tap; the table of taps, its lists of places at its end."""
    _, IH, IW = spec.input3
    taps = prod(spec.kernel)
    pixel, plane = (spec.C, 1) if spec.channels_last else (1, prod(spec.input3))
    _, sh, sw = spec.stride3
    D, H, Wd = (_served_by(spec, axis) for axis in range(3))
    lists: dict[int, np.ndarray] = {}
    for begin, end in Wd:
        width = max(0, end - begin)
        lists[width] = np.add.outer(np.arange(TH) * sh * IW, np.arange(width) * sw).reshape(-1) * pixel
    widths = list(lists)
    ends = np.cumsum([taps * TAP, *(len(lists[width]) for width in widths)])
    table = []
    for d, h, w in np.ndindex(*spec.kernel3):
        tap = [k - 1 - t for k, t in zip(spec.kernel3, (d, h, w), strict=True)] if spec.flip else [d, h, w]
        first = [t * s - lo for t, s, (lo, _) in zip(tap, spec.dilation3, spec.padding3, strict=True)]
        place = ((first[0] * IH + first[1]) * IW + first[2]) * pixel
        table += [*D[d], *H[h], *Wd[w], place, int(ends[widths.index(max(0, Wd[w][1] - Wd[w][0]))])]
    rows = np.add.outer(np.arange(taps), np.arange(CB) * taps).reshape(-1)
    return [np.arange(CB) * plane, rows, np.array([*table, *np.concatenate([lists[width] for width in widths])])]


def _evaluate(
    spec: ConvSpec, tile: InputTile, block: tuple[int, int], KC: int, order: tuple[int, int, bool], threads: int,
    share: float,
) -> Blocks:  # fmt: skip
    CB, OCP = block
    tiles, parts, segmented = order
    W, size, G = isa.width(spec.dtype), spec.itemsize, spec.groups
    C, OC, taps = spec.C // G, spec.OC // G, spec.K // (spec.C // G)
    by_taps = share < SERVED
    in_place = by_taps or not any(map(any, spec.padding3))
    P, rows, vectors = tile.TH * tile.TW, CB * taps, ceil_div(OCP, W)
    nv = ceil_div(vectors, ceil_div(vectors, max(widest().values())))
    tasks = G * ceil_div(C, CB) * ceil_div(OC, OCP)

    # Panels and blocks have room for a vector of rows more, and panels for a square that stores transpose in.
    packed = 0 if in_place else workspace.aligned(CB * tile.c_pitch, size)
    if by_taps:
        packed = workspace.aligned((P + W) * nv * W, size)  # dY of a tile
    panel = workspace.aligned((KC + W) * nv * W + W * W, size)
    sums = workspace.aligned((rows + W) * vectors * W, size)
    per_thread = packed + panel + sums * ((parts == 1) + segmented)
    shared = parts * tasks * sums if parts > 1 else 0

    mr = next(m for m in (8, 6, 4, 2, 1) if widest().get(m, 0) >= nv)
    L2 = cache_sizes()[1]
    compute = share * P * vectors * max(rows / 2, 4.0 / nv * ceil_div(rows, mr))
    update = 20 + mr * nv * (2 if sums * size < L2 / 4 else 5)  # a chain's sums are added to C
    compute += ceil_div(P, KC) * ceil_div(rows, mr) * (vectors / nv) * update
    compute *= tiles / parts * (1.3 if (sums + packed) * size > L2 * 0.75 else 1.0)
    other = P * vectors * (5 if spec.channels_last else 0.4 * W)
    if not in_place:
        other += tile.cycles(CB)
    if by_taps:
        other += share * P * taps * vectors * 2.0  # a tap's pixels are brought together
    other = other * tiles / parts + rows * vectors * (0.4 * W + (6.0 * parts if parts > 1 else 0)) + 400
    share = ceil_div(tasks * parts, threads)
    total = tasks * parts
    return Blocks(
        CB, OCP, nv, tasks, packed, panel, sums, per_thread, shared, per_thread * threads + shared, total * compute,
        total * other, share * (compute + other),
    )  # fmt: skip
