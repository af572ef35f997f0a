"""What happens to finished sums on their way to the output: bias, residual, activation.

    out = activation(conv + bias + residual)

Every algorithm hands its finished rows to `store_row` while they are still in L1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.cpu.jit import inline
from fastconv.cpu.rows import add_row, add_rows, copy_row
from fastconv.cpu.vectors import less, row_map
from fastconv.kernels.activations import ACTIVATIONS, CLIP, RELU, RELU6, activate_row

#: Places in an epilogue's constants: the activation's code and its two parameters, lowest and highest result it allows,
#: and whether it is more than these limits.
LOWEST, HIGHEST, FURTHER = 3, 4, 5

_PARAMETERS: dict[str, tuple[float, ...]] = {"leaky_relu": (0.01,), "clip": (-math.inf, math.inf), "elu": (1.0,)}
_INTEGER_ACTIVATIONS = ("relu", "relu6", "clip")


def parse_activation(activation: Any, dtype: str) -> list[float]:
    """[code, parameter, parameter] of an `activation` argument: None, a name, or (name, parameters...)."""
    if activation is None:
        return [0, 0, 0]
    name, *given = (activation,) if isinstance(activation, str) else tuple(activation)
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    default = _PARAMETERS.get(name, ())
    if len(given) not in (0, len(default)) or (name == "clip" and not given):
        raise ValueError(f"activation {name!r} takes {len(default)} parameters, got {activation!r}")
    values: list[float] = [float(v) for v in (given or default)]
    if any(math.isnan(v) for v in values) or (name == "clip" and values[0] > values[1]):
        raise ValueError(f"activation parameters must be numbers (clip: low <= high), got {activation!r}")
    if np.dtype(dtype).kind == "i":
        if name not in _INTEGER_ACTIVATIONS:
            raise TypeError(f"activation {name!r} needs a floating dtype; integers allow {_INTEGER_ACTIVATIONS}")
        range_ = np.iinfo(dtype)
        values = [range_.min if v <= range_.min else range_.max if v >= range_.max else math.ceil(v) for v in values]
    return [ACTIVATIONS[name], *values, *[0] * (2 - len(values))]


def _with_limits(values: list[float], dtype: str) -> list[float]:
    """The constants of an activation."""
    code, low, high = values
    lowest, highest = (-math.inf, math.inf)
    if np.dtype(dtype).kind == "i":
        lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    limits = {RELU: (0, highest), RELU6: (0, 6), CLIP: (low, high)}
    return [*values, *limits.get(int(code), (lowest, highest)), code != 0 and code not in limits]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What `store_row` needs, in the kernel's dtype.

    bias : one value per output channel, or empty.
    residual : flat in the output's memory order, or empty.
    constants : the activation's code and its two parameters, then LOWEST, HIGHEST, FURTHER.
    """

    bias: np.ndarray
    residual: np.ndarray
    constants: np.ndarray

    @classmethod
    def make(
        cls, dtype: str, bias: np.ndarray | None = None, residual: np.ndarray | None = None, activation: Any = None
    ) -> Epilogue:
        """Arrays are taken as they are: flat, contiguous, of `dtype`."""
        none = np.empty(0, dtype)
        constants = np.array(_with_limits(parse_activation(activation, dtype), dtype), dtype)
        return cls(none if bias is None else bias, none if residual is None else residual, constants)


@inline
def activate(out, o0, n, constants):  # type: ignore[no-untyped-def]
    """Apply an activation in place to ``out[o0 : o0 + n]``."""
    activate_row(out, o0, out, o0, n, constants)


def _relu(e, x, s):  # type: ignore[no-untyped-def]
    total = e.add(x[0], s[0])
    return e.builder.select(less(e, total, e.constant(0)), e.constant(0), total)


_relu_row = row_map(1, 1, _relu)
_residual_row = row_map(2, 1, lambda e, x, s: e.add(e.add(x[0], s[0]), x[1]))


@inline
def store_row(src, s0, out, o0, n, bias, residual, constants):  # type: ignore[no-untyped-def]
    """out[o0 : o0+n] = activation(src[s0 : s0+n] + bias + residual[o0 : o0+n]); `bias` is this channel's value."""
    if residual.size:
        _residual_row(n, out, o0, src, s0, residual, o0, bias)
    elif constants[0] == RELU:  # what networks use most, in one pass
        _relu_row(n, out, o0, src, s0, bias)
        return
    else:
        add_row(src, s0, out, o0, n, bias)
    if constants[0] != 0:
        activate(out, o0, n, constants)


@inline
def store_channels(src, s0, out, o0, n, bias, b0, residual, constants):  # type: ignore[no-untyped-def]
    """The same for n channels of one pixel in a channels-last output: the bias runs along with the row."""
    if bias.size:
        add_rows(src, s0, bias, b0, out, o0, n)
    else:
        copy_row(src, s0, out, o0, n)
    if residual.size:
        add_rows(out, o0, residual, o0, out, o0, n)
    if constants[0] != 0:
        activate(out, o0, n, constants)


@inline
def bias_of(bias, channel):  # type: ignore[no-untyped-def]
    """This channel's bias, 0 without one."""
    return bias[channel] if bias.size else bias.dtype.type(0)
