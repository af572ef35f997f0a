"""Linear layers, and convolutions read as linear layers and back."""

from __future__ import annotations

import numpy as np
import pytest
from layer_checks import assert_gradient

import fastconv


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)], ids=str)
def test_values_are_exact_on_integers(shape):
    random = np.random.default_rng(0)
    x, weight, bias = (random.integers(-4, 5, s).astype(np.float64) for s in (shape, (5, 7), (5,)))
    np.testing.assert_array_equal(fastconv.linear(x, weight, bias), x @ weight.T + bias)
    np.testing.assert_array_equal(fastconv.linear(x, weight, activation="relu"), np.maximum(x @ weight.T, 0))
    g = random.integers(-4, 5, (*shape[:-1], 5)).astype(np.float64)
    grad_x, grad_weight, grad_bias = fastconv.linear_backward(g, x, weight)
    np.testing.assert_array_equal(grad_x, g @ weight)
    np.testing.assert_array_equal(grad_weight, g.reshape(-1, 5).T @ x.reshape(-1, 7))
    np.testing.assert_array_equal(grad_bias, g.reshape(-1, 5).sum(0))


def test_gradients_by_finite_differences():
    random = np.random.default_rng(0)
    x, weight, bias, g = (random.standard_normal(s) for s in ((6, 9), (4, 9), (4,), (6, 4)))
    for array, gradient in zip((x, weight, bias), fastconv.linear_backward(g, x, weight), strict=True):
        assert_gradient(lambda: float((g * fastconv.linear(x, weight, bias)).sum()), array, gradient)


def test_just_squint():
    """A full layer on a flattened map is a convolution whose kernel covers it: the lecture's FC <-> conv."""
    random = np.random.default_rng(0)
    maps, weight = (random.integers(-4, 5, s).astype(np.float64) for s in ((2, 16, 5, 5), (10, 400)))
    full = fastconv.linear(maps.reshape(2, -1), weight)
    filters = fastconv.linear_to_conv(weight, (16, 5, 5))
    np.testing.assert_array_equal(fastconv.conv2d(maps, filters)[:, :, 0, 0], full)
    np.testing.assert_array_equal(fastconv.conv_to_linear(filters), weight)
    wider = random.integers(-4, 5, (1, 16, 7, 9)).astype(np.float64)
    everywhere = fastconv.conv2d(wider, filters)
    for i, j in ((0, 0), (2, 4), (1, 3)):
        window = wider[:, :, i : i + 5, j : j + 5].reshape(1, -1)
        np.testing.assert_array_equal(everywhere[:, :, i, j], fastconv.linear(window, weight))


def test_errors():
    x, weight = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="x must have 3 numbers along its last axis"):
        fastconv.linear(x[:, :2], weight)
    with pytest.raises(TypeError, match="same dtype"):
        fastconv.linear(x, weight.astype(np.float64))
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\)"):
        fastconv.linear(x, weight, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"grad_output must have shape \(2, 4\)"):
        fastconv.linear_backward(x, x, weight)
    with pytest.raises(ValueError, match="shape must hold weight's 3 inputs"):
        fastconv.linear_to_conv(weight, (2, 2))
