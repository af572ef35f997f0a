"""Locally connected layers: convolution without sharing of weights between positions."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.cpu import threads, workspace
from fastconv.features import Features, as_float, threads_for
from fastconv.kernels import local as kernels
from fastconv.spec import ConvSpec, IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["locally_connected", "locally_connected_backward", "locally_connected_shape"]


def locally_connected_shape(
    x_shape: Sequence[int],
    out_channels: int,
    kernel: Sequence[int],
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
) -> tuple[int, ...]:
    """Shape of the weight of `locally_connected` for inputs of shape `x_shape`.

    Parameters
    ----------
    x_shape : sequence of int
        (N, C, *spatial).
    out_channels : int
        OC.
    kernel : sequence of int
        One size for each spatial axis.
    stride, padding, dilation
        As for `conv2d`.

    Returns
    -------
    tuple of int
        (*output, OC, C, *kernel).

    Examples
    --------
    >>> import fastconv
    >>> fastconv.locally_connected_shape((1, 3, 32, 32), 10, (5, 5), padding=2)  # 1024 times a convolution's
    (32, 32, 10, 3, 5, 5)
    """
    x_shape = tuple(x_shape)
    spec = ConvSpec.make(x_shape, (out_channels, *x_shape[1:2], *kernel), stride=stride, padding=padding,
                         dilation=dilation)  # fmt: skip
    return (*spec.output, *spec.weight_shape)


class _Local:
    """One layer bound to its shapes."""

    def __init__(self, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, layout: str) -> None:
        self.x = f = Features("x", x, layout, least_axes=3)
        self.layout = layout
        ndim = len(f.shape) - 2
        spatial = f.shape[1:-1] if f.channels_axis != 1 else f.shape[2:]
        array = as_float("weight", weight)
        if array.ndim != 2 * ndim + 2:
            raise ValueError(
                f"weight must have {2 * ndim + 2} axes (*output, OC, C, *kernel) for x of shape {f.shape}, got shape "
                f"{array.shape}"
            )
        if array.dtype != f.result:
            raise TypeError(f"weight must have the dtype of x, {f.result}, got {array.dtype}")
        self.spec = spec = ConvSpec.make(
            (f.N, f.C, *spatial), array.shape[ndim:], stride=stride, padding=padding, dilation=dilation
        )
        if array.shape[:ndim] != spec.output:
            raise ValueError(
                f"weight must have filters for each of the {spec.output} outputs along its first axes, got shape "
                f"{array.shape}"
            )
        self.weight_shape = array.shape
        self.weight = arrays.ready(array, f.dtype).reshape(-1)
        self.positions, self.OC = prod(spec.output), spec.OC
        inner = (*spec.output, spec.OC) if f.channels_axis != 1 else (spec.OC, *spec.output)
        self.out_shape = (f.N, *inner)
        self.threads = threads_for(self.weight.size)

    def geometry(self, per_thread: int, block: int = 0) -> np.ndarray:
        f, spec = self.x, self.spec
        cells = prod(spec.input)
        steps = (
            (f.C * cells, 1, f.C, self.OC * self.positions, 1, self.OC)
            if f.channels_last
            else (f.C * cells, cells, 1, self.OC * self.positions, self.positions, 1)
        )
        sizes = (*spec.input3, *spec.output3, *spec.kernel3, *spec.stride3, *spec.dilation3)
        before = (lo for lo, _ in spec.padding3)
        return np.array([f.N, f.C, self.OC, *sizes, *before, *steps, per_thread, block], np.int64)

    def run(self, kernel: Any, tasks: int, operands: tuple[np.ndarray, ...], out: np.ndarray, block: int = 0) -> None:
        """Run a kernel with scratch for the patches of some images, or for one of `block` channels."""
        size = min(self.x.N, kernels.IMAGES) * self.spec.K if not block else block * prod(self.spec.kernel)
        per_thread = workspace.aligned(size, self.x.dtype.itemsize)
        with workspace.scratch(self.x.dtype.name, per_thread, self.threads) as scratch:
            threads.run(kernel, tasks, (self.geometry(per_thread, block), *operands, scratch, out), self.threads)

    def to_memory(self, name: str, value: Any) -> np.ndarray:
        """An array of the result's shape, flat in the memory order of x."""
        array = as_float(name, value)
        if array.shape != self.out_shape or array.dtype != self.x.result:
            raise ValueError(
                f"{name} must have shape {self.out_shape} and dtype {self.x.result}, got {array.shape} {array.dtype}"
            )
        return arrays.ready(array.transpose(self.x.form.to_memory), self.x.dtype).reshape(-1)


def locally_connected(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Locally connected layer ("unshared convolution"): every output position has filters of its own.

    Computes, with one axis shown::

        out[n, o, i] = bias[i, o] + sum over c, u of weight[i, o, c, u] * x[n, c, i*stride + u*dilation - padding]

    Parameters
    ----------
    x : array_like
        (N, C, *spatial) with one to three spatial axes; float16, float32 or float64.
    weight : array_like
        (*output, OC, C, *kernel), of the dtype of `x`; see `locally_connected_shape`.
    bias : array_like, optional
        (*output, OC).
    stride, padding, dilation, layout
        As for `conv2d`; padding is by zeros.

    Returns
    -------
    numpy.ndarray
        (N, OC, *output), in the memory order of `x`.

    References
    ----------
    Y. Taigman et al.: DeepFace, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float32([[[1, 2, 3]]])
    >>> fastconv.locally_connected(x, np.float32([1, 10]).reshape(2, 1, 1, 1) * np.ones((2, 1, 1, 2), np.float32))
    array([[[ 3., 50.]]], dtype=float32)
    """
    layer = _Local(x, weight, stride, padding, dilation, layout)
    f = layer.x
    flat = np.empty(0, f.dtype)
    if bias is not None:
        given = as_float("bias", bias)
        expected = (*layer.spec.output, layer.OC)
        if given.shape != expected or given.dtype != f.result:
            raise ValueError(
                f"bias must have shape {expected} and dtype {f.result}, got {given.shape} {given.dtype}"
            )  # fmt: skip
        flat = arrays.ready(given, f.dtype).reshape(-1)
    out = np.empty(prod(layer.out_shape), f.dtype)
    if f.N:
        layer.run(kernels.forward, layer.positions, (f.flat, layer.weight, flat), out)
    shape = tuple(layer.out_shape[axis] for axis in f.form.to_memory)
    return out.reshape(shape).transpose(f.form.from_memory).astype(f.result, copy=False)


def locally_connected_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `locally_connected`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result.
    x, weight, stride, padding, dilation, layout
        As given to `locally_connected`.

    Returns
    -------
    grad_x, grad_weight, grad_bias : numpy.ndarray
        Of the shapes of `x`, `weight` and `bias`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, weight = np.float32([[[1, 2, 3]]]), np.float32([1, 10, 1, 10]).reshape(2, 1, 1, 2)
    >>> grads = fastconv.locally_connected_backward(np.float32([[[1, 1]]]), x, weight)
    >>> grads[0].ravel().tolist(), grads[1].ravel().tolist()
    ([1.0, 11.0, 10.0], [1.0, 2.0, 2.0, 3.0])
    """
    layer = _Local(x, weight, stride, padding, dilation, layout)
    f = layer.x
    gradient = layer.to_memory("grad_output", grad_output)
    grad_x, grad_weight = np.zeros(f.flat.size, f.dtype), np.zeros(layer.weight.size, f.dtype)
    if f.N:
        layer.run(kernels.weight_gradient, layer.positions, (f.flat, gradient), grad_weight)
        block = max(1, min(f.C, 512 // prod(layer.spec.kernel)))
        tasks = -(-f.N // kernels.IMAGES) * -(-f.C // block)
        layer.run(kernels.input_gradient, tasks, (gradient, layer.weight), grad_x, block)
    per_image = np.moveaxis(as_float("grad_output", grad_output), f.channels_axis, -1)
    grad_bias = per_image.sum(0, dtype=np.float64).astype(f.result)
    grad_weight = grad_weight.reshape(layer.weight_shape).astype(f.result, copy=False)
    return f.wrap(grad_x), grad_weight, grad_bias
