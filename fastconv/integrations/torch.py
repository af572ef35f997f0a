"""Convolutions of PyTorch's CPU tensors: differentiable as often as you like, compiled, and as drop-in layers.

`conv1d`, `conv2d`, `conv3d` and `conv_transpose1d`, `conv_transpose2d`, `conv_transpose3d` take the arguments of their
namesakes in `torch.nn.functional`. Tensors are not copied, channels-last tensors give channels-last results::

    from fastconv.integrations.torch import accelerate, conv2d

    y = conv2d(x, weight, bias, padding=1)      # x, weight, bias: tensors
    y.sum().backward()

    accelerate(model)                           # every nn.Conv* and nn.ConvTranspose* computes with fastconv
    fast = accelerate(model.eval(), inference=True)     # weights prepared, BatchNorm and activations folded in

torch keeps a pool of threads that spins for some milliseconds after its work. Where both libraries are busy by turns,
set ``OMP_WAIT_POLICY=passive`` before starting Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastconv.integrations.torch_layers import accelerate, restore
from fastconv.integrations.torch_operators import DTYPES, convolution, convolution_transpose, same_padding

__all__ = [
    "accelerate", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "restore",
]  # fmt: skip

# ---- the functions of torch.nn.functional ----------------------------------------------------------------------------


def _each(value: Any, ndim: int) -> list[int]:
    """One number for each axis."""
    if isinstance(value, (tuple, list, torch.Size)):
        return list(value) * ndim if len(value) == 1 else list(value)
    return [value] * ndim


def _flat_padding(padding: Any, kernel: Sequence[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Lows and highs in turn, from an int, ints, "same" or "valid"."""
    ndim = len(kernel)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be integers, 'same' or 'valid', got {padding!r}")
        if padding == "valid":
            return [0] * (2 * ndim)
        if any(step != 1 for step in stride):
            raise ValueError(f"padding='same' needs stride 1, got stride {stride}")
        return same_padding(kernel, dilation)
    return [pad for pad in _each(padding, ndim) for _ in range(2)]


def _check(ndim: int, x: Tensor, weight: Tensor) -> None:
    if x.dim() not in (ndim + 1, ndim + 2):
        raise ValueError(f"input must have {ndim + 1} or {ndim + 2} axes, got shape {tuple(x.shape)}")
    if weight.dim() != ndim + 2:
        raise ValueError(f"weight must have {ndim + 2} axes, got shape {tuple(weight.shape)}")
    for name, tensor in (("input", x), ("weight", weight)):
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"{name} must be a CPU tensor, got one on {tensor.device}")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be of float16, float32, float64 or complex numbers, got {tensor.dtype}")


def _conv(ndim: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    _check(ndim, x, weight)
    stride, dilation = _each(stride, ndim), _each(dilation, ndim)
    padding = _flat_padding(padding, weight.shape[2:], stride, dilation)
    batched = x.dim() == ndim + 2
    y = convolution(x if batched else x[None], weight, bias, stride, padding, dilation, groups, "zeros")
    return y if batched else y[0]


def _conv_transpose(
    ndim: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    _check(ndim, x, weight)
    options = [_each(value, ndim) for value in (stride, padding, output_padding, dilation)]
    batched = x.dim() == ndim + 2
    y = convolution_transpose(x if batched else x[None], weight, bias, *options, groups)
    return y if batched else y[0]


def conv1d(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv1d` by fastconv; see `conv2d`.

    Parameters
    ----------
    input, weight, bias, stride, padding, dilation, groups
        As in `torch.nn.functional.conv1d`.

    Returns
    -------
    torch.Tensor
        (N, OC, L'), or (OC, L') for one signal.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import conv1d
    >>> conv1d(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[1.0, 1.0]]]))
    tensor([[[3., 6.]]])
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` by fastconv.

    Differentiable any number of times, traceable by `torch.compile`; tensors are not copied.

    Parameters
    ----------
    input, weight, bias, stride, padding, dilation, groups
        As in `torch.nn.functional.conv2d`: CPU tensors of float16, float32, float64 or complex numbers.

    Returns
    -------
    torch.Tensor
        (N, OC, OH, OW), or (OC, OH, OW) for one image; channels-last if `input` is.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import conv2d
    >>> weight = torch.ones(1, 1, 2, 2, requires_grad=True)
    >>> conv2d(torch.arange(9.0).reshape(1, 1, 3, 3), weight).sum().backward()
    >>> weight.grad
    tensor([[[[ 8., 12.],
              [20., 24.]]]])
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv3d` by fastconv; see `conv2d`.

    Parameters
    ----------
    input, weight, bias, stride, padding, dilation, groups
        As in `torch.nn.functional.conv3d`.

    Returns
    -------
    torch.Tensor
        (N, OC, D', H', W'), or without N for one volume.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import conv3d
    >>> conv3d(torch.ones(1, 2, 3, 3, 3), torch.ones(4, 2, 2, 2, 2)).shape
    torch.Size([1, 4, 2, 2, 2])
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose1d` by fastconv; see `conv2d`.

    Parameters
    ----------
    input, weight, bias, stride, padding, output_padding, groups, dilation
        As in `torch.nn.functional.conv_transpose1d`.

    Returns
    -------
    torch.Tensor
        (N, OC, L'), or (OC, L') for one signal.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import conv_transpose1d
    >>> conv_transpose1d(torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[1.0, 2.0, 3.0]]]), stride=2)
    tensor([[[ 1.,  2., 13., 20., 30.]]])
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d` by fastconv; see `conv2d`.

    Parameters
    ----------
    input, weight, bias, stride, padding, output_padding, groups, dilation
        As in `torch.nn.functional.conv_transpose2d`.

    Returns
    -------
    torch.Tensor
        (N, OC, OH, OW), or (OC, OH, OW) for one image.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import conv_transpose2d
    >>> conv_transpose2d(torch.ones(1, 2, 4, 4), torch.ones(2, 3, 2, 2), stride=2).shape
    torch.Size([1, 3, 8, 8])
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose3d` by fastconv; see `conv2d`.

    Parameters
    ----------
    input, weight, bias, stride, padding, output_padding, groups, dilation
        As in `torch.nn.functional.conv_transpose3d`.

    Returns
    -------
    torch.Tensor
        (N, OC, D', H', W'), or without N for one volume.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import conv_transpose3d
    >>> conv_transpose3d(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)).sum()
    tensor(64.)
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
