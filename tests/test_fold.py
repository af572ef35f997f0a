"""Unfold and fold: what they gather, that they are adjoint, and PyTorch's numbers."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv.spec import ConvSpec

DTYPES = ("float32", "float64", "int32", "int64", "float16", "int8", "uint8", "int16", "complex64", "complex128")


def by_loops(x, kernel, dilation, padding, stride) -> np.ndarray:
    """Unfold, one patch after the other."""
    ndim = len(kernel)
    padded = np.pad(x, ((0, 0), (0, 0), *[(p, p) for p in padding]))
    sizes = [(padded.shape[2 + a] - (kernel[a] - 1) * dilation[a] - 1) // stride[a] + 1 for a in range(ndim)]
    columns = []
    for place in np.ndindex(*sizes):
        patch = padded[
            (..., *(slice(p * s, p * s + (k - 1) * d + 1, d)
                    for p, s, k, d in zip(place, stride, kernel, dilation, strict=True)))
        ]  # fmt: skip
        columns.append(patch.reshape(x.shape[0], -1))
    return np.stack(columns, -1)


def values(shape, dtype, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = 0 if np.dtype(dtype).kind == "u" else -3
    x = rng.integers(low, 4, shape).astype(dtype)
    return x + 1j * rng.integers(-3, 4, shape).astype(dtype) if np.dtype(dtype).kind == "c" else x


@st.composite
def cases(draw):
    ndim = draw(st.integers(1, 3))

    def sizes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    size, kernel = sizes(1, 9), sizes(1, 3)
    return {
        "shape": (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size), "kernel": kernel, "dilation": sizes(1, 3),
        "padding": sizes(0, 2), "stride": sizes(1, 3), "seed": draw(st.integers(0, 99)),
    }  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_unfold_gathers_and_fold_is_its_adjoint(case):
    shape, kernel, seed = case["shape"], case["kernel"], case["seed"]
    options = case["dilation"], case["padding"], case["stride"]
    x = values(shape, "float64", seed)
    try:
        ConvSpec.make(shape, (1, shape[1], *kernel), **{n: case[n] for n in ("dilation", "padding", "stride")})
    except ValueError:
        with pytest.raises(ValueError, match="larger than the padded input"):
            fastconv.unfold(x, kernel, *options)
        return
    columns = fastconv.unfold(x, kernel, *options)
    np.testing.assert_array_equal(columns, by_loops(x, kernel, *options))
    other = values(columns.shape, "float64", seed + 1)
    folded = fastconv.fold(other, shape[2:], kernel, *options)
    assert folded.shape == shape
    assert (columns * other).sum() == (x * folded).sum()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_passes_through(dtype):
    x = values((2, 3, 6, 7), dtype)
    columns = fastconv.unfold(x, (2, 3), padding=1, stride=(1, 2))
    assert columns.dtype == x.dtype
    np.testing.assert_array_equal(columns, by_loops(x, (2, 3), (1, 1), (1, 1), (1, 2)))
    back = fastconv.fold(columns, (6, 7), (2, 3), padding=1, stride=(1, 2))
    counts = fastconv.fold(fastconv.unfold(np.ones(x.shape), (2, 3), padding=1, stride=(1, 2)), (6, 7), (2, 3),
                           padding=1, stride=(1, 2))  # fmt: skip
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, (x * counts).astype(dtype))


def test_a_convolution_is_a_product_with_unfolded_patches():
    x, weight = values((2, 4, 9, 8), "float64"), values((5, 4, 3, 2), "float64", 1)
    options = {"padding": (1, 0), "stride": (2, 1)}
    product = weight.reshape(5, -1) @ fastconv.unfold(x, (3, 2), **options)
    out = fastconv.conv2d(x, weight, algorithm="direct", **options)
    np.testing.assert_array_equal(product.reshape(out.shape), out)
    columns = weight.reshape(5, -1).T @ out.reshape(2, 5, -1)
    transposed = fastconv.conv_transpose2d(out, weight, output_size=(9, 8), algorithm="direct", **options)
    np.testing.assert_array_equal(fastconv.fold(columns, (9, 8), (3, 2), **options), transposed)


@pytest.mark.parametrize("memory", ["last", "reversed", "broadcast", "read-only", "swapped"])
def test_any_memory(memory):
    x = values((2, 3, 5, 6), "float32")
    given_x = {
        "last": lambda: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
        "reversed": lambda: x[..., ::-1].copy()[..., ::-1],
        "broadcast": lambda: np.broadcast_to(x[:, :1], x.shape),
        "read-only": lambda: (lambda a: (a.setflags(write=False), a)[1])(x.copy()),
        "swapped": lambda: x.astype(x.dtype.newbyteorder()),
    }[memory]()
    np.testing.assert_array_equal(
        fastconv.unfold(given_x, (3, 3)), by_loops(np.array(given_x, "float32"), (3, 3), (1, 1), (0, 0), (1, 1))
    )


def test_batch_may_be_missing_or_empty():
    x = values((3, 5, 6), "float32")
    one = fastconv.unfold(x, (2, 2))
    np.testing.assert_array_equal(one, fastconv.unfold(x[None], 2)[0])
    np.testing.assert_array_equal(one, fastconv.unfold(x, 2))  # three axes and one number: an image, as in PyTorch
    np.testing.assert_array_equal(fastconv.fold(one, (5, 6), 2), fastconv.fold(one[None], (5, 6), 2)[0])
    assert fastconv.unfold(x[None][:0], 2).shape == (0, 12, 20)
    assert fastconv.fold(np.empty((0, 12, 20), np.float32), (5, 6), 2).shape == (0, 3, 5, 6)
    assert fastconv.unfold(values((1, 2, 9), "float32"), (3,)).shape == (1, 6, 7)


def test_threads_do_not_change_the_result():
    columns = np.random.default_rng(0).random((2, 4 * 9, 16 * 15), np.float32)
    before = fastconv.get_num_threads()
    results = []
    for count in (1, 2):
        fastconv.set_num_threads(count)
        results.append(fastconv.fold(columns, (18, 17), 3))
    fastconv.set_num_threads(before)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: fastconv.unfold(x[0], (3, 3, 3)), ValueError, r"x must have 5 axes .* got shape \(2, 5, 6\)"),
        (lambda x: fastconv.unfold(x, 0), ValueError, r"kernel_size must be a positive integer, got 0"),
        (lambda x: fastconv.unfold(x, (3, -1)), ValueError, r"kernel_size\[1\] must be a positive integer, got -1"),
        (lambda x: fastconv.unfold(x, 3, stride=0), ValueError, r"stride must be a positive integer, got 0"),
        (lambda x: fastconv.unfold(x, 3, padding=[]), ValueError, r"padding must be .* got \[\]"),
        (lambda x: fastconv.unfold(x, 2.0), TypeError, r"kernel_size must be a positive integer, got 2.0"),
        (lambda x: fastconv.unfold(x, 7), ValueError, r"weight must not be larger than the padded input"),
        (lambda x: fastconv.unfold(x[:, :0], 2), ValueError, r"x must have no empty axis except the batch"),
        (lambda x: fastconv.fold(x[0], (5, 6), 3), ValueError, r"columns must have a multiple of .* = 9 rows"),
        (lambda x: fastconv.fold(x[0, 0], (5, 6), (1, 5)), ValueError, r"columns must have 10 columns"),
        (lambda x: fastconv.fold(x[0, 0], (-5, 6), 5), ValueError, r"output_size\[0\] must be a non-negative integer"),
        (lambda x: fastconv.fold(x, (5, 6), 2), ValueError, r"columns must have 3 axes"),
        (lambda x: fastconv.fold(x[0, 0], (), 2), ValueError, r"output_size must have 1 to 3 sizes"),
        (lambda x: fastconv.fold(x[0, :0], (5, 6), 2), ValueError, r"columns must have a multiple of"),
        (lambda x: fastconv.unfold(x > 0, 2), TypeError, r"x must have a dtype among"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((1, 2, 5, 6), np.float32))


def test_pytorch_agrees():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    functional = torch.nn.functional
    x = values((2, 3, 7, 9), "float32")
    options = {"dilation": (2, 1), "padding": (1, 2), "stride": (1, 3)}
    columns = fastconv.unfold(x, (2, 3), **options)
    np.testing.assert_array_equal(columns, functional.unfold(torch.from_numpy(x), (2, 3), **options).numpy())
    folded = functional.fold(torch.from_numpy(columns), (7, 9), (2, 3), **options).numpy()
    np.testing.assert_array_equal(fastconv.fold(columns, (7, 9), (2, 3), **options), folded)


def test_columns_beyond_memory_are_refused_before_they_are_made():
    x = np.broadcast_to(np.float32(1), (2**20, 2**20, 2**10, 1))
    with pytest.raises(ValueError, match="2\\*\\*"):
        fastconv.unfold(x, (2**10, 1), padding=(2**9, 0))
    assert prod(x.shape) > 2**48
