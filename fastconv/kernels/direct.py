"""Direct convolution as an implicit GEMM: no im2col, only an offset table.

A task is one tile of outputs and a part of the output channels. It packs its padded input tile once (an unpadded input
is used where it lies), multiplies it with the weights in one of two forms, and stores finished rows from L1:

    pixels     C[oc, p] = sum_k A[oc, k] * B[off[k] + p]      [OC x K] * [K x P] -> [OC x P]
               Vectors along pixels, which run through the tile at its own pitch: they cross row ends, and the few
               columns between rows are computed and never stored. Weights are used as they lie.
    channels   C[p, oc] = sum_k A[at[p] + off[k]] * B[k, oc]  [P x K] * [K x OC] -> [P x OC]
               Vectors along output channels: no pixel is wasted, strides cost nothing, weights are packed.

A third form, `direct_taps`, leaves out multiplications by padded zeros where there are many. A fourth, `direct_dots`,
has vectors along the terms of a sum, for few pixels and weights that are used once.

Georganas et al. 2018 (direct convolution blocking); Goto & van de Geijn 2008 (GEMM blocking).
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, prod

import numpy as np

from fastconv.cpu import isa, threads, workspace
from fastconv.cpu.caches import cache_sizes
from fastconv.kernels import direct_dots, direct_kernels, direct_plan, direct_taps
from fastconv.kernels.common import Cost, ceil_div
from fastconv.kernels.direct_plan import Params
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

NAME = "direct"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "sums of at most 128 terms, added in blocks"

#: Forms that read weights as they lie.
AS_THEY_LIE = ("pixels", "dots")


def refuses(spec: ConvSpec) -> str | None:
    """Nothing is refused: every spec is an implicit GEMM."""
    return None


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    by_taps = direct_taps.parameters(spec, threads, limit)
    if by_taps is not None:
        # Forms differ in the order of their sums: the choice is that of one image and one thread, for all.
        alone = replace(spec, N=1)
        if _work(direct_taps.parameters(alone, 1, limit)) < _work(direct_plan.parameters(alone, 1, limit)):
            return by_taps
    return direct_plan.parameters(spec, threads, limit)


def once(spec: ConvSpec, params: Params, threads: int, limit: int) -> Params:
    """For weights that are used once, given what serves prepared ones: a form that reads them as they lie, or that."""
    alone = replace(spec, N=1)
    candidates = _candidates(spec, params, threads, limit)
    few = direct_plan.few_pixels(direct_plan.as_line(spec)) > 0
    if (alone, 1) != (spec, threads) and (few or any(p.form == "dots" for p in candidates)):
        # As in `parameters`: with another order of sums the choice is that of one image and one thread, for all.
        one = parameters(alone, 1, limit)
        if isinstance(one, str):
            return params
        form = min(_candidates(alone, one, 1, limit), key=lambda p: _once(alone, p)).form
        candidates = [p for p in candidates if (p.form == form if few or form == "dots" else p.form != "dots")]
    return min(candidates, key=lambda p: _once(spec, p), default=params)


def _candidates(spec: ConvSpec, params: Params, threads: int, limit: int) -> list[Params]:
    """Those parameters, and those of forms that read the weights as they lie.

    The pixel form waits for weights beyond L2, chain by chain of each row: 1x1 on 7x7, 512 -> 2048 took 1.2 times as
    long as the channel form.
    """
    found: list[Params | str | None] = [params, direct_dots.parameters(spec, threads, limit)]
    if params.form == "channels" and spec.weight_bytes <= cache_sizes()[1]:
        found.append(direct_plan.parameters(spec, threads, limit, forms=(False,)))
    return [p for p in found if isinstance(p, Params)]


def _once(spec: ConvSpec, params: Params) -> float:
    return params.cost.work + params.waiting + prepare_cost(spec, params).work


def _work(params: Params | str | None) -> float:
    return params.cost.flops + params.cost.transform if isinstance(params, Params) else inf


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def prepare_cost(spec: ConvSpec, params: Params) -> Cost:
    """Transposing blocks takes 0.6 cycles an element; weights that leave L2 are read, fetched and written besides."""
    if params.form in AS_THEY_LIE:
        return Cost(0.0, 0.0, 0.0, 1)
    vectors = spec.groups * ceil_div(spec.OC // spec.groups, isa.width(spec.dtype))
    far = spec.weight_bytes > cache_sizes()[1] // 2
    return Cost(
        0.0, 2.5 * spec.weight_bytes * far, 4.0 * isa.width(spec.dtype) * 0.5 * prod(spec.weight_shape), vectors
    )


def prepare(spec: ConvSpec, params: Params, weight: np.ndarray) -> np.ndarray:
    """The weights as they lie; for other forms [group][block of vectors][k][vector lanes], zero-padded."""
    if params.form in AS_THEY_LIE:
        return weight
    W, OC = isa.width(spec.dtype), spec.OC // spec.groups
    vectors = ceil_div(OC, W)
    packed = workspace.empty_aligned(spec.dtype, spec.groups * vectors * W * spec.K)
    sizes = np.array([OC, spec.K, params.OCP, params.blocks], np.int64)
    threads.run(direct_kernels.pack_weights, spec.groups * vectors, (sizes, weight, packed), params.threads)
    return packed


def run(spec: ConvSpec, params: Params, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
    arena = workspace.scratch(spec.dtype, params.per_thread, params.threads)
    arrays = (
        params.geometry, params.tables, x, packed, epilogue.bias, epilogue.residual, epilogue.constants, out,
        arena.view,
    )  # fmt: skip
    threads.run(_KERNELS[params.form], params.tasks, arrays, params.threads, spec.is_brief)
    arena.give_back()


_KERNELS = {
    "pixels": direct_kernels.pixels, "channels": direct_kernels.channels, "taps": direct_taps.taps,
    "dots": direct_dots.dots,
}  # fmt: skip
