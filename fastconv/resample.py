"""Resampling by interpolation, with the modes and conventions of `torch.nn.functional.interpolate`.

Every mode is a separable linear map: along each axis, output o is a weighted sum of a few cells around

    x(o) = (o + 1/2) * size/outputs - 1/2        align_corners=False: cells are intervals, their borders are kept
    x(o) = o * (size - 1)/(outputs - 1)          align_corners=True: cells are points, the first and last are kept

The gradient is the transposed map, run by the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.cpu.reduce import SUM
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels import pool
from fastconv.kernels import resample as kernels
from fastconv.kernels.resample import Axis
from fastconv.pool_call import FLOATS, Frame, bound, plain
from fastconv.pool_spec import PoolSpec, adaptive_windows, check_bool
from fastconv.pool_window import planned
from fastconv.spec import IntOrTuple, per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["interpolate", "interpolate_backward"]

#: mode -> the numbers of spatial axes that it serves, whether it takes align_corners.
MODES = {
    "nearest": ((1, 2, 3), False),
    "nearest-exact": ((1, 2, 3), False),
    "linear": ((1,), True),
    "bilinear": ((2,), True),
    "trilinear": ((3,), True),
    "bicubic": ((2,), True),
    "area": ((1, 2, 3), False),
}

Call = Callable[..., np.ndarray]


# ---- tables ---------------------------------------------------------------------------------------------------------


def _nearest(size: int, outputs: int, scale: float | None, exact: bool) -> Axis:
    """One cell each. The position is rounded in float32, as PyTorch does, so that the same cell is picked."""
    step = np.float32(size) / np.float32(outputs) if scale is None else np.float32(1 / scale)
    at = np.arange(outputs, dtype=np.float32) + np.float32(0.5 if exact else 0)
    cells = np.minimum(np.floor(at * step).astype(np.int64), size - 1)
    return Axis(cells[:, None], np.ones((outputs, 1)), size)


def _positions(size: int, outputs: int, scale: float | None, align_corners: bool) -> np.ndarray:
    """Where each output lies between the cells."""
    if align_corners:
        return np.arange(outputs) * ((size - 1) / (outputs - 1) if outputs > 1 else 0.0)
    return (np.arange(outputs) + 0.5) * (size / outputs if scale is None else 1 / scale) - 0.5


def _linear(size: int, outputs: int, scale: float | None, align_corners: bool) -> Axis:
    """The two cells around, weighted by nearness."""
    at = np.maximum(_positions(size, outputs, scale, align_corners), 0)
    low = np.minimum(np.floor(at).astype(np.int64), size - 1)
    share = np.clip(at - low, 0, 1)
    cells = np.stack([low, np.minimum(low + 1, size - 1)], 1)
    return Axis(cells, np.stack([1 - share, share], 1), size)


def _cubic_weight(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' convolution kernel (1981), a = -0.75 in image libraries, -0.5 for the third-order accurate one."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _cubic(size: int, outputs: int, scale: float | None, align_corners: bool) -> Axis:
    """The four cells around; those beyond the border repeat the last."""
    at = _positions(size, outputs, scale, align_corners)
    cells = np.floor(at).astype(np.int64)[:, None] + np.arange(-1, 3)
    return Axis(np.clip(cells, 0, size - 1), _cubic_weight(at[:, None] - cells, -0.75), size)


def _antialiased(size: int, outputs: int, scale: float | None, align_corners: bool, cubic: bool) -> Axis:
    """All cells under the kernel, stretched by the scale where the image shrinks (as PIL does)."""
    if align_corners:
        step = (size - 1) / (outputs - 1) if outputs > 1 else 0.0
    else:
        step = size / outputs if scale is None else 1 / scale
    stretch = max(step, 1.0)
    support = (2 if cubic else 1) * stretch
    center = step * (np.arange(outputs) + 0.5)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), size)
    cells = first[:, None] + np.arange(max(int((last - first).max()), 1))
    x = (cells - center[:, None] + 0.5) / stretch
    weights = _cubic_weight(x, -0.5) if cubic else np.maximum(1 - np.abs(x), 0)
    inside = cells < last[:, None]
    weights = np.where(inside, weights, 0.0)
    total = weights.sum(1, keepdims=True)
    return Axis(np.where(inside, cells, -1), weights / np.where(total == 0, 1, total), size)


def means(size: int, outputs: int) -> Axis:
    """The windows of an adaptive average."""
    windows = adaptive_windows(size, outputs)
    most = max(count for _, count in windows)
    cells, weights = np.full((outputs, most), -1, np.int64), np.zeros((outputs, most))
    for o, (first, count) in enumerate(windows):
        cells[o, :count], weights[o, :count] = np.arange(first, first + count), 1 / count
    return Axis(cells, weights, size)


@lru_cache(maxsize=256)
def axis_map(size: int, outputs: int, mode: str, scale: float | None, align_corners: bool, antialias: bool) -> Axis:
    """The table of one axis."""
    if mode == "area":
        return means(size, outputs)
    if mode.startswith("nearest"):
        return _nearest(size, outputs, scale, mode == "nearest-exact")
    if antialias:
        return _antialiased(size, outputs, scale, align_corners, mode == "bicubic")
    return (_cubic if mode == "bicubic" else _linear)(size, outputs, scale, align_corners)


# ---- calls ----------------------------------------------------------------------------------------------------------


def _blocks_of(axes: Sequence[Axis]) -> tuple[int, ...] | None:
    """Cells of a block along each axis, if the maps sum whole blocks: the adjoint of repeating values, a pool."""
    blocks = tuple(axis.cells.shape[1] for axis in axes)
    if max(blocks) == 1:
        return None
    for axis in axes:
        every = np.arange(axis.cells.size).reshape(axis.cells.shape)
        if axis.size != axis.cells.size or not ((axis.cells == every) & (axis.weights == 1)).all():
            return None
    return blocks


def map_call(frame: Frame, axes: Sequence[Axis]) -> Call:
    """The call that applies linear maps along the axes of a frame's arrays."""
    if blocks := _blocks_of(axes):
        spec = PoolSpec.make(
            (frame.N, frame.C, *frame.sizes), blocks, dtype=frame.kernel.name, channels_last=frame.channels_last
        )
        return planned(frame, spec, pool.plan(spec, SUM, pool.PLAIN, 1, False, get_num_threads()))
    planes, C = (frame.N, frame.C) if frame.channels_last else (frame.N * frame.C, 1)
    plan = kernels.plan(planes, C, axes, frame.kernel.name, frame.channels_last, get_num_threads())
    sizes = tuple(axis.outputs for axis in axes)

    def call(x: np.ndarray, out: Any = None) -> np.ndarray:
        flat, target = frame.flat(x), frame.target(sizes, out, x=x)
        kernels.run(plan, flat, target.reshape(-1))
        return frame.deliver(target, out)

    return call


def _factor(name: str, value: Any) -> float:
    try:
        factor = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a positive number, got {value!r}") from None
    if not 0 < factor < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return factor


def _output_sizes(
    sizes: tuple[int, ...], size: Any, scale_factor: Any, recompute: Any
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The output sizes, and per axis the scale that positions are computed with (None: the ratio of the sizes)."""
    ndim = len(sizes)
    if (size is None) == (scale_factor is None):
        raise ValueError(f"give one of size and scale_factor, got size={size!r}, scale_factor={scale_factor!r}")
    if recompute is not None:
        recompute = check_bool("recompute_scale_factor", recompute)
    if size is not None:
        if recompute:
            raise ValueError("recompute_scale_factor must be None or False when size is given, got True")
        return per_axis("size", size, ndim), (None,) * ndim
    given = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * ndim
    if len(given) != ndim:
        raise ValueError(f"scale_factor must be a number or {ndim} numbers (one per spatial axis), got {given!r}")
    factors = [_factor("scale_factor", value) for value in given]
    outputs = tuple(math.floor(float(n) * f) for n, f in zip(sizes, factors, strict=True))
    if min(outputs) < 1:
        raise ValueError(f"scale_factor must leave at least one cell of {sizes}, got {scale_factor!r}")
    return outputs, (None,) * ndim if recompute else tuple(factors)


def _maps(
    frame: Frame, sizes: tuple[int, ...], size: Any, scale_factor: Any, mode: Any, align_corners: Any,
    recompute: Any, antialias: Any,
) -> list[Axis]:  # fmt: skip
    """The maps of an interpolation of images of these sizes."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    dims, aligns = MODES[mode]
    if frame.ndim not in dims:
        raise ValueError(f"mode={mode!r} takes {dims[0]} spatial axes, got {frame.ndim}")
    if align_corners is not None:
        if not aligns:
            raise ValueError(f"align_corners must be None with mode={mode!r}, got {align_corners!r}")
        align_corners = check_bool("align_corners", align_corners)
    antialias = check_bool("antialias", antialias)
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"antialias must be False with mode={mode!r}: only bilinear and bicubic have it")
    outputs, scales = _output_sizes(sizes, size, scale_factor, recompute)
    return [
        axis_map(n, o, mode, scale, bool(align_corners), antialias)
        for n, o, scale in zip(sizes, outputs, scales, strict=True)
    ]


def _build(ndim: int, x: np.ndarray, options: tuple[Any, ...], layout: Any) -> Call:
    frame = Frame("interpolate", ndim, x, layout, FLOATS)
    return map_call(frame, _maps(frame, frame.sizes, *options))


def _build_backward(ndim: int, grad: np.ndarray, input_shape: Any, options: tuple[Any, ...], layout: Any) -> Call:
    frame = Frame("interpolate_backward", ndim, grad, layout, FLOATS, "grad_output")
    sizes = frame.parse_shape("input_shape", input_shape)
    axes = _maps(frame, sizes, *options)
    outputs = tuple(axis.outputs for axis in axes)
    if frame.sizes != outputs:
        raise ValueError(
            f"interpolate_backward: grad_output must have the shape of the output, {frame.shape(outputs)}, "
            f"got {frame.shape(frame.sizes)}"
        )
    return map_call(frame, [axis.adjoint for axis in axes])


def _ndim(name: str, x: np.ndarray) -> int:
    if x.ndim not in (3, 4, 5):
        raise ValueError(f"{name} must have 3 to 5 axes (N, C, 1 to 3 spatial), got shape {x.shape}")
    return x.ndim - 2


def interpolate(
    x: ArrayLike,
    size: IntOrTuple | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Resample a batch of signals, images or volumes.

    Parameters
    ----------
    x : array_like
        (N, C, L), (N, C, H, W) or (N, C, D, H, W): float16, float32 or float64.
    size : int or tuple, optional
        Output sizes of the spatial axes.
    scale_factor : float or tuple, optional
        In place of `size`: what to multiply the sizes by.
    mode : {"nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area"}
        How to interpolate; linear, bilinear and trilinear are for one, two and three spatial axes. "area" averages, as
        `adaptive_avg_pool2d`; "nearest" picks cell ``floor(o * size / outputs)``, "nearest-exact" the middle one.
    align_corners : bool, optional
        Whether the outermost cells keep their place, in place of the border. For linear and cubic modes.
    recompute_scale_factor : bool, optional
        Compute positions from the sizes rather than from `scale_factor`, which may differ where it was rounded.
    antialias : bool
        Stretch the kernel when the image shrinks. For bilinear and bicubic.
    layout : {"NCHW", "NHWC"}
        Order of the axes.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of the dtype and memory order of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> fastconv.interpolate(x, scale_factor=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]])
    >>> fastconv.interpolate(x, size=(1, 3), mode="bilinear", align_corners=True)[0, 0]
    array([[1. , 1.5, 2. ]])
    """
    x = arrays.as_array("x", x)
    options = (plain(size), plain(scale_factor), mode, align_corners, recompute_scale_factor, antialias)
    return bound(_build, _ndim("x", x), x, options, layout)(x, out)


def interpolate_backward(
    grad_output: ArrayLike,
    input_shape: Any,
    size: IntOrTuple | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `interpolate`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the output.
    input_shape : tuple of int
        Shape of what was resampled.
    size, scale_factor, mode, align_corners, recompute_scale_factor, antialias, layout
        As they were given to `interpolate`.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.interpolate_backward(np.ones((1, 1, 4)), (1, 1, 2), scale_factor=2)
    array([[[2., 2.]]])
    """
    grad = arrays.as_array("grad_output", grad_output)
    options = (plain(size), plain(scale_factor), mode, align_corners, recompute_scale_factor, antialias)
    return bound(_build_backward, _ndim("grad_output", grad), grad, plain(input_shape), options, layout)(grad)
