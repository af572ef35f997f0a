"""Activations, softmax and the cross-entropy loss, each with its backward.

All element-wise functions are those that a convolution can apply to its own result (``conv2d(..., activation=...)``),
by the same code.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.cpu import threads, workspace
from fastconv.features import COMPUTED, as_float, threads_for
from fastconv.kernels import activations
from fastconv.kernels import softmax as kernels
from fastconv.kernels.epilogue import parse_activation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "activate",
    "activate_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "log_softmax",
    "log_softmax_backward",
    "relu",
    "sigmoid",
    "softmax",
    "softmax_backward",
    "tanh",
]

_BLOCK = 8192  # elements of a task
_GEOMETRY = np.array([_BLOCK], np.int64)


class _Memory:
    """An array as one run of memory in whatever order of axes it has; results get the same order."""

    def __init__(self, name: str, x: Any) -> None:
        array = as_float(name, x)
        self.name, self.shape, self.result, self.dtype = name, array.shape, array.dtype, COMPUTED[array.dtype]
        # The axes from the longest step to the shortest: a transposed array is contiguous in that order.
        self.order: tuple[int, ...] | None = None  # as they are
        if not array.flags.c_contiguous:
            self.order = tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
        self.flat = self._flatten(array)

    def _flatten(self, array: np.ndarray) -> np.ndarray:
        return arrays.ready(array if self.order is None else array.transpose(self.order), self.dtype).reshape(-1)

    def like(self, name: str, value: Any) -> np.ndarray:
        array = as_float(name, value)
        if array.shape != self.shape or array.dtype != self.result:
            raise ValueError(
                f"{name} must have the shape and dtype of {self.name}, {self.shape} {self.result}, got {array.shape} "
                f"{array.dtype}"
            )
        return self._flatten(array)

    def target(self, out: Any) -> np.ndarray:
        if out is None:
            return np.empty(self.flat.size, self.dtype)
        out = arrays.check_out(out, self.shape, self.result)
        view = out if self.order is None else out.transpose(self.order)
        if view.flags.num & arrays.READY == arrays.READY and view.dtype == self.dtype:
            flat = view.reshape(-1)
            if flat.ctypes.data != self.flat.ctypes.data:  # in place is well, half over itself is not
                arrays.check_no_overlap(out, **{self.name: self.flat})
            return flat
        return np.empty(self.flat.size, self.dtype)

    def deliver(self, flat: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if self.order is None:
            array = flat.reshape(self.shape)
        else:
            array = flat.reshape([self.shape[axis] for axis in self.order]).transpose(np.argsort(self.order))
        if out is None:
            return array if self.result is self.dtype else array.astype(self.result, copy=False)
        if not np.may_share_memory(flat, out):
            np.copyto(out, array, casting="same_kind")
        return out

    def around(self, axis: int) -> tuple[int, int, int]:
        """Numbers before, along and after an axis, in memory."""
        order = self.order or range(len(self.shape))
        place = order.index(axis)
        sizes = [self.shape[a] for a in order]
        return prod(sizes[:place]), sizes[place], prod(sizes[place + 1 :])


def _constants(activation: Any, dtype: np.dtype) -> np.ndarray:
    """What kernels know an activation by."""
    if activation is None or not isinstance(activation, (str, tuple)) or not activation:
        names = ", ".join(activations.ACTIVATIONS)
        raise TypeError(f"activation must be a name or a tuple (name, parameters...), {names}; got {activation!r}")
    try:
        return _known_constants(activation, dtype)
    except TypeError:  # parameters that cannot be hashed
        return _known_constants.__wrapped__(activation, dtype)


@lru_cache(256)
def _known_constants(activation: Any, dtype: np.dtype) -> np.ndarray:
    return np.array(parse_activation(activation, dtype.name), dtype)


def activate(x: ArrayLike, activation: str | tuple[Any, ...], *, out: np.ndarray | None = None) -> np.ndarray:
    """Apply an activation to every element.

    Parameters
    ----------
    x : array_like
        float16, float32 or float64, of any shape and memory order.
    activation : str or tuple
        "relu", "relu6", "leaky_relu", "elu", "silu", "hardswish", "sigmoid" or "tanh", or with parameters
        ``("leaky_relu", slope)``, ``("elu", alpha)``, ``("clip", low, high)``.
    out : numpy.ndarray, optional
        Where to put the result; may be `x` itself.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.activate(np.float32([-2, 0, 3]), ("leaky_relu", 0.5))
    array([-1.,  0.,  3.], dtype=float32)
    """
    m = _Memory("x", x)
    constants = _constants(activation, m.dtype)
    target = m.target(out)
    kernel_arrays = (_GEOMETRY, constants, m.flat, target)
    threads.run(activations.forward, -(-m.flat.size // _BLOCK), kernel_arrays, threads_for(m.flat.size))
    return m.deliver(target, out)


def activate_backward(grad_output: ArrayLike, x: ArrayLike, activation: str | tuple[Any, ...]) -> np.ndarray:
    """Gradient of `activate`: ``grad_output`` times the derivative at x.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, of the shape and dtype of `x`.
    x, activation
        As given to `activate`.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`. At a kink it takes PyTorch's side: 0 for relu at 0.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.activate_backward(np.float32([5, 5, 5]), np.float32([-2, 0, 3]), "relu")
    array([0., 0., 5.], dtype=float32)
    """
    m = _Memory("x", x)
    constants = _constants(activation, m.dtype)
    gradient, target = m.like("grad_output", grad_output), m.target(None)
    kernel_arrays = (_GEOMETRY, constants, gradient, m.flat, target)
    threads.run(activations.backward, -(-m.flat.size // _BLOCK), kernel_arrays, threads_for(m.flat.size))
    return m.deliver(target)


def relu(x: ArrayLike, *, out: np.ndarray | None = None) -> np.ndarray:
    """max(x, 0), the rectifier: ``activate(x, "relu")``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.relu(np.float32([-2, 3]))
    array([0., 3.], dtype=float32)
    """
    return activate(x, "relu", out=out)


def sigmoid(x: ArrayLike, *, out: np.ndarray | None = None) -> np.ndarray:
    """1 / (1 + exp(-x)), the logistic function: ``activate(x, "sigmoid")``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.sigmoid(np.float32([0]))
    array([0.5], dtype=float32)
    """
    return activate(x, "sigmoid", out=out)


def tanh(x: ArrayLike, *, out: np.ndarray | None = None) -> np.ndarray:
    """The hyperbolic tangent: ``activate(x, "tanh")``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.tanh(np.float32([0, 100]))
    array([0., 1.], dtype=float32)
    """
    return activate(x, "tanh", out=out)


# ---- softmax --------------------------------------------------------------------------------------------------------


def _axis(axis: Any, shape: tuple[int, ...]) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be an integer, got {axis!r}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis must be from {-len(shape)} to {len(shape) - 1} for shape {shape}, got {axis}")
    return int(axis) % len(shape)


def _along(m: _Memory, kernel: Any, axis: Any, logarithm: bool, *operands: np.ndarray) -> np.ndarray:
    """Run a softmax kernel along an axis of m."""
    outer, C, inner = m.around(_axis(axis, m.shape))
    target = m.target(None)
    if target.size:
        block = max(1, _BLOCK // C)  # rows of a task
        tasks = -(-outer // block) if inner == 1 else outer * -(-inner // kernels.WIDE)
        count = threads_for(4 * target.size)  # an exponential costs as much as some passes over memory
        per_thread = 2 * kernels.WIDE
        geometry = np.array([logarithm, outer, C, inner, block, per_thread], np.int64)
        with workspace.scratch(m.dtype.name, per_thread, count) as scratch:
            threads.run(kernel, tasks, (geometry, *operands, scratch, target), count)
    return m.deliver(target)


def softmax(x: ArrayLike, axis: int = 1) -> np.ndarray:
    """exp(x) divided by its sum along an axis: scores become probabilities.

    Parameters
    ----------
    x : array_like
        float16, float32 or float64.
    axis : int
        The axis of the classes, the channels by default.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`. The largest score is subtracted first: no overflow.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.softmax(np.float32([[1000, 1000]]))
    array([[0.5, 0.5]], dtype=float32)
    """
    m = _Memory("x", x)
    return _along(m, kernels.forward, axis, False, m.flat)


def softmax_backward(grad_output: ArrayLike, y: ArrayLike, axis: int = 1) -> np.ndarray:
    """Gradient of `softmax`: y (g - sum g y).

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, of the shape and dtype of `y`.
    y : array_like
        What `softmax` returned.
    axis : int
        As given to `softmax`.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `y`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.softmax_backward(np.float32([[1, 0]]), np.float32([[0.5, 0.5]]))
    array([[ 0.25, -0.25]], dtype=float32)
    """
    m = _Memory("y", y)
    return _along(m, kernels.backward, axis, False, m.like("grad_output", grad_output), m.flat)


def log_softmax(x: ArrayLike, axis: int = 1) -> np.ndarray:
    """The logarithm of `softmax`, without the detour: x - max - log(sum(exp(x - max))).

    Parameters
    ----------
    x, axis
        As for `softmax`.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.log_softmax(np.float32([[0, -1000]]))
    array([[    0., -1000.]], dtype=float32)
    """
    m = _Memory("x", x)
    return _along(m, kernels.forward, axis, True, m.flat)


def log_softmax_backward(grad_output: ArrayLike, y: ArrayLike, axis: int = 1) -> np.ndarray:
    """Gradient of `log_softmax`: g - exp(y) sum g.

    Parameters
    ----------
    grad_output, y, axis
        As for `softmax_backward`; `y` is what `log_softmax` returned.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `y`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> y = fastconv.log_softmax(np.float32([[0, 0]]))
    >>> fastconv.log_softmax_backward(np.float32([[1, 0]]), y)
    array([[ 0.5, -0.5]], dtype=float32)
    """
    m = _Memory("y", y)
    return _along(m, kernels.backward, axis, True, m.like("grad_output", grad_output), m.flat)


# ---- cross-entropy --------------------------------------------------------------------------------------------------


def _targets(logits: np.ndarray, target: Any, weight: Any, ignore_index: Any) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers with 0 where ignored, and the weight of every one, float64."""
    if logits.ndim < 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must have at least 2 axes (N, classes, ...), got shape {logits.shape}")
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu":
        raise TypeError(f"target must hold class numbers of an integer dtype, got {classes.dtype}")
    if classes.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"target must have shape {(logits.shape[0], *logits.shape[2:])}, that of logits without the classes, got "
            f"{classes.shape}"
        )
    C = logits.shape[1]
    used = classes != ignore_index
    wrong = used & ((classes < 0) | (classes >= C))
    if wrong.any():
        raise ValueError(f"target must hold class numbers from 0 to {C - 1}, got {classes[wrong][0]}")
    classes = np.where(used, classes, 0)
    weights = used.astype(np.float64)
    if weight is not None:
        per_class = as_float("weight", weight)
        if per_class.shape != (C,):
            raise ValueError(f"weight must have shape ({C},), one value per class, got {per_class.shape}")
        weights *= per_class[classes]
    return classes, weights


def _share(weights: np.ndarray, reduction: Any) -> Any:
    """What every term counts in the loss."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction != "mean":
        return weights
    total = weights.sum()
    return weights / total if total else np.full_like(weights, np.nan)  # the mean of nothing


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Cross-entropy of the softmax of `logits` and the true classes: ``-log softmax(logits)[target]``.

    Parameters
    ----------
    logits : array_like
        Scores, (N, classes, ...).
    target : array_like of int
        Class numbers, (N, ...).
    weight : array_like, optional
        (classes,), how much a class counts.
    ignore_index : int
        A class number that counts nothing.
    reduction : {"mean", "sum", "none"}
        The weighted mean of all terms, their sum, or each.

    Returns
    -------
    float or numpy.ndarray
        The loss; with ``reduction="none"`` an array of the shape of `target`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> round(fastconv.cross_entropy(np.float32([[0, 0, 0, 0]]), [2]), 4)  # log 4
    1.3863
    """
    scores = as_float("logits", logits)
    classes, weights = _targets(scores, target, weight, ignore_index)
    share = _share(weights, reduction)
    logarithms = np.take_along_axis(log_softmax(scores), classes[:, None], 1)[:, 0]
    # A class of weight 0 may have probability 0: it counts nothing all the same.
    terms = -np.where(weights == 0, share, share * np.where(weights == 0, 0, logarithms.astype(np.float64)))
    if reduction == "none":
        return terms.astype(scores.dtype)
    return float(terms.sum()) if terms.size or reduction == "sum" else float("nan")


def cross_entropy_backward(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    grad_output: float = 1.0,
) -> np.ndarray:
    """Gradient of `cross_entropy` with respect to the logits: (softmax - one-hot target) times each term's share.

    Parameters
    ----------
    logits, target, weight, ignore_index
        As given to `cross_entropy`.
    reduction : {"mean", "sum"}
        As given to `cross_entropy`.
    grad_output : float
        Gradient of the loss.

    Returns
    -------
    numpy.ndarray
        Of the shape and dtype of `logits`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.cross_entropy_backward(np.float32([[0, 0, 0, 0]]), [2])
    array([[ 0.25,  0.25, -0.75,  0.25]], dtype=float32)
    """
    scores = as_float("logits", logits)
    classes, weights = _targets(scores, target, weight, ignore_index)
    if reduction == "none":
        raise ValueError("reduction must be 'mean' or 'sum', got 'none'")
    share = (float(grad_output) * _share(weights, reduction)).astype(COMPUTED[scores.dtype])[:, None]
    gradient = softmax(scores)
    picked = np.take_along_axis(gradient, classes[:, None], 1)
    np.put_along_axis(gradient, classes[:, None], picked - gradient.dtype.type(1), 1)
    gradient *= share
    return gradient
