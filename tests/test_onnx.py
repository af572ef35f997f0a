"""ONNX's node cases of pools, unpools, normalisation, softmax and Col2Im, which its wheel generates offline."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="ONNX is not installed: pip install fastconv[onnx]")

from onnx.backend.test.case.node import collect_testcases  # noqa: E402

import fastconv  # noqa: E402

#: How many cases onnx 1.16 has of each operator; later versions have no fewer.
EXPECTED = {
    "MaxPool": 17, "AveragePool": 18, "LpPool": 8, "GlobalAveragePool": 2, "GlobalMaxPool": 2, "MaxUnpool": 2,
    "BatchNormalization": 4, "Col2Im": 5, "InstanceNormalization": 2, "LRN": 2, "Softmax": 7, "LogSoftmax": 7,
}  # fmt: skip


@cache
def cases() -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """Cases that are one node, and its attributes, by operator."""
    found: dict[str, list[tuple[Any, dict[str, Any]]]] = {name: [] for name in EXPECTED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # other operators' cases overflow on purpose
        collected = collect_testcases(None)
    for case in collected:
        nodes = case.model.graph.node if case.model is not None else ()
        if len(nodes) == 1 and nodes[0].op_type in found:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
            found[nodes[0].op_type].append((case, attributes))
    return found


def pads(attributes: dict[str, Any], sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The (lo, hi) padding of each axis that `pads` or `auto_pad` mean."""
    ndim, kernel = len(sizes), attributes["kernel_shape"]
    strides, dilations = attributes.get("strides", [1] * ndim), attributes.get("dilations", [1] * ndim)
    given = attributes.get("pads", [0] * (2 * ndim))
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if not auto.startswith("SAME"):
        return list(zip(given[:ndim], given[ndim:], strict=True))
    pairs = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return pairs


def windows(attributes: dict[str, Any], x: np.ndarray) -> dict[str, Any]:
    """The options of our pools."""
    return {
        "kernel_size": tuple(attributes["kernel_shape"]),
        "stride": tuple(attributes.get("strides", [1] * (x.ndim - 2))),
        "padding": tuple(pads(attributes, x.shape[2:])),
        "dilation": tuple(attributes.get("dilations", [1] * (x.ndim - 2))),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
    }


def max_pool(attributes: dict[str, Any], x: np.ndarray) -> tuple[np.ndarray, ...]:
    function = getattr(fastconv, f"max_pool{x.ndim - 2}d")
    maxima, indices = function(x, **windows(attributes, x), return_indices=True)
    assert np.array_equal(function(x, **windows(attributes, x)), maxima)
    if attributes.get("storage_order", 0):  # column by column
        h, w = np.divmod(indices, x.shape[-1])
        indices = w * x.shape[-2] + h
    # ONNX counts the cells through all planes.
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    return maxima, indices + planes * int(np.prod(x.shape[2:]))


def average_pool(attributes: dict[str, Any], x: np.ndarray) -> tuple[np.ndarray, ...]:
    include = bool(attributes.get("count_include_pad", 0))
    return (getattr(fastconv, f"avg_pool{x.ndim - 2}d")(x, **windows(attributes, x), count_include_pad=include),)


def lp_pool(attributes: dict[str, Any], x: np.ndarray) -> tuple[np.ndarray, ...]:
    return (getattr(fastconv, f"lp_pool{x.ndim - 2}d")(x, attributes.get("p", 2), **windows(attributes, x)),)


def max_unpool(attributes: dict[str, Any], x: np.ndarray, indices: np.ndarray, *shape: np.ndarray) -> tuple[Any, ...]:
    kernel, stride = tuple(attributes["kernel_shape"]), tuple(attributes["strides"])
    y = getattr(fastconv, f"max_unpool{x.ndim - 2}d")(x, indices, kernel, stride)
    if not shape:
        return (y,)
    # A larger output has zeros beyond the cells that the indices count.
    return (np.pad(y, [(0, int(big) - n) for n, big in zip(y.shape, shape[0], strict=True)]),)


def batch_norm(
    attributes: dict[str, Any], x: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray
) -> tuple[np.ndarray, ...]:
    eps, training = attributes.get("epsilon", 1e-5), bool(attributes.get("training_mode", 0))
    momentum = 1 - attributes.get("momentum", 0.9)
    running, spread = mean.copy(), var.copy()
    y = fastconv.batch_norm(x, running, spread, scale, bias, training=training, momentum=momentum, eps=eps)
    if not training:
        return (y,)
    # ONNX keeps the biased variance, PyTorch and we the unbiased one.
    cells, kept = x.size // x.shape[1], (1 - momentum) * var
    return y, running, kept + (spread - kept) * (cells - 1) / cells


def col2im(attributes: dict[str, Any], x: np.ndarray, image: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, ...]:
    ndim = len(image)
    given = attributes.get("pads", [0] * (2 * ndim))
    padding = tuple(zip(given[:ndim], given[ndim:], strict=True))
    dilation = tuple(attributes.get("dilations", [1] * ndim))
    stride = tuple(attributes.get("strides", [1] * ndim))
    return (fastconv.fold(x, tuple(map(int, image)), tuple(map(int, block)), dilation, padding, stride),)


def instance_norm(attributes: dict[str, Any], x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> tuple[Any, ...]:
    return (fastconv.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5)),)


def response_norm(attributes: dict[str, Any], x: np.ndarray) -> tuple[np.ndarray, ...]:
    assert attributes["size"] % 2  # an even window leans to the other side in ONNX
    options = (attributes.get("alpha", 1e-4), attributes.get("beta", 0.75), attributes.get("bias", 1.0))
    return (fastconv.local_response_norm(x, attributes["size"], *options),)


COMPUTE: dict[str, Any] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": lambda _, x: (fastconv.global_avg_pool(x),),
    "GlobalMaxPool": lambda _, x: (fastconv.global_max_pool(x),),
    "MaxUnpool": max_unpool,
    "BatchNormalization": batch_norm,
    "Col2Im": col2im,
    "InstanceNormalization": instance_norm,
    "LRN": response_norm,
    "Softmax": lambda attributes, x: (fastconv.softmax(x, attributes.get("axis", -1)),),
    "LogSoftmax": lambda attributes, x: (fastconv.log_softmax(x, attributes.get("axis", -1)),),
}


@pytest.mark.parametrize("operator", list(EXPECTED))
def test_node_cases(operator, report):
    compared = 0
    for case, attributes in cases()[operator]:
        for inputs, outputs in case.data_sets:
            results = COMPUTE[operator](attributes, *inputs)
            for got, expected in zip(results, outputs, strict=False):  # the second output is optional
                assert got.shape == expected.shape, case.name
                np.testing.assert_allclose(got, expected, rtol=case.rtol, atol=1e-6, err_msg=case.name)
            compared += 1
    assert compared >= EXPECTED[operator]
    report(f"ONNX {operator}: {compared} node cases")
