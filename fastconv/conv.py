"""The public convolutions: intake, one lookup, run.

Two conventions, for a kernel of size k (one axis and one channel shown, p the padding, s the stride, d the dilation):

- cross-correlation, ``flip=False``, what neural networks call convolution:
  ``out[i] = sum over u of weight[u] * x[i*s + u*d - p]``
- convolution, ``flip=True``, the one of the textbooks, of `numpy.convolve` and of Fourier transforms:
  ``out[i] = sum over u of weight[k-1-u] * x[i*s + u*d - p]``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, call
from fastconv.arrays import C_CONTIGUOUS, READY
from fastconv.call import Call, Options
from fastconv.cpu import store, threads
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["conv1d", "conv2d", "conv3d"]

Activation = str | tuple[Any, ...] | None

_calls: dict[Any, Call] = {}

# By axes and shapes, what the last such call came to, the rest of its key, and the very objects that were its options:
# with the same ones nothing has to be hashed or validated.
_latest: dict[Any, tuple[Any, ...]] = {}


def _convolve(
    ndim: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
    activation: Any,
    residual: Any,
    layout: Any,
    flip: Any,
    algorithm: Any,
    accuracy: Any,
    workspace_limit: Any,
    out: Any,
) -> np.ndarray:
    if type(x) is not np.ndarray or type(weight) is not np.ndarray:
        x, weight = arrays.as_array("x", x), arrays.as_array("weight", weight)
    flags = x.flags.num & READY
    arguments = (
        x.dtype, flags, None if flags & C_CONTIGUOUS else x.strides, weight.dtype, weight.flags.num & READY,
        threads.count, store.edition,
    )  # fmt: skip
    shapes = (ndim, x.shape, weight.shape)
    latest = _latest.get(shapes)
    if latest is not None and latest[1] == arguments:
        bound, _, s, p, d, g, m, a, order, f, name, bounds, most = latest
        if (
            stride is s and padding is p and dilation is d and groups is g and padding_mode is m and activation is a
            and layout is order and flip is f and algorithm is name and accuracy is bounds and workspace_limit is most
        ):  # fmt: skip
            return bound.call(x, weight, None, bias, residual, out)
    options = (
        stride, padding, dilation, groups, padding_mode, activation, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    key: Any = (*shapes, *arguments, *options)
    try:
        bound = _calls.get(key)
    except TypeError:  # a list among the options
        bound = key = None
    # 1 == True == 1.0: an equal key is not yet a valid argument. A plain int is.
    plain = call.is_plain((stride, padding, dilation, groups, workspace_limit))
    if bound is None or not plain or bound.options.flip is not flip:
        native = arrays.as_array("x", x), arrays.as_array("weight", weight)
        bound = Call(ndim, *native, Options(*map(call.frozen, options)), prepared=False)
        if key is None or native[0] is not x or native[1] is not weight:
            return bound.call(*native, None, bias, residual, out)
        call.remember(_calls, key, bound)
    call.remember(_latest, shapes, (bound, arguments, *options))
    return bound.call(x, weight, None, bias, residual, out)


def conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    activation: Activation = None,
    residual: ArrayLike | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""One-dimensional convolution of a batch of signals with a bank of filters.

    Computes ``activation(x * weight + bias + residual)``, where the sum of one output element is::

        out[n, o, i] = sum over c, u of weight[o, c, u] * x[n, c, i*stride + u*dilation - padding]

    ``flip=True`` turns the kernel round: the convolution of textbooks. All is as in `conv2d`, with one spatial axis.

    Parameters
    ----------
    x : array_like
        Signals, (N, C, L), or one signal, (C, L).
    weight : array_like
        Filters, (OC, C // groups, K), of the dtype of `x`.
    bias : array_like, optional
        (OC,), of the dtype of the result.
    stride, dilation : int or (int,)
        Step between outputs, and between taps of the kernel.
    padding : int, tuple or {"same", "valid"}
        Cells added around x; one number, ``(number,)`` or ``((before, after),)``.
    groups : int
        Splits the channels into this many independent convolutions.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the added cells hold.
    activation : str or tuple, optional
        Applied last; see `conv2d`.
    residual : array_like, optional
        Added before the activation; of the shape and dtype of the result.
    layout : {"NCL", "NLC"}
        Order of the axes of `x`, `residual`, `out` and the result ("NCHW" and "NHWC" name the same two).
    flip : bool
        True for a true convolution, False for cross-correlation.
    algorithm, accuracy, workspace_limit
        How to compute it; see `conv2d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        (N, OC, L'), or (OC, L') for one signal; `out` if it was given.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> signal = np.array([[1.0, 2.0, 3.0]])
    >>> kernel = np.array([[[0.0, 1.0, 0.5]]])
    >>> fastconv.conv1d(signal, kernel, padding=2, flip=True)
    array([[0. , 1. , 2.5, 4. , 1.5]])
    >>> np.convolve([1.0, 2.0, 3.0], [0.0, 1.0, 0.5])
    array([0. , 1. , 2.5, 4. , 1.5])
    """
    return _convolve(1, x, weight, bias, stride, padding, dilation, groups, padding_mode, activation, residual,
                     layout, flip, algorithm, accuracy, workspace_limit, out)  # fmt: skip


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    activation: Activation = None,
    residual: ArrayLike | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""Two-dimensional convolution of a batch of images with a bank of filters.

    Computes ``activation(x * weight + bias + residual)``, where the sum of one output element is::

        out[n, o, i, j] = sum over c, u, v of
            weight[o, c, u, v] * x[n, c, i*stride + u*dilation - padding, j*stride + v*dilation - padding]

    This is cross-correlation, the convolution of neural networks. ``flip=True`` turns the kernel round
    (``weight[o, c, KH-1-u, KW-1-v]``): the convolution of textbooks.

    Parameters
    ----------
    x : array_like
        Images, (N, C, H, W), or one image, (C, H, W). NumPy arrays of any strides and byte order, objects with
        ``__dlpack__`` on the CPU or ``__array__``, and nested lists of numbers. An array whose *memory* is
        (N, H, W, C), as of `numpy.moveaxis` of an image or torch's ``channels_last``, is used without a copy and
        the result has the same memory order. The batch may be empty.
    weight : array_like
        Filters, (OC, C // groups, KH, KW), of the dtype of `x`.
    bias : array_like, optional
        One value per output channel, (OC,), of the dtype of the result.
    stride : int or (int, int)
        Step between neighbouring outputs.
    padding : int, tuple or {"same", "valid"}
        Cells added around the image: one number, one per axis, or (before, after) per axis. "valid" adds none;
        "same" adds what makes the output ``ceil(size / stride)``, an odd cell at the end (SAME_UPPER).
    dilation : int or (int, int)
        Step between neighbouring taps of the kernel.
    groups : int
        Splits the channels into this many independent convolutions; ``groups == C`` is a depthwise one.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the added cells hold. The image is never copied into a padded one.
    activation : str or tuple, optional
        "relu", "relu6", "leaky_relu", "silu", "hardswish", "sigmoid", "tanh", or with parameters
        ``("leaky_relu", slope)``, ``("clip", low, high)``. Integers take "relu", "relu6" and "clip", complex
        numbers none.
    residual : array_like, optional
        Added before the activation; of the shape and dtype of the result.
    layout : {"NCHW", "NHWC"}
        Order of the axes of `x`, `residual`, `out` and the result. The weight keeps its order.
    flip : bool
        True for a true convolution, False for cross-correlation.
    algorithm : str
        "auto", or the name of the algorithm that must be used; see `fastconv.explain`.
    accuracy : {"default", "exact", "fast"}
        Which error bounds are acceptable; see `fastconv.explain`.
    workspace_limit : int, optional
        Most bytes of scratch memory to use.
    out : numpy.ndarray, optional
        Where to put the result: right shape and dtype, writable, sharing no memory with an input. It need not be
        contiguous.

    Returns
    -------
    numpy.ndarray
        (N, OC, OH, OW), or (OC, OH, OW) for one image; `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; the message names it, its value and what was expected.

    Notes
    -----
    float16 is summed in float32 and rounded to float16. complex64 and complex128 are computed with real arithmetic of
    the same precision. int8 and uint8 are summed in int32 and give int32, exactly: sums that could overflow are
    refused. int16, int32 and int64 are summed in int64 and give int64, modulo 2**64.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> edge = np.array([[[[-1, 0, 1]]]], dtype=np.float32)
    >>> fastconv.conv2d(x, edge)[0, 0]
    array([[2., 2.],
           [2., 2.],
           [2., 2.],
           [2., 2.]], dtype=float32)

    The textbook convolution turns the kernel round:

    >>> fastconv.conv2d(x, edge, flip=True)[0, 0, 0]
    array([-2., -2.], dtype=float32)

    "same" padding, a bias and a fused activation:

    >>> fastconv.conv2d(x, edge, np.float32([-4]), padding="same", activation="relu")[0, 0, 0]
    array([0., 0., 0., 0.], dtype=float32)
    """
    return _convolve(2, x, weight, bias, stride, padding, dilation, groups, padding_mode, activation, residual,
                     layout, flip, algorithm, accuracy, workspace_limit, out)  # fmt: skip


def conv3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    activation: Activation = None,
    residual: ArrayLike | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""Three-dimensional convolution of a batch of volumes with a bank of filters.

    Computes ``activation(x * weight + bias + residual)``, where the sum of one output element is::

        out[n, o, h, i, j] = sum over c, t, u, v of weight[o, c, t, u, v]
            * x[n, c, h*stride + t*dilation - padding, i*stride + u*dilation - padding, j*stride + v*dilation - padding]

    ``flip=True`` turns the kernel round: the convolution of textbooks. All is as in `conv2d`, with three spatial axes.

    Parameters
    ----------
    x : array_like
        Volumes, (N, C, D, H, W), or one volume, (C, D, H, W).
    weight : array_like
        Filters, (OC, C // groups, KD, KH, KW), of the dtype of `x`.
    bias : array_like, optional
        (OC,), of the dtype of the result.
    stride, dilation : int or (int, int, int)
        Step between outputs, and between taps of the kernel.
    padding : int, tuple or {"same", "valid"}
        Cells added around x; one number, one per axis, or (before, after) per axis.
    groups : int
        Splits the channels into this many independent convolutions.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the added cells hold.
    activation : str or tuple, optional
        Applied last; see `conv2d`.
    residual : array_like, optional
        Added before the activation; of the shape and dtype of the result.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes of `x`, `residual`, `out` and the result ("NCHW" and "NHWC" name the same two).
    flip : bool
        True for a true convolution, False for cross-correlation.
    algorithm, accuracy, workspace_limit
        How to compute it; see `conv2d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        (N, OC, D', H', W'), or (OC, D', H', W') for one volume; `out` if it was given.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> ones = np.ones((1, 2, 3, 3, 3), dtype=np.float32)
    >>> fastconv.conv3d(ones, np.ones((1, 2, 2, 2, 2), dtype=np.float32)).shape
    (1, 1, 2, 2, 2)
    >>> fastconv.conv3d(ones, np.ones((1, 2, 3, 3, 3), dtype=np.float32), padding="same", stride=2)[0, 0, 0]
    array([[16., 16.],
           [16., 16.]], dtype=float32)
    """
    return _convolve(3, x, weight, bias, stride, padding, dilation, groups, padding_mode, activation, residual,
                     layout, flip, algorithm, accuracy, workspace_limit, out)  # fmt: skip
