"""NaN and infinities come out exactly where they must: the masks are the oracle's, for every algorithm."""

from __future__ import annotations

import numpy as np
from cases import accepts, run

from fastconv.kernels import reference
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan.candidates import CANDIDATES
from fastconv.spec import ConvSpec

NAN, INF = np.nan, np.inf

PROBLEMS = [
    ((1, 4, 26, 26), (5, 4, 3, 3), {"padding": 1}),
    ((1, 4, 26, 26), (5, 4, 3, 3), {"padding": 1, "channels_last": True}),
    ((2, 3, 70, 67), (4, 3, 11, 11), {"padding": 5}),
    ((2, 3, 70, 67), (4, 3, 11, 11), {"padding": 5, "padding_mode": "circular"}),
    ((1, 2, 150, 140), (2, 2, 31, 31), {}),
    ((1, 8, 21, 23), (8, 1, 5, 5), {"groups": 8, "padding": 2}),
    ((1, 8, 21, 23), (8, 1, 5, 5), {"groups": 8, "padding": 2, "channels_last": True}),
    ((1, 16, 15, 17), (16, 8, 3, 3), {"groups": 2, "stride": 2, "dilation": 2, "padding": 2}),
    ((1, 3, 301), (4, 3, 25), {"padding": 12, "padding_mode": "reflect"}),
    ((1, 32, 9, 9), (35, 32, 1, 1), {}),
    ((1, 2, 9, 10, 11), (3, 2, 3, 3, 3), {"padding": 1}),
]

# Values planted at random places of x: alone, several, of both signs, and a finite one whose products overflow (only
# one: whether the sum of two overflows on the way depends on the order).
PLANTED = [(NAN,), (INF,), (-INF,), (NAN, INF, -INF), (INF, INF, -INF, -INF), (3e38,)]


def masks(out: np.ndarray) -> tuple[np.ndarray, ...]:
    return np.isnan(out), out == INF, out == -INF


def disagreements(spec: ConvSpec, x: np.ndarray, w: np.ndarray, what: str) -> list[str]:
    epilogue = Epilogue.make(spec.dtype)
    want = masks(run(reference, spec, accepts(reference, spec), x, w, epilogue))
    wrong = []
    for module in CANDIDATES:
        params = accepts(module, spec, 2)
        if params is None:
            continue
        got = masks(run(module, spec, params, x, w, epilogue))
        for name, one, other in zip(("NaN", "inf", "-inf"), got, want, strict=True):
            if not np.array_equal(one, other):
                wrong.append(f"{module.NAME}: {one.sum()} {name} instead of {other.sum()}: {spec}, {what}")
    return wrong


def problems(dtype: str = "float32"):
    rng = np.random.default_rng(21)
    for x_shape, weight_shape, options in PROBLEMS:
        spec = ConvSpec.make(x_shape, weight_shape, dtype=dtype, **options)
        # Every weight has a sign and a size: an infinity meets no zero, and no overflow is a matter of rounding.
        w = (rng.integers(1, 4, weight_shape) * rng.choice([-1, 1], weight_shape)).astype(dtype)
        yield spec, rng.integers(-3, 4, np.prod(x_shape)).astype(dtype), w, rng


def test_masks_of_non_finite_inputs():
    wrong = []
    for spec, clean, w, rng in problems():
        for planted in PLANTED:
            x = clean.copy()
            x[rng.choice(x.size, len(planted), replace=False)] = planted
            wrong += disagreements(spec, x, w, f"planted {planted}")
        for at in (0, clean.size - 1):
            x = clean.copy()
            x[at] = NAN
            wrong += disagreements(spec, x, w, f"NaN at {at}")
    assert not wrong, "\n".join(wrong)


def test_masks_in_double():
    wrong = []
    for spec, clean, w, rng in problems("float64"):
        x = clean.copy()
        x[rng.choice(x.size, 3, replace=False)] = NAN, INF, -INF
        wrong += disagreements(spec, x, w, "planted in float64")
    assert not wrong, "\n".join(wrong)


def test_masks_of_non_finite_weights():
    """One bad tap spoils one output channel, and no other; what it meets in the padding is a zero, so NaN."""
    wrong = []
    for spec, x, clean, rng in problems():
        for value in (NAN, INF):
            w = clean.copy()
            w.reshape(-1)[rng.integers(w.size)] = value
            wrong += disagreements(spec, x, w, f"{value} in the weight")
    assert not wrong, "\n".join(wrong)


def test_nothing_of_a_nan_reaches_other_images_or_channels():
    for module in CANDIDATES:
        spec = ConvSpec.make((3, 4, 40, 41), (4, 2, 9, 9), groups=2)
        params = accepts(module, spec)
        if params is None:
            continue
        x = np.ones(spec.x_shape, np.float32)
        x[1, 0, 20, 20] = NAN
        out = run(module, spec, params, x.reshape(-1), np.ones(spec.weight_shape, np.float32), Epilogue.make("float32"))
        out = out.reshape(spec.out_shape)
        bad = np.zeros(out.shape, bool)
        bad[1, :2, 12:21, 12:21] = True
        assert np.array_equal(np.isnan(out), bad), module.NAME
        assert np.abs(out[~bad] - 162).max() < 1e-2, module.NAME


def test_a_spike_leaves_far_outputs_accurate():
    """A transform spreads the rounding error of one huge value over its tile; outputs that do not see it must not."""
    for module in CANDIDATES:
        spec = ConvSpec.make((1, 2, 60, 60), (2, 2, 9, 9))
        params = accepts(module, spec)
        if params is None:
            continue
        rng = np.random.default_rng(22)
        x, w = rng.random(spec.x_shape, np.float32), rng.random(spec.weight_shape, np.float32)
        x[0, 0, 30, 30] = 1e8
        epilogue = Epilogue.make("float32")
        want = run(reference, spec, accepts(reference, spec), x.reshape(-1), w, epilogue).reshape(spec.out_shape)
        got = run(module, spec, params, x.reshape(-1), w, epilogue).reshape(spec.out_shape)
        assert np.abs(got / want - 1).max() < 1e-4, module.NAME
