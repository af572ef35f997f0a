"""Convolutions, transposed convolutions, linear and locally connected layers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

import fastconv.conv as _conv
import fastconv.transpose as _transpose
from fastconv import grad as _grad
from fastconv.linear import linear, linear_backward
from fastconv.local import locally_connected, locally_connected_backward, locally_connected_shape
from fastconv.nn.module import Module, Parameter, remembered, uniform
from fastconv.planning import plan
from fastconv.prepared import prepare
from fastconv.receptive import Window
from fastconv.spec import IntOrTuple, PaddingLike, per_axis, resolve_padding

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnected3d",
]


class _Filters(Module):
    """What convolutions share: a weight, maybe a bias, and options of the function that uses them."""

    ndim = 2

    def __init__(
        self, weight_shape: tuple[int, ...], out_channels: int, fan_in: int, bias: bool, dtype: Any, **options: Any
    ) -> None:
        self.weight = uniform(weight_shape, fan_in, dtype)
        self.bias = uniform((out_channels,), fan_in, dtype) if bias else None
        self.options = options
        self.forget()

    def forget(self) -> None:
        self._prepared: Any = None
        self._x: np.ndarray | None = None

    def _bias(self) -> np.ndarray | None:
        return None if self.bias is None else self.bias.data

    def _add_bias_gradient(self, gradient: np.ndarray) -> None:
        if self.bias is not None:
            self.bias.accumulate(_grad.conv_bias(gradient))

    def extra(self) -> str:
        defaults: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}
        defaults |= {"padding_mode": "zeros", "bias": True}
        given = {**self.options, "bias": self.bias is not None}
        options = [f"{name}={value!r}" for name, value in given.items() if value != defaults.get(name)]
        return ", ".join(["x".join(map(str, self.weight.data.shape)), *options])


class _Conv(_Filters):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: PaddingLike = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: Any = np.float32,
    ) -> None:
        C, OC = per_axis("in_channels", in_channels, 1)[0], per_axis("out_channels", out_channels, 1)[0]
        kernel, groups = per_axis("kernel_size", kernel_size, self.ndim), per_axis("groups", groups, 1)[0]
        if C % groups or OC % groups:
            raise ValueError(f"groups must divide the channels: groups={groups}, in_channels={C}, out_channels={OC}")
        shape = (OC, C // groups, *kernel)
        super().__init__(
            shape, OC, prod(shape[1:]), bias, dtype, stride=stride, padding=padding, dilation=dilation, groups=groups,
            padding_mode=padding_mode,
        )  # fmt: skip

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not self.training:
            if self._prepared is None:
                self._prepared = prepare(self.weight.data, self._bias(), **self.options)
            return self._prepared(x)
        self._x = x
        function = (_conv.conv1d, _conv.conv2d, _conv.conv3d)[self.ndim - 1]
        return function(x, self.weight.data, self._bias(), **self.options)

    def _gradients(self, grad: np.ndarray, needs_input: bool) -> np.ndarray | None:
        x = remembered(self._x, self)
        function = (_grad.conv1d_backward, _grad.conv2d_backward, _grad.conv3d_backward)[self.ndim - 1]
        needs = (needs_input, True, self.bias is not None)
        grad_x, grad_weight, grad_bias = function(x, self.weight.data, grad, needs=needs, **self.options)
        assert grad_weight is not None
        self.weight.accumulate(grad_weight)
        if self.bias is not None and grad_bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_x

    def backward(self, grad: np.ndarray) -> np.ndarray:
        grad_x = self._gradients(grad, True)
        assert grad_x is not None
        return grad_x

    def backward_parameters(self, grad: np.ndarray) -> None:
        self._gradients(grad, False)

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        kernel = self.weight.data.shape[2:]
        stride = per_axis("stride", self.options["stride"], self.ndim)
        dilation = per_axis("dilation", self.options["dilation"], self.ndim)
        extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        padding = resolve_padding(self.options["padding"], tuple(shape[2:]), extent, stride)
        return [Window(k, s, lo, d) for k, s, (lo, _), d in zip(kernel, stride, padding, dilation, strict=True)]

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * prod(y_shape) * prod(self.weight.data.shape[1:])

    def algorithm(self, x_shape: tuple[int, ...]) -> str:
        return plan(x_shape, self.weight.data.shape, dtype=self.weight.data.dtype, **self.options).algorithm


class Conv1d(_Conv):
    """One-dimensional convolution with learned filters; all is as in `Conv2d`."""

    ndim = 1


class Conv2d(_Conv):
    """Two-dimensional convolution with learned filters.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or tuple
    stride, padding, dilation, groups, padding_mode
        As for `fastconv.conv2d`.
    bias : bool
        Whether each output channel has a learned constant.
    dtype : dtype
        Of the parameters, and so of the data.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.Conv2d(3, 10, 5, padding=2)
    >>> layer(np.zeros((1, 3, 32, 32), np.float32)).shape, sum(p.data.size for p in layer.parameters())
    ((1, 10, 32, 32), 760)
    """

    ndim = 2


class Conv3d(_Conv):
    """Three-dimensional convolution with learned filters; all is as in `Conv2d`."""

    ndim = 3


class _ConvTranspose(_Filters):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: PaddingLike = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrTuple = 1,
        dtype: Any = np.float32,
    ) -> None:
        C, OC = per_axis("in_channels", in_channels, 1)[0], per_axis("out_channels", out_channels, 1)[0]
        kernel, groups = per_axis("kernel_size", kernel_size, self.ndim), per_axis("groups", groups, 1)[0]
        if C % groups or OC % groups:
            raise ValueError(f"groups must divide the channels: groups={groups}, in_channels={C}, out_channels={OC}")
        shape = (C, OC // groups, *kernel)
        super().__init__(
            shape, OC, prod(shape[1:]), bias, dtype, stride=stride, padding=padding, output_padding=output_padding,
            groups=groups, dilation=dilation,
        )  # fmt: skip

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not self.training:
            if self._prepared is None:
                self._prepared = _transpose.prepare_transpose(self.weight.data, self._bias(), **self.options)
            return self._prepared(x)
        self._x = x
        function = (_transpose.conv_transpose1d, _transpose.conv_transpose2d, _transpose.conv_transpose3d)
        return function[self.ndim - 1](x, self.weight.data, self._bias(), **self.options)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The adjoint of the adjoint: the gradient of x is the convolution of the gradient of the result."""
        self.backward_parameters(grad)
        options = {name: value for name, value in self.options.items() if name != "output_padding"}
        function = (_conv.conv1d, _conv.conv2d, _conv.conv3d)[self.ndim - 1]
        return function(grad, self.weight.data, **options)

    def backward_parameters(self, grad: np.ndarray) -> None:
        x = remembered(self._x, self)
        options = {name: value for name, value in self.options.items() if name != "output_padding"}
        function = (_grad.conv1d_weight, _grad.conv2d_weight, _grad.conv3d_weight)[self.ndim - 1]
        self.weight.accumulate(function(grad, self.weight.data.shape, x, **options))
        self._add_bias_gradient(grad)

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        kernel, ndim = self.weight.data.shape[2:], self.ndim
        stride, dilation = (per_axis(name, self.options[name], ndim) for name in ("stride", "dilation"))
        extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        padding = resolve_padding(self.options["padding"], tuple(shape[2:]), extent, stride)
        return [
            Window(k, s, lo, d, transposed=True)
            for k, s, (lo, _), d in zip(kernel, stride, padding, dilation, strict=True)
        ]

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * prod(x_shape) * prod(self.weight.data.shape[1:])


class ConvTranspose1d(_ConvTranspose):
    """One-dimensional transposed convolution; all is as in `ConvTranspose2d`."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """Two-dimensional transposed convolution with learned filters.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or tuple
    stride, padding, output_padding, groups, dilation
        As for `fastconv.conv_transpose2d`.
    bias : bool
        Whether each output channel has a learned constant.
    dtype : dtype
        Of the parameters, and so of the data.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ConvTranspose2d(8, 3, 2, stride=2)(np.zeros((1, 8, 5, 5), np.float32)).shape
    (1, 3, 10, 10)
    """

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """Three-dimensional transposed convolution; all is as in `ConvTranspose2d`."""

    ndim = 3


class Linear(Module):
    """Fully connected layer.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : dtype

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Linear(3, 2)(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: Any = np.float32) -> None:
        IN, OUT = per_axis("in_features", in_features, 1)[0], per_axis("out_features", out_features, 1)[0]
        self.weight = uniform((OUT, IN), IN, dtype)
        self.bias = uniform((OUT,), IN, dtype) if bias else None
        self.forget()

    def forget(self) -> None:
        self._x: np.ndarray | None = None
        self._prepared: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        bias = None if self.bias is None else self.bias.data
        if self.training:
            self._x = x
            return linear(x, self.weight.data, bias)
        if self._prepared is None:
            self._prepared = prepare(self.weight.data[:, :, None], bias, layout="NLC")
        x = np.asarray(x)
        if x.ndim == 2 and len(x):
            return self._prepared(x[None])[0]
        return linear(x, self.weight.data, bias)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        grad_x, grad_weight, grad_bias = linear_backward(grad, remembered(self._x, self), self.weight.data)
        self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_x

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * prod(y_shape) * self.weight.data.shape[1]

    def algorithm(self, x_shape: tuple[int, ...]) -> str:
        rows = (1, prod(x_shape[:-1]), x_shape[-1])
        return plan(rows, (*self.weight.data.shape, 1), dtype=self.weight.data.dtype, layout="NLC").algorithm

    def extra(self) -> str:
        OUT, IN = self.weight.data.shape
        return f"{IN}, {OUT}" + ("" if self.bias is not None else ", bias=False")


class _LocallyConnected(Module):
    ndim = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: IntOrTuple,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: PaddingLike = 0,
        dilation: IntOrTuple = 1,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        kernel, size = per_axis("kernel_size", kernel_size, self.ndim), per_axis("input_size", input_size, self.ndim)
        self.options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        shape = locally_connected_shape((1, in_channels, *size), out_channels, kernel, **self.options)
        fan_in = in_channels * prod(kernel)
        self.weight = uniform(shape, fan_in, dtype)
        self.bias: Parameter | None = uniform(shape[: self.ndim + 1], fan_in, dtype) if bias else None
        self.forget()

    def forget(self) -> None:
        self._x: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            self._x = x
        return locally_connected(x, self.weight.data, None if self.bias is None else self.bias.data, **self.options)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        x = remembered(self._x, self)
        grad_x, grad_weight, grad_bias = locally_connected_backward(grad, x, self.weight.data, **self.options)
        self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_x

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        kernel = self.weight.data.shape[self.ndim + 2 :]
        stride, dilation = (per_axis(name, self.options[name], self.ndim) for name in ("stride", "dilation"))
        extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        padding = resolve_padding(self.options["padding"], tuple(shape[2:]), extent, stride)
        return [Window(k, s, lo, d) for k, s, (lo, _), d in zip(kernel, stride, padding, dilation, strict=True)]

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * y_shape[0] * self.weight.data.size

    def extra(self) -> str:
        return "x".join(map(str, self.weight.data.shape))


class LocallyConnected1d(_LocallyConnected):
    """One-dimensional locally connected layer; all is as in `LocallyConnected2d`."""

    ndim = 1


class LocallyConnected2d(_LocallyConnected):
    """Convolution whose filters differ from position to position.

    Parameters
    ----------
    in_channels, out_channels : int
    input_size : int or tuple
        Height and width of the input, which fix the number of filters.
    kernel_size : int or tuple
    stride, padding, dilation
        As for `fastconv.locally_connected`.
    bias : bool
    dtype : dtype

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LocallyConnected2d(1, 4, 8, 3)(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 4, 6, 6)
    """

    ndim = 2


class LocallyConnected3d(_LocallyConnected):
    """Three-dimensional locally connected layer; all is as in `LocallyConnected2d`."""

    ndim = 3
