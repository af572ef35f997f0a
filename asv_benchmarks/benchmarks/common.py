"""Layers, memoised calls and the frozen reference kernel that speeds are compared with.

Nothing here runs when it is imported: asv imports the benchmarks in processes that must stay cheap.
"""

import csv
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
from numba import njit

import fastconv

PAGE = 4096

ALGORITHMS = ["direct", "im2col", "depthwise", "fft", "winograd", "winograd_fast"]

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


def aligned(shape, values=None):
    """A float32 array that starts on a page: where an array lies may cost 20 %, and must not change by chance."""
    size = 4 * int(np.prod(shape))
    raw = np.empty(size + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    array = raw[start : start + size].view(np.float32).reshape(shape)
    array[...] = 0 if values is None else values
    return array


def prepared_call(x_shape, weight_shape, options, algorithm, threads=1):
    """A warm call of a prepared layer that writes into the same output each time."""
    fastconv.set_num_threads(threads)
    random = np.random.default_rng(0)
    x, weight = (aligned(shape, 2 * random.random(shape, dtype=np.float32) - 1) for shape in (x_shape, weight_shape))
    accuracy = "default" if algorithm == "auto" else "fast"  # asked for by name, none is too loose
    layer = fastconv.prepare(weight, algorithm=algorithm, accuracy=accuracy, **options)
    call = partial(layer, x, out=aligned(layer(x).shape))
    call()
    return call


@cache
def layer_call(algorithm, layer, threads=1):
    """A warm call of a prepared layer; None where the algorithm refuses the layer or is not known to this commit."""
    try:
        return prepared_call(*LAYERS[layer], algorithm, threads)
    except ValueError:
        return None


def require(algorithm, layer):
    """For `setup`, which asv repeats before every timed call: everything but the first time is a look-up."""
    call = layer_call(algorithm, layer)
    if call is None:
        raise NotImplementedError(f"{algorithm} does not take {layer}")  # asv skips the combination
    return call


@cache
def table():
    """The benchmark's own layers, by suite/name: the file beside this folder, whatever commit is installed."""
    file = Path(__file__).parents[2] / "fastconv" / "bench" / "shapes" / "speed.csv"
    with open(file, newline="", encoding="utf-8") as lines:
        return {f"{row['suite']}/{row['name']}": row for row in csv.DictReader(lines)}


def table_layer(name):
    """Shape of x, shape of the weight, options."""
    row = table()[name]
    sizes = {key: tuple(map(int, row[key].split("x"))) for key in list(row)[2:]}
    (groups,) = sizes["groups"]
    options = {key: sizes[key] for key in ("stride", "padding", "dilation")} | {"groups": groups}
    weight_shape = (*sizes["oc"], sizes["c"][0] // groups, *sizes["kernel"])
    return (*sizes["n"], *sizes["c"], *sizes["spatial"]), weight_shape, options


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
    x, weight = aligned((32, 34, 34), 0.5), aligned((32, 32, 3, 3), 0.25)
    call = partial(frozen_convolution, x, weight, aligned((32, 32, 32)))
    call()
    return call


def seconds(call, loops):
    begin = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - begin) / loops


def least_ratio(call, other, sample=3e-4, budget=(1.0, 12.0), close=0.01, enough=5):
    """(least time of call) / (least time of other), measured in turns.

    Neighbours only ever add time, so the least of many samples is the machine's own time, once it has been met often:
    measuring goes on, within the budget in seconds, until `enough` samples of each lie within `close` of its least.
    """
    calls, times = (call, other), ([], [])
    loops = [max(1, round(sample / min(seconds(c, 1) for _ in range(5)))) for c in calls]
    begin = time.perf_counter()
    while True:
        for c, n, taken in zip(calls, loops, times, strict=True):
            taken.append(seconds(c, n))
        passed = time.perf_counter() - begin
        settled = all(sum(t <= min(taken) * (1 + close) for t in taken) >= enough for taken in times)
        if passed > budget[1] or (passed > budget[0] and settled):
            return min(times[0]) / min(times[1])
