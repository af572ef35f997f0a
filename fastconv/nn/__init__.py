"""Layers with parameters over fastconv's functions, losses and optimisers: enough to train a network.

The names and arguments are those of `torch.nn`, the data are NumPy arrays. A layer computes with `forward` and
differentiates by hand-written `backward`; there is no tape.

>>> import numpy as np
>>> from fastconv import nn
>>> nn.manual_seed(0)
>>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
>>> x, classes = np.random.default_rng(0).standard_normal((16, 1, 8, 8)).astype(np.float32), np.arange(16) % 2
>>> loss, optimiser = nn.CrossEntropyLoss(), nn.SGD(net.parameters(), lr=0.05, momentum=0.9)
>>> for step in range(40):
...     value = loss(net(x), classes)
...     optimiser.zero_grad()
...     net.backward_parameters(loss.backward())
...     optimiser.step()
>>> value < 0.1
True
"""

from fastconv.nn.activation import (
    ELU,
    Dropout,
    Dropout2d,
    Flatten,
    Hardswish,
    Identity,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from fastconv.nn.convert import fully_convolutional
from fastconv.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    LocallyConnected1d,
    LocallyConnected2d,
    LocallyConnected3d,
)
from fastconv.nn.module import Module, Parameter, Sequential, manual_seed
from fastconv.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    LocalResponseNorm,
)
from fastconv.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    AvgUnpool1d,
    AvgUnpool2d,
    AvgUnpool3d,
    BedOfNailsUnpool1d,
    BedOfNailsUnpool2d,
    BedOfNailsUnpool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    NearestUnpool1d,
    NearestUnpool2d,
    NearestUnpool3d,
    Upsample,
)
from fastconv.nn.summary import Summary, summary
from fastconv.nn.training import SGD, Adam, CrossEntropyLoss, MSELoss

__all__ = [
    "ELU",
    "SGD",
    "Adam",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "AvgUnpool1d",
    "AvgUnpool2d",
    "AvgUnpool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BedOfNailsUnpool1d",
    "BedOfNailsUnpool2d",
    "BedOfNailsUnpool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GroupNorm",
    "Hardswish",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnected3d",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Module",
    "NearestUnpool1d",
    "NearestUnpool2d",
    "NearestUnpool3d",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Summary",
    "Tanh",
    "Upsample",
    "fully_convolutional",
    "manual_seed",
    "summary",
]
