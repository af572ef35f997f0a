"""Normalisation of feature maps: batch, group and instance norm, each with its backward.

All compute ``y = (x - mean) / sqrt(variance + eps) * weight + bias``; they differ in which values share a mean:

================  ==========================================  ================
batch norm        a channel in all images                     Ioffe & Szegedy 2015
layer norm        the trailing axes of one row                see `norm_rows`
instance norm     a channel of one image                      Ulyanov et al. 2016
group norm        some channels of one image                  Wu & He 2018
================  ==========================================  ================

Statistics are computed and returned in float64, whatever the data; the variance is the biased one. They are the same
bits for any number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.cpu import threads
from fastconv.features import Features, as_float, flag, number, threads_for
from fastconv.kernels import norm as rows
from fastconv.kernels import norm_last as columns
from fastconv.spec import per_axis as _per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
]

Statistics = tuple[np.ndarray, np.ndarray]
Gradients = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]

_BLOCK = 8192  # elements of a block of channels-last rows: read twice from L1, written once
_SPAN = 64  # channels joined by one task
_TASK = 1 << 14  # elements of a task at least: taking one costs an atomic operation


@lru_cache(1024)
def _rows_geometry(N: int, C: int, S: int, channels: int, batch: bool, given: bool) -> tuple[np.ndarray, int]:
    """Geometry and tasks of (N, C, *spatial) memory; see `kernels.norm`."""
    if batch:
        units, run = C, [S, N, C * S, 1, C, S]
    else:
        units, run = N * (C // channels), [channels * S, 1, 0, channels, C // channels, S]
    per = max(1, _TASK * units // (N * C * S))
    return np.array([given, units, per, *run], np.int64), -(-units // per)


@lru_cache(1024)
def _columns_geometry(
    N: int, C: int, S: int, channels: int, batch: bool, given: bool
) -> tuple[np.ndarray, int, int, int]:
    """Geometry, tasks over blocks, joining tasks and pixels of a coefficient row; see `kernels.norm_last`."""
    images, S = (1, N * S) if batch else (N, S)
    block = max(64, _BLOCK // C)
    blocks, span, repeat = -(-S // block), _SPAN if channels == 1 else C, max(1, 64 // C)
    geometry = np.array([given, images, S, C, channels, block, blocks, span, repeat], np.int64)
    return geometry, images * blocks, images * -(-C // span), repeat


class _Grouping:
    """Which values of a batch of feature maps share a mean: `channels` neighbouring ones, of one image or of all."""

    def __init__(self, x: Features, channels: int, batch: bool) -> None:
        self.x, self.channels, self.batch = x, channels, batch
        self.images = 1 if batch else x.N
        self.shape = (x.C,) if batch else (x.N, x.C // channels)
        self.count = (x.N if batch else 1) * channels * x.S
        self.threads = threads_for(x.flat.size)
        self.sizes = x.N, x.C, x.S, channels, batch

    def forward(
        self, given: Statistics | None, weight: np.ndarray, bias: np.ndarray, eps: float, out: Any
    ) -> tuple[np.ndarray, Statistics]:
        """The normalised features and the statistics they were normalised by."""
        x = self.x
        target = x.target(out)
        mean, variance = given or (np.empty(prod(self.shape)), np.empty(prod(self.shape)))
        if x.flat.size:
            numbers, known = np.array([eps]), given is not None
            if x.channels_last:
                geometry, tasks, joining, repeat = _columns_geometry(*self.sizes, known)
                parts = np.empty(0 if known else tasks * 3 * x.C, x.dtype)
                coefficients = np.empty(self.images * 3 * repeat * x.C, x.dtype)
                sums = np.empty(self.images * 2 * x.C)
                if not known:
                    threads.run(columns.gather_moments, tasks, (geometry, x.flat, parts), self.threads)
                statistics = (geometry, numbers, mean, variance, sums, parts, weight, bias, coefficients)
                threads.run(columns.join_moments, joining, statistics, 1 if joining < 4 else self.threads)
                threads.run(columns.standardise, tasks, (geometry, x.flat, coefficients, target), self.threads)
            else:
                geometry, tasks = _rows_geometry(*self.sizes, known)
                kernel_arrays = (geometry, numbers, mean, variance, x.flat, weight, bias, target)
                threads.run(rows.forward, tasks, kernel_arrays, self.threads)
        return x.deliver(target, out), (mean.reshape(self.shape), variance.reshape(self.shape))

    def moments(self) -> Statistics:
        """Mean and biased variance alone."""
        none = np.empty(0, self.x.dtype)
        return self.forward(None, none, none, 0.0, None)[1]

    def backward(
        self, gradient: np.ndarray, statistics: Statistics, constant: bool, weight: np.ndarray, eps: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradients of x, weight and bias; with `constant` statistics that did not come from x."""
        x = self.x
        target = x.target()
        mean, variance = statistics
        totals = np.zeros((2, x.C))  # of g, and of g times the normalised x, for each channel
        numbers = np.array([eps])
        if x.flat.size:
            if x.channels_last:
                geometry, tasks, joining, repeat = _columns_geometry(*self.sizes, constant)
                means = np.repeat(mean, self.channels).astype(x.dtype)
                parts = np.empty(tasks * 2 * x.C, x.dtype)
                coefficients = np.empty(self.images * 4 * repeat * x.C, x.dtype)
                both = np.empty((self.images, 2, x.C))
                threads.run(columns.gather_products, tasks, (geometry, gradient, x.flat, means, parts), self.threads)
                joined = (geometry, numbers, mean, variance, both.reshape(-1), parts, weight, coefficients)
                threads.run(columns.join_products, joining, joined, 1 if joining < 4 else self.threads)
                last = (geometry, gradient, x.flat, coefficients, target)
                threads.run(columns.input_gradient, tasks, last, self.threads)
                totals = both[0] if self.images == 1 else both.sum(0)
            else:
                geometry, tasks = _rows_geometry(*self.sizes, constant)
                sums = np.empty((x.N, x.C, 2))
                operands = (geometry, numbers, mean, variance, sums.reshape(-1), x.flat, gradient, weight, target)
                threads.run(rows.backward, tasks, operands, self.threads)
                totals = (sums[0] if x.N == 1 else sums.sum(0)).T
        return x.wrap(target), totals[1], totals[0]


def _float64(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Statistics given by the caller as float64."""
    array = as_float(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array, np.float64)


def given_statistics(mean: Any, variance: Any, shape: tuple[int, ...]) -> Statistics | None:
    """Mean and variance that the caller knows, flat in float64; None if he does not."""
    if (mean is None) != (variance is None):
        raise ValueError("mean and variance must be given together")
    if mean is None:
        return None
    return _float64("mean", mean, shape).reshape(-1), _float64("variance", variance, shape).reshape(-1)


def _running(mean: Any, variance: Any, C: int, update: bool) -> None:
    """Check the arrays of running statistics, which training changes in place."""
    for name, array in (("running_mean", mean), ("running_var", variance)):
        if array is None:
            continue
        if update and not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a numpy.ndarray, which is updated in place, got {type(array).__name__}")
        if as_float(name, array).shape != (C,):
            raise ValueError(f"{name} must have shape ({C},), one value per channel, got {np.shape(array)}")
        if update and not array.flags.writeable:
            raise ValueError(f"{name} must be writable, got a read-only array")


def _update(running: Any, value: np.ndarray, momentum: float) -> None:
    if running is not None:
        running += (momentum * (value - running)).astype(running.dtype)


def batch_norm(
    x: ArrayLike,
    running_mean: np.ndarray | None = None,
    running_var: np.ndarray | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
    return_stats: bool = False,
) -> Any:
    """Batch normalisation: every channel to mean 0 and variance 1 over all images and cells.

    Parameters
    ----------
    x : array_like
        (N, C) or (N, C, *spatial) with one to three spatial axes; float16, float32 or float64.
    running_mean, running_var : numpy.ndarray, optional
        (C,). In training they are moved towards the batch's statistics, in place: ``running += momentum * (batch -
        running)``, with the unbiased variance. Otherwise they are what x is normalised by.
    weight, bias : array_like, optional
        (C,), the learned scale (1 without it) and shift (0).
    training : bool
        Whether the statistics are those of this batch.
    momentum : float
        Share of the batch in the running statistics.
    eps : float
        Added to the variance.
    layout : {"NCHW", "NHWC"}
        Order of the axes of `x` and the result.
    out : numpy.ndarray, optional
        Where to put the result.
    return_stats : bool
        Also return the mean and the biased variance that were used, (C,) in float64, for `batch_norm_backward`.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`; with `return_stats` a tuple ``(y, mean, variance)``.

    References
    ----------
    S. Ioffe, C. Szegedy: Batch Normalization, 2015. T. Chan, G. Golub, R. LeVeque: Algorithms for computing the
    sample variance, 1983.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float32([[[[1, 3], [5, 7]]]])
    >>> fastconv.batch_norm(x, training=True, eps=0).round(3)[0, 0]
    array([[-1.342, -0.447],
           [ 0.447,  1.342]], dtype=float32)
    """
    f = Features("x", x, layout)
    training = flag("training", training)
    eps, momentum = number("eps", eps, 0.0), number("momentum", momentum)
    weight, bias = f.per_channel("weight", weight), f.per_channel("bias", bias)
    _running(running_mean, running_var, f.C, training)
    grouping = _Grouping(f, 1, batch=True)
    given = None
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var must be given unless training=True")
        given = given_statistics(running_mean, running_var, grouping.shape)
    elif f.N and grouping.count < 2:
        raise ValueError(f"x must have more than one value per channel in training, got shape {f.shape}")
    y, (mean, variance) = grouping.forward(given, weight, bias, eps, out)
    if training and f.N:
        _update(running_mean, mean, momentum)
        _update(running_var, variance * (grouping.count / (grouping.count - 1)), momentum)
    return (y, mean, variance) if return_stats else y


def batch_norm_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    training: bool = True,
    eps: float = 1e-5,
    layout: str = "NCHW",
) -> Gradients:
    """Gradients of `batch_norm`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, of the shape and dtype of `x`.
    x, weight, eps, layout
        As given to `batch_norm`.
    mean, variance : array_like, optional
        What ``batch_norm(..., return_stats=True)`` returned; computed again without them.
    training : bool
        True where the statistics came from x and are differentiated with it; False for constant ones.

    Returns
    -------
    grad_x : numpy.ndarray
    grad_weight, grad_bias : numpy.ndarray or None
        (C,) in the dtype of x; None without a `weight`.

    Notes
    -----
    With g = grad_output, the normalised value z, sums over the m values of a channel and s = 1/sqrt(variance + eps)::

        grad_bias = sum g        grad_weight = sum g z        grad_x = weight s (g - grad_bias / m - z grad_weight / m)

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float64([[1.0], [2.0], [4.0]])
    >>> grad_x, grad_weight, grad_bias = fastconv.batch_norm_backward(np.float64([[1], [0], [0]]), x, np.ones(1))
    >>> bool(abs(grad_x.sum()) < 1e-12), grad_bias
    (True, array([1.]))
    """
    f = Features("x", x, layout)
    gradient = f.like("grad_output", grad_output)
    scale = f.per_channel("weight", weight)
    grouping = _Grouping(f, 1, batch=True)
    constant = not flag("training", training)
    statistics = given_statistics(mean, variance, grouping.shape)
    if statistics is None:
        if constant:
            raise ValueError("mean and variance must be given unless training=True")
        statistics = grouping.moments()
    return _gradients(grouping, gradient, statistics, constant, scale, number("eps", eps, 0.0), weight is not None)


def _gradients(
    grouping: _Grouping,
    gradient: np.ndarray,
    statistics: Statistics,
    constant: bool,
    weight: np.ndarray,
    eps: float,
    affine: bool,
) -> Gradients:
    mean, variance = statistics[0].reshape(-1), statistics[1].reshape(-1)
    grad_x, grad_weight, grad_bias = grouping.backward(gradient, (mean, variance), constant, weight, eps)
    if not affine:
        return grad_x, None, None
    return grad_x, grad_weight.astype(grouping.x.result), grad_bias.astype(grouping.x.result)


def _groups(num_groups: Any, C: int) -> int:
    groups = _per_axis("num_groups", num_groups, 1)[0]
    if C % groups:
        raise ValueError(f"num_groups must divide the channels: num_groups={groups}, x has {C} channels")
    return groups


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
    return_stats: bool = False,
) -> Any:
    """Group normalisation: the channels of an image in `num_groups` groups, each to mean 0 and variance 1.

    Parameters
    ----------
    x : array_like
        (N, C) or (N, C, *spatial); float16, float32 or float64.
    num_groups : int
        A divisor of C. 1 is layer norm over all of an image, C is instance norm.
    weight, bias : array_like, optional
        (C,), the learned scale and shift.
    eps, layout, out
        As for `batch_norm`.
    return_stats : bool
        Also return mean and biased variance, (N, num_groups) in float64.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`; with `return_stats` a tuple ``(y, mean, variance)``.

    References
    ----------
    Y. Wu, K. He: Group Normalization, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.group_norm(np.float32([[1, 3, 10, 30]]), 2, eps=0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    f = Features("x", x, layout)
    groups = _groups(num_groups, f.C)
    weight, bias = f.per_channel("weight", weight), f.per_channel("bias", bias)
    y, statistics = _Grouping(f, f.C // groups, batch=False).forward(None, weight, bias, number("eps", eps, 0.0), out)
    return (y, *statistics) if return_stats else y


def group_norm_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    eps: float = 1e-5,
    layout: str = "NCHW",
) -> Gradients:
    """Gradients of `group_norm`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, of the shape and dtype of `x`.
    x, num_groups, weight, eps, layout
        As given to `group_norm`.
    mean, variance : array_like, optional
        (N, num_groups), what ``group_norm(..., return_stats=True)`` returned; computed again without them.

    Returns
    -------
    grad_x : numpy.ndarray
    grad_weight, grad_bias : numpy.ndarray or None
        (C,) in the dtype of x; None without a `weight`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.random.default_rng(0).standard_normal((2, 4, 3, 3))
    >>> grad_x, grad_weight, grad_bias = fastconv.group_norm_backward(np.ones_like(x), x, 2, np.ones(4))
    >>> bool(abs(grad_x).max() < 1e-12), grad_bias  # the sum of normalised values does not depend on x
    (True, array([18., 18., 18., 18.]))
    """
    f = Features("x", x, layout)
    grouping = _Grouping(f, f.C // _groups(num_groups, f.C), batch=False)
    gradient = f.like("grad_output", grad_output)
    scale = f.per_channel("weight", weight)
    statistics = given_statistics(mean, variance, grouping.shape) or grouping.moments()
    return _gradients(grouping, gradient, statistics, False, scale, number("eps", eps, 0.0), weight is not None)


def instance_norm(
    x: ArrayLike,
    running_mean: np.ndarray | None = None,
    running_var: np.ndarray | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
    return_stats: bool = False,
) -> Any:
    """Instance normalisation: every channel of every image to mean 0 and variance 1.

    Parameters
    ----------
    x : array_like
        (N, C, *spatial) with one to three spatial axes; float16, float32 or float64.
    running_mean, running_var : numpy.ndarray, optional
        (C,). With `use_input_stats` moved towards the statistics, averaged over the images; else what x is
        normalised by.
    weight, bias : array_like, optional
        (C,), the learned scale and shift.
    use_input_stats : bool
        Whether the statistics are those of x.
    momentum, eps, layout, out
        As for `batch_norm`.
    return_stats : bool
        Also return mean and biased variance: (N, C), or (C,) without `use_input_stats`, in float64.

    Returns
    -------
    numpy.ndarray
        Of the shape, dtype and memory order of `x`; with `return_stats` a tuple ``(y, mean, variance)``.

    References
    ----------
    D. Ulyanov, A. Vedaldi, V. Lempitsky: Instance Normalization, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.instance_norm(np.float32([[[1, 3], [10, 30]]]), eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """
    f = Features("x", x, layout, least_axes=3)
    own = flag("use_input_stats", use_input_stats)
    if not own:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps, layout=layout, out=out,
                          return_stats=return_stats)  # fmt: skip
    momentum, eps = number("momentum", momentum), number("eps", eps, 0.0)
    _running(running_mean, running_var, f.C, True)
    weight, bias = f.per_channel("weight", weight), f.per_channel("bias", bias)
    if f.N and f.S < 2:
        raise ValueError(f"x must have more than one cell per channel, got shape {f.shape}")
    y, (mean, variance) = _Grouping(f, 1, batch=False).forward(None, weight, bias, eps, out)
    if f.N:
        _update(running_mean, mean.mean(0), momentum)
        _update(running_var, variance.mean(0) * (f.S / (f.S - 1)), momentum)
    return (y, mean, variance) if return_stats else y


def instance_norm_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    eps: float = 1e-5,
    layout: str = "NCHW",
) -> Gradients:
    """Gradients of `instance_norm` with the statistics of x: those of `group_norm` with a group for each channel.

    Parameters
    ----------
    grad_output, x, weight, mean, variance, eps, layout
        As for `group_norm_backward`; mean and variance are (N, C).

    Returns
    -------
    grad_x : numpy.ndarray
    grad_weight, grad_bias : numpy.ndarray or None
        (C,) in the dtype of x; None without a `weight`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float64([[[1, 2, 4]]])
    >>> fastconv.instance_norm_backward(np.float64([[[1, 1, 1]]]), x)[0].round(12) + 0.0
    array([[[0., 0., 0.]]])
    """
    channels = Features("x", x, layout, least_axes=3).C
    return group_norm_backward(
        grad_output, x, channels, weight, mean=mean, variance=variance, eps=eps, layout=layout
    )  # fmt: skip
