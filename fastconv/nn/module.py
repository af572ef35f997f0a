"""What every layer is: parameters, a forward and a backward pass, a state that can be saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.receptive import Window

__all__ = ["Module", "Parameter", "Sequential", "manual_seed"]

_generator = np.random.default_rng()


def manual_seed(seed: int) -> None:
    """Make the weights and dropout seeds of all layers built or run from now on repeatable.

    Parameters
    ----------
    seed : int

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.manual_seed(0)
    """
    global _generator
    _generator = np.random.default_rng(seed)


def generator() -> np.random.Generator:
    """The source of all random numbers of this package."""
    return _generator


class Parameter:
    """A learned array and its gradient.

    Attributes
    ----------
    data : numpy.ndarray
    grad : numpy.ndarray or None
        Sum of the gradients since `zero_grad`; None where there was none.
    """

    __slots__ = ("data", "grad")

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.grad: np.ndarray | None = None

    def accumulate(self, gradient: np.ndarray) -> None:
        """Add a gradient."""
        if self.grad is None:
            self.grad = gradient
        else:
            self.grad += gradient

    def __repr__(self) -> str:
        return f"Parameter({'x'.join(map(str, self.data.shape))} {self.data.dtype})"


def uniform(shape: tuple[int, ...], fan_in: int, dtype: Any) -> Parameter:
    """Weights uniform within 1 / sqrt(fan_in), PyTorch's default: a third of the variance that He et al. derive."""
    bound = fan_in**-0.5
    return Parameter(generator().uniform(-bound, bound, shape).astype(dtype))


class Module:
    """Base of all layers.

    A layer computes with `forward` and differentiates its last forward pass with `backward`, which adds to the
    gradients of its parameters and returns the gradient of its input. Only layers in training mode remember what
    `backward` needs. Attributes that are parameters or modules, or lists of modules, are found by themselves.
    """

    training = True
    #: Names of arrays that belong to the state but are not learned.
    buffers: tuple[str, ...] = ()

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The layer's result for x."""
        raise NotImplementedError

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """Gradient of the last x, from the gradient of the last result."""
        raise NotImplementedError

    def backward_parameters(self, grad: np.ndarray) -> None:
        """`backward` where nobody needs the gradient of x, as in a network's first layer."""
        self.backward(grad)

    def __call__(self, x: Any) -> Any:
        return self.forward(x)

    # ---- what the layer is made of --------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, Module]]:
        """Modules among the attributes, with their names."""
        for name, value in vars(self).items():
            if name.startswith("_"):
                continue
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                for index, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{index}", item

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """All parameters."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self, mode: bool = True) -> Module:
        """Set training mode (or with False leave it); returns the module."""
        for module in self.modules():
            module.training = mode
            module.forget()
        return self

    def eval(self) -> Module:
        """Leave training mode: statistics stay, nothing drops out, weights are packed once and kept.

        Call it again after changing the data of a parameter in place.
        """
        return self.train(False)

    def forget(self) -> None:
        """Drop what is derived from parameters or kept for `backward`."""

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    # ---- state ----------------------------------------------------------------------------------------------------

    def _state(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.data
            elif name in self.buffers and value is not None:
                yield prefix + name, value
        for name, child in self.children():
            yield from child._state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name."""
        return {name: array.copy() for name, array in self._state()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over parameters and buffers; names, shapes and dtypes must be those of this module."""
        own = dict(self._state())
        if set(own) != set(state):
            missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
            raise ValueError(f"state must have this module's names; missing: {missing}, unknown: {extra}")
        for name, array in own.items():  # all are checked before any is changed
            given = np.asarray(state[name])
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(
                    f"state[{name!r}] must have shape {array.shape} and dtype {array.dtype}, got {given.shape} "
                    f"{given.dtype}"
                )
        for name, array in own.items():
            array[...] = state[name]
        for module in self.modules():
            module.forget()

    def save(self, path: str | Path) -> None:
        """Write the state to an ``.npz`` file: plain arrays, no pickle."""
        with open(path, "wb") as file:
            arrays: Any = self.state_dict()  # NumPy 2.0 would store an argument `allow_pickle` as another array
            np.savez(file, **arrays)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote; files that hold pickled objects are refused."""
        with np.load(path, allow_pickle=False) as state:
            self.load_state_dict({name: state[name] for name in state.files})

    # ---- what summary() asks --------------------------------------------------------------------------------------

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        """How outputs see inputs of this shape along each spatial axis; None where each sees everything."""
        return [Window(1)] * (len(shape) - 2)

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        """Floating-point operations of the forward pass, 2 for a multiply-add; 0 where they do not count."""
        return 0

    def algorithm(self, x_shape: tuple[int, ...]) -> str:
        """What the dispatcher chose, for layers that have a choice."""
        return ""

    def extra(self) -> str:
        """Arguments as `repr` shows them."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra()})"


class Sequential(Module):
    """Layers one after another.

    Parameters
    ----------
    *layers : Module

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    >>> net(np.ones((2, 3, 8, 8), np.float32)).shape
    (2, 10)
    >>> net.backward(np.ones((2, 10), np.float32)).shape
    (2, 3, 8, 8)
    >>> net[0].weight.grad.shape
    (8, 3, 3, 3)
    """

    def __init__(self, *layers: Module) -> None:
        for index, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"layers[{index}] must be a Module, got {layer!r}")
        self.layers = list(layers)

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, grad: np.ndarray) -> np.ndarray:
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad

    def backward_parameters(self, grad: np.ndarray) -> None:
        for layer in reversed(self.layers[1:]):
            grad = layer.backward(grad)
        if self.layers:
            self.layers[0].backward_parameters(grad)

    def children(self) -> Iterator[tuple[str, Module]]:
        for index, layer in enumerate(self.layers):
            yield str(index), layer

    def __getitem__(self, index: int | slice) -> Any:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __repr__(self) -> str:
        lines = [f"  {repr(layer).replace(chr(10), chr(10) + '  ')}," for layer in self.layers]
        return "\n".join(["Sequential(", *lines, ")"])


def remembered(saved: Any, layer: Module) -> Any:
    """What forward left for backward; an error if it left nothing."""
    if saved is None:
        raise RuntimeError(f"{layer!r}: backward needs a forward pass in training mode before it")
    return saved
