"""Weight gradients, each algorithm by itself: exact integers, accuracy, threads, scratch memory."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from cases import GUARD, reduced, sample

import fastconv
from fastconv.cpu import isa
from fastconv.cpu.cached import cached
from fastconv.cpu.dots import add_lanes, dots, dots_twin, most_shifts
from fastconv.kernels import bias_grad, weight_grad_direct, weight_grad_dots
from fastconv.plan.candidates import WEIGHT
from fastconv.plan.dispatch import plan_spec
from fastconv.spec import ConvSpec

OWN = (weight_grad_direct, weight_grad_dots)
LIMIT = 256 << 20
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def oracle(spec: ConvSpec, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """One GEMM for each tap, on slices of the padded input, in the wide type that x and grad come in."""
    G = spec.groups
    padded = np.pad(x, ((0, 0), (0, 0), *spec.padding), mode=MODES[spec.padding_mode])
    filters = grad.reshape(spec.N, G, spec.OC // G, -1)
    out = np.zeros(spec.weight_shape, x.dtype)
    for tap in np.ndindex(*spec.kernel):
        cells = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, spec.dilation, spec.output, spec.stride, strict=True)
        ]
        seen = padded[(slice(None), slice(None), *cells)].reshape(spec.N, G, spec.C // G, -1)
        place = tuple(k - 1 - t for t, k in zip(tap, spec.kernel, strict=True)) if spec.flip else tap
        out[(slice(None), slice(None), *place)] = np.einsum("ngop,ngcp->goc", filters, seen).reshape(spec.OC, -1)
    return out


def in_memory(spec: ConvSpec, array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if spec.channels_last else array).reshape(-1)


def integers(spec: ConvSpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Exact in every dtype and order of summation."""
    rng = np.random.default_rng(seed)
    wide = np.float64 if np.dtype(spec.dtype).kind == "f" else np.int64
    return rng.integers(-3, 4, spec.x_shape).astype(wide), rng.integers(-3, 4, spec.out_shape).astype(wide)


def run(module, spec: ConvSpec, params, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """One algorithm. Fails if it writes outside its output, leaves a part of it, or changes what it reads."""
    assert params.workspace <= LIMIT
    x, grad = in_memory(spec, x).astype(spec.dtype), in_memory(spec, grad).astype(spec.dtype)
    before = x.copy(), grad.copy()
    size = prod(spec.weight_shape)
    held = np.full(size + 2 * GUARD, 77, spec.dtype)
    out = held[GUARD : GUARD + size]
    if out.dtype.kind == "f":
        out[:] = np.nan
    module.run(spec, params, x, grad, out)
    assert (held[:GUARD] == 77).all(), module.NAME
    assert (held[GUARD + size :] == 77).all(), module.NAME
    assert np.array_equal(x, before[0], equal_nan=True), module.NAME
    assert np.array_equal(grad, before[1], equal_nan=True), module.NAME
    return out.reshape(spec.weight_shape)


def check(spec: ConvSpec, modules=OWN, threads: int = 1) -> None:
    x, grad = integers(spec)
    expected = oracle(spec, x, grad)
    for module in modules:
        assert module.refuses(spec) is None
        params = module.parameters(spec, threads, LIMIT)
        assert not isinstance(params, str), params
        got = run(module, spec, params, x, grad)
        np.testing.assert_array_equal(got, expected, err_msg=f"{module.NAME}: {spec}")


def random_spec(rng: np.random.Generator, dtype: str) -> ConvSpec:
    """A small problem with every option; half of them have few channels per group."""
    while True:
        ndim = int(rng.choice([1, 2, 2, 3]))
        size = rng.integers(1, {1: 700, 2: 45, 3: 12}[ndim], ndim)
        kernel, stride, dilation = rng.integers(1, 6, ndim), rng.integers(1, 4, ndim), rng.integers(1, 4, ndim)
        padding = [tuple(map(int, rng.integers(0, 4, 2))) for _ in range(ndim)] if rng.random() < 0.6 else 0
        if rng.random() < 0.5:
            groups, C, OC = (
                int(rng.choice([1, 2, 3])),
                int(rng.choice([1, 2, 5, 17, 33])),
                int(rng.choice([1, 8, 19, 70])),
            )
        else:
            groups, C, OC = (
                int(rng.choice([1, 3, 16, 19, 40])),
                int(rng.choice([1, 1, 4, 8])),
                int(rng.choice([1, 1, 2, 6])),
            )
        try:
            return ConvSpec.make(
                (int(rng.integers(1, 4)), groups * C, *map(int, size)),
                (groups * OC, C, *map(int, kernel)),
                stride=tuple(map(int, stride)), dilation=tuple(map(int, dilation)), padding=padding, groups=groups,
                padding_mode=str(rng.choice(list(MODES))), flip=bool(rng.random() < 0.3),
                channels_last=bool(rng.random() < 0.5), dtype=dtype,
            )  # fmt: skip
        except ValueError:  # a kernel larger than the padded input, a padding larger than the input
            continue


def test_exact_on_random_problems():
    rng = np.random.default_rng(1)
    for _ in range(60):
        check(random_spec(rng, "float32"), threads=int(rng.integers(1, 3)))


def test_as_many_channels_as_outputs_is_not_yet_depthwise():
    for groups in (1, 2, 32):
        check(ConvSpec.make((1, 32, 12, 13), (32, 32 // groups, 3, 3), padding=1, groups=groups))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_exact_on_many_random_problems(dtype):
    rng = np.random.default_rng(2)
    for _ in range(250 if dtype == "float32" else 60):
        check(random_spec(rng, dtype), threads=int(rng.integers(1, 3)))


@pytest.mark.slow
def test_exact_on_the_benchdnn_sample():
    for problem in sample(300):
        small = reduced(problem, 3_000_000)
        check(small.spec(channels_last=bool(small.seed & 1)), threads=1 + (small.seed >> 1 & 1))


def test_every_tail():
    """Output channels, rows of the gradient, pixels: whole vectors, and every remainder."""
    W = isa.width("float32")
    for n in range(1, 2 * W + 3):
        check(ConvSpec.make((1, 3, 5, 11), (n, 3, 3, 3), padding=1))
        check(ConvSpec.make((1, n, 4, 6), (5, n, 1, 3), channels_last=True))
        check(ConvSpec.make((2, 2, 3, n + 2), (17, 2, 1, 3)))
        check(ConvSpec.make((1, n, 5, 7), (n, 1, 3, 3), padding=1, groups=n, channels_last=True))


# Kernels whose taps see much padding, most of them dilated.
WIDE = [
    ((1, 16, 13, 13), (32, 16, 3, 3), {"padding": 6, "dilation": 6}),
    ((2, 20, 13, 15), (37, 20, 3, 3), {"padding": 6, "dilation": 6, "channels_last": True, "flip": True}),
    ((2, 40, 7, 9), (24, 20, 3, 3), {"padding": ((2, 1), (0, 3)), "dilation": (3, 2), "stride": (2, 1), "groups": 2}),
    ((1, 17, 5, 6, 7), (9, 17, 3, 3, 3), {"padding": 2, "dilation": 2, "flip": True}),
    ((3, 18, 30), (9, 18, 5), {"padding": (8,), "dilation": 4, "stride": 3}),
    ((1, 16, 40, 41), (16, 16, 3, 3), {"padding": 20, "dilation": 20}),  # several tiles of pixels
    ((1, 16, 3, 3), (16, 16, 3, 3), {"padding": 5, "dilation": 4}),  # taps that serve nobody
]


@pytest.mark.parametrize("problem", WIDE, ids=str)
def test_taps_that_see_padding(problem):
    spec = ConvSpec.make(*problem[:2], **problem[2])
    assert weight_grad_direct.parameters(spec, 1, LIMIT).by_taps
    for threads in (1, 2):
        check(spec, (weight_grad_direct,), threads)


@pytest.mark.parametrize("kernel", [(1, 31), (31, 31), (13, 1), (7, 6)])
def test_large_kernels(kernel):
    padding = tuple(k // 2 for k in kernel)
    check(ConvSpec.make((1, 2, 45, 53), (2, 1, *kernel), padding=padding, groups=2), threads=2)
    check(ConvSpec.make((1, 17, 33, 42), (17, 1, *kernel), padding=padding, groups=17, channels_last=True))
    check(ConvSpec.make((1, 2, 40, 64), (3, 2, *kernel), padding=padding, flip=True), (weight_grad_dots,))


# Long sums in one place (parts, segments), in several, depthwise, channels-last; each with work for two threads.
LONG = [
    ((1, 2, 700, 701), (3, 2, 3, 3), {"padding": 1}),
    ((9, 3, 224, 225), (4, 3, 3, 3), {"padding": 1, "stride": 2}),
    ((2, 48, 40, 41), (64, 48, 3, 3), {"padding": 1}),
    ((3, 48, 40, 41), (64, 48, 3, 3), {"padding": 1, "channels_last": True}),
    ((2, 33, 112, 113), (33, 1, 3, 3), {"padding": 1, "groups": 33}),
    ((2, 33, 112, 113), (33, 1, 3, 3), {"padding": 1, "groups": 33, "channels_last": True}),
    ((2, 24, 64, 65), (24, 4, 3, 3), {"padding": 1, "groups": 6, "channels_last": True}),
    ((1, 1, 400_000), (1, 1, 9), {}),
    ((64, 40, 7, 7), (72, 40, 3, 3), {"padding": 1}),
    ((8, 40, 33, 34), (72, 40, 3, 3), {"padding": 12, "dilation": 12}),
]


def fills(spec: ConvSpec, rng: np.random.Generator):
    """Positive (rounding errors of long sums add up), of both signs, and of very different sizes."""
    x, g = rng.random(spec.x_shape), rng.random(spec.out_shape)
    yield "positive", x, g
    yield "signed", x - 0.5, g - 0.5
    yield "scaled", (x - 0.5) * 10.0 ** rng.integers(-6, 7, x.shape), (g - 0.5) * 10.0 ** rng.integers(-6, 7, g.shape)


@pytest.mark.parametrize(
    "problems", [pytest.param(LONG[3:5], id="some"), pytest.param(LONG, id="all", marks=pytest.mark.slow)]
)
def test_accuracy_and_threads(problems, report):
    """Within 16 u (|x| * |dY|) of the exact sum; bit for bit the same for any number of threads."""
    rng = np.random.default_rng(3)
    unit = np.finfo(np.float32).eps / 2
    worst = {module.NAME: 0.0 for module in OWN}
    for x_shape, weight_shape, options in problems:
        spec = ConvSpec.make(x_shape, weight_shape, **options)
        for kind, x, g in fills(spec, rng):
            x, g = x.astype(np.float32), g.astype(np.float32)
            wide = x.astype(np.float64), g.astype(np.float64)
            exact, scale = oracle(spec, *wide), oracle(spec, *map(np.abs, wide))
            for module in OWN:
                one, *others = (
                    run(module, spec, module.parameters(spec, threads, LIMIT), x, g) for threads in (1, 2, 3)
                )
                error = float((np.abs(one - exact) / (unit * scale)).max())
                worst[module.NAME] = max(worst[module.NAME], error)
                assert error <= module.ERROR_BOUND, f"{module.NAME}: {error:.1f} u on {spec}, {kind}"
                for other in others:
                    assert np.array_equal(one, other), f"{module.NAME}: {spec}, {kind}"
    report("accuracy of weight gradients, in units of u: " + ", ".join(f"{n} {e:.2f}" for n, e in worst.items()))
    assert all(error > 0 for error in worst.values())


def test_not_a_number_only_where_the_sum_is():
    """One NaN, and one infinity, in x and in the gradient, met by some taps only."""
    for options in ({}, {"channels_last": True}, {"groups": 17}, {"groups": 17, "channels_last": True}):
        spec = ConvSpec.make((1, 17, 9, 10), (17, 17 // options.get("groups", 1), 3, 3), **options)
        for place, value in (((0, 3, 0, 0), np.nan), ((0, 3, 8, 9), np.inf), ((0, 2, 4, 9), -np.inf)):
            x, g = integers(spec)
            x[place] = value
            g[g == 0] = 1  # zero times infinity is another story
            expected = oracle(spec, x, g)
            assert not np.isfinite(expected).all()
            assert np.isfinite(expected[:, place[1] if expected.shape[1] > 1 else 0]).any()
            for module in OWN:
                got = run(module, spec, module.parameters(spec, 1, LIMIT), x, g)
                np.testing.assert_array_equal(got, expected, err_msg=f"{module.NAME}: {spec}")


def test_scratch_is_bounded():
    """Less memory, smaller blocks, the same numbers; too little is refused with the reason."""
    spec = ConvSpec.make((2, 96, 30, 31), (130, 96, 3, 3), padding=1)
    x, g = integers(spec)
    expected = oracle(spec, x, g)
    for limit in (16 << 20, 1 << 20, 200 << 10):
        for module in OWN:
            params = module.parameters(spec, 2, limit)
            if isinstance(params, str):
                continue
            assert params.workspace <= limit
            np.testing.assert_array_equal(run(module, spec, params, x, g), expected)
    assert not isinstance(weight_grad_direct.parameters(spec, 2, 200 << 10), str)
    for module in OWN:
        refusal = module.parameters(spec, 2, 1000)
        assert isinstance(refusal, str)
        assert "workspace limit of 1000 bytes" in refusal


def test_the_plan_takes_the_right_one():
    for shapes, options, name in (
        (((1, 64, 56, 56), (64, 64, 3, 3)), {"padding": 1}, "direct"),
        (((1, 512, 14, 14), (512, 1, 3, 3)), {"padding": 1, "groups": 512}, "dots"),
        (((1, 128, 56, 56), (128, 4, 3, 3)), {"padding": 1, "groups": 32}, "dots"),
        (((1, 1, 256, 256), (1, 1, 5, 5)), {}, "dots"),
    ):
        for channels_last in (False, True):
            spec = ConvSpec.make(*shapes, channels_last=channels_last, **options)
            plan = plan_spec(spec, direction="weight", threads=1)
            assert plan.algorithm == name, plan.explain()
    assert {module.NAME for module in OWN} <= {module.NAME for module in WEIGHT}


@cached
def _dots(mr, nt, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):
    dots(mr, nt, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate)


@cached
def _add_lanes(src, s0, dst, d0):
    add_lanes(src, s0, dst, d0)


def test_microkernel():
    """Every register tile against plain Python."""
    W = isa.width("float32")
    rng = np.random.default_rng(4)
    Y, X = (rng.integers(-3, 4, 40 * W).astype(np.float32) for _ in range(2))
    off = rng.integers(0, 30 * W, 14)
    for mr, most in most_shifts().items():
        for nt in range(1, most + 1):
            for vectors, accumulate in ((1, False), (3, True)):
                got = rng.integers(-3, 4, (mr * 13 + 2) * W).astype(np.float32)
                expected = got.copy()
                arguments = (mr, nt, Y, 5, 3 * W + 1, X, 2, off, 1, vectors)
                dots_twin(*arguments, expected, W, 13, accumulate)
                _dots(*arguments, got, W, 13, accumulate)
                np.testing.assert_array_equal(got, expected)
    sums = np.zeros(W + 2, np.float32)
    _add_lanes(X, 3, sums, 1)
    np.testing.assert_array_equal(sums[1:-1], X[3 : 3 + W * W].reshape(W, W).sum(1))
    assert sums[0] == sums[-1] == 0


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow), "int64"])
def test_bias(dtype):
    rng = np.random.default_rng(5)
    for N, C, S in ((1, 1, 1), (2, 3, 17), (1, 64, 3136), (8, 5, 50176), (3, 70, 100), (2, 512, 49), (1, 33, 70000)):
        gradient = rng.integers(-3, 4, (N, C, S)).astype(dtype)
        for channels_last in (False, True):
            memory = np.ascontiguousarray(np.moveaxis(gradient, 1, -1) if channels_last else gradient).reshape(-1)
            one, two = (bias_grad.run(memory, N, C, S, channels_last, threads) for threads in (1, 2))
            np.testing.assert_array_equal(one, gradient.sum((0, 2)))
            np.testing.assert_array_equal(one, two)
            assert one.dtype == dtype


def test_bias_accuracy_and_threads():
    rng = np.random.default_rng(6)
    for N, C, S in ((8, 5, 50176), (1, 2, 4_000_000), (40, 64, 3136)):
        gradient = rng.random((N, C, S), np.float32)
        exact = gradient.astype(np.float64).sum((0, 2))
        for channels_last in (False, True):
            memory = np.ascontiguousarray(np.moveaxis(gradient, 1, -1) if channels_last else gradient).reshape(-1)
            one, two = (bias_grad.run(memory, N, C, S, channels_last, threads) for threads in (1, 2))
            assert np.array_equal(one, two)
            assert (np.abs(one - exact) <= 16 * 2.0**-24 * exact).all()


def test_bias_of_any_array():
    """Views, memory orders, missing batches, empty ones, dtypes without kernels."""
    gradient = np.random.default_rng(7).integers(-3, 4, (2, 5, 6, 7)).astype(np.float32)
    expected = gradient.sum((0, 2, 3))
    last = np.ascontiguousarray(np.moveaxis(gradient, 1, -1))
    bias = fastconv.grad.conv_bias
    np.testing.assert_array_equal(bias(gradient), expected)
    np.testing.assert_array_equal(bias(np.moveaxis(last, -1, 1)), expected)
    np.testing.assert_array_equal(bias(last, layout="NHWC"), expected)
    np.testing.assert_array_equal(bias(gradient[0], ndim=2), gradient[0].sum((1, 2)))
    np.testing.assert_array_equal(bias(last[0], ndim=2, layout="NHWC"), gradient[0].sum((1, 2)))
    view = gradient[:, ::-1, ::2, 1:]
    np.testing.assert_array_equal(bias(view), view.sum((0, 2, 3)))
    np.testing.assert_array_equal(bias(gradient[:0]), np.zeros(5))
    np.testing.assert_array_equal(bias(gradient.astype(">f4")), expected)
    np.testing.assert_array_equal(bias(gradient.astype(np.complex64)), expected)
    gradient.flags.writeable = False
    np.testing.assert_array_equal(bias(gradient), expected)
