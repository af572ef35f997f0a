"""A PyTorch model rewritten for evaluation: `torch.fx` finds what follows each convolution, fastconv computes it all.

    activation(BatchNorm(conv(x)) + residual)

BatchNorm in evaluation is an affine map of each channel, and goes into weight and bias: w' = w s, b' = (b - mean) s +
beta with s = gamma / sqrt(var + eps) (Jacob et al. 2018, section 3.2). Activation and residual go into the epilogue.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import fastconv
from fastconv.integrations.torch_operators import array_of, flat_padding, pairs

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DTYPES = (torch.float16, torch.float32, torch.float64)

# What an activation is called here, by layer (a function of it), function and method.
_LAYERS: dict[type, Callable[[Any], Any]] = {
    nn.ReLU: lambda layer: "relu",
    nn.ReLU6: lambda layer: "relu6",
    nn.SiLU: lambda layer: "silu",
    nn.Hardswish: lambda layer: "hardswish",
    nn.Sigmoid: lambda layer: "sigmoid",
    nn.Tanh: lambda layer: "tanh",
    nn.LeakyReLU: lambda layer: ("leaky_relu", layer.negative_slope),
    nn.Hardtanh: lambda layer: ("clip", layer.min_val, layer.max_val),
}
_FUNCTIONS: dict[Any, str] = {
    functional.relu: "relu", functional.relu_: "relu", torch.relu: "relu", torch.relu_: "relu",
    functional.relu6: "relu6", functional.silu: "silu", functional.hardswish: "hardswish",
    torch.sigmoid: "sigmoid", functional.sigmoid: "sigmoid", torch.tanh: "tanh", functional.tanh: "tanh",
}  # fmt: skip
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh"}
_ADDITIONS = (operator.add, operator.iadd, torch.add)


class InferenceConv(nn.Module):
    """A convolution with everything that was folded into it. It has no parameters and records no gradients."""

    def __init__(self, prepared: Any) -> None:
        super().__init__()
        self.prepared = prepared
        self.eval()

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: A002
        x = array_of(input)
        if residual is None:
            return torch.from_numpy(self.prepared(x))
        batched = input.dim() == self.prepared.ndim + 2
        shape = self.prepared.plan(input.shape if batched else (1, *input.shape)).spec.out_shape
        shape = (input.shape[0], *shape[1:]) if batched else shape[1:]
        return torch.from_numpy(self.prepared(x, residual=array_of(residual.broadcast_to(shape))))

    def extra_repr(self) -> str:
        return repr(self.prepared)


def for_inference(model: nn.Module) -> nn.Module:
    """A copy of `model` for evaluation; see `fastconv.integrations.torch.accelerate`."""
    from fastconv.integrations.torch_layers import restore

    if any(layer.training for layer in model.modules()):
        raise ValueError("model must be in evaluation mode: call model.eval() first")
    own = restore(copy.deepcopy(model))
    if isinstance(own, (*_CONVOLUTIONS, *_TRANSPOSED)):
        own = nn.Sequential(own).eval()  # fx wants a graph around a layer
    try:
        traced = fx.symbolic_trace(own)
    except Exception as error:
        raise ValueError(
            f"model must be one that torch.fx can trace, for inference=True; {type(model).__name__} is not: {error}"
        ) from error
    layers = dict(traced.named_modules())
    count = 0
    for node in list(traced.graph.nodes):
        if (
            node.op == "call_module"
            and _is_convolution(layers[node.target])
            and len(node.args) == 1
            and not node.kwargs
        ):
            _fold(traced, layers, node, f"fastconv_{count}")
            count += 1
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _is_convolution(layer: nn.Module) -> bool:
    if type(layer) not in (*_CONVOLUTIONS, *_TRANSPOSED):
        return False
    weight: Any = layer.weight
    return weight.dtype in _DTYPES and weight.device.type == "cpu"


def _fold(traced: fx.GraphModule, layers: dict[str, nn.Module], node: fx.Node, name: str) -> None:
    """Put one prepared convolution in the place of `node` and of what can be computed with it."""
    layer: Any = layers[node.target]
    transposed = isinstance(layer, _TRANSPOSED)
    last, norm, residual, activation = node, None, None, None
    follower = _only_user(last)
    if follower is not None and _is_norm(follower, layers):
        norm, last = layers[follower.target], follower
        follower = _only_user(last)
    if follower is not None and not transposed and _is_addition(follower):
        one, other = follower.args
        residual, last = (other if one is last else one), follower
        follower = _only_user(last)
    if follower is not None:
        activation = _activation(follower, layers)
        last = follower if activation is not None else last
    layers[name] = InferenceConv(_prepared(layer, norm, activation))
    traced.add_module(name, layers[name])
    with traced.graph.inserting_after(last):
        inputs = (node.args[0],) if residual is None else (node.args[0], residual)
        new = traced.graph.call_module(name, inputs)
    last.replace_all_uses_with(new)
    while last is not node:  # from the end: an operation goes when nobody uses it
        before = next(n for n in last.all_input_nodes if n is node or n in _between(node, last))
        traced.graph.erase_node(last)
        last = before
    traced.graph.erase_node(node)


def _between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """The chain of only users that leads from `first` to `last`."""
    chain, current = [], first
    while current is not last:
        chain.append(current)
        (current,) = current.users
    return chain


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_norm(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    if node.op != "call_module" or type(layers[node.target]) not in _NORMS:
        return False
    norm: Any = layers[node.target]
    return norm.running_mean is not None and norm.running_var is not None


def _is_addition(node: fx.Node) -> bool:
    function = node.op == "call_function" and node.target in _ADDITIONS
    method = node.op == "call_method" and node.target in ("add", "add_")
    return (
        (function or method)
        and len(node.args) == 2
        and not node.kwargs
        and all(isinstance(argument, fx.Node) for argument in node.args)
        and node.args[0] is not node.args[1]
    )


def _activation(node: fx.Node, layers: dict[str, nn.Module]) -> Any:
    """fastconv's name for what the node applies, None if it has none."""
    if node.op == "call_module":
        layer = layers[node.target]
        found = _LAYERS.get(type(layer))
        return None if found is None else found(layer)
    plain = len(node.args) == 1 and set(node.kwargs) <= {"inplace"}
    if not plain:
        return None
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    return _METHODS.get(str(node.target)) if node.op == "call_method" else None


def _prepared(layer: Any, norm: Any, activation: Any) -> Any:
    """The layer with BatchNorm folded in, its weights prepared."""
    weight, bias = array_of(layer.weight), None if layer.bias is None else array_of(layer.bias)
    transposed = isinstance(layer, _TRANSPOSED)
    if norm is not None:
        weight, bias = _folded(weight, bias, norm, layer.groups if transposed else 0)
    options = {
        "stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups, "activation": activation,
    }  # fmt: skip
    if transposed:
        return fastconv.prepare_transpose(
            weight, bias, padding=layer.padding, output_padding=layer.output_padding, **options
        )
    return fastconv.prepare(
        weight, bias, padding=pairs(flat_padding(layer)), padding_mode=layer.padding_mode, **options
    )


def _folded(weight: np.ndarray, bias: Any, norm: Any, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias with the norm's affine map; `groups` is 0 for a convolution, whose filters come first."""
    mean, variance = array_of(norm.running_mean).astype(np.float64), array_of(norm.running_var).astype(np.float64)
    scale = 1 / np.sqrt(variance + norm.eps)
    shift = -mean if bias is None else bias - mean
    if norm.weight is not None:
        scale = scale * array_of(norm.weight)
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + array_of(norm.bias)
    if groups:
        C, filters, *kernel = weight.shape
        by_group = weight.reshape(groups, C // groups, filters, -1) * scale.reshape(groups, 1, filters, 1)
        scaled = by_group.reshape(C, filters, *kernel)
    else:
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return scaled.astype(weight.dtype), shift.astype(weight.dtype)
