"""Transposed convolutions: PyTorch's definition, sizes, layouts, prepared layers, the checkerboard."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from gradient_cases import as_channels_last, small_integers, transpose_by_loops
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import grad

FLOATS = ["float32", "complex64", "float16"]  # all computed by the kernels of float32
DTYPES = [*FLOATS, "float64", "complex128", "int32"]


@st.composite
def calls(draw, dtypes):
    ndim = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    stride, dilation = per_axis(1, 4), per_axis(1, 3)
    return {
        "ndim": ndim,
        "shape": (draw(st.integers(1, 2)), groups * draw(st.integers(1, 3)), *per_axis(1, 6)),
        "OC": draw(st.integers(1, 3)),
        "kernel": per_axis(1, 4),
        "options": {
            "stride": stride, "dilation": dilation, "groups": groups, "padding": per_axis(0, 3),
            "output_padding": tuple(draw(st.integers(0, max(pair) - 1)) for pair in zip(stride, dilation, strict=True)),
        },
        "dtype": draw(st.sampled_from(dtypes)),
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "last": draw(st.booleans()),
        "batched": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu"])),
        "prepared": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }  # fmt: skip


def check(case) -> None:
    ndim, options, dtype = case["ndim"], case["options"], np.dtype(case["dtype"])
    size = [
        (n - 1) * s - 2 * p + (k - 1) * d + 1 + o
        for n, s, p, k, d, o in zip(
            case["shape"][2:], options["stride"], options["padding"], case["kernel"], options["dilation"],
            options["output_padding"], strict=True,
        )
    ]  # fmt: skip
    function = getattr(fastconv, f"conv_transpose{ndim}d")
    rng = np.random.default_rng(case["seed"])
    x = small_integers(rng, case["shape"] if case["batched"] else (1, *case["shape"][1:]), dtype)
    weight = small_integers(rng, (x.shape[1], case["OC"], *case["kernel"]), dtype)
    if min(size) < 1:
        with pytest.raises(ValueError, match="padding must leave at least one output"):
            function(x, weight, **options)
        return
    wide = np.complex128 if dtype.kind == "c" else np.float64
    result = np.dtype(np.int64) if dtype.kind == "i" else dtype
    want = transpose_by_loops(x.astype(wide), weight.astype(wide), **options)
    bias = small_integers(rng, (want.shape[1],), result) if case["bias"] else None
    if bias is not None:
        want = want + bias.reshape(-1, *[1] * ndim).astype(wide)
    activation = None if dtype.kind == "c" else case["activation"]
    if activation:
        want = np.maximum(want, 0)

    def given_as(array):
        array = array if case["batched"] else array[0]
        return np.moveaxis(array, -1 - ndim, -1) if case["layout"] == "NHWC" else array

    settings_ = {**options, "activation": activation, "layout": case["layout"], "accuracy": "exact"}
    given_x = given_as(as_channels_last(x) if case["last"] else x)
    if case["prepared"]:
        got = fastconv.prepare_transpose(weight, bias, **settings_)(given_x)
    else:
        got = function(given_x, weight, bias, **settings_)
    assert got.dtype == result
    np.testing.assert_array_equal(got, given_as(want).astype(result))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls(FLOATS))
def test_every_option(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls(DTYPES))
def test_very_many_options(case):
    check(case)


def test_checkerboard():
    """How often a cell is hit: a 3x3 kernel at stride 2 overlaps itself, one of 4x4 or 2x2 does so evenly."""
    ones = np.ones((1, 1, 6, 6), np.float32)
    line = np.array([1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1])
    counts = fastconv.conv_transpose2d(ones, np.ones((1, 1, 3, 3), np.float32), stride=2)
    np.testing.assert_array_equal(counts[0, 0], np.outer(line, line))
    assert set(counts[0, 0, 2:-2, 2:-2].reshape(-1)) == {1, 2, 4}
    even = fastconv.conv_transpose2d(ones, np.ones((1, 1, 4, 4), np.float32), stride=2, padding=1)
    assert set(even[0, 0, 1:-1, 1:-1].reshape(-1)) == {4}
    apart = fastconv.conv_transpose2d(ones, np.ones((1, 1, 2, 2), np.float32), stride=2)
    assert set(apart.reshape(-1)) == {1}


def test_it_is_the_gradient_of_a_convolution():
    rng = np.random.default_rng(0)
    x, weight = small_integers(rng, (2, 6, 5, 4), "float32"), small_integers(rng, (6, 2, 3, 3), "float32")
    out = fastconv.conv_transpose2d(x, weight, stride=2, padding=1, groups=2, output_padding=1)
    np.testing.assert_array_equal(out, grad.conv2d_input((2, 4, 10, 8), weight, x, 2, 1, 1, 2))


def test_output_size_says_which_of_several_sizes_is_meant():
    x, weight = np.ones((1, 2, 5, 5), np.float32), np.ones((2, 3, 3, 3), np.float32)
    for size in (9, 10):
        out = fastconv.conv_transpose2d(x, weight, stride=2, padding=1, output_size=(size, size))
        assert out.shape == (1, 3, size, size)
        assert fastconv.conv2d(out, weight, stride=2, padding=1).shape == x.shape
    assert fastconv.conv_transpose2d(x, weight, stride=2, padding="same").shape == (1, 3, 10, 10)
    with pytest.raises(ValueError, match="output_size must be from 9 to 10 along spatial axis 0"):
        fastconv.conv_transpose2d(x, weight, stride=2, padding=1, output_size=(11, 10))


def test_prepared_layer_owns_its_weights_and_travels():
    rng = np.random.default_rng(0)
    x, weight = small_integers(rng, (1, 4, 6, 6), "float32"), small_integers(rng, (4, 8, 4, 4), "float32")
    expected = fastconv.conv_transpose2d(x, weight, stride=2, padding=1)
    layer = fastconv.prepare_transpose(weight, stride=2, padding=1)
    np.testing.assert_array_equal(layer(x), expected)
    weight[:] = 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(x), expected)
    out = np.empty_like(expected)
    assert layer(x, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_empty_batch():
    out = fastconv.conv_transpose2d(np.empty((0, 2, 4, 4)), np.ones((2, 3, 2, 2)), stride=2)
    assert out.shape == (0, 3, 8, 8)


X, W = np.ones((1, 4, 5, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, W[:3]), {}, ValueError, r"weight.shape\[0\] must be 4, the channels of x"),
        ((X, W[0]), {}, ValueError, r"weight must have 4 axes"),
        ((X[0, 0], W), {}, ValueError, r"x must have 4 axes"),
        ((X[:, :, :0], W), {}, ValueError, r"x must have no empty axis"),
        ((X, W[:, :0]), {}, ValueError, r"weight must have no empty axis"),
        ((X, W), {"output_padding": 1}, ValueError, r"output_padding must be smaller than stride or dilation"),
        ((X, W), {"output_padding": -1, "stride": 2}, ValueError, r"output_padding must be a non-negative integer"),
        ((X, W), {"padding": 4}, ValueError, r"padding must leave at least one output"),
        ((X, W), {"groups": 3}, ValueError, r"groups must divide the input channels"),
        ((X, W), {"stride": 0}, ValueError, r"stride must be a positive integer, got 0"),
        ((X, W), {"stride": True}, TypeError, r"stride must be a positive integer, got True"),
        ((X, W), {"output_size": (7, 7), "output_padding": 1}, ValueError, r"output_padding must be 0 where"),
        ((X, W, np.ones(4, np.float32)), {}, ValueError, r"bias must have shape \(3,\)"),
        ((X, W, np.ones(3)), {}, TypeError, r"bias must have the dtype of the result, float32"),
        ((X, W.astype("float64")), {}, TypeError, r"x and weight must have the same dtype"),
        ((X, W), {"activation": "nonsense"}, ValueError, r"activation must be None or one of"),
        ((X, W), {"out": np.empty((1, 3, 7, 8), np.float32)}, ValueError, r"out must have shape \(1, 3, 7, 7\)"),
    ],
)
def test_mistakes(arguments, options, error, message):
    fastconv.conv_transpose2d(X, W)  # a correct call first: what it left behind must not serve a wrong one
    with pytest.raises(error, match=message):
        fastconv.conv_transpose2d(*arguments, **options)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    rng = np.random.default_rng(0)
    x, weight = small_integers(rng, (2, 6, 5, 7), "float32"), small_integers(rng, (6, 4, 3, 5), "float32")
    bias = small_integers(rng, (8,), "float32")
    options = {"stride": (3, 2), "padding": (1, 2), "output_padding": (2, 0), "groups": 2, "dilation": (1, 2)}
    theirs = torch.nn.functional.conv_transpose2d(*map(torch.from_numpy, (x, weight, bias)), **options).numpy()
    np.testing.assert_array_equal(fastconv.conv_transpose2d(x, weight, bias, accuracy="exact", **options), theirs)
