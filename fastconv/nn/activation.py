"""Activations, dropout, and flattening."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv import activation as functions
from fastconv.dropout import dropout, dropout_backward
from fastconv.features import number
from fastconv.nn.module import Module, generator, remembered
from fastconv.receptive import Window

__all__ = [
    "ELU", "Dropout", "Dropout2d", "Flatten", "Hardswish", "Identity", "LeakyReLU", "LogSoftmax", "ReLU", "ReLU6",
    "SiLU", "Sigmoid", "Softmax", "Tanh",
]  # fmt: skip


class _Activation(Module):
    """An element-wise function, by the name that `fastconv.activate` knows."""

    function: Any = None

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._x: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            self._x = x
        return functions.activate(x, self.function)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return functions.activate_backward(grad, remembered(self._x, self), self.function)

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return [Window(1)] * max(0, len(shape) - 2)


class ReLU(_Activation):
    """max(x, 0).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.ReLU()(np.float32([-1, 2]))
    array([0., 2.], dtype=float32)
    """

    function = "relu"


class ReLU6(_Activation):
    """min(max(x, 0), 6)."""

    function = "relu6"


class LeakyReLU(_Activation):
    """x, times `negative_slope` below 0."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.function = ("leaky_relu", number("negative_slope", negative_slope))

    def extra(self) -> str:
        return repr(self.function[1])


class ELU(_Activation):
    """x above 0, alpha (exp(x) - 1) below (Clevert, Unterthiner & Hochreiter 2016)."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.function = ("elu", number("alpha", alpha))

    def extra(self) -> str:
        return repr(self.function[1])


class SiLU(_Activation):
    """x sigmoid(x)."""

    function = "silu"


class Hardswish(_Activation):
    """x min(max(x + 3, 0), 6) / 6."""

    function = "hardswish"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    function = "sigmoid"


class Tanh(_Activation):
    """The hyperbolic tangent."""

    function = "tanh"


class Softmax(Module):
    """Scores to probabilities along an axis: `fastconv.softmax`."""

    logarithm = False

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.forget()

    def forget(self) -> None:
        self._y: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = (functions.log_softmax if self.logarithm else functions.softmax)(x, self.axis)
        if self.training:
            self._y = y
        return y

    def backward(self, grad: np.ndarray) -> np.ndarray:
        function = functions.log_softmax_backward if self.logarithm else functions.softmax_backward
        return function(grad, remembered(self._y, self), self.axis)

    def extra(self) -> str:
        return f"axis={self.axis}"


class LogSoftmax(Softmax):
    """The logarithm of `Softmax`: `fastconv.log_softmax`."""

    logarithm = True


class Dropout(Module):
    """Zeroes elements with probability p in training: `fastconv.dropout`.

    Parameters
    ----------
    p : float

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Dropout(0.5).eval()(np.ones((1, 3), np.float32))
    array([[1., 1., 1.]], dtype=float32)
    """

    channels = False

    def __init__(self, p: float = 0.5) -> None:
        self.p = number("p", p, 0.0, 1.0)
        self.forget()

    def forget(self) -> None:
        self._seed: int | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not self.training:
            return x
        self._seed = int(generator().integers(2**62))
        return dropout(x, self.p, seed=self._seed, channels=self.channels)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return dropout_backward(grad, self.p, seed=remembered(self._seed, self), channels=self.channels)

    def extra(self) -> str:
        return repr(self.p)


class Dropout2d(Dropout):
    """Zeroes whole channels with probability p in training."""

    channels = True


class Flatten(Module):
    """(N, C, *spatial) to (N, C * prod(spatial)).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Flatten()(np.ones((2, 3, 4, 5), np.float32)).shape
    (2, 60)
    """

    _shape: tuple[int, ...] | None = None

    def forget(self) -> None:
        self._shape = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        self._shape = np.shape(x)
        return np.reshape(x, (self._shape[0], prod(self._shape[1:])))

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return np.reshape(grad, remembered(self._shape, self))

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None


class Identity(Module):
    """x itself."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return grad
