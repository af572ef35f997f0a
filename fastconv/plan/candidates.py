"""The table of algorithms. Adding one is a module in `kernels/` and a line here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from fastconv.kernels import depthwise, direct, fft, im2col, reference
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec


class Algorithm(Protocol):
    """What a module in `kernels/` must offer to be a candidate.

    It may also offer ``variants(spec, threads, limit) -> dict[str, parameters]``: other blockings worth measuring; and
    ``prepare_cost(spec, params) -> Cost``, where preparing weights is more than copying them.
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

    def prepare(self, spec: ConvSpec, params: Any, weight: np.ndarray) -> np.ndarray:
        """The weights in the form that `run` reads."""

    def run(
        self, spec: ConvSpec, params: Any, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue
    ) -> None:
        """Compute `out`."""


#: Fastest first where each is at home: equal predictions go to the earlier one. The reference takes everything.
CANDIDATES: tuple[Algorithm, ...] = (
    fft,          # large kernels: work per output grows with the logarithm of the kernel
    depthwise,    # one input channel per group: no GEMM to be had, memory bound
    direct,       # implicit GEMM on the input itself
    im2col,       # explicit GEMM on gathered panels: odd strides and small planes
    reference,    # plain loops, the oracle
)  # fmt: skip


def names() -> tuple[str, ...]:
    """Names of the algorithms, in the order of the table."""
    return tuple(module.NAME for module in CANDIDATES)
