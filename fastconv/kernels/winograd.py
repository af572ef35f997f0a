"""Winograd convolution: small kernels at stride 1, with fewer multiplications than the definition has.

F(m, r) along each axis: a 3x3 kernel on tiles of 4x4 outputs takes 36 multiplications instead of 144, each a small GEMM
over the channels. See `winograd_kernels` for the pipeline, `cpu/cook_toom` for where the transforms come from.

Winograd 1980; Lavin & Gray 2016; Zlateski, Jia, Li & Durand 2018 (blocking for L2); Barabasz et al. 2020 (points).
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv.cpu import isa, threads, workspace
from fastconv.cpu.cook_toom import LARGEST
from fastconv.kernels import tiles, winograd_plan, winograd_rows
from fastconv.kernels import winograd_kernels as k
from fastconv.kernels.common import Cost, ceil_div
from fastconv.kernels.epilogue import Epilogue
from fastconv.kernels.winograd_plan import Params
from fastconv.spec import ConvSpec

NAME = "winograd"
ACCURACY = "default"
ERROR_BOUND = 16.0
NOTE = "norm-wise: an output errs by at most 16 u ||w|| ||x|| of its tile, not of its own terms"

#: Fewer input channels than this leave lanes empty, and too few terms for the transforms' errors to average out.
LEAST_CHANNELS = 8


def refuses(spec: ConvSpec) -> str | None:
    if np.dtype(spec.dtype).kind != "f":
        return "a transform rounds: integers would not be exact"
    if max(spec.stride) > 1:
        return "a stride skips outputs that a tile computes anyway"
    if max(spec.kernel) == 1:
        return "a 1x1 kernel has nothing to transform"
    if max(spec.kernel) >= LARGEST:
        return f"transforms have at most {LARGEST} points: kernels up to {LARGEST - 1}"
    if spec.C // spec.groups < LEAST_CHANNELS:
        return f"fewer than {LEAST_CHANNELS} input channels in a group"
    return None


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    return winograd_plan.parameters(spec, threads, limit, False, rival=winograd_rows.way(spec, limit // spec.itemsize))


def once(spec: ConvSpec, params: Params, threads: int, limit: int) -> Params:
    """For weights that are used once."""
    return winograd_plan.once(spec, params, threads, limit, False)


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def prepare_cost(spec: ConvSpec, params: Params) -> Cost:
    return params.prepare_cost


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """Header, the weights as they are (for tiles that must be computed directly), then their transforms.

    Weights that are used once are left as they are.
    """
    if params.once:
        return weight.reshape(-1)
    g = params.geometry.copy()
    packed = workspace.empty_aligned(spec.dtype, params.packed_size)
    at = int(g[k.WEIGHTS])
    packed[at : at + weight.size] = weight.reshape(-1)
    own = workspace.aligned(params.preparing[-1], spec.itemsize)
    g[k.OWN], g[k.P_STATS : k.P_HIGH + 1] = own, params.preparing[:-1]
    vectors = ceil_div(spec.OC // spec.groups, isa.width(spec.dtype))
    with workspace.scratch(spec.dtype, own, params.threads) as scratch:
        threads.run(k.transform_weights, spec.groups * vectors, (g, packed, scratch), params.threads)
    sums = packed[k.HEADER : k.HEADER + spec.OC]
    sums[:] = _bad(sums)
    packed[k.BAD] = sums.any()
    return packed


def _bad(sums: np.ndarray) -> np.ndarray:
    """Filters, by their sums of |w|, that must be applied directly."""
    return ~(sums < k.LARGEST_FILTER)


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    with workspace.scratch(spec.dtype, params.scratch, 1) as scratch:
        g, count, brief = params.geometry, params.threads, spec.is_brief
        flags = params.flags
        seen = np.empty(flags + spec.OC * params.once, spec.dtype)
        tail = epilogue.bias, epilogue.residual, epilogue.constants, out, scratch
        arrays = params.tables, x, packed, seen, *tail
        if params.by_rows:
            threads.run(winograd_rows.winograd_rows, params.tasks[0], (g, *arrays), count, brief)
        elif params.staged:
            threads.run(k.winograd, params.tasks[0], (g, _STAGES[k.FORWARD], *arrays), count, brief)
            threads.run(k.winograd, params.tasks[1], (g, _STAGES[k.PRODUCT], *arrays), count, brief)
        else:
            threads.run(k.winograd, params.tasks[0], (g, _STAGES[k.ALL], *arrays), count, brief)
        if params.once:
            bad = _bad(seen[flags:])
            if seen[:flags].any() or bad.any():
                _repair(spec, params, x, packed, seen[:flags], bad, tail)
        elif packed[k.BAD] or seen.any():
            _repair(spec, params, x, packed, seen, packed[k.HEADER : k.HEADER + spec.OC] != 0, tail)


_STAGES = [np.array([stage], np.int64) for stage in (k.ALL, k.FORWARD, k.PRODUCT)]


def _repair(
    spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, seen: np.ndarray, bad: np.ndarray,
    tail: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Compute directly what a transform would spoil: tiles with NaN, infinity or huge values, and bad filters."""
    G, count = spec.groups, prod(params.grid.tiles)
    todo = winograd_plan.suspects(spec, params, seen)
    marks = np.zeros((spec.N * count, G), bool)
    g, scratch = params.geometry, tail[-1]
    if len(todo):
        spoilt = np.zeros(len(todo), np.int64)
        arrays = g, todo.reshape(-1), params.tables, x, spoilt, scratch
        threads.run(k.inspect, len(todo), arrays, params.threads)
        marks[todo[:, 0], todo[:, 1]] = spoilt
    pairs = np.argwhere(np.repeat(marks, spec.OC // G, axis=1) | bad).astype(np.int64)
    if len(pairs):
        again = g, params.direct, pairs.reshape(-1), params.tables, x, packed, *tail
        threads.run(tiles.recompute, len(pairs), again, params.threads)
