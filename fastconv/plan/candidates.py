"""The table of algorithms. Adding one is a module in `kernels/` and a line here."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from fastconv.kernels import (
    depthwise,
    direct,
    fft,
    im2col,
    reference,
    transpose_depthwise,
    weight_grad_direct,
    weight_grad_dots,
    winograd,
    winograd_fast,
)
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue
from fastconv.kernels.transpose import Phases
from fastconv.kernels.weight_swapped import Swapped
from fastconv.spec import ConvSpec

#: What is computed of a convolution: its output, or the gradient of its input or of its weight.
Direction = Literal["forward", "input", "weight"]


class Algorithm(Protocol):
    """What a module in `kernels/` must offer to be a candidate.

    The spec is always that of the forward pass. For the input gradient x and out are the gradients of the output and
    of the input. For the weight gradient there is neither `prepare` nor an epilogue: see `WeightAlgorithm`.

    It may also offer ``variants(spec, threads, limit) -> dict[str, parameters]``: other blockings worth measuring;
    ``prepare_cost(spec, params) -> Cost``, where preparing weights is more than copying them; and
    ``once(spec, params, threads, limit) -> parameters``: what is better than `params` for weights that are used once,
    or `params`.
    """

    NAME: str
    ACCURACY: str  # the strictest of "exact", "default", "fast" that it satisfies
    ERROR_BOUND: float  # of |error| / (u (|w| * |x|))

    def refuses(self, spec: ConvSpec) -> str | None:
        """Why it cannot compute this problem; None if it can."""

    def parameters(self, spec: ConvSpec, threads: int, limit: int) -> Any:
        """Blocking and tables (with `workspace` in bytes and `threads`), or a str: why the limit is too small."""

    def cost(self, spec: ConvSpec, params: Any) -> Cost:
        """The work it would do."""

    def prepare(self, spec: ConvSpec, params: Any, weight: np.ndarray) -> Any:
        """The weights in the form that `run` reads."""

    def run(self, spec: ConvSpec, params: Any, x: np.ndarray, packed: Any, out: np.ndarray, epilogue: Epilogue) -> None:
        """Compute `out`."""


class WeightAlgorithm(Protocol):
    """What a module in `kernels/` must offer to compute weight gradients."""

    NAME: str
    ACCURACY: str
    ERROR_BOUND: float

    def refuses(self, spec: ConvSpec) -> str | None: ...

    def parameters(self, spec: ConvSpec, threads: int, limit: int) -> Any: ...

    def cost(self, spec: ConvSpec, params: Any) -> Cost: ...

    def run(self, spec: ConvSpec, params: Any, x: np.ndarray, grad_output: np.ndarray, out: np.ndarray) -> None:
        """Write the gradient of the weight as it is stored, (OC, C // groups, *kernel), to `out`."""


#: Fastest first where each is at home: equal predictions go to the earlier one. The reference takes everything.
CANDIDATES: tuple[Algorithm, ...] = (
    fft,          # large kernels: work per output grows with the logarithm of the kernel
    winograd_fast,  # larger tiles with larger errors, for those who ask for them
    winograd,     # small kernels at stride 1: a quarter of the multiplications
    depthwise,    # one input channel per group: no GEMM to be had, memory bound
    direct,       # implicit GEMM on the input itself
    im2col,       # explicit GEMM on gathered panels: odd strides and small planes
    reference,    # plain loops, the oracle
)  # fmt: skip


#: The input gradient is the forward pass of each phase, or all phases at once.
INPUT: tuple[Algorithm, ...] = (transpose_depthwise, *(Phases(module) for module in CANDIDATES))

#: The weight gradient has kernels of its own; the last two are forward passes with exchanged operands.
WEIGHT: tuple[WeightAlgorithm, ...] = (
    weight_grad_dots,  # few channels per group: vectors along pixels
    weight_grad_direct,  # implicit GEMM over pixels
    Swapped(fft),
    Swapped(im2col),
    Swapped(reference),
)

DIRECTIONS = ("forward", "input", "weight")


def table(direction: str = "forward") -> tuple[Any, ...]:
    """The algorithms that compete for a direction."""
    if direction == "forward":
        return CANDIDATES
    return INPUT if direction == "input" else WEIGHT


def names(direction: str = "forward") -> tuple[str, ...]:
    """Names of the algorithms, in the order of the table."""
    return tuple(module.NAME for module in table(direction))
