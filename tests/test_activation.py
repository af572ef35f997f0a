"""Activations, softmax, cross-entropy and dropout."""

from __future__ import annotations

import numpy as np
import pytest
from layer_checks import assert_gradient, channels_last, orders

import fastconv

FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    ("leaky_relu", 0.2): lambda x: np.where(x < 0, 0.2 * x, x),
    ("elu", 1.5): lambda x: np.where(x < 0, 1.5 * np.expm1(np.minimum(x, 0)), x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    ("clip", -1.0, 2.0): lambda x: np.clip(x, -1, 2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS, ids=str)
def test_values(name, dtype):
    x = np.random.default_rng(0).uniform(-20, 20, (3, 5, 7)).astype(dtype)
    x[0, 0, 0], x[0, 0, 1], x[0, 1, 0] = 0, 1e-6, -1e-6
    expected = FORMULAS[name](x.astype(np.longdouble))
    unit = np.finfo(dtype).eps
    for given in orders(x):
        y = fastconv.activate(given, name)
        assert y.dtype == x.dtype
        assert np.abs(y - expected).max() <= 4 * unit * max(1, np.abs(expected).max())
        assert (np.abs(y - expected) <= 4 * unit * np.abs(expected) + np.finfo(dtype).tiny).all()


@pytest.mark.parametrize("name", FORMULAS, ids=str)
def test_special_values(name):
    x = np.float32([np.nan, np.inf, -np.inf, 0.0, 200.0, -200.0])
    with np.errstate(all="ignore"):
        expected = FORMULAS[name](x.astype(np.float64))
    y = fastconv.activate(x, name)
    np.testing.assert_array_equal(np.isnan(y)[:2], np.isnan(expected)[:2])
    np.testing.assert_allclose(y[3:], expected[3:], atol=1e-6)
    assert np.isnan(y[0])


@pytest.mark.parametrize("name", FORMULAS, ids=str)
def test_gradients(name):
    random = np.random.default_rng(0)
    x, g = random.uniform(-4, 8, (2, 6, 9)), random.standard_normal((2, 6, 9))
    gradient = fastconv.activate_backward(g, channels_last(x), name)
    assert_gradient(lambda: float((g * fastconv.activate(x, name)).sum()), x, gradient)


def test_kinks_take_the_side_of_pytorch():
    zero, g = np.float32([0.0]), np.float32([1.0])
    assert fastconv.activate_backward(g, zero, "relu") == 0
    assert fastconv.activate_backward(g, np.float32([6.0]), "relu6") == 0
    assert fastconv.activate_backward(g, np.float32([2.0]), ("clip", -1, 2)) == 1


def test_in_place_and_conv_agree():
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6))
    weight = np.random.default_rng(1).standard_normal((4, 4, 3, 3))
    plain = fastconv.conv2d(x, weight, algorithm="direct")
    fused = fastconv.conv2d(x, weight, algorithm="direct", activation="tanh")
    np.testing.assert_array_equal(fastconv.activate(plain, "tanh", out=plain), fused)
    assert fastconv.relu(np.float32([-1, 1])).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 10), (3, 10, 7), (2, 5, 20, 21), (2, 300, 2, 2)], ids=str)
def test_softmax(shape, dtype):
    x = np.random.default_rng(0).uniform(-30, 30, shape).astype(dtype)
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for axis in range(len(shape)):
        exact = x.astype(np.float64) - x.max(axis, keepdims=True)
        logarithm = exact - np.log(np.exp(exact).sum(axis, keepdims=True))
        for given in orders(x):
            np.testing.assert_allclose(fastconv.softmax(given, axis), np.exp(logarithm), atol=tolerance)
            np.testing.assert_allclose(fastconv.log_softmax(given, axis), logarithm, atol=60 * tolerance)


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
def test_softmax_gradients(order):
    random = np.random.default_rng(0)
    x, g = random.standard_normal((2, 5, 3, 4)), random.standard_normal((2, 5, 3, 4))
    for f, back in (
        (fastconv.softmax, fastconv.softmax_backward),
        (fastconv.log_softmax, fastconv.log_softmax_backward),
    ):
        gradient = back(g, f(order(x)))
        assert_gradient(lambda f=f: float((g * f(x)).sum()), x, gradient)


def test_softmax_of_extremes():
    assert fastconv.softmax(np.float32([[1e30, 1e30, -np.inf]])).tolist() == [[0.5, 0.5, 0.0]]
    assert np.isnan(fastconv.softmax(np.float32([[np.nan, 1.0]]))).all()


def test_cross_entropy():
    random = np.random.default_rng(0)
    x, target = random.standard_normal((3, 5, 4, 2)), random.integers(0, 5, (3, 4, 2))
    target[0, 0, 0] = -100
    weight = random.uniform(0.5, 2, 5)
    logarithm = x - np.log(np.exp(x).sum(1, keepdims=True))
    used = target >= 0
    picked = np.take_along_axis(logarithm, np.where(used, target, 0)[:, None], 1)[:, 0]
    weights = np.where(used, weight[np.where(used, target, 0)], 0)
    expected = -(weights * picked).sum() / weights.sum()
    assert fastconv.cross_entropy(x, target, weight=weight) == pytest.approx(expected, abs=1e-12)
    each = fastconv.cross_entropy(x, target, weight=weight, reduction="none")
    assert each.sum() == pytest.approx(fastconv.cross_entropy(x, target, weight=weight, reduction="sum"))
    for reduction in ("mean", "sum"):
        options = {"weight": weight, "reduction": reduction}
        gradient = fastconv.cross_entropy_backward(x, target, **options)
        assert_gradient(lambda o=options: fastconv.cross_entropy(x, target, **o), x, gradient)


def test_dropout():
    x = np.random.default_rng(0).uniform(1, 2, (4, 16, 20, 20)).astype(np.float32)
    y = fastconv.dropout(x, 0.3, seed=5)
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 0.01
    np.testing.assert_allclose(y[kept], x[kept] / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(fastconv.dropout_backward(np.ones_like(x), 0.3, seed=5) != 0, kept)
    assert (fastconv.dropout(x, 0.3, seed=6) != y).any()
    for given in (x, channels_last(x)):
        whole = fastconv.dropout(given, 0.5, seed=1, channels=True) != 0
        assert (whole.all((2, 3)) | ~whole.any((2, 3))).all()
        assert 0 < whole.mean() < 1
    np.testing.assert_array_equal(fastconv.dropout(x, 0.3, seed=5, training=False), x)
    assert not fastconv.dropout(x, 1.0, seed=5).any()


def test_errors():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="activation must be"):
        fastconv.activate(x, "swish")
    with pytest.raises(TypeError, match="activation must be"):
        fastconv.activate(x, None)
    with pytest.raises(ValueError, match="axis must be from -2 to 1"):
        fastconv.softmax(x, 2)
    with pytest.raises(ValueError, match="target must hold class numbers from 0 to 2, got 3"):
        fastconv.cross_entropy(x, [0, 3])
    with pytest.raises(TypeError, match="target must hold class numbers of an integer dtype"):
        fastconv.cross_entropy(x, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"target must have shape \(2,\)"):
        fastconv.cross_entropy(x, [0])
    with pytest.raises(ValueError, match="p must be a number from 0 to 1"):
        fastconv.dropout(x, 1.5, seed=0)
    with pytest.raises(ValueError, match="grad_output must have the shape"):
        fastconv.activate_backward(x[:1], x, "relu")
