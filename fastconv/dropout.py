"""Dropout: random elements, or whole channels, become zero while training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.cpu import threads
from fastconv.features import Features, flag, number, threads_for
from fastconv.kernels import dropout as kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["dropout", "dropout_backward"]


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    return int(seed) & (2**63 - 1)


def dropout(
    x: ArrayLike, p: float = 0.5, *, seed: int, training: bool = True, channels: bool = False, layout: str = "NCHW"
) -> np.ndarray:
    """Set elements to zero with probability `p` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    x : array_like
        (N, C, *spatial); float16, float32 or float64.
    p : float
        Probability of zero.
    seed : int
        Decides which: the same seed, shape and memory order give the same zeros, whatever the number of threads.
    training : bool
        False returns x as it is.
    channels : bool
        Drop whole channels of an image (PyTorch's dropout2d): neighbouring cells are alike, dropping single ones would
        hide nothing.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`.

    References
    ----------
    N. Srivastava et al.: Dropout, 2014. J. Tompson et al.: Efficient object localization, 2015 (whole channels).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.dropout(np.ones((1, 8), np.float32), 0.5, seed=1)
    array([[2., 2., 2., 0., 0., 2., 2., 2.]], dtype=float32)
    """
    p, channels = number("p", p, 0.0, 1.0), flag("channels", channels)
    seed = _seed(seed)
    f = Features("x", x, layout)
    if not flag("training", training) or p == 0:
        return f.wrap(f.flat.copy())
    if p == 1 or f.flat.size == 0:
        return f.wrap(np.zeros(f.flat.size, f.dtype))
    if channels and f.channels_last and f.S > 1:
        kept = dropout(np.ones((f.N, f.C), f.dtype), p, seed=seed)
        flat = (f.flat.reshape(f.N, f.S, f.C) * kept[:, None]).reshape(-1)
        return f.wrap(flat)
    size = f.S if channels else 1
    block = max(1, 8192 // size)
    target = f.target()
    constants = np.array([p * 2.0**32, 1 / (1 - p)])
    geometry = np.array([seed, size, block], np.int64)
    tasks = -(-(f.flat.size // size) // block)
    threads.run(kernels.dropout, tasks, (geometry, constants, f.flat, target), threads_for(8 * f.flat.size))
    return f.wrap(target)


def dropout_backward(
    grad_output: ArrayLike, p: float = 0.5, *, seed: int, channels: bool = False, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `dropout`: the same zeros and the same scale, made again from the same seed.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, in the memory order of the x that `dropout` was given.
    p, seed, channels, layout
        As given to `dropout`.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `grad_output`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.dropout_backward(np.ones((1, 8), np.float32), 0.5, seed=1)
    array([[2., 2., 2., 0., 0., 2., 2., 2.]], dtype=float32)
    """
    return dropout(grad_output, p, seed=seed, channels=channels, layout=layout)
