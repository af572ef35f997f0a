"""Local response normalisation across channels, the norm of AlexNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastconv.cpu import threads, workspace
from fastconv.features import Features, number, threads_for
from fastconv.kernels import response_norm as kernels
from fastconv.spec import per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["local_response_norm", "local_response_norm_backward"]


class _Response:
    """One call bound to its x and constants."""

    def __init__(self, x: ArrayLike, size: int, alpha: float, beta: float, k: float, layout: str) -> None:
        self.x = f = Features("x", x, layout, least_axes=3)
        self.size = per_axis("size", size, 1)[0]
        if self.size > 2**20:  # scratch for the zeros around the channels
            raise ValueError(f"size must be at most 2**20 channels, got {self.size}")
        alpha, beta, k = number("alpha", alpha), number("beta", beta), number("k", k)
        self.constants = np.array([alpha / self.size, beta, k, 2 * alpha * beta / self.size], f.dtype)
        self.threads = threads_for(8 * f.flat.size)

    def run(self, kernel: object, operands: tuple[np.ndarray, ...], areas: int) -> np.ndarray:
        f = self.x
        out = f.target()
        if f.flat.size == 0:
            return f.wrap(out)
        wide = 1 if f.channels_last else min(kernels.WIDE, f.S)
        part = max(1, 8192 // f.C) if f.channels_last else -(-f.S // kernels.WIDE)
        tasks = -(-f.N * f.S // part) if f.channels_last else f.N * part
        per_thread = workspace.aligned((areas * (f.C + self.size) + f.C) * wide + wide * f.C, f.dtype.itemsize)
        geometry = np.array([f.channels_last, f.N, f.C, f.S, self.size, part, per_thread], np.int64)
        with workspace.scratch(f.dtype.name, per_thread, self.threads) as scratch:
            threads.run(kernel, tasks, (geometry, self.constants, *operands, scratch, out), self.threads)
        return f.wrap(out)


def local_response_norm(
    x: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, layout: str = "NCHW"
) -> np.ndarray:
    """Divide every value by the strength of its neighbours in the near channels.

    ``y[c] = x[c] / (k + alpha / size * sum of x[j]**2)**beta`` for j from c - size // 2 to c + (size - 1) // 2.
    Channels beyond the first and last count as zero.

    Parameters
    ----------
    x : array_like
        (N, C, *spatial); float16, float32 or float64.
    size : int
        Channels of a neighbourhood.
    alpha, beta, k : float
        Constants of the formula; AlexNet has alpha 5e-4 (as written here), beta 0.75, k 2, size 5.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`.

    References
    ----------
    A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet classification with deep convolutional neural networks, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.local_response_norm(np.float32([[[3], [4]]]), 2, alpha=2, beta=0.5, k=0).round(3)[0, :, 0]
    array([1. , 0.8], dtype=float32)
    """
    layer = _Response(x, size, alpha, beta, k, layout)
    return layer.run(kernels.forward, (layer.x.flat,), 1)


def local_response_norm_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `local_response_norm`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, of the shape and dtype of `x`.
    x, size, alpha, beta, k, layout
        As given to `local_response_norm`.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float64([[[3], [4]]])
    >>> fastconv.local_response_norm_backward(np.ones_like(x), x, 1, alpha=0)[0, :, 0]
    array([1., 1.])
    """
    layer = _Response(x, size, alpha, beta, k, layout)
    return layer.run(kernels.backward, (layer.x.like("grad_output", grad_output), layer.x.flat), 2)
