"""Winograd convolution: transforms in rational arithmetic, results against float64, what a transform would spoil."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from cases import by_numpy, harmless, norm_scale, run

from fastconv.cpu import cook_toom, isa
from fastconv.cpu.cached import cached
from fastconv.cpu.cook_toom import LARGEST, apply, input_matrix, operations, output_matrix, program, weight_matrix
from fastconv.cpu.winograd_codelets import backward, forward, weights_forward
from fastconv.kernels import winograd, winograd_fast, winograd_kernels, winograd_plan
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

LIMIT = 1 << 28
OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
ALL_SIZES = [(n, r) for n in range(3, LARGEST + 1) for r in range(2, n)]


# ---- transforms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "r"), ALL_SIZES)
def test_transforms_are_exact(n, r):
    """y = A^T [(G g) * (B^T d)] is the correlation, without any error in rational numbers."""
    rng, m = np.random.default_rng(n * 10 + r), n - r + 1
    d, g = ([Fraction(int(v)) for v in rng.integers(-99, 99, size)] for size in (n, r))
    points = zip(apply(program(input_matrix(n)), d, n), apply(program(weight_matrix(n, r)), g, n), strict=True)
    y = apply(program(output_matrix(n, m)), [a * b for a, b in points], m)
    assert y == [sum(d[i + k] * g[k] for k in range(r)) for i in range(m)]


def test_programs_share_what_rows_have_in_common():
    for n, r in ALL_SIZES:
        for matrix in (input_matrix(n), weight_matrix(n, r), output_matrix(n, n - r + 1)):
            plain = sum(sum(c != 0 for c in row) - 1 + all(abs(c) != 1 for c in row if c) for row in matrix)
            assert operations(program(matrix)) <= plain
    # F(4, 3): by hand one finds 16 and 12 as well.
    assert operations(program(input_matrix(6))) == 16
    assert operations(program(output_matrix(6, 4))) == 12


def test_points_are_distinct():
    assert len(set(cook_toom.POINTS)) == len(cook_toom.POINTS) == LARGEST - 1


_winograd = winograd_kernels.winograd.body


@cached
def _from_counter(counter, tasks, g, stage, tables, x, packed, seen, bias, residual, constants, out, scratch):
    _winograd(np.int64(0), counter, tasks, g, stage, tables, x, packed, seen, bias, residual, constants, out, scratch)


@cached
def _generated(kind, code, src, s_step, dst, d_step, count):
    W = 16 if src.itemsize == 4 else 8
    if kind == 0:
        forward(code, 1, count, src, 0, s_step, W, 0, dst, 0, d_step, W, 0)
    elif kind == 1:
        backward(code, 1, count, src, 0, s_step, W, 0, dst, 0, d_step, W, 0)
    else:
        weights_forward(code, 1, count, src, 0, s_step, W, 0, dst, 0, d_step, W, 0)


@pytest.mark.skipif(isa.name() != "AVX-512", reason="the test's own kernel assumes this width")
def test_generated_code_is_the_program():
    rng, W, count = np.random.default_rng(0), 16, 3
    for n, r in ALL_SIZES:
        m = n - r + 1
        for kind, code, matrix in (
            (0, n, input_matrix(n)),
            (1, 16 * n + m, output_matrix(n, m)),
            (2, 16 * n + r, weight_matrix(n, r)),
        ):
            rows, columns = len(matrix), len(matrix[0])
            src = rng.random(columns * count * W).astype(np.float32) - np.float32(0.5)
            dst = np.zeros(rows * count * W, np.float32)
            _generated(kind, code, src, count * W, dst, count * W, count)
            want = np.array(matrix, float) @ src.reshape(columns, -1).astype(float)
            scale = np.abs(np.array(matrix, float)) @ np.abs(src.reshape(columns, -1))
            assert np.abs(dst.reshape(rows, -1) - want).max() <= 8 * 2.0**-24 * scale.max(), (kind, n, r)


# ---- convolutions --------------------------------------------------------------------------------------------------

# x shape, weight shape, options
PROBLEMS = {
    "same": ((2, 32, 20, 21), (16, 32, 3, 3), {"padding": 1}),
    "tails": ((1, 21, 17, 31), (35, 21, 3, 3), {"padding": ((0, 2), (3, 1))}),
    "groups": ((2, 40, 11, 19), (50, 20, 3, 3), {"groups": 2, "padding": 1}),
    "small": ((3, 16, 7, 7), (16, 16, 3, 3), {"padding": 1}),
    "one row": ((1, 16, 3, 40), (16, 16, 3, 3), {"flip": True}),
    "reflect": ((1, 20, 13, 19), (18, 20, 3, 3), {"padding": ((1, 2), (2, 1)), "padding_mode": "reflect"}),
    "replicate": ((1, 20, 13, 19), (18, 20, 3, 3), {"padding": 3, "padding_mode": "replicate"}),
    "circular": ((1, 20, 13, 19), (18, 20, 3, 3), {"padding": (2, 1), "padding_mode": "circular", "flip": True}),
    "dilated": ((1, 20, 30, 33), (18, 20, 3, 3), {"padding": 2, "dilation": 2}),
    "wide dilation": ((1, 20, 25, 26), (18, 20, 3, 3), {"padding": (1, 9), "dilation": (1, 9)}),
    "tall dilation": ((2, 20, 25, 26), (18, 20, 3, 3), {"padding": (5, 1), "dilation": (5, 1)}),
    "5x5": ((1, 24, 18, 19), (20, 24, 5, 5), {"padding": 2}),
    "2x7": ((1, 24, 18, 19), (20, 24, 2, 7), {}),
    "1x3": ((1, 24, 18, 19), (20, 24, 1, 3), {"padding": (0, 1)}),
    "3x1": ((1, 24, 18, 19), (20, 24, 3, 1), {"padding": (1, 0)}),
    "line": ((2, 24, 333), (20, 24, 3), {"padding": 1}),
    "line of 5": ((1, 24, 200), (20, 24, 5), {"dilation": 3}),
    "line of 2": ((1, 24, 200), (20, 24, 2), {}),
    "volume": ((1, 16, 7, 10, 18), (20, 16, 3, 3, 3), {"padding": 1}),
    "dilated volume": ((2, 16, 9, 10, 11), (17, 16, 3, 3, 3), {"padding": 2, "dilation": (2, 1, 2), "flip": True}),
    "long sums": ((1, 300, 8, 8), (16, 300, 3, 3), {"padding": 1}),
}


def fill(spec, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.random(spec.x_shape) - 0.5, rng.random(spec.weight_shape) - 0.5
    return x.astype(spec.dtype), w.astype(spec.dtype)


def lay(a, spec):
    """Flat in memory order."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1) if spec.channels_last else a).reshape(-1)


def unlay(flat, spec):
    N, OC, *output = spec.out_shape
    return np.moveaxis(flat.reshape(N, *output, OC), -1, 1) if spec.channels_last else flat.reshape(spec.out_shape)


def exact(spec, x, w):
    return by_numpy(x.astype(float), w.astype(float), **{name: getattr(spec, name) for name in OPTIONS})


def convolve(spec, x, w, epilogue=None, *, params=None, threads=1, limit=LIMIT):
    assert winograd.refuses(spec) is None
    params = params or winograd.parameters(spec, threads, limit)
    assert not isinstance(params, str), params
    assert params.workspace <= limit
    return unlay(run(winograd, spec, params, lay(x, spec), w, epilogue or Epilogue.make(spec.dtype)), spec)


def error(got, want, spec, x, w):
    unit = np.finfo(spec.dtype).eps / 2 if spec.dtype == "float32" else 2.0**-45  # float64 has no better oracle
    return float(np.abs(got - want).max() / (unit * norm_scale(spec, x, w)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_against_numpy(name):
    x_shape, w_shape, options = PROBLEMS[name]
    for dtype in ("float32", "float64"):
        for last in (False, True):
            spec = ConvSpec.make(x_shape, w_shape, channels_last=last, dtype=dtype, **options)
            x, w = fill(spec)
            assert error(convolve(spec, x, w), exact(spec, x, w), spec, x, w) <= 4, (dtype, last)


@pytest.mark.parametrize("kernel_size", [2, 3, 5, 7])
def test_every_tile(kernel_size):
    """Each size of tiles along each axis, the fast ones as well."""
    spec = ConvSpec.make((1, 32, 23, 26), (17, 32, kernel_size, kernel_size), padding=kernel_size // 2)
    x, w = fill(spec)
    want = exact(spec, x, w)
    sizes = winograd_plan.sizes(kernel_size, True)
    assert set(winograd_plan.sizes(kernel_size, False)) <= set(sizes)
    for m in sizes:
        for only in {(1, m, sizes[0]), (1, sizes[-1], m), (1, m, m)}:
            params = winograd_plan.parameters(spec, 1, LIMIT, True, only)
            assert params.tile == only
            assert error(convolve(spec, x, w, params=params), want, spec, x, w) <= 8, only


def test_larger_tiles_have_larger_errors(report):
    """Why F(6x6, 3x3) is for those who ask for it. Errors against the sum of magnitudes of each output's own terms."""
    spec = ConvSpec.make((1, 64, 26, 26), (64, 64, 3, 3), padding=1)
    rng = np.random.default_rng(3)
    x, w = rng.random(spec.x_shape, np.float32), rng.random(spec.weight_shape, np.float32)
    want, worst = exact(spec, x, w), {}
    for m in (2, 4, 6):
        params = winograd_plan.parameters(spec, 1, LIMIT, True, (1, m, m))
        got = convolve(spec, x, w, params=params)
        worst[m] = float((abs(got - want) / want).max() * 2**24)
    report(
        "winograd, positive data, worst error / (u |w| * |x|): "
        + ", ".join(f"F({m}) {e:.1f}" for m, e in worst.items())
    )
    assert worst[2] < worst[4] < worst[6] < 64
    assert worst[4] < 32


def test_epilogue():
    rng = np.random.default_rng(1)
    for last in (False, True):
        spec = ConvSpec.make((2, 16, 9, 21), (19, 16, 3, 3), padding=1, channels_last=last)
        x, w = fill(spec)
        bias = rng.random(19, np.float32)
        residual = rng.random(spec.out_shape, np.float32)
        plain = exact(spec, x, w)
        for activation, apply_it in (
            (None, lambda v: v),
            ("relu", lambda v: np.maximum(v, 0)),
            ("relu6", lambda v: np.clip(v, 0, 6)),
            (("clip", -0.5, 0.25), lambda v: np.clip(v, -0.5, 0.25)),
            ("leaky_relu", lambda v: np.where(v < 0, 0.01 * v, v)),
            ("tanh", np.tanh),
        ):
            for with_bias, with_residual in ((0, 0), (1, 0), (0, 1), (1, 1)):
                epilogue = Epilogue.make(
                    spec.dtype, bias if with_bias else None, lay(residual, spec) if with_residual else None, activation
                )
                want = plain + with_bias * bias[:, None, None] + with_residual * residual
                got = convolve(spec, x, w, epilogue)
                assert np.abs(got - apply_it(want)).max() < 2e-5, (activation, with_bias, with_residual, last)


def test_threads_and_stages_do_not_change_a_bit():
    for name in ("same", "groups", "small", "dilated", "volume"):
        x_shape, w_shape, options = PROBLEMS[name]
        spec = ConvSpec.make(x_shape, w_shape, **options)
        x, w = fill(spec)
        first = convolve(spec, x, w)
        for threads in (2, 3, 4):
            assert np.array_equal(first, convolve(spec, x, w, threads=threads))
        tile = winograd.parameters(spec, 1, LIMIT).tile
        ways = winograd_plan._choose(spec, False, LIMIT // 4, tile)
        for way in ways:
            for staged in (False, True):
                params = winograd_plan._params(spec, way, 2, staged)
                assert params.staged == staged
                assert np.array_equal(first, convolve(spec, x, w, params=params)), (name, way.vectors, staged)


@pytest.mark.parametrize("name", ["tails", "groups", "wide dilation", "2x7", "line", "dilated volume", "long sums"])
@pytest.mark.parametrize("last", [False, True])
def test_weights_used_once_give_the_same_bits(name, last):
    """They are transformed for each block, in parts; a filter too large for a transform is found all the same."""
    x_shape, w_shape, options = PROBLEMS[name]
    spec = ConvSpec.make(x_shape, w_shape, channels_last=last, **options)
    x, w = fill(spec)
    for spoilt in (False, True):
        if spoilt:
            w[spec.OC - 1, 2] = 1e20
        params = winograd.parameters(spec, 1, LIMIT)
        first = convolve(spec, x, w, params=params)
        for vectors in (1, 4):
            axes = tuple(winograd_plan.Axis.of(spec, a, m) for a, m in enumerate(params.tile))
            way = winograd_plan.Way(spec, axes, params.blocks, min(vectors, -(-spec.OC // spec.groups // 16)), True)
            for threads, staged in ((1, False), (2, True)):
                once = winograd_plan._params(spec, way, threads, staged)
                assert winograd.prepare(spec, once, w).base is w
                assert np.array_equal(first, convolve(spec, x, w, params=once)), (vectors, staged, spoilt)


def test_weights_used_once_are_not_prepared():
    from fastconv.plan.dispatch import plan_spec

    spec = ConvSpec.make((1, 64, 14, 14), (256, 64, 3, 3), padding=1)
    prepared, once = (plan_spec(spec, algorithm="winograd", prepared=p, threads=1) for p in (True, False))
    assert once.params.once
    assert not prepared.params.once
    assert once.workspace < prepared.workspace


def test_a_block_writes_its_own_outputs_only():
    """What it writes beyond them would be right or wrong as threads happen to run."""
    for name, last in (("same", False), ("same", True), ("dilated", False), ("volume", False)):
        x_shape, w_shape, options = PROBLEMS[name]
        spec = ConvSpec.make(x_shape, w_shape, channels_last=last, **options)
        x, w = fill(spec)
        params = winograd_plan.parameters(spec, 1, LIMIT, False)
        want = lay(convolve(spec, x, w, params=params), spec)
        packed, epilogue = winograd.prepare(spec, params, w), Epilogue.make(spec.dtype)
        seen, scratch = np.empty(params.flags, spec.dtype), np.zeros(params.scratch, spec.dtype)
        out = np.full(want.size, np.nan, spec.dtype)
        stage = np.array([winograd_kernels.ALL])
        assert not params.staged
        assert params.tasks[0] > 1
        for block in reversed(range(params.tasks[0])):  # as other threads may run them
            counter = np.zeros(16, np.int64)
            counter[0] = block
            tail = epilogue.bias, epilogue.residual, epilogue.constants, out, scratch
            arrays = params.geometry, stage, params.tables, lay(x, spec), packed, seen, *tail
            _from_counter(counter, block + 1, *arrays)
        assert np.array_equal(out, want), (name, last)


def test_blocks_do_not_change_a_bit():
    """Nor does the way tiles are put together, so an image has the same bits alone and in a batch."""
    spec = ConvSpec.make((3, 16, 14, 14), (16, 16, 3, 3), padding=1)
    x, w = fill(spec)
    first = convolve(spec, x, w, params=winograd_plan.parameters(spec, 1, LIMIT, False, (1, 4, 4)))
    axes = tuple(winograd_plan.Axis.of(spec, a, m) for a, m in enumerate((1, 4, 4)))
    blocks = winograd_plan._blocks(spec, axes)
    assert len(blocks) > 6
    for block in blocks:
        way = winograd_plan.Way(spec, axes, block, 1)
        assert np.array_equal(first, convolve(spec, x, w, params=winograd_plan._params(spec, way, 1, False))), block


# ---- what a transform would spoil ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_cell_spoils_its_outputs_only(value, last):
    for dilation in (1, 2):
        spec = ConvSpec.make((2, 16, 26, 27), (17, 16, 3, 3), padding=dilation, dilation=dilation, channels_last=last)
        x, w = fill(spec)
        x[1, 5, 13, 14] = value
        got = convolve(spec, x, w, threads=2)
        bad = np.zeros(spec.out_shape, bool)
        bad[1, :, 13 - dilation : 14 + dilation : dilation, 14 - dilation : 15 + dilation : dilation] = True
        assert np.array_equal(~np.isfinite(got), bad)
        x[1, 5, 13, 14] = 0
        assert error(np.where(bad, 0, got), np.where(bad, 0, exact(spec, x, w)), spec, x, w) <= 4


def test_bad_filters():
    spec = ConvSpec.make((1, 16, 12, 13), (18, 16, 3, 3), padding=1)
    x, w = fill(spec)
    w[3, 2, 1, 0], w[17, 0, 2, 2] = np.inf, np.nan
    got = convolve(spec, x, w)
    assert np.isnan(got[0, 17]).all()
    assert not np.isfinite(got[0, 3]).any()
    assert np.isnan(got[0, 3, :, 0]).all()  # infinity times a zero of the padding
    assert np.isinf(got[0, 3, :, 1:]).all()
    others = [c for c in range(18) if c not in (3, 17)]
    assert np.isfinite(got[0, others]).all()


def test_a_spike_leaves_other_outputs_of_its_tile_accurate():
    spec = ConvSpec.make((1, 16, 30, 30), (16, 16, 3, 3))
    rng = np.random.default_rng(5)
    x, w = rng.random(spec.x_shape, np.float32), rng.random(spec.weight_shape, np.float32)
    for channels in (slice(0, 1), slice(None)):
        y = x.copy()
        y[0, channels, 13, 14] = 1e8
        assert np.abs(convolve(spec, y, w) / exact(spec, y, w) - 1).max() < 1e-5


def test_harmless_data_are_not_recomputed(monkeypatch):
    """Activations have zeros, dark rows and outliers; none of this may send tiles to the slow loops."""
    spec = ConvSpec.make((1, 32, 40, 40), (32, 32, 3, 3), padding=1)
    monkeypatch.setattr(winograd, "_repair", lambda *_: pytest.fail("a tile was suspected"))
    for x in harmless(spec):
        convolve(spec, x, fill(spec)[1])


# ---- planning ------------------------------------------------------------------------------------------------------


def test_refusals():
    for x, w, options in (
        ((1, 32, 20, 20), (8, 32, 3, 3), {"stride": 2}),
        ((1, 32, 20, 20), (8, 32, 1, 1), {}),
        ((1, 32, 20, 20), (8, 32, 8, 8), {}),
        ((1, 4, 20, 20), (8, 4, 3, 3), {}),
        ((1, 32, 20, 20), (32, 1, 3, 3), {"groups": 32}),
        ((1, 32, 20, 20), (8, 32, 3, 3), {"dtype": "int32"}),
    ):
        assert winograd.refuses(ConvSpec.make(x, w, **options)), (w, options)
    assert winograd.refuses(ConvSpec.make((1, 32, 20, 20), (8, 32, 5, 5))) is None
    assert winograd_fast.refuses(ConvSpec.make((1, 32, 20, 20), (8, 32, 5, 5)))
    assert winograd_fast.refuses(ConvSpec.make((1, 32, 20, 20), (8, 32, 3, 3))) is None


def test_limit_is_honoured():
    spec = ConvSpec.make((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    x, w = fill(spec)
    want = exact(spec, x, w)
    seen = set()
    for limit in (1 << 28, 2 << 20, 3 << 19, 5 << 18):
        params = winograd.parameters(spec, 2, limit)
        if isinstance(params, str):
            assert str(limit) in params
            continue
        seen.add(params.workspace)
        assert error(convolve(spec, x, w, params=params, limit=limit), want, spec, x, w) <= 4
    assert len(seen) >= 2
    assert isinstance(winograd.parameters(spec, 2, 10000), str)


def test_cost():
    spec = ConvSpec.make((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    params = winograd.parameters(spec, 1, LIMIT)
    cost = winograd.cost(spec, params)
    assert params.tile == (1, 4, 4)
    assert spec.flops / 4 < cost.flops < spec.flops / 3
    assert cost.transform > 0
    assert cost.tasks >= 1
    weights = winograd.prepare_cost(spec, params)
    assert weights.bytes > 4 * spec.weight_bytes
    assert 0 < weights.transform < cost.transform


# Features of another instruction set that this CPU can run too.
AVX2 = "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+bmi,+bmi2,+f16c,+movbe,+cx16,+lzcnt"
OTHER = {"haswell": AVX2, "x86-64": "+sse,+sse2,+cx16"}


@pytest.mark.slow
@pytest.mark.skipif(isa.name() not in ("AVX-512", "AVX2+FMA"), reason="needs an x86 CPU with AVX2")
@pytest.mark.parametrize("cpu", OTHER)
def test_other_instruction_sets(cpu, tmp_path):
    code = """
import sys
import numpy as np, test_winograd as t
from fastconv.cpu import isa
assert isa.name() == sys.argv[1], isa.name()
for name in ("same", "tails", "dilated", "volume", "line", "groups"):
    for last in (False, True):
        x_shape, w_shape, options = t.PROBLEMS[name]
        spec = t.ConvSpec.make(x_shape, w_shape, channels_last=last, **options)
        x, w = t.fill(spec)
        assert t.error(t.convolve(spec, x, w), t.exact(spec, x, w), spec, x, w) <= 4, (name, last)
"""
    env = dict(os.environ, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=OTHER[cpu], FASTCONV_CACHE_DIR=str(tmp_path))
    here = os.path.dirname(os.path.abspath(__file__))
    env["PYTHONPATH"] = os.pathsep.join([here, os.path.dirname(here), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, {"haswell": "AVX2+FMA", "x86-64": "baseline"}[cpu]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
