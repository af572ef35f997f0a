"""Interpolation: known values, identities of each mode, and adjoints."""

from __future__ import annotations

import numpy as np
import pytest
from pool_cases import integers, last

import fastconv
from fastconv.resample import MODES, axis_map

CORNERS = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])


def test_bilinear_corners_keep_their_place():
    found = fastconv.interpolate(CORNERS, (3, 3), mode="bilinear", align_corners=True)
    assert found[0, 0].tolist() == [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]]


def test_bilinear_borders_keep_their_place():
    found = fastconv.interpolate(CORNERS, (4, 4), mode="bilinear", align_corners=False)
    assert found[0, 0, 0].tolist() == [1, 1.25, 1.75, 2]
    assert found[0, 0, :, 0].tolist() == [1, 1.5, 2.5, 3]


def test_nearest():
    x = np.arange(5.0).reshape(1, 1, 5)
    assert fastconv.interpolate(x, 3).tolist() == [[[0, 1, 3]]]
    assert fastconv.interpolate(x, 3, mode="nearest-exact").tolist() == [[[0, 2, 4]]]
    assert fastconv.interpolate(x, scale_factor=1.5).tolist() == [[[0, 0, 1, 2, 2, 3, 4]]]


def options():
    for mode, (dims, aligns) in MODES.items():
        for ndim in dims:
            for align in (False, True) if aligns else (None,):
                yield mode, ndim, align


@pytest.mark.parametrize(("mode", "ndim", "align"), list(options()))
@pytest.mark.parametrize("order", [np.asarray, last])
def test_adjoints_and_constants(mode, ndim, align, order):
    """<A x, y> = <x, A' y>; a constant stays constant; the same sizes leave an image as it is."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 17, 5, 8, 6)[: 2 + ndim])
    for size in ((7, 11, 6)[:ndim], (3, 2, 5)[:ndim], (1,) * ndim, (40,) * ndim):
        given = {"size": size, "mode": mode, "align_corners": align}
        y = fastconv.interpolate(order(x), **given)
        assert y.shape == (2, 17, *size)
        grad = rng.standard_normal(y.shape)
        back = fastconv.interpolate_backward(order(grad), x.shape, **given)
        assert np.isclose((y * grad).sum(), (x * back).sum(), rtol=1e-10)
        assert np.allclose(fastconv.interpolate(np.ones_like(x), **given), 1)
    same = fastconv.interpolate(order(x), x.shape[2:], mode=mode, align_corners=align)
    assert np.allclose(same, x, atol=1e-14)


def matrix(size, outputs, mode):
    """The map along one axis, as a matrix."""
    axis = axis_map(size, outputs, mode, None, False, False)
    dense = np.zeros((outputs, size))
    for term in range(axis.cells.shape[1]):
        np.add.at(dense, (np.arange(outputs), axis.cells[:, term]), axis.weights[:, term])
    return dense


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("order", [np.asarray, last])
@pytest.mark.parametrize("width", [1, 2, 3, 14, 33, 100])
def test_twice_as_wide(mode, width, order):
    """Interior and edges of rows that are made two cells at a time, for every height; the same bits by two threads."""
    x = np.random.default_rng(0).standard_normal((3, 40, 7, width))
    for height in (14, 21, 7, 3):
        size = (height, 2 * width)
        expected = np.einsum("oh,nchw,pw->ncop", matrix(7, height, mode), x, matrix(width, 2 * width, mode))
        one, two = (by_threads(n, fastconv.interpolate, order(x), size, mode=mode) for n in (1, 2))
        assert np.allclose(one, expected, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(one, two)


def by_threads(number, call, *arguments, **options):
    before = fastconv.get_num_threads()
    fastconv.set_num_threads(number)
    try:
        return call(*arguments, **options)
    finally:
        fastconv.set_num_threads(before)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("order", [np.asarray, last])
def test_antialias(mode, order):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 20, 31))
    given = {"size": (7, 9), "mode": mode, "antialias": True}
    y = fastconv.interpolate(order(x), **given)
    grad = rng.standard_normal(y.shape)
    assert np.isclose((y * grad).sum(), (x * fastconv.interpolate_backward(order(grad), x.shape, **given)).sum())
    ramp = np.linspace(0, 1, 31) * np.ones((1, 1, 20, 31))
    inside = fastconv.interpolate(ramp, **given)[0, 0, 3, 2:-2]
    assert np.allclose(np.diff(inside), 31 / 9 / 30, atol=2e-3)


def test_bicubic_reproduces_parabolas():
    """Keys' kernel with a = -1/2 is exact for quadratics; with -3/4 for lines. Inside, away from the border."""
    line = np.arange(20.0)[None, None, None].repeat(4, 2)
    found = fastconv.interpolate(line, (4, 39), mode="bicubic", align_corners=True)[0, 0, 0, 4:-4]
    assert np.allclose(found, np.arange(39)[4:-4] / 2, atol=0.13)
    assert np.allclose(found[::2], np.arange(20)[2:-2])


def test_area_is_the_adaptive_average():
    x = integers(np.random.default_rng(0), (2, 3, 9, 7), "float64")
    assert np.allclose(fastconv.interpolate(x, (4, 3), mode="area"), fastconv.adaptive_avg_pool2d(x, (4, 3)))


def test_half_precision_out_and_unusual_memory():
    x = integers(np.random.default_rng(0), (2, 3, 4, 5), "float32")
    expected = fastconv.interpolate(x, (8, 5), mode="bilinear")
    assert np.array_equal(
        fastconv.interpolate(x.astype("float16"), (8, 5), mode="bilinear"), expected.astype("float16")
    )
    assert np.array_equal(fastconv.interpolate(x[..., ::-1], (8, 5), mode="bilinear")[..., ::-1], expected)
    out = np.empty((2, 8, 5, 3), np.float32).transpose(0, 3, 1, 2)
    assert fastconv.interpolate(x, (8, 5), mode="bilinear", out=out) is out
    assert np.array_equal(out, expected)
    assert fastconv.interpolate(x[:0], (8, 5)).shape == (0, 3, 8, 5)
    rows = fastconv.interpolate(np.ascontiguousarray(np.moveaxis(x, 1, -1)), (8, 5), mode="bilinear", layout="NHWC")
    assert np.array_equal(np.moveaxis(rows, -1, 1), expected)


X = CORNERS


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fastconv.interpolate(X), ValueError, "give one of size and scale_factor"),
        (lambda: fastconv.interpolate(X, 2, 2), ValueError, "give one of size and scale_factor"),
        (lambda: fastconv.interpolate(X, 0), ValueError, "size must be a positive integer, got 0"),
        (lambda: fastconv.interpolate(X, (2, 2, 2)), ValueError, "size must be an integer or 2 integers"),
        (
            lambda: fastconv.interpolate(X, scale_factor=-1),
            ValueError,
            "scale_factor must be a positive number, got -1",
        ),
        (lambda: fastconv.interpolate(X, scale_factor=0.1), ValueError, "scale_factor must leave at least one cell"),
        (lambda: fastconv.interpolate(X, scale_factor="x"), TypeError, "scale_factor must be a positive number"),
        (lambda: fastconv.interpolate(X, scale_factor=(1, 2, 3)), ValueError, "scale_factor must be a number or 2"),
        (lambda: fastconv.interpolate(X, 2, mode="cubic"), ValueError, "mode must be one of nearest"),
        (lambda: fastconv.interpolate(X, 2, mode="linear"), ValueError, "mode='linear' takes 1 spatial axes, got 2"),
        (lambda: fastconv.interpolate(X, 2, align_corners=True), ValueError, "align_corners must be None"),
        (lambda: fastconv.interpolate(X, 2, mode="bilinear", align_corners=1), TypeError, "align_corners must be True"),
        (lambda: fastconv.interpolate(X, 2, antialias=True), ValueError, "antialias must be False"),
        (lambda: fastconv.interpolate(X, 2, recompute_scale_factor=True), ValueError, "recompute_scale_factor"),
        (lambda: fastconv.interpolate(X[0, 0], 2), ValueError, "x must have 3 to 5 axes"),
        (lambda: fastconv.interpolate(X.astype(int), 2), TypeError, "interpolate: x must have a dtype among"),
        (lambda: fastconv.interpolate_backward(X, (1, 1, 3, 3), 3), ValueError, "grad_output must have the shape"),
        (lambda: fastconv.interpolate_backward(X, (2, 1, 3, 3), 2), ValueError, "input_shape must have"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
