"""Weights of an input gradient: input and output channels exchanged, a phase's taps picked, in reverse order.

What the forward pass holds as (OC, C, taps) its adjoint wants as (C, OC, taps). Of deep layers this takes longer than
the convolution if done carelessly, so there is a way straight into the channel form of `direct`.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv.adjoint import AxisPhase
from fastconv.cpu import isa, workspace
from fastconv.cpu import threads as pool
from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.rows import copy_row, fill_row, reverse_row
from fastconv.cpu.simd import claim, transpose_block, unpack, vector_width
from fastconv.spec import ConvSpec

# How the taps wanted lie among those there are.
ALL, REVERSED, SOME = range(3)

#: Filters of a 1x1 kernel that a task takes: as much is read in one piece as is written in one.
ROWS = 16


def positions(spec: ConvSpec, axes: tuple[AxisPhase, ...]) -> np.ndarray:
    """Of each tap of a phase, in the adjoint's order, the place among the weight's taps."""
    places = np.arange(prod(spec.kernel)).reshape(spec.kernel)
    index: tuple[Any, ...] = tuple(axis.positions(k, spec.flip) for axis, k in zip(axes, spec.kernel, strict=True))
    return places[index].reshape(-1).astype(np.int64)


def _order(taps: int, chosen: np.ndarray) -> int:
    if len(chosen) == taps:
        if (chosen == np.arange(taps)).all():
            return ALL
        if (chosen == np.arange(taps)[::-1]).all():
            return REVERSED
    return SOME


def exchange(spec: ConvSpec, chosen: np.ndarray, weight: np.ndarray, threads: int) -> np.ndarray:
    """The weight of one phase, (C, OC // groups, taps); `chosen` comes from `positions`."""
    G, C, OC, taps = spec.groups, spec.C // spec.groups, spec.OC // spec.groups, prod(spec.kernel)
    result = workspace.empty_aligned(spec.dtype, spec.C * OC * len(chosen))
    blocks = -(-C // isa.width(spec.dtype))
    sizes = np.array([C, OC, taps, len(chosen), _order(taps, chosen)], np.int64)
    pool.run(_exchange, G * blocks, (sizes, chosen, weight.reshape(-1), result), threads)
    return result


def exchange_packed(
    spec: ConvSpec, chosen: np.ndarray, weight: np.ndarray, threads: int, OCP: int, blocks: int
) -> np.ndarray:
    """The same in the channel form of `direct`, whose output channels are the C of this spec."""
    W = isa.width(spec.dtype)
    G, C, OC, taps = spec.groups, spec.C // spec.groups, spec.OC // spec.groups, prod(spec.kernel)
    vectors = -(-C // W)
    result = workspace.empty_aligned(spec.dtype, G * vectors * W * OC * len(chosen))
    sizes = np.array([C, OC, taps, len(chosen), OCP, blocks], np.int64)
    if taps == 1:
        pool.run(_cut_packed, G * -(-OC // ROWS), (sizes, weight.reshape(-1), result), threads)
        return result
    with workspace.scratch(spec.dtype, W * W, threads) as corner:
        pool.run(_exchange_packed, G * vectors, (sizes, chosen, weight.reshape(-1), result, corner), threads)
    return result


@kernel
def _exchange(thread, counter, tasks, sizes, chosen, weight, result):  # type: ignore[no-untyped-def]
    """A task is a vector of input channels of one group."""
    C, OC, taps, T, order = unpack(sizes, 5)
    W = vector_width(weight)
    blocks = (C + W - 1) // W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        g, block = divmod(task, blocks)
        c0, c1 = block * W, min(C, block * W + W)
        o = 0
        if taps == 1 and c1 - c0 == W:
            while o + W <= OC:
                transpose_block(weight, (g * OC + o) * C + c0, C, result, (g * C + c0) * OC + o, OC)
                o += W
        while o < OC:
            src, dst = ((g * OC + o) * C + c0) * taps, ((g * C + c0) * OC + o) * T
            for _ in range(c0, c1):
                if order == REVERSED:
                    reverse_row(weight, src, result, dst, T)
                elif order == ALL:
                    copy_row(weight, src, result, dst, T)
                else:
                    for t in range(T):
                        result[dst + t] = weight[src + chosen[t]]
                src += taps
                dst += OC * T
            o += 1


@inline
def _place(g, v, OC, K, OCP, blocks, W):  # type: ignore[no-untyped-def]
    """Where vector v of a group's output channels begins in the channel form of `direct`, and its row's length."""
    vectors = (OC + W - 1) // W
    part, within = divmod(v * W, OCP)
    of_part = (min(OCP, OC - part * OCP) + W - 1) // W
    block = 0
    while (block + 1) * of_part // blocks <= within // W:
        block += 1
    v0, v1 = block * of_part // blocks, (block + 1) * of_part // blocks
    return (g * vectors * W + part * OCP + v0 * W) * K + (within // W - v0) * W, (v1 - v0) * W


@kernel
def _cut_packed(thread, counter, tasks, sizes, weight, packed):  # type: ignore[no-untyped-def]
    """The same of a 1x1 kernel, whose rows need no turning, only cutting; a task is ROWS filters of a group."""
    C, OC, _, _, OCP, blocks = unpack(sizes, 6)
    W = vector_width(weight)
    pieces = (OC + ROWS - 1) // ROWS
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        g, piece = divmod(task, pieces)
        first, last = piece * ROWS, min(OC, piece * ROWS + ROWS)
        c = 0
        while c < C:
            dst, row = _place(g, c // W, C, OC, OCP, blocks, W)
            lanes = min(row, C - c)
            for o in range(first, last):
                copy_row(weight, (g * OC + o) * C + c, packed, dst + o * row, lanes)
                if lanes < row:
                    fill_row(packed, dst + o * row + lanes, row - lanes)
            c += row


@kernel
def _exchange_packed(thread, counter, tasks, sizes, chosen, weight, packed, corner):  # type: ignore[no-untyped-def]
    """packed[group][part][block of C][(o, tap)][vector of C]; a task is one vector of C."""
    C, OC, taps, T, OCP, blocks = unpack(sizes, 6)
    W = vector_width(weight)
    vectors = (C + W - 1) // W
    mine = thread * W * W
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        g, v = divmod(task, vectors)
        dst, row = _place(g, v, C, OC * T, OCP, blocks, W)
        lanes = min(W, C - v * W)
        for o in range(OC):
            src = ((g * OC + o) * C + v * W) * taps
            if lanes == W and src + (W - 1) * taps + (taps + W - 1) // W * W <= weight.size:
                for first in range(0, taps, W):  # taps become rows, channels lanes
                    transpose_block(weight, src + first, taps, corner, mine, W)
                    for t in range(T):
                        if first <= chosen[t] < first + W:
                            copy_row(corner, mine + (chosen[t] - first) * W, packed, dst + t * row, W)
            else:
                for t in range(T):
                    for lane in range(lanes):
                        packed[dst + t * row + lane] = weight[src + lane * taps + chosen[t]]
                    for lane in range(lanes, W):
                        packed[dst + t * row + lane] = packed.dtype.type(0)
            dst += T * row
