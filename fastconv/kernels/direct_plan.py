"""How a direct convolution is cut: form, tile sizes and offset tables, chosen by a small cost search.

Costs are in cycles of one core; only their ratios matter, so one set of machine figures (two vector multiply-adds and
two vector loads a cycle) serves every CPU with a similar balance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.dots import most_products
from fastconv.cpu.microkernel import TALLEST, widest
from fastconv.kernels.common import Cost, ceil_div, chain, channel_chain
from fastconv.kernels.input_tile import TILE_FIELDS, InputTile
from fastconv.spec import ConvSpec


@dataclass(frozen=True)
class Tile:
    """One way of cutting the output; sizes in elements."""

    channels_form: bool
    input: InputTile
    OCP: int  # output channels of one task
    in_place: bool
    CB: int  # channels packed at a time
    chunk: int  # pixel form: pixels at a time where sums go straight to the output, -1 by rows, 0 never
    few: int  # and the last pixels of an image that are dot products
    panel: int  # and elements of a panel that is copied, 0 for none
    packed: int  # the input tile
    c_row: int  # between rows of C
    sums: int  # C, and where stores transpose
    tasks: int
    compute: float  # cycles of one task in the microkernel
    other: float  # and outside of it
    waiting: float  # and for an input beyond L2, of which the dispatcher knows what its bytes cost
    cycles: float  # estimate for the whole convolution


@dataclass(frozen=True)
class Params:
    """What `direct.run` needs; geometry and tables are read by the kernels."""

    form: str
    geometry: np.ndarray
    tables: np.ndarray
    OCP: int
    blocks: int  # channel form: into how many blocks of vectors OCP is dealt
    tasks: int
    threads: int
    per_thread: int
    workspace: int
    cost: Cost
    waiting: float = 0.0  # operations that the core could do while it waits for the input, beside the cost


def as_line(spec: ConvSpec) -> ConvSpec:
    """A 1x1 unpadded stride-1 convolution sees no rows: all pixels of an image are one line."""
    if max(*spec.kernel3, *spec.stride3) > 1 or any(map(any, spec.padding3)):
        return spec
    return ConvSpec(
        1, spec.N, spec.C, spec.OC, spec.groups, (prod(spec.input),), (1,), (1,), (1,), ((0, 0),), "zeros", False,
        spec.dtype, spec.channels_last,
    )  # fmt: skip


@cache
def row_tile(rows: int) -> int:
    """Pixel form: the register tile height that leaves the fewest slow rows at the end of `rows`."""
    heights = [mr for mr, most in widest().items() if mr >= 4 and most > 1]
    return min(heights, key=lambda mr: (rows % mr if rows > mr else (mr - rows) * 2 if mr > rows else 0, -mr))


def vector_blocks(OC: int, W: int) -> int:
    """Channel form: into how many blocks of at most the widest NV the output channels are dealt, evenly."""
    return ceil_div(ceil_div(OC, W), max(widest().values()))


def tile_cycles(rows: int, vectors: int, channels_form: bool, mr: int) -> float:
    """Cycles per k of a rows x vectors block: multiply-adds, loads or the sums' latency, whichever is longest.

    An unaligned vector crosses a cache line and costs two loads; packed weights are aligned.
    """
    total, width = 0.0, widest()
    loads = 1 if channels_form else 2
    columns = min(vectors, width[mr]) if not channels_form else vectors
    while rows > 0:
        while mr > rows or (channels_form and width.get(mr, 0) < vectors) or mr not in width:
            mr -= 1
        nv = vectors if channels_form else min(width[mr], columns)
        one = max(mr * nv / 2, (mr + loads * nv + 1) / 2, 4.0)
        if nv == 1 and not channels_form:
            one = mr  # every row of A is a load and an address: 512 terms of 16 pixels take 0.8 to 1 cycles a row
        total += (rows // mr) * one * (1 if channels_form else vectors / nv)
        rows %= mr
    return total


#: Cycles until another thread has woken up and has its first task: 5 us.
LATE = 15e3


def makespan(tasks: int, cycles: float, threads: int) -> float:
    """Cycles until equal tasks are done by this thread and others that begin later."""
    others = min(threads, tasks) - 1
    if others < 1:
        return tasks * cycles
    fair = int((tasks + others * LATE / cycles) / (others + 1))
    mine = [min(tasks, n) for n in (fair, fair + 1)]
    return min(max(n * cycles, (LATE + ceil_div(tasks - n, others) * cycles) if n < tasks else 0.0) for n in mine)


def _evaluate(spec: ConvSpec, cut: InputTile, channels_form: bool, in_place: bool, OCP: int, threads: int) -> Tile:
    TH, TW, images = cut.TH, cut.TW, cut.images
    W, size = isa.width(spec.dtype), spec.itemsize
    d, h, w = cut.axes
    OD, OH, OW = spec.output3
    C, OC, K = spec.C // spec.groups, spec.OC // spec.groups, spec.K
    mr = row_tile(OC)
    L2 = cache_sizes()[1]
    CB, chunk, few, panel = C, 0, 0, 0
    if not (in_place and channels_form):
        unit = channel_chain(spec)[1]
        CB = min(C, max(unit, (L2 // 2) // (cut.c_pitch * size) // unit * unit))
    packed = 0 if in_place and channels_form else CB * cut.c_pitch + 8 * W
    P = images * TH * TW if channels_form else (TH - 1) * cut.pitch + TW
    if channels_form:
        nv = ceil_div(ceil_div(OCP, W), vector_blocks(OCP, W))
        c_row = nv * W
        blocks = 1 if CB >= C else vector_blocks(OCP, W)
        sums = blocks * (P + W) * c_row + (0 if spec.channels_last else W * transposed_row(TH * TW, W, size))
        vectors = -(-OCP // W)
        inner = tile_cycles(P, nv, True, TALLEST if nv == 1 else 8) * vectors / nv
        finish = OCP * P * (0.12 if spec.channels_last else _store_cycles(spec))
        inner += P / 8 * vectors * 6 / min(K, chain(spec))
    else:
        few = few_pixels(spec) if in_place else 0
        vectors = -(-(P - few) // W)
        c_row = vectors * W + (W if vectors * W * size % 4096 == 0 else 0)
        # Stores of channels-last outputs transpose whole vectors of channels and pixels.
        rows = min(finished_together(spec, mr), OCP) if CB >= C else OCP
        # Finished sums go straight to their rows. Register tiles that meet the end of one take some 50 cycles longer:
        # short rows pay only with many terms (3x3, 16 -> 16 channels a group, 14x14: 0.9; 4 -> 4, 56x56: 1.05).
        by_rows = cut.pitch >= W and not spec.channels_last and (TW >= 6 * W or K >= 96)
        sums = c_row * -(-rows // W) * W + W + W * W if spec.channels_last else c_row * rows
        inner = tile_cycles(OCP, vectors, False, TALLEST if vectors == 1 else mr)
        inner *= 1.04 if K > C else 1.0  # shifted by a tap, most vectors lie in two lines: measured on 20 3x3 layers
        finish = 40.0 * -(-OCP // mr) * -(-vectors // widest()[mr]) * -(-K // chain(spec))
        if (in_place or CB >= C) and (TH == 1 or (cut.pitch == OW and TW == OW)) and not spec.channels_last:
            chunk = chunk_of(P, K, min(K, chain(spec)), size, widest()[mr] * W)
            if chunk == widest()[mr] * W and K == C:
                apart = (prod(spec.input3) if in_place else cut.c_pitch) * size
                copied = (OCP >= PANEL_ROWS and apart >= PANEL_APART) or apart % CONFLICT == 0
                panel = channel_chain(spec)[0] * chunk if copied else 0
            sums = max(sums, panel)
            if few:  # every vector of weights is loaded from two cache lines; then lanes are added up and rows stored
                inner += OCP / 4 * max(2 * few, 4 + few / 2) / W
                finish += OCP * (2 * few + 40)
                sums = max(sums, panel + few * K + (W + 1) * ceil_div(OCP * few, W) * W)
        else:
            chunk = -1 if by_rows else 0
            finish += OCP * TH * (2 if by_rows else (14 + TW / W * 3) * (3 if spec.channels_last else 1))
    tasks = -(-spec.N // images) * spec.groups * OD * -(-OH // TH) * -(-OW // TW) * -(-OC // OCP)
    packing = 0.0 if in_place else cut.cycles(C)
    resident = C * (1 + d.halo) * (TH * spec.stride3[1] + h.halo) * min(spec.input3[2], TW * spec.stride3[2] + w.halo)
    waiting = waits(spec, images * resident * size, not in_place) if channels_form or not in_place else 0.0
    resident = images * resident if in_place else packed
    # Weights stream from L2, or from L3 once all of them together leave L2.
    weights = OCP * K * size
    streaming = weights / (48 if spec.weight_bytes < L2 // 2 else 12) * (0.25 if channels_form else 1.0)
    compute = inner * K
    if chunk > 0:
        # The input comes once, and the weights again for each chunk.
        streaming += resident * size / (160 if 2 * resident * size < L2 else 48)
        streaming += weights * (ceil_div(P, chunk) - 1) / (384 if 2 * weights < L2 else 24)
    else:
        # An input tile beyond half of L2 comes from L3 again for every block of output channels.
        compute *= 1.5 if 2 * resident * size > L2 else 1.2 if (resident + sums) * size > L2 else 1.0
    other = packing + streaming + finish + 400
    cycles = makespan(tasks, compute + other + waiting, threads)
    return Tile(
        channels_form, cut, OCP, in_place, CB, chunk, few, panel, packed, c_row, sums, tasks, compute, other, waiting,
        cycles,
    )  # fmt: skip


def waits(spec: ConvSpec, read: float, packs: bool) -> float:
    """Cycles of waiting for `read` bytes of an input beyond L2, skipped rows included.

    Packing waits for them, all the more for every second row or cell. Multiply-adds in place wait little for rows, but
    for pixels apart: there are one or two new lines for each multiply-add's eight.
    """
    if 2 * spec.input_bytes <= cache_sizes()[1]:
        return 0.0
    if max(spec.stride3) > max(spec.kernel3):
        return read / (4 if packs else 3)
    return read / (4 if packs else 16)


def _store_cycles(spec: ConvSpec) -> float:
    """Channel form: cycles an output for transposing and storing planes. Those a page apart share the sets of L1."""
    return 1.2 if prod(spec.output) * spec.itemsize % 4096 == 0 else 0.4


def chunk_of(P: int, K: int, depth: int, size: int, unit: int) -> int:
    """Pixel form, stored straight: pixels at a time, whose chain of B is used for all rows.

    With many terms B had better be in L1, a register tile wide: 1.04 to 1.12 times as fast as from L2. With few that
    only hurts, down to 0.6 for 16: rows of the output are written piece by piece.
    """
    if K >= 96:
        return unit
    pixels = cache_sizes()[1] // 4 // (depth * size)
    return ceil_div(ceil_div(P, max(1, round(P / pixels))), unit) * unit


#: Output channels, and bytes between rows, from which a panel of pixels is copied before it is used: 1x1 layers of 256
#: channels on 28x28 and larger take 0.83 to 0.98 of the time, less beside a neighbour who shares the caches. With 128
#: it costs 4 % of a quiet core's time, on 14x14, a quarter of the pages, 1 %.
PANEL_ROWS, PANEL_APART = 256, 2048

#: Bytes between rows of which 128 meet in a quarter of L1's sets or fewer: panels are always copied. 256 channels on
#: 32x32 take 0.88 of the time.
CONFLICT = 1024

#: Terms from which few pixels pay as dot products: adding up lanes and storing take some 50 cycles a row, and a vector
#: for them half a cycle a term.
FEW_TERMS = 256


@cache
def few_pixels(spec: ConvSpec) -> int:
    """Pixel form of 1x1 layers: how many pixels behind the last whole vector are dot products (see `as_line`)."""
    W = isa.width(spec.dtype)
    few = spec.output3[2] % W
    line = spec.output3[:2] == (1, 1) and max(spec.kernel3) == 1 and _pixels_in_place(spec)
    usable = spec.output3[2] >= W and few <= most_products()[4] and spec.K >= FEW_TERMS and spec.K % W == 0
    return few if line and usable else 0


def beyond_L2(spec: ConvSpec) -> float:
    """Bytes read and written, none if all of them stay in L2."""
    return float(spec.moved_bytes) if spec.moved_bytes > cache_sizes()[1] * 3 // 4 else 0.0


def transposed_row(P: int, W: int, size: int) -> int:
    """Elements between rows of the transposed sums: whole vectors, never a page apart."""
    row = -(-P // W) * W
    return row + W if row * size % 4096 == 0 else row


def finished_together(spec: ConvSpec, mr: int) -> int:
    """Pixel form: output channels finished together: one panel, or whole vectors of channels if side by side."""
    return 48 if spec.channels_last else mr


def _pixels_in_place(spec: ConvSpec) -> bool:
    return not spec.channels_last and max(spec.stride3) == 1 and not any(map(any, spec.padding3))


#: Pixels of one task beyond which weights are used often enough, and the sums leave L1.
MANY_PIXELS = 512


def _tiles(spec: ConvSpec) -> Iterator[InputTile]:
    """Tile heights and widths that divide the image evenly, and small images together."""
    OD, OH, OW = spec.output3
    W = isa.width(spec.dtype)
    even = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 19, 24, 28, 32, 40, 56)
    heights = {-(-OH // n) for n in (*even, OH) if n <= OH}
    widths = {OW}
    if OW > 8 * W:
        widths |= {ceil_div(ceil_div(OW, n), W) * W for n in (2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 2048)}
    if OH == 1 and OW <= MANY_PIXELS:  # a small image as a line: the channel form may deal its pixels to threads
        widths |= {ceil_div(ceil_div(OW, n), 4) * 4 for n in (2, 4)}
    one = InputTile.of(spec, OH, OW)
    for TH in heights:
        for TW in widths:
            if TW < 3 * W and TW < OW and OH > 1:
                continue
            if TH * TW > 8192 and (TH, TW) != (1, min(widths)):
                continue
            yield replace(one, TH=TH, TW=TW)
    if OD == 1:
        for images in (2, 4, 8, 16):
            if images <= spec.N and images * OH * OW <= MANY_PIXELS:
                yield replace(one, images=images)


def choose(spec: ConvSpec, threads: int, limit: int, forms: tuple[bool, ...] = (False, True)) -> Tile | None:
    """The cheapest tile of the forms (pixels: False, channels: True) whose scratch fits `limit`; None if none does."""
    OC, W = spec.OC // spec.groups, isa.width(spec.dtype)
    best = None
    unpadded = not any(map(any, spec.padding3))
    parts = {
        unit: {min(OC, ceil_div(ceil_div(OC, n), unit) * unit) for n in (1, 2, 4, 8)} for unit in (W, row_tile(OC))
    }
    few = few_pixels(spec)
    for cut in _tiles(spec):
        for channels_form in forms:
            # The channel form may use any unpadded input where it lies, or pack it, which gathers strided pixels once.
            places = ([True, False] if unpadded else [False]) if channels_form else [_pixels_in_place(spec)]
            if not channels_form and (cut.images > 1 or cut.TW < min(3 * W, spec.output3[2])):
                continue
            if not channels_form and few and cut.TW < (OW := spec.output3[2]):
                if cut.TW % W or (OW - 1) % cut.TW + 1 < W:
                    continue  # in every cut the same pixels are dot products
            if places == [True] and cut.TW < spec.output3[2] and cut.TH > 1:
                continue  # rows of an input used in place keep its pitch: whole rows, or a part of one
            for OCP in parts[W if channels_form else row_tile(OC)]:
                for in_place in places:
                    tile = _evaluate(spec, cut, channels_form, in_place, OCP, threads)
                    if (tile.packed + tile.sums + 2 * W) * spec.itemsize * threads > limit:
                        continue
                    if best is None or tile.cycles < best.cycles:
                        best = tile
    return best


def _tables(spec: ConvSpec, tile: Tile) -> list[np.ndarray]:
    """off (tile), off (input in place), at (full tile) or the last pixels' rows, at (last tile) or a panel's rows."""
    cut = tile.input
    C, pixel = spec.C // spec.groups, spec.C if spec.channels_last else 1
    _, IH, IW = spec.input3
    inside, tiled = np.empty(0, np.int64), np.empty(0, np.int64)
    if tile.packed:
        tiled = np.add.outer(np.arange(tile.CB) * cut.c_pitch, cut.taps()).reshape(-1)
    if tile.in_place:
        a, b, c = (np.arange(k) * dilation for k, dilation in zip(spec.kernel3, spec.dilation3, strict=True))
        taps = (np.add.outer(np.add.outer(a * IH, b) * IW, c) * pixel).reshape(-1)
        step = 1 if spec.channels_last else prod(spec.input3)
        inside = np.add.outer(np.arange(C) * step, taps[::-1] if spec.flip else taps).reshape(-1)
    pixels = [np.empty(0, np.int64)] * 2
    if tile.channels_form:
        OW = spec.output3[2]
        _, sh, sw = spec.stride3
        image, row, column = cut.phases * cut.plane, cut.pitch, 1
        if tile.in_place:
            image, row, column = spec.C * prod(spec.input3), sh * IW * pixel, sw * pixel
        for i, width in enumerate((cut.TW, (OW - 1) % cut.TW + 1)):
            places = np.add.outer(np.arange(cut.TH) * row, np.arange(width) * column)
            pixels[i] = np.add.outer(np.arange(cut.images) * image, places).reshape(-1)
    if tile.few:
        pixels[0] = np.arange(tile.few) * spec.K
    if tile.panel:
        pixels[1] = np.arange(tile.panel // tile.chunk) * tile.chunk
    return [tiled, inside, *pixels]


#: Operations below which one thread is done before another has woken up: 6 us at 170 GFLOP/s.
SMALL = 1e6

#: The kernels' own fields, in the order in which they unpack them, behind those of the tile; then starts of tables.
FIELDS = 26


def parameters(spec: ConvSpec, threads: int, limit: int, forms: tuple[bool, ...] = (False, True)) -> Params | str:
    """Everything `direct.run` needs, or why the problem cannot be cut to fit `limit`."""
    full, spec = spec, as_line(spec)
    threads = threads if spec.flops > SMALL else 1
    C, OC, G = spec.C // spec.groups, spec.OC // spec.groups, spec.groups
    if few_pixels(spec) and len(forms) > 1 and (spec.N, threads) != (1, 1):
        # Dot products are another order of sums: the choice is that of one image and one thread, for all.
        alone = choose(replace(spec, N=1), 1, limit)
        forms = forms if alone is None else (alone.channels_form,)
    tile = choose(spec, threads, limit, forms)
    if tile is None:
        return f"its smallest tile exceeds the workspace limit of {limit} bytes"
    cut = tile.input
    sections = [*cut.tables(), *_tables(spec, tile)]
    starts = np.cumsum([0, *(len(s) for s in sections)])[-5:-1]
    W, size = isa.width(spec.dtype), spec.itemsize
    c_start = workspace.aligned(tile.packed, size)
    per_thread = c_start + workspace.aligned(tile.sums, size)
    mr = row_tile(OC)
    reach = int(sections[-3].max()) if tile.in_place else 0
    block = vector_blocks(tile.OCP, W) if tile.channels_form else finished_together(spec, mr)
    geometry = np.array(
        [
            *cut.geometry(), spec.N, C, OC, G, spec.K // C, *spec.output3, cut.TW, cut.images, tile.OCP, tile.CB,
            tile.in_place, reach, mr, block, tile.chunk, channel_chain(spec)[0], per_thread, c_start, tile.c_row,
            transposed_row(cut.TH * cut.TW, W, size), *starts,
        ],
        np.int64,
    )  # fmt: skip
    assert len(geometry) == TILE_FIELDS + FIELDS
    moved = beyond_L2(full)
    cost = Cost.of_cycles(spec, tile.tasks * tile.compute, tile.tasks * tile.other, moved, tile.tasks, threads)
    form = "channels" if tile.channels_form else "pixels"
    return Params(
        form, geometry, np.concatenate(sections), tile.OCP, block, tile.tasks, threads, per_thread,
        per_thread * threads * size, cost, 4.0 * W * tile.tasks * tile.waiting,
    )  # fmt: skip
