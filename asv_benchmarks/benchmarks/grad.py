"""Speed of the gradients and of transposed convolutions, by the algorithm that the dispatcher chooses, one thread."""

from functools import cache, partial

import numpy as np

import fastconv
from fastconv import grad

from .common import LAYERS, aligned, frozen_call, least_ratio

DIRECTIONS = ["input", "weight", "backward", "transpose"]


@cache
def gradient_call(direction, layer):
    """A warm call; gradients of the layer, or the transposed convolution with its weight."""
    x_shape, weight_shape, options = LAYERS[layer]
    fastconv.set_num_threads(1)
    ndim, random = len(x_shape) - 2, np.random.default_rng(0)

    def values(shape):
        return aligned(shape, 2 * random.random(shape, dtype=np.float32) - 1)

    x, weight = values(x_shape), values(weight_shape)
    gradient = values(fastconv.plan(x_shape, weight_shape, **options).spec.out_shape)
    if direction == "input":
        of_input = getattr(grad, f"conv{ndim}d_input")
        call = partial(of_input, x_shape, weight, gradient, out=aligned(x_shape), **options)
    elif direction == "weight":
        of_weight = getattr(grad, f"conv{ndim}d_weight")
        call = partial(of_weight, x, weight_shape, gradient, out=aligned(weight_shape), **options)
    elif direction == "backward":
        call = partial(getattr(grad, f"conv{ndim}d_backward"), x, weight, gradient, **options)
    else:
        prepared = fastconv.prepare_transpose(weight, **options)
        call = partial(prepared, gradient, out=aligned(prepared(gradient).shape))
    call()
    return call


class _Gradient:
    params = (DIRECTIONS, list(LAYERS))
    param_names = ("direction", "layer")
    timeout = 300

    def setup(self, direction, layer):
        self.call = gradient_call(direction, layer)


class TimeGradient(_Gradient):
    """In seconds."""

    warmup_time = 0.05
    repeat = (5, 30, 1.0)

    def time_gradient(self, direction, layer):
        self.call()


class RatioGradient(_Gradient):
    """The same in units of a frozen kernel timed in turns: the one to trust on a noisy machine."""

    unit = "frozen kernels"

    def track_ratio_gradient(self, direction, layer):
        return least_ratio(self.call, frozen_call())
