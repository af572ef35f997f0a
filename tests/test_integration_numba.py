"""fastconv inside nopython code."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

import fastconv.integrations.numba  # noqa: F401
from fastconv import conv1d, conv2d, conv3d

rng = np.random.default_rng(0)
IMAGE, FILTERS = rng.random((2, 4, 9, 11), np.float32), rng.random((6, 2, 3, 3), np.float32)
BIAS, RESIDUAL = rng.random(6, np.float32), rng.random((2, 6, 5, 11), np.float32)


@numba.njit
def with_options(x, w, bias, residual):
    return conv2d(
        x, w, bias, stride=(2, 1), padding=((1, 1), (2, 0)), groups=2, padding_mode="reflect", residual=residual,
        activation=("leaky_relu", 0.25), flip=True, algorithm="direct",
    )  # fmt: skip


@numba.njit
def with_run_time_options(x, w, stride, padding, activation):
    return conv2d(x, w, None, stride, padding, groups=2, activation=activation)


@numba.njit
def one_and_three(row, taps, cube, filters):
    return conv1d(row, taps, padding="same"), conv3d(cube, filters)


def test_options():
    want = conv2d(
        IMAGE, FILTERS, BIAS, stride=(2, 1), padding=((1, 1), (2, 0)), groups=2, padding_mode="reflect",
        residual=RESIDUAL, activation=("leaky_relu", 0.25), flip=True, algorithm="direct",
    )  # fmt: skip
    assert np.array_equal(with_options(IMAGE, FILTERS, BIAS, RESIDUAL), want)


@pytest.mark.parametrize("padding", [1, (1, 0), "same"])
def test_run_time_options(padding):
    want = conv2d(IMAGE, FILTERS, stride=1, padding=padding, groups=2, activation="relu")
    assert np.array_equal(with_run_time_options(IMAGE, FILTERS, 1, padding, "relu"), want)


def test_layouts_and_unbatched():
    turned = IMAGE[::-1, :, ::2].transpose(0, 1, 3, 2)
    for x in (turned, turned[0], np.asfortranarray(IMAGE)):
        got = with_run_time_options(x, FILTERS, 1, 1, "relu")
        assert got.flags.c_contiguous
        assert np.array_equal(got, conv2d(x, FILTERS, padding=1, groups=2, activation="relu"))


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_dtypes_and_dimensions(dtype):
    arrays = [
        rng.integers(0, 5, s).astype(dtype) for s in ((1, 2, 30), (3, 2, 5), (1, 2, 5, 6, 7), (3, 2, 2, 3, 3))
    ]  # fmt: skip
    for got, want in zip(
        one_and_three(*arrays), (conv1d(*arrays[:2], padding="same"), conv3d(*arrays[2:])), strict=True
    ):  # fmt: skip
        assert got.dtype == want.dtype
        assert np.array_equal(got, want)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="groups must divide"):
        with_run_time_options(IMAGE[:, :3].copy(), FILTERS, 1, 1, "relu")
    with pytest.raises(TypingError, match="same dtype"):
        with_run_time_options(IMAGE, FILTERS.astype(np.float64), 1, 1, "relu")
    with pytest.raises(TypingError, match="weight must be an array of 4 axes"):
        with_run_time_options(IMAGE, FILTERS[0], 1, 1, "relu")
