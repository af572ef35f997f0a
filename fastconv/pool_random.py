"""Stochastic pools (Zeiler and Fergus 2013), and what they share with fractional ones."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, pool_window
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels import unpool as scalar
from fastconv.pool_call import FLOATS, Frame, bound, plain
from fastconv.pool_spec import check_bool
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "stochastic_pool1d",
    "stochastic_pool1d_backward",
    "stochastic_pool2d",
    "stochastic_pool2d_backward",
    "stochastic_pool3d",
    "stochastic_pool3d_backward",
]


def generator(rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None or (isinstance(rng, (int, np.integer)) and not isinstance(rng, bool)):
        return np.random.default_rng(rng)
    raise TypeError(f"rng must be a numpy.random.Generator, an integer or None, got {rng!r}")


def pick(
    frame: Frame, op: int, outputs: tuple[int, ...], tables: np.ndarray, step: int, random: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(values, indices) of windows given by tables, for a frame with channels first."""
    missing = (1,) * (3 - frame.ndim)
    result, indices = frame.empty(outputs), frame.empty(outputs, np.int64)
    scalar.pick(
        op, frame.N * frame.C, missing + frame.sizes, missing + outputs, tables, step, random, frame.flat(x),
        result.reshape(-1), indices.reshape(-1), get_num_threads(),
    )  # fmt: skip
    return frame.result(result), indices if frame.from_memory is None else indices.transpose(frame.from_memory)


def _build_chosen_backward(ndim: int, grad: np.ndarray, name: str, shape: Any, layout: Any) -> pool_window.Call:
    frame = Frame(f"{name}{ndim}d_backward", ndim, grad, layout, FLOATS, "grad_output")
    scatter = pool_window.scatter_call(frame, frame.sizes, frame.parse_shape("input_shape", shape))
    return lambda grad, indices: scatter(frame.flat(grad), frame.take("indices", indices, frame.sizes, np.int64))


def chosen_backward(ndim: int, name: str, grad: Any, shape: Any, indices: Any, layout: Any) -> np.ndarray:
    grad = arrays.as_array("grad_output", grad)
    return bound(_build_chosen_backward, ndim, grad, name, plain(shape), layout)(grad, indices)


def _stochastic(
    ndim: int, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, indexed: Any, training: Any,
    rng: Any, layout: Any,
) -> Any:  # fmt: skip
    x = arrays.as_array("x", x)
    frame = Frame(f"stochastic_pool{ndim}d", ndim, x, layout, FLOATS).channels_first()
    spec = pool_window.spec_of(frame, kernel_size, stride, padding, 1, ceil_mode)
    indexed, training = check_bool("return_indices", indexed), check_bool("training", training)
    if indexed and not training:
        raise ValueError("return_indices must be False unless training: a mean has no place")
    if x.size and x.min() < 0:
        raise ValueError(f"x must not be negative (its values are odds), got {x.min()}; apply a ReLU first")
    pairs = [0, 1] * (3 - ndim)
    for axis in range(ndim):
        for o in range(spec.output[axis]):
            first = max(o * spec.stride[axis] - spec.padding[axis][0], 0)
            pairs += [first, spec.taps(axis, o)]
    tables, count = np.array(pairs, np.int64), prod(spec.out_shape)
    random = generator(rng).random(count if training else 0, dtype=frame.kernel.type)
    op = scalar.DRAWN if training else scalar.EXPECTED
    values, indices = pick(frame, op, spec.output, tables, 0, random, x)
    return (values, indices) if indexed else values


def stochastic_pool1d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    training: bool = True,
    rng: np.random.Generator | int | None = None,
    layout: str = "NCHW",
) -> Any:
    """A cell of every window, drawn with the cells' values as odds (Zeiler and Fergus 2013).

    Parameters
    ----------
    x : array_like
        Activations, none negative: (N, C, L), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding, ceil_mode
        The windows, as in `max_pool1d`; padding cells are never drawn.
    return_indices : bool
        Return (values, indices): the place of each cell in its plane. Only while training.
    training : bool
        Draw; if False, give the mean under these odds, ``sum of x**2 / sum of x``.
    rng : numpy.random.Generator or int, optional
        Where the random numbers come from: a generator, or its seed. The same numbers give the same cells in either
        memory order and with any number of threads.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The cells drawn, of the dtype of `x`. A window of zeros gives its first cell.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[0.0, 4.0, 3.0, 1.0]])
    >>> values = fastconv.stochastic_pool1d(x, 2, rng=0)
    >>> float(values.flat[0]), float(values.flat[1]) in (3.0, 1.0)
    (4.0, True)
    >>> fastconv.stochastic_pool1d(x, 2, training=False)
    array([[4. , 2.5]])
    """
    return _stochastic(1, x, kernel_size, stride, padding, ceil_mode, return_indices, training, rng, layout)


def stochastic_pool1d_backward(
    grad_output: ArrayLike, input_shape: Any, indices: ArrayLike, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `stochastic_pool1d` while training: each value goes to the cell that was drawn.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the values.
    input_shape : tuple of int
        Shape of what was pooled.
    indices : array_like
        What ``return_indices=True`` returned.
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
    >>> fastconv.stochastic_pool1d_backward(np.array([[5.0]]), (1, 3), np.array([[1]]))
    array([[0., 5., 0.]])
    """
    return chosen_backward(1, "stochastic_pool", grad_output, input_shape, indices, layout)


def stochastic_pool2d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    training: bool = True,
    rng: np.random.Generator | int | None = None,
    layout: str = "NCHW",
) -> Any:
    """A cell of every window, drawn with the cells' values as odds (Zeiler and Fergus 2013).

    Parameters
    ----------
    x : array_like
        Activations, none negative: (N, C, H, W), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding, ceil_mode
        The windows, as in `max_pool2d`; padding cells are never drawn.
    return_indices : bool
        Return (values, indices): the place of each cell in its plane. Only while training.
    training : bool
        Draw; if False, give the mean under these odds, ``sum of x**2 / sum of x``.
    rng : numpy.random.Generator or int, optional
        Where the random numbers come from: a generator, or its seed. The same numbers give the same cells in either
        memory order and with any number of threads.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The cells drawn, of the dtype of `x`. A window of zeros gives its first cell.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[0.0, 4.0, 3.0, 1.0]]])
    >>> values = fastconv.stochastic_pool2d(x, (1, 2), rng=0)
    >>> float(values.flat[0]), float(values.flat[1]) in (3.0, 1.0)
    (4.0, True)
    >>> fastconv.stochastic_pool2d(x, (1, 2), training=False)
    array([[[4. , 2.5]]])
    """
    return _stochastic(2, x, kernel_size, stride, padding, ceil_mode, return_indices, training, rng, layout)


def stochastic_pool2d_backward(
    grad_output: ArrayLike, input_shape: Any, indices: ArrayLike, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `stochastic_pool2d` while training: each value goes to the cell that was drawn.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the values.
    input_shape : tuple of int
        Shape of what was pooled.
    indices : array_like
        What ``return_indices=True`` returned.
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
    >>> fastconv.stochastic_pool2d_backward(np.array([[[5.0]]]), (1, 1, 3), np.array([[[1]]]))
    array([[[0., 5., 0.]]])
    """
    return chosen_backward(2, "stochastic_pool", grad_output, input_shape, indices, layout)


def stochastic_pool3d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    training: bool = True,
    rng: np.random.Generator | int | None = None,
    layout: str = "NCHW",
) -> Any:
    """A cell of every window, drawn with the cells' values as odds (Zeiler and Fergus 2013).

    Parameters
    ----------
    x : array_like
        Activations, none negative: (N, C, D, H, W), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding, ceil_mode
        The windows, as in `max_pool3d`; padding cells are never drawn.
    return_indices : bool
        Return (values, indices): the place of each cell in its plane. Only while training.
    training : bool
        Draw; if False, give the mean under these odds, ``sum of x**2 / sum of x``.
    rng : numpy.random.Generator or int, optional
        Where the random numbers come from: a generator, or its seed. The same numbers give the same cells in either
        memory order and with any number of threads.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The cells drawn, of the dtype of `x`. A window of zeros gives its first cell.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[0.0, 4.0, 3.0, 1.0]]]])
    >>> values = fastconv.stochastic_pool3d(x, (1, 1, 2), rng=0)
    >>> float(values.flat[0]), float(values.flat[1]) in (3.0, 1.0)
    (4.0, True)
    >>> fastconv.stochastic_pool3d(x, (1, 1, 2), training=False)
    array([[[[4. , 2.5]]]])
    """
    return _stochastic(3, x, kernel_size, stride, padding, ceil_mode, return_indices, training, rng, layout)


def stochastic_pool3d_backward(
    grad_output: ArrayLike, input_shape: Any, indices: ArrayLike, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `stochastic_pool3d` while training: each value goes to the cell that was drawn.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the values.
    input_shape : tuple of int
        Shape of what was pooled.
    indices : array_like
        What ``return_indices=True`` returned.
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
    >>> fastconv.stochastic_pool3d_backward(np.array([[[[5.0]]]]), (1, 1, 1, 3), np.array([[[[1]]]]))
    array([[[[0., 5., 0.]]]])
    """
    return chosen_backward(3, "stochastic_pool", grad_output, input_shape, indices, layout)
