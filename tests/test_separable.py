"""Kernels that are products of smaller ones."""

from __future__ import annotations

import numpy as np
import pytest
from layer_checks import assert_gradient

import fastconv


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_rank_of_famous_kernels():
    gaussian = np.exp(-(np.linspace(-2, 2, 15) ** 2))
    assert fastconv.kernel_rank(np.outer(gaussian, gaussian)) == 1
    assert fastconv.kernel_rank(np.ones((9, 9), np.float32)) == 1
    assert fastconv.kernel_rank(np.outer([1.0, 2, 1], [-1.0, 0, 1])) == 1
    assert fastconv.kernel_rank(np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])) == 2
    assert fastconv.kernel_rank(random(5, 5)) == 5
    assert fastconv.kernel_rank(np.zeros((3, 3))) == 1


@pytest.mark.parametrize("options", [
    {}, {"padding": "same", "padding_mode": "reflect"}, {"stride": (2, 1), "padding": ((1, 2), (0, 3))},
    {"dilation": (1, 2), "padding": 2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_split_banks_convolve_alike(options, layout):
    x, bias = random(2, 3, 12, 13), random(4)
    x = x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, 1, -1))
    options = {**options, "layout": layout}
    for bank in (random(4, 3, 3, 5), np.einsum("oc,u,v->ocuv", random(4, 3), random(3), random(5))):
        columns, rows = fastconv.separate(bank)
        assert len(columns) == fastconv.kernel_rank(bank)
        expected = fastconv.conv2d(x, bank, bias, activation="relu", **options)
        y = fastconv.separable_conv2d(x, columns, rows, bias, activation="relu", **options)
        np.testing.assert_allclose(y, expected, atol=1e-11)
    flat = np.einsum("oc,ou,ov->ocuv", random(4, 3), random(4, 3, seed=1), random(4, 5, seed=2))
    parts = fastconv.flatten_kernel(flat)
    y = fastconv.flattened_conv2d(x, *parts, bias, activation="relu", **options)
    np.testing.assert_allclose(y, fastconv.conv2d(x, flat, bias, activation="relu", **options), atol=1e-11)


def test_low_rank_is_the_best_approximation():
    bank = random(4, 3, 3, 3)
    errors = []
    for rank in range(1, 10):
        columns, rows = fastconv.separate(bank, rank)
        product = np.einsum("rcu,orv->ocuv", columns[..., 0], rows[:, :, 0])
        errors.append(np.linalg.norm(product - bank))
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 1e-12
    values = np.linalg.svd(bank.transpose(1, 2, 0, 3).reshape(9, 12), compute_uv=False)
    assert errors[0] == pytest.approx(np.sqrt((values[1:] ** 2).sum()))


@pytest.mark.parametrize(
    "options", [{}, {"stride": (2, 1, 3), "padding": ((1, 2), (0, 1), (2, 0)), "dilation": (1, 2, 1)}]
)
@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
def test_split_banks_of_volumes_convolve_alike(options, layout):
    x, bias = random(2, 3, 7, 8, 9), random(4)
    given = x if layout == "NCDHW" else np.ascontiguousarray(np.moveaxis(x, 1, -1))
    product = np.einsum("oc,t,u,v->octuv", np.outer(random(4), random(3)), random(2), random(3), random(4))
    for bank, ranks in ((random(4, 3, 2, 3, 4), (6, 16)), (product, (1, 1))):
        parts = fastconv.separate3d(bank)
        assert (len(parts[0]), len(parts[1])) == ranks
        y = fastconv.separable_conv3d(given, *parts, bias, activation="relu", layout=layout, **options)
        y = y if layout == "NCDHW" else np.moveaxis(y, -1, 1)
        expected = fastconv.conv3d(x, bank, bias, activation="relu", **options)
        np.testing.assert_allclose(y, expected, atol=1e-11)
    gaussian = np.exp(-(np.linspace(-2, 2, 7) ** 2)).astype(np.float32)
    kernel = np.einsum("t,u,v->tuv", gaussian, gaussian, gaussian)
    parts = fastconv.separate3d(kernel)
    assert [part.shape for part in parts] == [(1, 1, 7, 1, 1), (1, 1, 1, 7, 1), (1, 1, 1, 1, 7)]
    np.testing.assert_allclose(parts[0] * parts[1] * parts[2], kernel[None, None], rtol=1e-5)


def test_tensor_train_of_a_low_rank():
    bank, errors = random(4, 3, 3, 3, 3), []
    for rank in range(1, 10):
        depths, columns, rows = fastconv.separate3d(bank, rank)
        product = np.einsum("rct,sru,osv->octuv", depths[..., 0, 0], columns[:, :, 0, :, 0], rows[:, :, 0, 0])
        errors.append(np.linalg.norm(product - bank) / np.linalg.norm(bank))
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.5 < errors[0] < 1


def test_flatten_finds_out():
    assert fastconv.flatten_kernel(random(2, 3, 3, 3)) is None
    assert fastconv.flatten_kernel(np.zeros((2, 3, 3, 3))) is not None
    across, down, along = fastconv.flatten_kernel(np.ones((2, 3, 4, 5), np.float32))
    np.testing.assert_allclose(across * down * along, np.ones((2, 3, 4, 5)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_depthwise_separable(ndim, layout):
    sizes, window = (8, 9, 7)[:ndim], (3,) * ndim
    x, depthwise, pointwise = random(2, 3, *sizes), random(6, 1, *window), random(5, 6, *(1,) * ndim)
    dense = np.zeros((6, 3, *window))
    for i in range(6):
        dense[i, i // 2] = depthwise[i, 0]
    whole = np.einsum("oi,ic...->oc...", pointwise.reshape(5, 6), dense)
    given = x if layout == "NCHW" else np.moveaxis(x, 1, -1)
    function, conv = getattr(fastconv, f"depthwise_separable_conv{ndim}d"), getattr(fastconv, f"conv{ndim}d")
    options = {"stride": 2, "padding": 1, "layout": layout}
    expected = conv(x, whole, stride=2, padding=1)
    for y in (
        function(given, depthwise, pointwise, **options),
        function(given[0], depthwise, pointwise, **options)[None],
    ):
        y = y if layout == "NCHW" else np.moveaxis(y, -1, 1)
        np.testing.assert_allclose(y, expected[: len(y)], atol=1e-11)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("name", "shapes", "options"), [
    ("depthwise_separable_conv1d", [(6, 1, 3), (4, 6, 1)], {"stride": 2, "padding": ((1, 2),)}),
    ("depthwise_separable_conv2d", [(6, 1, 3, 3), (4, 6, 1, 1)], {}),
    ("depthwise_separable_conv3d", [(6, 1, 2, 3, 2), (4, 6, 1, 1, 1)], {"stride": 2, "padding": 1}),
    ("separable_conv2d", [(2, 3, 3, 1), (4, 2, 1, 3)], {}),
    ("separable_conv3d", [(2, 3, 2, 1, 1), (3, 2, 1, 3, 1), (4, 3, 1, 1, 2)], {"stride": (1, 2, 1), "padding": 1}),
    ("flattened_conv2d", [(4, 3, 1, 1), (4, 1, 3, 1), (4, 1, 1, 3)], {}),
])  # fmt: skip
def test_gradients(name, shapes, options, layout):
    sizes = (6, 7, 3)[: len(shapes[0]) - 2]
    arrays = [random(2, 3, *sizes), *(random(*shape, seed=1) for shape in shapes), random(4)]
    if layout == "NHWC":
        arrays[0] = np.ascontiguousarray(np.moveaxis(arrays[0], 1, -1))
    options = {"stride": (2, 1), "padding": ((1, 0), (1, 2)), **options, "layout": layout}
    forward = getattr(fastconv, name)
    g = random(*forward(*arrays, **options).shape, seed=2)
    gradients = getattr(fastconv, f"{name}_backward")(g, *arrays[:-1], **options)
    for array, gradient in zip(arrays, gradients, strict=True):
        assert_gradient(lambda: float((g * forward(*arrays, **options)).sum()), array, np.ascontiguousarray(gradient))


def test_errors():
    with pytest.raises(ValueError, match="rank must be at most 3"):
        fastconv.separate(np.ones((3, 3)), 4)
    with pytest.raises(ValueError, match="weight must be finite"):
        fastconv.separate(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match=r"weight must have shape \(KH, KW\)"):
        fastconv.kernel_rank(np.ones(3))
    with pytest.raises(ValueError, match="rank must be at most 3 here"):
        fastconv.separate3d(np.ones((3, 3, 3)), 4)
    with pytest.raises(ValueError, match="weight must be finite"):
        fastconv.separate3d(np.full((3, 3, 3), np.inf))
    with pytest.raises(ValueError, match=r"weight must have shape \(KD, KH, KW\)"):
        fastconv.separate3d(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"columns must have shape \(rank, rank, 1, KH, 1\)"):
        fastconv.separable_conv3d(np.ones((1, 1, 5, 5, 5)), *[np.ones((1, 1, 3, 1, 1))] * 3)
    with pytest.raises(ValueError, match="columns must have shape"):
        fastconv.separable_conv2d(np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3)), np.ones((1, 1, 1, 3)))
    with pytest.raises(ValueError, match="depthwise must have shape"):
        fastconv.depthwise_separable_conv2d(np.ones((1, 2, 5, 5)), np.ones((2, 2, 3, 3)), np.ones((1, 2, 1, 1)))
    with pytest.raises(ValueError, match=r"down must have shape \(2, 1, KH, 1\)"):
        fastconv.flattened_conv2d(
            np.ones((1, 1, 5, 5)), np.ones((2, 1, 1, 1)), np.ones((2, 1, 1, 3)), np.ones((2, 1, 1, 3))
        )
