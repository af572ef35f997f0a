"""Activations on rows: explicit vectors, exponentials included. NaN stays NaN in each of them."""

from __future__ import annotations

from fastconv.cpu.jit import inline, kernel, outlined
from fastconv.cpu.simd import claim, unpack
from fastconv.cpu.vectors import (
    at_most,
    divide,
    exponential,
    exponential_minus_one,
    less,
    row_map,
    sigmoid,
    tangent,
)

#: Name -> code.
ACTIVATIONS = {
    "relu": 1, "relu6": 2, "leaky_relu": 3, "silu": 4, "hardswish": 5, "sigmoid": 6, "tanh": 7, "clip": 8, "elu": 9,
}  # fmt: skip
RELU, RELU6, LEAKY_RELU, SILU, HARDSWISH, SIGMOID, TANH, CLIP, ELU = range(1, 10)


def _floating(emit):
    """Integer kernels never come here, but are compiled with it."""
    return lambda e, x, s: emit(e, x, s) if e.is_float else x[0]


def _select(e, mask, a, b):
    return e.builder.select(mask, a, b)


def _clip(e, x, s):
    x = _select(e, less(e, x[0], s[0]), s[0], x[0])
    return _select(e, less(e, s[1], x), s[1], x)


def _gate(e, x):
    """min(max(x + 3, 0), 6) / 6."""
    shifted = e.add(x, e.constant(3))
    gate = _select(e, less(e, shifted, e.constant(0)), e.constant(0), shifted)
    return divide(e, at_most(e, gate, 6.0), e.constant(6))


def _elu(e, x, s):
    # Above 0 the exponential is not used, but must not overflow.
    below = e.mul(s[0], exponential_minus_one(e, at_most(e, x[0], 0.0)))
    return _select(e, less(e, x[0], e.constant(0)), below, x[0])


_clip_row = row_map(1, 2, _clip)
_leaky_row = row_map(1, 1, lambda e, x, s: _select(e, less(e, x[0], e.constant(0)), e.mul(x[0], s[0]), x[0]))
_relu_row = row_map(1, 0, lambda e, x, s: _select(e, less(e, x[0], e.constant(0)), e.constant(0), x[0]))
_hardswish_row = row_map(1, 0, _floating(lambda e, x, s: e.mul(x[0], _gate(e, x[0]))))
_sigmoid_row = row_map(1, 0, _floating(lambda e, x, s: sigmoid(e, x[0])))
_silu_row = row_map(1, 0, _floating(lambda e, x, s: e.mul(x[0], sigmoid(e, x[0]))))
_tanh_row = row_map(1, 0, _floating(lambda e, x, s: tangent(e, x[0])))
_elu_row = row_map(1, 1, _floating(_elu))


@inline
def activate_row(src, s0, dst, d0, n, constants):  # type: ignore[no-untyped-def]
    """dst[d0 + i] = f(src[s0 + i]), i < n; constants: code and parameters."""
    if constants[0] == RELU:
        _relu_row(n, dst, d0, src, s0)
    else:
        _activate_row(src, s0, dst, d0, n, constants)


@outlined
def _activate_row(src, s0, dst, d0, n, constants):  # type: ignore[no-untyped-def]
    code = int(constants[0])
    if code == RELU6 or code == CLIP:
        low, high = constants[1], constants[2]
        if code == RELU6:
            low, high = dst.dtype.type(0), dst.dtype.type(6)
        _clip_row(n, dst, d0, src, s0, low, high)
    elif code == LEAKY_RELU:
        _leaky_row(n, dst, d0, src, s0, constants[1])
    elif code == HARDSWISH:
        _hardswish_row(n, dst, d0, src, s0)
    elif code == SIGMOID:
        _sigmoid_row(n, dst, d0, src, s0)
    elif code == SILU:
        _silu_row(n, dst, d0, src, s0)
    elif code == TANH:
        _tanh_row(n, dst, d0, src, s0)
    elif code == ELU:
        _elu_row(n, dst, d0, src, s0, constants[1])


# ---- derivatives times the gradient: sources g, x -------------------------------------------------------------------


def _inside(e, x, s):
    out = e.builder.or_(less(e, x[1], s[0]), less(e, s[1], x[1]))
    return _select(e, out, e.constant(0), x[0])


def _strictly_inside(e, x, s):
    low, high = e.builder.fcmp_ordered("<=", x[1], s[0]), e.builder.fcmp_ordered(">=", x[1], s[1])
    return _select(e, e.builder.or_(low, high), e.constant(0), x[0])


def _above(e, x, other):
    return _select(e, e.builder.fcmp_ordered("<=", x[1], e.constant(0)), other, x[0])


def _sigmoid_slope(e, x, s):
    y = sigmoid(e, x[1])
    return e.mul(x[0], e.mul(y, e.sub(e.constant(1), y)))


def _silu_slope(e, x, s):
    y = sigmoid(e, x[1])
    return e.mul(x[0], e.mul(y, e.fma(x[1], e.sub(e.constant(1), y), e.constant(1))))


def _tanh_slope(e, x, s):
    y = tangent(e, x[1])
    return e.mul(x[0], e.sub(e.constant(1), e.mul(y, y)))


def _hardswish_slope(e, x, s):
    middle = e.mul(x[0], e.fma(x[1], e.constant(1 / 3), e.constant(0.5)))
    above = _select(e, less(e, e.constant(3), x[1]), x[0], middle)
    return _select(e, less(e, x[1], e.constant(-3)), e.constant(0), above)


_relu_slope_row = row_map(2, 0, lambda e, x, s: _above(e, x, e.constant(0)))
_leaky_slope_row = row_map(2, 1, lambda e, x, s: _above(e, x, e.mul(x[0], s[0])))
_clip_slope_row = row_map(2, 2, _inside)
_relu6_slope_row = row_map(2, 2, _strictly_inside)
_hardswish_slope_row = row_map(2, 0, _hardswish_slope)
_sigmoid_slope_row = row_map(2, 0, _sigmoid_slope)
_silu_slope_row = row_map(2, 0, _silu_slope)
_tanh_slope_row = row_map(2, 0, _tanh_slope)
_elu_slope_row = row_map(
    2, 1, lambda e, x, s: _above(e, x, e.mul(x[0], e.mul(s[0], exponential(e, at_most(e, x[1], 0.0)))))
)


@inline
def slope(gradient, g0, src, s0, dst, d0, n, constants):  # type: ignore[no-untyped-def]
    """dst = gradient * f'(src). At a kink the derivative is that of PyTorch: of relu at 0 it is 0."""
    code = int(constants[0])
    zero = dst.dtype.type(0)
    if code == RELU:
        _relu_slope_row(n, dst, d0, gradient, g0, src, s0)
    elif code == RELU6:
        _relu6_slope_row(n, dst, d0, gradient, g0, src, s0, zero, dst.dtype.type(6))
    elif code == CLIP:
        _clip_slope_row(n, dst, d0, gradient, g0, src, s0, constants[1], constants[2])
    elif code == LEAKY_RELU:
        _leaky_slope_row(n, dst, d0, gradient, g0, src, s0, constants[1])
    elif code == HARDSWISH:
        _hardswish_slope_row(n, dst, d0, gradient, g0, src, s0)
    elif code == SIGMOID:
        _sigmoid_slope_row(n, dst, d0, gradient, g0, src, s0)
    elif code == SILU:
        _silu_slope_row(n, dst, d0, gradient, g0, src, s0)
    elif code == TANH:
        _tanh_slope_row(n, dst, d0, gradient, g0, src, s0)
    elif code == ELU:
        _elu_slope_row(n, dst, d0, gradient, g0, src, s0, constants[1])


# geometry: elements of a task


@kernel
def forward(thread, counter, tasks, geometry, constants, x, out):  # type: ignore[no-untyped-def]
    (block,) = unpack(geometry, 1)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        at = task * block
        activate_row(x, at, out, at, min(block, x.size - at), constants)


@kernel
def backward(thread, counter, tasks, geometry, constants, gradient, x, out):  # type: ignore[no-untyped-def]
    (block,) = unpack(geometry, 1)
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        at = task * block
        slope(gradient, at, x, at, out, at, min(block, x.size - at), constants)
