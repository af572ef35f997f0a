"""Direct convolution as dot products, asked for whether it would be chosen or not."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from cases import run
from test_direct import LIMIT, check, problem

from fastconv.kernels import direct, direct_dots
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan.dispatch import plan_spec
from fastconv.spec import ConvSpec

#: Each way in which rows come to be, with tails of channels, pixels and terms.
SHAPES = [
    ((3, 64, 7, 7), (50, 64, 1, 1), {}),
    ((2, 33, 4, 4), (9, 33, 1, 1), {}),
    ((5, 48, 1, 1), (7, 48, 1, 1), {}),
    ((2, 64, 3, 3), (22, 32, 1, 1), {"groups": 2}),
    ((2, 34, 7, 6), (6, 17, 3, 3), {"padding": 1, "groups": 2}),
    ((1, 40, 14, 14), (37, 40, 1, 1), {"stride": 2}),
    ((2, 7, 5, 6, 4), (5, 7, 2, 3, 2), {"stride": (1, 2, 1), "dilation": (2, 1, 1), "padding": (1, 0, 2)}),
    ((1, 9, 8, 9), (4, 9, 3, 3), {"padding": 2, "padding_mode": "reflect"}),
]


def test_dots():
    rng = np.random.default_rng(1)
    took = 0
    for i in range(200):
        spec = problem(rng, padded=i % 2 == 0)
        params = direct_dots.parameters(spec, 1 + i % 2, LIMIT)
        if params is not None:
            took += 1
            check(spec, params, rng)
    assert took > 150


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_shapes(dtype, channels_last):
    rng = np.random.default_rng(2)
    for x_shape, w_shape, options in SHAPES:
        spec = ConvSpec.make(x_shape, w_shape, dtype=dtype, channels_last=channels_last, **options)
        check(spec, direct_dots.parameters(spec, 2, LIMIT), rng)


def test_rows_that_lie_right_are_not_laid_out():
    for size, last, used in ((7, True, True), (1, False, True), (7, False, False)):
        spec = ConvSpec.make((1, 64, size, size), (32, 64, 1, 1), channels_last=last)
        assert (direct_dots.parameters(spec, 1, LIMIT).workspace < 64 * 49 * 4) == used


def test_refuses():
    refused = (
        ConvSpec.make((1, 8, 7, 7), (8, 1, 3, 3), groups=8),  # depthwise
        ConvSpec.make((1, 512, 64, 64), (8, 512, 1, 1)),  # rows of 8 MB
    )
    for spec in refused:
        assert direct_dots.parameters(spec, 1, LIMIT) is None
    assert direct_dots.parameters(ConvSpec.make((1, 64, 7, 7), (32, 64, 1, 1)), 1, 1000) is None


@pytest.mark.parametrize("kernel", [1, 3])
def test_sums_do_not_depend_on_how_work_is_cut(kernel, monkeypatch):
    """Bit for bit the same for any number of threads and images, any cache and memory order."""
    rng = np.random.default_rng(3)
    C = 1101 // kernel**2 * 2
    x, w = rng.random((3, C, 5, 6), np.float32), rng.random((13, C, kernel, kernel), np.float32)
    found = []
    for threads, images, L2, last in ((1, 3, 2, False), (2, 3, 2, False), (2, 1, 2, True), (1, 3, 1, True)):
        monkeypatch.setattr(direct_dots, "cache_sizes", lambda L2=L2: (32 << 10, L2 << 20, 32 << 20))
        spec = ConvSpec.make((images, C, 5, 6), w.shape, padding=kernel // 2, channels_last=last)
        params = direct_dots.parameters(spec, threads, LIMIT)
        memory = np.ascontiguousarray(np.moveaxis(x[:images], 1, -1) if last else x[:images])
        got = run(direct, spec, params, memory.reshape(-1), w, Epilogue.make("float32"))
        got = np.moveaxis(got.reshape(images, 5, 6, 13), -1, 1) if last else got.reshape(images, 13, 5, 6)
        found.append(got[0])
    assert all(np.array_equal(found[0], other) for other in found)
    assert prod(w.shape[1:]) > direct_dots.CHAIN * 16


def test_chosen_where_pixels_are_few_and_sums_long():
    """For weights that are used once, whatever the number of images and threads: an image has the same bits alone."""
    for x_shape, w_shape, options, expected in (
        ((1, 1024, 7, 7), (1024, 1024, 1, 1), {}, True),
        ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}, True),
        ((1, 1024, 1, 1), (5, 1024, 1, 1), {}, True),
        ((1, 128, 28, 28), (256, 128, 1, 1), {}, False),
    ):
        spec = ConvSpec.make(x_shape, w_shape, **options)
        for images, threads in ((1, 1), (1, 2), (8, 1), (8, 2)):
            many = replace(spec, N=images)
            plans = [
                plan_spec(many, algorithm="direct", threads=threads, prepared=prepared) for prepared in (False, True)
            ]
            assert [plan.params.form == "dots" for plan in plans] == [expected, False]
