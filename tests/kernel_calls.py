"""Calls of many kinds, run by `test_specialisations` in a process with an empty cache: ``kernel_calls.py DTYPE...``.

Prints how often each kernel was compiled, as JSON. What a caller may vary without a new specialisation: sizes, number
of axes, stride, padding, dilation, groups, memory order, activation, residual, bias, threads, who prepares the weights.
"""

import json
import sys
from collections import Counter

import numpy as np

import fastconv
from fastconv import grad
from fastconv.cpu.jit import cache_folder
from fastconv.plan import candidates

# (x, weight, options), each for those algorithms that take it.
PROBLEMS = [
    ((1, 3, 12, 13), (5, 3, 3, 3), {"padding": 1}),
    ((2, 16, 9, 30), (33, 16, 3, 3), {"padding": (0, 1), "activation": "relu"}),
    ((1, 8, 40, 200), (8, 8, 3, 3), {}),
    ((2, 8, 20, 21), (8, 1, 3, 3), {"groups": 8, "padding": 1}),
    ((1, 8, 20, 21), (16, 1, 5, 5), {"groups": 8, "stride": 2, "padding": 2}),
    ((1, 4, 15, 15), (6, 2, 3, 3), {"groups": 2, "stride": (2, 1), "dilation": 2, "padding": 2}),
    ((1, 8, 9, 9), (8, 8, 3, 3), {"dilation": 6, "padding": 6}),
    ((1, 17, 14, 14), (20, 17, 1, 1), {"activation": "sigmoid"}),
    ((1, 2, 40, 40), (3, 2, 13, 13), {"padding": 6, "padding_mode": "reflect"}),
    ((1, 1, 64, 64), (1, 1, 21, 21), {"padding": 10, "flip": True}),
    ((2, 4, 100), (6, 4, 5), {"stride": 1, "padding": "same"}),
    ((1, 1, 500), (1, 1, 65), {}),
    ((1, 3, 6, 7, 8), (4, 3, 3, 3, 3), {"padding": 1}),
]


def data(x_shape, weight_shape, dtype, last):
    x, weight = (np.ones(shape, dtype) for shape in (x_shape, weight_shape))
    if last:
        axes = (0, *range(2, x.ndim), 1)
        x = np.ascontiguousarray(x.transpose(axes)).transpose(0, x.ndim - 1, *range(1, x.ndim - 1))
    return x, weight


def convolve(dtype):
    """Every algorithm that takes a problem, functional and prepared, in both memory orders."""
    for x_shape, weight_shape, options in PROBLEMS:
        conv = getattr(fastconv, f"conv{len(x_shape) - 2}d")
        for last in (False, True):
            x, weight = data(x_shape, weight_shape, dtype, last)
            bias = np.ones(len(weight), dtype)
            for algorithm in candidates.names():
                chosen = options | {"algorithm": algorithm, "accuracy": "fast"}
                try:
                    out = conv(x, weight, bias, **chosen)
                except ValueError:
                    continue
                fastconv.prepare(weight, **chosen)(x, residual=out)


def differentiate(dtype):
    """Gradients, by every algorithm too."""
    for x_shape, weight_shape, options in PROBLEMS:
        options = {name: value for name, value in options.items() if name not in ("activation", "padding_mode")}
        ndim = len(x_shape) - 2
        for last in (False, True):
            x, weight = data(x_shape, weight_shape, dtype, last)
            g = getattr(fastconv, f"conv{ndim}d")(x, weight, **options)
            for direction, arguments in (("input", (x_shape, weight, g)), ("weight", (x, weight_shape, g))):
                for algorithm in candidates.names(direction):
                    try:
                        getattr(grad, f"conv{ndim}d_{direction}")(*arguments, algorithm=algorithm, **options)
                    except ValueError:
                        continue


def compiled():
    """Number of cached specialisations by kernel."""
    names = (path.name.split("-")[0] for path in (cache_folder() / "kernels").glob("*.nbc"))
    return Counter(names)


if __name__ == "__main__":
    for threads in (1, fastconv.get_num_threads()):
        fastconv.set_num_threads(threads)
        for dtype in sys.argv[1:]:
            convolve(dtype)
            differentiate(dtype)
    print(json.dumps(compiled()))
