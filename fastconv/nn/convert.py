"""A network that classifies one picture, read as one that classifies every place of a larger picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastconv.linear import linear_to_conv
from fastconv.nn.activation import Dropout, Flatten
from fastconv.nn.convolution import Conv1d, Conv2d, Conv3d, Linear
from fastconv.nn.module import Module, Parameter, Sequential

__all__ = ["fully_convolutional"]


def fully_convolutional(network: Sequential, input_shape: Sequence[int]) -> Sequential:
    """Read the fully connected layers of a network as convolutions.

    The first one becomes a convolution whose kernel covers the feature map that was flattened, the others become 1x1
    convolutions. Not a number changes ("just squint"): the parameters are shared with the network. On an input of
    `input_shape` the result is the network's own, with spatial axes of size 1; on a larger one it is a map of results.

    Parameters
    ----------
    network : Sequential
        Convolutions, pools and the like, a `Flatten`, then `Linear` layers and activations.
    input_shape : sequence of int
        (C, *spatial), for which the network was made.

    Returns
    -------
    Sequential

    References
    ----------
    J. Long, E. Shelhamer, T. Darrell: Fully convolutional networks for semantic segmentation, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)).eval()
    >>> nn.fully_convolutional(net, (1, 8, 8))(np.zeros((1, 1, 20, 30), np.float32)).shape
    (1, 10, 7, 12)
    """
    layers: list[Module] = []
    flattened: tuple[int, ...] | None = None  # shape of the feature map, known after Flatten
    training = network.training
    x = np.zeros((1, *input_shape), _dtype(network))
    network.eval()
    try:
        for layer in network:
            y = layer(x)
            if isinstance(layer, Flatten):
                flattened = x.shape[1:]
            elif isinstance(layer, Linear):
                if flattened is None:
                    raise ValueError("network must flatten its feature map before its first Linear layer")
                layers.append(_as_convolution(layer, flattened))
                flattened = (layer.weight.data.shape[0], *(1 for _ in flattened[1:]))
            else:
                # Layers without parameters are taken anew, so that the two networks do not share what they remember.
                layers.append(Dropout(layer.p) if type(layer) is Dropout else layer)
            x = y
    finally:
        network.train(training)
    return Sequential(*layers)


def _dtype(network: Sequential) -> np.dtype:
    return next((p.data.dtype for p in network.parameters()), np.dtype(np.float32))


def _as_convolution(layer: Linear, shape: tuple[int, ...]) -> Module:
    kernel = shape[1:]
    if len(kernel) not in (1, 2, 3):
        raise ValueError(f"the flattened feature map must have 1 to 3 spatial axes, got shape {shape}")
    OUT = layer.weight.data.shape[0]
    kind = (Conv1d, Conv2d, Conv3d)[len(kernel) - 1]
    conv = kind(shape[0], OUT, kernel, bias=layer.bias is not None, dtype=layer.weight.data.dtype)
    conv.weight = Parameter(linear_to_conv(layer.weight.data, shape))
    if layer.bias is not None:
        conv.bias = Parameter(layer.bias.data)
    return conv
