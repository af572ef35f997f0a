"""The accuracy contract: every output within 16 u (|w| * |x|) of the exact result, u half the dtype's epsilon.

Algorithms that work in a transform domain declare a bound that holds norm-wise, against ||w|| ||x||.
"""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from cases import accepts, by_numpy, is_transform, norm_scale, run

from fastconv.kernels.epilogue import Epilogue
from fastconv.plan.candidates import CANDIDATES
from fastconv.spec import ConvSpec

CONTRACT = 16

# x shape, weight shape, options: long sums, short sums, tails, strides, many taps, depthwise, channels-last
SHAPES = [
    ((1, 560, 9, 11), (17, 560, 3, 3), {"padding": 1}),  # K = 5040
    ((1, 560, 9, 11), (17, 560, 3, 3), {"padding": 1, "channels_last": True}),
    ((1, 5000, 20), (9, 5000, 1), {}),
    ((1, 64, 26, 26), (32, 64, 3, 3), {"padding": 1}),
    ((1, 8, 40, 41), (8, 8, 25, 25), {}),  # K = 5000 in 25 x 25 taps
    ((2, 1, 96, 97), (2, 1, 31, 31), {"padding": 15, "padding_mode": "reflect"}),
    ((1, 12, 30, 31), (24, 1, 5, 5), {"groups": 12, "padding": 2}),
    ((1, 12, 30, 31), (24, 1, 5, 5), {"groups": 12, "padding": 2, "channels_last": True}),
    ((1, 16, 33, 35), (18, 8, 3, 3), {"groups": 2, "stride": 2, "dilation": 2, "padding": 2}),
    ((1, 6, 10, 11, 12), (10, 6, 3, 3, 3), {"padding": 1}),
]


def fills(spec: ConvSpec, rng: np.random.Generator):
    """Positive (rounding errors of long sums add up), of both signs, and of very different sizes."""
    x, w = rng.random(spec.x_shape), rng.random(spec.weight_shape)
    yield "positive", x, w
    yield "signed", x - 0.5, w - 0.5
    yield "scaled", (x - 0.5) * 10.0 ** rng.integers(-6, 7, x.shape), (w - 0.5) * 10.0 ** rng.integers(-6, 7, w.shape)


def exact(spec: ConvSpec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """float32 problems in float64, float64 ones in extended precision."""
    wide = np.float64 if spec.dtype == "float32" else np.longdouble
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
    return by_numpy(x.astype(wide), w.astype(wide), **{name: getattr(spec, name) for name in names})


def flat(x: np.ndarray, spec: ConvSpec) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1) if spec.channels_last else x).reshape(-1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_contract(dtype, report):
    if dtype == "float64" and np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("this platform has no type wider than float64 to compare with")
    rng = np.random.default_rng(11)
    unit = np.finfo(dtype).eps / 2
    worst = {module.NAME: 0.0 for module in CANDIDATES}
    wrong = []
    for x_shape, weight_shape, options in SHAPES:
        spec = ConvSpec.make(x_shape, weight_shape, dtype=dtype, **options)
        if dtype == "float64" and spec.flops > 5e7:
            continue  # NumPy has no fast extended precision
        modules = [(m, accepts(m, spec, 2)) for m in CANDIDATES]
        for kind, x, w in fills(spec, rng):
            x, w = x.astype(dtype), w.astype(dtype)
            want, scale = flat(exact(spec, x, w), spec), flat(exact(spec, abs(x), abs(w)), spec)
            for module, params in modules:
                if params is None:
                    continue
                got = run(module, spec, params, flat(x, spec), w, Epilogue.make(dtype))
                against = norm_scale(spec, flat(x, spec), w) if is_transform(module) else scale
                error = float((abs(got - want) / (unit * against)).max())
                bound = module.ERROR_BOUND
                if module.ACCURACY != "fast":
                    bound = min(bound, CONTRACT)
                worst[module.NAME] = max(worst[module.NAME], error)
                if not error <= bound:
                    wrong.append(f"{module.NAME}: {error:.1f} u (allowed {bound:g}) on {spec}, {kind}")
    report(f"accuracy, {dtype}, in units of the bound: " + ", ".join(f"{name} {e:.2f}" for name, e in worst.items()))
    assert not wrong, "\n".join(wrong)
    assert all(e > 0 for e in worst.values()), worst


def test_bounds_are_declared():
    for module in CANDIDATES:
        assert module.ACCURACY in ("exact", "default", "fast"), module.NAME
        assert 0 < module.ERROR_BOUND < 1000, module.NAME
        if module.ACCURACY != "fast":
            assert module.ERROR_BOUND <= CONTRACT, module.NAME


def test_results_do_not_depend_on_the_number_of_threads():
    """Bit for bit, on numbers whose rounding shows any other order of summation."""
    rng = np.random.default_rng(12)
    for x_shape, weight_shape, options in SHAPES:
        spec = ConvSpec.make(x_shape, weight_shape, **options)
        x, w = rng.random(prod(x_shape), np.float32), rng.random(weight_shape, np.float32)
        for module in CANDIDATES:
            results = []
            for threads in (1, 2, 2):
                params = accepts(module, spec, threads)
                if params is not None:
                    results.append(run(module, spec, params, x, w, Epilogue.make(spec.dtype)))
            for other in results[1:]:
                assert np.array_equal(results[0], other), f"{module.NAME}: {spec}"


def test_results_do_not_depend_on_the_batch():
    """An image gives the same bits alone and among others, unless a transform cuts other tiles for more work."""
    rng = np.random.default_rng(13)
    for x_shape, weight_shape, options in SHAPES:
        x, w = rng.random((3, *x_shape[1:]), np.float32), rng.random(weight_shape, np.float32)
        for module in CANDIDATES:
            if is_transform(module):
                continue
            results = []
            for images in (x, x[1:2]):
                spec = ConvSpec.make(images.shape, weight_shape, **options)
                params = accepts(module, spec, 1)
                if params is not None:
                    got = run(module, spec, params, flat(images, spec), w, Epilogue.make(spec.dtype))
                    results.append(got.reshape(len(images), -1)[min(1, len(images) - 1)])
            if len(results) == 2:
                assert np.array_equal(*results), f"{module.NAME}: {spec}"
