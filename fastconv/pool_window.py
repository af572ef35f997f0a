"""How pools over windows are checked, planned and called: what stands behind the functions of `pool.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from fastconv import arrays
from fastconv.cpu.reduce import MAX, SQUARES, SUM
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels import blocks, pool_grad
from fastconv.kernels import pool as kernels
from fastconv.pool_call import FLOATS, NUMBERS, Frame, bound
from fastconv.pool_spec import PoolSpec, check_bool

Call = Callable[..., Any]


def spec_of(frame: Frame, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> PoolSpec:
    """The spec of a pool over a frame's arrays."""
    return PoolSpec.make(
        (frame.N, frame.C, *frame.sizes),
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        dtype=frame.kernel.name,
        channels_last=frame.channels_last,
    )


def planned(frame: Frame, spec: PoolSpec, plan: kernels.Plan) -> Call:
    """The call that runs a plan without indices."""

    shape = frame.memory_shape(spec.output)

    def call(x: np.ndarray, out: Any = None) -> np.ndarray:
        target = np.empty(shape, frame.kernel) if out is None else frame.target(spec.output, out, x=x)
        kernels.run(plan, frame.flat(x), target)
        return frame.deliver(target, out)

    return call


# ---- maximum ------------------------------------------------------------------------------------------------------


def ranked(frame: Frame, spec: PoolSpec, plan: kernels.Plan) -> Call:
    """The call that runs a plan with indices."""

    shape = frame.memory_shape(spec.output)

    def call(x: np.ndarray, out: Any = None) -> tuple[np.ndarray, np.ndarray]:
        target = np.empty(shape, frame.kernel) if out is None else frame.target(spec.output, out, x=x)
        indices = np.empty(shape, np.int64)
        kernels.run(plan, frame.flat(x), target, indices)
        places = indices if frame.from_memory is None else indices.transpose(frame.from_memory)
        return frame.deliver(target, out), places

    return call


def check_window(spec: PoolSpec) -> None:
    """Places within a window are counted in integers as wide as its values."""
    reach = 0
    for e, size in zip(spec.extent, spec.input, strict=True):
        reach = reach * size + e
    if reach >= 2**31 and spec.dtype in ("float32", "int32"):
        raise ValueError(f"return_indices must be False for windows that reach over {reach} cells, 2**31 or more")


def _build_max(
    ndim: int, x: np.ndarray, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, indexed: Any,
    layout: Any,
) -> Call:  # fmt: skip
    frame = Frame(f"max_pool{ndim}d", ndim, x, layout, NUMBERS)
    spec = spec_of(frame, kernel_size, stride, padding, dilation, ceil_mode)
    if not check_bool("return_indices", indexed):
        return planned(frame, spec, kernels.plan(spec, MAX, kernels.PLAIN, 1, False, get_num_threads()))
    check_window(spec)
    return ranked(frame, spec, kernels.plan(spec, MAX, kernels.PLAIN, 1, True, get_num_threads()))


def max_pool(ndim: int, x: Any, *options: Any, out: Any) -> Any:
    x = arrays.as_array("x", x)
    return bound(_build_max, ndim, x, *options)(x, out)


def send_plan(spec: PoolSpec) -> kernels.Plan | None:
    """How values are sent to cells of their own windows, if there is a better way than one by one."""
    if prod(spec.kernel) > blocks.MOST_TAPS or prod(spec.input) >= 2**31:
        return None
    return (pool_grad.send_plan if spec.channels_last else blocks.place_plan)(spec, get_num_threads())


def scatter_call(
    frame: Frame, outputs: tuple[int, ...], cells: tuple[int, ...], plan: kernels.Plan | None = None, add: bool = True
) -> Call:
    """The call that puts values (flat, of spatial sizes `outputs`) where indices say in planes of sizes `cells`.

    `plan` is for values that stay in their windows; where one does not, or without it, they go one by one.
    """
    planes, lanes = (frame.N, frame.C) if frame.channels_last else (frame.N * frame.C, 1)
    count, size = prod(outputs), prod(cells)

    def call(values: np.ndarray, places: np.ndarray) -> np.ndarray:
        result = frame.empty(cells)
        flat = result.reshape(-1)
        if not (plan is not None and pool_grad.match(plan, values, places, flat)) and not pool_grad.scatter(
            planes, lanes, count, size, values, places, flat, add, get_num_threads()
        ):
            raise out_of_range(frame, size, places)
        return frame.result(result)

    return call


def out_of_range(frame: Frame, cells: int, places: np.ndarray) -> ValueError:
    """What is wrong with indices that lie outside a plane of so many cells."""
    return ValueError(
        f"{frame.function}: indices must be places in a plane of {cells} cells, got values from "
        f"{places.min()} to {places.max()}"
    )


def _build_max_backward(
    ndim: int, x: np.ndarray, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, layout: Any
) -> Call:  # fmt: skip
    frame = Frame(f"max_pool{ndim}d_backward", ndim, x, layout)
    spec = spec_of(frame, kernel_size, stride, padding, dilation, ceil_mode)
    spread = scatter_call(frame, spec.output, spec.input, send_plan(spec))

    def call(grad: Any, x: np.ndarray, indices: Any) -> np.ndarray:
        values = frame.take("grad_output", grad, spec.output)
        if indices is not None:
            return spread(values, frame.take("indices", indices, spec.output, np.int64))
        check_window(spec)
        maxima, places = frame.empty(spec.output).reshape(-1), frame.empty(spec.output, np.int64).reshape(-1)
        kernels.run(kernels.plan(spec, MAX, kernels.PLAIN, 1, True, get_num_threads()), frame.flat(x), maxima, places)
        return spread(values, places)

    return call


def max_pool_backward(ndim: int, grad: Any, x: Any, *options: Any, indices: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_max_backward, ndim, x, *options)(grad, x, indices)


def check_grad(frame: Frame, spec: PoolSpec) -> None:
    """ValueError unless the frame's array, a gradient, has the shape of the spec's output."""
    if frame.sizes != spec.output:
        raise ValueError(
            f"{frame.function}: grad_output must have the shape of the output, {frame.shape(spec.output)}, "
            f"got {frame.shape(frame.sizes)}"
        )


# ---- average ------------------------------------------------------------------------------------------------------


def _divisor(value: Any) -> int | None:
    """`divisor_override` checked."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"divisor_override must be None or an integer other than 0, got {value!r}")
    if value == 0:
        raise ValueError("divisor_override must be None or an integer other than 0, got 0")
    return int(value)


def _finish(include: Any, divisor: Any) -> tuple[int, int]:
    """What is done to the sums of an average, and the divisor if it is always the same."""
    include, divisor = check_bool("count_include_pad", include), _divisor(divisor)
    if divisor is not None:
        return kernels.DIVIDE, divisor
    return (kernels.INCLUDE if include else kernels.EXCLUDE), 1


def _build_avg(
    ndim: int, x: np.ndarray, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any, include: Any,
    divisor: Any, layout: Any,
) -> Call:  # fmt: skip
    frame = Frame(f"avg_pool{ndim}d", ndim, x, layout)
    spec = spec_of(frame, kernel_size, stride, padding, dilation, ceil_mode)
    return planned(frame, spec, kernels.plan(spec, SUM, *_finish(include, divisor), False, get_num_threads()))


def avg_pool(ndim: int, x: Any, *options: Any, out: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_avg, ndim, x, *options)(x, out)


def _divisors(spec: PoolSpec, finish: int) -> np.ndarray | None:
    """The divisor of every window, shaped to multiply (*output); None if all windows have all their cells."""
    include = finish == kernels.INCLUDE
    if spec.is_within_padding if include else spec.is_inside:
        return None
    cells = np.ones((), np.dtype(spec.dtype))
    for axis in range(spec.ndim):
        along = [max(spec.taps(axis, o, include), 1) for o in range(spec.output[axis])]
        cells = np.multiply.outer(cells, np.array(along, spec.dtype))
    return cells


def spread_call(frame: Frame, spec: PoolSpec, finish: int, divisor: int) -> Call:
    """The call that turns the gradient of (divided) sums over windows into that of the input."""
    cells = None
    if finish in (kernels.INCLUDE, kernels.EXCLUDE):
        cells = _divisors(spec, finish)
        divisor = prod(spec.kernel) if cells is None else 1
    if cells is not None:
        cells = cells[..., None] if frame.channels_last else cells
    plan = pool_grad.spread_plan(spec, divisor, get_num_threads())

    def call(grad: np.ndarray) -> np.ndarray:
        flat, result = frame.flat(grad), frame.empty(spec.input)
        if cells is not None:
            flat = (flat.reshape(frame.memory_shape(spec.output)) / cells).reshape(-1)
        kernels.run(plan, flat, result.reshape(-1))
        return frame.result(result)

    return call


def _build_avg_backward(
    ndim: int, grad: np.ndarray, input_shape: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: Any, include: Any, divisor: Any, layout: Any,
) -> Call:  # fmt: skip
    frame = Frame(f"avg_pool{ndim}d_backward", ndim, grad, layout, FLOATS, "grad_output")
    sizes = frame.parse_shape("input_shape", input_shape)
    spec = PoolSpec.make(
        (frame.N, frame.C, *sizes), kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
        dtype=frame.kernel.name, channels_last=frame.channels_last,
    )  # fmt: skip
    check_grad(frame, spec)
    return spread_call(frame, spec, *_finish(include, divisor))


def avg_pool_backward(ndim: int, grad: Any, *options: Any) -> np.ndarray:
    grad = arrays.as_array("grad_output", grad)
    return bound(_build_avg_backward, ndim, grad, *options)(grad)


# ---- L_p norm -----------------------------------------------------------------------------------------------------


def norm_order(value: Any) -> float:
    """`norm_type` checked."""
    try:
        order = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"norm_type must be a positive number or inf, got {value!r}") from None
    if not order > 0:
        raise ValueError(f"norm_type must be a positive number or inf, got {value!r}")
    return order


def _build_lp(
    ndim: int, x: np.ndarray, norm_type: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: Any, layout: Any,
) -> Call:  # fmt: skip
    frame = Frame(f"lp_pool{ndim}d", ndim, x, layout)
    spec, p = spec_of(frame, kernel_size, stride, padding, dilation, ceil_mode), norm_order(norm_type)
    op = SQUARES if p == 2 else MAX if p == math.inf else SUM
    run = planned(
        frame, spec, kernels.plan(spec, op, kernels.ROOT if p == 2 else kernels.PLAIN, 1, False, get_num_threads())
    )
    if p == 2:
        return run

    def call(x: np.ndarray, out: Any = None) -> np.ndarray:
        powers = np.abs(x).astype(frame.kernel, copy=False)
        if p not in (1, math.inf):
            powers **= p
        result = bound(_build_lp_sums, ndim, powers, spec, op, layout)(powers)
        if p == math.inf:
            result = np.maximum(result, 0)  # of a window without cells
        elif p != 1:
            result **= 1 / p
        result = result.astype(frame.dtype, copy=False)
        return result if out is None else frame.into(out, result, x=x)

    return call


def _build_lp_sums(ndim: int, powers: np.ndarray, spec: PoolSpec, op: int, layout: Any) -> Call:
    """The sums of powers, which numpy may have put into another memory order than x."""
    frame = Frame(f"lp_pool{ndim}d", ndim, powers, layout)
    again = replace(spec, channels_last=frame.channels_last)
    return planned(frame, again, kernels.plan(again, op, kernels.PLAIN, 1, False, get_num_threads()))


def lp_pool(ndim: int, x: Any, *options: Any, out: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_lp, ndim, x, *options)(x, out)


def norm_slope(x: np.ndarray, p: float) -> np.ndarray:
    """d|x|**p / dx / p, that is |x|**(p - 1) with the sign of x."""
    if p == 2:
        return x
    return np.sign(x) if p == 1 else np.sign(x) * np.abs(x) ** (p - 1)


def over_norm(grad: np.ndarray, norm: np.ndarray, p: float) -> np.ndarray:
    """grad * norm**(1 - p), 0 where the norm is."""
    if p == 1:
        return grad
    power = norm if p == 2 else norm ** (p - 1)
    return np.divide(grad, power, out=np.zeros_like(grad), where=power != 0)


def lp_pool_backward(
    ndim: int, grad: Any, x: Any, norm_type: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: Any, layout: Any,
) -> np.ndarray:  # fmt: skip
    grad, x, p = arrays.as_array("grad_output", grad), arrays.as_array("x", x), norm_order(norm_type)
    windows = (kernel_size, stride, padding, dilation, ceil_mode)
    if p == math.inf:
        signs = max_pool_backward(ndim, grad, np.abs(x), *windows, layout, indices=None)
        return signs * np.sign(x)
    norm = lp_pool(ndim, x, p, *windows, layout, out=None)
    if norm.shape != grad.shape or norm.dtype != grad.dtype:
        raise ValueError(
            f"lp_pool{ndim}d_backward: grad_output must be {norm.dtype} of the shape of the output, {norm.shape}, "
            f"got {grad.dtype} {grad.shape}"
        )
    share = over_norm(grad, norm, p)
    # The adjoint of the sums over windows: what an average with divisor 1 has.
    total = avg_pool_backward(ndim, share, x.shape, *windows, False, 1, layout)
    return total * norm_slope(x, p)
