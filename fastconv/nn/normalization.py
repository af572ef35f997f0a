"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import norm, norm_rows, response_norm
from fastconv.nn.module import Module, Parameter, remembered
from fastconv.receptive import Window
from fastconv.spec import per_axis

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
]


class _Norm(Module):
    """A norm with a learned scale and shift, or none, that remembers x and its statistics."""

    def __init__(self, shape: tuple[int, ...], eps: float, affine: bool, dtype: Any) -> None:
        self.eps = eps
        self.shape = shape
        self.weight = Parameter(np.ones(shape, dtype)) if affine else None
        self.bias = Parameter(np.zeros(shape, dtype)) if affine else None
        self.forget()

    def forget(self) -> None:
        self._saved: Any = None

    def _affine(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.weight is None or self.bias is None:
            return None, None
        return self.weight.data, self.bias.data

    def _keep(self, x: np.ndarray, results: tuple[Any, ...]) -> np.ndarray:
        y, *statistics = results
        if self.training:
            self._saved = x, *statistics
        return y

    def _accept(self, gradients: tuple[np.ndarray, Any, Any]) -> np.ndarray:
        grad_x, grad_weight, grad_bias = gradients
        if self.weight is not None and self.bias is not None:
            self.weight.accumulate(grad_weight)
            self.bias.accumulate(grad_bias)
        return grad_x

    def extra(self) -> str:
        size = self.shape[0] if len(self.shape) == 1 else self.shape
        return f"{size}, eps={self.eps!r}" + ("" if self.weight is not None else ", affine=False")


class _BatchNorm(_Norm):
    buffers = ("running_mean", "running_var")

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, dtype: Any = np.float32
    ) -> None:
        C = per_axis("num_features", num_features, 1)[0]
        super().__init__((C,), eps, affine, dtype)
        self.momentum = momentum
        self.running_mean, self.running_var = np.zeros(C, dtype), np.ones(C, dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        results = norm.batch_norm(
            x, self.running_mean, self.running_var, *self._affine(), training=self.training, momentum=self.momentum,
            eps=self.eps, return_stats=True,
        )  # fmt: skip
        return self._keep(x, results)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        x, mean, variance = remembered(self._saved, self)
        weight, _ = self._affine()
        return self._accept(
            norm.batch_norm_backward(grad, x, weight, mean=mean, variance=variance, eps=self.eps)
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """Batch norm of (N, C) or (N, C, L) features; all is as in `BatchNorm2d`."""


class BatchNorm2d(_BatchNorm):
    """Batch normalisation with running statistics.

    Parameters
    ----------
    num_features : int
        Channels.
    eps, momentum
        As for `fastconv.batch_norm`.
    affine : bool
        Whether a scale and a shift are learned.
    dtype : dtype

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.BatchNorm2d(3)
    >>> x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    >>> bool(abs(layer(x).mean()) < 1e-6), sorted(layer.state_dict())
    (True, ['bias', 'running_mean', 'running_var', 'weight'])
    """


class BatchNorm3d(_BatchNorm):
    """Batch norm of (N, C, D, H, W) features; all is as in `BatchNorm2d`."""


class GroupNorm(_Norm):
    """Group normalisation: `fastconv.group_norm`.

    Parameters
    ----------
    num_groups, num_channels : int
    eps : float
    affine : bool
    dtype : dtype

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.GroupNorm(2, 4, eps=0)(np.float32([[1, 3, 10, 30]]))
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, dtype: Any = np.float32
    ) -> None:
        self.num_groups = per_axis("num_groups", num_groups, 1)[0]
        super().__init__((per_axis("num_channels", num_channels, 1)[0],), eps, affine, dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self._keep(
            x, norm.group_norm(x, self.num_groups, *self._affine(), eps=self.eps, return_stats=True)
        )  # fmt: skip

    def backward(self, grad: np.ndarray) -> np.ndarray:
        x, mean, variance = remembered(self._saved, self)
        weight, _ = self._affine()
        return self._accept(
            norm.group_norm_backward(grad, x, self.num_groups, weight, mean=mean, variance=variance, eps=self.eps)
        )

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None

    def extra(self) -> str:
        return f"{self.num_groups}, {super().extra()}"


class _InstanceNorm(_Norm):
    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False, dtype: Any = np.float32) -> None:
        super().__init__((per_axis("num_features", num_features, 1)[0],), eps, affine, dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        weight, bias = self._affine()
        return self._keep(x, norm.instance_norm(x, None, None, weight, bias, eps=self.eps, return_stats=True))

    def backward(self, grad: np.ndarray) -> np.ndarray:
        x, mean, variance = remembered(self._saved, self)
        weight, _ = self._affine()
        return self._accept(
            norm.instance_norm_backward(grad, x, weight, mean=mean, variance=variance, eps=self.eps)
        )  # fmt: skip

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None


class InstanceNorm1d(_InstanceNorm):
    """Instance norm of (N, C, L) features; all is as in `InstanceNorm2d`."""


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation: `fastconv.instance_norm`, by the statistics of each image in training and out of it.

    Parameters
    ----------
    num_features : int
    eps : float
    affine : bool
        Whether a scale and a shift are learned; no by default.
    dtype : dtype

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.InstanceNorm2d(1, eps=0)(np.float32([[[[1, 3]]]]))
    array([[[[-1.,  1.]]]], dtype=float32)
    """


class InstanceNorm3d(_InstanceNorm):
    """Instance norm of (N, C, D, H, W) features; all is as in `InstanceNorm2d`."""


class LayerNorm(_Norm):
    """Layer normalisation over the trailing axes: `fastconv.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or sequence of int
    eps : float
    affine : bool
    dtype : dtype

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LayerNorm(2, eps=0)(np.float32([[1, 3]]))
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, affine: bool = True, dtype: Any = np.float32
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        super().__init__(shape, eps, affine, dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self._keep(
            x, norm_rows.layer_norm(x, self.shape, *self._affine(), eps=self.eps, return_stats=True)
        )  # fmt: skip

    def backward(self, grad: np.ndarray) -> np.ndarray:
        x, mean, variance = remembered(self._saved, self)
        weight, _ = self._affine()
        return self._accept(
            norm_rows.layer_norm_backward(grad, x, self.shape, weight, mean=mean, variance=variance, eps=self.eps)
        )

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None


class LocalResponseNorm(Module):
    """Local response normalisation: `fastconv.local_response_norm`.

    Parameters
    ----------
    size : int
    alpha, beta, k : float

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LocalResponseNorm(1, alpha=1.0, beta=0.5, k=0.0)(np.float32([[[2]]]))
    array([[[1.]]], dtype=float32)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.constants = size, alpha, beta, k
        self.forget()

    def forget(self) -> None:
        self._x: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            self._x = x
        return response_norm.local_response_norm(x, *self.constants)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return response_norm.local_response_norm_backward(grad, remembered(self._x, self), *self.constants)

    def extra(self) -> str:
        size, alpha, beta, k = self.constants
        return f"{size}, alpha={alpha!r}, beta={beta!r}, k={k!r}"
