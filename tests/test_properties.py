"""Hypothesis over the whole argument space of the public functions.

Every drawn call either agrees with NumPy, exactly (the data are small integers), or raises ValueError because its
geometry is impossible. Shapes of the arguments vary as well as their values: lists, tuples, pairs and words, both
layouts and memory orders, unbatched and empty batches, strided, reversed, broadcast, unaligned and read-only arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import by_numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv.plan.candidates import names
from fastconv.spec import PADDING_MODES, ConvSpec

DTYPES = ["float32"] * 6 + ["float64"] * 2 + ["float16", "complex64", "complex128", "int8", "uint8", "int16", "int64"]
ACTIVATIONS = [None, None, "relu", "relu6", ("clip", -3, 4)]


@st.composite
def calls(draw) -> dict[str, Any]:
    """The arguments of one call, as plain values; arrays are made from them by `build`."""
    ndim = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    per_axis = {
        name: draw(st.one_of(st.integers(1, top), st.tuples(*[st.integers(1, top)] * ndim)))
        for name, top in (("stride", 4), ("dilation", 3))
    }
    pad = st.integers(0, 5)
    padding = draw(
        st.one_of(
            st.just("same"),
            st.just("valid"),
            pad,
            st.tuples(*[pad] * ndim),
            st.tuples(*[st.one_of(pad, st.tuples(pad, pad))] * ndim),
        )
    )
    return {
        "ndim": ndim,
        "N": draw(st.sampled_from([0, 1, 1, 2, 3])),
        "C": groups * draw(st.sampled_from([1, 1, 2, 3, 4, 17])),
        "OC": groups * draw(st.sampled_from([1, 1, 2, 3, 5, 16, 17])),
        "size": draw(st.tuples(*[st.integers(1, (40, 20, 8)[ndim - 1])] * ndim)),
        "kernel": draw(st.tuples(*[st.sampled_from([1, 2, 3, 3, 4, 5, 7, 9])] * ndim)),
        "options": {
            **per_axis,
            "padding": padding,
            "groups": groups,
            "padding_mode": draw(st.sampled_from(["zeros", *PADDING_MODES])),
            "flip": draw(st.booleans()),
            "activation": draw(st.sampled_from(ACTIVATIONS)),
            "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
            "algorithm": draw(st.sampled_from(["auto", "auto", *names()])),
            "workspace_limit": draw(st.sampled_from([None, None, 1 << 20, 1 << 14])),
        },
        "dtype": draw(st.sampled_from(DTYPES)),
        "memory": draw(
            st.sampled_from(
                ["first", "first", "last", "last", "reversed", "crop", "broadcast", "unaligned", "read-only", "swapped"]
            )
        ),
        "batched": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "out": draw(st.sampled_from([None, None, "plain", "strided"])),
        "prepared": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


def integers(rng: np.random.Generator, shape, dtype: np.dtype) -> np.ndarray:
    """Small enough that float16 results stay exact."""
    low = 0 if dtype.kind == "u" else -1
    x = rng.integers(low, 2, shape).astype(dtype)
    return x + (1j * rng.integers(low, 2, shape)).astype(dtype) if dtype.kind == "c" else x


def remembered(x: np.ndarray, how: str) -> np.ndarray:
    """The same values in another memory."""
    if how == "last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if how == "reversed":
        return x[..., ::-1].copy()[..., ::-1]
    if how == "crop":
        return np.moveaxis(np.pad(np.moveaxis(x, 1, -1), ((0, 0), *[(1, 1)] * (x.ndim - 1))), -1, 1)[
            (slice(None), *[slice(1, -1)] * (x.ndim - 1))
        ]
    if how == "broadcast":
        return np.broadcast_to(x[..., :1], x.shape)
    if how == "unaligned":
        moved = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        moved[...] = x
        return moved
    if how == "read-only":
        x = x.copy()
        x.flags.writeable = False
    if how == "swapped":
        return x.astype(x.dtype.newbyteorder())
    return x


def activate(x: np.ndarray, activation: Any) -> np.ndarray:
    if activation is None:
        return x
    low, high = {"relu": (0, None), "relu6": (0, 6)}.get(activation, activation[1:])
    return np.clip(x, low, high)


def check(case: dict[str, Any]) -> None:
    rng = np.random.default_rng(case["seed"])
    ndim, options, dtype = case["ndim"], dict(case["options"]), np.dtype(case["dtype"])
    if dtype.kind == "c":
        options["activation"] = None
    shape, weight_shape = (case["N"], case["C"], *case["size"]), (
        case["OC"], case["C"] // options["groups"], *case["kernel"],
    )  # fmt: skip
    function = getattr(fastconv, f"conv{ndim}d")
    x = remembered(integers(rng, shape, dtype), case["memory"])
    w = integers(rng, weight_shape, dtype)
    batched = case["batched"] or case["N"] == 0
    given_x = x if batched else x[0]
    if options["layout"] == "NHWC":
        given_x = np.moveaxis(given_x, -1 - ndim, -1)
    geometry = {n: options[n] for n in ("stride", "padding", "dilation", "groups", "padding_mode", "flip")}
    try:
        spec = ConvSpec.make(shape, weight_shape, **geometry)
    except ValueError:
        with pytest.raises(ValueError, match=r"weight must not be larger|padding must"):
            function(given_x, w, **options)
        return

    result = np.dtype({"int8": "int32", "uint8": "int32", "int16": "int64"}.get(dtype.name, dtype.name))
    wide = np.dtype(np.complex128 if dtype.kind == "c" else np.int64 if dtype.kind in "iu" else np.float64)
    full = {n: getattr(spec, n) for n in geometry}
    want = by_numpy(x.astype(wide), w.astype(wide), **full) if case["N"] else np.zeros(spec.out_shape, wide)
    bias = integers(rng, spec.OC, result) if case["bias"] else None
    residual = integers(rng, spec.out_shape, result) if case["residual"] else None
    if bias is not None:
        want = want + bias.reshape(-1, *[1] * ndim).astype(wide)
    if residual is not None:
        want = want + residual.astype(wide)
    want = activate(want, options["activation"])

    def as_given(array):
        array = array if batched else array[0]
        return np.moveaxis(array, -1 - ndim, -1) if options["layout"] == "NHWC" else array

    want = as_given(want)
    residual = None if residual is None else as_given(residual)
    out = None
    if case["out"] is not None:
        out = (
            np.full(want.shape, 99, result) if case["out"] == "plain" else np.full((*want.shape, 2), 99, result)[..., 1]
        )
    before = given_x.copy(), w.copy()
    try:
        if case["prepared"]:
            got = fastconv.prepare(w, bias, **options)(given_x, residual=residual, out=out)
        else:
            got = function(given_x, w, bias, residual=residual, out=out, **options)
    except ValueError as refusal:
        if options["algorithm"] == "auto" or "cannot compute" not in str(refusal):
            raise
        return
    assert got.dtype == result
    assert got.shape == want.shape
    assert out is None or got is out
    # Only a transform rounds: everything else is exact on integers.
    exact = options["algorithm"] not in ("auto", "fft", "winograd") or dtype.kind in "iu"
    error = np.abs(got.astype(wide) - want).max(initial=0)
    assert error == 0 if exact else error < 1e-2, f"error {error}"
    for array, copy in zip((given_x, w), before, strict=True):
        assert np.array_equal(array, copy), "an input was changed"


# What once went wrong, or does so elsewhere.
BASE = {
    "ndim": 2, "N": 1, "C": 2, "OC": 2, "size": (5, 6), "kernel": (3, 3), "dtype": "float32", "memory": "first",
    "batched": True, "bias": False, "residual": False, "out": None, "prepared": False, "seed": 0,
    "options": {
        "stride": 1, "dilation": 1, "padding": 0, "groups": 1, "padding_mode": "zeros", "flip": False,
        "activation": None, "layout": "NCHW", "algorithm": "auto", "workspace_limit": None,
    },
}  # fmt: skip


def changed(options=(), **case) -> dict[str, Any]:
    return {**BASE, **case, "options": {**BASE["options"], **dict(options)}}


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True
)  # fmt: skip
@given(calls())
@example(changed({"stride": 7}, size=(8, 8)))  # one output, cells left over
@example(changed({"layout": "NHWC"}, C=1))
@example(changed({"padding": 4, "padding_mode": "circular", "dilation": 3}, size=(4, 4)))
def test_every_call_agrees_with_numpy(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(calls())
def test_very_many_calls(case):
    check(case)
