"""`accelerate`: the convolutions of a PyTorch model, computed by fastconv.

For training a layer only changes its class: parameters, buffers, hooks, names and state_dict are those that it had, and
`restore` gives it its old class back. For inference see `torch_inference`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastconv.integrations.torch_inference import for_inference
from fastconv.integrations.torch_operators import DTYPES, convolution, convolution_transpose, flat_padding

Model = TypeVar("Model", bound=nn.Module)


def _takes(x: Tensor, weight: Tensor) -> bool:
    """Whether fastconv computes with these tensors; others are left to PyTorch."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in DTYPES
        and x.layout == weight.layout == torch.strided
        and not torch.is_autocast_enabled("cpu")
    )


class _Convolution:
    """What the three classes share; a mixin before `nn.Conv*`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        layer: Any = self
        batched = input.dim() == weight.dim()
        if not _takes(input, weight) or not (batched or input.dim() == weight.dim() - 1):
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc]
        y = convolution(
            input if batched else input[None], weight, bias, layer.stride, flat_padding(layer), layer.dilation,
            layer.groups, layer.padding_mode,
        )  # fmt: skip
        return y if batched else y[0]


class _ConvolutionTranspose:
    """The same before `nn.ConvTranspose*`."""

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002
        layer: Any = self
        ndim = len(layer.kernel_size)
        if not _takes(input, layer.weight) or input.dim() not in (ndim + 1, ndim + 2) or layer.padding_mode != "zeros":
            return super().forward(input, output_size)  # type: ignore[misc]
        output_padding = layer._output_padding(
            input, output_size, layer.stride, layer.padding, layer.kernel_size, ndim, layer.dilation
        )
        batched = input.dim() == ndim + 2
        y = convolution_transpose(
            input if batched else input[None], layer.weight, layer.bias, layer.stride, layer.padding, output_padding,
            layer.dilation, layer.groups,
        )  # fmt: skip
        return y if batched else y[0]


class FastConv1d(_Convolution, nn.Conv1d):
    """`torch.nn.Conv1d` computed by fastconv."""


class FastConv2d(_Convolution, nn.Conv2d):
    """`torch.nn.Conv2d` computed by fastconv."""


class FastConv3d(_Convolution, nn.Conv3d):
    """`torch.nn.Conv3d` computed by fastconv."""


class FastConvTranspose1d(_ConvolutionTranspose, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` computed by fastconv."""


class FastConvTranspose2d(_ConvolutionTranspose, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` computed by fastconv."""


class FastConvTranspose3d(_ConvolutionTranspose, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` computed by fastconv."""


_FAST: dict[type, type] = {
    nn.Conv1d: FastConv1d,
    nn.Conv2d: FastConv2d,
    nn.Conv3d: FastConv3d,
    nn.ConvTranspose1d: FastConvTranspose1d,
    nn.ConvTranspose2d: FastConvTranspose2d,
    nn.ConvTranspose3d: FastConvTranspose3d,
}
_PLAIN = {fast: plain for plain, fast in _FAST.items()}


def accelerate(model: Model, *, inference: bool = False) -> Model:
    """Let fastconv compute the convolutions of a model on the CPU.

    Parameters
    ----------
    model : torch.nn.Module
        Its `nn.Conv*` and `nn.ConvTranspose*`, wherever they are, are exchanged; other layers, and subclasses of
        these, stay as they are.
    inference : bool
        False changes `model` itself and keeps everything that it is made of: parameters, hooks, state_dict, training.
        `restore` undoes it. Tensors that fastconv does not take (another device, bfloat16, autocast) go PyTorch's way.

        True leaves `model` alone and returns a copy that can only be evaluated: weights are prepared once, a
        BatchNorm behind a convolution is folded into its weights, and an activation and the addition of a residual are
        applied where the convolution's sums are stored. The model must be in evaluation mode and be one that
        `torch.fx` can trace.

    Returns
    -------
    torch.nn.Module
        `model`, or the copy.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    >>> type(accelerate(model)[0]).__name__
    'FastConv2d'
    >>> fast = accelerate(model.eval(), inference=True)
    >>> fast(torch.zeros(1, 3, 9, 9)).shape
    torch.Size([1, 8, 7, 7])
    >>> type(restore(model)[0]).__name__
    'Conv2d'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if inference:
        return for_inference(model)
    for layer in model.modules():
        layer.__class__ = _FAST.get(type(layer), type(layer))
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate` (without `inference`).

    Parameters
    ----------
    model : torch.nn.Module
        An accelerated model.

    Returns
    -------
    torch.nn.Module
        `model`, its convolutions PyTorch's again.

    Examples
    --------
    >>> import torch
    >>> from fastconv.integrations.torch import accelerate, restore
    >>> restore(accelerate(torch.nn.Conv1d(2, 4, 3)))
    Conv1d(2, 4, kernel_size=(3,), stride=(1,))
    """
    for layer in model.modules():
        layer.__class__ = _PLAIN.get(type(layer), type(layer))
    return model
