"""Norms against NumPy in float64, their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from layer_checks import assert_gradient, channels_last, orders

import fastconv

SHAPES = [(4, 6), (3, 8, 11), (4, 6, 5, 7), (2, 16, 14, 14), (2, 4, 3, 4, 5), (2, 4, 70, 71), (1, 3, 1, 1)]


def along(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One number a channel, broadcast along x."""
    return values.reshape(1, -1, *(1 for _ in x.shape[2:]))


def by_numpy(x: np.ndarray, channels: int, batch: bool, eps: float) -> np.ndarray:
    exact = x.astype(np.float64)
    if batch:
        axes = (0, *range(2, x.ndim))
        return (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + eps)
    rows = exact.reshape(len(x), x.shape[1] // channels, -1)
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + eps)
    return rows.reshape(x.shape)


def data(shape, dtype, seed=0):
    random = np.random.default_rng(seed)
    x = (2 * random.standard_normal(shape) + 3).astype(dtype)
    return x, random.standard_normal(shape[1]).astype(dtype), random.standard_normal(shape[1]).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, dtype):
    x, weight, bias = data(shape, dtype)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for given in orders(x):
        if np.prod(shape) // shape[1] > 1:
            y = fastconv.batch_norm(given, None, None, weight, bias, training=True)
            expected = by_numpy(x, 1, True, 1e-5) * along(weight, x) + along(bias, x)
            np.testing.assert_allclose(y, expected, atol=tolerance)
            assert y.dtype == x.dtype
        for groups in {1, shape[1]}:
            if np.prod(shape[1:]) // groups < 2:
                continue
            y = fastconv.group_norm(given, groups, weight, bias)
            expected = by_numpy(x, shape[1] // groups, False, 1e-5) * along(weight, x) + along(bias, x)
            np.testing.assert_allclose(y, expected, atol=tolerance)


def test_memory_order_is_kept_and_layouts_agree():
    x, weight, bias = data((2, 16, 5, 6), np.float32)
    last = fastconv.batch_norm(channels_last(x), None, None, weight, bias, training=True)
    assert np.moveaxis(last, 1, -1).flags.c_contiguous
    named = fastconv.batch_norm(np.moveaxis(x, 1, -1), None, None, weight, bias, training=True, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(named, -1, 1).shape, x.shape)
    np.testing.assert_allclose(np.moveaxis(named, -1, 1), last, atol=1e-6)


def test_running_statistics():
    x, _, _ = data((8, 5, 6, 7), np.float64)
    mean, variance = np.zeros(5), np.ones(5)
    y, m, v = fastconv.batch_norm(x, mean, variance, training=True, momentum=0.25, return_stats=True)
    exact, count = x.mean((0, 2, 3)), 8 * 42
    np.testing.assert_allclose(m, exact, rtol=1e-13)
    np.testing.assert_allclose(v, x.var((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(mean, 0.25 * exact, rtol=1e-12)
    np.testing.assert_allclose(variance, 0.75 + 0.25 * x.var((0, 2, 3)) * count / (count - 1), rtol=1e-12)
    still = fastconv.batch_norm(x, m, v)
    np.testing.assert_allclose(still, y, atol=1e-12)


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
def test_large_mean_small_spread(order):
    """The textbook formula E[x^2] - E[x]^2 loses all digits here; float32 data has three left."""
    random = np.random.default_rng(0)
    x = order((1e4 + random.standard_normal((4, 16, 40, 40))).astype(np.float32))
    _, mean, variance = fastconv.batch_norm(x, training=True, return_stats=True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(variance, exact.var((0, 2, 3)), rtol=1e-6)
    y = fastconv.batch_norm(x, training=True)
    np.testing.assert_allclose(y, by_numpy(x, 1, True, 1e-5), atol=1e-5)


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (2, 4, 3, 5), (2, 4, 2, 3, 2)], ids=str)
def test_backward_by_finite_differences(shape, order):
    x, weight, bias = data(shape, np.float64)
    g = np.random.default_rng(1).standard_normal(shape)

    def check(forward, gradients):
        for array, gradient in zip((x, weight, bias), gradients, strict=True):
            assert_gradient(lambda: float((g * forward()).sum()), array, gradient)

    check(
        lambda: fastconv.batch_norm(order(x), None, None, weight, bias, training=True),
        fastconv.batch_norm_backward(g, order(x), weight),
    )
    mean, variance = x.mean() * np.ones(4), 2 * np.ones(4)
    check(
        lambda: fastconv.batch_norm(order(x), mean, variance, weight, bias),
        fastconv.batch_norm_backward(g, order(x), weight, mean=mean, variance=variance, training=False),
    )
    check(
        lambda: fastconv.group_norm(order(x), 2, weight, bias),
        fastconv.group_norm_backward(g, order(x), 2, weight),
    )
    if len(shape) > 2:
        check(
            lambda: fastconv.instance_norm(order(x), None, None, weight, bias),
            fastconv.instance_norm_backward(g, order(x), weight),
        )


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 6), (2, 5000)], ids=str)
def test_layer_norm(shape):
    random = np.random.default_rng(0)
    x, g = random.standard_normal(shape), random.standard_normal(shape)
    weight, bias = random.standard_normal(shape[1:]), random.standard_normal(shape[1:])
    rows = x.reshape(shape[0], -1)
    expected = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    expected = expected.reshape(shape) * weight + bias
    np.testing.assert_allclose(fastconv.layer_norm(x, shape[1:], weight, bias), expected, atol=1e-12)
    single = fastconv.layer_norm(x.astype(np.float32), shape[1:], *(p.astype(np.float32) for p in (weight, bias)))
    np.testing.assert_allclose(single, expected, atol=1e-5)
    gradients = fastconv.layer_norm_backward(g, x, shape[1:], weight)
    for array, gradient in zip((x, weight, bias), gradients, strict=True):
        loss = lambda: float((g * fastconv.layer_norm(x, shape[1:], weight, bias)).sum())  # noqa: E731
        assert_gradient(loss, array, gradient, 1e-5)


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (2, 0.5), (3, 1.0), (4, 0.3), (1, 0.75)])
def test_local_response_norm(size, beta, order):
    random = np.random.default_rng(0)
    x, g = random.standard_normal((2, 6, 4, 3)), random.standard_normal((2, 6, 4, 3))
    padded = np.pad(x**2, ((0, 0), (size // 2, (size - 1) // 2), (0, 0), (0, 0)))
    sums = np.stack([padded[:, c : c + size].sum(1) for c in range(6)], 1)
    expected = x / (1.5 + 0.4 / size * sums) ** beta
    y = fastconv.local_response_norm(order(x), size, 0.4, beta, 1.5)
    np.testing.assert_allclose(y, expected, atol=1e-13)
    gradient = fastconv.local_response_norm_backward(g, order(x), size, 0.4, beta, 1.5)
    loss = lambda: float((g * fastconv.local_response_norm(x, size, 0.4, beta, 1.5)).sum())  # noqa: E731
    assert_gradient(loss, x, gradient)


@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last])
def test_threads_do_not_change_a_bit(order):
    x, weight, bias = data((8, 32, 40, 40), np.float32)
    g = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    results = []
    before = fastconv.get_num_threads()
    try:
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            results.append([
                fastconv.batch_norm(order(x), None, None, weight, bias, training=True),
                *fastconv.batch_norm_backward(order(g), order(x), weight),
                fastconv.group_norm(order(x), 8, weight, bias),
                *fastconv.group_norm_backward(order(g), order(x), 8, weight),
            ])  # fmt: skip
    finally:
        fastconv.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_empty_batches():
    x = np.zeros((0, 3, 4, 4), np.float32)
    assert fastconv.batch_norm(x, training=True).shape == x.shape
    grads = fastconv.batch_norm_backward(x, x, np.ones(3, np.float32))
    assert grads[0].shape == x.shape
    assert grads[1].tolist() == [0, 0, 0]
    assert fastconv.group_norm(x, 3).shape == x.shape
    assert fastconv.local_response_norm(x, 3).shape == x.shape


def test_out_and_half():
    x, _, _ = data((2, 4, 5, 5), np.float32)
    out = np.empty_like(x)
    assert fastconv.batch_norm(x, training=True, out=out) is out
    np.testing.assert_array_equal(out, fastconv.batch_norm(x, training=True))
    half = fastconv.group_norm(x.astype(np.float16), 2)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, fastconv.group_norm(x, 2), atol=5e-3)


def test_errors():
    x = np.zeros((2, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match="running_mean and running_var must be given"):
        fastconv.batch_norm(x)
    with pytest.raises(ValueError, match=r"weight must have shape \(4,\)"):
        fastconv.batch_norm(x, None, None, np.ones(3, np.float32), training=True)
    with pytest.raises(TypeError, match="dtype of x, float32"):
        fastconv.batch_norm(x, None, None, np.ones(4), training=True)
    with pytest.raises(ValueError, match="more than one value per channel"):
        fastconv.batch_norm(x[:1, :, :1, :1], training=True)
    with pytest.raises(ValueError, match="num_groups must divide"):
        fastconv.group_norm(x, 3)
    with pytest.raises(ValueError, match="eps must be a number of at least 0"):
        fastconv.group_norm(x, 2, eps=-1.0)
    with pytest.raises(TypeError, match="dtype among"):
        fastconv.group_norm(x.astype(np.int32), 2)
    with pytest.raises(ValueError, match="grad_output must have the shape of x"):
        fastconv.batch_norm_backward(x[:1], x)
    with pytest.raises(ValueError, match="normalized_shape must be the trailing axes"):
        fastconv.layer_norm(x, (4, 3))
    with pytest.raises(ValueError, match="share memory"):
        fastconv.batch_norm(x, training=True, out=x)
    with pytest.raises(TypeError, match="training must be True or False"):
        fastconv.batch_norm(x, training=1)
    fixed = np.zeros(4, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="running_mean must be writable"):
        fastconv.batch_norm(x, fixed, np.ones(4, np.float32), training=True)
