"""Speed of pools, unpools and norms, forward and backward, in both memory orders, one thread."""

from functools import cache, partial

import numpy as np

import fastconv

from .common import aligned, frozen_call, least_ratio

SHAPES = {"64 56x56": (1, 64, 56, 56), "512 14x14 batch 8": (8, 512, 14, 14)}
ORDERS = ["NCHW", "NHWC"]
GROUPS, NEIGHBOURS = 32, 5


def _max(x, _):
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    return partial(fastconv.max_pool2d, x, 2), partial(fastconv.max_pool2d_backward, y, x, 2, indices=indices)


def _average(x, _):
    y = fastconv.avg_pool2d(x, 3, 2, 1)
    return partial(fastconv.avg_pool2d, x, 3, 2, 1), partial(fastconv.avg_pool2d_backward, y, x.shape, 3, 2, 1)


def _max_unpool(x, _):
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    return partial(fastconv.max_unpool2d, y, indices, 2), partial(fastconv.max_unpool2d_backward, x, indices)


def _batch_norm(x, ones):
    _, mean, variance = fastconv.batch_norm(x, training=True, return_stats=True)
    backward = partial(fastconv.batch_norm_backward, x, x, ones, mean=mean, variance=variance)
    return partial(fastconv.batch_norm, x, weight=ones, bias=ones, training=True), backward


def _batch_norm_inference(x, ones):
    known = {"mean": ones, "variance": ones, "training": False}
    return partial(fastconv.batch_norm, x, ones, ones, ones, ones), partial(
        fastconv.batch_norm_backward, x, x, ones, **known
    )


def _group_norm(x, ones):
    _, mean, variance = fastconv.group_norm(x, GROUPS, return_stats=True)
    backward = partial(fastconv.group_norm_backward, x, x, GROUPS, ones, mean=mean, variance=variance)
    return partial(fastconv.group_norm, x, GROUPS, ones, ones), backward


def _response_norm(x, _):
    return partial(fastconv.local_response_norm, x, NEIGHBOURS), partial(
        fastconv.local_response_norm_backward, x, x, NEIGHBOURS
    )


def _relu(x, _):
    return partial(fastconv.relu, x), partial(fastconv.activate_backward, x, x, "relu")


#: Each makes two calls of an array x and of a one for each channel: forward and backward.
LAYERS = {
    "max pool": _max,
    "average pool": _average,
    "max unpool": _max_unpool,
    "batch norm": _batch_norm,
    "batch norm, inference": _batch_norm_inference,
    "group norm": _group_norm,
    "response norm": _response_norm,
    "relu": _relu,
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


class _Layer:
    params = (list(LAYERS), ["forward", "backward"], list(SHAPES), ORDERS)
    param_names = ("layer", "direction", "shape", "order")
    timeout = 300

    def setup(self, layer, direction, shape, order):
        self.call = layer_calls(layer, shape, order)[direction]


class TimeLayer(_Layer):
    """In seconds."""

    warmup_time = 0.05
    repeat = (5, 30, 1.0)

    def time_layer(self, layer, direction, shape, order):
        self.call()


class RatioLayer(_Layer):
    """The same in units of a frozen kernel timed in turns: the one to trust on a noisy machine."""

    unit = "frozen kernels"

    def track_ratio_layer(self, layer, direction, shape, order):
        return least_ratio(self.call, frozen_call())
