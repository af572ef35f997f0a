"""Adaptive, global, mixed, fractional, stochastic, pyramid, spectral pools and pools over channels."""

from __future__ import annotations

import numpy as np
import pytest
from pool_cases import integers, last

import fastconv

ORDERS = [np.asarray, last]


def by_ndim(name: str, ndim: int):
    return getattr(fastconv, f"{name}{ndim}d")


def slope(function, x, grad, seed: int = 0) -> tuple[float, float]:
    """Central difference of <grad, f(x)> along a random direction, and that direction."""
    direction = np.random.default_rng(seed).standard_normal(x.shape)
    h = 1e-6
    return ((function(x + h * direction) - function(x - h * direction)) * grad).sum() / (2 * h), direction


# ---- adaptive and global --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "outputs"), [((10,), (4,)), ((7, 9), (3, 9)), ((8, 6), (4, 3)), ((5, 4, 6), (2, 4, 5)), ((3, 3), (5, 7))]
)
@pytest.mark.parametrize("order", ORDERS)
def test_adaptive(sizes, outputs, order):
    ndim, x = len(sizes), integers(np.random.default_rng(0), (2, 18, *sizes), "float64")
    expected_max, expected_mean = np.empty((2, 18, *outputs)), np.empty((2, 18, *outputs))
    for o in np.ndindex(*outputs):
        window = tuple(
            slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(o, sizes, outputs, strict=True)
        )  # fmt: skip
        cells = x[(..., *window)].reshape(2, 18, -1)
        expected_max[(..., *o)], expected_mean[(..., *o)] = cells.max(-1), cells.mean(-1)
    given = order(x)
    maxima, indices = by_ndim("adaptive_max_pool", ndim)(given, outputs, True)
    assert np.array_equal(maxima, expected_max)
    assert np.array_equal(by_ndim("adaptive_max_pool", ndim)(given, outputs), expected_max)
    assert np.array_equal(
        np.take_along_axis(x.reshape(2, 18, -1), indices.reshape(2, 18, -1), 2).reshape(maxima.shape), maxima
    )
    assert np.allclose(by_ndim("adaptive_avg_pool", ndim)(given, outputs), expected_mean, rtol=1e-15)
    grad = integers(np.random.default_rng(1), maxima.shape, "float64")
    back = getattr(fastconv, f"adaptive_avg_pool{ndim}d_backward")(order(grad), x.shape)
    assert np.isclose((back * x).sum(), (grad * expected_mean).sum())
    for given_indices in (None, indices):
        back = getattr(fastconv, f"adaptive_max_pool{ndim}d_backward")(order(grad), given, given_indices)
        assert np.isclose((back * x).sum(), (grad * maxima).sum())
        assert np.array_equal(np.unique(indices[0, 0]), np.flatnonzero(back[0, 0])) or (grad[0, 0] == 0).any()


def test_adaptive_none_keeps_an_axis_and_layouts():
    x = integers(np.random.default_rng(0), (1, 3, 6, 7), "float32")
    assert fastconv.adaptive_avg_pool2d(x, (None, 1)).shape == (1, 3, 6, 1)
    rows = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        pool = getattr(fastconv, name)
        assert np.array_equal(np.moveaxis(pool(rows, (4, 3), layout="NHWC"), -1, 1), pool(x, (4, 3)))
        assert pool(x[:0], 2).shape == (0, 3, 2, 2)
        assert np.array_equal(pool(x[0], 2), pool(x, 2)[0])
    for wrong in (0, (1, 2, 3), 1.5, (1, 0)):
        with pytest.raises((ValueError, TypeError), match="output_size"):
            fastconv.adaptive_avg_pool2d(x, wrong)


@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 33, 7, 7), (1, 20, 31, 17), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_global(shape, order, dtype):
    x = integers(np.random.default_rng(0), shape, dtype)
    axes = tuple(range(2, len(shape)))
    assert np.allclose(fastconv.global_avg_pool(order(x)), x.mean(axes, keepdims=True), rtol=1e-6)
    assert np.array_equal(fastconv.global_max_pool(order(x)), x.max(axes, keepdims=True))
    grad = integers(np.random.default_rng(1), (*shape[:2], *(1,) * len(axes)), dtype)
    back = fastconv.global_avg_pool_backward(order(grad), x.shape)
    assert np.array_equal(back, np.broadcast_to(grad / np.dtype(dtype).type(np.prod(shape[2:])), shape))
    rows, whole = (np.ascontiguousarray(np.moveaxis(array, 1, -1)) for array in (grad, x))
    again = fastconv.global_avg_pool_backward(rows, whole.shape, layout="NHWC")
    assert np.array_equal(np.moveaxis(again, -1, 1), back)
    back = fastconv.global_max_pool_backward(order(grad), order(x))
    cells = x.reshape(*shape[:2], -1)
    first = np.arange(cells.shape[2]) == cells.argmax(2)[..., None]
    assert np.array_equal(back.reshape(cells.shape), first * grad.reshape(*shape[:2], 1))
    again = fastconv.global_max_pool_backward(rows, whole, layout="NHWC")
    assert np.array_equal(np.moveaxis(again, -1, 1), back)


# ---- finite differences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
@pytest.mark.parametrize("order", ORDERS)
def test_slope_of_norms(p, order):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 17, 6, 7))
    for options in ((3, 2), ((2, 3), 1, True)):
        y = fastconv.lp_pool2d(order(x), p, *options)
        grad = rng.standard_normal(y.shape)
        back = fastconv.lp_pool2d_backward(order(grad), order(x), p, *options)
        expected, direction = slope(lambda x, o=options: fastconv.lp_pool2d(order(x), p, *o), x, grad)
        assert np.isclose((back * direction).sum(), expected, rtol=1e-5)


def test_slope_of_a_norm_of_zeros_is_zero():
    x = np.zeros((1, 1, 2, 2))
    for p in (1.5, 2, 3):
        assert (fastconv.lp_pool2d_backward(np.ones((1, 1, 1, 1)), x, p, 2) == 0).all()


@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_norms_over_channels(p, ndim, order):
    """The lecture's L2 pooling over features."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 5, 3, 4)[: 2 + ndim])
    for k, s in ((None, None), (3, None), (4, 2)):
        step, window = s or k or 9, k or 9
        expected = np.stack([np.linalg.norm(x[:, c : c + window], p, axis=1) for c in range(0, 10 - window, step)], 1)
        found = fastconv.lp_pool_channels(order(x), p, k, s)
        assert np.allclose(found, expected)
        assert np.allclose(
            fastconv.lp_pool_channels(np.moveaxis(x, 1, -1), p, k, s, layout="NHWC"), np.moveaxis(expected, 1, -1)
        )
        grad = rng.standard_normal(found.shape)
        back = fastconv.lp_pool_channels_backward(order(grad), order(x), p, k, s)
        difference, direction = slope(lambda x, k=k, s=s: fastconv.lp_pool_channels(order(x), p, k, s), x, grad)
        assert np.isclose((back * direction).sum(), difference, rtol=1e-5)
    with pytest.raises(ValueError, match="kernel_size must not exceed the 9 channels"):
        fastconv.lp_pool_channels(x, p, 10)
    with pytest.raises(ValueError, match="grad_output must be"):
        fastconv.lp_pool_channels_backward(x, x, p, 3)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_mixed(ndim, order):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 7, 6, 5)[: 2 + ndim])
    maxima, means = by_ndim("max_pool", ndim)(x, 3, 2, 1), by_ndim("avg_pool", ndim)(x, 3, 2, 1)
    for alpha in (0.25, np.array([0.0, 0.5, 1.0])):
        share = np.reshape(alpha, (-1, *(1,) * ndim)) if np.ndim(alpha) else alpha
        pool = by_ndim("mixed_pool", ndim)
        found = pool(order(x), 3, alpha, 2, 1)
        assert np.allclose(found, share * maxima + (1 - share) * means)
        rows = pool(np.ascontiguousarray(np.moveaxis(x, 1, -1)), 3, alpha, 2, 1, layout="NHWC")
        assert np.allclose(np.moveaxis(rows, -1, 1), found)
        grad = rng.standard_normal(found.shape)
        back, back_alpha = getattr(fastconv, f"mixed_pool{ndim}d_backward")(order(grad), order(x), 3, alpha, 2, 1)
        expected, direction = slope(lambda x, a=alpha, f=pool: f(order(x), 3, a, 2, 1), x, grad)
        assert np.isclose((back * direction).sum(), expected, rtol=1e-5)
        terms = (grad * (maxima - means)).sum(tuple(i for i in range(2 + ndim) if i != 1))
        assert np.allclose(back_alpha, terms if np.ndim(alpha) else terms.sum())
    for wrong in (-0.1, 1.5, [0.5, 0.5], "a", np.nan):
        with pytest.raises((ValueError, TypeError), match="alpha"):
            by_ndim("mixed_pool", ndim)(x, 3, wrong)


# ---- random ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_fractional(ndim, order):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 9, 8, 7)[: 2 + ndim])
    u = rng.random((2, 3, ndim))
    kernel, outputs = (2, 3, 2)[:ndim], (4, 5, 3)[:ndim]
    pool = by_ndim("fractional_max_pool", ndim)
    found, indices = pool(order(x), kernel, outputs, return_indices=True, random_samples=u)
    expected = np.empty((2, 3, *outputs))
    for n, c in np.ndindex(2, 3):
        starts = []
        for axis in range(ndim):
            size, k, m = x.shape[2 + axis], kernel[axis], outputs[axis]
            sample = u[n, c, ndim - 1 - axis if ndim == 2 else axis]
            a = (size - k) / (m - 1)
            starts.append([int((i + sample) * a) - int(sample * a) for i in range(m - 1)] + [size - k])
        for o in np.ndindex(*outputs):
            window = tuple(slice(starts[i][o[i]], starts[i][o[i]] + kernel[i]) for i in range(ndim))
            expected[(n, c, *o)] = x[(n, c, *window)].max()
    assert np.array_equal(found, expected)
    assert np.array_equal(np.take_along_axis(x.reshape(2, 3, -1), indices.reshape(2, 3, -1), 2).ravel(), found.ravel())
    grad = rng.standard_normal(found.shape)
    back = getattr(fastconv, f"fractional_max_pool{ndim}d_backward")(order(grad), x.shape, indices)
    assert np.isclose((back * x).sum(), (grad * found).sum())
    assert np.array_equal(
        pool(x, kernel, outputs, rng=7), pool(order(x), kernel, outputs, rng=np.random.default_rng(7))
    )
    assert pool(x, kernel, output_ratio=0.5).shape == (2, 3, *(n // 2 for n in x.shape[2:]))
    assert pool(x[:0], kernel, outputs).shape == (0, 3, *outputs)
    for wrong in ({}, {"output_size": 100}, {"output_ratio": 1.5}, {"output_size": 2, "output_ratio": 0.5}):
        with pytest.raises(ValueError, match=r"output|do not fit"):
            pool(x, kernel, **wrong)
    with pytest.raises(ValueError, match="random_samples must have shape"):
        pool(x, kernel, outputs, random_samples=u[:1])
    with pytest.raises(ValueError, match="random_samples must be numbers from 0 to 1"):
        pool(x, kernel, outputs, random_samples=u + 1)
    with pytest.raises(TypeError, match="rng must be"):
        pool(x, kernel, outputs, rng="seed")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_stochastic(ndim):
    """Each cell comes up as often as its value says; the same numbers give the same cells."""
    pool, kernel = by_ndim("stochastic_pool", ndim), (1,) * (ndim - 1) + (4,)
    x = np.tile(np.array([1.0, 0.0, 2.0, 5.0]), (20_000, 1, *(1,) * (ndim - 1), 1))
    values, indices = pool(x, kernel, return_indices=True, rng=0)
    counts = np.bincount(indices.ravel(), minlength=4)
    assert counts[1] == 0
    assert np.allclose(counts / 20_000, [1 / 8, 0, 2 / 8, 5 / 8], atol=0.015)
    assert np.array_equal(values.ravel(), x[0].ravel()[indices.ravel()])
    assert np.allclose(pool(x[:1], kernel, training=False), 30 / 8)
    y = np.random.default_rng(0).random((2, 17, 6, 7, 5)[: 2 + ndim]).astype(np.float32)
    assert np.array_equal(pool(y, 3, 2, 1, rng=3), pool(last(y), 3, 2, 1, rng=3))
    grad = np.random.default_rng(1).standard_normal(pool(y, 2, rng=3).shape).astype(np.float32)
    drawn, where = pool(y, 2, return_indices=True, rng=3)
    back = getattr(fastconv, f"stochastic_pool{ndim}d_backward")(grad, y.shape, where)
    assert np.isclose((back * y).sum(), (grad * drawn).sum(), rtol=1e-4)
    assert (pool(np.zeros_like(y), 2) == 0).all()
    assert pool(y[:0], 2).shape == (0, *pool(y, 2).shape[1:])
    assert np.isnan(pool(np.where(y == y.max(), np.nan, y), 2, rng=0)).sum() == 1
    with pytest.raises(ValueError, match="x must not be negative"):
        pool(-y, 2)
    with pytest.raises(ValueError, match="return_indices must be False unless training"):
        pool(y, 2, training=False, return_indices=True)


# ---- pyramid and spectral -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("order", ORDERS)
def test_pyramid(ndim, mode, order):
    rng = np.random.default_rng(0)
    pool = by_ndim("spatial_pyramid_pool", ndim)
    for sizes in ((7, 9, 5)[:ndim], (4, 4, 4)[:ndim]):
        x = rng.standard_normal((2, 3, *sizes))
        found = pool(order(x), (1, 2, 3), mode)
        assert found.shape == (2, 3 * (1 + 2**ndim + 3**ndim))
        parts = [by_ndim(f"adaptive_{mode}_pool", ndim)(x, level).reshape(2, -1) for level in (1, 2, 3)]
        assert np.allclose(found, np.concatenate(parts, 1), rtol=1e-14)
        assert np.allclose(pool(np.moveaxis(x, 1, -1), (1, 2, 3), mode, layout="NHWC"), found, rtol=1e-14)
        grad = rng.standard_normal(found.shape)
        back = getattr(fastconv, f"spatial_pyramid_pool{ndim}d_backward")(grad, order(x), (1, 2, 3), mode)
        expected, direction = slope(lambda x: pool(order(x), (1, 2, 3), mode), x, grad)
        assert np.isclose((back * direction).sum(), expected, rtol=1e-5)
    assert pool(x[0], (1, 2), mode).shape == (3 * (1 + 2**ndim),)
    assert pool(x[:0], (1, 2), mode).shape == (0, 3 * (1 + 2**ndim))
    for wrong in ((), (0,), 3, "12"):
        with pytest.raises((ValueError, TypeError), match="levels"):
            pool(x, wrong, mode)
    with pytest.raises(ValueError, match="mode must be one of"):
        pool(x, (1,), "sum")


@pytest.mark.parametrize(("n", "m"), [(8, 4), (9, 4), (8, 5), (7, 3), (8, 7), (6, 6), (6, 1), (2, 1), (16, 8)])
def test_spectral_keeps_low_waves(n, m):
    """A wave that fits stays the same wave on fewer cells; one that does not vanishes; the mean stays."""
    at = np.arange(n) / n
    for k in range(n // 2 + 1):
        for phase in (0.0, 0.3):
            wave = np.cos(2 * np.pi * (k * at - phase))[None, None]
            found = fastconv.spectral_pool1d(wave, m)[0, 0]
            if 2 * k < m:
                assert np.allclose(found, np.cos(2 * np.pi * (k * np.arange(m) / m - phase)))
            elif 2 * k > m and n != m:
                assert np.allclose(found, 0)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spectral_adjoint(ndim, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 9, 8, 6)[: 2 + ndim]).astype(dtype)
    for size in ((4, 4, 3)[:ndim], (9, 5, 6)[:ndim], (1,) * ndim, x.shape[2:]):
        y = by_ndim("spectral_pool", ndim)(x, size)
        assert y.dtype == dtype
        assert np.allclose(y.mean(tuple(range(2, 2 + ndim))), x.mean(tuple(range(2, 2 + ndim))), atol=1e-6)
        grad = rng.standard_normal(y.shape).astype(dtype)
        back = getattr(fastconv, f"spectral_pool{ndim}d_backward")(grad, x.shape)
        assert np.isclose((y * grad).sum(dtype=np.float64), (x * back).sum(dtype=np.float64), rtol=1e-4)
        rows = by_ndim("spectral_pool", ndim)(np.moveaxis(x, 1, -1), size, layout="NHWC")
        assert np.allclose(np.moveaxis(rows, -1, 1), y, atol=1e-6)
        assert np.allclose(by_ndim("spectral_pool", ndim)(x[0], size), y[0], atol=1e-6)
    same = by_ndim("spectral_pool", ndim)(x, x.shape[2:])
    assert np.array_equal(same, x)
    assert not np.shares_memory(same, x)
    assert by_ndim("spectral_pool", ndim)(x[:0], 2).shape == (0, 3, *(2,) * ndim)
    with pytest.raises(ValueError, match="output_size must not exceed the input"):
        by_ndim("spectral_pool", ndim)(x, 10)
