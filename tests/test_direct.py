"""The forms of direct convolution, each asked for whether it would be chosen or not."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from cases import integers, run

from fastconv.cpu import isa
from fastconv.kernels import direct, direct_plan, direct_taps, reference
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

LIMIT = 256 << 20


def problem(rng: np.random.Generator, padded: bool) -> ConvSpec:
    ndim = int(rng.integers(1, 4))
    groups = int(rng.choice([1, 1, 2]))
    C, OC = int(rng.integers(1, 40)), int(rng.integers(1, 80))
    kernel, stride = rng.integers(1, 5, ndim), rng.integers(1, 3, ndim)
    dilation = rng.integers(1, 7, ndim)
    padding = rng.integers(0, 9, (ndim, 2)) * padded
    extent = (kernel - 1) * dilation + 1
    size = np.maximum(rng.integers(1, 20 if ndim < 3 else 7, ndim), extent - padding.sum(1))
    return ConvSpec.make(
        (int(rng.integers(1, 6)), C * groups, *map(int, size)),
        (OC * groups, C, *map(int, kernel)),
        stride=tuple(map(int, stride)),
        padding=tuple((int(lo), int(hi)) for lo, hi in padding),
        dilation=tuple(map(int, dilation)),
        groups=groups,
        flip=bool(rng.random() < 0.3),
        dtype="float64" if rng.random() < 0.2 else "float32",
        channels_last=bool(rng.random() < 0.4),
    )


def check(spec: ConvSpec, params, rng: np.random.Generator) -> None:
    x = integers(rng, prod(spec.x_shape), spec.dtype)
    weight = integers(rng, prod(spec.weight_shape), spec.dtype).reshape(spec.weight_shape)
    epilogue = Epilogue.make(
        spec.dtype, integers(rng, spec.OC, spec.dtype), integers(rng, prod(spec.out_shape), spec.dtype), "relu"
    )
    equals_reference(spec, params, x, weight, epilogue)


def equals_reference(spec: ConvSpec, params, x: np.ndarray, weight: np.ndarray, epilogue: Epilogue) -> None:
    expected = run(reference, spec, reference.parameters(spec, 1, LIMIT), x, weight, epilogue)
    got = run(direct, spec, params, x, weight, epilogue)
    assert np.array_equal(got, expected), (spec, params.form, epilogue)


@pytest.mark.parametrize("form", ["pixels", "channels"])
def test_form(form, monkeypatch):
    evaluate = direct_plan._evaluate

    def unwanted(spec, cut, channels_form, *rest):
        tile = evaluate(spec, cut, channels_form, *rest)
        return tile if channels_form == (form == "channels") else replace(tile, cycles=1e30)

    monkeypatch.setattr(direct_plan, "_evaluate", unwanted)
    rng = np.random.default_rng(1)
    for i in range(150):
        spec = problem(rng, padded=i % 2 == 0)
        params = direct_plan.parameters(spec, 1 + i % 2, LIMIT if i % 3 else 1 << 20)
        assert params.form == form
        check(spec, params, rng)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_finished_sums_go_straight_to_rows(activation):
    """Vectors that cross row ends, whole and cut tiles, one chain and several, with and without bias and residual."""
    rng, W = np.random.default_rng(4), isa.width("float32")
    for C, OC, kernel, size, stride in (
        (3, 17, 3, (20, 6 * W + 7), 1), (3, 9, 3, (33, 12 * W + 11), 2), (1, 5, 5, (19, 7 * W), 1),
        (30, 11, 3, (9, 3 * W - 2), 1), (2, 3, 2, (90, 6 * W + 1), 1),
    ):  # fmt: skip
        spec = ConvSpec.make((2, C, *size), (OC, C, kernel, kernel), padding=kernel // 2, stride=stride)
        params = direct_plan.parameters(spec, 1, LIMIT, forms=(False,))
        assert params.geometry[direct_plan.TILE_FIELDS + 16] == -1, "the plan has another way"
        x, weight = integers(rng, prod(spec.x_shape), "float32"), integers(rng, prod(spec.weight_shape), "float32")
        for with_bias, with_residual in np.ndindex(2, 2):
            bias = integers(rng, OC, "float32") if with_bias else None
            residual = integers(rng, prod(spec.out_shape), "float32") if with_residual else None
            epilogue = Epilogue.make("float32", bias, residual, activation)
            expected, got = (
                run(algorithm, spec, chosen, x, weight.reshape(spec.weight_shape), epilogue)
                for algorithm, chosen in ((reference, reference.parameters(spec, 1, LIMIT)), (direct, params))
            )
            assert np.array_equal(got, expected), (spec, epilogue)


def test_taps():
    rng = np.random.default_rng(2)
    took = 0
    for i in range(250):
        spec = problem(rng, padded=True)
        params = direct_taps.parameters(spec, 1 + i % 2, LIMIT)
        if params is not None:
            took += 1
            check(spec, params, rng)
    assert took > 150


def test_taps_are_chosen_where_padding_is_wide():
    """A kernel dilated by 18 on 33x33 reads mostly padding; one dilated by 2 does not."""
    for dilation, form in ((18, "taps"), (2, "channels")):
        spec = ConvSpec.make((1, 256, 33, 33), (256, 256, 3, 3), padding=dilation, dilation=dilation)
        assert direct.parameters(spec, 1, LIMIT).form == form


def test_taps_refuse():
    shapes = (1, 8, 12, 12), (8, 8, 3, 3)
    assert direct_taps.parameters(ConvSpec.make(*shapes), 1, LIMIT) is None
    assert direct_taps.parameters(ConvSpec.make(*shapes, padding=8, padding_mode="circular"), 1, LIMIT) is None
    wide = ConvSpec.make(*shapes, padding=8)
    assert direct_taps.parameters(wide, 1, LIMIT).form == "taps"
    assert direct_taps.parameters(wide, 1, 1024) is None
    # Nothing but padding: no tap serves any pixel.
    assert direct_taps.parameters(ConvSpec.make((1, 1, 1), (1, 1, 1), padding=((1, 0),), stride=2), 1, LIMIT) is None


@pytest.mark.parametrize("channels_last", [False, True])
def test_small_images_share_a_task(channels_last, monkeypatch):
    tiles = direct_plan._tiles
    monkeypatch.setattr(direct_plan, "_tiles", lambda spec: (t for t in tiles(spec) if t.images > 1))
    rng = np.random.default_rng(3)
    for shape, kernel, padding, stride in (
        ((7, 64, 7, 7), 3, 1, 1),
        ((5, 96, 6, 7), 1, 0, 1),
        ((3, 9, 15, 15), 5, 2, 2),
    ):
        spec = ConvSpec.make(
            shape, (48, shape[1], kernel, kernel), padding=padding, stride=stride, channels_last=channels_last
        )
        params = direct_plan.parameters(spec, 1, LIMIT)
        assert params.tasks < shape[0]
        check(spec, params, rng)


def test_a_batch_of_small_images_shares_its_weights():
    """9 MB of weights are not read once for each of eight 7x7 images."""
    spec = ConvSpec.make((8, 512, 7, 7), (512, 512, 3, 3), padding=1)
    assert direct_plan.parameters(spec, 1, LIMIT).tasks < 8


def test_sums_do_not_depend_on_the_tile(monkeypatch):
    """Bit for bit the same for any number of threads, images, and channels that fit the cache."""
    rng = np.random.default_rng(5)
    several = 0
    for C, kernel, image in [
        (300, (1, 1), (19, 7)),
        (130, (3, 3), (9, 11)),
        (40, (2, 5), (13, 14)),
        (9, (13, 13), (17, 15)),
    ]:
        for channels_last in (False, True):
            x, weight = rng.random((2, C, *image), np.float32), rng.random((33, C, *kernel), np.float32)
            results = []
            for threads, images, L2 in ((1, 2, 2 << 20), (2, 2, 2 << 20), (2, 1, 2 << 20), (1, 2, 1 << 14)):
                monkeypatch.setattr(direct_plan, "cache_sizes", lambda L2=L2: (32 << 10, L2, 32 << 20))
                spec = ConvSpec.make(
                    (images, C, *image),
                    weight.shape,
                    padding=tuple(k // 2 for k in kernel),
                    channels_last=channels_last,
                )
                params = direct_plan.parameters(spec, threads, LIMIT)

                several += params.geometry[direct_plan.TILE_FIELDS + 11] < C
                # Random numbers in memory order: what an image holds does not matter, only that both runs agree.
                got = run(direct, spec, params, x[:images].reshape(-1), weight, Epilogue.make(spec.dtype))
                results.append(got[: got.size // images])
            assert all(np.array_equal(results[0], other) for other in results), (C, kernel, channels_last)
    assert several, "no tile was cut between channels"


def test_weights_used_once_are_not_packed():
    """The pixel form reads them as they lie and gives the same bits."""
    for x_shape, w_shape, options in (
        ((1, 100, 9, 9), (100, 100, 1, 1), {}),
        ((1, 200, 16, 16), (200, 200, 2, 2), {"stride": 2}),
    ):
        spec = ConvSpec.make(x_shape, w_shape, **options)
        packed = direct.parameters(spec, 1, LIMIT)
        once = direct.once(spec, packed, 1, LIMIT)
        assert (packed.form, once.form) == ("channels", "pixels")
        rng = np.random.default_rng(6)
        x, w = rng.random(prod(x_shape), np.float32), rng.random(w_shape, np.float32)
        assert np.shares_memory(direct.prepare(spec, once, w), w)
        first, second = (run(direct, spec, params, x, w, Epilogue.make("float32")) for params in (packed, once))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("activation", [None, "relu", "clip"])
def test_few_pixels_left_over(dtype, activation):
    """1x1 layers: pixels behind the last whole vector are dot products, finished like the others."""
    rng, W = np.random.default_rng(7), isa.width(dtype)
    for vectors, few, C, OC, groups in (
        (1, 1, 256, 37, 1), (3, 1, 400, 8, 1), (2, 2, 320, 5, 2), (12, 2, 288, 131, 1), (4, 1, 272, 1, 3),
    ):  # fmt: skip
        spec = ConvSpec.make((2, C * groups, vectors * W + few), (OC * groups, C, 1), groups=groups, dtype=dtype)
        assert direct_plan.few_pixels(spec) == few
        clip = ("clip", -9, 30) if activation == "clip" else activation
        x, weight = integers(rng, prod(spec.x_shape), dtype), integers(rng, prod(spec.weight_shape), dtype)
        for with_bias, with_residual in np.ndindex(2, 2):
            bias = integers(rng, spec.OC, dtype) if with_bias else None
            residual = integers(rng, prod(spec.out_shape), dtype) if with_residual else None
            epilogue = Epilogue.make(dtype, bias, residual, clip)
            params = direct_plan.parameters(spec, 2, LIMIT, forms=(False,))
            equals_reference(spec, params, x, weight.reshape(spec.weight_shape), epilogue)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("stride", [1, 2])
def test_panels_are_copied(dtype, stride):
    """1x1 layers of many channels, or whose rows meet in L1: also with pixels left over, strides and several chains."""
    rng, W = np.random.default_rng(9), isa.width(dtype)
    size = np.dtype(dtype).itemsize
    for P, C, OC in (
        (direct_plan.PANEL_APART // size + 5, 130, direct_plan.PANEL_ROWS + 9),
        (direct_plan.PANEL_APART // size + W + 1, 256, direct_plan.PANEL_ROWS),  # W divides the first term
        (direct_plan.CONFLICT // size, 97, 21),
    ):
        spec = ConvSpec.make((2, C, P * stride), (OC, C, 1), stride=stride, dtype=dtype)
        line = direct_plan.as_line(spec)
        tile = direct_plan.choose(line, 1, LIMIT, forms=(False,))
        assert tile.panel >= min(C, 128) * tile.chunk, spec
        assert (tile.few > 0) == (P % W == 1 and stride == 1)
        x, weight = integers(rng, prod(spec.x_shape), dtype), integers(rng, prod(spec.weight_shape), dtype)
        bias, residual = integers(rng, OC, dtype), integers(rng, prod(spec.out_shape), dtype)
        for activation in (None, "relu", ("clip", -9, 30)):
            epilogue = Epilogue.make(dtype, bias, residual, activation)
            params = direct_plan.parameters(spec, 2, LIMIT, forms=(False,))
            equals_reference(spec, params, x, weight.reshape(spec.weight_shape), epilogue)


def test_few_pixels_are_the_same_in_every_cut():
    """Bit for bit, whoever computes them: one thread or two, one image or several, prepared weights each their way."""
    rng, W = np.random.default_rng(8), isa.width("float32")
    forms = set()
    for P, C, OC in ((3 * W + 1, 832, 160), (12 * W + 2, 512, 24), (97 * W + 1, 256, 16), (12 * W + 2, 1024, 256)):
        x, weight = rng.random((3, C, P), np.float32), rng.random((OC, C, 1), np.float32)
        for prepared in (False, True):
            results = []
            for images, threads in ((1, 1), (1, 2), (3, 1), (3, 2)):
                spec = ConvSpec.make((images, C, P), weight.shape)
                params = direct.parameters(spec, threads, LIMIT)
                params = params if prepared else direct.once(spec, params, threads, LIMIT)
                forms.add(params.form)
                got = run(direct, spec, params, x[:images].reshape(-1), weight, Epilogue.make("float32"))
                results.append(got[: OC * P])
            assert all(np.array_equal(results[0], other) for other in results), (P, C, OC, prepared)
    assert "pixels" in forms


def test_few_pixels_refuse():
    """Nothing but long sums of 1x1 layers, and not too many pixels."""
    W = isa.width("float32")
    assert direct_plan.few_pixels(ConvSpec.make((1, 256, W + 1), (8, 256, 1)))
    for x_shape, w_shape, options in (
        ((1, 256, 1), (8, 256, 1), {}),
        ((1, 256, 2 * W - 1), (8, 256, 1), {}),
        ((1, 64, W + 1), (8, 64, 1), {}),
        ((1, 257, W + 1), (8, 257, 1), {}),
        ((1, 256, W + 1), (8, 256, 1), {"padding": 1}),
        ((1, 256, 2 * W + 1), (8, 256, 1), {"stride": 2}),
        ((1, 256, W + 2), (8, 256, 2), {}),
        ((1, 256, W + 1), (8, 256, 1), {"channels_last": True}),
    ):
        assert not direct_plan.few_pixels(ConvSpec.make(x_shape, w_shape, **options)), (x_shape, w_shape, options)
