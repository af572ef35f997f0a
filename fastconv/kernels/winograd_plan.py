"""How a Winograd convolution is cut: transforms, blocks of tiles, and who does what, by an estimate in cycles.

Larger tiles multiply less and transform more, waste more on the rim of small images, and need more weights. Blocks are
as large as L2 allows, for the weights come from L3 again for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import gcd, inf, log2, prod

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.cook_toom import LARGEST, input_matrix, operations, output_matrix, program, weight_matrix
from fastconv.cpu.microkernel import widest
from fastconv.cpu.winograd_codelets import STATS
from fastconv.kernels import tiles
from fastconv.kernels import winograd_kernels as k
from fastconv.kernels.common import LONGEST_CHAIN, Cost, ceil_div
from fastconv.kernels.tiles import TileGrid
from fastconv.spec import ConvSpec

#: Bytes a cycle that weights come in with from L2, and from beyond.
NEAR, FAR = 40.0, 6.5
#: Cycles of a vector that goes to L2 or comes from there: a store that misses L1 fetches its line first.
STORE, LOAD = 4.2, 2.0
#: Cycles to begin a piece of a row in each plane of an array that L2 does not hold: memory is fast only along rows.
PIECE = 150.0
#: Cycles to launch a kernel on several threads and to wait for the last.
LAUNCH = 6000
#: Operations below which one thread is done before another has woken up.
SMALL = 1e6


@dataclass(frozen=True, eq=False)
class Params:
    """What `winograd.run` needs."""

    tile: tuple[int, int, int]  # outputs along each axis
    grid: TileGrid  # the rectangles of outputs that are computed directly where a transform would spoil them
    blocks: tuple[int, int, int]  # images, rows and columns of tiles in a block
    geometry: np.ndarray
    tables: np.ndarray
    staged: bool
    once: bool  # weights come as they are, and are transformed for each block
    by_rows: bool  # whether lanes are tiles: `winograd_rows`
    tasks: tuple[int, int]  # of the first launch, and of the second if staged
    threads: int
    scratch: int  # elements
    packed_size: int
    flags: int  # one for each block and 16 channels: whether some tile needs a closer look
    direct: np.ndarray  # places for `tiles.recompute`
    preparing: tuple[int, ...]  # places of a thread's memory while it transforms weights, and their end
    workspace: int
    cost: Cost
    prepare_cost: Cost


@dataclass(frozen=True)
class Axis:
    """One axis: points n of the transform, outputs m of a tile, number of tiles."""

    n: int
    m: int
    dilation: int
    tiles: int
    out: int

    @classmethod
    def of(cls, spec: ConvSpec, axis: int, m: int) -> Axis:
        out, dilation = spec.output3[axis], spec.dilation3[axis]
        whole, rest = divmod(out, dilation * m)
        return cls(m + spec.kernel3[axis] - 1, m, dilation, whole * dilation + min(dilation, rest), out)

    def cells(self, tiles: int, wide: int) -> int:
        """Cells from the first tile's first to the last tile's last, for tiles of `wide` cells."""
        last = tiles - 1
        return last // self.dilation * self.m * self.dilation + last % self.dilation + self.dilation * (wide - 1) + 1

    @cached_property
    def forward(self) -> float:
        """Cycles of one cell line's transform."""
        return _unit(operations(program(input_matrix(self.n))), self.n, self.n) if self.n > 1 else 1.5

    @cached_property
    def backward(self) -> float:
        return _unit(operations(program(output_matrix(self.n, self.m))), self.n, self.m) if self.n > 1 else 1.5


def _unit(sums: int, loads: int, stores: int) -> float:
    return max(sums / 2, loads / 2, float(stores)) + 2


def sizes(kernel: int, fast: bool) -> list[int]:
    """Outputs m of a tile along an axis.

    Errors grow with the number of points and shrink with the number of taps that share them: up to six points, and up
    to eight for five taps or more, they are those of a plain sum.
    """
    if kernel == 1:
        return [1]
    most = LARGEST if fast or kernel >= 5 else 6
    return [n - kernel + 1 for n in range(max(3, kernel + 1), most + 1)]


@dataclass(frozen=True)
class Way:
    """Axes, the block of tiles and how output channels are dealt; sizes in elements, work in cycles."""

    spec: ConvSpec
    axes: tuple[Axis, Axis, Axis]
    block: tuple[int, int, int]
    vectors: int  # of output channels multiplied together
    once: bool = False  # whether weights are transformed for each block, never to leave L2
    by_rows = False

    @cached_property
    def tile(self) -> tuple[int, int, int]:
        """Outputs of a tile."""
        d, h, w = self.axes
        return d.m, h.m, w.m

    @cached_property
    def points(self) -> int:
        return prod(a.n for a in self.axes)

    @cached_property
    def tiles(self) -> int:
        """In a block."""
        return prod(self.block)

    @cached_property
    def blocks(self) -> int:
        """Of all groups."""
        _, h, w = self.axes
        images, rows, cols = self.block
        return (
            self.spec.groups * ceil_div(self.spec.N, images) * self.axes[0].tiles
            * ceil_div(h.tiles, rows) * ceil_div(w.tiles, cols)
        )  # fmt: skip

    @cached_property
    def W(self) -> int:
        return isa.width(self.spec.dtype)

    @cached_property
    def C(self) -> int:
        return self.spec.C // self.spec.groups

    @cached_property
    def channel_blocks(self) -> int:
        return ceil_div(self.C, self.W)

    @cached_property
    def out_vectors(self) -> int:
        return ceil_div(self.spec.OC // self.spec.groups, self.W)

    @cached_property
    def parts(self) -> int:
        return ceil_div(self.out_vectors, self.vectors)

    @cached_property
    def channel_offsets(self) -> np.ndarray:
        """Places of the channels among the factors of a point."""
        channel = np.arange(self.C)
        return channel // self.W * self.tiles * self.W + channel % self.W

    @cached_property
    def v_step(self) -> int:
        # One vector more between points: powers of two would fall into few cache sets.
        return self.channel_blocks * self.tiles * self.W + self.W

    @cached_property
    def m_step(self) -> int:
        return self.tiles * self.vectors * self.W + self.W

    @cached_property
    def v_size(self) -> int:
        return workspace.aligned(self.points * self.v_step, self.spec.itemsize)

    @cached_property
    def few(self) -> int:
        """Tiles transformed at a time: whole vectors of pixels, few enough for L1."""
        axis = self.axes[2]
        lattice = axis.dilation * axis.m
        whole = self.W // gcd(self.W, lattice)
        return axis.dilation * (whole if whole * lattice <= 3 * self.W else max(1, self.W // lattice))

    @cached_property
    def places(self) -> list[int]:
        """Where a thread's parts begin: statistics, what weights used once need, staged cells, columns, back, out, M,
        V, end."""
        d, h, w = self.axes
        W, wide = self.W, w.cells(self.block[2], w.n)
        pitch = ceil_div(self.few, w.dilation) * w.dilation * w.m
        parts = [
            STATS * W, *(self.transforming if self.once else (0,) * 3), self.once * self.u_size,
            d.n * (h.dilation * h.n * wide + W) * W, h.n * (pitch + w.dilation * (w.n - w.m)) * W,
            h.n * pitch * W, d.n * h.m * pitch * W + W * W, self.points * self.m_step, self.v_size,
        ]  # fmt: skip
        return [int(v) for v in np.cumsum([0, *parts])]

    @cached_property
    def transforming(self) -> tuple[int, int, int]:
        """Memory to transform weights: staged taps, transforms along w, along h."""
        KD, KH, _ = self.spec.kernel3
        _, h, w = self.axes
        parts = k.STAGED * prod(self.spec.kernel) + self.W, KD * KH * w.n, KD * h.n * w.n
        return tuple(part * self.W for part in parts)  # type: ignore[return-value]

    @cached_property
    def u_size(self) -> int:
        """Transformed weights of the output channels multiplied together, and of one chain of channels."""
        return self.points * (min(self.C, LONGEST_CHAIN) * self.vectors + 1) * self.W

    @cached_property
    def weights(self) -> int:
        """Bytes of the transformed weights."""
        return self.spec.groups * self.points * self.C * self.out_vectors * self.W * self.spec.itemsize

    # ---- cycles ----

    @cached_property
    def forward(self) -> float:
        """Of 16 channels of a block."""
        d, h, w = self.axes
        images, rows, cols = self.block
        high, wide = h.cells(rows, h.n), w.cells(cols, w.n)
        vectors = ceil_div(min(wide, self.spec.input3[2]), self.W)
        cut = 40.0 + (6.0 * wide if self.spec.channels_last else vectors * self.W * (5 + log2(self.W)))
        work: float = d.n * high * (cut + self._pieces(self.spec.input_bytes))
        if d.n > 1:
            work += high * wide * d.forward
        if h.n > 1:
            work += d.n * rows * (40 + wide * h.forward)
        return images * (work + d.n * rows * (40 + h.n * cols * max(w.forward, STORE * w.n + 1)))

    @cached_property
    def backward(self) -> float:
        """Of one vector of output channels of a block."""
        d, h, w = self.axes
        images, rows, cols = self.block
        high, wide = min(h.cells(rows, h.m), h.out), min(w.cells(cols, w.m), w.out)
        work = d.n * rows * (80 + h.n * cols * (w.backward + LOAD * w.n) + wide * h.backward)
        if d.n > 1:
            work += high * wide * d.backward
        cells = d.m * high * wide
        if self.spec.channels_last:
            work += cells * 10 + d.m * high * 40
        else:
            runs = d.m * high * ceil_div(cols, self.few)
            work += (cells + runs * self.W / 4) * (12 + log2(self.W)) + runs * 30
        return images * (work + d.m * high * self._pieces(self.spec.output_bytes))

    def _pieces(self, array: int) -> float:
        """Of a row of a vector of channels."""
        return 0.0 if self.spec.channels_last or array < cache_sizes()[1] // 2 else PIECE * self.W

    @cached_property
    def multiply(self) -> float:
        """Of one part of the output channels of a block."""
        left, mr, calls, cycles = self.tiles, 8, 0, 0.0
        table = widest()
        nv = ceil_div(self.out_vectors, self.parts)
        while left > 0:
            while mr > left or table.get(mr, 0) < nv:
                mr -= 1
            cycles += left // mr * max(mr * nv / 2, 4.0, (mr + nv) / 2)
            calls += left // mr
            left %= mr
        chains = ceil_div(self.C, LONGEST_CHAIN)
        compute = self.points * (cycles * self.C * 1.04 + calls * chains * (25 + 1.5 * mr * nv))
        # Weights come from L3 once all of them together leave L2; the microkernel fetches them ahead.
        rate = NEAR if self.once or self.weights < cache_sizes()[1] // 2 else FAR
        stream = self.points * self.C * nv * self.W * self.spec.itemsize / rate
        return max(compute, stream) + 0.15 * min(compute, stream)

    @cached_property
    def crowded(self) -> float:
        """Further cycles of a block whose transforms leave L2, where weights that are not streamed lie too."""
        L2, held = cache_sizes()[1], (self.v_size + self.points * self.m_step) * self.spec.itemsize
        if self.once:
            held += self.u_size * self.spec.itemsize
        elif self.weights < L2 // 2:
            held += self.weights
        return 2 * held / 8 * min(1.0, (held - 0.7 * L2) / L2) if held > 0.7 * L2 else 0.0

    @cached_property
    def transform(self) -> float:
        """Of the weights of one vector of output channels."""
        d, h, w = self.axes
        KD, KH, KW = self.spec.kernel3

        def unit(axis: Axis, taps: int) -> float:
            return _unit(operations(program(weight_matrix(axis.n, taps))), taps, axis.n) if taps > 1 else 1.5

        lines = KD * KH * unit(w, KW) + KD * w.n * unit(h, KH) + h.n * w.n * (unit(d, KD) + 2.0 * d.n)
        return self.C * (lines + prod(self.spec.kernel) * 6)

    @cached_property
    def products(self) -> float:
        """Of all output channels of a block, and of their weights if they are used once."""
        again = self.out_vectors * self.transform + self.spec.weight_bytes / FAR if self.once else 0.0
        return self.parts * self.multiply + again

    @cached_property
    def work(self) -> tuple[float, float]:
        """Of all products, and of all that goes before and after them."""
        moves = self.channel_blocks * self.forward + self.out_vectors * self.backward
        return self.blocks * self.products, self.blocks * moves

    def cycles(self, threads: int, staged: bool) -> float:
        forward, rest = self.channel_blocks * self.forward, self.products + self.out_vectors * self.backward
        if not staged:
            return ceil_div(self.blocks, threads) * (forward + rest + self.crowded) + (LAUNCH if threads > 1 else 0)
        first = ceil_div(self.blocks * self.channel_blocks, threads) * self.forward
        second = ceil_div(self.blocks * self.parts, threads) * rest / self.parts
        return first + second + self.moved / threads + 2 * LAUNCH

    @cached_property
    def moved(self) -> float:
        """Further cycles where V is written by one core and read by another."""
        held = self.blocks * self.v_size * self.spec.itemsize
        return held / (8 if held < cache_sizes()[1] else 3)

    @cached_property
    def weights_at(self) -> int:
        """Place of the transformed weights behind the header and the weights as they are."""
        return ceil_div(k.HEADER + self.spec.OC + prod(self.spec.weight_shape), self.W) * self.W

    @cached_property
    def packed(self) -> int:
        """Elements of the prepared weights."""
        return self.weights_at + self.weights // self.spec.itemsize

    @cached_property
    def preparing(self) -> tuple[int, ...]:
        """Where a thread's parts begin while it transforms weights: statistics, then `transforming`, end."""
        return tuple(int(v) for v in np.cumsum([0, STATS * self.W, *self.transforming]))

    @cached_property
    def flags(self) -> int:
        return self.blocks * self.channel_blocks

    def own(self, staged: bool) -> int:
        """Scratch of a thread."""
        return workspace.aligned(max(self.places[-2 if staged else -1], self.direct), self.spec.itemsize)

    def shared(self, staged: bool) -> int:
        return self.blocks * self.v_size if staged else 0

    def elements(self, threads: int, staged: bool) -> int:
        """All memory, in elements: prepared weights, and scratch while they are made or the convolution runs."""
        if self.once:
            return threads * self.own(staged) + self.shared(staged) + self.flags + self.spec.OC
        preparing = workspace.aligned(self.preparing[-1], self.spec.itemsize)
        scratch = max(threads * self.own(staged) + self.shared(staged), threads * preparing)
        return scratch + self.packed + self.flags

    @cached_property
    def grid(self) -> TileGrid:
        """Outputs of the tiles of all sublattices together, and their cells: what is recomputed at a time."""
        spans = [a.m * a.dilation for a in self.axes]
        out = [min(s, o) for s, o in zip(spans, self.spec.output3, strict=True)]
        reach = [(kernel - 1) * a.dilation for kernel, a in zip(self.spec.kernel3, self.axes, strict=True)]
        extent = [o + r for o, r in zip(out, reach, strict=True)]
        count = [ceil_div(o, u) for o, u in zip(self.spec.output3, out, strict=True)]
        return TileGrid(False, tuple(extent), tuple(out), tuple(count))  # type: ignore[arg-type]

    @cached_property
    def pitch(self) -> int:
        return ceil_div(self.grid.extent[2], self.W) * self.W

    @cached_property
    def direct(self) -> int:
        """Memory to compute one such rectangle directly: a row, the outputs, where stores transpose."""
        d, h, _ = self.grid.extent
        return self.pitch + d * h * self.pitch + self.W + self.W * self.W


# ---- choice ------------------------------------------------------------------------------------------------------


def _splits(count: int, unit: int, most: int) -> list[int]:
    """Even shares of `count` tiles in whole units, at most `most`."""
    units = ceil_div(count, unit)
    shares = {
        ceil_div(units, n) * unit
        for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 128, 256, units)
    }
    return sorted(min(s, count) for s in shares if s <= most) or [min(unit, count)]


#: Tiles of a block: fewer do not pay for the weights, more do not fit L2.
MOST_TILES = 256


def _blocks(spec: ConvSpec, axes: tuple[Axis, Axis, Axis]) -> list[tuple[int, int, int]]:
    _, h, w = axes
    found = []
    for cols, rows in product(_splits(w.tiles, w.dilation, MOST_TILES), _splits(h.tiles, h.dilation, MOST_TILES)):
        if rows * cols > MOST_TILES and (rows, cols) != (1, 1):
            continue
        found.append((1, rows, cols))
        if rows == h.tiles and cols == w.tiles:
            found += [
                (n, rows, cols) for n in _splits(spec.N, 1, spec.N) if 1 < n <= max(1, MOST_TILES // (rows * cols))
            ]
    return found or [(1, h.dilation, w.dilation)]


def _rough(spec: ConvSpec, axes: tuple[Axis, Axis, Axis]) -> float:
    """Cycles by size alone."""
    W, points = isa.width(spec.dtype), prod(a.n for a in axes)
    tiles = spec.N * prod(a.tiles for a in axes)
    C, OC = ceil_div(spec.C // spec.groups, W), ceil_div(spec.OC // spec.groups, W)
    moves = C * prod(a.n for a in axes) * 3.0 + OC * points * 2.5 + OC * prod(a.m for a in axes) * 6.0
    weights = C * W * OC * points * W * spec.itemsize / FAR
    return spec.groups * (tiles * (points * C * W * OC / 2 + moves) + weights)


def _merit(ways: list[Way]) -> float:
    """Cycles on 1, 2 and 4 threads alike; infinite if there is no way."""
    return sum(t * min((w.cycles(t, s) for w in ways for s in (False, True)), default=inf) for t in (1, 2, 4))


def _choose(
    spec: ConvSpec, fast: bool, elements: int, only: tuple[int, int, int] | None, once: bool = False
) -> list[Way]:
    """The ways to deal the output channels, of the best tile and block for 1, 2 and 4 threads alike.

    Were they chosen for the threads at hand, results would depend on them.
    """
    choices: list[tuple[Axis, Axis, Axis]] = []
    for m in product(*(sizes(kernel, fast) for kernel in spec.kernel3)) if only is None else [only]:
        choices.append((Axis.of(spec, 0, m[0]), Axis.of(spec, 1, m[1]), Axis.of(spec, 2, m[2])))
    choices.sort(key=lambda axes: _rough(spec, axes))
    best: tuple[float, list[Way]] = (inf, [])
    vectors = ceil_div(spec.OC // spec.groups, isa.width(spec.dtype))
    together = sorted({min(v, vectors) for v in range(1, max(widest().values()) + 1)})
    for axes in choices[:3]:
        for block in _blocks(spec, axes):
            ways = [Way(spec, axes, block, v, once) for v in together]
            ways = [way for way in ways if way.elements(1, False) <= elements]
            if ways:
                best = min(best, (_merit(ways), ways), key=lambda found: found[0])
    return best[1]


def parameters(
    spec: ConvSpec, threads: int, limit: int, fast: bool, only: tuple[int, int, int] | None = None, once: bool = False,
    rival: Way | None = None,
) -> Params | str:  # fmt: skip
    """The cheapest way, its tables and memory; or why `limit` is too small.

    only: outputs of a tile; once: whether weights are used once, and not prepared; rival: a way of another form.
    """
    threads = threads if spec.flops > SMALL else 1
    elements = limit // spec.itemsize
    ways = _choose(spec, fast, elements, only, once)
    if rival is not None and _merit([rival]) < _merit(ways):
        ways = [rival]
    choices = [
        (way.cycles(t, staged), t, staged, way.vectors, way)
        for way in ways
        for t in range(1, threads + 1)
        for staged in (False, True)
        if way.elements(t, staged) <= elements
    ]
    if not choices:
        return f"its smallest block of tiles exceeds the workspace limit of {limit} bytes"
    _, count, staged, _, way = min(choices, key=lambda choice: choice[:4])
    return _params(spec, way, count, staged)


def once(spec: ConvSpec, params: Params, threads: int, limit: int, fast: bool) -> Params:
    """For weights that are used once: transforming them beside the product, or ahead as `params` does."""
    other = parameters(spec, threads, limit, fast, once=True)
    if isinstance(other, str) or other.cost.work > params.cost.work + params.prepare_cost.work:
        return params
    return other


def _params(spec: ConvSpec, way: Way, threads: int, staged: bool) -> Params:
    W, C = way.W, way.C
    fields, sections = tiles.geometry(spec, way.grid, way.pitch, W if spec.channels_last else 1)
    off = sum(map(len, sections))
    sections += [way.channel_offsets, np.arange(way.tiles) * W]
    weights_at, own, shared = 0 if way.once else k.HEADER + spec.OC, way.own(staged), way.shared(staged)
    fields += [
        *(a.n for a in way.axes), *(a.m for a in way.axes), *(a.tiles for a in way.axes), *way.block, way.tiles,
        way.v_step, way.m_step, way.vectors, LONGEST_CHAIN, off, off + C, weights_at, way.weights_at, own, shared,
        *way.places[:-1], way.v_size, way.few, way.once,
    ]  # fmt: skip
    if len(fields) != k.ALL_FIELDS:
        raise AssertionError("the geometry does not match the fields that the kernels read")
    first = way.blocks * (way.channel_blocks if staged else 1)
    second = way.blocks * way.parts if staged else 0
    d, h, _ = way.grid.extent
    direct = np.array([shared, own, 0, way.pitch, way.pitch + d * h * way.pitch + W, weights_at], np.int64)
    return Params(
        tile=way.tile,
        grid=way.grid,
        blocks=way.block,
        geometry=np.array(fields, np.int64),
        tables=np.concatenate(sections).astype(np.int64),
        staged=staged,
        once=way.once,
        by_rows=way.by_rows,
        tasks=(first, second),
        threads=threads,
        scratch=shared + threads * own,
        packed_size=way.packed,
        flags=way.flags,
        direct=direct,
        preparing=way.preparing,
        workspace=way.elements(threads, staged) * spec.itemsize,
        cost=_cost(spec, way, staged),
        prepare_cost=_prepare_cost(spec, way),
    )


def suspects(spec: ConvSpec, params: Params, seen: np.ndarray) -> np.ndarray:
    """(rectangle of all images, group) pairs that lie in blocks with a flag."""
    g = params.geometry
    D, H, W = params.grid.tiles
    images, rows, cols = params.blocks
    units = [max(1, b // d) for b, d in zip((rows, cols), spec.dilation3[1:], strict=True)]
    split = ceil_div(spec.N, images), D, ceil_div(int(g[k.QH]), rows), ceil_div(int(g[k.QW]), cols)
    flagged = seen.reshape(-1, spec.groups, *split).any(0)
    grown = flagged.repeat(images, 1)[:, : spec.N].repeat(units[0], 3)[:, :, :, :H].repeat(units[1], 4)[..., :W]
    found = np.argwhere(grown.reshape(spec.groups, -1))
    return np.ascontiguousarray(found[:, ::-1])


def _cost(spec: ConvSpec, way: Way, staged: bool) -> Cost:
    per_cycle = 4.0 * way.W  # operations at peak: two vector multiply-adds a cycle
    multiply, other = way.work
    return Cost(
        per_cycle * multiply,
        float(spec.input_bytes + spec.output_bytes),  # the weights' way is in `multiply`
        per_cycle * (other + (way.moved if staged else way.blocks * way.crowded)),
        way.blocks * way.parts if staged else way.blocks,
    )


def _prepare_cost(spec: ConvSpec, way: Way) -> Cost:
    if way.once:
        return Cost(0.0, 0.0, 0.0, 1)
    tasks = spec.groups * way.out_vectors
    cycles = tasks * (way.transform + 200 * way.C)  # each vector goes to another page
    return Cost(0.0, 2.5 * way.weights, 4.0 * way.W * cycles, tasks)
