"""Array intake: what is accepted, what is copied, what keeps its memory order."""

from __future__ import annotations

import array

import numpy as np
import pytest

import fastconv
from fastconv.call import Call

X = np.random.default_rng(0).integers(-4, 5, (2, 6, 8, 9)).astype(np.float32)
W = np.random.default_rng(1).integers(-4, 5, (4, 6, 3, 3)).astype(np.float32)
EXPECTED = fastconv.conv2d(X, W)


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same values, with the memory of (N, *spatial, C)."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def is_channels_last(x: np.ndarray) -> bool:
    return np.moveaxis(x, 1, -1).flags.c_contiguous


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    moved = raw.view(x.dtype).reshape(x.shape)
    moved[...] = x
    assert not moved.flags.aligned
    return moved


class Wrapped:
    """An object with one of the array protocols."""

    def __init__(self, x, **attributes):
        self.x = x
        for name in attributes.get("keep", ()):
            setattr(self, name, getattr(x, name))


class WithArray(Wrapped):
    def __array__(self, dtype=None, copy=None):
        return self.x


class WithDLPack(Wrapped):
    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class WithInterface(Wrapped):
    @property
    def __array_interface__(self):
        return self.x.__array_interface__


class FailingDLPack(WithArray):
    def __dlpack__(self, **options):
        raise BufferError("another device")

    def __dlpack_device__(self):
        return (2, 0)


SAME_VALUES = {
    "itself": lambda x: x,
    "read-only": lambda x: _read_only(x),
    "big endian": lambda x: x.astype(">f4"),
    "little endian": lambda x: x.astype("<f4"),
    "reversed twice": lambda x: x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "every other": lambda x: np.repeat(np.repeat(x, 2, 3), 3, 1)[:, ::3, :, ::2],
    "fortran": np.asfortranarray,
    "transposed": lambda x: x.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
    "channels-last": channels_last,
    "channels-last, read-only": lambda x: _read_only(channels_last(x)),
    "channels-last crop": lambda x: channels_last(np.pad(x, ((0, 0), (0, 3), (0, 0), (1, 2))))[:, :-3, :, 1:-2],
    "unaligned": unaligned,
    "unaligned, read-only": lambda x: _read_only(unaligned(x)),
    "__array__": WithArray,
    "__dlpack__": WithDLPack,
    "__dlpack__ elsewhere": FailingDLPack,
    "__array_interface__": WithInterface,
    "nested lists": None,
    "memoryview": memoryview,
    "subclass": lambda x: x.view(type("Sub", (np.ndarray,), {})),
    "memmap": lambda x: x.view(np.memmap),
}


def _read_only(x):
    x = x.copy(order="K")
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("kind", [k for k in SAME_VALUES if k != "nested lists"])
def test_every_kind_of_array_gives_the_same(kind):
    for x, w in ((SAME_VALUES[kind](X), W), (X, SAME_VALUES[kind](W)), (SAME_VALUES[kind](X), SAME_VALUES[kind](W))):
        for _ in range(2):
            got = fastconv.conv2d(x, w)
            assert type(got) is np.ndarray
            assert got.dtype == np.float32
            assert np.array_equal(got, EXPECTED)


@pytest.mark.parametrize("kind", [k for k in SAME_VALUES if k != "nested lists"])
def test_bias_and_residual_of_every_kind(kind):
    make = SAME_VALUES[kind]
    bias = np.arange(4, dtype=np.float32)
    residual = EXPECTED * 2
    expected = EXPECTED * 3 + bias[:, None, None]
    if kind in ("itself", "read-only", "big endian", "unaligned", "__array__", "__dlpack__", "memoryview", "subclass"):
        bias = make(bias)
    got = fastconv.conv2d(X, W, bias, residual=make(residual))
    assert np.array_equal(got, expected)
    assert np.array_equal(fastconv.conv2d(channels_last(X), W, bias, residual=make(residual)), expected)


def test_lists_are_read_as_numpy_reads_them():
    got = fastconv.conv1d([[[1.0, 2.0, 3.0]]], [[[1.0, -1.0]]])
    assert got.dtype == np.float64
    assert got.tolist() == [[[-1.0, -1.0]]]
    assert fastconv.conv1d([[[1, 2, 3]]], [[[1, -1]]]).dtype == np.int64
    with pytest.raises(TypeError, match="same dtype"):
        fastconv.conv1d([[[1, 2, 3]]], [[[1.0, -1.0]]])


def test_buffers():
    x = memoryview(array.array("f", [1, 2, 3])).cast("B").cast("f", (1, 1, 3))
    assert fastconv.conv1d(x, np.ones((1, 1, 2), np.float32)).tolist() == [[[3, 5]]]


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x, w = torch.from_numpy(X.copy()), torch.from_numpy(W.copy())
    assert np.array_equal(fastconv.conv2d(x, w), EXPECTED)
    last = fastconv.conv2d(x.to(memory_format=torch.channels_last), w.to(memory_format=torch.channels_last))
    assert np.array_equal(last, EXPECTED)
    assert is_channels_last(last)
    with pytest.raises(TypeError, match="x must be a numeric array; Tensor cannot be read as one"):
        fastconv.conv2d(x.requires_grad_(), w)
    with pytest.raises(TypeError, match=r"x must be a numeric array|x must have a dtype"):
        fastconv.conv2d(torch.ones(1, 6, 8, 9, dtype=torch.bfloat16), w)
    lazy = torch.conj(torch.complex(x.detach(), x.detach()))
    with pytest.raises(TypeError, match="resolve_conj"):
        fastconv.conv2d(lazy, W.astype(np.complex64))


def test_broadcast_input_and_weight():
    x = np.broadcast_to(np.float32(2), (2, 6, 8, 9))
    assert np.array_equal(fastconv.conv2d(x, W), fastconv.conv2d(x.copy(), W))
    grey = np.broadcast_to(X[:, :1], X.shape)
    assert np.array_equal(fastconv.conv2d(grey, W), fastconv.conv2d(grey.copy(), W))
    w = np.broadcast_to(W[:, :1], W.shape)
    assert np.array_equal(fastconv.conv2d(X, w), fastconv.conv2d(X, w.copy()))
    line = np.broadcast_to(np.float32(3), (1, 1, 5))  # merges into one axis of stride 0
    assert fastconv.conv1d(line, np.ones((1, 1, 2), np.float32)).tolist() == [[[6, 6, 6, 6]]]


def test_inputs_are_never_written():
    inputs = [X.copy(), W.copy(), np.ones(4, np.float32), EXPECTED.copy()]
    read_only = [_read_only(a) for a in inputs]
    for x, w, b, r in (inputs, read_only):
        for algorithm in ("auto", *_names()):
            if algorithm != "auto" and not _accepted(algorithm):
                continue
            fastconv.conv2d(x, w, b, residual=r, activation="relu", algorithm=algorithm)
    for one, other in zip(inputs, [X, W, np.ones(4, np.float32), EXPECTED], strict=True):
        assert np.array_equal(one, other)


def _names():
    from fastconv.plan.candidates import names

    return names()


def _accepted(algorithm):
    try:
        fastconv.plan(X.shape, W.shape, algorithm=algorithm)
    except ValueError:
        return False
    return True


# ---- read-only arrays ------------------------------------------------------------------------------------------------


def test_read_only_compiles_nothing_new():
    from fastconv.kernels import reference

    fastconv.conv2d(X, W, algorithm="reference")
    before = len(reference._rows.signatures)
    fastconv.conv2d(_read_only(X), _read_only(W), _read_only(np.ones(4, np.float32)), algorithm="reference")
    fastconv.conv2d(unaligned(X), unaligned(W), algorithm="reference")
    assert len(reference._rows.signatures) == before


def test_read_only_and_channels_last_are_not_copied(monkeypatch):
    seen = []
    original = Call.compute

    def watched(self, x, packed, epilogue):
        run = self.run
        self.run = lambda flat, *rest: (seen.append((x, flat)), run(flat, *rest))
        try:
            return original(self, x, packed, epilogue)
        finally:
            self.run = run

    monkeypatch.setattr(Call, "compute", watched)
    for x in (X, _read_only(X), channels_last(X), _read_only(channels_last(X))):
        fastconv.conv2d(x, W)
    for x, flat in seen:
        assert flat.__array_interface__["data"][0] == x.__array_interface__["data"][0]
    assert len(seen) == 4


# ---- memory order ----------------------------------------------------------------------------------------------------


def test_result_has_the_memory_order_of_x():
    assert fastconv.conv2d(X, W).flags.c_contiguous
    assert is_channels_last(fastconv.conv2d(channels_last(X), W))
    assert is_channels_last(fastconv.conv2d(channels_last(X)[:, :, 1:, ::-1], W)), "a crop stays channels-last"
    assert fastconv.conv2d(X[:, ::-1, 1:], W).flags.c_contiguous
    one = fastconv.conv2d(channels_last(X)[1], W)
    assert np.array_equal(one, EXPECTED[1])
    assert is_channels_last(one[None])


def test_ambiguous_memory_is_channels_first():
    for shape in ((2, 1, 5, 6), (2, 7, 1, 1)):
        x = channels_last(np.ones(shape, np.float32))
        w = np.ones((3, shape[1], 1, 1), np.float32)
        assert fastconv.conv2d(x, w).flags.c_contiguous


def test_layout_names_the_axes():
    nhwc = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    got = fastconv.conv2d(nhwc, W, layout="NHWC")
    assert np.array_equal(np.moveaxis(got, -1, 1), EXPECTED)
    assert got.flags.c_contiguous
    assert np.array_equal(fastconv.conv2d(nhwc[0], W, layout="NHWC"), got[0])
    # An NCHW memory seen as NHWC: the layout names axes, the memory order is found out.
    assert np.array_equal(fastconv.conv2d(np.moveaxis(X, 1, -1), W, layout="NHWC"), got)
    grey = np.ones((1, 5, 6, 1), np.float32)
    assert fastconv.conv2d(grey, np.ones((3, 1, 1, 1), np.float32), layout="NHWC").flags.c_contiguous
    out = np.empty_like(got)
    assert fastconv.conv2d(nhwc, W, layout="NHWC", residual=got, out=out) is out
    assert np.array_equal(out, 2 * got)
    line, w = np.moveaxis(X[:, :, 0], 1, -1), W[:, :, 0]
    for name in ("NHWC", "NLC"):
        got = fastconv.conv1d(line, w, layout=name)
        assert np.array_equal(np.moveaxis(got, -1, 1), fastconv.conv1d(X[:, :, 0], w, layout="NCL"))
    volume = X[:, :, None]
    assert fastconv.conv3d(np.moveaxis(volume, 1, -1), W[:, :, None], layout="NDHWC").shape == (2, 1, 6, 7, 4)


@pytest.mark.parametrize("x_order", ["first", "last"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
def test_out_of_any_strides(x_order, dtype):
    x = (X if x_order == "first" else channels_last(X)).astype(dtype)
    w = W.astype(dtype)
    expected = fastconv.conv2d(x, w)
    base = np.zeros((2, 8, 14, 16), dtype)
    outs = {
        "contiguous": np.zeros(EXPECTED.shape, dtype),
        "channels-last": channels_last(np.zeros(EXPECTED.shape, dtype)),
        "strided": base[:, ::2, 1:13:2, 2:9],
        "reversed": np.zeros(EXPECTED.shape, dtype)[:, ::-1, ::-1, ::-1],
        "unaligned": unaligned(np.zeros(EXPECTED.shape, dtype)),
        "subclass": np.zeros(EXPECTED.shape, dtype).view(np.memmap),
    }
    for name, out in outs.items():
        assert fastconv.conv2d(x, w, out=out) is out, name
        assert np.array_equal(out, expected), name
    touched = np.zeros(base.shape, bool)
    touched[:, ::2, 1:13:2, 2:9] = True
    assert (base[~touched] == 0).all()


def test_empty_batch():
    for x in (X[:0], channels_last(X)[:0], X[:0].astype(">f4"), X[::-1][:0]):
        assert fastconv.conv2d(x, W, np.ones(4, np.float32), padding=1).shape == (0, 4, 8, 9)
    assert fastconv.conv2d(X[:0].astype(np.complex64), W.astype(np.complex64)).dtype == np.complex64
    out = np.empty((0, 4, 6, 7), np.float32)
    assert fastconv.conv2d(X[:0], W, out=out) is out
    assert fastconv.prepare(W)(X[:0]).shape == (0, 4, 6, 7)
    with pytest.raises(ValueError, match="algorithm must be"):
        fastconv.conv2d(X[:0], W, algorithm="magic")
    with pytest.raises(ValueError, match="bias must have shape"):
        fastconv.conv2d(X[:0], W, np.ones(5, np.float32))
