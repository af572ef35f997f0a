"""Depthwise convolution against plain NumPy: every option, every tail, every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastconv.cpu import isa
from fastconv.cpu.window import cut, heights, sets
from fastconv.kernels import depthwise, depthwise_last, depthwise_rolling, weight_grad_direct, weight_grad_dots
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

LIMIT = 1 << 28
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def oracle(spec: ConvSpec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Shifted slices of the padded input, added up in the wide type that x and w come in; result in memory order."""
    padded = np.pad(
        x.reshape(spec.N, spec.C, *spec.input3), ((0, 0), (0, 0), *spec.padding3), mode=MODES[spec.padding_mode]
    )
    padded = np.repeat(padded, spec.OC // spec.C, axis=1)
    taps = w.reshape(spec.OC, *spec.kernel3)
    taps = taps[:, ::-1, ::-1, ::-1] if spec.flip else taps
    out = np.zeros((spec.N, spec.OC, *spec.output3), x.dtype)
    for tap in np.ndindex(*spec.kernel3):
        cut = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, spec.dilation3, spec.output3, spec.stride3, strict=True)
        ]
        out += padded[:, :, cut[0], cut[1], cut[2]] * taps[:, tap[0], tap[1], tap[2], None, None, None]
    return in_memory(spec, out)


def in_memory(spec: ConvSpec, array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if spec.channels_last else array).reshape(-1)


def data(spec: ConvSpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: exact in every dtype, so a wrong cell cannot hide behind a tolerance."""
    rng = np.random.default_rng(seed)
    wide = np.float64 if np.dtype(spec.dtype).kind == "f" else np.int64
    return rng.integers(-8, 9, spec.x_shape).astype(wide), rng.integers(-8, 9, spec.weight_shape).astype(wide)


def run(spec: ConvSpec, x: np.ndarray, w: np.ndarray, epilogue: Epilogue | None = None, threads: int = 1) -> np.ndarray:
    params = depthwise.parameters(spec, threads, LIMIT)
    assert not isinstance(params, str), params
    assert params.workspace <= LIMIT
    assert params.cost.tasks == (params.last or params).tasks >= 1
    x, w = in_memory(spec, x).astype(spec.dtype), np.ascontiguousarray(w, spec.dtype)
    # Guards on both sides: nothing may be written beside the output.
    held = np.full(np.prod(spec.out_shape) + 128, 77, spec.dtype)
    out = held[64:-64]
    packed = depthwise.prepare(spec, params, w)
    depthwise.run(spec, params, x, packed, out, epilogue or Epilogue.make(spec.dtype))
    assert (held[:64] == 77).all()
    assert (held[-64:] == 77).all()
    return out


def check(x_shape, weight_shape, threads: int = 1, **options) -> ConvSpec:
    spec = ConvSpec.make(x_shape, weight_shape, groups=x_shape[1], **options)
    x, w = data(spec)
    np.testing.assert_array_equal(run(spec, x, w, threads=threads), oracle(spec, x, w), err_msg=str(spec))
    return spec


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_dtypes(dtype, channels_last):
    for k, stride in ((3, 1), (3, 2), (5, 1), (4, 3)):
        check((2, 19, 23, 37), (19, 1, k, k), padding=k // 2, stride=stride, dtype=dtype, channels_last=channels_last)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_tail_of_a_row(stride):
    W = isa.width("float32")
    for width in range(3, 2 * W + 5):
        check((1, 2, 9, width), (2, 1, 3, 3), padding=1, stride=stride)
        check((1, 2, 9, width), (2, 1, 5, 3), padding=(2, 1), stride=stride)
        check((1, 2, 4, width), (2, 1, 2, 3), padding=((0, 1), (2, 0)), stride=stride, padding_mode="circular")


def test_every_number_of_rows_and_channels():
    W = isa.width("float32")
    for n in range(1, max(16, 2 * W) + 2):
        check((1, n, n, 20), (n, 1, 3, 3), padding=1)
        check((1, n, n, 6), (n, 1, 3, 3), padding=1, channels_last=True)
        check((1, W + 1, 3, n), (W + 1, 1, 1, 3), padding=((0, 0), (1, 1)), channels_last=True)


@pytest.mark.parametrize(
    "kernel", [(1, 1), (1, 9), (9, 1), (3, 3), (5, 5), (7, 7), (11, 11), (6, 13), (31, 31), (2, 40)]
)
def test_kernels(kernel):
    padding = tuple(k // 2 for k in kernel)
    check((1, 3, 45, 53), (3, 1, *kernel), padding=padding, threads=2)
    check((1, 17, 33, 42), (17, 1, *kernel), padding=padding, channels_last=True, threads=2)
    check((1, 1, 45, 512), (2, 1, *kernel), padding=padding, flip=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_options(mode, channels_last):
    """Stride, dilation, asymmetric padding, flip, multiplier and dimensions, in random combinations."""
    rng = np.random.default_rng(list(MODES).index(mode))
    count = 0
    while count < 150:
        ndim = int(rng.choice([1, 2, 2, 3]))
        size = rng.integers(1, {1: 150, 2: 45, 3: 12}[ndim], ndim)
        kernel, stride, dilation = rng.integers(1, 6, ndim), rng.integers(1, 4, ndim), rng.integers(1, 4, ndim)
        padding = [tuple(rng.integers(0, 4, 2)) for _ in range(ndim)]
        C, multiplier = int(rng.choice([1, 2, 5, 16, 19])), int(rng.choice([1, 1, 1, 2, 3]))
        shapes = (int(rng.integers(1, 3)), C, *size), (C * multiplier, 1, *kernel)
        options = {
            "stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode,
            "flip": bool(rng.random() < 0.3), "channels_last": channels_last,
        }  # fmt: skip
        try:
            ConvSpec.make(*shapes, groups=C, **options)
        except ValueError:  # the kernel is larger than the padded input, or the padding than the input
            continue
        check(*shapes, threads=int(rng.integers(1, 3)), **options)
        count += 1


def test_long_rows_and_long_kernels():
    check((1, 2, 5000), (2, 1, 700), padding=350)
    check((2, 3, 3001), (3, 1, 25), padding="same", stride=2)
    check((1, 17, 800), (17, 1, 300), padding=150, channels_last=True)
    check((1, 1, 900, 6), (1, 1, 600, 5), padding=2)
    check((1, 16, 400, 4), (16, 1, 200, 3), padding=((100, 99), (1, 1)), channels_last=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_epilogue(dtype, channels_last):
    for shape, multiplier, k, options in (
        ((2, 18, 15, 21), 1, 3, {"padding": 1}),
        ((1, 5, 7, 40), 2, 3, {"padding": 1}),
        ((1, 18, 15, 41), 1, 3, {"padding": 1, "stride": 2}),
        ((1, 18, 20, 37), 1, 5, {"padding": 2}),
        ((1, 18, 9, 10), 1, 3, {"padding": 5}),  # outputs without any tap
        ((1, 18, 3, 3, 9), 1, 3, {"padding": 1}),
        ((1, 18, 70), 1, 5, {}),
    ):
        C = shape[1]
        spec = ConvSpec.make(
            shape, (C * multiplier, 1, *[k] * (len(shape) - 2)), groups=C, dtype=dtype, channels_last=channels_last,
            **options,
        )  # fmt: skip
        x, w = data(spec)
        rng = np.random.default_rng(5)
        bias, residual = rng.integers(-20, 20, spec.OC).astype(dtype), rng.integers(-20, 20, spec.out_shape)
        residual = in_memory(spec, residual.astype(dtype))
        plain = oracle(spec, x, w).reshape((-1, spec.OC) if channels_last else (spec.N, spec.OC, -1))
        with_bias = (plain + (bias if channels_last else bias[:, None])).reshape(-1)
        cases = [
            ({"bias": bias}, with_bias),
            ({"bias": bias, "residual": residual}, with_bias + residual),
            ({"residual": residual, "activation": "relu"}, np.maximum(plain.reshape(-1) + residual, 0)),
            ({"bias": bias, "activation": ("clip", -7, 9)}, np.clip(with_bias, -7, 9)),
        ]
        if dtype != "int32":  # more than limits
            leaky = np.where(with_bias + residual < 0, (with_bias + residual) / 4, with_bias + residual)
            cases.append(({"bias": bias, "residual": residual, "activation": ("leaky_relu", 0.25)}, leaky))
        for given, want in cases:
            for threads in (1, 2):
                got = run(spec, x, w, Epilogue.make(dtype, **given), threads)
                np.testing.assert_array_equal(got, want, err_msg=f"{spec} {list(given)}")


FILLS = {
    "flat": lambda rng, shape: np.full(shape, 0.7),
    "positive": lambda rng, shape: rng.random(shape),
    "signed": lambda rng, shape: rng.standard_normal(shape),
    "scaled": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 7, shape),
}


@pytest.mark.parametrize("fill", FILLS)
def test_accuracy(fill, report):
    """Within 16 u of the sum of magnitudes, also where every rounding goes the same way (a flat area, a box filter)."""
    worst = 0.0
    for kernel in ((3, 3), (5, 5), (7, 7), (9, 9), (11, 11), (15, 15), (1, 200), (200, 1)):
        for channels_last in (False, True):
            spec = ConvSpec.make((1, 16, 20, 20), (16, 1, *kernel), groups=16, padding=tuple(k // 2 for k in kernel),
                                 channels_last=channels_last)  # fmt: skip
            rng = np.random.default_rng(1)
            x, w = FILLS[fill](rng, spec.x_shape), FILLS[fill](rng, spec.weight_shape)
            x, w = x.astype(np.float32).astype(float), w.astype(np.float32).astype(float)
            error = abs(run(spec, x, w) - oracle(spec, x, w)) / (2.0**-24 * oracle(spec, abs(x), abs(w)))
            worst = max(worst, error.max())
            assert error.max() <= depthwise.ERROR_BOUND, f"{spec}: {error.max():.1f} u"
    report(f"depthwise, {fill}: {worst:.1f} u")


def test_chunks_keep_chains_short():
    for along in range(1, 16):
        for across in range(1, 16):
            run_, pieces = cut(along, across)
            chains = -(-run_ // sets(run_)) * -(-across // pieces)
            chunks = -(-along // run_) * pieces * sets(run_)
            assert 1 <= run_ <= along
            assert chains + chunks <= 36, (along, across, run_, pieces)
    assert cut(3, 3) == (3, 1)
    assert cut(5, 5) == (5, 1)
    assert cut(1, 1000)[1] > 10


@pytest.mark.parametrize("channels_last", [False, True])
def test_threads_and_batch_do_not_change_bits(channels_last):
    rng = np.random.default_rng(2)
    for shape in ((3, 20, 30, 33), (3, 1, 90, 70)):
        spec = ConvSpec.make(
            shape, (shape[1], 1, 5, 5), groups=shape[1], padding=2, channels_last=channels_last
        )  # fmt: skip
        x, w = rng.standard_normal(spec.x_shape), rng.standard_normal(spec.weight_shape)
        whole = run(spec, x, w)
        for threads in (2, 3):
            assert run(spec, x, w, threads=threads).tobytes() == whole.tobytes()
        single = ConvSpec.make(
            (1, *shape[1:]), spec.weight_shape, groups=shape[1], padding=2, channels_last=channels_last
        )
        assert run(single, x[1:2], w).tobytes() == whole.reshape(3, -1)[1].tobytes()


@pytest.mark.parametrize("channels_last", [False, True])
def test_non_finite_weights_meet_the_padding(channels_last):
    """inf * 0 is NaN in the padding too, as the plain loops have it."""
    for bad in (np.inf, np.nan):
        spec = ConvSpec.make((1, 16, 6, 7), (16, 1, 3, 3), groups=16, padding=1, channels_last=channels_last)
        x, w = data(spec)
        w[3, 0, 0, 0] = bad
        with np.errstate(invalid="ignore"):
            want = oracle(spec, x + 0.5, w)
        np.testing.assert_array_equal(run(spec, x + 0.5, w), want)


def test_refusals_and_limits():
    spec = ConvSpec.make((1, 4, 9, 9), (4, 2, 3, 3), groups=2)
    assert "2 input channels per group" in depthwise.refuses(spec)
    spec = ConvSpec.make((1, 4, 9, 9), (8, 1, 3, 3), groups=4, stride=3)
    assert depthwise.refuses(spec) is None
    assert "limit of 64 bytes" in depthwise.parameters(spec, 1, 64)
    huge = ConvSpec.make((1, 1, 2**14, 2**14), (1, 1, 127, 127), groups=1, padding=63)
    assert depthwise.parameters(huge, 2, 1 << 20).workspace <= 1 << 20


def test_rolling_windows():
    """3x3: planes by the dozen, bands of large ones, strides that differ, padding wider than the kernel."""
    for stride in (1, 2, (1, 2), (2, 1)):
        for size, channels in (((14, 14), 23), ((61, 90), 2), ((3, 1), 2), ((40, 700), 1)):
            for padding in (0, 1, ((0, 1), (2, 0)), 4):
                if padding == 0 and size[1] < 3:
                    continue
                spec = check((2, channels, *size), (channels, 1, 3, 3), stride=stride, padding=padding)
                assert depthwise_rolling.accepts(spec)
    for other in ({"dilation": 2}, {"stride": 3}, {"padding_mode": "reflect"}, {"channels_last": True}):
        spec = ConvSpec.make((1, 2, 9, 9), (2, 1, 3, 3), groups=2, padding=1, **other)
        assert not depthwise_rolling.accepts(spec)
    assert not depthwise_rolling.accepts(ConvSpec.make((1, 2, 9, 9), (2, 1, 5, 5), groups=2))


def test_weight_gradients_of_rolling_windows():
    """Planes that are read where they lie against the other algorithm: every tail, strides, chains of rows, flip."""
    rng = np.random.default_rng(7)
    W = isa.width("float32")
    sizes = [(4, width) for width in range(1, 2 * W + 4)] + [(150, 9), (1, 1)]
    for number, size in enumerate(sizes):
        options = {
            "stride": [1, 2, (1, 2), (2, 1)][number % 4], "padding": [1, 2, ((2, 0), (1, 3))][number % 3],
            "flip": bool(number & 1), "dtype": ["float32", "float64"][number // 2 % 2],
        }  # fmt: skip
        spec = ConvSpec.make((2, 19, *size), (19, 1, 3, 3), groups=19, **options)
        x, g = (rng.integers(-8, 9, np.prod(shape)).astype(spec.dtype) for shape in (spec.x_shape, spec.out_shape))
        results = []
        for module in (weight_grad_direct, weight_grad_dots):
            params = module.parameters(spec, 2, LIMIT)
            results.append(np.full(spec.OC * spec.K, 77, spec.dtype))
            module.run(spec, params, x, g, results[-1])
        assert params.form == "rolling"
        np.testing.assert_array_equal(*results, err_msg=str(spec))
    assert weight_grad_dots.parameters(spec, 1, 1000).startswith("its smallest tile exceeds")
    few = ConvSpec.make((1, 2, 9, 9), (2, 1, 3, 3), groups=2)
    assert weight_grad_dots.parameters(few, 1, LIMIT).form == "planes"


def test_channels_lie_in_lanes_where_they_can():
    many = ConvSpec.make((1, 64, 9, 9), (64, 1, 3, 3), groups=64, padding=1, channels_last=True)
    few = ConvSpec.make((1, 1, 9, 9), (1, 1, 3, 3), groups=1, padding=1, channels_last=True)
    assert depthwise_last.accepts(many)
    assert not depthwise_last.accepts(few)
    assert max(heights()) == 7


NOT_AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512fp16")
OTHERS = {
    "AVX2+FMA": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+sse4.2,+popcnt"},
    "baseline": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}


@pytest.mark.slow  # compiles everything once more
@pytest.mark.parametrize("name", OTHERS)
def test_other_instruction_sets(name, tmp_path):
    if not {"avx2", "fma"} <= isa.features():
        pytest.skip("this CPU cannot run AVX2 code")
    chosen = "test_dtypes and float32 or every_tail or every_number or accuracy and flat or test_kernels or expected"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__)), "-k", chosen],
        env={**os.environ, **OTHERS[name], "FASTCONV_CACHE_DIR": str(tmp_path), "FASTCONV_EXPECT_ISA": name},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_expected_instruction_set():
    expected = os.environ.get("FASTCONV_EXPECT_ISA")
    assert expected is None or isa.name() == expected
