"""Losses and optimisers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastconv.activation import cross_entropy, cross_entropy_backward
from fastconv.features import as_float, number
from fastconv.nn.module import Parameter

__all__ = ["SGD", "Adam", "CrossEntropyLoss", "MSELoss"]


class CrossEntropyLoss:
    """Cross-entropy of the softmax of scores and true classes: `fastconv.cross_entropy`.

    Parameters
    ----------
    weight : array_like, optional
        How much each class counts.
    ignore_index : int
        A class that counts nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> loss = nn.CrossEntropyLoss()
    >>> round(loss(np.zeros((1, 4), np.float32), [2]), 4)
    1.3863
    >>> loss.backward()
    array([[ 0.25,  0.25, -0.75,  0.25]], dtype=float32)
    """

    def __init__(self, weight: Any = None, ignore_index: int = -100) -> None:
        self.options = {"weight": weight, "ignore_index": ignore_index}
        self._saved: Any = None

    def __call__(self, logits: np.ndarray, target: Any) -> float:
        self._saved = logits, target
        return cross_entropy(logits, target, **self.options)

    def backward(self) -> np.ndarray:
        """Gradient of the last logits."""
        if self._saved is None:
            raise RuntimeError("backward needs a loss to have been computed before it")
        return cross_entropy_backward(*self._saved, **self.options)


class MSELoss:
    """Mean of the squared differences.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> loss = nn.MSELoss()
    >>> loss(np.float32([1, 3]), np.float32([1, 1])), loss.backward().tolist()
    (2.0, [0.0, 2.0])
    """

    def __init__(self) -> None:
        self._difference: np.ndarray | None = None

    def __call__(self, prediction: np.ndarray, target: Any) -> float:
        prediction, target = as_float("prediction", prediction), as_float("target", target)
        if prediction.shape != target.shape:
            raise ValueError(f"target must have the shape of prediction, {prediction.shape}, got {target.shape}")
        self._difference = prediction - target
        return float(np.square(self._difference, dtype=np.float64).mean())

    def backward(self) -> np.ndarray:
        """Gradient of the last prediction."""
        if self._difference is None:
            raise RuntimeError("backward needs a loss to have been computed before it")
        return self._difference * self._difference.dtype.type(2 / self._difference.size)


class _Optimiser:
    def __init__(self, parameters: Iterable[Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        for parameter in self.parameters:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"parameters must be Parameters, as of Module.parameters(), got {parameter!r}")
        self.lr, self.weight_decay = number("lr", lr, 0.0), number("weight_decay", weight_decay, 0.0)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _gradients(self) -> Iterable[tuple[int, np.ndarray, np.ndarray]]:
        """Number, data and gradient of every parameter that has one, weight decay included."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if self.weight_decay:
                gradient = gradient + gradient.dtype.type(self.weight_decay) * parameter.data
            yield index, parameter.data, gradient


class SGD(_Optimiser):
    """Stochastic gradient descent with momentum: ``v = momentum v + g``, ``w -= lr v``.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        Learning rate; may be changed between steps.
    momentum : float
    weight_decay : float
        Adds ``weight_decay * w`` to every gradient: the gradient of an L2 penalty.
    nesterov : bool
        Step along ``g + momentum v``.

    References
    ----------
    I. Sutskever et al.: On the importance of initialization and momentum in deep learning, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> w = nn.Parameter(np.float64([1.0]))
    >>> step = nn.SGD([w], lr=0.1)
    >>> w.grad = 2 * w.data
    >>> step.step()
    >>> w.data
    array([0.8])
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.momentum, self.nesterov = number("momentum", momentum, 0.0), bool(nesterov)
        self._velocity: dict[int, np.ndarray] = {}

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for index, data, gradient in self._gradients():
            kind = data.dtype.type
            if self.momentum:
                velocity = self._velocity.get(index)
                if velocity is None:
                    velocity = self._velocity[index] = gradient.copy()
                else:
                    velocity *= kind(self.momentum)
                    velocity += gradient
                gradient = gradient + kind(self.momentum) * velocity if self.nesterov else velocity
            data -= kind(self.lr) * gradient


class Adam(_Optimiser):
    """Steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
    betas : (float, float)
        How much of the two means a step keeps.
    eps : float
    weight_decay : float
        Adds ``weight_decay * w`` to every gradient.

    References
    ----------
    D. Kingma, J. Ba: Adam, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> w = nn.Parameter(np.float64([1.0]))
    >>> step = nn.Adam([w], lr=0.1)
    >>> w.grad = np.float64([123.0])
    >>> step.step()  # the first step is lr, whatever the gradient
    >>> w.data.round(6)
    array([0.9])
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.betas = number("betas[0]", betas[0], 0.0, 1.0), number("betas[1]", betas[1], 0.0, 1.0)
        self.eps = number("eps", eps, 0.0)
        self._moments: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._steps: dict[int, int] = {}

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        first, second = self.betas
        for index, data, gradient in self._gradients():
            kind = data.dtype.type
            mean, square = self._moments.setdefault(index, (np.zeros_like(data), np.zeros_like(data)))
            t = self._steps[index] = self._steps.get(index, 0) + 1
            mean += kind(1 - first) * (gradient - mean)
            square += kind(1 - second) * (gradient * gradient - square)
            root = np.sqrt(square * kind(1 / (1 - second**t))) + kind(self.eps)
            data -= kind(self.lr / (1 - first**t)) * mean / root
