"""Speed of the layers that `pool` leaves out, forward and backward, in both memory orders, one thread."""

from functools import cache, partial

import numpy as np

import fastconv

from .common import aligned, frozen_call, least_ratio

SHAPES = {"64 56x56": (1, 64, 56, 56), "512 14x14 batch 8": (8, 512, 14, 14)}
ORDERS = ["NCHW", "NHWC"]
NEIGHBOURS = 5


def _batch_norm_inference(x, ones):
    backward = partial(fastconv.batch_norm_backward, x, x, ones, mean=ones, variance=ones, training=False)
    return partial(fastconv.batch_norm, x, ones, ones, ones, ones), backward


def _instance_norm(x, ones):
    _, mean, variance = fastconv.instance_norm(x, return_stats=True)
    backward = partial(fastconv.instance_norm_backward, x, x, ones, mean=mean, variance=variance)
    return partial(fastconv.instance_norm, x, None, None, ones, ones), backward


def _response_norm(x, _):
    backward = partial(fastconv.local_response_norm_backward, x, x, NEIGHBOURS)
    return partial(fastconv.local_response_norm, x, NEIGHBOURS), backward


def _relu(x, _):
    return partial(fastconv.relu, x), partial(fastconv.activate_backward, x, x, "relu")


def _softmax(x, _):
    return partial(fastconv.softmax, x), partial(fastconv.softmax_backward, x, fastconv.softmax(x))


#: Each makes two calls of an array x and of a one for each channel: forward and backward.
LAYERS = {
    "batch norm, inference": _batch_norm_inference,
    "instance norm": _instance_norm,
    "response norm": _response_norm,
    "relu": _relu,
    "softmax": _softmax,
}


@cache
def layer_calls(layer, shape, order):
    """Warm calls, forward and backward."""
    fastconv.set_num_threads(1)
    N, C, H, W = SHAPES[shape]
    memory = (N, C, H, W) if order == "NCHW" else (N, H, W, C)
    x = aligned(memory, np.random.default_rng(0).standard_normal(memory, dtype=np.float32))
    calls = LAYERS[layer](x if order == "NCHW" else x.transpose(0, 3, 1, 2), np.ones(C, np.float32))
    for call in calls:
        call()
    return dict(zip(("forward", "backward"), calls, strict=True))


class RatioLayer:
    """In units of a frozen kernel timed in turns."""

    params = (list(LAYERS), ["forward", "backward"], list(SHAPES), ORDERS)
    param_names = ("layer", "direction", "shape", "order")
    timeout = 120
    unit = "frozen kernels"

    def setup(self, layer, direction, shape, order):
        self.call = layer_calls(layer, shape, order)[direction]

    def track_ratio_layer(self, layer, direction, shape, order):
        return least_ratio(self.call, frozen_call(), budget=(0.2, 2.0))
