"""What the benchmark of pools, unpools and norms calls: ours, and PyTorch's on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastconv

if TYPE_CHECKING:
    from fastconv.bench.pools import PoolLayer

Call = Callable[[], Any]

GROUPS, NEIGHBOURS = 32, 5  # of a group norm; of a local response norm (AlexNet)


def _pooled_indices(layer: PoolLayer, x: np.ndarray) -> np.ndarray:
    """Places for an unpool: those of the maxima of random images."""
    image = np.random.default_rng(1).standard_normal(layer.spec.x_shape, np.float32)
    indices = getattr(fastconv, f"max_pool{layer.ndim}d")(image, *layer.windows, return_indices=True)[1]
    return indices if x.flags.c_contiguous else _like(indices, x)


def _like(array: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same values in the memory order of x."""
    result = np.empty_like(x, dtype=array.dtype)
    result[...] = array
    return result


def _scale(layer: PoolLayer) -> dict[str, Any]:
    return {"scale_factor": tuple(map(float, layer.kernel)), "mode": layer.kind}


def our_call(layer: PoolLayer, direction: str, x: np.ndarray, grad: np.ndarray) -> Call:
    """The call of ours to time."""
    ones, n = np.ones(layer.c, x.dtype), layer.ndim
    forward = direction == "forward"
    if layer.kind == "unpool":
        indices = _pooled_indices(layer, x)
        if forward:
            return partial(getattr(fastconv, f"max_unpool{n}d"), x, indices, *layer.windows)
        return partial(getattr(fastconv, f"max_unpool{n}d_backward"), grad, indices)
    if layer.kind in ("nearest", "bilinear"):
        if forward:
            return partial(fastconv.interpolate, x, **_scale(layer))
        return partial(fastconv.interpolate_backward, grad, x.shape, **_scale(layer))
    if layer.kind == "batch":
        if forward:
            return partial(fastconv.batch_norm, x, weight=ones, bias=ones, training=True)
        _, mean, variance = fastconv.batch_norm(x, weight=ones, bias=ones, training=True, return_stats=True)
        return partial(fastconv.batch_norm_backward, grad, x, ones, mean=mean, variance=variance)
    if layer.kind == "group":
        if forward:
            return partial(fastconv.group_norm, x, GROUPS, ones, ones)
        _, mean, variance = fastconv.group_norm(x, GROUPS, ones, ones, return_stats=True)
        return partial(fastconv.group_norm_backward, grad, x, GROUPS, ones, mean=mean, variance=variance)
    if layer.kind == "response":
        if forward:
            return partial(fastconv.local_response_norm, x, NEIGHBOURS)
        return partial(fastconv.local_response_norm_backward, grad, x, NEIGHBOURS)
    pool = getattr(fastconv, f"{layer.kind}_pool{n}d")
    backward = getattr(fastconv, f"{layer.kind}_pool{n}d_backward")
    if forward:
        return partial(pool, x, *layer.windows, ceil_mode=layer.ceil)
    if layer.kind == "avg":
        return partial(backward, grad, x.shape, *layer.windows, ceil_mode=layer.ceil)
    indices = pool(x, *layer.windows, ceil_mode=layer.ceil, return_indices=True)[1]
    return partial(backward, grad, x, *layer.windows, ceil_mode=layer.ceil, indices=indices)


def torch_call(torch: Any, layer: PoolLayer, direction: str, x: np.ndarray, grad: np.ndarray) -> Call:
    """PyTorch's: its operators without autograd, but for what only autograd offers."""
    aten, functional, n = torch.ops.aten, torch.nn.functional, layer.ndim
    data, flow, ones = torch.from_numpy(x), torch.from_numpy(grad), torch.ones(layer.c)
    forward, sizes = direction == "forward", (list(grad.shape[2:]), list(x.shape))
    if layer.kind == "unpool":
        places = torch.from_numpy(_pooled_indices(layer, x))
        unpool = partial(getattr(functional, f"max_unpool{n}d"), indices=places, kernel_size=layer.kernel,
                         stride=layer.stride, padding=layer.padding)  # fmt: skip
        return partial(unpool, data) if forward else _by_autograd(torch, unpool, data, flow)
    if layer.kind in ("nearest", "bilinear"):
        if forward:
            return partial(functional.interpolate, data, **_scale(layer))
        if layer.kind == "nearest":
            return partial(aten.upsample_nearest2d_backward, flow, *sizes)
        return partial(aten.upsample_bilinear2d_backward, flow, *sizes, False)
    if layer.kind == "batch":
        if forward:
            return partial(functional.batch_norm, data, None, None, ones, ones, True)
        _, mean, inverse = aten.native_batch_norm(data, ones, ones, None, None, True, 0.1, 1e-5)
        every = [True, True, True]
        norm = aten.native_batch_norm_backward
        return partial(norm, flow, data, ones, None, None, mean, inverse, True, 1e-5, every)
    if layer.kind == "group":
        if forward:
            return partial(functional.group_norm, data, GROUPS, ones, ones)
        groups = (x.shape[0], layer.c, x[0, 0].size, GROUPS)
        _, mean, inverse = aten.native_group_norm(data, ones, ones, *groups, 1e-5)
        return partial(aten.native_group_norm_backward, flow, data, mean, inverse, ones, *groups, [True, True, True])
    if layer.kind == "response":
        norm = partial(functional.local_response_norm, size=NEIGHBOURS)
        return partial(norm, data) if forward else _by_autograd(torch, norm, data, flow)
    pool = getattr(functional, f"{layer.kind}_pool{n}d")
    if forward:
        return partial(pool, data, *layer.windows, ceil_mode=layer.ceil)
    if layer.kind == "avg":
        average = getattr(aten, f"avg_pool{n}d_backward")
        return partial(average, flow, data, *layer.windows, layer.ceil, True, None)
    found = pool(data, *layer.windows, ceil_mode=layer.ceil, return_indices=True)
    maximum = getattr(aten, f"max_pool{n}d_with_indices_backward")
    return partial(maximum, flow, data, *layer.windows, (1,) * n, layer.ceil, found[1])


def _by_autograd(torch: Any, function: Callable[[Any], Any], data: Any, flow: Any) -> Call:
    with torch.enable_grad():
        data = data.requires_grad_()
        y = function(data)

    def call() -> Any:
        with torch.inference_mode(False):
            return torch.autograd.grad(y, data, flow, retain_graph=True)

    return call


def first_array(result: Any) -> np.ndarray:
    """What is compared of a result: the array, or the first of several."""
    return np.asarray(result[0] if isinstance(result, (tuple, list)) else result)
