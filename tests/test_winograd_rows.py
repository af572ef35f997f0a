"""Winograd whose lanes are tiles: the same bits as where they are channels, and the same care for what it spoils."""

import numpy as np
import pytest
from cases import harmless, run
from test_winograd import LIMIT, exact, fill, lay, unlay

from fastconv.cpu import isa
from fastconv.cpu.cached import cached
from fastconv.kernels import winograd, winograd_plan, winograd_rows
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

_rows = winograd_rows.winograd_rows.body


@cached
def _from_counter(counter, tasks, g, tables, x, packed, seen, bias, residual, constants, out, scratch):
    _rows(np.int64(0), counter, tasks, g, tables, x, packed, seen, bias, residual, constants, out, scratch)


pytestmark = pytest.mark.skipif(isa.name() == "baseline", reason="needs masked loads")

PROBLEMS = {
    "padded": ((1, 16, 13, 70), (16, 16, 3, 3), {"padding": 1}),
    "tails": ((2, 21, 10, 131), (35, 21, 3, 3), {"padding": ((0, 2), (3, 1))}),
    "groups": ((2, 20, 9, 319), (26, 10, 3, 3), {"groups": 2, "flip": True}),
    "one tile": ((1, 8, 1, 1), (9, 8, 3, 3), {"padding": 1}),
    "slices": ((1, 8, 3, 5, 70), (9, 8, 1, 3, 3), {"padding": (0, 1, 2)}),
    "long sums": ((1, 300, 5, 66), (8, 300, 3, 3), {"padding": 1}),
    "parts of rows": ((1, 160, 7, 900), (9, 160, 3, 3), {"padding": 1}),
}


def convolve(spec, x, w, epilogue=None, threads=1, rows=True):
    way = winograd_rows.way(spec, LIMIT // 4)
    params = winograd_plan.parameters(spec, threads, LIMIT, False, (1, 4, 4), rival=None)
    if rows:
        params = winograd_plan._params(spec, way, threads, False)
        assert params.by_rows
    return unlay(run(winograd, spec, params, lay(x, spec), w, epilogue or Epilogue.make(spec.dtype)), spec)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_as_with_channels_in_the_lanes(name, dtype):
    x_shape, w_shape, options = PROBLEMS[name]
    spec = ConvSpec.make(x_shape, w_shape, dtype=dtype, **options)
    x, w = fill(spec)
    want = convolve(spec, x, w, rows=False)
    for threads in (1, 2):
        assert np.array_equal(convolve(spec, x, w, threads=threads), want)
    assert np.isfinite(want).all()


def test_a_block_writes_its_own_outputs_only():
    """What it writes beyond them would be right or wrong as threads happen to run."""
    spec = ConvSpec.make((1, 160, 7, 900), (9, 160, 3, 3), padding=1)
    x, w = fill(spec)
    params = winograd_plan._params(spec, winograd_rows.way(spec, LIMIT // 4), 1, False)
    want = convolve(spec, x, w).reshape(-1)
    packed, epilogue = winograd.prepare(spec, params, w), Epilogue.make(spec.dtype)
    seen, scratch = np.empty(params.flags, spec.dtype), np.zeros(params.scratch, spec.dtype)
    out = np.full(want.size, np.nan, spec.dtype)
    assert params.blocks[2] < -(-900 // 4)
    for block in reversed(range(params.tasks[0])):  # as other threads may run them
        counter = np.zeros(16, np.int64)
        counter[0] = block
        tail = epilogue.bias, epilogue.residual, epilogue.constants, out, scratch
        _from_counter(counter, block + 1, params.geometry, params.tables, lay(x, spec), packed, seen, *tail)
    assert np.array_equal(out, want)


@pytest.mark.parametrize("activation", [None, "relu", "relu6", ("clip", -0.5, 0.25), "tanh"])
def test_epilogue(activation):
    rng = np.random.default_rng(1)
    spec = ConvSpec.make((2, 16, 9, 70), (19, 16, 3, 3), padding=1)
    x, w = fill(spec)
    bias, residual = rng.random(19, np.float32), rng.random(spec.out_shape, np.float32)
    for with_bias, with_residual in ((0, 0), (1, 0), (0, 1), (1, 1)):
        epilogue = Epilogue.make(
            spec.dtype, bias if with_bias else None, residual.reshape(-1) if with_residual else None, activation
        )
        assert np.array_equal(convolve(spec, x, w, epilogue), convolve(spec, x, w, epilogue, rows=False))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_a_transform_would_spoil(value):
    spec = ConvSpec.make((2, 16, 14, 90), (17, 16, 3, 3), padding=1)
    x, w = fill(spec)
    x[1, 5, 3, 64] = value
    w[3, 2, 1, 0] = np.inf
    got, want = convolve(spec, x, w, threads=2), exact(spec, x, w)
    others = [c for c in range(17) if c != 3]
    assert np.array_equal(np.isfinite(got), np.isfinite(want))
    fine = np.isfinite(got[:, others])
    assert np.allclose(got[:, others][fine], want[:, others][fine], rtol=1e-4, atol=1e-5)


def test_harmless_data_are_not_recomputed(monkeypatch):
    spec = ConvSpec.make((1, 16, 40, 100), (16, 16, 3, 3), padding=1)
    monkeypatch.setattr(winograd, "_repair", lambda *_: pytest.fail("a tile was suspected"))
    for x in harmless(spec):
        convolve(spec, x, fill(spec)[1])


def test_choice():
    """Few channels and wide images; never another layout, padding mode or dilation."""

    def by_rows(x_shape, w_shape, threads=1, **options):
        return winograd.parameters(ConvSpec.make(x_shape, w_shape, **options), threads, LIMIT).by_rows

    assert by_rows((1, 16, 534, 534), (16, 16, 3, 3))
    assert by_rows((1, 16, 534, 534), (16, 16, 3, 3), threads=2)
    assert not by_rows((1, 256, 14, 14), (256, 256, 3, 3), padding=1)
    for options in ({"channels_last": True}, {"padding": 1, "padding_mode": "reflect"}, {"dilation": 2}):
        assert not by_rows((1, 16, 534, 534), (16, 16, 3, 3), **options)
    spec = ConvSpec.make((1, 16, 534, 534), (16, 16, 3, 3))
    assert winograd_rows.way(spec, 1000) is None
