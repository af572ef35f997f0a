"""Convolution by FFT over tiles that stay in cache (overlap-save), for large kernels.

A tile of T outputs and a kernel of k taps cost O(log T) per output whatever k is, so the size of the tile is the only
choice to make: large tiles waste less on the overlap, small ones stay in L1 and need fewer weights. Every size with
factors 2, 3 and 5 is possible; `parameters` takes the cheapest by a count of cycles.

Stockham 1966 (overlap-save by FFT), Oppenheim & Schafer; Mathieu, Henaff & LeCun 2014 (FFT for convolution layers);
Zlateski, Jia, Li & Durand 2018 (tiled FFT with a GEMM per frequency on CPUs). The transform: see `fft_kernels`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import log2, prod
from typing import NamedTuple

import numpy as np

from fastconv.cpu import fft_transform as t
from fastconv.cpu import isa, threads, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.fft_codelets import register_tile
from fastconv.kernels import fft_kernels as k
from fastconv.kernels import tiles
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue
from fastconv.kernels.fft_axes import SMOOTH, axis_plan, root
from fastconv.kernels.tiles import BLOCK, LAST, TileGrid, geometry, outputs_of_tile
from fastconv.spec import ConvSpec

NAME = "fft"
ACCURACY = "default"
ERROR_BOUND = 16.0
NOTE = "norm-wise: an output errs by at most 16 u ||w|| ||x|| of its tile, not of its own terms"

# Header of the packed weights: largest harmless sum of a tile, whether a filter is bad, and which (one flag each).
_HEADER = 2

#: Cycles to begin a row of outputs that is stored.
ROW = 40


@dataclass(frozen=True, eq=False)
class Params:
    grid: TileGrid
    geometry: np.ndarray
    shape: np.ndarray
    tables: np.ndarray
    constants: np.ndarray
    packed_size: int  # elements of the prepared weights
    weights_at: int
    stages: bool
    chunk: int
    tasks: int
    threads: int
    scratch: int  # elements
    tile_memory: int  # elements that one thread needs besides spectra
    workspace: int
    cost: Cost
    prepare_cost: Cost


def refuses(spec: ConvSpec) -> str | None:
    """Integers must be exact; the rest is possible."""
    if np.dtype(spec.dtype).kind != "f":
        return "a transform rounds: integers would not be exact"
    if max(spec.effective_kernel) > SMOOTH[-1] // 2 and not _is_line(_axes_last(spec)):
        return f"the kernel covers more than {SMOOTH[-1] // 2} cells of an axis"
    return None


# ---- the choice of tiles -----------------------------------------------------------------------------------------


def _axes_last(spec: ConvSpec) -> ConvSpec:
    """The same problem with axes of one cell in front: memory is the same, and long columns become long rows."""

    def trivial(axis: int) -> bool:
        return spec.input3[axis] == spec.kernel3[axis] == 1 and not any(spec.padding3[axis])

    order = sorted(range(3), key=lambda axis: not trivial(axis))
    # A single channel lies first and last.
    last = spec.channels_last and max(spec.C, spec.OC) > 1
    if order == [0, 1, 2] and spec.ndim == 3 and last == spec.channels_last:
        return spec

    def sort(values: tuple) -> tuple:
        return tuple(values[axis] for axis in order)

    return replace(
        spec, ndim=3, input=sort(spec.input3), kernel=sort(spec.kernel3), stride=sort(spec.stride3),
        dilation=sort(spec.dilation3), padding=sort(spec.padding3), channels_last=last,
    )  # fmt: skip


def _is_line(spec: ConvSpec) -> bool:
    return all(spec.input3[a] == spec.kernel3[a] == 1 and not any(spec.padding3[a]) for a in (0, 1))


class _Extent(NamedTuple):
    """A size of tiles along one axis, with outputs in a tile and number of tiles."""

    cells: int
    out: int
    tiles: int


def _extents(spec: ConvSpec, axis: int, sizes: Iterable[int]) -> list[_Extent]:
    """The most promising sizes along one axis: for each number of tiles the smallest, of these the cheapest few."""
    smallest: dict[int, _Extent] = {}
    whole = spec.output3[axis]
    for cells in sizes:
        out = outputs_of_tile(spec, axis, cells)
        if out:
            tiles = -(-whole // out)
            smallest.setdefault(tiles, _Extent(cells, out, tiles))
            if out == whole:
                break
    # Each cell is moved (as long as seven levels of transforms take) and goes through log2 of both axes.
    ranked = sorted(smallest.values(), key=lambda e: e.tiles * e.cells * (14 + log2(e.cells)))
    return ranked[: 8 if spec.kernel3[0] == 1 and prod(spec.kernel) >= 25 else 4]


@cache
def _line_shapes(W: int) -> dict[int, tuple[int, int, int]]:
    """Cells of a line -> its most square shape, by size; rows of whole vectors, so that they follow each other."""
    sides = [n for n in SMOOTH if n <= 1024]
    shapes = [(1, 2 * h, w) for h in sides for w in sides if w % W == 0 and 4 <= h <= 4 * w and w <= 8 * h]
    best: dict[int, tuple[int, int, int]] = {}
    for s in sorted(shapes, key=lambda s: (s[1] * s[2], abs(s[1] - s[2]))):
        best.setdefault(s[1] * s[2], s)
    return best


def _candidates(spec: ConvSpec) -> list[TileGrid]:
    W = isa.width(spec.dtype)
    if _is_line(spec):
        shapes = _line_shapes(W)
        lines = _extents(spec, 2, shapes)
        return [TileGrid(True, shapes[e.cells], (1, 1, e.out), (1, 1, e.tiles)) for e in lines]
    axes = (
        _extents(spec, 0, SMOOTH),
        _extents(spec, 1, (2 * n for n in SMOOTH)),
        _extents(spec, 2, (n for n in SMOOTH if n >= W // 2)),
    )
    return [
        TileGrid(False, (d.cells, h.cells, w.cells), (d.out, h.out, w.out), (d.tiles, h.tiles, w.tiles))
        for d, h, w in product(*axes)
    ]


class _Sizes(NamedTuple):
    """Sizes that follow from a grid, in elements unless said otherwise."""

    half: int
    rows: int  # of a column panel, filled up to whole vectors
    panels: int
    pitch: int
    Q: int
    F: int  # frequency vectors of a spectrum
    block: int
    parts: tuple[int, ...]  # of one thread's memory, spectra apart: M_ROW and so on
    own: int  # their sum

    @classmethod
    def of(cls, spec: ConvSpec, grid: TileGrid) -> _Sizes:
        W = isa.width(spec.dtype)
        TD, TH, TW = grid.extent
        half = TH // 2
        Q, panels = -(-TD * half // W), -(-TW // W)
        pitch, tile = panels * W, TD * TH * panels * W
        block = W if spec.channels_last else 1
        row = max(pitch, (grid.out[2] - 1) * spec.stride3[2] + (spec.kernel3[2] - 1) * spec.dilation3[2] + 1)
        row = -(-row // W) * W
        # A channels-last store reads whole vectors of pixels: the last tile needs some room behind.
        parts = (row, 2 * Q * W * pitch, 2 * W * pitch, block * tile + W, block * tile * spec.channels_last, W * W)
        return cls(half, Q * W, panels, pitch, Q, Q * TW, block, parts, 2 * W + sum(parts))


class _Way(NamedTuple):
    """A grid and how it is worked off. Its bits depend on the grid alone."""

    grid: TileGrid
    sizes: _Sizes
    stages: bool
    chunk: int
    parts: int
    tasks: int
    launches: int
    work: float  # cycles of one core
    transform: float  # of these, everything but the products
    flops: float  # of the products
    bytes: float
    per_thread: int
    shared: int
    forward: float  # cycles of one forward transform
    prepare: int  # elements of one thread's memory while weights are transformed
    fixed: int  # elements of prepared weights and of what tiles are remembered by

    def cycles(self, threads: int) -> float:
        return self.work / self.tasks * -(-self.tasks // threads) + (6000 * self.launches if threads > 1 else 0)

    def workspace(self, threads: int) -> int:
        """Elements while weights are transformed or the convolution runs."""
        return max(self.per_thread * threads + self.shared, self.prepare * threads) + self.fixed


def _far(tile: int) -> float:
    """Further cycles for each complex vector of a tile of so many bytes, in each direction.

    As measured. L2 holds five times as much: the tile, its outputs, the weights' spectra, and input and output that
    stream by.
    """
    return 110 * min(max(tile / cache_sizes()[1] - 1 / 32, 0.0), 1.0)


def _ways(spec: ConvSpec, grid: TileGrid) -> list[_Way]:
    """The ways to work off a grid."""
    W, size = isa.width(spec.dtype), spec.itemsize
    s = _Sizes.of(spec, grid)
    C, OC, G = spec.C // spec.groups, spec.OC // spec.groups, spec.groups
    items = spec.N * grid.count
    TD, _, TW = grid.extent
    L2 = cache_sizes()[1]
    # Cycles for a complex vector (measured): 2.1 per level, and cutting, transposing, untwisting and storing.
    levels = log2(TD * s.half), log2(TW)
    far = _far(s.rows * s.pitch * 2 * size)
    columns = TD * s.half * s.panels
    rows = s.F * (2.1 * levels[1] + 2) + s.Q * s.panels * W * (2 + log2(W)) + 100
    forward = columns * (2.1 * levels[0] + 11 + far) + rows + 300
    backward = columns * (2.1 * levels[0] + 18 + far) + rows + 300 + ROW * grid.out[0] * grid.out[1]
    if spec.channels_last:
        forward, backward = forward + columns * 20, backward + columns * 20
    spectrum = s.F * 2 * W  # elements
    packed = _HEADER + spec.OC + 2 * W + prod(spec.weight_shape) + spec.OC * C * spectrum
    fixed = packed + items * spec.C * (1 + 2 * W)
    prepare = workspace.aligned(s.own + _filters_at_once(C, spectrum * size)[1] * spectrum, size)
    moved = float(spec.input_bytes + spec.output_bytes + spec.OC * C * spectrum * size)
    flops = 8.0 * items * G * OC * C * s.F * W
    fit = (C + OC) * spectrum * size  # bytes of a tile's spectra
    ways: list[_Way] = []

    def add(stages: bool, chunk: int, parts: int, tasks: int, launches: int, work: float, own: int,
            shared: int) -> None:  # fmt: skip
        traffic = moved + (2.0 * items * G * fit if stages else 0)
        per_thread, shared = workspace.aligned(own, size), workspace.aligned(shared, size)
        ways.append(
            _Way(grid, s, stages, chunk, parts, tasks, launches, work, transform, flops, traffic, per_thread, shared,
                 forward, prepare, fixed)
        )  # fmt: skip

    if C == 1:
        own = s.own + (spectrum if OC > 1 else 0)
        for parts in {min(OC, p) for p in (1, 2, 4, 8)}:
            transform = items * G * (forward * parts + (backward + s.F * 4) * OC)
            add(False, 1, parts, -(-G // s.block) * items * parts, 1, transform, own, 0)
        return ways

    transform = items * G * (C * (forward + s.F * 4) + OC * (backward + s.F * 4))
    multiply = flops / 8 / W * 4 / 2 * 1.2  # 4 multiply-adds for each complex one, two a cycle
    weights = float(G * OC * C * spectrum * size)

    def gemm(chunk: int) -> float:
        whole = chunk // 3 * 3
        return multiply * (whole + 1.5 * (chunk - whole)) / chunk

    # 1. a thread takes chunks of tiles through everything: spectra stay in its L2, weights come again for each chunk
    for chunk in {min(items, c) for c in (1, 2, 3, 6, 12, 24)}:
        tasks = G * -(-items // chunk)
        work = transform + max(gemm(chunk), -(-items // chunk) * weights / (30 if weights < L2 // 2 else 8))
        if fit * chunk > L2 * 3 // 4:
            work += items * G * fit / 4
        own = s.own + (chunk * (C + OC) + 2) * spectrum
        add(False, chunk, 1, tasks, 1, work, own, 0)
    # 2. stages, each shared by all threads: weights come once, spectra go through L3
    for chunk in {items, min(items, 96), min(items, 24)}:
        launches = -(-items // chunk)
        work = transform + max(gemm(chunk), launches * weights / 8) + items * G * fit / 4
        shared = (chunk * (C + OC) + 2) * spectrum
        tasks = items * G * max(1, C // s.block)
        add(True, chunk, 1, tasks, 3 * G * launches, work, s.own, shared)
    return ways


def _filters_at_once(C: int, spectrum: int) -> tuple[int, int]:
    """Input channels, and filters, whose spectra (of so many bytes) a thread collects before it writes them."""
    rows = 1 if C == 1 else register_tile()[0]
    channels = max(1, min(C, cache_sizes()[1] // 2 // (rows * spectrum)))
    return channels, rows * channels


def _best_ways(spec: ConvSpec, limit: int) -> list[_Way]:
    """Every way to work off the best grid.

    The grid is the one that does well for 1, 2 and 4 threads: were it chosen for the threads at hand, results would
    depend on them.
    """
    elements = limit // spec.itemsize

    def merit(ways: list[_Way]) -> float:
        return sum(t * min(way.cycles(t) for way in ways) for t in (1, 2, 4))

    found = sorted(_candidates(spec), key=lambda grid: _rough_cycles(spec, grid))
    most = 6 if prod(spec.kernel) >= 25 else 2  # small kernels are seldom worth a transform, or a long search
    for first in range(0, len(found), most):  # more only where the limit allows none of the most promising
        grids = [[w for w in _ways(spec, grid) if w.workspace(1) <= elements] for grid in found[first : first + most]]
        if any(grids):
            return min((ways for ways in grids if ways), key=merit)
    return []


def _rough_cycles(spec: ConvSpec, grid: TileGrid) -> float:
    """Cycles by the numbers of `_ways`, but without regard for chunks and threads."""
    W, (TD, TH, TW) = isa.width(spec.dtype), grid.extent
    half, C, OC = TD * TH // 2, spec.C // spec.groups, spec.OC // spec.groups
    columns, rows = half * -(-TW // W), -(-half // W) * TW
    transform = (columns + rows) * (1.05 * log2(half * TW) + 15) + 600 + columns * _far(rows * W * 2 * spec.itemsize)
    items = spec.N * grid.count
    stores = ROW * OC * grid.out[0] * grid.out[1]
    products = C * OC * rows * 2.4
    return spec.groups * (items * ((C + OC) * transform + products + stores) + C * OC * rows * W * spec.itemsize / 4)


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    """The cheapest tiles, their tables and memory."""
    spec = _axes_last(spec)
    ways = _best_ways(spec, limit)
    if not ways:
        return f"its smallest tiles and spectra exceed the workspace limit of {limit} bytes"
    # Fewer threads rather than other tiles where memory is scarce.
    fitting = [(w, t) for w in ways for t in range(1, threads + 1) if w.workspace(t) * spec.itemsize <= limit]
    way, count = min(fitting, key=lambda choice: (choice[0].cycles(choice[1]), choice[1]))
    return _params(spec, way, count)


def _params(spec: ConvSpec, way: _Way, threads: int) -> Params:
    W, s, grid = isa.width(spec.dtype), way.sizes, way.grid
    TD, _, TW = grid.extent
    plans = [axis_plan(TD, 0), axis_plan(s.half, 1), axis_plan(TW, 0)]
    constants = [np.array(p.constants) for p in plans]
    constants.append(_pairs(np.array([root(j, 4 * s.half) for j in range(s.half)])))
    constants.append(_twist(W, s, plans[1].roots, TW) if grid.line else np.empty(0))
    at = [int(v) for v in np.cumsum([0, *(len(c) for c in constants)])]
    starts = [int(v) for v in np.cumsum([t.FIELDS, *(len(p.passes) for p in plans)])]
    # Panels transformed together fill three quarters of L1; two at least, for they share cache lines of the input.
    together = max(2, cache_sizes()[0] * 3 // 4 // (s.rows * 2 * W * spec.itemsize))
    axes = [v for i in range(3) for v in (starts[i], plans[i].count, at[i])]
    shape = [TD, s.half, TW, s.rows, s.panels, together, grid.line, s.pitch, *axes, at[3], at[4]]
    shape += [v for p in plans for v in p.passes]

    C = spec.C // spec.groups
    weights_at = _HEADER + spec.OC
    spectra_at = -(-(weights_at + prod(spec.weight_shape)) // W) * W
    spectrum = s.F * 2 * W
    places = [int(v) for v in np.cumsum([2 * W, *s.parts])]
    # Spectra lie behind a thread's own memory, or (stages) at the front of the memory all threads share.
    m_v = 0 if way.stages else places[-1]
    m_y = m_v + (way.chunk * C + 1) * spectrum
    UD, UH, UW = ((u - 1) * stride + 1 for u, stride in zip(grid.out, spec.stride3, strict=True))
    needed, height = (s.panels, -(-UW // TW)) if grid.line else (-(-UW // W), UH)
    fields, tables = geometry(spec, grid, s.pitch, s.block)
    fields += [
        s.Q, s.F, needed, UD, height, weights_at, spectra_at, way.parts, way.chunk, way.per_thread, way.shared,
        *places[:-1], m_v, m_y,
    ]  # fmt: skip
    if len(fields) != k.ALL_FIELDS or len(shape) != starts[-1]:
        raise AssertionError("the geometry does not match the fields that the kernels read")
    # The dispatcher takes `transform` as work at a tenth of the multiply-add peak, two vectors a cycle.
    cost = Cost(way.flops, way.bytes, way.transform * 0.4 * W, way.tasks)
    size = spectra_at + spec.OC * C * spectrum
    # Filters are placed tap by tap, and their spectra go to memory that nobody has touched yet.
    filters = spec.OC * C
    prepare = Cost(0.0, 4.0 * size * spec.itemsize, 1.5 * way.forward * filters * 0.4 * W, max(1, filters // 4))
    return Params(
        grid, np.array(fields, np.int64), np.array(shape, np.int64), np.concatenate(tables),
        np.concatenate(constants).astype(spec.dtype), size, weights_at, way.stages, way.chunk, way.tasks, threads,
        way.per_thread * threads + way.shared, workspace.aligned(s.own, spec.itemsize),
        way.workspace(threads) * spec.itemsize, cost, prepare,
    )  # fmt: skip


def _pairs(z: np.ndarray) -> np.ndarray:
    return np.stack([z.real, z.imag], -1).reshape(-1)


def _twist(W: int, s: _Sizes, roots: tuple[tuple[int, int], ...], TW: int) -> np.ndarray:
    """For row b of a line and place w: the root of row b to the power w / TW, as complex vectors of W rows."""
    numerators = np.zeros(s.rows, np.int64)
    numerators[: s.half] = [a for a, _ in roots]
    period = roots[0][1] * TW
    turns = (numerators[:, None] * np.arange(TW) % period) / period  # [row, w]
    z = np.exp(2j * np.pi * turns).reshape(s.Q, W, TW).transpose(0, 2, 1)  # [panel, w, lane]
    return np.stack([z.real, z.imag], 2).reshape(-1)


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def prepare_cost(spec: ConvSpec, params: Params) -> Cost:
    return params.prepare_cost


# ---- running -----------------------------------------------------------------------------------------------------


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """Header, the weights as they are (for tiles that must be computed directly), then their spectra."""
    packed = _aligned(params.packed_size, spec.dtype)
    packed[params.weights_at : params.weights_at + weight.size] = weight.reshape(-1)
    # The kernel has memory of its own: what a tile needs, then spectra of a few filters.
    C, OC = spec.C // spec.groups, spec.OC // spec.groups
    g = params.geometry.copy()
    spectrum = int(g[k.F]) * 2 * isa.width(spec.dtype)
    channels, filters = _filters_at_once(C, spectrum * spec.itemsize)
    g[k.CHUNK], g[k.M_V], g[k.SHARED] = channels, params.tile_memory, 0
    g[k.OWN] = workspace.aligned(params.tile_memory + filters * spectrum, spec.itemsize)
    with workspace.scratch(spec.dtype, int(g[k.OWN]), params.threads) as scratch:
        arrays = (g, params.shape, params.tables, params.constants, packed, scratch)
        threads.run(k.transform_weights, spec.groups * -(-OC // (filters // channels)), arrays, params.threads)
    # The kernel left each filter's sum of |w|; a sum that is not a moderate number marks a filter to do directly.
    info = np.finfo(spec.dtype)
    sums = packed[_HEADER : _HEADER + spec.OC]
    usable = sums < info.max / 2**20
    largest = float(sums.max(initial=1, where=usable))
    sums[:] = ~usable
    packed[0] = float(info.max) / 64 / (spec.C // spec.groups) / largest
    packed[1] = 0 if usable.all() else 1
    return packed


def _aligned(elements: int, dtype: str) -> np.ndarray:
    """Vectors of spectra must not straddle cache lines."""
    raw = np.empty(elements + 64, dtype)
    start = -raw.ctypes.data % 64 // raw.itemsize
    return raw[start : start + elements]


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    with workspace.scratch(spec.dtype, params.scratch, 1) as scratch:
        _run(spec, params, packed, (x, packed, epilogue.bias, epilogue.residual, epilogue.constants, out, scratch))


def _run(spec: ConvSpec, params: Params, packed: np.ndarray, tail: tuple[np.ndarray, ...]) -> None:
    g, count = params.geometry, params.threads
    last = bool(g[LAST])
    items = spec.N * params.grid.count
    W = isa.width(spec.dtype)
    seen = np.empty(items * spec.C * (1 + 2 * W), spec.dtype)
    fixed = (params.shape, params.tables, params.constants, seen, *tail)
    if spec.C == spec.groups:
        threads.run(k.POINTWISE[last], params.tasks, (g, *fixed), count)
    else:
        block, C, OC = int(g[BLOCK]), spec.C // spec.groups, spec.OC // spec.groups

        def launch(stage: int, tasks: int, group: int = 0, first: int = 0) -> None:
            where = np.array([stage, group, first], np.int64)
            threads.run(k.CHANNELWISE[last], tasks, (g, where, *fixed), count)

        if not params.stages:
            launch(k.ALL, params.tasks)
        else:
            for group in range(spec.groups):
                for first in range(0, items, params.chunk):
                    here = min(params.chunk, items - first)
                    launch(k.FORWARD, here * -(-C // block), group, first)
                    launch(k.PRODUCT, int(g[k.F]), group, first)
                    launch(k.INVERSE, here * -(-OC // block), group, first)
    if packed[1] or seen[: items * spec.C].any():
        todo = _spoilt(spec, params, packed, seen, W)
        places = g[[k.SHARED, k.OWN, k.M_ROW, k.M_OUT, k.M_TURN, k.WEIGHTS]]
        threads.run(tiles.recompute, len(todo) // 2, (g, places, todo, params.tables, *tail), count)


def _spoilt(spec: ConvSpec, params: Params, packed: np.ndarray, seen: np.ndarray, W: int) -> np.ndarray:
    """(tile, output channel) pairs that a transform cannot do.

    A transform spreads an error of u times the largest value over its whole tile. Tiles with NaN, infinity or a danger
    of overflow, and tiles whose largest value drowns the others, are left to the direct sum. The level of the others is
    the median lane's mean: spikes in a few lanes leave it alone, and so do stripes of zeros.
    """
    items = spec.N * params.grid.count
    count = items * spec.C
    at = np.flatnonzero(seen[:count])
    stats = seen[count:].reshape(count, 2 * W)[at].astype(np.float64)
    sums, highest = np.sort(stats[:, :W], axis=1), stats[:, W:].max(1)
    used = (sums > 0).sum(1)
    quiet = sums[np.arange(len(at)), np.minimum(W - used + (used - 1) // 2, W - 1)]
    cells = prod(params.grid.extent)
    ratio = 2.0**-12 / (np.finfo(spec.dtype).eps / 2)
    with np.errstate(invalid="ignore"):
        wild = ~(stats[:, :W] < packed[0]).all(1) | (highest * cells > ratio * quiet * W)
    spoilt = np.zeros((items, spec.groups), bool)
    spoilt[at[wild] // spec.C, at[wild] % spec.C // (spec.C // spec.groups)] = True
    bad_filters = packed[_HEADER : _HEADER + spec.OC] != 0
    pairs = np.argwhere(np.repeat(spoilt, spec.OC // spec.groups, axis=1) | bad_filters)
    return pairs.astype(np.int64).reshape(-1)
