"""Values to and from the cells that indices name, where windows are blocks that lie side by side.

An index that lies in its own window is the only one there: vectors of windows are compared with one tap after another,
and nothing is read or written by index. Rows of planes are taken two cells at a time; channels last, lanes are
channels, and the way to the cells is `pool_grad.send_plan`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv.cpu import isa, workspace
from fastconv.cpu.jit import kernel
from fastconv.cpu.match import fetch_pairs, fetch_row, place_pairs
from fastconv.cpu.simd import claim, unpack
from fastconv.kernels.pool import Plan, divisor_constants, tasks_of
from fastconv.pool_spec import PoolSpec

#: Cells of a window up to which each is compared with the index, rather than read or written by it.
MOST_TAPS = 32


@lru_cache(maxsize=1024)
def place_plan(spec: PoolSpec, threads: int) -> Plan | None:
    """Every value to its cell, 0 to all others; None where blocks of this kind do not cover the planes."""
    covered = all(n * k == size for n, k, size in zip(spec.output, spec.kernel, spec.input, strict=True))
    return _plan(spec, False, threads) if covered and not spec.channels_last else None


@lru_cache(maxsize=1024)
def fetch_plan(spec: PoolSpec, threads: int) -> Plan | None:
    """Every value from its cell; None for blocks of another kind."""
    return _plan(spec, True, threads)


def _plan(spec: PoolSpec, fetch: bool, threads: int) -> Plan | None:
    _, IH, IW, OD, OH, OW, KD, KH, KW = spec.three[:9]
    taps, W = KD * KH * KW, isa.width(spec.dtype)
    paired = KW == 2 or spec.channels_last
    if not (spec.is_tiled and spec.is_inside and paired and taps <= MOST_TAPS and np.prod(spec.input) < 2**31):
        return None
    rows = np.add.outer(np.arange(KD) * IH, np.arange(KH)) * IW
    if spec.channels_last:
        units, cycles = spec.N * OD * OH, OW * (20 + 2.0 * taps * spec.C / W)
        function, table = _fetch_channels, np.add.outer(rows, np.arange(KW))
    else:
        units, cycles = spec.N * spec.C, OD * OH * -(-OW // W) * (12 + 8.0 * KD * KH)
        function, table = _pairs, rows
    step, tasks, threads = tasks_of(units, cycles, threads)
    geometry = np.array([fetch, units, spec.C, *spec.three[:9], step], np.int64)
    return Plan(
        function, geometry, table.reshape(-1).astype(np.int64), divisor_constants(spec.dtype, 1), tasks, threads, W,
        workspace.aligned(1, 8), spec.dtype,
    )  # fmt: skip


@kernel
def _pairs(thread, counter, tasks, geometry, tables, lists, wrong, indices, values, cells):
    """Channels first. A task is some planes."""
    fetch, planes, _, ID, IH, IW, OD, OH, OW, KD, KH, _, step = unpack(geometry, 13)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for plane in range(task * step, min(planes, task * step + step)):
            if wrong[0]:
                break
            for od in range(OD):
                source, base, pitch = (plane * OD + od) * OH * OW, od * KD * IH * IW, KH * IW
                first = plane * ID * IH * IW + base
                if fetch:
                    lost = fetch_pairs(
                        values, indices, source, cells, first, tables, 0, tables.size, base, OW, OH, pitch
                    )  # fmt: skip
                else:
                    lost = place_pairs(
                        values, indices, source, cells, first, tables, 0, tables.size, base, OW, OH, pitch
                    )  # fmt: skip
                if lost:
                    wrong[0] = 1


@kernel
def _fetch_channels(thread, counter, tasks, geometry, tables, lists, wrong, indices, values, cells):
    """Channels last. A task is some rows of windows."""
    _, rows, C, ID, IH, IW, OD, OH, OW, KD, KH, KW, step = unpack(geometry, 13)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for row in range(task * step, min(rows, task * step + step)):
            if wrong[0]:
                break
            rest, oh = divmod(row, OH)
            n, od = divmod(rest, OD)
            for ow in range(OW):
                cell = (od * KD * IH + oh * KH) * IW + ow * KW
                if fetch_row(
                    values, indices, (row * OW + ow) * C, cells, (n * ID * IH * IW + cell) * C, tables, 0, C,
                    tables.size, cell, C,
                ):  # fmt: skip
                    wrong[0] = 1
