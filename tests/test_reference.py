"""The oracle itself, against NumPy, SciPy and, where it is installed, torch: none shares code with it."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from cases import accepts, by_numpy, integers, run

from fastconv.kernels import reference
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import PADDING_MODES, ConvSpec


def in_memory_order(array: np.ndarray, channels_last: bool) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if channels_last else array)


def logical(flat: np.ndarray, spec: ConvSpec) -> np.ndarray:
    if not spec.channels_last:
        return flat.reshape(spec.out_shape)
    N, OC, *size = spec.out_shape
    return np.moveaxis(flat.reshape(N, *size, OC), -1, 1)


def compute(spec, x, weight, bias=None, residual=None, activation=None, threads=1):
    if residual is not None:
        residual = in_memory_order(residual, spec.channels_last).reshape(-1)
    epilogue = Epilogue.make(spec.dtype, bias, residual, activation)
    flat = in_memory_order(x, spec.channels_last).reshape(-1)
    return logical(run(reference, spec, accepts(reference, spec, threads), flat, weight, epilogue), spec)


def random_problem(rng: np.random.Generator) -> ConvSpec | None:
    ndim, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    shape = (int(rng.integers(1, 3)), groups * int(rng.integers(1, 4)), *map(int, rng.integers(1, 8, ndim)))
    weight = (groups * int(rng.integers(1, 4)), shape[1] // groups, *map(int, rng.integers(1, 5, ndim)))
    try:
        return ConvSpec.make(
            shape,
            weight,
            stride=tuple(map(int, rng.integers(1, 4, ndim))),
            dilation=tuple(map(int, rng.integers(1, 3, ndim))),
            padding=tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (ndim, 2))),
            groups=groups,
            padding_mode=str(rng.choice(PADDING_MODES)),
            flip=bool(rng.integers(2)),
            dtype=str(rng.choice(["float32", "float64", "int32", "int64"])),
            channels_last=bool(rng.integers(2)),
        )
    except ValueError:
        return None


def test_against_numpy():
    """Every option at random; small integers, so that equality is exact."""
    rng = np.random.default_rng(1)
    seen = set()
    count = 0
    while count < 1500:
        spec = random_problem(rng)
        if spec is None:
            continue
        count += 1
        seen |= {spec.ndim, spec.padding_mode, spec.dtype, ("flip", spec.flip), ("last", spec.channels_last)}
        x = integers(rng, prod(spec.x_shape), spec.dtype).reshape(spec.x_shape)
        weight = integers(rng, prod(spec.weight_shape), spec.dtype).reshape(spec.weight_shape)
        bias = integers(rng, spec.OC, spec.dtype)
        residual = integers(rng, prod(spec.out_shape), spec.dtype).reshape(spec.out_shape)
        options = {
            name: getattr(spec, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
        }
        expected = by_numpy(x, weight, **options)
        assert np.array_equal(compute(spec, x, weight), expected), spec
        expected = expected + bias.reshape(-1, *[1] * spec.ndim) + residual
        got = compute(spec, x, weight, bias, residual, "relu", threads=2)
        assert np.array_equal(got, np.maximum(expected, 0)), spec
    assert len(seen) == 3 + 4 + 4 + 2 + 2, seen


def test_both_conventions_against_scipy():
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(2)
    for ndim in (1, 2, 3):
        x, kernel = rng.random((7, 6, 5)[:ndim]), rng.random((3, 2, 4)[:ndim])
        full = tuple((k - 1, k - 1) for k in kernel.shape)
        for flip, function in ((False, signal.correlate), (True, signal.convolve)):
            spec = ConvSpec.make(
                (1, 1, *x.shape), (1, 1, *kernel.shape), padding=full, flip=flip, dtype="float64"
            )  # fmt: skip
            got = compute(spec, x[None, None], kernel[None, None])[0, 0]
            np.testing.assert_allclose(got, function(x, kernel, "full", "direct"), rtol=1e-13)


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    count = 0
    while count < 200:
        spec = random_problem(rng)
        if spec is None or spec.dtype[0] != "f" or spec.flip or spec.padding_mode != "zeros":
            continue
        if any(lo != hi for lo, hi in spec.padding):
            continue
        count += 1
        x = integers(rng, prod(spec.x_shape), spec.dtype).reshape(spec.x_shape)
        weight = integers(rng, prod(spec.weight_shape), spec.dtype).reshape(spec.weight_shape)
        function = getattr(torch.nn.functional, f"conv{spec.ndim}d")
        expected = function(
            torch.from_numpy(x), torch.from_numpy(weight), stride=spec.stride,
            padding=tuple(lo for lo, _ in spec.padding), dilation=spec.dilation, groups=spec.groups,
        )  # fmt: skip
        assert np.array_equal(compute(spec, x, weight), expected.numpy()), spec


ACTIVATIONS = {
    None: lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "relu6": lambda v: np.clip(v, 0, 6),
    "leaky_relu": lambda v: np.where(v < 0, v * 0.01, v),
    ("leaky_relu", 0.25): lambda v: np.where(v < 0, v * 0.25, v),
    "silu": lambda v: v / (1 + np.exp(-v)),
    "hardswish": lambda v: v * np.clip(v + 3, 0, 6) / 6,
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "tanh": np.tanh,
    ("clip", -0.5, 2): lambda v: np.clip(v, -0.5, 2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations(dtype):
    """Of the sum with bias and residual, over the whole range in which they bend."""
    spec = ConvSpec.make((1, 1, 4001), (1, 1, 1), dtype=dtype)
    x = np.linspace(-20, 20, 4001, dtype=dtype).reshape(1, 1, -1)
    bias, residual = np.array([0.5], dtype), np.full((1, 1, 4001), -0.25, dtype)
    for activation, formula in ACTIVATIONS.items():
        got = compute(spec, x, np.ones((1, 1, 1), dtype), bias, residual, activation)
        expected = formula(x.astype(np.float64) + 0.25)
        np.testing.assert_allclose(got, expected, rtol=4e-6 if dtype == "float32" else 1e-14, atol=1e-30)
        nan = compute(spec, np.full_like(x, np.nan), np.ones((1, 1, 1), dtype), activation=activation)
        assert np.isnan(nan).all(), activation


def test_float32_is_summed_in_float64():
    spec = ConvSpec.make((1, 3, 1), (1, 3, 1))
    x = np.array([2.0**40, 1.0, -(2.0**40)], np.float32).reshape(1, 3, 1)
    assert compute(spec, x, np.ones((1, 3, 1), np.float32)).item() == 1.0


def test_integers_wrap():
    spec = ConvSpec.make((1, 2, 1), (1, 2, 1), dtype="int64")
    x = np.array([2**62, 2**62], np.int64).reshape(1, 2, 1)
    assert compute(spec, x, np.ones((1, 2, 1), np.int64)).item() == -(2**63)


def test_padding_cells_are_values():
    """0 * inf is NaN in the padding too, as if x had been padded in memory."""
    spec = ConvSpec.make((1, 1, 3), (1, 1, 3), padding=1)
    weight = np.array([np.inf, 1, 1], np.float32).reshape(1, 1, 3)
    got = compute(spec, np.ones((1, 1, 3), np.float32), weight).ravel()
    assert np.isnan(got[0])
    assert (got[1:] == np.inf).all()
