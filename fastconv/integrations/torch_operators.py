"""The operators behind `fastconv.integrations.torch`, registered with `torch.library` as ``fastconv::...``.

A convolution is linear in its input and in its weight, so <g, conv(x, w)> = <input(w, g), x> = <weight(x, g), w>
defines its two gradients, and the same equation gives the gradients of these: the operators are closed under
differentiation. Of complex numbers `input` and `weight` are the adjoints, as gradients are in PyTorch; a transposed
convolution, which is linear, conjugates (w*).

    operator                    result      gradients
    convolution(x, w)           y           input(w, g)             weight(x, g)
    convolution_input(w, y)     x           convolution(g, w)       weight(g, y)
    convolution_weight(x, y)    w           convolution(x, g)       input(g, y)
    convolution_transpose(y, w) x           convolution(g, w*)      weight(g, y)*
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastconv
from fastconv import grad

#: What the operators compute with.
DTYPES = (torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)

_FORWARD = (fastconv.conv1d, fastconv.conv2d, fastconv.conv3d)
_INPUT = (grad.conv1d_input, grad.conv2d_input, grad.conv3d_input)
_WEIGHT = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)
_TRANSPOSE = (fastconv.conv_transpose1d, fastconv.conv_transpose2d, fastconv.conv_transpose3d)

# ---- tensors and arrays ----------------------------------------------------------------------------------------------


def array_of(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as an array."""
    return tensor.detach().resolve_conj().resolve_neg().numpy()


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels-last if the tensor can be nothing else: the memory order of results."""
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    kind = kinds.get(tensor.dim())
    if kind is not None and tensor.is_contiguous(memory_format=kind) and not tensor.is_contiguous():
        return kind
    return torch.contiguous_format


def _empty(shape: Sequence[Any], like: Tensor) -> Tensor:
    """A result of this shape in the memory order of `like`."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_memory_format(like))


def pairs(padding: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(lo, hi) of every axis; operators take a flat list."""
    return tuple(zip(padding[::2], padding[1::2], strict=True))


def flat_padding(layer: Any) -> list[int]:
    """Lows and highs of the spatial axes of an `nn.Conv*` layer in turn."""
    if not isinstance(layer.padding, str):
        return [pad for pad in layer.padding for _ in range(2)]
    if layer.padding == "valid":
        return [0] * (2 * len(layer.kernel_size))
    return same_padding(layer.kernel_size, layer.dilation)


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """PyTorch's "same": an odd cell at the end."""
    extents = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [end for extent in extents for end in (extent // 2, extent - extent // 2)]


def _forward_size(size: Sequence[Any], kernel: Sequence[Any], stride: Any, padding: Any, dilation: Any) -> list[Any]:
    return [
        (n + lo + hi - (k - 1) * d - 1) // s + 1
        for n, k, s, (lo, hi), d in zip(size, kernel, stride, pairs(padding), dilation, strict=True)
    ]


# ---- the operators ---------------------------------------------------------------------------------------------------

_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups, str padding_mode"


def _operator(name: str, arguments: str, function: Callable[..., Tensor]) -> Any:
    return torch.library.custom_op(
        f"fastconv::{name}", function, mutates_args=(), device_types="cpu", schema=f"({arguments}) -> Tensor"
    )


def _convolution(x, weight, bias, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    size = _forward_size(x.shape[2:], weight.shape[2:], stride, padding, dilation) if min(stride) > 0 else [0]
    # Where no result has a shape, fastconv says what is wrong.
    out = _empty((x.shape[0], weight.shape[0], *size) if min(size) > 0 else (0,) * x.dim(), x)
    _FORWARD[x.dim() - 3](
        array_of(x), array_of(weight), None if bias is None else array_of(bias), stride=tuple(stride),
        padding=pairs(padding), dilation=tuple(dilation), groups=groups, padding_mode=padding_mode, out=array_of(out),
    )  # fmt: skip
    return out


def _convolution_input(weight, y, size, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    out = _empty(size, y)
    _INPUT[y.dim() - 3](
        tuple(size), array_of(weight), array_of(y), tuple(stride), pairs(padding), tuple(dilation), groups,
        padding_mode=padding_mode, out=array_of(out),
    )  # fmt: skip
    return out


def _convolution_weight(x, y, size, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    out = torch.empty(size, dtype=x.dtype)
    _WEIGHT[x.dim() - 3](
        array_of(x), tuple(size), array_of(y), tuple(stride), pairs(padding), tuple(dilation), groups,
        padding_mode=padding_mode, out=array_of(out),
    )  # fmt: skip
    return out


def _transposed_size(y, weight, stride, padding, output_padding, dilation, groups):  # type: ignore[no-untyped-def]
    size = [
        (n - 1) * s - 2 * p + (k - 1) * d + 1 + o
        for n, k, s, p, o, d in zip(
            y.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation, strict=True
        )
    ]
    return (y.shape[0], weight.shape[1] * groups, *size)


def _convolution_transpose(y, weight, bias, stride, padding, output_padding, dilation, groups):  # type: ignore[no-untyped-def]
    shape = _transposed_size(y, weight, stride, padding, output_padding, dilation, groups)
    out = _empty(shape if min(shape[2:]) > 0 else (0,) * y.dim(), y)
    _TRANSPOSE[y.dim() - 3](
        array_of(y), array_of(weight), None if bias is None else array_of(bias), stride=tuple(stride),
        padding=tuple(padding), output_padding=tuple(output_padding), dilation=tuple(dilation), groups=groups,
        out=array_of(out),
    )  # fmt: skip
    return out


convolution = _operator("convolution", f"Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}", _convolution)
convolution_input = _operator(
    "convolution_input", f"Tensor weight, Tensor y, SymInt[] size, {_GEOMETRY}", _convolution_input
)
convolution_weight = _operator(
    "convolution_weight", f"Tensor x, Tensor y, SymInt[] size, {_GEOMETRY}", _convolution_weight
)
convolution_transpose = _operator(
    "convolution_transpose",
    "Tensor y, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, int[] dilation, "
    "int groups",
    _convolution_transpose,
)


# Results without data, for tracing.


@convolution.register_fake
def _(x, weight, bias, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    size = _forward_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _empty((x.shape[0], weight.shape[0], *size), x)


@convolution_input.register_fake
def _(weight, y, size, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    return _empty(size, y)


@convolution_weight.register_fake
def _(x, y, size, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    return torch.empty(size, dtype=x.dtype, device=x.device)


@convolution_transpose.register_fake
def _(y, weight, bias, stride, padding, output_padding, dilation, groups):  # type: ignore[no-untyped-def]
    return _empty(_transposed_size(y, weight, stride, padding, output_padding, dilation, groups), y)


# Gradients. An operator's options follow its tensors; `ctx.options` are those that its gradients share.


def _bias_gradient(g: Tensor) -> Tensor:
    return g.sum([axis for axis in range(g.dim()) if axis != 1])


def _keep_convolution(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _from_convolution(ctx, g):  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        convolution_input(weight, g, x.shape, *ctx.options) if needs[0] else None,
        convolution_weight(x, g, weight.shape, *ctx.options) if needs[1] else None,
        _bias_gradient(g) if ctx.has_bias and needs[2] else None,
        *(None for _ in ctx.options),
    )


def _keep_two(ctx, inputs, output):  # type: ignore[no-untyped-def]
    one, other, _, *ctx.options = inputs
    ctx.save_for_backward(one, other)


def _from_input(ctx, g):  # type: ignore[no-untyped-def]
    weight, y = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        convolution_weight(g, y, weight.shape, *ctx.options) if needs[0] else None,
        convolution(g, weight, None, *ctx.options) if needs[1] else None,
        None,
        *(None for _ in ctx.options),
    )


def _from_weight(ctx, g):  # type: ignore[no-untyped-def]
    x, y = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        convolution_input(g, y, x.shape, *ctx.options) if needs[0] else None,
        convolution(x, g, None, *ctx.options) if needs[1] else None,
        None,
        *(None for _ in ctx.options),
    )


def _keep_transpose(ctx, inputs, output):  # type: ignore[no-untyped-def]
    y, weight, bias, stride, padding, _, dilation, groups = inputs
    ctx.save_for_backward(y, weight)
    ctx.has_bias = bias is not None
    ctx.options = stride, [p for pad in padding for p in (pad, pad)], dilation, groups, "zeros"


def _from_transpose(ctx, g):  # type: ignore[no-untyped-def]
    y, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    # An output padding of a stride or more lets the convolution see cells beyond those that came from y.
    stride, padding, dilation, *_ = ctx.options
    seen = _forward_size(g.shape[2:], weight.shape[2:], stride, padding, dilation)
    more = [n - m for n, m in zip(seen, y.shape[2:], strict=True)]
    of_y = of_weight = None
    if needs[0]:
        of_y = convolution(g, weight.conj(), None, *ctx.options)
        for axis, n in enumerate(y.shape[2:], start=2):
            of_y = of_y.narrow(axis, 0, n)
    if needs[1]:
        grown = torch.nn.functional.pad(y, [p for n in reversed(more) for p in (0, n)]) if any(more) else y
        of_weight = convolution_weight(g, grown, weight.shape, *ctx.options).conj()
    return of_y, of_weight, _bias_gradient(g) if ctx.has_bias and needs[2] else None, *(None for _ in range(5))


convolution.register_autograd(_from_convolution, setup_context=_keep_convolution)
convolution_input.register_autograd(_from_input, setup_context=_keep_two)
convolution_weight.register_autograd(_from_weight, setup_context=_keep_two)
convolution_transpose.register_autograd(_from_transpose, setup_context=_keep_transpose)
