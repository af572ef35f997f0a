"""How arrays come to a kernel: read off Python's objects by compiled code, so nothing else may get there."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fastconv
from fastconv.cpu import threads
from fastconv.cpu.frame import MOST_ARRAYS
from fastconv.cpu.jit import kernel
from fastconv.cpu.simd import claim


@kernel
def totals(thread, counter, tasks, x, out):
    """out = [sum of x, size of x, tasks that were claimed]."""
    while claim(counter) < tasks:
        out[2] += 1
    out[0] = 0
    for value in x:
        out[0] += value
    out[1] = x.size


def run(x: np.ndarray, dtype: str = "float64") -> list[float]:
    out = np.zeros(3, dtype)
    threads.run(totals, 5, (x, out), 1)
    return out.tolist()


@pytest.mark.parametrize("shape", [(24,), (2, 3, 4), (1, 1, 1, 24, 1), (0,), (3, 0), ()])
def test_kernels_see_every_array_flat(shape):
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    assert run(x) == [x.sum(), x.size, 5]


def test_read_only_arrays_are_read_where_they_lie():
    x = np.ones(7, np.float32)
    before = len(totals.signatures)
    x.flags.writeable = False
    assert run(x) == [7, 7, 5]
    assert run(np.ones(7, np.float32)) == [7, 7, 5]
    assert len(totals.signatures) == max(before, 1)


def test_one_function_for_each_combination_of_dtypes():
    for _ in range(2):
        for x, out in (("float32", "float64"), ("int64", "float64"), ("int64", "int64"), ("bool", "int64")):
            assert run(np.ones(4, x), out) == [4, 4, 5]
    signatures = totals.signatures
    assert len(signatures) == len(set(signatures))
    assert (np.dtype("bool"), np.dtype("int64")) in signatures


def test_an_equal_dtype_that_is_another_object():
    run(np.ones(4, np.float32))
    before = totals.signatures
    other = np.dtype("float32", metadata={"unit": "m"})
    assert other is not np.dtype("float32")
    assert run(np.ones(4, np.float32).view(other)) == [4, 4, 5]
    assert totals.signatures == before


X, OUT = np.ones(8, np.float32), np.zeros(3)


@pytest.mark.parametrize(
    "arrays",
    [
        (X,), (X, OUT, OUT), [X, OUT], (X[::2], OUT), (X.astype(">f4"), OUT), (1.0, OUT), (None, OUT),
        (np.ma.masked_array(X), OUT), (np.ones(9, np.uint8)[1:].view(np.float32), OUT),
    ],
)  # fmt: skip
def test_nothing_else_gets_there(arrays):
    run(X)
    with pytest.raises(TypeError, match=r"totals takes (a tuple of 2|contiguous) arrays"):
        threads.run(totals, 1, arrays, 1)


def test_a_kernel_has_only_so_many_arrays():
    names = ", ".join(f"a{i}" for i in range(MOST_ARRAYS + 1))
    scope: dict = {}
    exec(f"def wide(thread, counter, tasks, {names}): pass", scope)
    with pytest.raises(TypeError, match=f"more than {MOST_ARRAYS}"):
        kernel(scope["wide"])


def test_many_threads_add_functions_while_others_read_them():
    @kernel
    def scale(thread, counter, tasks, x, out):
        while claim(counter) < tasks:
            out[0] = 2 * x[0]

    kinds = ("float32", "float64", "int32", "int64", "int8", "uint8")
    failures = []

    def work(kind: str) -> None:
        for _ in range(300):
            x, out = np.full(1, 21, kind), np.zeros(1, kind)
            threads.run(scale, 1, (x, out), 1)
            if out[0] != 42:
                failures.append((kind, out))

    callers = [threading.Thread(target=work, args=(kind,)) for kind in kinds]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures
    assert len(scale.signatures) == len(kinds)


# ---- what is remembered of a call by the very objects that it was given ----------------------------------------------


def test_a_list_that_has_changed_is_another_option():
    x, w = np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)
    padding = [1, 1]
    for _ in range(3):
        assert fastconv.conv2d(x, w, padding=padding).shape == (1, 1, 5, 5)
    padding[0] = 0
    assert fastconv.conv2d(x, w, padding=padding).shape == (1, 1, 3, 5)
    kernel_size = [2, 2]
    for _ in range(3):
        assert fastconv.max_pool2d(x, kernel_size).shape == (1, 1, 2, 2)
    kernel_size[0] = 5
    assert fastconv.max_pool2d(x, kernel_size).shape == (1, 1, 1, 2)


def test_equal_options_of_another_type_are_still_wrong():
    x, w = np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)
    layer = fastconv.prepare(w, padding=1)
    for _ in range(2):
        fastconv.conv2d(x, w, padding=1, stride=1)
        fastconv.max_pool2d(x, 1, stride=1)
        layer(x)
        for wrong in (True, 1.0):
            with pytest.raises(TypeError):
                fastconv.conv2d(x, w, padding=1, stride=wrong)
            with pytest.raises(TypeError):
                fastconv.max_pool2d(x, 1, stride=wrong)


@pytest.mark.parametrize("prepared", [False, True])
def test_arrays_that_differ_in_one_thing_are_told_apart(prepared):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3, 3, 3), np.float32)
    layer = fastconv.prepare(w, padding=1)
    x = rng.standard_normal((1, 3, 9, 9), np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.zeros((1, 3, 9, 18), np.float32)
    wide[..., ::2] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    expected = fastconv.conv2d(x, w, padding=1, algorithm="reference")
    for _ in range(2):
        for same in (x, last, wide[..., ::2], unaligned, fixed, x.astype(">f4"), x):
            got = layer(same) if prepared else fastconv.conv2d(same, w, padding=1)
            assert np.abs(got - expected).max() < 1e-5
        assert fastconv.conv2d(x.astype(float), w.astype(float), padding=1).dtype == np.float64
