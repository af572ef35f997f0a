"""How unpools are checked, planned and called: what stands behind the functions of `unpool.py`."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv import arrays, pool_window
from fastconv.cpu.reduce import SUM
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels import blocks
from fastconv.kernels import pool as kernels
from fastconv.kernels import unpool as scalar
from fastconv.kernels.pool_grad import match
from fastconv.kernels.resample import Axis
from fastconv.pool_call import FLOATS, Frame, bound, plain
from fastconv.pool_spec import PoolSpec
from fastconv.resample import map_call
from fastconv.spec import MAX_BYTES, per_axis

# ---- sizes ----------------------------------------------------------------------------------------------------------


def _sizes(frame: Frame, kernel_size: Any, stride: Any, padding: Any, output_size: Any) -> tuple[int, ...]:
    """Spatial sizes of what was pooled: (n - 1)*stride - 2*padding + kernel, or `output_size` if it is near that."""
    ndim = frame.ndim
    kernel = per_axis("kernel_size", kernel_size, ndim)
    steps = kernel if stride is None else per_axis("stride", stride, ndim)
    pads = per_axis("padding", padding, ndim, 0)
    usual = tuple((n - 1) * s - 2 * p + k for n, k, s, p in zip(frame.sizes, kernel, steps, pads, strict=True))
    if output_size is None:
        chosen = usual
    else:
        given = tuple(output_size) if isinstance(output_size, (tuple, list)) else output_size
        if isinstance(given, tuple) and len(given) == ndim + 1 + frame.batched:
            given = frame.parse_shape("output_size", given)  # a whole shape
        chosen = per_axis("output_size", given, ndim)
        for n, expected, s in zip(chosen, usual, steps, strict=True):
            if abs(n - expected) >= s:
                raise ValueError(
                    f"{frame.function}: output_size must be within a stride of {usual}, got {output_size!r}"
                )
    if min(chosen) < 1:
        raise ValueError(f"{frame.function}: padding={padding!r} leaves no cell of an output of {usual}")
    if max(frame.N, 1) * frame.C * prod(chosen) * 8 > MAX_BYTES:
        raise ValueError(f"{frame.function}: the output of sizes {chosen} would take more than 2**62 bytes")
    return chosen


# ---- by index -------------------------------------------------------------------------------------------------------


def _block_spec(frame: Frame, cells: tuple[int, ...], outputs: tuple[int, ...]) -> PoolSpec | None:
    """The pool whose windows cut planes of `cells` into `outputs` blocks, if there is one.

    An index in its own block is the only one there: nothing overlaps.
    """
    block = tuple(c // o for c, o in zip(cells, outputs, strict=True))
    if 0 in block or any(c // k != o for c, k, o in zip(cells, block, outputs, strict=True)):
        return None
    return PoolSpec.make(
        (frame.N, frame.C, *cells), block, dtype=frame.kernel.name, channels_last=frame.channels_last
    )  # fmt: skip


def _build_max_unpool(ndim: int, x: np.ndarray, options: tuple[Any, ...], layout: Any) -> pool_window.Call:
    frame = Frame(f"max_unpool{ndim}d", ndim, x, layout)
    sizes = _sizes(frame, *options)
    spec = _block_spec(frame, sizes, frame.sizes)
    plan = None if spec is None else pool_window.send_plan(spec)
    scatter = pool_window.scatter_call(frame, frame.sizes, sizes, plan, add=False)

    def call(x: np.ndarray, indices: Any) -> np.ndarray:
        return scatter(frame.flat(x), frame.take("indices", indices, frame.sizes, np.int64))

    return call


def _build_max_unpool_backward(
    ndim: int, grad: np.ndarray, indices_shape: tuple[int, ...], layout: Any
) -> pool_window.Call:
    frame = Frame(f"max_unpool{ndim}d_backward", ndim, grad, layout, FLOATS, "grad_output")
    sizes = frame.parse_shape("indices.shape", indices_shape)
    planes, C = (frame.N, frame.C) if frame.channels_last else (frame.N * frame.C, 1)
    cells, spec = prod(frame.sizes), _block_spec(frame, frame.sizes, sizes)
    plan = None if spec is None else blocks.fetch_plan(spec, get_num_threads())

    def call(grad: np.ndarray, indices: Any) -> np.ndarray:
        flat, places = frame.flat(grad), frame.take("indices", indices, sizes, np.int64)
        result = frame.empty(sizes)
        values = result.reshape(-1)
        if not (plan is not None and match(plan, values, places, flat)) and not scalar.collect(
            planes, C, prod(sizes), cells, flat, places, values, get_num_threads()
        ):
            raise pool_window.out_of_range(frame, cells, places)
        return frame.result(result)

    return call


def max_unpool(ndim: int, x: Any, indices: Any, options: tuple[Any, ...], layout: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_max_unpool, ndim, x, options, layout)(x, indices)


def max_unpool_backward(ndim: int, grad: Any, indices: Any, layout: Any) -> np.ndarray:
    grad, indices = arrays.as_array("grad_output", grad), arrays.as_array("indices", indices)
    return bound(_build_max_unpool_backward, ndim, grad, indices.shape, layout)(grad, indices)


# ---- in blocks ------------------------------------------------------------------------------------------------------


def repeat(size: int, block: int) -> Axis:
    return Axis(np.arange(size * block)[:, None] // block, np.ones((size * block, 1)), size)


def nail(size: int, block: int) -> Axis:
    at = np.arange(size * block)[:, None]
    return Axis(np.where(at % block == 0, at // block, -1), (at % block == 0).astype(np.float64), size)


def _blocks(frame: Frame, kernel_size: Any) -> tuple[int, ...]:
    block = per_axis("kernel_size", kernel_size, frame.ndim)
    if max(frame.N, 1) * frame.C * prod(frame.sizes) * prod(block) * 8 > MAX_BYTES:
        raise ValueError(f"{frame.function}: kernel_size={kernel_size!r} makes an output of more than 2**62 bytes")
    return block


def _build_blocks(ndim: int, x: np.ndarray, name: str, make: Any, kernel_size: Any, layout: Any) -> pool_window.Call:
    frame = Frame(f"{name}{ndim}d", ndim, x, layout)
    return map_call(frame, [make(n, k) for n, k in zip(frame.sizes, _blocks(frame, kernel_size), strict=True)])


def _build_blocks_backward(
    ndim: int, grad: np.ndarray, name: str, make: Any, kernel_size: Any, layout: Any
) -> pool_window.Call:
    frame = Frame(f"{name}{ndim}d_backward", ndim, grad, layout, FLOATS, "grad_output")
    block = per_axis("kernel_size", kernel_size, ndim)
    if any(n % k for n, k in zip(frame.sizes, block, strict=True)):
        raise ValueError(
            f"{frame.function}: grad_output must have spatial sizes that kernel_size={kernel_size!r} divides, "
            f"got {frame.sizes}"
        )
    return map_call(frame, [make(n // k, k).adjoint for n, k in zip(frame.sizes, block, strict=True)])


def block_unpool(ndim: int, x: Any, name: str, make: Any, kernel_size: Any, layout: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_blocks, ndim, x, name, make, plain(kernel_size), layout)(x)


def block_unpool_backward(ndim: int, grad: Any, name: str, make: Any, kernel_size: Any, layout: Any) -> np.ndarray:
    grad = arrays.as_array("grad_output", grad)
    return bound(_build_blocks_backward, ndim, grad, name, make, plain(kernel_size), layout)(grad)


# ---- averages -------------------------------------------------------------------------------------------------------


def _average_spec(frame: Frame, sizes: tuple[int, ...], options: tuple[Any, ...]) -> PoolSpec:
    kernel_size, stride, padding, _ = options
    return PoolSpec.make(
        (frame.N, frame.C, *sizes), kernel_size, stride=stride, padding=padding, dtype=frame.kernel.name,
        channels_last=frame.channels_last,
    )  # fmt: skip


def _build_avg(ndim: int, x: np.ndarray, options: tuple[Any, ...], layout: Any) -> pool_window.Call:
    frame = Frame(f"avg_unpool{ndim}d", ndim, x, layout)
    spec = _average_spec(frame, _sizes(frame, *options), options)
    if spec.output != frame.sizes:
        raise ValueError(
            f"{frame.function}: output_size={options[3]!r} has {spec.output} windows, but x has sizes {frame.sizes}"
        )
    return pool_window.spread_call(frame, spec, kernels.DIVIDE, prod(spec.kernel))


def _build_avg_backward(ndim: int, grad: np.ndarray, options: tuple[Any, ...], layout: Any) -> pool_window.Call:
    frame = Frame(f"avg_unpool{ndim}d_backward", ndim, grad, layout, FLOATS, "grad_output")
    spec = _average_spec(frame, frame.sizes, (*options, None))
    plan = kernels.plan(spec, SUM, kernels.DIVIDE, prod(spec.kernel), False, get_num_threads())
    return pool_window.planned(frame, spec, plan)


def avg_unpool(ndim: int, x: Any, options: tuple[Any, ...], layout: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_avg, ndim, x, options, layout)(x)


def avg_unpool_backward(ndim: int, grad: Any, options: tuple[Any, ...], layout: Any) -> np.ndarray:
    grad = arrays.as_array("grad_output", grad)
    return bound(_build_avg_backward, ndim, grad, options, layout)(grad)


def tuples(*options: Any) -> tuple[Any, ...]:
    return tuple(map(plain, options))
