"""Wrong arguments: each gives a TypeError or ValueError that names the argument, before any kernel runs."""

from __future__ import annotations

import numpy as np
import pytest

import fastconv
from fastconv import conv
from fastconv.kernels import direct, reference
from fastconv.plan.candidates import CANDIDATES

X = np.ones((2, 6, 8, 8), np.float32)
W = np.ones((4, 6, 3, 3), np.float32)
READ_ONLY = np.ones((2, 4, 6, 6), np.float32)
READ_ONLY.flags.writeable = False
BIG_ENDIAN = np.ones((2, 4, 6, 6), ">f4")
MASKED = np.ma.masked_array(X, X > 2)
nan = float("nan")


class Refuses:
    """An object that says it is an array and fails."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no data today")


# (changed arguments, exception, words of the message)
CASES = [
    # stride, dilation, groups
    ({"stride": 0}, ValueError, "stride must be a positive integer, got 0"),
    ({"stride": -1}, ValueError, "stride must be a positive integer, got -1"),
    ({"stride": True}, TypeError, "stride must be a positive integer, got True"),
    ({"stride": np.True_}, TypeError, "stride must be a positive integer, got np.True_"),
    ({"stride": 1.0}, TypeError, "stride must be a positive integer, got 1.0"),
    ({"stride": nan}, TypeError, "stride must be a positive integer, got nan"),
    ({"stride": "2"}, TypeError, "stride must be an integer or 2 integers, got '2'"),
    ({"stride": None}, TypeError, "stride must be a positive integer, got None"),
    ({"stride": (1, 0)}, ValueError, r"stride\[1\] must be a positive integer, got 0"),
    ({"stride": (1, True)}, TypeError, r"stride\[1\] must be a positive integer, got True"),
    ({"stride": (1, 2, 3)}, ValueError, r"stride must be an integer or 2 integers .*got \(1, 2, 3\)"),
    ({"stride": ()}, ValueError, r"stride must be an integer or 2 integers .*got \(\)"),
    ({"stride": {1: 2}}, TypeError, r"stride must be an integer or 2 integers, got \{1: 2\}"),
    ({"stride": 2**63}, ValueError, "stride must be a positive integer of at most"),
    ({"dilation": 0}, ValueError, "dilation must be a positive integer, got 0"),
    ({"dilation": [1, -2]}, ValueError, r"dilation\[1\] must be a positive integer, got -2"),
    ({"groups": 0}, ValueError, "groups must be a positive integer, got 0"),
    ({"groups": 2.0}, TypeError, "groups must be a positive integer, got 2.0"),
    ({"groups": 4}, ValueError, "groups must divide the input channels: groups=4, x has 6 channels"),
    ({"groups": 3}, ValueError, "groups must divide the output channels: groups=3, weight has 4 filters"),
    ({"groups": 2}, ValueError, r"weight.shape\[1\] must be 3 \(x has 6 channels, groups=2\)"),
    # padding
    ({"padding": -1}, ValueError, "padding must be a non-negative integer, got -1"),
    ({"padding": (0, -1)}, ValueError, r"padding\[1\] must be a non-negative integer, got -1"),
    ({"padding": ((0, 0), (0, -1))}, ValueError, r"padding\[1\]\[1\] must be a non-negative integer, got -1"),
    ({"padding": 1.5}, TypeError, "padding must be a non-negative integer, got 1.5"),
    ({"padding": []}, ValueError, r"padding must be an integer, 2 integers or 2 \(lo, hi\) pairs .*got \[\]|got \(\)"),
    ({"padding": (1,)}, ValueError, r"padding must be an integer, 2 integers or 2 \(lo, hi\) pairs"),
    ({"padding": (1, 2, 3, 4)}, ValueError, r"padding must be an integer, 2 integers or 2 \(lo, hi\) pairs"),
    ({"padding": ((1, 2, 3), 1)}, ValueError, r"padding\[0\] must be an integer or a \(lo, hi\) pair"),
    ({"padding": ("same", "same")}, TypeError, r"padding\[0\] must be an integer or a \(lo, hi\) pair, got 'same'"),
    ({"padding": "full"}, ValueError, r"padding must be integers, \(lo, hi\) pairs, 'same' or 'valid', got 'full'"),
    ({"padding": 2**61}, ValueError, r"more than 2\*\*62 \(padding counted\)"),
    ({"padding": 8, "padding_mode": "reflect"}, ValueError, "padding must be smaller than the input with padding_mode"),
    ({"padding": 9, "padding_mode": "circular"}, ValueError, "padding must not exceed the input with padding_mode"),
    ({"padding_mode": "mirror"}, ValueError, "padding_mode must be one of zeros, reflect, replicate, circular, got 'm"),
    ({"padding_mode": None}, ValueError, "padding_mode must be one of"),
    # kernel and input sizes
    ({"dilation": 4}, ValueError, "weight must not be larger than the padded input: along spatial axis 0 the kernel"),
    ({"weight": np.ones((4, 6, 9, 3), np.float32)}, ValueError, "covers 9 cells, x has 8"),
    ({"weight": np.ones((4, 5, 3, 3), np.float32)}, ValueError, r"weight.shape\[1\] must be 6"),
    ({"weight": np.ones((0, 6, 3, 3), np.float32)}, ValueError, "weight must have no empty axis"),
    ({"weight": np.ones((4, 6, 0, 3), np.float32)}, ValueError, "weight must have no empty axis"),
    ({"weight": np.ones((4, 6, 3), np.float32)}, ValueError, "conv2d: weight must have 4 axes"),
    ({"x": np.ones((2, 0, 8, 8), np.float32)}, ValueError, "x must have no empty axis except the batch"),
    ({"x": np.ones((2, 6, 8, 0), np.float32)}, ValueError, "x must have no empty axis except the batch"),
    ({"x": np.ones((8, 8), np.float32)}, ValueError, r"conv2d: x must have 4 axes \(N, C, H, W\) or 3 \(C, H, W\)"),
    ({"x": np.ones((1, 1, 6, 8, 8), np.float32)}, ValueError, "conv2d: x must have 4 axes"),
    ({"x": np.float32(1)}, ValueError, "conv2d: x must have 4 axes"),
    # what x and weight are
    ({"x": None}, TypeError, "x must be a numeric array, got None"),
    ({"x": "picture.png"}, TypeError, "x must be a numeric array, got 'picture.png'"),
    ({"x": X.astype(object)}, TypeError, "x must have a dtype among .*got object"),
    ({"x": [[1.0], [2.0, 3.0]]}, TypeError, "x must be a numeric array; list cannot be read as one"),
    ({"x": Refuses()}, TypeError, "x must be a numeric array; Refuses cannot be read as one: no data today"),
    ({"x": MASKED}, TypeError, "x must not be a masked array"),
    ({"x": X.astype(bool)}, TypeError, r"x must have a dtype among .*got bool; .*x.astype\('uint8'\)"),
    ({"x": X.astype(np.uint16)}, TypeError, r"x must have a dtype among .*got uint16; .*x.astype\('int64'\)"),
    ({"x": X.astype(np.longdouble)}, TypeError, "x must have a dtype among"),
    ({"x": X.astype("M8[s]")}, TypeError, "x must have a dtype among"),
    ({"x": np.zeros((2, 6, 8, 8), "f4,f4")}, TypeError, "x must have a dtype among"),
    ({"weight": W.astype(bool)}, TypeError, "weight must have a dtype among"),
    ({"x": X.astype(np.float64)}, TypeError, "x and weight must have the same dtype, got x float64 and weight float32"),
    ({"weight": W.astype(np.int8)}, TypeError, "x and weight must have the same dtype, got x float32 and weight int8"),
    # bias, residual
    ({"bias": np.ones(5, np.float32)}, ValueError, r"bias must have shape \(4,\).*got \(5,\)"),
    ({"bias": np.ones((4, 1), np.float32)}, ValueError, r"bias must have shape \(4,\).*got \(4, 1\)"),
    ({"bias": np.float32(1)}, ValueError, r"bias must have shape \(4,\).*got \(\)"),
    ({"bias": np.ones(4)}, TypeError, "bias must have the dtype of the result, float32, got float64"),
    ({"bias": "relu"}, TypeError, "bias must be a numeric array, got 'relu'"),
    ({"residual": np.ones((2, 4, 8, 8), np.float32)}, ValueError, "residual must have the shape of the result"),
    ({"residual": np.ones((2, 4, 6, 6))}, TypeError, "residual must have the dtype of the result, float32, got f"),
    # activation
    ({"activation": "gelu"}, ValueError, "activation must be None or one of relu, .*got 'gelu'"),
    ({"activation": ("clip", 1)}, ValueError, "'clip' takes 2 parameters"),
    ({"activation": ("clip", 1, 0)}, ValueError, "low <= high"),
    ({"activation": ("relu", 1)}, ValueError, "'relu' takes 0 parameters"),
    ({"activation": ("leaky_relu", nan)}, ValueError, "activation parameters must be numbers"),
    ({"activation": 3}, TypeError, "activation must be None, a name or a tuple"),
    ({"activation": ()}, TypeError, "activation must be None, a name or a tuple"),
    # out
    ({"out": [[0.0]]}, TypeError, "out must be a numpy.ndarray, got list"),
    ({"out": np.ma.zeros((2, 4, 6, 6), np.float32)}, TypeError, "out must be a numpy.ndarray, got MaskedArray"),
    ({"out": np.ones((2, 4, 6, 7), np.float32)}, ValueError, r"out must have shape \(2, 4, 6, 6\), got \(2, 4, 6, 7\)"),
    ({"out": np.ones((4, 6, 6), np.float32)}, ValueError, "out must have shape"),
    ({"out": np.ones((2, 4, 6, 6))}, TypeError, "out must have dtype float32 .*got dtype.'float64'"),
    ({"out": BIG_ENDIAN}, TypeError, "out must have dtype float32 in native byte order, got dtype.'>f4'"),
    ({"out": READ_ONLY}, ValueError, "out must be writable"),
    # the rest
    ({"layout": "CHWN"}, ValueError, "layout must be one of NCHW, NHWC, got 'CHWN'"),
    ({"layout": "NLC"}, ValueError, "layout must be one of NCHW, NHWC, got 'NLC'"),
    ({"flip": 1}, TypeError, "flip must be True or False, got 1"),
    ({"algorithm": "magic"}, ValueError, "algorithm must be 'auto' or one of .*direct.*reference, got 'magic'"),
    ({"algorithm": None}, ValueError, "algorithm must be 'auto' or one of"),
    ({"accuracy": "sloppy"}, ValueError, "accuracy must be one of exact, default, fast, got 'sloppy'"),
    ({"workspace_limit": -1}, ValueError, "workspace_limit must be an integer of at least 0, got -1"),
    ({"workspace_limit": 1.5}, TypeError, "workspace_limit must be an integer of at least 0, got 1.5"),
]


@pytest.fixture
def no_kernels(monkeypatch):
    """Fails the test if any algorithm runs."""

    def forbidden(*args):
        raise AssertionError("a kernel ran")

    for module in CANDIDATES:
        monkeypatch.setattr(module, "run", forbidden)
    conv._calls.clear()
    conv._latest.clear()
    yield
    conv._calls.clear()  # calls bound meanwhile hold the forbidden function
    conv._latest.clear()


@pytest.mark.parametrize(("changed", "kind", "message"), CASES, ids=lambda value: str(value)[:40])
def test_wrong_argument(changed, kind, message, no_kernels):
    arguments = {"x": X, "weight": W, **changed}
    with pytest.raises(kind, match=message):
        fastconv.conv2d(**arguments)


def test_a_wrong_argument_is_refused_also_when_an_equal_right_one_was_seen_before():
    """1 == True == 1.0: remembered calls must not let them through."""
    for name, right, wrong in (
        ("stride", 1, True), ("stride", 1, 1.0), ("dilation", 1, 1.0), ("groups", 1, True), ("padding", 0, False),
        ("stride", (2, 1), (2, True)), ("padding", (0, 1), (False, 1)), ("padding", ((0, 1), 1), ((0, 1.0), 1)),
        ("flip", False, 0), ("workspace_limit", 1 << 20, float(1 << 20)),
    ):  # fmt: skip
        for _ in range(2):
            fastconv.conv2d(X, W, **{name: right})
        with pytest.raises(TypeError, match=name):
            fastconv.conv2d(X, W, **{name: wrong})
        fastconv.conv2d(X, W, **{name: right})


def test_errors_are_raised_for_remembered_calls_too():
    fastconv.conv2d(X, W)
    for changed, kind, message in CASES:
        if set(changed) <= {"bias", "residual", "out"}:
            with pytest.raises(kind, match=message):
                fastconv.conv2d(X, W, **changed)


def test_algorithm_that_refuses_says_why(monkeypatch):
    monkeypatch.setattr(direct, "refuses", lambda spec: "it is Sunday")
    with pytest.raises(ValueError, match=r"algorithm='direct' cannot compute 2x6x8x8 .*it is Sunday"):
        fastconv.conv2d(X, W, algorithm="direct", stride=(2, 5), padding=3)


@pytest.mark.parametrize("name", ["x", "weight", "bias", "residual"])
def test_overlapping_out(name, no_kernels):
    """The whole of it, one element of it, or interleaved with it."""
    memory = np.ones(10_000, np.float32)
    arrays = {
        "x": memory[:768].reshape(2, 6, 8, 8),
        "weight": memory[1000:1216].reshape(4, 6, 3, 3),
        "bias": memory[2000:2004],
        "residual": memory[3000:3288].reshape(2, 4, 6, 6),
    }
    starts = {"x": 767, "weight": 1000, "bias": 2001, "residual": 2900}
    out = memory[starts[name] : starts[name] + 288].reshape(2, 4, 6, 6)
    with pytest.raises(ValueError, match=f"out must not share memory with {name}"):
        fastconv.conv2d(**arrays, out=out)


def test_out_between_the_cells_of_an_input_does_not_overlap():
    memory = np.ones((2, 6, 8, 16), np.float32)
    x = memory[..., ::2]
    out = memory[:, :4, :6, 1:13:2]
    expected = fastconv.conv2d(x, W)
    assert fastconv.conv2d(x, W, out=out) is out
    assert np.array_equal(out, expected)


def test_out_that_overlaps_itself():
    out = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2, 4, 6, 6), (0, 0, 0, 0))
    with pytest.raises(ValueError, match="out must not overlap itself"):
        fastconv.conv2d(X, W, out=out)


def test_eight_bit_sums_that_could_overflow():
    x, w = np.ones((1, 33_026, 1), np.uint8), np.ones((1, 33_026, 1), np.uint8)
    with pytest.raises(ValueError, match=r"8-bit integers summed in int32, which 33026 products .*cast both to int16"):
        fastconv.conv1d(x, w)
    x[:], w[:] = 255, 255
    assert fastconv.conv1d(x[:, 1:], w[:, 1:]).item() == 33_025 * 255 * 255
    assert fastconv.conv1d(x.astype(np.int16), w.astype(np.int16)).item() == 33_026 * 255 * 255


@pytest.mark.parametrize("dtype", ["int8", "int32", "complex64"])
def test_activations_that_a_dtype_does_not_have(dtype):
    with pytest.raises(TypeError, match="activation"):
        fastconv.conv2d(X.astype(dtype), W.astype(dtype), activation="sigmoid")


def test_prepare_refuses_at_once_what_is_wrong_for_every_input():
    for changed, kind, message in CASES:
        if set(changed) - {
            "weight",
            "bias",
            "stride",
            "dilation",
            "groups",
            "padding",
            "padding_mode",
            "layout",
            "flip",
        }:
            continue
        if any(words in message for words in ("conv2d", "covers", "larger", "same dtype", "smaller", "exceed", "2*")):
            continue  # depends on x
        if "input channels" in message or r"weight.shape\[1\]" in message:
            continue
        with pytest.raises(kind, match=message.replace("conv2d: ", "")):
            fastconv.prepare(**{"weight": W, **changed})
    with pytest.raises(ValueError, match="weight must have 3 to 5 axes"):
        fastconv.prepare(np.ones((2, 2), np.float32))


def test_prepared_layer_checks_x():
    layer = fastconv.prepare(W)
    memory = np.ones(2000, np.float32)
    with pytest.raises(ValueError, match=r"weight.shape\[1\] must be 5"):
        layer(X[:, :5])
    with pytest.raises(TypeError, match="same dtype"):
        layer(X.astype(np.float64))
    with pytest.raises(ValueError, match="conv2d: x must have 4 axes"):
        layer(X[0, 0])
    with pytest.raises(ValueError, match="out must have shape"):
        layer(X, out=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="out must not share memory with x"):
        layer(memory[:768].reshape(2, 6, 8, 8), out=memory[700:988].reshape(2, 4, 6, 6))


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (((1, 3, 8, 8), (4, 3, 3)), {}, ValueError, "conv1d: x must have 3 axes"),
        (((1, 3, 8, 8), (4, 3)), {}, ValueError, "weight_shape must have 3 to 5 axes"),
        (((1, 3, 8.0, 8), (4, 3, 3, 3)), {}, TypeError, r"x_shape\[2\] must be a non-negative integer, got 8.0"),
        (((1, 3, -8, 8), (4, 3, 3, 3)), {}, ValueError, r"x_shape\[2\] must be a non-negative integer, got -8"),
        ((8, (4, 3, 3, 3)), {}, TypeError, "x_shape must be a sequence of integers, got 8"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"strides": 2}, TypeError, "unknown option 'strides'; the options are stride"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"dtype": "bool"}, TypeError, "dtype must be one of float16"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"dtype": None}, TypeError, "dtype must be one of float16"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"dtype": "shoe"}, TypeError, "dtype must be one of float16"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"activation": "gelu"}, ValueError, "activation"),
        (((1, 3, 2**40, 2**40), (4, 3, 3, 3)), {}, ValueError, r"more than 2\*\*62"),
    ],
)
def test_plan_arguments(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        fastconv.plan(*arguments, **options)


def test_reference_never_refuses():
    from fastconv.spec import ConvSpec

    assert reference.refuses(ConvSpec.make((1, 1, 1), (1, 1, 1))) is None
