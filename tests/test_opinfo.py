"""PyTorch's own test problems (OpInfo) of pools, unpools, norms, folds, interpolation and losses, forward and backward.

Every sample is computed by both libraries, and so is its gradient for a random gradient of the output. Samples that we
refuse on purpose must be refused with an error that names the argument; the table says how many there are.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastconv[torch]")
pytest.importorskip("expecttest", reason="PyTorch's OpInfo needs expecttest: pip install expecttest")

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

import fastconv  # noqa: E402

functional = torch.nn.functional


def operators(name: str) -> list[Any]:
    """PyTorch's descriptions of an operator and its variants."""
    found = [op for op in op_db if op.name == name]
    assert found, f"{name} is no OpInfo of torch {torch.__version__}"
    return found


def samples(name: str) -> list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]]:
    """The samples of an operator and its variants, on the CPU, in double precision."""
    torch.manual_seed(0)
    return [
        (sample.input, sample.args, sample.kwargs)
        for op in operators(name)
        for sample in op.sample_inputs("cpu", torch.float64)
    ]


def numpy_of(value: Any) -> Any:
    """A tensor as an array of the same memory order; PyTorch's tuples of sizes as plain ones."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    return tuple(value) if isinstance(value, torch.Size) else value


def named(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Positional arguments after the first by their names in `function`."""
    parameters = list(inspect.signature(function).parameters)[1:]
    return dict(zip(parameters, args, strict=False)) | options


def each_axis(options: dict[str, Any], ndim: int) -> dict[str, Any]:
    """PyTorch reads (n,) as n for every axis and () as nothing; we want one number, one for each axis, or None."""
    return {k: (v * ndim if len(v) == 1 else v or None) if isinstance(v, tuple) else v for k, v in options.items()}


def close(ours: Any, theirs: Any, what: str) -> None:
    np.testing.assert_allclose(ours, numpy_of(theirs), rtol=1e-9, atol=1e-11, err_msg=what, strict=False)
    assert np.shape(ours) == tuple(theirs.shape), what


def flow(y: torch.Tensor) -> torch.Tensor:
    """A gradient of the output."""
    return torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))


def refuses(call: Any, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert any(word in str(caught.value) for word in (*options, "x ", "logits", "target")), str(caught.value)


def is_ours(x: torch.Tensor) -> bool:
    """Empty arrays are legal as empty batches only."""
    return x.dim() > 1 and 0 not in x.shape[1:]


# ---- pools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_max_pool(ndim, report):
    forward = getattr(fastconv, f"max_pool{ndim}d")
    backward = getattr(fastconv, f"max_pool{ndim}d_backward")
    found = samples(f"nn.functional.max_pool{ndim}d")
    for x, args, given in found:
        options = named(forward, args, given)
        indexed = options.pop("return_indices", False)
        x = x.detach().requires_grad_()
        maxima, indices = getattr(functional, f"max_pool{ndim}d")(x, **options, return_indices=True)
        what, array = f"{tuple(x.shape)} {options}", numpy_of(x)
        if indexed:
            ours, places = forward(array, **options, return_indices=True)
            np.testing.assert_array_equal(places, numpy_of(indices), err_msg=what)
        else:
            ours = forward(array, **options)
        close(ours, maxima, what)
        g = flow(maxima)
        (expected,) = torch.autograd.grad(maxima, x, g)
        places = numpy_of(indices) if indexed else None
        close(backward(numpy_of(g), array, **options, indices=places), expected, f"gradient of {what}")
    assert len(found) > 500
    report(f"OpInfo max_pool{ndim}d: {len(found)} samples, forward, indices and backward")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_average_pool(ndim, report):
    forward = getattr(fastconv, f"avg_pool{ndim}d")
    backward = getattr(fastconv, f"avg_pool{ndim}d_backward")
    found = samples(f"nn.functional.avg_pool{ndim}d")
    for x, args, given in found:
        options = each_axis(named(forward, args, given), ndim)
        x = x.detach().requires_grad_()
        means = getattr(functional, f"avg_pool{ndim}d")(x, *args, **given)
        what = f"{tuple(x.shape)} {options}"
        close(forward(numpy_of(x), **options), means, what)
        g = flow(means)
        (expected,) = torch.autograd.grad(means, x, g)
        close(backward(numpy_of(g), tuple(x.shape), **options), expected, f"gradient of {what}")
    assert len(found) >= 7
    report(f"OpInfo avg_pool{ndim}d: {len(found)} samples, forward and backward")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_power_average_pool(ndim, report):
    """There are no samples of lp_pool: the windows are those of the averages."""
    forward, compared = getattr(fastconv, f"lp_pool{ndim}d"), 0
    backward = getattr(fastconv, f"lp_pool{ndim}d_backward")
    for x, args, given in samples(f"nn.functional.avg_pool{ndim}d"):
        options = each_axis(named(getattr(fastconv, f"avg_pool{ndim}d"), args, given), ndim)
        # PyTorch scales the averages of its ceil_mode, whose divisors vary, by one number.
        options = {k: v for k, v in options.items() if k in ("kernel_size", "stride")}
        if ndim == 1:  # it takes no tuples here
            options = {k: v[0] if isinstance(v, tuple) else v for k, v in options.items()}
        for p in (1, 2, 3.5):
            x = x.detach().abs().requires_grad_()  # PyTorch raises signed numbers to powers
            y = getattr(functional, f"lp_pool{ndim}d")(x, p, **options)
            what = f"{tuple(x.shape)} {p} {options}"
            close(forward(numpy_of(x), p, **options), y, what)
            g = flow(y)
            (expected,) = torch.autograd.grad(y, x, g)
            close(backward(numpy_of(g), numpy_of(x), p, **options), expected, f"gradient of {what}")
            compared += 1
    assert compared > 15
    report(f"OpInfo avg_pool{ndim}d's windows as lp_pool{ndim}d: {compared} samples, forward and backward")


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pool(kind, ndim, report):
    name = f"adaptive_{kind}_pool{ndim}d"
    forward, backward = getattr(fastconv, name), getattr(fastconv, f"{name}_backward")
    found = samples(f"nn.functional.{name}")
    for x, args, given in found:
        options = named(forward, args, given)
        if kind == "max":
            options["return_indices"] = True
        x = x.detach().requires_grad_()
        what = f"{tuple(x.shape)} {options}"
        result = getattr(functional, name)(x, **options)
        ours = forward(numpy_of(x), **options)
        y, indices = result if kind == "max" else (result, None)
        if kind == "max":
            ours, places = ours
            np.testing.assert_array_equal(places, numpy_of(indices), err_msg=what)
        close(ours, y, what)
        g = flow(y)
        (expected,) = torch.autograd.grad(y, x, g)
        grads = [backward(numpy_of(g), tuple(x.shape))] if kind == "avg" else [
            backward(numpy_of(g), numpy_of(x)), backward(numpy_of(g), numpy_of(x), numpy_of(indices))
        ]  # fmt: skip
        for grad in grads:
            close(grad, expected, f"gradient of {what}")
    assert len(found) >= 6
    report(f"OpInfo {name}: {len(found)} samples, forward and backward")


@pytest.mark.parametrize("ndim", [2, 3])
def test_fractional_max_pool(ndim, report):
    """With the random numbers given, the windows are PyTorch's."""
    name = f"fractional_max_pool{ndim}d"
    forward, backward = getattr(fastconv, name), getattr(fastconv, f"{name}_backward")
    found = samples(f"nn.functional.{name}")
    for x, args, given in found:
        options = named(forward, args, given) | {"return_indices": True}
        options.pop("_random_samples", None)
        u = torch.rand(1 if x.dim() == ndim + 1 else x.shape[0], x.shape[-ndim - 1], ndim, dtype=x.dtype)
        x = x.detach().requires_grad_()
        what = f"{tuple(x.shape)} {options}"
        y, indices = getattr(functional, name)(x, **options, _random_samples=u)
        random = numpy_of(u)
        ours, places = forward(numpy_of(x), **options, random_samples=random if x.dim() == ndim + 2 else random[0])
        np.testing.assert_array_equal(places, numpy_of(indices), err_msg=what)
        close(ours, y, what)
        g = flow(y)
        (expected,) = torch.autograd.grad(y, x, g)
        close(backward(numpy_of(g), tuple(x.shape), places), expected, f"gradient of {what}")
    assert len(found) > 30
    report(f"OpInfo {name}: {len(found)} samples, forward and backward")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_max_unpool(ndim, report):
    name = f"max_unpool{ndim}d"
    forward, backward = getattr(fastconv, name), getattr(fastconv, f"{name}_backward")
    found = samples(f"nn.functional.{name}")
    single = 0
    for x, (indices,), given in found:
        x = x.detach().requires_grad_()
        options = {k: numpy_of(v) for k, v in given.items()}
        what = f"{tuple(x.shape)} {options}"
        y = getattr(functional, name)(x, indices, **given)
        close(forward(numpy_of(x), numpy_of(indices), **options), y, what)
        # PyTorch's gradient gives every one of several values that were sent to one place; only one of them is there.
        plane = numpy_of(indices).reshape(-1, int(np.prod(indices.shape[-ndim:])))
        if all(len(np.unique(row)) == row.size for row in plane):
            g = flow(y)
            (expected,) = torch.autograd.grad(y, x, g)
            close(backward(numpy_of(g), numpy_of(indices)), expected, f"gradient of {what}")
            single += 1
    assert len(found) > 100
    assert single >= 9
    report(f"OpInfo {name}: {len(found)} samples, {single} of them backward too (each index once)")


# ---- interpolation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["interpolate", "upsample_bilinear", "upsample_nearest"])
def test_interpolate(name, report):
    found = samples(f"nn.functional.{name}")
    for x, args, given in found:
        x = x.detach().requires_grad_()
        options = {k: numpy_of(v) for k, v in named(getattr(functional, name), args, given).items()}
        if name == "upsample_bilinear":
            options |= {"mode": "bilinear", "align_corners": True}
        what = f"{tuple(x.shape)} {options}"
        y = functional.interpolate(x, **options)
        close(fastconv.interpolate(numpy_of(x), **options), y, what)
        g = flow(y)
        (expected,) = torch.autograd.grad(y, x, g)
        close(fastconv.interpolate_backward(numpy_of(g), tuple(x.shape), **options), expected, f"gradient of {what}")
    assert len(found) >= 4
    report(f"OpInfo {name}: {len(found)} samples, forward and backward")


# ---- fold -----------------------------------------------------------------------------------------------------------


def test_unfold_and_fold(report):
    """`fold` has no samples of its own: it is the gradient of `unfold`, and is compared with PyTorch's besides."""
    found, refused = samples("nn.functional.unfold"), 0
    for x, args, given in found:
        options = named(fastconv.unfold, args, given)
        array, what = numpy_of(x), f"{tuple(x.shape)} {options}"
        if not is_ours(x):
            refuses(lambda array=array, options=options: fastconv.unfold(array, **options), options)
            refused += 1
            continue
        x = x.detach().requires_grad_()
        columns = functional.unfold(x, **options)
        close(fastconv.unfold(array, **options), columns, what)
        g = flow(columns)
        (expected,) = torch.autograd.grad(columns, x, g)
        folded = fastconv.fold(numpy_of(g), tuple(x.shape[-2:]), **options)
        close(folded, expected, f"gradient of {what}")
        close(folded, functional.fold(g, x.shape[-2:], **options), f"fold {what}")
    assert len(found) - refused > 100
    report(f"OpInfo unfold: {len(found)} samples, forward and backward; {refused} without channels refused")


# ---- norms ----------------------------------------------------------------------------------------------------------

NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm")


def norm_gradients(name: str, g: np.ndarray, x: np.ndarray, options: dict[str, Any]) -> list[np.ndarray]:
    """(gradient of x, of the weight, of the bias), as many as there are."""
    kept = {k: v for k, v in options.items() if k not in ("bias", "running_mean", "running_var", "momentum")}
    training = kept.pop("use_input_stats", kept.pop("training", name != "batch_norm"))
    if name == "batch_norm":
        kept["training"] = training
    if not training:
        kept |= {"mean": options["running_mean"], "variance": options["running_var"]}
    result = getattr(fastconv, f"{name}_backward")(g, x, **kept)
    return [result] if isinstance(result, np.ndarray) else list(result)


@pytest.mark.parametrize("name", NORMS)
def test_norm(name, report):
    forward, theirs = getattr(fastconv, name), getattr(functional, name)
    compared = refused = 0
    for x, args, given in samples(f"nn.functional.{name}"):
        options = {k: v for k, v in named(theirs, args, given).items() if k not in ("cudnn_enabled", "cudnn_enable")}
        x = x.detach().requires_grad_()
        what = f"{tuple(x.shape)} {options}"
        tensors = {k: v.detach().clone() for k, v in options.items() if isinstance(v, torch.Tensor)}
        learned = [tensors[k].requires_grad_() for k in ("weight", "bias") if k in tensors]
        # Running statistics are updated in place by both.
        ours = {k: numpy_of(tensors[k]).copy() if k in tensors else v for k, v in options.items()}
        before = {k: v.copy() for k, v in ours.items() if k.startswith("running") and v is not None}
        try:
            y = theirs(x, **options | tensors)
        except (RuntimeError, ValueError):
            y = None
        odd = not 0 <= options.get("momentum", 0) <= 1 or options.get("eps", 1) < 0
        try:
            result = forward(numpy_of(x), **ours)
        except (ValueError, TypeError):
            assert y is None or odd or x.dim() not in (2, 3, 4, 5) or 0 in x.shape, what
            refused += 1
            continue
        if y is None:
            continue  # we normalise more
        close(result, y, what)
        for k in before:
            close(ours[k], tensors[k], f"{k} of {what}")
        g = flow(y)
        expected = torch.autograd.grad(y, [x, *learned], g)
        gradients = norm_gradients(name, numpy_of(g), numpy_of(x), ours | before)
        chosen = [gradients[0], *(gradients[1 + k] for k, n in enumerate(("weight", "bias")) if n in tensors)]
        for got, want in zip(chosen, expected, strict=True):
            close(got, want, f"gradient of {what}")
        compared += 1
    assert compared >= 3
    report(f"OpInfo {name}: {compared} samples, forward and backward; {refused} refused")


# ---- softmax and cross entropy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, report):
    forward, backward = getattr(fastconv, name), getattr(fastconv, f"{name}_backward")
    compared = refused = 0
    for x, (dim, *_), _ in samples(name):
        if x.dim() == 0:
            refuses(lambda x=x, dim=dim: forward(numpy_of(x), dim), {"axis": 0})
            refused += 1
            continue
        x = x.detach().requires_grad_()
        y = getattr(torch, name)(x, dim)
        what = f"{tuple(x.shape)} {dim}"
        close(forward(numpy_of(x), dim), y, what)
        g = flow(y)
        (expected,) = torch.autograd.grad(y, x, g)
        close(backward(numpy_of(g), numpy_of(y), dim), expected, f"gradient of {what}")
        compared += 1
    assert compared >= 8
    report(f"OpInfo {name}: {compared} samples, forward and backward; {refused} refused")


def test_cross_entropy(report):
    compared = refused = 0
    for x, (target,), options in samples("nn.functional.cross_entropy"):
        x = x.detach().requires_grad_()
        given = {k: numpy_of(v) for k, v in options.items()}
        what = f"{tuple(x.shape)} {options}"
        if x.dim() == 1 or target.is_floating_point() or "label_smoothing" in options:
            # One sample without a batch, probabilities of classes: not offered.
            with pytest.raises((ValueError, TypeError)):
                fastconv.cross_entropy(numpy_of(x), numpy_of(target), **given)
            refused += 1
            continue
        y = functional.cross_entropy(x, target, **options)
        close(fastconv.cross_entropy(numpy_of(x), numpy_of(target), **given), y, what)
        (expected,) = torch.autograd.grad(y.sum(), x)
        if given.get("reduction") == "none":
            given["reduction"] = "sum"
        close(fastconv.cross_entropy_backward(numpy_of(x), numpy_of(target), **given), expected, f"gradient of {what}")
        compared += 1
    assert compared >= 8
    report(f"OpInfo cross_entropy: {compared} samples, forward and backward; {refused} refused")


# ---- what PyTorch refuses -------------------------------------------------------------------------------------------

#: Words of PyTorch's errors about what we define: padding wider than half a window, outputs of any adaptive size.
DEFINED = ("pad should be at most half",)

KINDS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "max_unpool")


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind, ndim, report):
    name, count = f"{kind}{ndim}d", 0
    for op in operators(f"nn.functional.{name}"):
        if op.error_inputs_func is None:
            continue
        for error in op.error_inputs("cpu"):
            sample = error.sample_input
            args, options = tuple(map(numpy_of, sample.args)), {k: numpy_of(v) for k, v in sample.kwargs.items()}
            call = getattr(fastconv, name)
            if any(words in error.error_regex for words in DEFINED) and 0 not in sample.input.shape[-ndim - 1 :]:
                call(numpy_of(sample.input), *args, **options)
                continue
            with pytest.raises((ValueError, TypeError)):
                call(numpy_of(sample.input), *args, **options)
            count += 1
    report(f"OpInfo {name}: {count} errors are errors")
    assert count
