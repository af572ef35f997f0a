"""The gradient of a convolution's weight by an algorithm of the forward pass: the operands change places.

`fastconv.adjoint.swapped` has the algebra. Each output of this convolution is a sum over all cells of all images, its
kernel as large as the output was: at home where that suits an FFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastconv.adjoint import swapped, zero_padded
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue
from fastconv.kernels.pack import padded_sources
from fastconv.spec import ConvSpec


@dataclass(frozen=True)
class Params:
    """The swapped problem and its parameters; `spec` is None where the gradient is all zeros."""

    threads: int
    workspace: int
    spec: ConvSpec | None
    params: Any


class Swapped:
    """An algorithm of the forward pass as one for the weight gradient."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.NAME: str = module.NAME
        self.ACCURACY: str = module.ACCURACY
        self.ERROR_BOUND: float = module.ERROR_BOUND
        self.NOTE: str = module.NOTE

    def refuses(self, spec: ConvSpec) -> str | None:
        problem = swapped(zero_padded(spec))
        return None if problem is None else self.module.refuses(problem)

    def parameters(self, spec: ConvSpec, threads: int, limit: int) -> Params | str:
        problem = swapped(zero_padded(spec))
        if problem is None:
            return Params(threads, 0, None, None)
        # Copies of x, of the gradient, packed once more, and of the result, axes exchanged.
        copies = problem.input_bytes + 2 * problem.weight_bytes + problem.output_bytes
        if copies > limit:
            return f"copies of {copies} bytes exceed the workspace limit of {limit} bytes"
        params = self.module.parameters(problem, threads, limit - copies)
        if isinstance(params, str):
            return params
        return Params(threads, copies + params.workspace, problem, params)

    def cost(self, spec: ConvSpec, params: Params) -> Cost:
        if params.spec is None:
            return Cost(0, spec.weight_bytes, 0, 1)
        cost = self.module.cost(params.spec, params.params)
        work = getattr(self.module, "prepare_cost", None)
        prepare = Cost(0, 0, 0, 1) if work is None else work(params.spec, params.params)
        copies = 4 * params.spec.moved_bytes
        return Cost(
            cost.flops + prepare.flops, cost.bytes + prepare.bytes + copies, cost.transform + prepare.transform,
            cost.tasks,
        )  # fmt: skip

    def run(self, spec: ConvSpec, params: Params, x: np.ndarray, grad_output: np.ndarray, out: np.ndarray) -> None:
        problem = params.spec
        if problem is None:
            out[:] = 0
            return
        G, C, OC = spec.groups, spec.C // spec.groups, spec.OC
        cells = _logical(x, spec.x_shape, spec.channels_last)
        if spec.padding_mode != "zeros":
            for axis, (size, (lo, hi)) in enumerate(zip(spec.input, spec.padding, strict=True), start=2):
                cells = cells.take(padded_sources(size, lo, hi, spec.padding_mode), axis)
        kept: tuple[Any, ...] = (..., *(slice(size) for size in problem.input))
        cells = cells[kept]
        # (N, G, C, ...) -> (C, G, N, ...)
        cells = np.ascontiguousarray(cells.reshape(spec.N, G, C, *problem.input).swapaxes(0, 2))
        gradient = np.ascontiguousarray(_logical(grad_output, spec.out_shape, spec.channels_last).swapaxes(0, 1))
        result = np.empty(prod(problem.out_shape), spec.dtype)
        packed = self.module.prepare(problem, params.params, gradient)
        self.module.run(problem, params.params, cells.reshape(-1), packed, result, Epilogue.make(spec.dtype))
        taps = result.reshape(C, OC, *spec.kernel).swapaxes(0, 1)
        out.reshape(spec.weight_shape)[...] = np.flip(taps, tuple(range(2, taps.ndim))) if spec.flip else taps


def _logical(flat: np.ndarray, shape: tuple[int, ...], channels_last: bool) -> np.ndarray:
    """A flat array in memory order as (N, C, *spatial)."""
    if not channels_last:
        return flat.reshape(shape)
    return np.moveaxis(flat.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
