"""Calls of every operation over small shapes with tails, for a process of its own: ``bounds_calls.py GUARD FAMILY``.

GUARD says what stands beside arrays. "numba" leaves that to numba's bounds checks. With "pages" every array that
fastconv is given or makes with np.empty and np.zeros, scratch memory too, ends at a page that may not be touched, and
once more begins at one: an element too far ends the process with SIGSEGV, wherever the access comes from.

Prints the names of the functions it called.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import numpy.ma  # numba imports it late, and it wants NumPy's own functions

import fastconv
from fastconv.cpu import workspace
from fastconv.plan import candidates

AT_END = True
PAGE = mmap.PAGESIZE
called: set[str] = set()
_empty, _libc = np.empty, ctypes.CDLL(None)


def guarded(nbytes: int, step: int) -> np.ndarray:
    """Bytes between two pages that may not be touched, at the side of one of them as far as a multiple of step goes."""
    pages = -(-nbytes // PAGE) * PAGE
    whole = np.frombuffer(mmap.mmap(-1, pages + 2 * PAGE), np.uint8)
    for page in (0, PAGE + pages):
        if _libc.mprotect(ctypes.c_void_p(whole.ctypes.data + page), ctypes.c_size_t(PAGE), 0):
            raise OSError("mprotect failed")
    start = PAGE + (pages - -(-nbytes // step) * step if AT_END else 0)
    return whole[start : start + nbytes]


def fenced(shape: Any, dtype: Any = float, order: str = "C", **_: Any) -> np.ndarray:
    """What np.empty gives, guarded."""
    kind, sizes = np.dtype(dtype), tuple(np.atleast_1d(shape).tolist()) if np.ndim(shape) else (int(shape),)
    nbytes = prod(sizes) * kind.itemsize
    if nbytes == 0 or kind.hasobject or order != "C":
        return _empty(shape, dtype, order)
    result = guarded(nbytes, kind.itemsize).view(kind).reshape(sizes)
    result.view(np.uint8).fill(0xFF)  # NaN, or -1: not zeros by chance
    return result


def fence() -> None:
    """Guard what is allocated from now on."""

    def zeros(*args: Any, **options: Any) -> np.ndarray:
        result = fenced(*args, **options)
        result.fill(0)
        return result

    np.empty, np.zeros = fenced, zeros
    workspace._allocate = lambda size: guarded(size, workspace.ALIGNMENT) if size else _empty(0, np.uint8)


random = np.random.default_rng(0)


def array(*shape: int, dtype: str = "float32") -> np.ndarray:
    result = np.empty(shape, dtype)
    result[...] = random.standard_normal(shape)
    return result


def last(x: np.ndarray) -> np.ndarray:
    """The same with channels last in memory."""
    result = np.empty((x.shape[0], *x.shape[2:], x.shape[1]), x.dtype)
    result[...] = np.moveaxis(x, 1, -1)
    return np.moveaxis(result, -1, 1)


def call(name: str, *args: Any, **options: Any) -> Any:
    """fastconv.NAME or fastconv.grad.NAME, with scratch memory of exactly its own size."""
    called.add(name)
    workspace.release()
    return getattr(fastconv if hasattr(fastconv, name) else fastconv.grad, name)(*args, **options)


def refusable(name: str, *args: Any, **options: Any) -> None:
    """A call with an algorithm that may refuse the problem."""
    try:
        call(name, *args, **options)
    except ValueError as error:
        if "algorithm" not in str(error):
            raise


# ---- convolutions ---------------------------------------------------------------------------------------------------

#: x, weight, options
CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 5, 13, 11), (7, 5, 3, 3), {"padding": 1}),
    ((1, 6, 9, 21), (18, 3, 3, 2), {"padding": (1, 0), "stride": (2, 1), "groups": 2}),
    ((1, 17, 7, 6), (19, 17, 1, 1), {}),
    ((1, 3, 9, 103), (9, 3, 3, 3), {"padding": 1}),  # direct, sums straight to rows of the output
    ((1, 15, 11, 40), (5, 15, 3, 3), {"stride": (1, 2)}),
    ((1, 8, 13, 190), (8, 8, 3, 3), {"padding": (1, 2)}),  # Winograd, lanes are tiles
    ((1, 3, 21, 37), (5, 3, 5, 5), {"padding": 2, "padding_mode": "reflect", "dilation": (1, 2)}),
    ((1, 2, 40, 50), (3, 2, 11, 9), {}),
    ((2, 18, 9, 10), (18, 1, 3, 3), {"padding": 1, "groups": 18}),
    ((1, 18, 9, 19), (18, 1, 5, 5), {"stride": 2, "padding": 2, "groups": 18}),
    ((1, 4, 6, 7), (5, 4, 3, 3), {"padding": 6, "dilation": 6}),
    ((2, 200, 4, 5), (70, 200, 1, 1), {}),
    ((1, 67, 5, 7), (18, 67, 3, 3), {"padding": 1}),
    ((3, 512, 1, 1), (7, 512, 1, 1), {}),
]


def convolutions() -> None:
    for x_shape, w_shape, options in CONVOLUTIONS:
        w, bias = array(*w_shape), array(w_shape[0])
        for x in (array(*x_shape), last(array(*x_shape))):
            for algorithm in ("auto", *candidates.names("forward")):
                refusable("conv2d", x, w, bias, **options, algorithm=algorithm, activation="relu", accuracy="fast")
            y = fastconv.conv2d(x, w, **options)
            fastconv.prepare(w, bias, **options)(x)
            call("conv2d", x, w, **options, residual=y, activation="silu")
            call("conv2d", x, w, **options, residual=y, algorithm="direct")
    for x in (array(2, 3, 19), last(array(2, 3, 19))):
        call("conv1d", x, array(4, 3, 3), stride=2)
        call("conv_transpose1d", x, array(3, 4, 3), stride=2)
    for x in (array(1, 3, 5, 6, 7), last(array(1, 3, 5, 6, 7))):
        call("conv3d", x, array(4, 3, 2, 3, 3), padding=1)
        call("conv_transpose3d", x, array(3, 2, 2, 3, 2), stride=(1, 2, 3))
    for name, size, weights in (
        ("depthwise_separable_conv1d", (9,), (array(4, 1, 3), array(6, 4, 1))),
        ("depthwise_separable_conv2d", (9, 8), (array(4, 1, 3, 3), array(6, 4, 1, 1))),
        ("depthwise_separable_conv3d", (5, 4, 6), (array(4, 1, 3, 2, 3), array(6, 4, 1, 1, 1))),
        ("separable_conv2d", (9, 8), fastconv.separate(np.ones((6, 4, 3, 3), np.float32))),
        ("separable_conv3d", (5, 4, 6), fastconv.separate3d(np.ones((6, 4, 3, 2, 3), np.float32))),
        ("flattened_conv2d", (9, 8), fastconv.flatten_kernel(np.ones((5, 4, 3, 3), np.float32))),
    ):
        x = array(1, 4, *size)
        call(f"{name}_backward", call(name, x, *weights), x, *weights)
    x = array(1, 4, 9, 8)
    shape = fastconv.locally_connected_shape(x.shape, 5, (3, 3))
    for given in (x, last(x)):
        y = call("locally_connected", given, array(*shape))
        call("locally_connected_backward", y, given, array(*shape))


def gradients() -> None:
    for x_shape, w_shape, options in CONVOLUTIONS:
        w = array(*w_shape)
        for order in (np.asarray, last):
            x = order(array(*x_shape))
            g = order(array(*fastconv.conv2d(x, w, **options).shape))
            for algorithm in ("auto", *candidates.names("weight")):
                refusable("conv2d_weight", x, w.shape, g, **options, algorithm=algorithm)
            for algorithm in ("auto", *candidates.names("input")):
                refusable("conv2d_input", x.shape, w, g, **options, algorithm=algorithm)
            call("conv2d_backward", x, w, g, **options)
            call("conv_bias", g)
            if "padding_mode" not in options:
                t = {k: v for k, v in options.items() if k != "groups"}
                call("conv_transpose2d", g, w, groups=options.get("groups", 1), **t)


# ---- pools and unpools ----------------------------------------------------------------------------------------------

SHAPES = ((2, 5, 9, 7), (1, 18, 1, 40), (1, 33, 13, 6))
WINDOWS = (
    (2, 2, 1, 1, True), ((1, 3), (1, 2), (0, 1), 1, False), ((1, 2), 3, 0, (1, 3), True), ((1, 4), 1, (0, 9), 1, False),
)  # fmt: skip


def pools() -> None:
    for shape in SHAPES:
        for order in (np.asarray, last):
            x = order(array(*shape))
            for k, s, p, d, c in WINDOWS:
                maxima, indices = call("max_pool2d", x, k, s, p, d, c, True)
                call("max_pool2d", x, k, s, p, d, c)
                call("max_pool2d_backward", maxima, x, k, s, p, d, c, order(indices))
                for include in (True, False):
                    means = call("avg_pool2d", x, k, s, p, c, include, dilation=d)
                    call("avg_pool2d_backward", means, x.shape, k, s, p, c, include, dilation=d)
                for q in (2, 3):
                    norms = call("lp_pool2d", x, q, k, s, c, padding=p, dilation=d)
                    call("lp_pool2d_backward", norms, x, q, k, s, c, padding=p, dilation=d)
            for size in (1, (1, 4), (1, 5), (4, 9)):
                maxima, indices = call("adaptive_max_pool2d", x, size, True)
                call("adaptive_max_pool2d", x, size)
                call("adaptive_max_pool2d_backward", maxima, x, order(indices))
                call("adaptive_avg_pool2d_backward", call("adaptive_avg_pool2d", x, size), x.shape)
            call("global_avg_pool_backward", call("global_avg_pool", x), x.shape)
            call("global_max_pool_backward", call("global_max_pool", x), x)
            call("mixed_pool2d_backward", call("mixed_pool2d", x, (1, 2)), x, (1, 2))
            values, indices = call("fractional_max_pool2d", x, 1, (1, 3), return_indices=True, rng=0)
            call("fractional_max_pool2d_backward", values, x.shape, indices)
            values, indices = call("stochastic_pool2d", abs(x), (1, 2), padding=(0, 1), return_indices=True, rng=0)
            call("stochastic_pool2d_backward", values, x.shape, indices)
            call("stochastic_pool2d", abs(x), (1, 2), training=False)
            for mode in ("max", "avg"):
                call(
                    "spatial_pyramid_pool2d_backward", call("spatial_pyramid_pool2d", x, (1, 3), mode), x, (1, 3), mode
                )
            call("spectral_pool2d_backward", call("spectral_pool2d", x, (1, 5)), x.shape)
            for k in (None, 2):
                call("lp_pool_channels_backward", call("lp_pool_channels", x, 2, k), x, 2, k)
    for ndim, shape in ((1, (2, 17, 19)), (3, (1, 17, 5, 6, 7))):
        for order in (np.asarray, last):
            x = order(array(*shape))
            maxima, indices = call(f"max_pool{ndim}d", x, 3, 2, 1, return_indices=True)
            call(f"max_pool{ndim}d_backward", maxima, x, 3, 2, 1, indices=order(indices))
            call(f"avg_pool{ndim}d_backward", call(f"avg_pool{ndim}d", x, 3, 2, 1), shape, 3, 2, 1)
            call(f"lp_pool{ndim}d_backward", call(f"lp_pool{ndim}d", x, 2, 3), x, 2, 3)
            maxima, indices = call(f"adaptive_max_pool{ndim}d", x, 4, True)
            call(f"adaptive_max_pool{ndim}d_backward", maxima, x, order(indices))
            call(f"adaptive_avg_pool{ndim}d_backward", call(f"adaptive_avg_pool{ndim}d", x, 4), shape)
            call(f"mixed_pool{ndim}d_backward", call(f"mixed_pool{ndim}d", x, 2), x, 2)
            values, indices = call(f"stochastic_pool{ndim}d", abs(x), 2, return_indices=True, rng=0)
            call(f"stochastic_pool{ndim}d_backward", values, shape, indices)
            pyramid = call(f"spatial_pyramid_pool{ndim}d", x, (1, 2))
            call(f"spatial_pyramid_pool{ndim}d_backward", pyramid, x, (1, 2))
            call(f"spectral_pool{ndim}d_backward", call(f"spectral_pool{ndim}d", x, 4), shape)
            values, indices = call(f"fractional_max_pool{ndim}d", x, 2, 3, return_indices=True, rng=0)
            call(f"fractional_max_pool{ndim}d_backward", values, shape, indices)


def unpools() -> None:
    for ndim, shape in ((1, (2, 17, 19)), (2, (2, 5, 9, 7)), (2, (1, 33, 3, 18)), (3, (1, 17, 5, 6, 7))):
        for order in (np.asarray, last):
            x = order(array(*shape))
            for name in ("nearest_unpool", "bed_of_nails_unpool"):
                call(f"{name}{ndim}d_backward", call(f"{name}{ndim}d", x, 2), 2)
            call(f"avg_unpool{ndim}d_backward", call(f"avg_unpool{ndim}d", x, 3, 2, 1), 3, 2, 1)
            indices = np.zeros(x.shape, np.int64)
            indices[...] = np.arange(prod(shape[2:])).reshape(shape[2:])
            indices = order(indices)
            y = call(f"max_unpool{ndim}d", x, indices, 2)
            call(f"max_unpool{ndim}d_backward", y, indices)
            maxima, indices = call(f"max_pool{ndim}d", y, 2, return_indices=True)
            call(f"max_unpool{ndim}d", maxima, indices, 2)
            call(f"max_unpool{ndim}d_backward", y, indices)
            for mode in ("nearest", "nearest-exact", "area", ("linear", "bilinear", "trilinear")[ndim - 1]):
                big = call("interpolate", x, (7, 11, 5)[:ndim], mode=mode)
                call("interpolate_backward", big, shape, (7, 11, 5)[:ndim], mode=mode)
            if ndim == 2:
                big = call("interpolate", x, (7, 40), mode="bicubic", align_corners=True)
                call("interpolate_backward", big, shape, (7, 40), mode="bicubic", align_corners=True)
    columns = call("unfold", array(2, 3, 7, 9), (2, 3), 1, 1, 2)
    call("fold", columns, (7, 9), (2, 3), 1, 1, 2)


# ---- layers ---------------------------------------------------------------------------------------------------------


def layers() -> None:
    for shape in ((2, 6, 9, 7), (3, 18, 19), (5, 34)):
        for order in (np.asarray, last):
            x, C = order(array(*shape)), shape[1]
            weight, bias = array(C), array(C)
            mean, variance = np.zeros(C, np.float32), np.zeros(C, np.float32)
            variance += 1
            y = call("batch_norm", x, mean, variance, weight, bias, training=True)
            call("batch_norm", x, mean, variance, weight, bias)
            call("batch_norm_backward", y, x, weight)
            call("group_norm_backward", call("group_norm", x, 2, weight, bias), x, 2, weight)
            if len(shape) > 2:
                call("instance_norm_backward", call("instance_norm", x), x)
                call("local_response_norm_backward", call("local_response_norm", x, 5), x, 5)
            inner = shape[1:]
            y = call("layer_norm", x, inner, array(*inner), array(*inner))
            call("layer_norm_backward", y, x, inner, array(*inner))
            for axis in (1, -1):
                for name in ("softmax", "log_softmax"):
                    y = call(name, x, axis)
                    call(f"{name}_backward", x, y, axis)
            for name in ("relu", "sigmoid", "tanh"):
                call(name, x)
            for name in ("relu6", "leaky_relu", "silu", "hardswish"):
                call("activate_backward", call("activate", x, name), x, name)
            call("dropout_backward", call("dropout", x, seed=1), seed=1)
            call("dropout", x, seed=1, channels=True)
    x, target = array(7, 19), np.arange(7)
    call("cross_entropy", x, target)
    call("cross_entropy_backward", x, target)
    call("linear_backward", call("linear", x, array(21, 19), array(21)), x, array(21, 19))


def overrun() -> None:
    """One element too many: what the guards must find."""
    from bounds_canary import copy_too_much

    copy_too_much(array(21), array(20), np.array([20 if np.empty is _empty else 21]))


FAMILIES: dict[str, Callable[[], None]] = {
    f.__name__: f for f in (convolutions, gradients, pools, unpools, layers, overrun)
}

if __name__ == "__main__":
    guard, family = sys.argv[1:]
    fastconv.set_num_threads(1)
    if guard == "pages":
        fence()
        FAMILIES[family]()
        AT_END = False
    FAMILIES[family]()
    print(*sorted(called))
