"""Speed of pools, unpools and norms, forward and backward, in units of the frozen convolution."""

from functools import cache, partial

import numpy as np

import fastconv

from .common import aligned, frozen_call, least_ratio

# name: channels, height and width of the larger image, kernel, stride, padding
POOLS = {
    "vgg pool3 2x2/2 256 56x56": (256, 56, 2, 2, 0),
    "resnet 3x3/2 64 112x112": (64, 112, 3, 2, 1),
    "googlenet 3x3 480 14x14": (480, 14, 3, 1, 1),
    "global 7x7 2048": (2048, 7, 7, 7, 0),
}
KINDS = ["max", "avg", "lp", "unpool", "nearest", "bilinear", "batch norm", "group norm"]


@cache
def pool_call(kind, name, layout, direction):
    """A warm call; None where the combination makes no sense."""
    fastconv.set_num_threads(1)
    C, size, kernel, stride, padding = POOLS[name]
    random = np.random.default_rng(0)

    def array(*shape):
        values = random.random(shape, dtype=np.float32)
        if layout == "NCHW":
            return aligned(shape, values)
        n, c, h, w = shape
        return aligned((n, h, w, c), values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    x = array(1, C, size, size)
    windows = (kernel, stride, padding)
    pooled, indices = fastconv.max_pool2d(x, *windows, return_indices=True)
    g, forward = array(*pooled.shape), direction == "forward"
    if kind in ("unpool", "nearest", "bilinear") and (padding or kernel != stride or kernel == size):
        return None
    if kind == "max":
        if forward:
            call = partial(fastconv.max_pool2d, x, *windows)
        else:
            call = partial(fastconv.max_pool2d_backward, g, x, *windows, indices=indices)
    elif kind == "avg":
        if forward:
            call = partial(fastconv.avg_pool2d, x, *windows)
        else:
            call = partial(fastconv.avg_pool2d_backward, g, x.shape, *windows)
    elif kind == "lp":
        if forward:
            call = partial(fastconv.lp_pool2d, x, 2, kernel, stride, padding=padding)
        else:
            call = partial(fastconv.lp_pool2d_backward, g, x, 2, kernel, stride, padding=padding)
    elif kind == "unpool":
        if forward:
            call = partial(fastconv.max_unpool2d, g, indices, *windows)
        else:
            call = partial(fastconv.max_unpool2d_backward, x, indices)
    elif kind in ("nearest", "bilinear"):
        if forward:
            call = partial(fastconv.interpolate, g, scale_factor=kernel, mode=kind)
        else:
            call = partial(fastconv.interpolate_backward, x, g.shape, scale_factor=kernel, mode=kind)
    elif kind == "batch norm":
        if forward:
            call = partial(fastconv.batch_norm, x, training=True)
        else:
            call = partial(fastconv.batch_norm_backward, array(*x.shape), x)
    elif forward:
        call = partial(fastconv.group_norm, x, 32)
    else:
        call = partial(fastconv.group_norm_backward, array(*x.shape), x, 32)
    call()
    return call


class Pools:
    """Time of each operation divided by that of the frozen convolution, about a millisecond."""

    params = (KINDS, list(POOLS), ["NCHW", "NHWC"], ["forward", "backward"])
    param_names = ("kind", "layer", "layout", "direction")
    timeout = 120
    unit = "frozen convolutions"

    def setup(self, *which):
        if pool_call(*which) is None:
            raise NotImplementedError("no such unpool")  # asv skips the combination

    def track_ratio_pool(self, *which):
        return least_ratio(pool_call(*which), frozen_call(), budget=(0.2, 2.0))
