"""FFT convolution: the transforms against numpy.fft, the convolution against float64, what a transform would spoil."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fastconv.cpu import fft_transform, isa
from fastconv.cpu.cached import cached
from fastconv.cpu.fft_transform import columns, finish, rows_backward, rows_forward
from fastconv.kernels import fft
from fastconv.kernels.epilogue import Epilogue
from fastconv.kernels.fft_axes import SMOOTH, axis_plan, radices
from fastconv.kernels.tiles import TileGrid
from fastconv.spec import ConvSpec

LIMIT = 1 << 28
EPS = {"float32": 2.0**-24, "float64": 2.0**-53}
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def exact(x, w, *, stride, padding, dilation, groups, padding_mode="zeros", flip=False):
    """Convolution in float64 by sums over taps."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    spatial = tuple(range(2, w.ndim))
    if flip:
        w = np.flip(w, spatial)
    x = np.pad(x, ((0, 0), (0, 0), *padding), mode=MODES[padding_mode])
    sizes = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], w.shape[2:], dilation, stride, strict=True)
    ]
    C, OC = x.shape[1] // groups, w.shape[0] // groups
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    for g in range(groups):
        mine = x[:, g * C : (g + 1) * C]
        for tap in itertools.product(*(range(k) for k in w.shape[2:])):
            cut = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, dilation, sizes, stride, strict=True)
            )
            a = w[(slice(g * OC, (g + 1) * OC), slice(None), *tap)]
            out[:, g * OC : (g + 1) * OC] += np.einsum("oc,nc...->no...", a, mine[(slice(None), slice(None), *cut)])
    return out


def convolve(x, w, *, threads=1, limit=LIMIT, last=False, residual=None, bias=None, activation=None, way=None, **kw):
    """The algorithm by itself; x, w, result and residual in NC... order."""
    spec = ConvSpec.make(x.shape, w.shape, dtype=x.dtype.name, channels_last=last, **kw)
    assert fft.refuses(spec) is None
    params = fft.parameters(spec, threads, limit) if way is None else way(spec, threads)
    assert not isinstance(params, str), params
    assert params.workspace <= limit
    packed = fft.prepare(spec, params, np.ascontiguousarray(w))

    def lay(a):
        return np.ascontiguousarray(np.moveaxis(a, 1, -1) if last else a).reshape(-1)

    out = np.full(int(np.prod(spec.out_shape)), np.nan, x.dtype)
    epilogue = Epilogue.make(x.dtype.name, bias, None if residual is None else lay(residual), activation)
    fft.run(spec, params, lay(x), packed, out, epilogue)
    if not last:
        return out.reshape(spec.out_shape)
    return np.moveaxis(out.reshape(spec.out_shape[0], *spec.out_shape[2:], spec.out_shape[1]), -1, 1)


def error(got, want, x, w):
    """Largest error in units of the declared bound's u ||w|| ||x||; the norm of x is that of the whole input."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    scale = np.sqrt((w**2).reshape(w.shape[0], -1).sum(1).max() * (x**2).sum())
    return float(np.abs(got - want).max() / (EPS[got.dtype.name] * scale))


# ---- transforms --------------------------------------------------------------------------------------------------


@cached
def there_and_back(shape, constants, data, panels, q, spectrum, size, depth, height, out):
    columns(shape, constants, 0, data, 0, panels, 0)
    for k in range(q):
        rows_forward(shape, constants, 0, data, 0, k, spectrum, k * size)
    for i in range(data.size):
        data[i] = data.dtype.type(0)
    for k in range(q):
        rows_backward(shape, constants, 0, data, 0, k, spectrum, k * size, panels)
    finish(shape, constants, 0, data, 0, out, 0, panels, depth, height)


@cached
def forward(shape, constants, data, panels, q, spectrum, size):
    columns(shape, constants, 0, data, 0, panels, 0)
    for k in range(q):
        rows_forward(shape, constants, 0, data, 0, k, spectrum, k * size)


def tile_of(dtype, extent, line=False):
    """Tables for one tile, through the planner of a problem that has exactly this tile."""
    shape = (1, 1, extent[1] * extent[2]) if line else extent
    spec = ConvSpec.make((1, 1, *shape), (1, 1, 1, 1, 1), dtype=dtype)
    out = (1, 1, extent[1] * extent[2]) if line else extent
    grid = TileGrid(line, extent, out, (1, 1, 1))
    return fft._params(spec, fft._ways(spec, grid)[0], 1)


def lay_out(real, W, rows):
    """Real cells [TD, TH, TW] as column panels of complex vectors, as the kernels cut them."""
    TD, TH, TW = real.shape
    half, panels = TH // 2, -(-TW // W)
    data = np.zeros((panels, rows, 2, W), real.dtype)
    padded = np.zeros((TD, TH, panels * W), real.dtype)
    padded[:, :, :TW] = real
    both = padded.reshape(TD, 2, half, panels, W).transpose(3, 0, 2, 1, 4)
    data[:, : TD * half] = both.reshape(panels, TD * half, 2, W)
    return data.reshape(-1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transform_is_numpys(dtype):
    """Every row size with every column size of a set, and depth, against numpy.fft of the twisted tile."""
    W = isa.width(dtype)
    rng = np.random.default_rng(1)
    sizes = [n for n in SMOOTH if n <= 64] + [72, 80, 96, 100, 120, 128, 144, 160, 192, 225, 243, 250, 256]
    extents = [(1, 2 * n, sizes[-1 - i % 30]) for i, n in enumerate(sizes)] + [(1, 8, n) for n in sizes]
    extents += [(n, 6, 20) for n in (2, 3, 4, 5, 8, 9, 15, 16)]
    for extent in extents:
        TD, TH, TW = extent
        p = tile_of(dtype, extent)
        Q, rows, half = -(-TD * TH // 2 // W), -(-TD * TH // 2 // W) * W, TH // 2
        panels = -(-TW // W)
        real = rng.standard_normal(extent).astype(dtype)
        spectrum = np.zeros(Q * panels * W * 2 * W, dtype)
        forward(p.shape, p.constants, lay_out(real, W, rows), panels, Q, spectrum, panels * W * 2 * W)
        got = spectrum.reshape(Q, panels * W, 2, W)[:, :TW]
        got = (got[:, :, 0] + 1j * got[:, :, 1]).transpose(0, 2, 1).reshape(rows, TW)[: TD * half]
        # The ring of y^half - i is that of y'^half - 1 after the twist y = omega y'.
        z = real[:, :half].astype(np.float64) + 1j * real[:, half:]
        z = np.fft.fftn(z * np.exp(0.5j * np.pi / half * np.arange(half))[None, :, None])
        plans = axis_plan(TD, 0), axis_plan(half, 1), axis_plan(TW, 0)
        order = [[-(a // 4) % plan.n for a, _ in plan.roots] for plan in plans]
        want = z[np.ix_(*order)].reshape(TD * half, TW)
        assert np.abs(got - want).max() <= 4 * EPS[dtype] * np.log2(z.size + 1) * np.abs(want).max(), extent


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("line", [False, True])
def test_there_and_back(dtype, line):
    W = isa.width(dtype)
    rng = np.random.default_rng(2)
    for extent in [(1, 16, 64), (1, 30, 48), (1, 128, 128)] + ([] if line else [(3, 10, 9), (4, 18, 25)]):
        TD, TH, TW = extent
        p = tile_of(dtype, extent, line)
        Q, panels = -(-TD * TH // 2 // W), -(-TW // W)
        real = rng.standard_normal(extent).astype(dtype)
        out = np.zeros((TD, TH, panels * W), dtype)
        spectrum = np.zeros(Q * panels * W * 2 * W, dtype)
        data = lay_out(real, W, Q * W)
        there_and_back(
            p.shape, p.constants, data, panels, Q, spectrum, panels * W * 2 * W, TD, TH, out.reshape(-1)
        )  # fmt: skip
        got = out[:, :, :TW] / (real.size // 2)
        assert np.abs(got - real).max() <= 8 * EPS[dtype] * np.log2(real.size) * np.abs(real).max(), extent


def test_radices():
    for n in SMOOTH:
        assert np.prod(radices(n), initial=1) == n
    with pytest.raises(ValueError, match="7 has a prime factor"):
        radices(7)


# ---- convolution -------------------------------------------------------------------------------------------------

CASES = {
    "image": ((1, 1, 70, 83), (1, 1, 11, 9), {"padding": (5, 4)}),
    "no padding": ((1, 1, 70, 83), (1, 1, 11, 9), {}),
    "asymmetric": ((1, 1, 40, 33), (1, 1, 7, 6), {"padding": ((0, 3), (5, 1))}),
    "many tiles": ((2, 1, 300, 310), (1, 1, 13, 17), {"padding": (6, 8)}),
    "even kernel": ((1, 2, 40, 41), (3, 2, 8, 6), {"padding": (4, 3)}),
    "one pixel out": ((1, 3, 9, 12), (2, 3, 9, 12), {}),
    "kernel 1x1": ((1, 3, 9, 12), (5, 3, 1, 1), {}),
    "padding beyond kernel": ((1, 1, 9, 12), (1, 1, 3, 3), {"padding": 12}),
    "narrow": ((1, 2, 200, 3), (2, 2, 21, 3), {"padding": (10, 1)}),
    "flat": ((1, 1, 3, 500), (1, 1, 3, 31), {"padding": (1, 15)}),
    "column": ((1, 1, 600, 1), (1, 1, 31, 1), {"padding": (15, 0)}),
    "channels": ((2, 5, 37, 50), (7, 5, 9, 9), {"padding": 4}),
    "17 to 19": ((1, 17, 20, 22), (19, 17, 5, 5), {"padding": 2}),
    "one out": ((1, 6, 60, 60), (1, 6, 15, 15), {"padding": 7}),
    "one in": ((1, 1, 60, 60), (6, 1, 15, 15), {"padding": 7}),
    "depthwise": ((2, 18, 30, 34), (18, 1, 13, 13), {"padding": 6, "groups": 18}),
    "multiplier": ((1, 3, 30, 34), (15, 1, 9, 9), {"padding": 4, "groups": 3}),
    "groups": ((2, 6, 30, 34), (9, 2, 9, 9), {"padding": 4, "groups": 3}),
    "dilation": ((1, 2, 60, 64), (2, 2, 5, 7), {"padding": (6, 9), "dilation": (3, 4)}),
    "stride": ((1, 2, 61, 64), (3, 2, 9, 9), {"padding": 4, "stride": (2, 3)}),
    "flip": ((1, 2, 33, 34), (3, 2, 9, 6), {"padding": (4, 3), "flip": True}),
    "flip dilated": ((1, 1, 50, 50), (1, 1, 5, 6), {"dilation": 3, "flip": True}),
    "signal": ((1, 1, 5000), (1, 1, 101), {"padding": 50}),
    "signal stride": ((2, 3, 999), (2, 3, 63), {"padding": ((31, 2),), "stride": 5, "dilation": 2}),
    "signal bank": ((1, 1, 3000), (5, 1, 80), {"flip": True}),
    "short signal": ((1, 4, 20), (4, 4, 20), {"padding": 19}),
    "volume": ((1, 2, 12, 20, 25), (3, 2, 5, 7, 5), {"padding": (2, 3, 2)}),
    "volume flat": ((1, 1, 9, 30, 31), (1, 1, 1, 9, 9), {"padding": (0, 4, 4)}),
    "volume groups": ((2, 4, 9, 14, 15), (4, 1, 3, 5, 5), {"groups": 4, "stride": (1, 2, 1), "dilation": (2, 1, 2)}),
}  # fmt: skip


def tuples(kw, ndim):
    """The oracle's arguments: everything one tuple per axis."""
    result = {"groups": 1, "padding_mode": "zeros", "flip": False}
    result |= {name: kw[name] for name in result if name in kw}
    for name, default in (("stride", 1), ("dilation", 1), ("padding", 0)):
        value = kw.get(name, default)
        value = (value,) * ndim if isinstance(value, int) else tuple(value)
        if name == "padding":
            value = tuple((v, v) if isinstance(v, int) else v for v in value)
        result[name] = value
    return result


def data(name, dtype, seed=0):
    xs, ws, kw = CASES[name]
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, xs).astype(dtype), rng.uniform(-1, 1, ws).astype(dtype), kw


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_convolution(name, dtype, last):
    x, w, kw = data(name, dtype)
    want = exact(x, w, **tuples(kw, x.ndim - 2))
    got = convolve(x, w, last=last, **kw)
    assert got.shape == want.shape
    assert error(got, want, x, w) <= fft.ERROR_BOUND


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(
    ("xs", "ws", "padding"),
    [
        ((1, 1, 70, 83), (1, 1, 31, 31), 15), ((2, 3, 40, 41), (4, 3, 7, 9), ((3, 0), (1, 8))),
        ((1, 1, 1000), (1, 1, 64), ((63, 20),)), ((1, 2, 9, 20, 12), (2, 2, 3, 5, 5), (1, 4, 2)),
    ],
)  # fmt: skip
def test_padding_modes(mode, last, xs, ws, padding):
    rng = np.random.default_rng(3)
    x, w = rng.uniform(-1, 1, xs).astype("float32"), rng.uniform(-1, 1, ws).astype("float32")
    kw = {"padding": padding, "padding_mode": mode}
    want = exact(x, w, **tuples(kw, x.ndim - 2))
    assert error(convolve(x, w, last=last, **kw), want, x, w) <= fft.ERROR_BOUND


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", ["image", "channels", "multiplier", "signal"])
def test_epilogue(name, last):
    x, w, kw = data(name, "float32")
    want = exact(x, w, **tuples(kw, x.ndim - 2))
    rng = np.random.default_rng(4)
    bias = rng.uniform(-1, 1, w.shape[0]).astype("float32")
    residual = rng.uniform(-1, 1, want.shape).astype("float32")
    got = convolve(x, w, last=last, bias=bias, residual=residual, activation=("leaky_relu", 0.1), **kw)
    want = want + bias.reshape(-1, *[1] * (x.ndim - 2)) + residual
    want = np.where(want < 0, 0.1 * want, want)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def every_way(spec, threads):
    spec = fft._axes_last(spec)
    return [
        fft._params(spec, way, threads)
        for grid in fft._candidates(spec)[::3]
        for way in fft._ways(spec, grid)
        if way.workspace(threads) * spec.itemsize <= LIMIT
    ]


@pytest.mark.parametrize("name", ["image", "channels", "groups", "signal", "signal stride", "volume", "multiplier"])
def test_every_way(name):
    """Tiles, chunks and stages that the cost model would not choose here are right too."""
    x, w, kw = data(name, "float32")
    want = exact(x, w, **tuples(kw, x.ndim - 2))
    spec = ConvSpec.make(x.shape, w.shape, **kw)
    ways = every_way(spec, 1)
    assert len(ways) >= 3
    for params in ways:
        got = convolve(x, w, way=lambda spec, threads, params=params: params, **kw)
        assert error(got, want, x, w) <= fft.ERROR_BOUND, params.grid


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", ["many tiles", "channels", "depthwise", "one in", "signal", "volume"])
def test_threads_change_nothing(name, last):
    x, w, kw = data(name, "float32")
    spec = ConvSpec.make(x.shape, w.shape, channels_last=last, **kw)
    for params in every_way(spec, 2)[:8]:
        two = convolve(x, w, last=last, threads=2, way=lambda *_, params=params: params, **kw)
        one = convolve(x, w, last=last, way=lambda *_, params=params: replace(params, threads=1), **kw)
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["many tiles", "one in", "channels", "signal", "17 to 19"])
def test_the_grid_does_not_know_of_threads(name):
    xs, ws, kw = CASES[name]
    spec = ConvSpec.make(xs, ws, **kw)
    grids = {fft.parameters(spec, threads, limit).grid for threads in (1, 2, 3, 8) for limit in (LIMIT, LIMIT // 2)}
    assert len(grids) == 1


# ---- what a transform would spoil --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", ["many tiles", "channels", "groups", "depthwise", "multiplier", "signal", "stride"])
def test_non_finite_input(name, last, bad):
    x, w, kw = data(name, "float32")
    clean = exact(x, w, **tuples(kw, x.ndim - 2))
    place = (x.shape[0] - 1, 1 % x.shape[1], *(n // 2 for n in x.shape[2:]))
    x[place] = bad
    with np.errstate(invalid="ignore"):
        want = exact(x, w, **tuples(kw, x.ndim - 2))
    got = convolve(x, w, last=last, **kw)
    assert np.isnan(want).any() or np.isinf(want).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])
    ok = np.isfinite(want)
    assert np.abs(got[ok] - clean[ok]).max() <= 1e-5 * np.abs(clean).max()


@pytest.mark.parametrize("name", ["many tiles", "channels", "multiplier", "signal"])
def test_non_finite_weight(name):
    x, w, kw = data(name, "float32")
    clean = exact(x, w, **tuples(kw, x.ndim - 2))
    w[(w.shape[0] - 1, 0, *(n // 2 for n in w.shape[2:]))] = np.nan
    got = convolve(x, w, **kw)
    assert np.isnan(got[:, -1]).any()
    if w.shape[0] > 1:
        assert np.abs(got[:, :-1] - clean[:, :-1]).max() <= 1e-5 * np.abs(clean).max()


@pytest.mark.parametrize("spikes", [1, 2, 3])
@pytest.mark.parametrize("name", ["many tiles", "channels", "signal"])
def test_spikes_stay_where_they_are(name, spikes):
    x, w, kw = data(name, "float32")
    clean = exact(x, w, **tuples(kw, x.ndim - 2))
    for i in range(spikes):
        x[(0, 0, *((n // 2 + 3 * i) for n in x.shape[2:]))] = 1e6
    want = exact(x, w, **tuples(kw, x.ndim - 2))
    far = want == clean  # outputs that see no spike
    assert far.any()
    assert np.abs(convolve(x, w, **kw)[far] - want[far]).max() <= 1e-4 * np.abs(clean).max()


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-42])
def test_extreme_scales(scale):
    """Close to overflow the direct sum takes over; denormals are ordinary numbers."""
    x, w, kw = data("image", "float32")
    x = (x * np.float32(scale)).astype("float32")
    w = (w * np.float32(1e6 if scale > 1 else 1)).astype("float32")
    want = exact(x, w, **tuples(kw, 2))
    got = convolve(x, w, **kw)
    assert np.isfinite(got).all()
    tiny = float(np.finfo("float32").smallest_subnormal)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max() + 500 * tiny


def test_zero_and_constant_input():
    x, w, kw = data("many tiles", "float32")
    assert not convolve(np.zeros_like(x), w, **kw).any()
    ones = np.ones_like(x)
    assert error(convolve(ones, w, **kw), exact(ones, w, **tuples(kw, 2)), ones, w) <= fft.ERROR_BOUND


# ---- contract ----------------------------------------------------------------------------------------------------


def test_refuses_integers():
    spec = ConvSpec.make((1, 1, 20, 20), (1, 1, 5, 5), dtype="int32")
    assert "exact" in fft.refuses(spec)


def test_refuses_endless_kernels():
    assert "covers more than" in fft.refuses(ConvSpec.make((1, 1, 5000, 4), (1, 1, 4000, 2)))
    assert fft.refuses(ConvSpec.make((1, 1, 100000), (1, 1, 20000))) is None


def test_limit_is_honoured():
    spec = ConvSpec.make((1, 32, 64, 64), (32, 32, 15, 15), padding=7)
    seen = set()
    for limit in (1 << 28, 1 << 25, 1 << 24, 1 << 23):
        params = fft.parameters(spec, 2, limit)
        if isinstance(params, str):
            assert str(limit) in params
            continue
        assert params.workspace <= limit
        seen.add(params.workspace)
    assert len(seen) >= 2
    assert isinstance(fft.parameters(spec, 2, 10000), str)


def test_cost():
    spec = ConvSpec.make((1, 8, 128, 128), (8, 8, 31, 31), padding=15)
    cost = fft.cost(spec, fft.parameters(spec, 1, LIMIT))
    assert 0 < cost.flops < spec.flops / 20
    assert cost.transform > 0
    assert cost.bytes > 0
    assert cost.tasks >= 1
    weights = fft.prepare_cost(spec, fft.parameters(spec, 1, LIMIT))
    assert weights.flops == 0
    assert weights.transform > 0
    assert weights.bytes > spec.weight_bytes


def test_long_kernel():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((1, 1, 30000)), rng.standard_normal((1, 1, 9000))
    got = convolve(x, w, padding=4500)
    want = np.convolve(np.pad(x[0, 0], 4500), w[0, 0, ::-1], "valid")
    assert np.abs(got[0, 0] - want).max() <= 1e-12 * np.abs(want).max()


# Features of other instruction sets that this CPU can run too.
AVX2 = "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+bmi,+bmi2,+f16c,+movbe,+cx16,+lzcnt"
OTHER = {"haswell": AVX2, "x86-64": "+sse,+sse2,+cx16"}


@pytest.mark.skipif(isa.name() not in ("AVX-512", "AVX2+FMA"), reason="needs an x86 CPU with AVX2")
@pytest.mark.slow  # compiles everything once more
@pytest.mark.parametrize("cpu", OTHER)
def test_other_instruction_sets(cpu, tmp_path):
    code = """
import sys
import numpy as np, test_fft as t
from fastconv.cpu import isa
assert isa.name() == sys.argv[1], isa.name()
for dtype in ("float32", "float64"):
    for name in ("image", "channels", "multiplier", "signal", "volume"):
        for last in (False, True) if dtype == "float32" else (False,):
            x, w, kw = t.data(name, dtype)
            want = t.exact(x, w, **t.tuples(kw, x.ndim - 2))
            assert t.error(t.convolve(x, w, last=last, **kw), want, x, w) <= t.fft.ERROR_BOUND, (name, dtype)
x, w, kw = t.data("image", "float32")
x[0, 0, 30, 30] = np.nan
assert np.isnan(t.convolve(x, w, **kw)).sum() == 99
"""
    env = dict(os.environ, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=OTHER[cpu], FASTCONV_CACHE_DIR=str(tmp_path))
    here = os.path.dirname(os.path.abspath(__file__))
    env["PYTHONPATH"] = os.pathsep.join([here, os.path.dirname(here), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, {"haswell": "AVX2+FMA", "x86-64": "baseline"}[cpu]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_description_matches_the_kernels():
    """The fields that planner and generated code share."""
    p = tile_of("float32", (1, 16, 32))
    assert p.shape[fft_transform.HALF] == 8
    assert p.shape[fft_transform.TW] == 32
    assert p.shape[fft_transform.AXIS_D] == fft_transform.FIELDS
