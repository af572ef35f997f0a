"""Gradients of convolutions against oracles in plain NumPy, with numbers for which every sum is exact."""

from __future__ import annotations

from collections import Counter
from math import prod

import numpy as np
import pytest
from cases import GUARD, accepts, is_transform, reduced, sample
from gradient_cases import (
    as_channels_last,
    deconvolutions,
    in_memory,
    input_by_numpy,
    small_integers,
    weight_by_numpy,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import grad
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan import candidates, wisdom
from fastconv.plan.dispatch import plan_spec
from fastconv.spec import PADDING_MODES, ConvSpec

MOST_FAILURES = 20


# ---- every algorithm on benchdnn's problems -------------------------------------------------------------------------


def run(module, spec: ConvSpec, params, gradient: np.ndarray, weight: np.ndarray, epilogue: Epilogue) -> np.ndarray:
    """One algorithm on flat arrays. Fails if it writes outside its output, leaves a part, or changes its input."""
    size = prod(spec.x_shape)
    guarded = np.full(size + 2 * GUARD, 77, spec.dtype)
    out = guarded[GUARD : GUARD + size]
    out[:] = np.nan
    before = gradient.copy()
    module.run(spec, params, gradient, module.prepare(spec, params, weight), out, epilogue)
    assert np.array_equal(gradient, before), f"{module.NAME} changed the gradient"
    assert (guarded[:GUARD] == 77).all(), f"{module.NAME} wrote before the output"
    assert (guarded[GUARD + size :] == 77).all(), f"{module.NAME} wrote after the output"
    return out


def compare(p, doubles: bool) -> tuple[list[str], list[str]]:
    """Names of the algorithms that took the problem, and what went wrong; `doubles` sends some in double precision."""
    bits = p.seed
    dtype = "float64" if doubles and bits & 0x70 == 0 else "float32"
    spec = p.spec(channels_last=bool(bits & 1), flip=bits & 6 == 0, dtype=dtype)
    threads, limit = 1 + (bits >> 8 & 1), (256 << 20, 256 << 20, 8 << 20, 1 << 20)[bits >> 9 & 3]
    rng = np.random.default_rng(bits)
    weight, gradient = rng.integers(-3, 4, spec.weight_shape) * 1.0, rng.integers(-3, 4, spec.out_shape) * 1.0
    expected = input_by_numpy(spec, weight, gradient)
    bias = rng.integers(-50, 51, spec.C) * 1.0 if bits >> 12 & 1 else None
    if bias is not None:
        expected = np.maximum(expected + bias.reshape(-1, *[1] * spec.ndim), 0)
    expected = in_memory(expected, spec.channels_last)
    epilogue = Epilogue.make(
        spec.dtype, None if bias is None else bias.astype(spec.dtype), None, None if bias is None else "relu"
    )
    flat = in_memory(gradient, spec.channels_last).astype(spec.dtype)
    took, wrong = [], []
    for module in candidates.INPUT:
        if module.NAME == "reference" and spec.flops > 1 << 22:
            continue
        params = accepts(module, spec, threads, limit)
        if params is None:
            continue
        took.append(module.NAME)
        where = f"{module.NAME}: {spec} threads {threads} limit {limit} seed {p.seed}, {p}"
        try:
            got = run(module, spec, params, flat, weight.astype(spec.dtype), epilogue)
        except Exception as error:
            wrong.append(f"{where}: {type(error).__name__}: {error}")
            continue
        scale = np.abs(expected).max() + spec.OC * 9.0
        allowed = 64 * np.finfo(spec.dtype).eps * scale if is_transform(module) else 0.0
        bad = ~(np.abs(got - expected) <= allowed)
        if bad.any():
            first = int(np.argmax(bad))
            wrong.append(f"{where}: {bad.sum()} of {bad.size} wrong, first [{first}] = {got[first]}, {expected[first]}")
    return took, wrong


def check(problems, budget: int, doubles: bool = True) -> Counter:
    counts: Counter = Counter()
    failures: list[str] = []
    for p in problems:
        took, wrong = compare(reduced(p, budget), doubles)
        counts.update(took)
        failures += wrong
        if len(failures) >= MOST_FAILURES:
            break
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)
    return counts


def strided(problems):
    return [p for p in problems if max(p.stride) > 1]


def by_group(problems):
    return [p for p in problems if p.groups == p.spec().C]


def test_input_gradients_on_a_sample_of_benchdnn(report):
    some = sample(900)
    chosen = strided(some)[::30] + some[::150] + by_group(strided(some))[:2] + list(deconvolutions())[::10]
    counts = check(chosen, 1 << 16, doubles=False)
    report(f"input gradients: {len(chosen)} problems of benchdnn, {dict(counts)}")
    assert {"direct", "im2col", "depthwise", "depthwise-strided", "fft", "reference"} <= set(counts)


@pytest.mark.slow
def test_input_gradients_on_much_of_benchdnn(report):
    some = sample(1500)
    chosen = strided(some) + some[::5] + list(deconvolutions())
    counts = check(chosen, 1 << 20)
    report(f"input gradients: {len(chosen)} problems of benchdnn, {dict(counts)}")


def check_weight(problems, budget: int) -> None:
    """Through the public function, which picks the algorithm."""
    for p in problems:
        p = reduced(p, budget)
        spec = p.spec()
        rng = np.random.default_rng(p.seed)
        x, gradient = rng.integers(-3, 4, spec.x_shape) * 1.0, rng.integers(-3, 4, spec.out_shape) * 1.0
        options = {name: getattr(spec, name) for name in ("stride", "padding", "dilation", "groups")}
        got = getattr(grad, f"conv{spec.ndim}d_weight")(
            x.astype("float32"), spec.weight_shape, gradient.astype("float32"), accuracy="exact", **options
        )
        np.testing.assert_array_equal(got, weight_by_numpy(spec, x, gradient), err_msg=str(p))


def test_weight_gradients_on_a_sample_of_benchdnn(report):
    chosen = [*sample(900)[::20], *deconvolutions()[::6]]
    check_weight(chosen, 1 << 18)
    report(f"weight gradients: {len(chosen)} problems of benchdnn")


@pytest.mark.slow
def test_weight_gradients_on_much_of_benchdnn(report):
    some = sample(1500)
    chosen = [*strided(some)[::2], *some[::5], *deconvolutions()]
    check_weight(chosen, 1 << 20)
    report(f"weight gradients: {len(chosen)} problems of benchdnn")


# ---- every option --------------------------------------------------------------------------------------------------


FLOATS = ["float32", "complex64", "float16"]  # all computed by the kernels of float32
DTYPES = [*FLOATS, "float64", "complex128", "int32"]


@st.composite
def calls(draw, dtypes):
    ndim = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    mode = draw(st.sampled_from(["zeros", "zeros", *PADDING_MODES]))
    pads = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(ndim))
    return {
        "ndim": ndim,
        "shape": (draw(st.integers(1, 2)), groups * draw(st.integers(1, 3)), *per_axis(1, 9)),
        "OC": groups * draw(st.integers(1, 3)),
        "kernel": per_axis(1, 4),
        "options": {
            "stride": per_axis(1, 4), "dilation": per_axis(1, 3), "groups": groups, "padding_mode": mode,
            "padding": draw(st.sampled_from([pads, pads, "same", "valid", 1])), "flip": draw(st.booleans()),
        },
        "dtype": draw(st.sampled_from(dtypes)),
        "layout": draw(st.sampled_from(["NCHW", "NCHW", "NHWC"])),
        "memory": draw(st.sampled_from(["first", "last", "reversed"])),
        "batched": draw(st.booleans()),
        "out": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }  # fmt: skip


def remembered(array: np.ndarray, memory: str) -> np.ndarray:
    if memory == "last":
        return as_channels_last(array)
    return array[..., ::-1].copy()[..., ::-1] if memory == "reversed" else array


def check_call(case) -> None:
    ndim, options, dtype = case["ndim"], case["options"], np.dtype(case["dtype"])
    shape, weight_shape = case["shape"], (case["OC"], case["shape"][1] // options["groups"], *case["kernel"])
    functions = [getattr(grad, f"conv{ndim}d_{name}") for name in ("input", "weight", "backward")]
    rng = np.random.default_rng(case["seed"])
    last = case["layout"] == "NHWC"

    def given_as(array):
        array = array if case["batched"] else array[0]
        return np.moveaxis(array, -1 - ndim, -1) if last else array

    try:
        spec = ConvSpec.make(shape, weight_shape, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"weight must not be larger|padding must"):
            functions[0](given_as(np.empty(shape)).shape, np.ones(weight_shape), np.ones(shape), layout=case["layout"],
                         **options)  # fmt: skip
        return
    if not case["batched"]:
        spec = ConvSpec.make((1, *shape[1:]), weight_shape, **options)
    wide = np.complex128 if dtype.kind == "c" else np.float64
    result = np.dtype(np.int64) if dtype.kind == "i" else dtype
    x = remembered(small_integers(rng, spec.x_shape, dtype), case["memory"])
    weight = small_integers(rng, weight_shape, dtype)
    gradient = remembered(small_integers(rng, spec.out_shape, dtype), case["memory"])
    options = {**options, "layout": case["layout"], "accuracy": "exact"}
    want_x = given_as(input_by_numpy(spec, weight.astype(wide), gradient.astype(wide)))
    want_w = weight_by_numpy(spec, x.astype(wide), gradient.astype(wide))
    outs = (np.full(want_x.shape, 9, result), np.full(want_w.shape, 9, result)) if case["out"] else (None, None)
    got_x = functions[0](want_x.shape, weight, given_as(gradient), out=outs[0], **options)
    got_w = functions[1](given_as(x), weight_shape, given_as(gradient), out=outs[1], **options)
    for got, want, out in ((got_x, want_x, outs[0]), (got_w, want_w, outs[1])):
        assert got.dtype == result
        assert out is None or got is out
        np.testing.assert_array_equal(got, want.astype(result))
    both = functions[2](given_as(x), weight, given_as(gradient), **options)
    np.testing.assert_array_equal(both[0], want_x.astype(result))
    np.testing.assert_array_equal(both[1], want_w.astype(result))
    np.testing.assert_array_equal(both[2], gradient.astype(wide).sum((0, *range(2, ndim + 2))).astype(gradient.dtype))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls(FLOATS))
def test_every_option(case):
    check_call(case)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls(DTYPES))
def test_very_many_options(case):
    check_call(case)


OPTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 3), "padding": ((0, 2), (1, 0)), "dilation": (1, 2)},
    {"dilation": 2, "padding": "same"},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2},
    {"padding": 2, "padding_mode": "circular", "flip": True},
    {"stride": 2, "dilation": 2, "padding": 3},
]


def _slow_but_one():
    """The kernels of double precision take seconds to compile."""
    return [pytest.param(o, id=str(o), marks=[pytest.mark.slow] if o is not OPTIONS[2] else []) for o in OPTIONS]


@pytest.mark.parametrize("options", _slow_but_one())
def test_finite_differences(options):
    """The slope of a loss along random directions, in float64."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 4, 7, 8)), rng.standard_normal((4, 4 // options.get("groups", 1), 3, 3))
    bias = rng.standard_normal(4)
    gradient = np.cos(fastconv.conv2d(x, weight, bias, **options))  # of the loss: the sum of sines

    def loss(dx, dw, db):
        return np.sin(fastconv.conv2d(x + dx, weight + dw, bias + db, **options)).sum()

    gradients = grad.conv2d_backward(x, weight, gradient, **options)
    for place, (array, derivative) in enumerate(zip((x, weight, bias), gradients, strict=True)):
        direction, h = rng.standard_normal(array.shape), 1e-5
        steps = [np.zeros_like(a) for a in (x, weight, bias)]
        steps[place] = h * direction
        slope = (loss(*steps) - loss(*(-step for step in steps))) / (2 * h)
        assert abs(slope - (derivative * direction).sum()) < 1e-6 * max(1, abs(slope))


def test_arguments_in_the_order_of_torch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    rng = np.random.default_rng(0)
    x, weight = small_integers(rng, (2, 4, 9, 8), "float32"), small_integers(rng, (6, 2, 3, 3), "float32")
    gradient = small_integers(rng, (2, 6, 4, 4), "float32")
    tensors = [torch.from_numpy(array) for array in (x, weight, gradient)]
    theirs = torch.nn.grad.conv2d_input(x.shape, tensors[1], tensors[2], (2, 2), (1, 1), (2, 1), 2).numpy()
    np.testing.assert_array_equal(grad.conv2d_input(x.shape, weight, gradient, (2, 2), (1, 1), (2, 1), 2), theirs)
    theirs = torch.nn.grad.conv2d_weight(tensors[0], weight.shape, tensors[2], (2, 2), (1, 1), (2, 1), 2).numpy()
    np.testing.assert_array_equal(grad.conv2d_weight(x, weight.shape, gradient, (2, 2), (1, 1), (2, 1), 2), theirs)


def test_result_has_the_memory_order_of_the_gradient():
    gradient, weight = np.ones((2, 16, 8, 8), np.float32), np.ones((16, 8, 3, 3), np.float32)
    first = grad.conv2d_input((2, 8, 10, 10), weight, gradient)
    last = grad.conv2d_input((2, 8, 10, 10), weight, as_channels_last(gradient))
    np.testing.assert_array_equal(first, last)
    assert first.flags.c_contiguous
    assert np.moveaxis(last, 1, -1).flags.c_contiguous


def test_only_what_is_needed():
    x, weight, gradient = np.ones((1, 2, 5, 5)), np.ones((3, 2, 3, 3)), np.ones((1, 3, 3, 3))
    dx, dw, db = grad.conv2d_backward(x, weight, gradient, needs=(False, True, False))
    assert dx is None
    assert db is None
    assert dw.shape == weight.shape
    with pytest.raises(ValueError, match="needs must be three bools"):
        grad.conv2d_backward(x, weight, gradient, needs=(1, 2))


def test_empty_batch():
    weight = np.ones((3, 2, 3, 3), np.float32)
    x, gradient = np.empty((0, 2, 5, 5), np.float32), np.empty((0, 3, 3, 3), np.float32)
    dx, dw, db = grad.conv2d_backward(x, weight, gradient)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros_like(weight))
    np.testing.assert_array_equal(db, np.zeros(3))


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft", "depthwise", "depthwise-strided"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_threads_do_not_change_the_input_gradient(algorithm, last):
    groups = 24 if "depthwise" in algorithm else 1
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 24 // groups, 3, 3), np.float32)
    gradient = rng.standard_normal((2, 24, 17, 19), np.float32)
    gradient = as_channels_last(gradient) if last else gradient
    options = {"stride": 2, "padding": 1, "groups": groups, "algorithm": algorithm}
    before, results = fastconv.get_num_threads(), []
    try:
        for count in (1, 2):
            fastconv.set_num_threads(count)
            results.append(grad.conv2d_input((2, 24, 33, 38), weight, gradient, **options))
    finally:
        fastconv.set_num_threads(before)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("algorithm", candidates.names("input"))
def test_accuracy_of_the_input_gradient(algorithm):
    """Within 16 u (|w| * |g|) as the forward pass; the transforms within as much of the norm."""
    rng = np.random.default_rng(1)
    groups = 64 if "depthwise" in algorithm else 1
    weight = rng.uniform(-1, 1, (64, 64 // groups, 3, 3)).astype(np.float32)
    gradient = rng.uniform(-1, 1, (1, 64, 14, 15)).astype(np.float32)
    spec = ConvSpec.make((1, 64, 28, 30), weight.shape, stride=2, padding=1, groups=groups)
    options = {"stride": 2, "padding": 1, "groups": groups, "algorithm": algorithm, "accuracy": "fast"}
    try:
        got = grad.conv2d_input(spec.x_shape, weight, gradient, **options)
    except ValueError as refusal:
        assert "cannot compute" in str(refusal)  # noqa: PT017
        pytest.skip(str(refusal))
    exact = input_by_numpy(spec, weight.astype(np.float64), gradient.astype(np.float64))
    scale = input_by_numpy(spec, np.abs(weight).astype(np.float64), np.abs(gradient).astype(np.float64))
    if algorithm in ("fft", "winograd"):
        scale[:] = scale.max()
    assert (np.abs(got - exact) <= 16 * 2.0**-24 * np.maximum(scale, 1e-30)).all()


# ---- errors: what other libraries crashed on (TensorFlow CVE-2021-29579, -41209, CVE-2022-35996, -41900, ...) --------

X, W, G = np.ones((1, 4, 6, 6), np.float32), np.ones((6, 4, 3, 3), np.float32), np.ones((1, 6, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X.shape, W, G[:, :, :3]), {}, ValueError, r"have the shape .*\(1, 6, 4, 4\), got \(1, 6, 3, 4\)"),
        ((X.shape, W, G[:, :5]), {}, ValueError, r"grad_output must have the shape .* got \(1, 5, 4, 4\)"),
        ((X.shape, W, G[:0]), {}, ValueError, r"grad_output must have the shape"),
        ((X.shape, W, G[..., :0]), {}, ValueError, r"grad_output must have the shape"),
        ((X.shape, W, G[0]), {}, ValueError, r"grad_output must have the shape"),
        (((1, 4, 0, 6), W, G), {}, ValueError, r"x must have no empty axis"),
        (((1, 4, -6, 6), W, G), {}, ValueError, r"input_shape\[2\] must be a non-negative integer, got -6"),
        (((1, 4, 6), W, G), {}, ValueError, r"groups|weight.shape\[1\] must be 1 \(x has 1 channels|grad_output must"),
        (((4, 6), W, G), {}, ValueError, r"input_shape must have 4 axes"),
        (((1, 4, 6.0, 6), W, G), {}, TypeError, r"input_shape\[2\] must be a non-negative integer, got 6.0"),
        (((1, 5, 6, 6), W, G), {}, ValueError, r"weight.shape\[1\] must be 5"),
        ((X.shape, W[:, :0], G), {}, ValueError, r"weight must have no empty axis"),
        ((X.shape, W[0], G), {}, ValueError, r"weight must have 4 axes"),
        ((X.shape, W, G), {"stride": 0}, ValueError, r"stride must be a positive integer, got 0"),
        ((X.shape, W, G), {"stride": -1}, ValueError, r"stride must be a positive integer, got -1"),
        ((X.shape, W, G), {"padding": -1}, ValueError, r"padding must be a non-negative integer, got -1"),
        ((X.shape, W, G), {"padding": []}, ValueError, r"padding must be .* got \(\)"),
        ((X.shape, W, G), {"groups": 3}, ValueError, r"groups must divide"),
        ((X.shape, W, G), {"stride": True}, TypeError, r"stride must be a positive integer, got True"),
        ((X.shape, W, G.astype("float64")), {}, TypeError, r"grad_output and weight must have the same dtype"),
        ((X.shape, W, G > 0), {}, TypeError, r"grad_output must have a dtype among"),
        ((X.shape, W, G), {"algorithm": "magic"}, ValueError, r"algorithm must be 'auto' or one of"),
        ((X.shape, W, G), {"layout": "CHWN"}, ValueError, r"layout must be one of"),
        ((X.shape, W, G), {"out": np.empty((1, 4, 6, 5), np.float32)}, ValueError, r"out must have shape"),
        (((1, 2**40, 2**20, 2**20), W, G), {}, ValueError, r"weight.shape\[1\] must be"),
    ],
)  # fmt: skip
def test_mistakes_in_an_input_gradient(arguments, options, error, message):
    with pytest.raises(error, match=message):
        grad.conv2d_input(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, W.shape, G[:, :, 1:]), {}, ValueError, r"grad_output must have the shape"),
        ((X, W.shape, np.concatenate([G, G])), {}, ValueError, r"grad_output must have the shape"),
        ((X[:0], W.shape, G), {}, ValueError, r"grad_output must have the shape"),
        ((X[:, :, :0], W.shape, G), {}, ValueError, r"x must have no empty axis"),
        ((X, (6, 4, 3, -3), G), {}, ValueError, r"weight_shape\[3\] must be a non-negative integer, got -3"),
        ((X, (6, 4, 3, 0), G), {}, ValueError, r"weight must have no empty axis"),
        ((X, (6, 4, 7, 3), G), {}, ValueError, r"weight must not be larger than the padded input"),
        ((X, (6, 4, 3), G), {}, ValueError, r"weight must have 4 axes"),
        ((X, (6, 5, 3, 3), G), {}, ValueError, r"weight.shape\[1\] must be 4"),
        ((X, W.shape, G.astype("float64")), {}, TypeError, r"x and grad_output must have the same dtype"),
        ((X, (6, 4, 2**31, 3), G), {}, ValueError, r"weight must not be larger than the padded input"),
        ((X, W.shape, G), {"out": X}, ValueError, r"out must have shape"),
    ],
)
def test_mistakes_in_a_weight_gradient(arguments, options, error, message):
    with pytest.raises(error, match=message):
        grad.conv2d_weight(*arguments, **options)


def test_out_may_not_overlap():
    shared = np.ones((1, 4, 6, 6), np.float32)
    with pytest.raises(ValueError, match="out must not share memory with grad_output"):
        grad.conv2d_input(shared.shape, np.ones((4, 4, 1, 1), np.float32), shared, out=shared)


def test_a_mistake_is_found_after_a_correct_call():
    """The same options, equal and yet of another type, must not be served by the remembered call."""
    grad.conv2d_input(X.shape, W, G, stride=1, flip=False)
    with pytest.raises(TypeError, match="stride"):
        grad.conv2d_input(X.shape, W, G, stride=True)
    with pytest.raises(TypeError, match="flip"):
        grad.conv2d_input(X.shape, W, G, flip=0)
    with pytest.raises(TypeError, match="groups"):
        grad.conv2d_weight(X, W.shape, G, groups=1.0)


# ---- plans ---------------------------------------------------------------------------------------------------------


def test_each_direction_has_its_table():
    for direction in ("input", "weight"):
        found = fastconv.explain((1, 8, 12, 12), (8, 8, 3, 3), stride=2, direction=direction, prepared=False)
        assert {row.algorithm for row in found.rows} == set(candidates.names(direction))
        assert f"{direction} gradient of 1x8x12x12" in str(found)
    found = fastconv.explain((1, 8, 6, 6), (8, 4, 4, 4), stride=2, padding=1, direction="transpose")
    assert "-> 1x4x12x12" in found.problem
    with pytest.raises(ValueError, match="direction must be one of forward, input, weight, transpose"):
        fastconv.plan((1, 8, 6, 6), (8, 8, 3, 3), direction="backward")
    with pytest.raises(TypeError, match="unknown option 'output_padding'"):
        fastconv.plan((1, 8, 6, 6), (8, 8, 3, 3), output_padding=1)


def test_wisdom_is_kept_for_each_direction(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_WISDOM", str(tmp_path / "wisdom.json"))
    wisdom.forget()
    try:
        shapes = (1, 16, 12, 12), (16, 16, 3, 3)
        for direction in ("input", "weight"):
            tuned = fastconv.autotune(*shapes, direction=direction)
            assert tuned.measured is not None
            assert fastconv.plan(*shapes, direction=direction).measured == tuned.measured
        assert fastconv.plan(*shapes).measured is None
    finally:
        monkeypatch.undo()
        wisdom.forget()


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_workspace_limit_is_respected(mode):
    weight, gradient = np.ones((16, 16, 3, 3), np.float32), np.ones((8, 16, 32, 32), np.float32)
    spec = ConvSpec.make((8, 16, 64, 64), weight.shape, stride=2, padding=1, padding_mode=mode)
    for limit in (2 << 20, 600 << 10):
        assert plan_spec(spec, direction="input", workspace_limit=limit).workspace <= limit
    options = {"stride": 2, "padding": 1, "padding_mode": mode, "accuracy": "exact"}
    small = grad.conv2d_input(spec.x_shape, weight, gradient, workspace_limit=600 << 10, **options)
    np.testing.assert_array_equal(small, grad.conv2d_input(spec.x_shape, weight, gradient, **options))
