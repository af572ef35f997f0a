"""The matrix of a convolution: T x is the convolution, and T transposed the transposed convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import grad
from fastconv.spec import PADDING_MODES


def integers(rng, shape) -> np.ndarray:
    return rng.integers(-3, 4, shape).astype(np.float64)


@st.composite
def cases(draw):
    ndim = draw(st.integers(1, 3))
    high = (8, 5, 4)[ndim - 1]
    groups = draw(st.integers(1, 2))

    def per_axis(low, most):
        return tuple(draw(st.integers(low, most)) for _ in range(ndim))

    return {
        "size": per_axis(3, high),
        "weight": (groups * draw(st.integers(1, 2)), draw(st.integers(1, 2)), *per_axis(1, 3)),
        "seed": draw(st.integers(0, 99)),
        "options": {
            "stride": per_axis(1, 3), "dilation": per_axis(1, 2), "groups": groups,
            "padding": tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(ndim)),
            "padding_mode": draw(st.sampled_from(PADDING_MODES)), "flip": draw(st.booleans()),
        },
    }  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases())
def test_matrix_and_convolution_agree(case):
    rng = np.random.default_rng(case["seed"])
    weight, size, options = integers(rng, case["weight"]), case["size"], case["options"]
    ndim = len(size)
    x = integers(rng, (weight.shape[1] * options["groups"], *size))
    conv = getattr(fastconv, f"conv{ndim}d")
    try:
        out = conv(x, weight, algorithm="direct", **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"padded input|padding must"):
            fastconv.toeplitz(weight, size, **options)
        return
    matrix = fastconv.toeplitz(weight, size, **options)
    np.testing.assert_array_equal((matrix @ x.reshape(-1)).reshape(out.shape), out)
    # The transpose is the gradient of the input ...
    y = integers(rng, out.shape)
    back = getattr(grad, f"conv{ndim}d_input")(x.shape, weight, y, algorithm="direct", **options)
    np.testing.assert_array_equal((matrix.T @ y.reshape(-1)).reshape(x.shape), back)
    # ... and the transposed convolution, which pads with zeros.
    if options["padding_mode"] == "zeros" and any(map(any, options["padding"])):
        transposed = getattr(fastconv, f"conv_transpose{ndim}d")
        same = {name: options[name] for name in ("stride", "dilation", "groups", "flip", "padding")}
        try:
            again = transposed(y, weight, output_size=size, algorithm="direct", **same)
        except ValueError as error:
            assert "output_size must be from" in str(error)  # a stride left cells over  # noqa: PT017
            return
        np.testing.assert_array_equal(again, back)


def test_one_dimension_is_a_toeplitz_matrix():
    matrix = fastconv.toeplitz(np.float64([[[1, 2, 3]]]), [6], padding=1)
    for offset in range(-5, 6):
        assert len(set(np.diagonal(matrix, offset))) <= 1


def test_two_dimensions_are_blocks_of_toeplitz_matrices():
    matrix = fastconv.toeplitz(np.arange(1.0, 10).reshape(1, 1, 3, 3), [5, 4], padding=1)
    blocks = matrix.reshape(5, 4, 5, 4).swapaxes(1, 2)
    for i in range(5):
        for j in range(5):
            if i and j:
                np.testing.assert_array_equal(blocks[i, j], blocks[i - 1, j - 1])
            for offset in range(-3, 4):
                assert len(set(np.diagonal(blocks[i, j], offset))) <= 1


def test_sparse_is_the_same_matrix():
    pytest.importorskip("scipy", reason="sparse matrices are SciPy's")
    rng = np.random.default_rng(0)
    weight = integers(rng, (4, 2, 3, 2)) + 5  # nothing cancels, so that every entry counts
    for options in ({}, {"stride": 2, "padding": 1}, {"groups": 2, "padding": 2, "padding_mode": "reflect"}):
        dense = fastconv.toeplitz(weight, (6, 5), **options)
        sparse = fastconv.toeplitz(weight, (6, 5), sparse=True, **options)
        np.testing.assert_array_equal(sparse.toarray(), dense)
        assert sparse.nnz == np.count_nonzero(dense)


def test_dtype_is_the_weights():
    for dtype in ("float32", "int64", "complex64"):
        assert fastconv.toeplitz(np.ones((1, 1, 2), dtype), [4]).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((1, 1, 3)), (5, 5)), {}, "input_size one size per kernel axis"),
        ((np.ones((1, 1, 3)), (2,)), {}, "larger than the padded input"),
        ((np.ones((1, 1, 3)), (-2,)), {}, r"input_size\[0\] must be a non-negative integer, got -2"),
        ((np.ones((1, 1, 3)), (0,)), {}, "no empty axis"),
        ((np.ones((3, 1, 3)), (5,)), {"groups": 2}, "groups must divide the output channels"),
        ((np.ones((1, 1, 3)), (5,)), {"stride": 0}, "stride must be a positive integer, got 0"),
    ],
)
def test_errors(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fastconv.toeplitz(*arguments, **options)
