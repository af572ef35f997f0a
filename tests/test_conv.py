"""The public convolutions: dtypes, batches, layers, remembered calls."""

from __future__ import annotations

import copy
import doctest
import pickle
import threading

import numpy as np
import pytest
from cases import by_numpy

import fastconv
from fastconv import call, conv
from fastconv.plan.candidates import CANDIDATES
from fastconv.spec import ConvSpec

RNG = np.random.default_rng(5)


def small(shape, dtype, top=3):
    """Integers of any dtype; complex ones have both parts."""
    dtype = np.dtype(dtype)
    low = 0 if dtype.kind == "u" else -top
    x = RNG.integers(low, top + 1, shape).astype(dtype)
    if dtype.kind == "c":
        x = x + (1j * RNG.integers(low, top + 1, shape)).astype(dtype)
    return x


def expected(x, w, **options):
    """By NumPy, in a dtype wide enough to be exact."""
    wide = np.complex128 if x.dtype.kind == "c" else np.float64 if x.dtype.kind == "f" else np.int64
    ndim = w.ndim - 2
    full = {"stride": (1,) * ndim, "dilation": (1,) * ndim, "padding": ((0, 0),) * ndim, **options}
    return by_numpy(x.astype(wide), w.astype(wide), **full)


def refused(x_shape, weight_shape) -> list[str]:
    """Algorithms that do not take the problem."""
    return [row.algorithm for row in fastconv.explain(x_shape, weight_shape).rows if row.predicted_ms is None]


RESULTS = {
    "float16": "float16", "float32": "float32", "float64": "float64", "complex64": "complex64",
    "complex128": "complex128", "int8": "int32", "uint8": "int32", "int16": "int64", "int32": "int64", "int64": "int64",
}  # fmt: skip


@pytest.mark.parametrize("dtype", RESULTS)
def test_dtypes(dtype):
    """Result dtype and exact values: batched and not, both memory orders, groups, bias, residual."""
    result = np.dtype(RESULTS[dtype])
    for groups, ndim in ((1, 2), (2, 2), (6, 2), (1, 1), (2, 3)):
        size = (9, 8, 4)[:ndim]
        x, w = small((2, 6, *size), dtype), small((6, 6 // groups, *(3, 2, 2)[:ndim]), dtype)
        bias = small(6, result)
        function = getattr(fastconv, f"conv{ndim}d")
        padding = ((1, 0), (0, 2), (1, 1))[:ndim]
        options = {"groups": groups, "padding": padding, "stride": (2, 1, 1)[:ndim], "flip": groups == 2}
        want = expected(x, w, **options) + bias.reshape(-1, *[1] * ndim).astype(complex if result.kind == "c" else "f8")
        residual = small(want.shape, result)
        want = want + residual
        last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        for data in (x, last):
            got = function(data, w, bias, residual=residual, accuracy="exact", **options)
            assert got.dtype == result
            assert np.array_equal(got, want), (groups, ndim)
            one = function(data[1], w, bias, residual=residual[1], accuracy="exact", **options)
            assert np.array_equal(one, want[1]), (groups, ndim)
        layer = fastconv.prepare(w, bias, accuracy="exact", **options)
        assert np.array_equal(layer(x, residual=residual), want)
        assert np.array_equal(layer(last[1], residual=residual[1]), want[1])


def test_complex_keeps_precision_and_conventions():
    x = RNG.random((1, 2, 6, 7)) + 1j * RNG.random((1, 2, 6, 7))
    w = RNG.random((3, 2, 2, 3)) + 1j * RNG.random((3, 2, 2, 3))
    for flip in (False, True):  # no conjugate is taken
        want = expected(x, w, flip=flip)
        np.testing.assert_allclose(fastconv.conv2d(x, w, flip=flip), want, rtol=1e-14)
        single = fastconv.conv2d(x.astype("c8"), w.astype("c8"), flip=flip)
        np.testing.assert_allclose(single, want, rtol=1e-5)


def test_half_is_summed_in_single():
    x = np.full((1, 4096, 1), 1, np.float16)
    x[0, 0] = 2048
    w = np.ones((1, 4096, 1), np.float16)
    assert fastconv.conv1d(x, w).item() == np.float16(2048 + 4095)  # a float16 sum would stay at 2048
    with np.errstate(all="raise"):
        assert fastconv.conv1d(x * 16, w * 16).item() == np.inf


def test_integers_are_exact_at_their_ends():
    for dtype in ("int8", "uint8", "int16"):
        info = np.iinfo(dtype)
        x = np.array([info.min, info.max, info.min], dtype).reshape(1, 3, 1)
        w = np.array([info.min, info.max, info.max], dtype).reshape(1, 3, 1)
        assert fastconv.conv1d(x, w).item() == sum(int(a) * int(b) for a, b in zip(x.ravel(), w.ravel(), strict=True))
    mixed = fastconv.conv1d(np.full((1, 2, 1), 255, np.uint8), np.full((1, 2, 1), -128, np.int8))
    assert mixed.dtype == np.int32
    assert mixed.item() == -2 * 255 * 128
    wrapped = fastconv.conv1d(np.full((1, 2, 1), 2**62), np.ones((1, 2, 1), np.int64))
    assert wrapped.item() == -(2**63)


def test_integer_activations():
    x = np.arange(-5, 6, dtype=np.int8).reshape(1, 1, -1) * 4
    one = np.ones((1, 1, 1), np.int8)
    plain = fastconv.conv1d(x, one)
    assert np.array_equal(fastconv.conv1d(x, one, activation="relu"), np.maximum(plain, 0))
    assert np.array_equal(fastconv.conv1d(x, one, activation="relu6"), np.clip(plain, 0, 6))
    assert np.array_equal(fastconv.conv1d(x, one, activation=("clip", -7, 9)), np.clip(plain, -7, 9))


def test_convolution_of_the_textbooks():
    x, k = RNG.random(20), RNG.random(5)
    for mode, padding in (("full", 4), ("valid", 0)):
        got = fastconv.conv1d(x[None, None], k[None, None], padding=padding, flip=True)
        np.testing.assert_allclose(got[0, 0], np.convolve(x, k, mode))
    got = fastconv.conv1d(x[None, None], k[None, None], padding=2)
    np.testing.assert_allclose(got[0, 0], np.correlate(x, k, "same"))


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    x, w, b = RNG.random((2, 6, 9, 10)), RNG.random((8, 3, 3, 2)), RNG.random(8)
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 3), "groups": 2}
    want = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, b)), **options).numpy()
    np.testing.assert_allclose(fastconv.conv2d(x, w, b, **options), want, rtol=1e-13)
    for mode in ("reflect", "replicate", "circular"):
        padded = torch.nn.functional.pad(torch.from_numpy(x), (2, 1, 0, 3), mode=mode)
        want = torch.nn.functional.conv2d(padded, torch.from_numpy(w), groups=2).numpy()
        got = fastconv.conv2d(x, w, groups=2, padding=((0, 3), (2, 1)), padding_mode=mode)
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_every_activation_by_every_algorithm():
    """The fused activation is that of the oracle, also on the last, partial vector."""
    x, w = RNG.random((1, 4, 7, 19), np.float32) - 0.5, RNG.random((5, 4, 3, 3), np.float32) - 0.5
    b, names = RNG.random(5, np.float32), [m.NAME for m in CANDIDATES]
    cannot = refused(x.shape, w.shape)
    for activation in (
        "relu", "relu6", "leaky_relu", ("leaky_relu", 0.3), "silu", "hardswish", "sigmoid", "tanh", ("clip", -0.1, 0.2),
    ):  # fmt: skip
        want = fastconv.conv2d(x.astype("f8"), w.astype("f8"), b.astype("f8"), activation=activation)
        for name in names:
            if name in cannot:
                continue
            got = fastconv.conv2d(x, w, b, activation=activation, algorithm=name)
            np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f"{name} {activation}")


def test_huge_numbers_that_have_no_effect():
    x, w = small((1, 2, 9, 9), "f4"), small((3, 2, 3, 3), "f4")
    for name in [m.NAME for m in CANDIDATES]:
        if name not in refused(x.shape, w.shape):
            got = fastconv.conv2d(x, w, stride=2**61, algorithm=name)
            np.testing.assert_allclose(got, expected(x, w)[..., :1, :1], atol=1e-3)
    w = small((3, 2, 1, 1), "f4")
    np.testing.assert_allclose(fastconv.conv2d(x, w, dilation=2**61), expected(x, w), atol=1e-3)


# ---- remembered calls ------------------------------------------------------------------------------------------------


def test_options_as_lists_and_arrays():
    x, w = small((1, 2, 8, 8), "f4"), small((3, 2, 3, 3), "f4")
    want = fastconv.conv2d(x, w, stride=(2, 1), padding=((0, 1), (2, 0)))
    for _ in range(2):
        assert np.array_equal(fastconv.conv2d(x, w, stride=[2, 1], padding=[[0, 1], [2, 0]]), want)
        got = fastconv.conv2d(x, w, stride=np.array([2, 1]), padding=np.array([[0, 1], [2, 0]]))
        assert np.array_equal(got, want)


def test_calls_that_differ_in_one_argument_only():
    """Whatever enters the computation must enter the key of the remembered call."""
    x, w = small((2, 4, 8, 8), "f4"), small((4, 4, 3, 3), "f4")
    base = {"stride": 1, "padding": 1, "dilation": 1, "padding_mode": "zeros", "flip": False}
    changes = [{}, {"stride": 2}, {"padding": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"flip": True}]
    for _ in range(2):
        for change in changes:
            options = {**base, **change}
            pads = {**options, "padding": ((options["padding"],) * 2,) * 2}
            pads |= {name: (options[name],) * 2 for name in ("stride", "dilation")}
            assert np.array_equal(fastconv.conv2d(x, w, **options), expected(x, w, **pads)), change
        assert np.array_equal(fastconv.conv2d(x, w[:, :2], groups=2), expected(x, w[:, :2], groups=2))
        assert (fastconv.conv2d(x, w, activation="relu") >= 0).all()
        assert fastconv.conv2d(x, w).min() < 0
        assert fastconv.conv2d(x.astype("f8"), w.astype("f8")).dtype == np.float64
        assert fastconv.conv2d(x[:1], w).shape[0] == 1
        assert fastconv.conv2d(x, w[:2]).shape[1] == 2
        assert fastconv.conv2d(x, w, layout="NCHW").shape == (2, 4, 6, 6)
        same_shape = small((4, 8, 8, 4), "f4")
        one, two = fastconv.conv2d(same_shape, small((3, 8, 3, 3), "f4")), None
        two = fastconv.conv2d(same_shape, small((3, 4, 3, 3), "f4"), layout="NHWC")
        assert (one.shape, two.shape) == ((4, 3, 6, 2), (4, 6, 6, 3))
    cube = small((4, 4, 4, 4), "f4")  # one volume, or a batch of images
    for _ in range(2):
        assert fastconv.conv3d(cube, small((2, 4, 3, 3, 3), "f4")).shape == (2, 2, 2, 2)
        assert fastconv.conv2d(cube, small((2, 4, 3, 3), "f4")).shape == (4, 2, 2, 2)
        with pytest.raises(ValueError, match="conv3d: weight"):
            fastconv.conv3d(cube, small((2, 4, 3, 3), "f4"))


def test_bias_changed_between_calls_is_seen():
    x, w, b = small((1, 2, 5, 5), "f4"), small((3, 2, 3, 3), "f4"), np.zeros(3, np.float32)
    first = fastconv.conv2d(x, w, b)
    assert np.array_equal(fastconv.conv2d(x, w, b), first)
    b += 1
    assert np.array_equal(fastconv.conv2d(x, w, b), first + 1)
    assert np.array_equal(fastconv.conv2d(x, w, np.float32([2, 2, 2])), first + 2)
    reversed_bias = np.arange(3, dtype=np.float32)[::-1]
    for _ in range(2):
        got = fastconv.conv2d(x, w, reversed_bias)
        assert np.array_equal(got, first + np.float32([2, 1, 0])[:, None, None])
        reversed_bias[:] = [2, 1, 0]
    reversed_bias[:] = 5
    assert np.array_equal(fastconv.conv2d(x, w, reversed_bias), first + 5)


def test_remembered_calls_are_bounded(monkeypatch):
    monkeypatch.setattr(call, "CACHE_LIMIT", 10)
    w = np.ones((1, 1, 1), np.float32)
    for size in range(1, 40):
        fastconv.conv1d(np.ones((1, 1, size), np.float32), w)
        assert len(conv._calls) <= 10
    layer = fastconv.prepare(w)
    for size in range(1, 80):
        assert layer(np.ones((1, 1, size), np.float32)).shape == (1, 1, size)
        assert len(layer._bound) <= 32


def test_number_of_threads_changes_plans():
    x, w = small((1, 8, 32, 32), "f4"), small((8, 8, 3, 3), "f4")
    before = fastconv.get_num_threads()
    try:
        results = []
        for threads in (1, min(2, before), 1):
            fastconv.set_num_threads(threads)
            results.append(fastconv.conv2d(x, w))
            assert fastconv.plan(x.shape, w.shape).request.threads == threads
        assert np.array_equal(results[0], results[1])
    finally:
        fastconv.set_num_threads(before)


def test_calls_from_many_python_threads():
    problems = [(small((1, 4, 12 + i % 3, 12), "f4"), small((4, 4, 3, 3), "f4")) for i in range(8)]
    wanted = [expected(x, w) for x, w in problems]
    layer = fastconv.prepare(problems[0][1])
    wrong = []

    def work(x, w, want):
        bias = small(4, "f4", 50)  # of one and the same remembered call, each thread has its own
        for _ in range(200):
            if not np.array_equal(fastconv.conv2d(x, w, bias), want + bias[:, None, None]):
                wrong.append("conv2d")
            if not np.array_equal(layer(x), expected(x, problems[0][1])):
                wrong.append("layer")

    workers = [threading.Thread(target=work, args=(*p, want)) for p, want in zip(problems, wanted, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# ---- prepared layers -------------------------------------------------------------------------------------------------


def test_prepared_layer_is_the_function():
    w, b = small((4, 2, 3, 3), "f4"), small(4, "f4")
    options = {"stride": 2, "padding": "same", "groups": 2, "activation": "relu", "padding_mode": "circular"}
    layer = fastconv.prepare(w, b, **options)
    for shape in ((1, 4, 8, 8), (2, 4, 9, 7), (4, 5, 5), (1, 4, 8, 8)):
        x = small(shape, "f4")
        for _ in range(2):
            assert np.array_equal(layer(x), fastconv.conv2d(x, w, b, **options))
        out = np.empty_like(layer(x))
        assert layer(x, out=out) is out
        assert np.array_equal(out, layer(x))
        residual = small(out.shape, "f4")
        want = fastconv.conv2d(x, w, b, residual=residual, **options)
        assert np.array_equal(layer(x, residual=residual), want)
    x = small((1, 4, 8, 8), "f4")
    assert np.array_equal(layer(x.astype(">f4")), layer(x))
    assert layer.plan(x.shape).algorithm in str(layer.explain(x.shape))
    for ndim, shape in ((1, (1, 4, 9)), (3, (1, 4, 5, 5, 5))):
        w = small((2, 4, *[3] * ndim), "f4")
        x = small(shape, "f4")
        assert np.array_equal(fastconv.prepare(w)(x), getattr(fastconv, f"conv{ndim}d")(x, w))


def test_prepared_layer_owns_its_weights():
    w, b, x = small((4, 2, 3, 3), "f4"), small(4, "f4"), small((1, 2, 8, 8), "f4")
    layer = fastconv.prepare(w, b, algorithm="direct")  # the same bits for inputs of other sizes
    want = layer(x)
    w += 1
    b += 1
    assert np.array_equal(layer(x), want)
    assert np.array_equal(layer(x[..., :-1]), want[..., :-1])


def test_prepared_layer_can_be_copied_and_pickled():
    w, x = small((4, 2, 3, 3), "f4"), small((1, 2, 8, 8), "f4")
    layer = fastconv.prepare(w, padding=[[1, 0], [0, 1]], activation=("clip", -2, 2))
    want = layer(x)
    for twin in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(twin(x), want)
        assert repr(twin) == repr(layer)
    assert repr(layer) == "PreparedConv(4x2x3x3 float32, padding=((1, 0), (0, 1)), activation=('clip', -2, 2))"


def test_plans_of_one_layer_share_packed_weights():
    layer = fastconv.prepare(small((16, 16, 3, 3), "f4"), algorithm="direct")
    for size in (20, 21, 20, 22):
        layer(small((1, 16, size, size), "f4"))
    packed = {id(weights) for _, weights, _ in layer._bound.values()}
    forms = {bound.plan.params.form for bound, _, _ in layer._bound.values()}
    assert len(layer._bound) == 3
    assert len(packed) == len(forms)  # the channel form packs, the pixel form takes weights as they lie


# ---- plan, explain ---------------------------------------------------------------------------------------------------


def test_plan_is_that_of_the_call():
    x, w = (2, 6, 9, 8), (4, 3, 3, 3)
    plan = fastconv.plan(x, w, groups=2, padding=1, stride=2)
    assert plan.spec.out_shape == (2, 4, 5, 4)
    assert plan.spec.dtype == "float32"
    assert fastconv.plan(x[1:], w, groups=2).spec.N == 1
    last = fastconv.plan((2, 9, 8, 6), w, groups=2, layout="NHWC").spec
    assert last == ConvSpec.make(x, w, groups=2, channels_last=True)
    for dtype, kernel in (("float16", "float32"), ("f8", "float64"), (np.int8, "int32"), (np.int16, "int64")):
        assert fastconv.plan(x, w, groups=2, dtype=dtype).spec.dtype == kernel
    spec = fastconv.plan(x, w, groups=2, dtype="complex128").spec
    assert (spec.C, spec.OC, spec.groups, spec.dtype) == (12, 8, 2, "float64")
    assert fastconv.plan((0, *x[1:]), w, groups=2).algorithm in [m.NAME for m in CANDIDATES]
    table = fastconv.explain(x, w, groups=2)
    assert {row.algorithm for row in table.rows} == {m.NAME for m in CANDIDATES}
    assert sum(row.chosen for row in table.rows) == 1


@pytest.mark.parametrize("module", ["fastconv.conv", "fastconv.prepared", "fastconv.planning"])
def test_examples_in_docstrings(module):
    import importlib

    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0
