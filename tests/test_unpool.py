"""Unpools: the lectures' figures, duplicates and wrong indices, and adjoints."""

from __future__ import annotations

import numpy as np
import pytest
from pool_cases import integers, last

import fastconv

FIGURE = np.array([[[1.0, 2.0], [3.0, 4.0]]])


def by_ndim(name: str, ndim: int):
    return getattr(fastconv, f"{name}{ndim}d")


def test_nearest_neighbour_figure():
    assert fastconv.nearest_unpool2d(FIGURE, 2).tolist() == [
        [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    ]  # fmt: skip
    assert (
        fastconv.interpolate(FIGURE[None], scale_factor=2)[0].tolist() == fastconv.nearest_unpool2d(FIGURE, 2).tolist()
    )


def test_bed_of_nails_figure():
    assert fastconv.bed_of_nails_unpool2d(FIGURE, 2).tolist() == [
        [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    ]  # fmt: skip


def test_max_unpooling_figure():
    """Max pooling remembers which element was largest; unpooling uses those positions."""
    x = np.array([[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]])
    maxima, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    assert maxima.tolist() == [[[5, 6], [7, 8]]]
    assert fastconv.max_unpool2d(FIGURE, indices, 2).tolist() == [
        [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    ]  # fmt: skip


def test_average_unpooling():
    assert fastconv.avg_unpool2d(FIGURE, 2)[0, 0].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert fastconv.avg_unpool1d(np.array([[2.0, 4.0]]), 2, 1).tolist() == [[1, 3, 2]]


def test_of_equal_indices_the_last_stays():
    """However the planes are shared out: the overlap rule, and its exact adjoint (pytorch #88032, #197409)."""
    rng = np.random.default_rng(0)
    x, indices = rng.standard_normal((3, 70, 5, 6)), rng.integers(0, 20, (3, 70, 5, 6))
    expected = np.zeros((3, 70, 10 * 12))
    for o in range(30):
        np.put_along_axis(
            expected, indices.reshape(3, 70, 30)[:, :, o : o + 1], x.reshape(3, 70, 30)[:, :, o : o + 1], 2
        )
    grad = rng.standard_normal((3, 70, 10, 12))
    before = fastconv.get_num_threads()
    try:
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            for order in (np.asarray, last):
                unpooled = fastconv.max_unpool2d(order(x), order(indices), 2)
                assert np.array_equal(unpooled.reshape(3, 70, 120), expected)
                back = fastconv.max_unpool2d_backward(order(grad), order(indices))
                assert np.isclose((unpooled * grad).sum(), (back * x).sum())
                assert (back == 0).sum() >= 3 * 70 * 10  # thirty values, at most twenty places
    finally:
        fastconv.set_num_threads(before)


@pytest.mark.parametrize("wrong", [16, -1, 2**40, -(2**63)])
@pytest.mark.parametrize("order", [np.asarray, last])
def test_indices_out_of_range(wrong, order):
    x, indices = np.ones((1, 20, 2, 2)), np.zeros((1, 20, 2, 2), np.int64)
    indices[0, 7, 1, 1] = wrong
    with pytest.raises(ValueError, match="max_unpool2d: indices must be places in a plane of 16 cells"):
        fastconv.max_unpool2d(order(x), order(indices), 2)
    with pytest.raises(ValueError, match="max_unpool2d_backward: indices must be places in a plane of 16 cells"):
        fastconv.max_unpool2d_backward(order(np.ones((1, 20, 4, 4))), order(indices))


@pytest.mark.parametrize("order", [np.ascontiguousarray, last])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((2, 3, 66), 2), ((2, 5, 7, 46), (1, 2)), ((3, 17, 9, 80), (3, 2)), ((2, 3, 4, 6, 36), 2), ((2, 33, 9, 9), 3)],
)
def test_blocks(shape, kernel, dtype, order):
    """Windows side by side are compared a vector at a time; an index that lies in another one is found all the same."""
    ndim = len(shape) - 2
    x = order(np.random.default_rng(0).standard_normal(shape).astype(dtype))
    maxima, indices = by_ndim("max_pool", ndim)(x, kernel, return_indices=True)
    cells = x.reshape(*shape[:2], -1)
    for _ in range(2):
        places = indices.reshape(*shape[:2], -1)
        expected = np.zeros(cells.shape, dtype)
        np.put_along_axis(expected, places, maxima.reshape(places.shape), 2)
        found = by_ndim("max_unpool", ndim)(maxima, indices, kernel, output_size=shape)
        np.testing.assert_array_equal(found, expected.reshape(shape))
        found = getattr(fastconv, f"max_unpool{ndim}d_backward")(x, indices)
        np.testing.assert_array_equal(found, np.take_along_axis(cells, places, 2).reshape(maxima.shape))
        first, final = (-1, -1, *[0] * ndim), (-1, -1, *[-1] * ndim)
        indices[first], indices[final] = indices[final], indices[first]


def test_output_size():
    x = np.arange(25.0).reshape(1, 1, 5, 5)
    maxima, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    assert fastconv.max_unpool2d(maxima, indices, 2, output_size=(5, 5)).shape == (1, 1, 5, 5)
    assert fastconv.max_unpool2d(maxima, indices, 2, output_size=(1, 1, 5, 5)).shape == (1, 1, 5, 5)
    for wrong in ((6, 6), (2, 4), (5, 5, 5)):
        with pytest.raises(ValueError, match="output_size must be"):
            fastconv.max_unpool2d(maxima, indices, 2, output_size=wrong)


CASES = [
    ("nearest_unpool", 1, (2,)), ("nearest_unpool", 2, ((2, 3),)), ("nearest_unpool", 3, (2,)),
    ("bed_of_nails_unpool", 1, (3,)), ("bed_of_nails_unpool", 2, ((2, 1),)), ("bed_of_nails_unpool", 3, (2,)),
    ("avg_unpool", 1, (3, 2)), ("avg_unpool", 2, (2,)), ("avg_unpool", 2, (3, 2, 1)), ("avg_unpool", 3, (2, 3)),
    ("avg_unpool", 2, ((2, 5), (1, 4), (0, 2))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ndim", "options"), CASES)
@pytest.mark.parametrize("order", [np.asarray, last])
def test_adjoints(name, ndim, options, order):
    """<A x, y> = <x, A' y>, exactly: the numbers are integers or quarters of such."""
    rng = np.random.default_rng(0)
    x = integers(rng, (2, 17, 5, 4, 3)[: 2 + ndim], "float64")
    forward, backward = by_ndim(name, ndim), getattr(fastconv, f"{name}{ndim}d_backward")
    y = forward(order(x), *options)
    grad = integers(rng, y.shape, "float64")
    back = backward(order(grad), *options)
    assert back.shape == x.shape
    assert np.isclose((y * grad).sum(), (x * back).sum(), rtol=1e-12)
    assert np.array_equal(forward(x[0], *options), y[0])
    assert forward(x[:0], *options).shape == (0, *y.shape[1:])
    assert np.array_equal(np.moveaxis(forward(np.moveaxis(x, 1, -1), *options, layout="NHWC"), -1, 1), y)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("order", [np.asarray, last])
def test_unpooling_what_was_pooled(ndim, order):
    x = np.random.default_rng(0).standard_normal((2, 18, 6, 8, 4)[: 2 + ndim])
    maxima, indices = by_ndim("max_pool", ndim)(order(x), 2, return_indices=True)
    unpooled = by_ndim("max_unpool", ndim)(maxima, indices, 2)
    assert unpooled.shape == x.shape
    assert np.array_equal(unpooled, np.where(unpooled != 0, x, 0))
    assert np.array_equal(by_ndim("max_pool", ndim)(np.where(unpooled == 0, -np.inf, unpooled), 2), maxima)
    grad = np.random.default_rng(1).standard_normal(x.shape)
    back = getattr(fastconv, f"max_unpool{ndim}d_backward")(order(grad), indices)
    assert np.isclose((unpooled * grad).sum(), (back * maxima).sum())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fastconv.nearest_unpool2d(FIGURE, 0), ValueError, "kernel_size must be a positive integer, got 0"),
        (lambda: fastconv.nearest_unpool2d(FIGURE, 2**40), ValueError, "more than 2\\*\\*62 bytes"),
        (lambda: fastconv.nearest_unpool2d(FIGURE.astype(int), 2), TypeError, "x must have a dtype among"),
        (lambda: fastconv.nearest_unpool2d_backward(FIGURE, 3), ValueError, "kernel_size=3 divides"),
        (lambda: fastconv.max_unpool2d(FIGURE, np.zeros((1, 2, 2)), 2), TypeError, "indices must have dtype int64"),
        (lambda: fastconv.max_unpool2d(FIGURE, np.zeros((1, 2, 1), int), 2), ValueError, "indices must have shape"),
        (
            lambda: fastconv.max_unpool2d(FIGURE, np.zeros((1, 2, 2), int), 2, 0),
            ValueError,
            "stride must be a positive",
        ),
        (lambda: fastconv.max_unpool2d(FIGURE, np.zeros((1, 2, 2), int), 2, padding=2), ValueError, "padding=2 leaves"),
        (lambda: fastconv.max_unpool2d(FIGURE, np.zeros((1, 2, 2), int), 2**61), ValueError, "more than 2\\*\\*62"),
        (
            lambda: fastconv.max_unpool2d_backward(FIGURE, np.zeros((2, 2, 2), int)),
            ValueError,
            "indices.shape must have",
        ),
        (lambda: fastconv.avg_unpool2d(FIGURE, 3, 1, 0, (3, 3)), ValueError, "output_size must be within a stride"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
