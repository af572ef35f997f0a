"""What the benchmark times besides the forward pass: gradients, and transposed convolutions.

A layer of the suite stands for all of them: its gradients, and the transposed convolution that takes its output's
shape to its input's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastconv
from fastconv import grad
from fastconv.bench.shapes import Layer
from fastconv.plan import candidates

#: "backward" is both gradients in one call.
DIRECTIONS = ("forward", "input", "weight", "backward", "transpose")


def output_padding(layer: Layer) -> tuple[int, ...]:
    """What makes the transposed convolution of the layer's output as large as its input."""
    spec = layer.spec
    return tuple(
        size - ((out - 1) * s - 2 * p + (k - 1) * d + 1)
        for size, out, s, p, k, d in zip(
            layer.spatial, spec.output, layer.stride, layer.padding, layer.kernel, layer.dilation, strict=True
        )
    )


def gradient(layer: Layer, dtype: str) -> np.ndarray:
    """The gradient of the layer's output, the same at every call."""
    values = np.random.default_rng(1).random(layer.spec.out_shape, dtype=np.float32)
    return (2 * values - 1).astype(dtype, copy=False)


def plans(layer: Layer, direction: str, dtype: str, accuracy: str) -> list[Any]:
    """The plans behind a direction: two for "backward"."""
    shapes = layer.spec.x_shape, layer.spec.weight_shape
    names = ("input", "weight") if direction == "backward" else (direction,)
    return [
        fastconv.plan(
            *shapes, dtype=dtype, accuracy=accuracy, direction="input" if name == "transpose" else name,
            prepared=name == "transpose", **layer.options,
        )
        for name in names
    ]  # fmt: skip


def make_call(
    layer: Layer, direction: str, data: tuple[np.ndarray, np.ndarray, np.ndarray], options: dict[str, Any]
) -> Callable[[], Any]:
    """Our call, with the operands (x, weight, gradient of the output)."""
    x, weight, g = data
    functions = {name: getattr(grad, f"conv{layer.ndim}d_{name}") for name in ("input", "weight", "backward")}
    if direction == "input":
        return partial(functions["input"], x.shape, weight, g, **options)
    if direction == "weight":
        return partial(functions["weight"], x, weight.shape, g, **options)
    if direction == "backward":
        return partial(functions["backward"], x, weight, g, needs=(True, True, False), **options)
    return partial(fastconv.prepare_transpose(weight, output_padding=output_padding(layer), **options), g)


def algorithms(direction: str) -> tuple[str, ...]:
    """Names that may be asked for."""
    if direction == "backward":
        return ()
    return candidates.names("input" if direction == "transpose" else direction)


def as_array(result: Any) -> np.ndarray:
    """What a call of ours returned, for comparison: the gradients of "backward" one after the other."""
    if isinstance(result, tuple):
        return np.concatenate([part.reshape(-1) for part in result if part is not None])
    return np.asarray(result)
