"""Gradient of the weights as an implicit GEMM whose sum runs over pixels: no im2col, only offset tables.

    dW[oc, c, tap] = sum over n, pixel of dY[n, oc, pixel] * x[n, c, pixel*stride + tap*dilation - padding]

For one tile of pixels this is the channel form of the microkernel with its tables exchanged: the rows of C are pairs
(channel, tap), the sum runs over pixels, the vectors lie along output channels.

    C[(c, tap), oc] += A[at[(c, tap)] + off[pixel]] * B[pixel, oc]       [C taps x P] * [P x OC] -> [C taps x OC]

A is the input tile, or the input where it lies if it needs no padding; stride and dilation are only tables. B is dY,
output channels side by side, a chain of pixels at a time, in L1. A block of C stays in L2 while all pixels pass.

Sums have three levels: a chain of at most 128 pixels in registers, SEGMENT chains, then all. A gradient too small to
give every thread a block is summed in parts, which are added in a fixed tree: no result depends on the thread count.

Zhang, Franchetti & Low 2018 (direct convolution without packing all of im2col); Georganas et al. 2018 (weight update by
partial gradients and a reduction).
"""

from __future__ import annotations

import numpy as np

from fastconv.cpu import threads, workspace
from fastconv.kernels import weight_grad_kernels, weight_grad_plan, weight_grad_taps
from fastconv.kernels.common import Cost
from fastconv.kernels.weight_grad_plan import Params
from fastconv.spec import ConvSpec

NAME = "direct"
ACCURACY = "exact"
ERROR_BOUND = 16.0
NOTE = "sums of at most 128 terms, added in blocks"


def refuses(spec: ConvSpec) -> str | None:
    """Nothing is refused: every weight gradient is an implicit GEMM."""
    return None


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    return weight_grad_plan.parameters(spec, threads, limit)


def cost(spec: ConvSpec, params: Params) -> Cost:
    return params.cost


def run(spec: ConvSpec, params: Params, x: np.ndarray, grad_output: np.ndarray, out: np.ndarray) -> None:
    with workspace.scratch(spec.dtype, params.elements, 1) as scratch:
        arrays = (params.geometry, params.tile, params.tables, x, grad_output, out, scratch)
        kernel = weight_grad_taps.accumulate if params.by_taps else weight_grad_kernels.accumulate
        threads.run(kernel, params.tasks, arrays, params.threads)
        if params.reductions:
            threads.run(weight_grad_kernels.reduce, params.reductions, arrays, params.threads)
