"""Pools over windows against an oracle: benchdnn's list, worked numbers, NaN, dtypes, layouts, errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from pool_cases import average_by_numpy, integers, last, max_by_numpy, pools, windows

import fastconv
from fastconv import set_num_threads
from fastconv.pool_spec import PoolSpec, adaptive_windows, output_size

DTYPES = ("float32", "float64")


def by_ndim(name: str, ndim: int):
    return getattr(fastconv, f"{name}{ndim}d")


def check(p, dtype: str, channels_last: bool) -> None:
    """Maxima, indices, averages both ways and L2 norms of one problem, bit for bit."""
    rng = np.random.default_rng(p.line)
    ndim = len(p.kernel)
    x = integers(rng, (p.N, p.C, *p.input), dtype)
    given = last(x) if channels_last else x
    geometry = (p.output, p.kernel, p.stride, p.padding, p.dilation)
    options = {"stride": p.stride, "padding": p.padding, "dilation": p.dilation}
    maxima, places = max_by_numpy(x, *geometry)
    assert np.array_equal(by_ndim("max_pool", ndim)(given, p.kernel, **options), maxima), str(p)
    found, indices = by_ndim("max_pool", ndim)(given, p.kernel, **options, return_indices=True)
    assert np.array_equal(found, maxima), str(p)
    assert np.array_equal(indices, places), str(p)
    for include in (True, False):
        average = by_ndim("avg_pool", ndim)(given, p.kernel, **options, count_include_pad=include)
        assert np.array_equal(average, average_by_numpy(x, *geometry, include)), f"{p} {include}"
    values, exists, _ = windows(x, *geometry)
    norms = np.sqrt(np.where(exists, values, 0).astype(np.float64) ** 2 @ np.ones(values.shape[-1]))
    assert np.allclose(by_ndim("lp_pool", ndim)(given, 2, p.kernel, **options), norms, rtol=1e-6), str(p)
    # The gradients: the adjoint of a linear map, and the sum of what each cell won.
    grad = integers(rng, maxima.shape, dtype)
    flow = last(grad) if channels_last else grad
    back = by_ndim("max_pool", ndim).__globals__  # the module: its backward stands beside it
    back = back[f"max_pool{ndim}d_backward"](flow, given, p.kernel, **options, indices=indices)
    expected = np.zeros((p.N, p.C, np.prod(p.input)), np.float64)
    seen = places.reshape(p.N, p.C, -1)
    n, c, o = np.nonzero(seen >= 0)
    np.add.at(expected, (n, c, seen[n, c, o]), grad.reshape(p.N, p.C, -1)[n, c, o])
    assert np.array_equal(back.reshape(p.N, p.C, -1), expected), f"{p}: gradient of the maxima"
    spread = by_ndim("avg_pool", ndim).__globals__[f"avg_pool{ndim}d_backward"](
        flow, x.shape, p.kernel, **options, divisor_override=1
    )
    weights = np.broadcast_to(grad.astype(np.float64)[..., None], values.shape) * exists
    assert np.isclose((weights * values).sum(), (spread.astype(np.float64) * x).sum()), f"{p}: gradient of the sums"
    if channels_last and p.C > 1 and np.prod(p.output) > 1:
        assert np.moveaxis(found, 1, -1).flags.c_contiguous
        assert np.moveaxis(back, 1, -1).flags.c_contiguous or np.prod(p.input) == 1


def test_the_list_is_complete():
    assert len(pools()) == 239
    for p in pools():
        spec = PoolSpec.make(
            (p.N, p.C, *p.input), p.kernel, stride=p.stride, padding=p.padding, dilation=p.dilation
        )  # fmt: skip
        assert spec.output == p.output, str(p)


@pytest.mark.parametrize("part", range(4))
def test_a_sample_of_the_list(part):
    chosen = [p for p in pools() if not p.is_large][part::12]
    for i, p in enumerate(chosen):
        check(p.reduced(), "float32", channels_last=bool(i % 2))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_whole_list(dtype, channels_last):
    for p in pools():
        if not p.is_large:
            check(p.reduced(), dtype, channels_last)


# ---- worked numbers -------------------------------------------------------------------------------------------------

LECTURE = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "int8", "uint8", "int16", "int32", "int64"])
def test_the_lecture_s_max_pool(dtype):
    x = LECTURE.astype(dtype)[None]
    maxima, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    assert maxima.dtype == x.dtype
    assert maxima.tolist() == [[[6, 8], [3, 4]]]
    assert indices.tolist() == [[[5, 7], [8, 15]]]
    assert fastconv.max_pool2d(x, 2).tolist() == [[[6, 8], [3, 4]]]


def test_averages_are_correctly_rounded_quotients():
    """sum / cells, not sum * (1 / cells)."""
    x = np.arange(1, 1 + 3 * 64 * 33, dtype=np.float32).reshape(1, 3, 64, 33)
    for k in ((3, 3), (7, 1), (5, 6)):
        sums = fastconv.avg_pool2d(x, k, divisor_override=1)
        for given in (x, last(x)):
            assert np.array_equal(fastconv.avg_pool2d(given, k), sums / np.float32(k[0] * k[1]))


def test_divisor_override():
    x = np.ones((1, 1, 4, 4))
    assert fastconv.avg_pool2d(x, 2, divisor_override=-3).tolist() == [[[[-4 / 3] * 2] * 2]]
    assert fastconv.avg_pool2d(x, 3, 2, 1, divisor_override=2)[0, 0].tolist() == [[2, 3], [3, 4.5]]


@pytest.mark.parametrize("p", [1, 1.5, 3, 4, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_any_order(p, dtype):
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(dtype)
    values, _, _ = windows(x, (3, 3), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    expected = np.linalg.norm(values.astype(np.float64), p, axis=-1)
    for given in (x, last(x)):
        assert np.allclose(fastconv.lp_pool2d(given, p, 2), expected, rtol=1e-5)


# ---- NaN and infinity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 5, 16, 17, 40])
def test_nan_is_found_everywhere(dtype, width):
    """In every lane and tail, by values and indices alike (the SIMD tail too: tensorflow #125965)."""
    shape = (1, 17, 5, width)
    base = integers(np.random.default_rng(1), shape, dtype)
    rng = np.random.default_rng(2)
    for k, s, pad in (((2, 1), 1, 0), ((3, min(width, 3)), 2, 1), ((5, width), 1, 0)):
        x = base.copy()
        x.reshape(-1)[rng.choice(x.size, max(x.size // 15, 3), replace=False)] = np.nan
        pads = ((pad, pad), (pad if width > 1 else 0,) * 2)
        output = tuple((n + lo + hi - e) // s + 1 for n, (lo, hi), e in zip((5, width), pads, k, strict=True))
        maxima, places = max_by_numpy(x, output, k, (s, s), pads, (1, 1))
        sums = average_by_numpy(x, output, k, (s, s), pads, (1, 1), True)
        for given in (x, last(x)):
            found, indices = fastconv.max_pool2d(given, k, s, pads, return_indices=True)
            assert np.array_equal(found, maxima, equal_nan=True)
            assert np.array_equal(indices, places)
            assert np.array_equal(fastconv.max_pool2d(given, k, s, pads), maxima, equal_nan=True)
            assert np.array_equal(fastconv.avg_pool2d(given, k, s, pads), sums, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_windows_of_minus_infinity(channels_last):
    """pytorch #1465, #40131: an index of a real cell, not of padding and not garbage."""
    x = np.full((1, 20, 6, 7), -np.inf, np.float32)
    given = last(x) if channels_last else x
    maxima, indices = fastconv.max_pool2d(given, 3, 2, 1, return_indices=True)
    assert (maxima == -np.inf).all()
    assert np.array_equal(indices, max_by_numpy(x, (3, 4), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))[1])
    grad = fastconv.max_pool2d_backward(np.ones_like(maxima), given, 3, 2, 1, indices=indices)
    assert grad.sum() == maxima.size
    infinite = np.full((1, 1, 4, 4), np.inf)
    assert np.array_equal(fastconv.avg_pool2d(infinite, 3, 1), np.full((1, 1, 2, 2), np.inf))


def test_windows_of_nothing_but_padding():
    x = np.ones((1, 1, 2, 2))
    maxima, indices = fastconv.max_pool2d(x, 1, 1, 1, return_indices=True)
    assert maxima[0, 0, 0, 0] == -np.inf
    assert indices[0, 0].tolist() == [[-1] * 4, [-1, 0, 1, -1], [-1, 2, 3, -1], [-1] * 4]
    assert fastconv.max_pool2d(x.astype("int64"), 1, 1, 1)[0, 0, 0, 0] == np.iinfo("int64").min
    assert fastconv.avg_pool2d(x, 1, 1, 1, count_include_pad=False)[0, 0, 0, 0] == 0
    grad = fastconv.max_pool2d_backward(np.ones((1, 1, 4, 4)), x, 1, 1, 1, indices=indices)
    assert grad.tolist() == [[[[1, 1], [1, 1]]]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, ((5, 5), (0, 3)), ((0, 9), (4, 4)), ((0, 2), (1, 2))])
def test_gradients_of_windows_in_the_padding(padding, stride):
    x = integers(np.random.default_rng(0), (3, 20, 4, 5), "float32")
    for given in (x, last(x)):
        maxima, indices = fastconv.max_pool2d(given, 2, stride, padding, return_indices=True)
        grad = fastconv.max_pool2d_backward(np.ones_like(maxima), given, 2, stride, padding, indices=indices)
        expected = np.zeros((60, 20), np.float32)
        plane, o = np.nonzero(indices.reshape(60, -1) >= 0)
        np.add.at(expected, (plane, indices.reshape(60, -1)[plane, o]), 1)
        assert np.array_equal(grad.reshape(60, 20), expected)


def test_lowest_integers():
    x = np.full((1, 1, 3, 3), np.iinfo("int32").min, np.int32)
    maxima, indices = fastconv.max_pool2d(x, 2, 1, 1, return_indices=True)
    assert (maxima == x.min()).all()
    assert indices[0, 0].tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [3, 3, 4, 5], [6, 6, 7, 8]]


# ---- shapes, layouts, memory ----------------------------------------------------------------------------------------


def test_output_sizes_are_pytorch_s():
    assert output_size(5, 2, 2, 1, (0, 0), False) == 2
    assert output_size(5, 2, 2, 1, (0, 0), True) == 3
    assert output_size(4, 1, 2, 1, (0, 0), True) == 2
    assert output_size(3, 2, 4, 1, (1, 1), True) == 1  # the window at 4 - 1 = 3 would begin in the padding
    assert adaptive_windows(10, 4) == [(0, 3), (2, 3), (5, 3), (7, 3)]


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_layouts_and_batches(name):
    pool = getattr(fastconv, name)
    x = integers(np.random.default_rng(0), (2, 5, 9, 8), "float32")
    expected = pool(x, 3, 2, 1)
    rows = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    assert np.array_equal(np.moveaxis(pool(rows, 3, 2, 1, layout="NHWC"), -1, 1), expected)
    assert np.array_equal(np.moveaxis(pool(np.moveaxis(x, 1, -1), 3, 2, 1, layout="NHWC"), -1, 1), expected)
    assert np.array_equal(pool(x[1], 3, 2, 1), expected[1])
    assert np.array_equal(pool(rows[1], 3, 2, 1, layout="NHWC"), np.moveaxis(expected[1], 0, -1))
    assert pool(x[:0], 3, 2, 1).shape == (0, 5, 5, 4)
    assert np.array_equal(pool(x[:, :, ::-1, ::2], 3, 2, 1), pool(x[:, :, ::-1, ::2].copy(), 3, 2, 1))
    assert np.array_equal(pool(x.astype(">f4"), 3, 2, 1), expected)
    frozen = x.copy()
    frozen.flags.writeable = False
    assert np.array_equal(pool(frozen, 3, 2, 1), expected)
    assert np.allclose(pool(x.tolist(), 3, 2, 1), expected)
    for out in (
        np.empty((5, 4, 5, 2), np.float32).transpose(3, 0, 2, 1),
        np.empty((2, 5, 5, 4), np.float32),
        np.empty((2, 5, 4, 5), np.float32).transpose(0, 3, 1, 2),
    ):
        for image in (x, last(x)):
            out[...] = np.nan
            assert pool(image, 3, 2, 1, out=out) is out
            assert np.array_equal(out, expected)
    half = pool(x.astype(np.float16), 3, 2, 1)
    assert half.dtype == np.float16
    assert np.allclose(half, expected, rtol=1e-3)


def test_results_do_not_depend_on_threads():
    x = np.random.default_rng(0).standard_normal((4, 33, 61, 67), np.float32)
    calls = [
        lambda x: fastconv.max_pool2d(x, 3, 2, 1),
        lambda x: fastconv.max_pool2d(x, 3, 2, 1, return_indices=True)[1],
        lambda x: fastconv.avg_pool2d(x, 5, 1, 2, count_include_pad=False),
        lambda x: fastconv.lp_pool2d(x, 2, 3),
        lambda x: fastconv.global_avg_pool(x),
        lambda x: fastconv.avg_pool2d_backward(x, (4, 33, 123, 135), 3, 2),
        lambda x: fastconv.max_pool2d_backward(fastconv.max_pool2d(x, 3, 1), x, 3, 1),
        lambda x: fastconv.interpolate(x, (50, 90), mode="bilinear"),
        lambda x: fastconv.interpolate_backward(x, (4, 33, 30, 31), (61, 67), mode="bicubic"),
        lambda x: fastconv.nearest_unpool2d(x, 2),
    ]
    before = fastconv.get_num_threads()
    try:
        for call in calls:
            for given in (x, last(x)):
                results = []
                for threads in (1, 2):
                    set_num_threads(threads)
                    results.append(call(given))
                assert np.array_equal(*results)
    finally:
        set_num_threads(before)


def test_simultaneous_calls():
    """Calls of one plan from several Python threads share nothing that is written."""
    x = integers(np.random.default_rng(0), (2, 40, 31, 29), "float32")
    given = last(x)
    expected = fastconv.avg_pool2d(given, 3, 2, 1, count_include_pad=False)
    wrong = []

    def work() -> None:
        for _ in range(30):
            if not np.array_equal(fastconv.avg_pool2d(given, 3, 2, 1, count_include_pad=False), expected):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# ---- wrong arguments ------------------------------------------------------------------------------------------------

X = np.ones((1, 2, 6, 6), np.float32)

ERRORS = [
    (lambda: fastconv.max_pool2d(X, 0), ValueError, "kernel_size must be a positive integer, got 0"),
    (lambda: fastconv.max_pool2d(X, 2.0), TypeError, "kernel_size must be a positive integer, got 2.0"),
    (lambda: fastconv.max_pool2d(X, True), TypeError, "kernel_size must be a positive integer, got True"),
    (lambda: fastconv.max_pool2d(X, (2, 2, 2)), ValueError, "kernel_size must be an integer or 2 integers"),
    (lambda: fastconv.max_pool2d(X, 2, 0), ValueError, "stride must be a positive integer, got 0"),  # pytorch #27598
    (lambda: fastconv.avg_pool2d(X, 2, (1, 0)), ValueError, r"stride\[1\] must be a positive integer, got 0"),
    (lambda: fastconv.max_pool2d(X, 2, padding=[]), ValueError, "padding must be an integer"),  # pytorch #121188
    (lambda: fastconv.max_pool2d(X, 2, padding=-1), ValueError, "padding must be a non-negative integer, got -1"),
    (lambda: fastconv.max_pool2d(X, 2, dilation=0), ValueError, "dilation must be a positive integer, got 0"),
    # pytorch #73189
    (lambda: fastconv.max_pool2d(X, 2**31 - 1), ValueError, "kernel_size must not be larger than the padded input"),
    (lambda: fastconv.avg_pool2d(X, (1, 2**31)), ValueError, "kernel_size must not be larger than the padded input"),
    (lambda: fastconv.max_pool2d(X, 7), ValueError, "covers 7 cells, x has 6"),
    (lambda: fastconv.max_pool2d(X, 2, padding=2**61), ValueError, "more than 2\\*\\*62 bytes"),
    (lambda: fastconv.max_pool2d(X, 2, ceil_mode=1), TypeError, "ceil_mode must be True or False, got 1"),
    (lambda: fastconv.max_pool2d(X, 2, return_indices=1), TypeError, "return_indices must be True or False, got 1"),
    (lambda: fastconv.max_pool2d(X[0, 0], 2), ValueError, r"max_pool2d: x must have 4 axes .* or 3"),
    (lambda: fastconv.max_pool2d(X, 2, layout="HWC"), ValueError, "layout must be one of NCHW, NHWC, got 'HWC'"),
    (lambda: fastconv.max_pool2d(X[:, :, :0], 2), ValueError, "x must have no empty axis except the batch"),
    (lambda: fastconv.max_pool2d(X[:, :0], 2), ValueError, "x must have no empty axis except the batch"),
    (lambda: fastconv.max_pool2d(X > 0, 2), TypeError, "x must have a dtype among .* got bool"),
    (lambda: fastconv.max_pool2d(X.astype("complex64"), 2), TypeError, "x must have a dtype among .* got complex64"),
    (lambda: fastconv.avg_pool2d(X.astype("int32"), 2), TypeError, "avg_pool2d: x must have a dtype among float16"),
    (lambda: fastconv.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override .* got 0"),
    (lambda: fastconv.avg_pool2d(X, 2, divisor_override=2.5), TypeError, "divisor_override .* got 2.5"),
    (lambda: fastconv.avg_pool2d(X, 2, count_include_pad=None), TypeError, "count_include_pad must be True or False"),
    (lambda: fastconv.lp_pool2d(X, 0, 2), ValueError, "norm_type must be a positive number or inf, got 0"),
    (lambda: fastconv.lp_pool2d(X, float("nan"), 2), ValueError, "norm_type must be a positive number or inf, got nan"),
    (lambda: fastconv.lp_pool2d(X, "2 ", None), TypeError, "kernel_size must be a positive integer, got None"),
    (lambda: fastconv.max_pool2d(X, 2, out=X), ValueError, "out must have shape"),
    (lambda: fastconv.max_pool2d(X, 1, out=X), ValueError, "out must not share memory with x"),
    # Gradients and pools with mismatched, empty or negative shapes: TensorFlow CVE-2021-29579, -29570, -29540, -29520,
    # -41209, -29577, CVE-2022-35996, -41900, -21730.
    (lambda: fastconv.max_pool2d_backward(X, X, 2), ValueError, r"grad_output must have shape \(1, 2, 3, 3\)"),
    (lambda: fastconv.max_pool2d_backward(X[:, :, :3, :3], X, 2, indices=np.zeros((1, 2, 3, 2), np.int64)), ValueError,
     r"indices must have shape \(1, 2, 3, 3\)"),
    (lambda: fastconv.max_pool2d_backward(X[:, :, :3, :3], X, 2, indices=np.zeros((1, 2, 3, 3), np.int32)), TypeError,
     "indices must have dtype int64"),
    (lambda: fastconv.max_pool2d_backward(X[:, :, :3, :3], X, 2, indices=np.full((1, 2, 3, 3), 36)), ValueError,
     "indices must be places in a plane of 36 cells"),
    (lambda: fastconv.max_pool2d_backward(X[:, :, :3, :3], X, 2, indices=np.full((1, 2, 3, 3), -2)), ValueError,
     "indices must be places in a plane of 36 cells"),
    (lambda: fastconv.max_pool2d_backward(last(X[:, :, :3, :3]), last(X), 2, indices=np.full((1, 2, 3, 3), 2**32)),
     ValueError, "indices must be places in a plane of 36 cells"),
    (lambda: fastconv.max_pool2d_backward(X[:0, :, :3, :3], X, 2), ValueError, "grad_output must have shape"),
    (lambda: fastconv.avg_pool2d_backward(X, (1, 2, 6, 6), 2), ValueError, "grad_output must have the shape"),
    (lambda: fastconv.avg_pool2d_backward(X, (1, 2, -6, 6), 2), ValueError, r"input_shape\[2\] must be a non-neg"),
    (lambda: fastconv.avg_pool2d_backward(X, (1, 2, 0, 6), 2), ValueError, "input_shape must have"),
    (lambda: fastconv.avg_pool2d_backward(X, (1, 3, 6, 6), 2), ValueError, "input_shape must have"),
    (lambda: fastconv.avg_pool3d_backward(X[None], (1, 1, 2, 6, 6), 0), ValueError, "kernel_size must be a positive"),
    (lambda: fastconv.avg_pool2d_backward(X, (), 2), ValueError, "input_shape must have"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_wrong_arguments(case):
    call, error, words = ERRORS[case]
    with pytest.raises(error, match=words):
        call()


def test_a_remembered_call_still_checks_its_arguments():
    """1 == True == 1.0: equal keys, but not equally valid."""
    fastconv.max_pool2d(X, 1, 1, (0, 1), 1)
    for wrong in ((True, 1, 0, 1), (1, 1.0, 0, 1), (1, 1, (0, True), 1), (1, 1, False, 1)):
        with pytest.raises(TypeError):
            fastconv.max_pool2d(X, *wrong)
    with pytest.raises(TypeError, match="ceil_mode"):
        fastconv.max_pool2d(X, 1, 1, (0, 1), 1, 0)
