"""Global pools: one window, whatever the number of spatial axes; see `adaptive.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import adaptive, arrays

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["global_avg_pool", "global_avg_pool_backward", "global_max_pool", "global_max_pool_backward"]


def _spatial(name: str, x: np.ndarray) -> int:
    if x.ndim not in (3, 4, 5):
        raise ValueError(f"{name} must have 3 to 5 axes (N, C, 1 to 3 spatial), got shape {x.shape}")
    return x.ndim - 2


def global_avg_pool(x: ArrayLike, *, layout: str = "NCHW") -> np.ndarray:
    """Average over all spatial axes of a batch, which stay as axes of size 1.

    Parameters
    ----------
    x : array_like
        (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        (N, C, 1, ...).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.global_avg_pool(np.arange(8.0).reshape(1, 2, 2, 2)).ravel()
    array([1.5, 5.5])
    """
    x = arrays.as_array("x", x)
    return adaptive.avg_pool(_spatial("x", x), x, 1, layout)


def global_avg_pool_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `global_avg_pool`: every cell gets the same share.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, (N, C, 1, ...).
    input_shape : tuple of int
        Shape of what was averaged.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.global_avg_pool_backward(np.array([[[2.0]]]), (1, 1, 4))
    array([[[0.5, 0.5, 0.5, 0.5]]])
    """
    grad = arrays.as_array("grad_output", grad_output)
    return adaptive.avg_pool_backward(_spatial("grad_output", grad), grad, input_shape, layout)


def global_max_pool(x: ArrayLike, *, layout: str = "NCHW") -> np.ndarray:
    """Maximum over all spatial axes of a batch, which stay as axes of size 1.

    Parameters
    ----------
    x : array_like
        (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        (N, C, 1, ...).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.global_max_pool(np.arange(8.0).reshape(1, 2, 2, 2)).ravel()
    array([3., 7.])
    """
    x = arrays.as_array("x", x)
    return adaptive.max_pool(_spatial("x", x), x, 1, False, layout)


def global_max_pool_backward(grad_output: ArrayLike, x: ArrayLike, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `global_max_pool`: it goes to the first of the largest cells.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, (N, C, 1, ...).
    x : array_like
        What was pooled.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.global_max_pool_backward(np.array([[[2.0]]]), np.array([[[1.0, 3, 2]]]))
    array([[[0., 2., 0.]]])
    """
    grad, x = arrays.as_array("grad_output", grad_output), arrays.as_array("x", x)
    return adaptive.max_pool_backward(_spatial("x", x), grad, x, None, layout)
