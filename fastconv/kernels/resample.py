"""Separable linear maps of images: interpolation, and every unpool that repeats or spreads values.

A map along one axis is a table: for each output the cells it reads and their weights. Its adjoint is the transposed
table, so a gradient runs the same kernels. An output row is made in two steps: the weighted rows of the input become
one (down), then each output cell is the weighted sum of some of its cells (across): gathered where lanes are pixels,
whole vectors where they are channels. What the usual modes do takes one step: two cells of two rows, channels last, and
twice as many cells as before, channels first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu import threads as pool
from fastconv.cpu.gather import double_rows, repeat_rows, weigh_cells, weigh_rows, weigh_squares
from fastconv.cpu.jit import kernel
from fastconv.cpu.rows import copy_row, fill_row
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.pool import tasks_of


@dataclass(frozen=True, eq=False)
class Axis:
    """A linear map along one axis: out[o] = sum over t of weights[o, t] * x[cells[o, t]].

    cells : (outputs, terms), -1 where there are fewer terms; those come last.
    weights : (outputs, terms), 0 there.
    size : cells of the input.
    """

    cells: np.ndarray
    weights: np.ndarray
    size: int

    @property
    def outputs(self) -> int:
        return len(self.cells)

    @cached_property
    def adjoint(self) -> Axis:
        """The transposed table."""
        outputs, terms = np.nonzero(self.cells >= 0)
        cells, weights = self.cells[outputs, terms], self.weights[outputs, terms]
        order = np.argsort(cells, kind="stable")
        cells, weights, outputs = cells[order], weights[order], outputs[order]
        counts = np.bincount(cells, minlength=self.size)
        rank = np.arange(len(cells)) - (np.cumsum(counts) - counts)[cells]
        shape = (self.size, max(int(counts.max(initial=0)), 1))
        back, factors = np.full(shape, -1, np.int64), np.zeros(shape)
        back[cells, rank], factors[cells, rank] = outputs, weights
        return Axis(back, factors, self.outputs)

    @cached_property
    def is_identity(self) -> bool:
        return (
            self.outputs == self.size
            and self.cells.shape[1] == 1
            and bool((self.cells[:, 0] == np.arange(self.size)).all() and (self.weights == 1).all())
        )

    @cached_property
    def doubled(self) -> tuple[int, int]:
        """(begin, end): cells begin <= q < end have two outputs, 2q and 2q + 1, that read what lies around alike.

        One term: q itself. Two: q - 1 and q for the first, q and q + 1 for the second. (0, 0) if most cells differ.
        """
        terms = self.cells.shape[1]
        if self.outputs != 2 * self.size or terms > 2 or (self.cells < 0).any():
            return 0, 0
        around = np.array([[0], [0]] if terms == 1 else [[-1, 0], [0, 1]])
        cells = self.cells.reshape(-1, 2, terms) - np.arange(self.size)[:, None, None]
        weights, middle = self.weights.reshape(-1, 2, terms), self.size // 2
        usual = np.ones(1) if terms == 1 else weights[middle]
        others = np.flatnonzero(((cells != around) | (weights != usual)).any((1, 2)))
        begin, end = (
            int(others[others <= middle].max(initial=-1)) + 1,
            int(others[others > middle].min(initial=self.size)),
        )
        return (begin, end) if 2 * (end - begin) > self.size else (0, 0)


def identity(size: int) -> Axis:
    """The axis stays as it is."""
    return Axis(np.arange(size)[:, None], np.ones((size, 1)), size)


@dataclass(frozen=True)
class Plan:
    """How a map runs."""

    kernel: object
    geometry: np.ndarray
    tables: np.ndarray
    cells: np.ndarray
    weights: np.ndarray
    tasks: int
    threads: int
    per_thread: int
    most: int
    dtype: str


def plan(planes: int, C: int, axes: Sequence[Axis], dtype: str, channels_last: bool, threads: int) -> Plan:
    """The plan of a map along one to three axes of `planes` images of C channels (channels first: planes, C = 1)."""
    d, h, w = (*(identity(1) for _ in range(3 - len(axes))), *axes)
    W = isa.width(dtype)
    most = d.cells.shape[1] * h.cells.shape[1]
    terms = w.cells.shape[1]
    row = w.size * C
    cells = w.outputs * (20 + C / W * (terms + 1)) if channels_last else w.outputs * 1.2 * terms
    cycles = 60 + row / W * (most + 1) + cells
    step, tasks, threads = tasks_of(planes * d.outputs * h.outputs, cycles, threads)
    square = most == terms == 2 and min(int(axis.cells.min()) for axis in (d, h, w)) >= 0
    most_taps = workspace.aligned(max(most, terms), 4)
    per_thread = workspace.aligned(row + most_taps + W, 4)
    begin, end = (0, 0) if channels_last else _doubling(d, h, w)
    edges = np.r_[: 2 * begin, 2 * end : w.outputs if end else 0]
    tables = [d.cells, h.cells, w.cells if channels_last else np.column_stack([edges, w.cells[edges]])]
    factors = [d.weights, h.weights, w.weights if channels_last else w.weights.T]
    factors += [w.weights[2 * begin : 2 * begin + 2], w.weights[edges]]
    starts = np.cumsum([0, *(t.size for t in tables[:2])])
    geometry = [
        planes, C, d.size, h.size, w.size, d.outputs, h.outputs, w.outputs, *(a.cells.shape[1] for a in (d, h, w)),
        *starts, step, per_thread, most_taps, w.is_identity, square, begin, end, len(edges),
    ]  # fmt: skip
    if w.size >= 2**31:
        raise ValueError(f"x must have fewer than 2**31 cells along its last axis to be resampled, got {w.size}")
    return Plan(
        channels_kernel if channels_last else doubling_kernel if end else rows_kernel,
        np.array(geometry, np.int64),
        np.concatenate([t.reshape(-1) for t in tables]).astype(np.int64),
        np.ascontiguousarray(w.cells.T, np.int32).reshape(-1),
        np.concatenate([f.reshape(-1) for f in factors]).astype(dtype),
        tasks,
        threads,
        per_thread,
        most_taps,
        dtype,
    )


def _doubling(d: Axis, h: Axis, w: Axis) -> tuple[int, int]:
    """`Axis.doubled` of the last axis, if the others let rows be made of as many rows as of cells, one or two."""
    single = d.cells.shape[1] == 1 and bool((d.weights == 1).all()) and h.cells.shape == (h.outputs, w.cells.shape[1])
    whole = min(int(d.cells.min()), int(h.cells.min())) >= 0
    plain = h.cells.shape[1] == 2 or bool((h.weights == 1).all())
    return w.doubled if single and whole and plain else (0, 0)


def run(how: Plan, x: np.ndarray, out: np.ndarray) -> None:
    """Run a plan on flat arrays in memory order."""
    lists = workspace.scratch("int64", how.most, how.threads)
    with lists as places, workspace.scratch(how.dtype, how.per_thread, how.threads) as scratch:
        arrays = (how.geometry, how.tables, how.cells, how.weights, places, x, scratch, out)
        pool.run(how.kernel, how.tasks, arrays, how.threads)


@kernel
def rows_kernel(thread, counter, tasks, geometry, tables, cells, weights, lists, x, scratch, out):
    """Channels first: lanes are pixels of a row. A task is some rows of the output."""
    (
        planes, _, ID, IH, IW, OD, OH, OW, TD, TH, TW, d_at, h_at, w_at, step, per_thread, most, same,
    ) = unpack(geometry, 18)  # fmt: skip
    mine, line = thread * most, thread * per_thread
    factors = line + per_thread - most
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(planes * OD * OH, task * step + step)):
            rest, oh = divmod(row, OH)
            n, od = divmod(rest, OD)
            count = 0
            for a in range(TD):
                for b in range(TH):
                    at_d, at_h = tables[d_at + od * TD + a], tables[h_at + oh * TH + b]
                    if at_d >= 0 and at_h >= 0:
                        lists[mine + count] = (at_d * IH + at_h) * IW
                        scratch[factors + count] = weights[d_at + od * TD + a] * weights[h_at + oh * TH + b]
                        count += 1
            base, target = n * ID * IH * IW, row * OW
            if count == 0:
                fill_row(out, target, OW)
            elif same:
                weigh_rows(x, base, lists, mine, scratch, factors, 1, count, out, target, OW)
            elif count == 1 and scratch[factors] == 1:
                weigh_cells(x, base + lists[mine], cells, weights, w_at, OW, TW, out, target, OW)
            else:
                weigh_rows(x, base, lists, mine, scratch, factors, 1, count, scratch, line, IW)
                weigh_cells(scratch, line, cells, weights, w_at, OW, TW, out, target, OW)


@kernel
def doubling_kernel(thread, counter, tasks, geometry, tables, cells, weights, lists, x, scratch, out):
    """Channels first, rows twice as long as before, made from one or two. A task is some rows of the output."""
    (
        planes, _, ID, IH, IW, OD, OH, OW, _, T, _, d_at, h_at, w_at, step, _, _, _, _, begin, end, edges,
    ) = unpack(geometry, 22)  # fmt: skip
    across = w_at + T * OW
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        row, last = task * step, min(planes * OD * OH, task * step + step)
        while row < last:
            rest, oh = divmod(row, OH)
            n, od = divmod(rest, OD)
            lines, base, target = min(OH - oh, last - row), (n * ID + tables[d_at + od]) * IH * IW, row * OW
            row += lines
            at = h_at + oh * T
            if T == 1:
                repeat_rows(
                    x, base, tables, at, weights, at, across, w_at, edges, IW, out, target, OW, lines, begin, end
                )  # fmt: skip
            else:
                double_rows(
                    x, base, tables, at, weights, at, across, w_at, edges, IW, out, target, OW, lines, begin, end
                )  # fmt: skip


@kernel
def channels_kernel(thread, counter, tasks, geometry, tables, cells, weights, lists, x, scratch, out):
    """Channels last: lanes are channels. A task is some rows of the output."""
    (
        planes, C, ID, IH, IW, OD, OH, OW, TD, TH, TW, d_at, h_at, w_at, step, per_thread, most, same, square,
    ) = unpack(geometry, 19)  # fmt: skip
    mine, line = thread * most, thread * per_thread
    factors = line + per_thread - most
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(planes * OD * OH, task * step + step)):
            rest, oh = divmod(row, OH)
            n, od = divmod(rest, OD)
            count = 0
            for a in range(TD):
                for b in range(TH):
                    at_d, at_h = tables[d_at + od * TD + a], tables[h_at + oh * TH + b]
                    if at_d >= 0 and at_h >= 0:
                        lists[mine + count] = (at_d * IH + at_h) * IW * C
                        scratch[factors + count] = weights[d_at + od * TD + a] * weights[h_at + oh * TH + b]
                        count += 1
            base, target = n * ID * IH * IW * C, row * OW * C
            if count == 0:
                fill_row(out, target, OW * C)
                continue
            if same:
                weigh_rows(x, base, lists, mine, scratch, factors, 1, count, out, target, OW * C)
                continue
            if square:
                weigh_squares(
                    x, base + lists[mine], base + lists[mine + 1], scratch[factors], scratch[factors + 1], tables, w_at,
                    weights, w_at, out, target, OW, C,
                )  # fmt: skip
                continue
            source, origin = x, base + lists[mine]
            if count > 1 or scratch[factors] != 1:
                weigh_rows(x, base, lists, mine, scratch, factors, 1, count, scratch, line, IW * C)
                source, origin = scratch, line
            for ow in range(OW):
                first = w_at + ow * TW
                terms = 0
                while terms < TW and tables[first + terms] >= 0:
                    terms += 1
                if terms == 0:
                    fill_row(out, target + ow * C, C)
                elif terms == 1 and weights[first] == 1:
                    copy_row(source, origin + tables[first] * C, out, target + ow * C, C)
                else:
                    weigh_rows(source, origin, tables, first, weights, first, C, terms, out, target + ow * C, C)
