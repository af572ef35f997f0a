"""Locally connected layers against einsum over windows."""

from __future__ import annotations

import numpy as np
import pytest
from layer_checks import assert_gradient, orders

import fastconv

CASES = [
    ((2, 3, 9), (3,), {}),
    ((2, 3, 7, 8), (3, 2), {"stride": (2, 1), "padding": 1}),
    ((19, 2, 6, 6), (3, 3), {"dilation": 2, "padding": ((2, 1), (0, 2))}),
    ((1, 2, 4, 5, 4), (2, 3, 2), {"padding": 1}),
]


def by_convolutions(x, weight, bias, options):
    """At each place the convolution with that place's filters."""
    ndim = x.ndim - 2
    out = None
    for place in np.ndindex(weight.shape[:ndim]):
        conv = (fastconv.conv1d, fastconv.conv2d, fastconv.conv3d)[ndim - 1]
        result = conv(x, weight[place], bias[place], algorithm="reference", **options)
        out = np.empty_like(result) if out is None else out
        out[(..., *place)] = result[(..., *place)]
    return out


@pytest.mark.parametrize(("shape", "kernel", "options"), CASES, ids=str)
def test_values_and_gradients(shape, kernel, options):
    random = np.random.default_rng(0)
    weight_shape = fastconv.locally_connected_shape(shape, 4, kernel, **options)
    bias_shape = weight_shape[: len(kernel) + 1]
    x, weight, bias = (random.integers(-3, 4, s).astype(np.float64) for s in (shape, weight_shape, bias_shape))
    expected = by_convolutions(x, weight, bias, options)
    for given in orders(x):
        np.testing.assert_array_equal(fastconv.locally_connected(given, weight, bias, **options), expected)
    g = random.integers(-3, 4, expected.shape).astype(np.float64)
    for given in orders(x)[:2]:
        gradients = fastconv.locally_connected_backward(g, given, weight, **options)
        for array, gradient in zip((x, weight, bias), gradients, strict=True):
            loss = lambda: float((g * fastconv.locally_connected(x, weight, bias, **options)).sum())  # noqa: E731
            assert_gradient(loss, array, gradient, 1e-5)


def test_equal_filters_are_a_convolution():
    random = np.random.default_rng(0)
    x, filters = (random.integers(-3, 4, s).astype(np.float64) for s in ((2, 3, 8, 8), (5, 3, 3, 3)))
    weight = np.broadcast_to(filters, (8, 8, 5, 3, 3, 3))
    np.testing.assert_array_equal(
        fastconv.locally_connected(x, weight, padding=1), fastconv.conv2d(x, filters, padding=1)
    )
    last = fastconv.locally_connected(np.moveaxis(x, 1, -1), weight, padding=1, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), fastconv.conv2d(x, filters, padding=1))


def test_threads_and_empty_batches():
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal(s).astype(np.float64) for s in ((3, 8, 16, 16), (14, 14, 16, 8, 3, 3)))
    g = random.standard_normal((3, 16, 14, 14)).astype(np.float64)
    before, results = fastconv.get_num_threads(), []
    try:
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            results.append([fastconv.locally_connected(x, weight), *fastconv.locally_connected_backward(g, x, weight)])
    finally:
        fastconv.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    assert fastconv.locally_connected(x[:0], weight).shape == (0, 16, 14, 14)
    assert not fastconv.locally_connected_backward(g[:0], x[:0], weight)[1].any()


def test_errors():
    x, weight = np.zeros((1, 3, 8, 8), np.float32), np.zeros((6, 6, 4, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"weight must have filters for each of the \(8, 8\) outputs"):
        fastconv.locally_connected(x, weight, padding=1)
    with pytest.raises(ValueError, match="weight must have 6 axes"):
        fastconv.locally_connected(x, weight[0])
    with pytest.raises(ValueError, match=r"bias must have shape \(6, 6, 4\)"):
        fastconv.locally_connected(x, weight, np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="weight must have the dtype of x"):
        fastconv.locally_connected(x, weight.astype(np.float64))
    with pytest.raises(ValueError, match="grad_output must have shape"):
        fastconv.locally_connected_backward(x, x, weight)
