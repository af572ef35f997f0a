"""Spectral pools: images cropped in the frequency domain (Rippel, Snoek and Adams 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.pool_call import Frame
from fastconv.spec import IntOrTuple, per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "spectral_pool1d",
    "spectral_pool1d_backward",
    "spectral_pool2d",
    "spectral_pool2d_backward",
    "spectral_pool3d",
    "spectral_pool3d_backward",
]

_KINDS = {"float32": "float32", "float64": "float64"}


def _crop(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The lowest frequencies of a real axis, as a real axis of `size` cells.

    out[m] = 1/n sum over k of c[k] cos(2 pi k (m/size - i/n)) x[i], with c[0] = 1, c[k] = 2, and c = 1 for the highest
    frequency of an even size: numpy's irfft takes its real part. With n = size it is the identity.
    """
    n = x.shape[axis]
    if n == size:
        return x
    spectrum = np.fft.rfft(x, axis=axis)
    kept = np.take(spectrum, range(size // 2 + 1), axis)
    return (np.fft.irfft(kept, size, axis=axis) * (size / n)).astype(x.dtype, copy=False)


def _pad(grad: np.ndarray, axis: int, n: int) -> np.ndarray:
    """The adjoint of `_crop`: among more frequencies the highest one of an even size counts twice, so it is halved."""
    size = grad.shape[axis]
    if n == size:
        return grad
    spectrum = np.fft.rfft(grad, axis=axis)
    if size % 2 == 0:
        np.moveaxis(spectrum, axis, 0)[-1] *= 0.5
    return np.fft.irfft(spectrum, n, axis=axis).astype(grad.dtype, copy=False)


def _axes(frame: Frame) -> range:
    first = frame.batched if frame.last else frame.batched + 1
    return range(first, first + frame.ndim)


def _pool(ndim: int, x: Any, output_size: Any, layout: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    frame = Frame(f"spectral_pool{ndim}d", ndim, x, layout, _KINDS)
    outputs = per_axis("output_size", output_size, ndim)
    for axis, (size, count) in enumerate(zip(frame.sizes, outputs, strict=True)):
        if count > size:
            raise ValueError(
                f"output_size must not exceed the input: along spatial axis {axis} {count} of {size} cells"
            )
    if frame.N == 0:
        return np.empty(frame.shape(outputs), x.dtype)
    result = x.copy() if outputs == frame.sizes else x
    for axis, count in zip(_axes(frame), outputs, strict=True):
        result = _crop(result, axis, count)
    return result


def _pool_backward(ndim: int, grad: Any, input_shape: Any, layout: Any) -> np.ndarray:
    grad = arrays.as_array("grad_output", grad)
    frame = Frame(f"spectral_pool{ndim}d_backward", ndim, grad, layout, _KINDS, "grad_output")
    sizes = frame.parse_shape("input_shape", input_shape)
    for axis, (size, count) in enumerate(zip(sizes, frame.sizes, strict=True)):
        if count > size:
            raise ValueError(f"input_shape must not be smaller than grad_output: {size} < {count} along axis {axis}")
    if frame.N == 0:
        return np.empty(frame.shape(sizes), grad.dtype)
    result = grad.copy() if sizes == frame.sizes else grad
    for axis, size in zip(_axes(frame), sizes, strict=True):
        result = _pad(result, axis, size)
    return result


def spectral_pool1d(x: ArrayLike, output_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Shrink signals by keeping their lowest frequencies (Rippel, Snoek and Adams 2015).

    Parameters
    ----------
    x : array_like
        Signals, (N, C, L), or without the batch: float32 or float64.
    output_size : int or tuple
        Cells along each spatial axis, none more than `x` has.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Of the dtype of `x`, real: of the highest frequency of an even size, which has no conjugate partner, the real
        part is kept along each axis. The mean stays the same.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.spectral_pool1d(np.array([[1.0, 1, 3, 3]]), 2)
    array([[1.5, 2.5]])
    """
    return _pool(1, x, output_size, layout)


def spectral_pool1d_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `spectral_pool1d`: the exact adjoint, which pads the spectrum with zeros.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the pooled signals.
    input_shape : tuple of int
        Shape of what was pooled.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> grad = fastconv.spectral_pool1d_backward(np.ones((1, 2)), (1, 4))
    >>> np.allclose(grad, 0.5)
    True
    """
    return _pool_backward(1, grad_output, input_shape, layout)


def spectral_pool2d(x: ArrayLike, output_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Shrink images by keeping their lowest frequencies (Rippel, Snoek and Adams 2015).

    Parameters
    ----------
    x : array_like
        Images, (N, C, H, W), or without the batch: float32 or float64.
    output_size : int or tuple
        Cells along each spatial axis, none more than `x` has.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Of the dtype of `x`, real: of the highest frequency of an even size, which has no conjugate partner, the real
        part is kept along each axis. The mean stays the same.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.spectral_pool2d(np.array([[[1.0, 1, 3, 3]]]), (1, 2))
    array([[[1.5, 2.5]]])
    """
    return _pool(2, x, output_size, layout)


def spectral_pool2d_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `spectral_pool2d`: the exact adjoint, which pads the spectrum with zeros.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the pooled images.
    input_shape : tuple of int
        Shape of what was pooled.
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
    >>> grad = fastconv.spectral_pool2d_backward(np.ones((1, 1, 2)), (1, 1, 4))
    >>> np.allclose(grad, 0.5)
    True
    """
    return _pool_backward(2, grad_output, input_shape, layout)


def spectral_pool3d(x: ArrayLike, output_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Shrink volumes by keeping their lowest frequencies (Rippel, Snoek and Adams 2015).

    Parameters
    ----------
    x : array_like
        Volumes, (N, C, D, H, W), or without the batch: float32 or float64.
    output_size : int or tuple
        Cells along each spatial axis, none more than `x` has.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Of the dtype of `x`, real: of the highest frequency of an even size, which has no conjugate partner, the real
        part is kept along each axis. The mean stays the same.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.spectral_pool3d(np.array([[[[1.0, 1, 3, 3]]]]), (1, 1, 2))
    array([[[[1.5, 2.5]]]])
    """
    return _pool(3, x, output_size, layout)


def spectral_pool3d_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `spectral_pool3d`: the exact adjoint, which pads the spectrum with zeros.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the pooled volumes.
    input_shape : tuple of int
        Shape of what was pooled.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> grad = fastconv.spectral_pool3d_backward(np.ones((1, 1, 1, 2)), (1, 1, 1, 4))
    >>> np.allclose(grad, 0.5)
    True
    """
    return _pool_backward(3, grad_output, input_shape, layout)
