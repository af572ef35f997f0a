"""Layer normalisation: rows of an array, each by itself."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.cpu import threads
from fastconv.features import as_float, number, threads_for, vector
from fastconv.kernels import norm as kernels
from fastconv.norm import Gradients, given_statistics
from fastconv.spec import shape_tuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["layer_norm", "layer_norm_backward"]


class _Rows:
    """An array as rows of its trailing axes, which have `normalized_shape`."""

    def __init__(self, x: Any, normalized_shape: Any) -> None:
        array = as_float("x", x)
        if isinstance(normalized_shape, (int, np.integer)):
            normalized_shape = (normalized_shape,)
        self.inner = shape_tuple("normalized_shape", normalized_shape)
        kept = array.ndim - len(self.inner)
        if not self.inner or kept < 0 or array.shape[kept:] != self.inner or 0 in self.inner:
            raise ValueError(
                f"normalized_shape must be the trailing axes of x, none of them empty: got {self.inner} for x of "
                f"shape {array.shape}"
            )
        self.name, self.shape, self.result, self.outer = "x", array.shape, array.dtype, array.shape[:kept]
        self.dtype = np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
        self.flat = arrays.ready(array, self.dtype).reshape(-1)
        self.rows, self.M = prod(self.outer), prod(self.inner)
        self.block = max(1, 4 * kernels.CHUNK // self.M, -(-self.rows // 256))  # rows of a task
        self.tasks = -(-self.rows // self.block)
        self.geometry = np.array([self.rows, self.M, self.block], np.int64)
        self.threads = threads_for(self.flat.size)

    def parameter(self, name: str, value: Any) -> np.ndarray:
        return vector(name, value, self.inner, self, "normalized_shape")

    def forward(self, weight: np.ndarray, bias: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        out, mean, variance = np.empty(self.flat.size, self.dtype), np.empty(self.rows), np.empty(self.rows)
        if bias.size and not weight.size:
            weight = np.ones(self.M, self.dtype)
        if weight.size and not bias.size:
            bias = np.zeros(self.M, self.dtype)
        if self.rows:
            kernel_arrays = (self.geometry, np.array([eps]), mean, variance, self.flat, weight, bias, out)
            threads.run(kernels.layer_forward, self.tasks, kernel_arrays, self.threads)
        return out.reshape(self.shape).astype(self.result, copy=False), mean, variance


def layer_norm(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    return_stats: bool = False,
) -> Any:
    """Layer normalisation: every row, made of the trailing axes, to mean 0 and variance 1.

    Parameters
    ----------
    x : array_like
        Any number of axes, the last of which have `normalized_shape`; float16, float32 or float64.
    normalized_shape : int or sequence of int
        The axes that are normalised together.
    weight, bias : array_like, optional
        Of `normalized_shape`: a learned scale and shift for each element.
    eps : float
        Added to the variance.
    return_stats : bool
        Also return mean and biased variance of each row, float64, of the shape of the leading axes.

    Returns
    -------
    numpy.ndarray
        Of the shape and dtype of `x`, C-contiguous; with `return_stats` a tuple ``(y, mean, variance)``.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton: Layer Normalization, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.layer_norm(np.float32([[1, 3], [10, 30]]), 2, eps=0)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    r = _Rows(x, normalized_shape)
    eps = number("eps", eps, 0.0)
    y, mean, variance = r.forward(r.parameter("weight", weight), r.parameter("bias", bias), eps)
    return (y, mean.reshape(r.outer), variance.reshape(r.outer)) if return_stats else y


def layer_norm_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Gradients:
    """Gradients of `layer_norm`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, of the shape and dtype of `x`.
    x, normalized_shape, weight, eps
        As given to `layer_norm`.
    mean, variance : array_like, optional
        What ``layer_norm(..., return_stats=True)`` returned; computed again without them.

    Returns
    -------
    grad_x : numpy.ndarray
    grad_weight, grad_bias : numpy.ndarray or None
        Of `normalized_shape`; None without a `weight`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float64([[1, 2, 4]])
    >>> fastconv.layer_norm_backward(np.float64([[1, 1, 1]]), x, 3, np.ones(3))[2]
    array([1., 1., 1.])
    """
    r = _Rows(x, normalized_shape)
    eps = number("eps", eps, 0.0)
    gradient = as_float("grad_output", grad_output)
    if gradient.shape != r.shape or gradient.dtype != r.result:
        raise ValueError(f"grad_output must have the shape and dtype of x, {r.shape} {r.result}, got {gradient.shape} "
                         f"{gradient.dtype}")  # fmt: skip
    scale = r.parameter("weight", weight)
    none = np.empty(0, r.dtype)
    statistics = given_statistics(mean, variance, r.outer) or r.forward(none, none, eps)[1:]
    out = np.empty(r.flat.size, r.dtype)
    parts = np.empty((r.tasks, 2, r.M) if weight is not None else 0, r.dtype)
    if r.rows:
        gradient = arrays.ready(gradient, r.dtype).reshape(-1)
        kernel_arrays = (
            r.geometry, np.array([eps]), *statistics, r.flat, gradient, scale, parts.reshape(-1), out,
        )  # fmt: skip
        threads.run(kernels.layer_backward, r.tasks, kernel_arrays, r.threads)
    grad_x = out.reshape(r.shape).astype(r.result, copy=False)
    if weight is None:
        return grad_x, None, None
    grad_weight, grad_bias = parts.sum(0, dtype=np.float64).astype(r.result).reshape(2, *r.inner)
    return grad_x, grad_weight, grad_bias
