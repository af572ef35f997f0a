"""Layers, memoised calls and the frozen reference kernel that speeds are compared with.

Nothing here runs when it is imported: asv imports the benchmarks in processes that must stay cheap.
"""

import time
from functools import cache, partial
from statistics import median

import numpy as np
from numba import njit

import fastconv

ALGORITHMS = ["direct", "im2col", "depthwise", "fft"]

# name: shape of x, shape of the weight, options. Each takes 0.1 to 20 ms.
LAYERS = {
    "rgb 7x7/2 224": ((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "3x3 64 56x56": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "3x3 256 14x14": ((1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    "3x3 512 7x7": ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    "3x3/2 128 56x56": ((1, 128, 56, 56), (128, 128, 3, 3), {"stride": 2, "padding": 1}),
    "3x3 dilation 4 64 33x33": ((1, 64, 33, 33), (64, 64, 3, 3), {"dilation": 4, "padding": 4}),
    "3x3 groups 32 128 28x28": ((1, 128, 28, 28), (128, 4, 3, 3), {"groups": 32, "padding": 1}),
    "1x1 64->256 56x56": ((1, 64, 56, 56), (256, 64, 1, 1), {}),
    "depthwise 3x3 96 56x56": ((1, 96, 56, 56), (96, 1, 3, 3), {"groups": 96, "padding": 1}),
    "depthwise 7x7 96 56x56": ((1, 96, 56, 56), (96, 1, 7, 7), {"groups": 96, "padding": 3}),
    "9x9 32 64x64": ((1, 32, 64, 64), (32, 32, 9, 9), {"padding": 4}),
    "image 31x31 512x512": ((1, 1, 512, 512), (1, 1, 31, 31), {"padding": 15}),
    "signal 101 16x4096": ((1, 16, 4096), (16, 16, 101), {"padding": 50}),
    "volume 3x3x3 16 8x28x28": ((1, 16, 8, 28, 28), (16, 16, 3, 3, 3), {"padding": 1}),
}


@cache
def layer_call(algorithm, layer, threads=1):
    """A warm call of a prepared layer; None where the algorithm refuses the layer or is not known to this commit."""
    x_shape, weight_shape, options = LAYERS[layer]
    random = np.random.default_rng(0)
    x, weight = (2 * random.random(shape, dtype=np.float32) - 1 for shape in (x_shape, weight_shape))
    fastconv.set_num_threads(threads)
    try:
        call = partial(fastconv.prepare(weight, algorithm=algorithm, **options), x)
        call()
    except ValueError:
        return None
    call()
    return call


def require(algorithm, layer):
    """For `setup`, which asv repeats before every timed call: everything but the first time is a look-up."""
    call = layer_call(algorithm, layer)
    if call is None:
        raise NotImplementedError(f"{algorithm} does not take {layer}")  # asv skips the combination
    return call


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def frozen_convolution(x, weight, out):
    """FROZEN. The yardstick of all ratios: change it, and all earlier results lose their meaning."""
    channels, height, width = x.shape
    filters, _, rows, columns = weight.shape
    for f in range(filters):
        for i in range(height - rows + 1):
            line = out[f, i]
            line[:] = 0
            for c in range(channels):
                for r in range(rows):
                    for s in range(columns):
                        w = weight[f, c, r, s]
                        for j in range(width - columns + 1):
                            line[j] += w * x[c, i + r, s + j]


@cache
def frozen_call():
    """About a millisecond of the frozen convolution, warm."""
    x = np.full((32, 34, 34), 0.5, np.float32)
    weight = np.full((32, 32, 3, 3), 0.25, np.float32)
    call = partial(frozen_convolution, x, weight, np.empty((32, 32, 32), np.float32))
    call()
    return call


def seconds(call, loops):
    begin = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - begin) / loops


def paired_ratio(call, other, sample=2e-3, budget=1.0, pairs=25):
    """Median over pairs of (time of call / time of other), one right after the other: what slows both cancels."""
    loops = [max(1, round(sample / min(seconds(c, 1) for _ in range(3)))) for c in (call, other)]
    ratios = []
    end = time.perf_counter() + budget
    while len(ratios) < pairs or time.perf_counter() < end:
        before = seconds(other, loops[1])
        ours = seconds(call, loops[0])
        after = seconds(other, loops[1])
        ratios.append(2 * ours / (before + after))
    return median(ratios)
