"""The PyTorch integration: functions, gradients of any order, tracing, models."""

from __future__ import annotations

import copy
import pickle
import shutil
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install fastconv[torch]")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from fastconv.integrations import torch as fc  # noqa: E402
from fastconv.integrations.torch_inference import InferenceConv  # noqa: E402
from fastconv.integrations.torch_operators import (  # noqa: E402
    array_of,
    convolution,
    convolution_input,
    convolution_transpose,
    convolution_weight,
)

FUNCTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True, **options)


# ---- functions ------------------------------------------------------------------------------------------------------

CASES = [
    ("conv1d", (2, 4, 11), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("conv1d", (4, 11), (3, 4, 4), {"padding": "same", "dilation": 2}),
    ("conv2d", (2, 3, 9, 10), (5, 3, 3, 2), {"stride": (2, 1), "padding": (1, 2)}),
    ("conv2d", (3, 9, 10), (5, 3, 3, 3), {"padding": "same", "dilation": (1, 2)}),
    ("conv2d", (1, 4, 7, 7), (8, 1, 3, 3), {"groups": 4, "padding": [1]}),
    ("conv3d", (1, 2, 5, 6, 7), (3, 2, 2, 3, 3), {"padding": 1, "stride": 2}),
    ("conv_transpose1d", (2, 4, 5), (4, 3, 4), {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2}),
    ("conv_transpose2d", (2, 3, 5, 6), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("conv_transpose2d", (3, 5, 6), (3, 2, 3, 3), {"output_padding": (0, 2), "dilation": (1, 3)}),
    ("conv_transpose3d", (1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"stride": (1, 2, 3)}),
]


@pytest.mark.parametrize(("name", "x_shape", "w_shape", "options"), CASES)
def test_functions_and_gradients(name, x_shape, w_shape, options):
    """What torch computes, and its three gradients."""
    filters = w_shape[0] if "transpose" not in name else w_shape[1] * options.get("groups", 1)
    tensors = double(*x_shape), double(*w_shape), double(filters)
    results = []
    for library in (fc, functional):
        y = getattr(library, name)(*tensors, **options)
        g = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        results.append((y, *torch.autograd.grad(y, tensors, g)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def samples(name: str, dtype):
    """PyTorch's own test problems."""
    pytest.importorskip("expecttest", reason="PyTorch's OpInfo needs expecttest: pip install expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    (op,) = (op for op in op_db if op.name == f"nn.functional.{name}" and not op.variant_test_name)
    return op, list(op.sample_inputs("cpu", dtype, requires_grad=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_opinfo(name, dtype, report):
    """Values, gradients and gradients of gradients (finite differences) of every sample."""
    function = getattr(fc, name)
    op, found = samples(name, dtype)
    for sample in found:
        torch.testing.assert_close(
            function(sample.input, *sample.args, **sample.kwargs), op.op(sample.input, *sample.args, **sample.kwargs)
        )
        tensors = [a for a in (sample.input, *sample.args) if isinstance(a, torch.Tensor)]
        rest = [a for a in sample.args if not isinstance(a, torch.Tensor)]

        def call(*given, rest=rest, options=sample.kwargs):
            return function(*given, *rest, **options)

        fast = dtype.is_complex or name.endswith("3d")  # random directions in place of every element
        assert torch.autograd.gradcheck(call, tensors, fast_mode=fast)
        assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)
    assert len(found) >= 10
    report(f"torch OpInfo {name}, {dtype}: {len(found)} samples, first and second derivatives")


@pytest.mark.slow
def test_opinfo_errors():
    """What torch refuses is refused."""
    count = 0
    for name in ("conv1d", "conv2d", "conv3d"):
        op, _ = samples(name, torch.float64)
        for error in op.error_inputs("cpu"):
            sample = error.sample_input
            with pytest.raises((ValueError, TypeError, RuntimeError)):
                getattr(fc, name)(sample.input, *sample.args, **sample.kwargs)
            count += 1
    assert count > 20


def test_errors_name_the_argument():
    x, w = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)
    for error, words, call in (
        (ValueError, "input must have 3 or 4 axes", lambda: fc.conv2d(x[0, 0], w)),
        (ValueError, "weight must have 4 axes", lambda: fc.conv2d(x, w[0])),
        (ValueError, "groups must divide", lambda: fc.conv2d(x, w, groups=3)),
        (ValueError, "weight.shape\\[1\\] must be 2", lambda: fc.conv2d(x, w[:, :1])),
        (ValueError, "weight must not be larger than the padded input", lambda: fc.conv2d(x[..., :2], w)),
        (ValueError, "padding must be integers, 'same' or 'valid'", lambda: fc.conv2d(x, w, padding="full")),
        (ValueError, "padding='same' needs stride 1", lambda: fc.conv2d(x, w, padding="same", stride=2)),
        (ValueError, "stride.* must be", lambda: fc.conv2d(x, w, stride=0)),
        (ValueError, "bias must have shape", lambda: fc.conv2d(x, w, torch.ones(2))),
        (TypeError, "same dtype", lambda: fc.conv2d(x, w.double())),
        (TypeError, "input must be of float16.* got torch.bfloat16", lambda: fc.conv2d(x.bfloat16(), w.bfloat16())),
        (ValueError, "weight.shape\\[0\\] must be 2", lambda: fc.conv_transpose2d(x, w)),
        (ValueError, "output_padding", lambda: fc.conv_transpose2d(x, w[:2], output_padding=1)),
    ):
        with pytest.raises(error, match=words):
            call()


def test_memory_is_shared_and_its_order_kept():
    x = torch.randn(2, 8, 9, 10)
    assert array_of(x).ctypes.data == x.data_ptr()
    last = x.to(memory_format=torch.channels_last)
    assert array_of(last).ctypes.data == last.data_ptr()
    weight = torch.randn(5, 8, 3, 3, requires_grad=True)
    for transform in (lambda t: t, lambda t: t.to(memory_format=torch.channels_last)):
        given = transform(x).requires_grad_()
        y = fc.conv2d(given, weight, padding=1)
        torch.testing.assert_close(y, functional.conv2d(given, weight, padding=1), rtol=1e-4, atol=1e-4)
        (g,) = torch.autograd.grad(y, given, transform(torch.ones_like(y)))
        for result in (y, g):
            assert result.stride() == transform(result.detach().clone(memory_format=torch.contiguous_format)).stride()


def test_tensors_that_are_no_plain_memory():
    """Views, broadcast gradients, lazy conjugates, an empty batch, dtypes."""
    x, w = torch.randn(2, 6, 9, 20), torch.randn(4, 6, 3, 3)
    view = x[:, :, ::2, 3:]
    torch.testing.assert_close(fc.conv2d(view, w), functional.conv2d(view, w), rtol=1e-4, atol=1e-4)
    w.requires_grad_()
    fc.conv2d(x, w).sum().backward()  # a gradient of stride 0
    expected = torch.autograd.grad(functional.conv2d(x, w).sum(), w)[0]
    torch.testing.assert_close(w.grad, expected, rtol=1e-4, atol=1e-3)
    z, v = torch.randn(1, 2, 5, dtype=torch.complex128), torch.randn(3, 2, 2, dtype=torch.complex128)
    torch.testing.assert_close(fc.conv1d(z.conj(), v.conj()), functional.conv1d(z, v).conj())
    empty = torch.zeros(0, 6, 9, 9, requires_grad=True)
    y = fc.conv2d(empty, w)
    assert y.shape == (0, 4, 7, 7)
    y.sum().backward()
    assert empty.grad.shape == empty.shape
    half = fc.conv2d(x.half(), w.detach().half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), functional.conv2d(x, w.detach()), rtol=1e-2, atol=0.1)


@pytest.mark.slow
def test_opcheck():
    """Schema, fake tensors, autograd registration and traced backward, of all four operators."""
    for channels_last, mode in product((False, True), ("zeros", "reflect")):
        x, y, w = double(2, 4, 9, 10), double(2, 6, 5, 5), double(6, 4, 3, 3)
        if channels_last:
            x, y = (t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in (x, y))
        options = ([2, 2], [1, 1, 1, 1], [1, 1], 1, mode)
        for operator, arguments in (
            (convolution, (x, w, double(6), *options)),
            (convolution, (x, w, None, *options)),
            (convolution_input, (w, y, [2, 4, 9, 10], *options)),
            (convolution_weight, (x, y, [6, 4, 3, 3], *options)),
            (convolution_transpose, (y, w, double(4), [2, 2], [1, 1], [1, 0], [1, 1], 1)),
        ):
            results = torch.library.opcheck(operator, arguments)
            assert set(results.values()) == {"SUCCESS"}, (operator, results)


def test_padding_modes_are_differentiable():
    for mode in ("reflect", "replicate", "circular"):
        x, w, g = double(1, 2, 6, 7), double(3, 2, 3, 3), double(1, 3, 6, 7)
        y = convolution(x, w, None, [1, 1], [1, 1, 1, 1], [1, 1], 1, mode)
        expected = functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode), w)
        torch.testing.assert_close(y, expected)
        for got, wanted in zip(
            torch.autograd.grad(y, (x, w), g), torch.autograd.grad(expected, (x, w), g), strict=True
        ):
            torch.testing.assert_close(got, wanted)


def test_second_derivatives():
    """Each operator's gradients by finite differences, and the gradients' gradients."""
    conv = [double(1, 2, 5, 6), double(3, 2, 2, 3), double(3)]
    options = ([2, 1], [1, 0, 1, 2], [1, 2], 1, "zeros")
    assert torch.autograd.gradcheck(lambda *t: convolution(*t, *options), conv, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: convolution(*t, *options), conv, fast_mode=True)
    back = [double(2, 3, 4), double(1, 2, 5)]
    assert torch.autograd.gradgradcheck(
        lambda *t: fc.conv_transpose1d(t[1], t[0], dilation=3, output_padding=2), back, fast_mode=True
    )


@pytest.mark.filterwarnings("ignore")
def test_compiled():
    """One graph without breaks, forward and backward, also when shapes become symbols."""

    def block(x, w, v):
        return fc.conv_transpose2d(torch.relu(fc.conv2d(x, w, padding=1, stride=2)), v, stride=2).square().sum()

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for size in (8, 10, 12):
        tensors = double(2, 3, size, size), double(4, 3, 3, 3), double(4, 2, 2, 2)
        got, expected = compiled(*tensors), block(*tensors)
        torch.testing.assert_close(got, expected)
        for one, other in zip(torch.autograd.grad(got, tensors), torch.autograd.grad(expected, tensors), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's default backend needs g++")
def test_compiled_by_inductor():
    """The default backend: what surrounds the operators becomes C++."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2))
    plain = model.to(memory_format=torch.channels_last)
    compiled = torch.compile(fc.accelerate(copy.deepcopy(plain)), fullgraph=True)
    x = torch.randn(2, 3, 9, 10).to(memory_format=torch.channels_last)
    got, expected = compiled(x), plain(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(got.square().sum(), [*compiled.parameters()]),
        torch.autograd.grad(expected.square().sum(), [*plain.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# ---- models ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """ResNet's basic block (He et al. 2016)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1 or channels != filters:
            self.down = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


class ResNet18(nn.Module):
    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, channels = [], width
        for stage in range(4):
            filters = width << stage
            for index in range(2):
                blocks.append(Block(channels, filters, 2 if stage and not index else 1))
                channels = filters
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def double_conv(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(),
        nn.Conv2d(filters, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Ronneberger et al. 2015, with padding and BatchNorm."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList([double_conv(3 if not i else width << (i - 1), width << i) for i in range(depth)])
        self.bottom = double_conv(width << (depth - 1), width << depth)
        self.up = nn.ModuleList([nn.ConvTranspose2d(width << (i + 1), width << i, 2, 2) for i in range(depth)])
        self.join = nn.ModuleList([double_conv(width << (i + 1), width << i) for i in range(depth)])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for i in reversed(range(len(kept))):
            x = self.join[i](torch.cat([kept[i], self.up[i](x)], 1))
        return self.head(x)


def with_statistics(model: nn.Module) -> nn.Module:
    """BatchNorms as after training: nothing about them is trivial."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in (
                (layer.running_mean, -0.5),
                (layer.running_var, 0.5),
                (layer.weight, 0.5),
                (layer.bias, -0.5),
            ):
                nn.init.uniform_(tensor, low, low + 1)
    return model


def watched(model: nn.Module) -> list[torch.Tensor]:
    """A list that fills with the sides of the kink that each ReLU's outputs lie on: rounding may decide for one of a
    hundred thousand, and the gradient has no limit there."""
    sides: list[torch.Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda layer, inputs, output: sides.append(output.detach() > 0))
    return sides


def distance(one: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative to the whole: single numbers may be zero."""
    one, exact = one.detach().double(), exact.detach()
    return float((one - exact).norm() / exact.norm())


MODELS = {"ResNet-18": (lambda: ResNet18(32), (2, 3, 64, 64)), "U-Net": (UNet, (2, 3, 48, 64))}


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_training(name, channels_last, report):
    """Output and the gradient of every parameter are as near to those in double precision as PyTorch's own."""
    make, shape = MODELS[name]
    for seed in range(9):
        torch.manual_seed(seed)
        plain = with_statistics(make())
        x = torch.randn(shape)
        if channels_last:
            x, plain = x.to(memory_format=torch.channels_last), plain.to(memory_format=torch.channels_last)
        fast = fc.accelerate(copy.deepcopy(plain))
        results, sides = [], []
        for model, given in ((fast, x), (plain, x), (copy.deepcopy(plain).double(), x.double())):
            given, positive = given.clone().requires_grad_(), watched(model)
            y = model(given)
            y.square().mean().backward()
            results.append([y, given.grad, *(p.grad for p in model.parameters())])
            sides.append(positive)
            assert all(layer.weight.grad is not None for layer in model.modules() if isinstance(layer, nn.Conv2d))
        if all(torch.equal(one, other) for one, other in zip(sides[0], sides[2], strict=True)):
            break
    else:
        pytest.fail("every seed has a ReLU at its kink")
    worst = 0.0
    for ours, theirs, exact in zip(*results, strict=True):
        # BatchNorm right behind a convolution makes its bias's gradient zero but for rounding.
        if exact.norm() > 1e-9:
            error, own = distance(ours, exact), distance(theirs, exact)
            worst = max(worst, error)
            assert error <= 4 * own + 4e-6, (ours.shape, error, own)
    report(
        f"training {name}{' channels-last' if channels_last else ''}: largest relative error of a gradient {worst:.1e}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_inference(name, channels_last):
    make, shape = MODELS[name]
    plain = with_statistics(make()).eval()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    fast = fc.accelerate(plain, inference=True)
    kinds = [type(layer) for layer in fast.modules()]
    assert not {nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU} & set(kinds), kinds
    assert kinds.count(InferenceConv) == sum(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in plain.modules())
    assert not [node for node in fast.graph.nodes if node.op == "call_function" and "add" in str(node.target)]
    x = torch.randn(shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = copy.deepcopy(plain).double()(x.double())
        own, first, second = plain(x), fast(x), fast(x)
    assert torch.equal(first, second)
    assert distance(first, exact) <= 4 * distance(own, exact) + 4e-6
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert not any(isinstance(layer, InferenceConv) for layer in plain.modules())


def layers():
    yield nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 11)
    yield nn.Conv2d(3, 5, 3, padding="same", padding_mode="circular"), (2, 3, 8, 9)
    yield nn.Conv2d(3, 5, (2, 3), padding=(1, 2), padding_mode="reflect", bias=False), (3, 8, 9)
    yield nn.Conv2d(3, 5, 4, padding="same", dilation=2), (1, 3, 12, 12)
    yield nn.Conv3d(2, 3, 3, padding=1), (1, 2, 4, 5, 6)
    yield nn.ConvTranspose1d(4, 6, 4, stride=3, output_padding=2, groups=2), (2, 4, 5)
    yield nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, bias=False), (4, 5, 6)
    yield nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 3, 4, 3)


def test_layers():
    """Every class, trained and for inference."""
    for layer, shape in layers():
        layer = layer.double()
        x = double(*shape)
        fast = fc.accelerate(copy.deepcopy(layer))
        assert type(fast).__name__ == f"Fast{type(layer).__name__}"
        expected, got = layer(x), fast(x)
        torch.testing.assert_close(got, expected)
        for one, other in zip(
            torch.autograd.grad(got.square().sum(), [x, *fast.parameters()]),
            torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()]),
            strict=True,
        ):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(fc.accelerate(layer.eval(), inference=True)(x), expected.detach())


def test_accelerate_changes_nothing_else():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3))
    seen = []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(type(layer).__name__))
    parameters, state = list(model.parameters()), {k: v.data_ptr() for k, v in model.state_dict().items()}
    x = torch.randn(1, 3, 9, 9)
    expected = model(x)
    assert fc.accelerate(model) is model
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert seen == ["Conv2d", "FastConv2d"]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == state
    again = pickle.loads(pickle.dumps(nn.Sequential(model[3])))
    torch.testing.assert_close(again(expected[:, :1].expand(1, 8, 9, 9)), model[3](expected[:, :1].expand(1, 8, 9, 9)))
    assert type(fc.accelerate(model)[0]).__name__ == "FastConv2d"
    assert [type(layer) for layer in fc.restore(model)] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ConvTranspose2d]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_what_fastconv_does_not_take_stays_with_torch():
    class Own(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Own(4, 4, 1))
    fc.accelerate(model)
    assert type(model[1]) is Own
    x = torch.randn(1, 3, 6, 6)
    assert copy.deepcopy(model).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    assert model[0].to("meta")(x.to("meta")).device.type == "meta"
    up = fc.accelerate(nn.ConvTranspose2d(2, 3, 3, stride=2))
    assert up(torch.randn(1, 2, 4, 4), output_size=(10, 9)).shape == (1, 3, 10, 9)


class Branches(nn.Module):
    """What may not be folded: results used twice, broadcasts, additions of itself, a shared convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.gate = nn.Conv2d(3, 3, 1)
        self.act, self.last = nn.LeakyReLU(0.2), nn.Conv2d(3, 3, 1, groups=3)

    def forward(self, x):
        y = self.conv(x)
        z = self.norm(y) + y
        z = self.act(self.conv(z) + x.mean((2, 3), keepdim=True))
        z = torch.tanh(self.gate(z) + 1)
        z = self.gate(z).add(z).sigmoid()
        return functional.relu6(self.last(z) + z * 2), y


def test_inference_keeps_the_meaning():
    model = with_statistics(Branches()).eval()
    fast = fc.accelerate(model, inference=True)
    x = torch.randn(2, 3, 7, 8)
    with torch.no_grad():
        for got, expected in zip(fast(x), model(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    again = copy.deepcopy(fast)
    torch.testing.assert_close(again(x)[0], fast(x)[0], rtol=0, atol=0)
    assert not list(again.parameters(recurse=True)) or all("conv" not in n for n, _ in again.named_parameters())


def test_inference_refuses():
    with pytest.raises(ValueError, match=r"evaluation mode: call model.eval\(\)"):
        fc.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3)), inference=True)

    class Untraceable(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"torch\.fx can trace"):
        fc.accelerate(Untraceable().eval(), inference=True)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        fc.accelerate(lambda x: x)


def test_doubles_agree_with_numpy():
    """The operators are the functions of the package: one of them, without torch in between."""
    import fastconv

    x, w = np.random.default_rng(0).random((1, 3, 8, 8)), np.random.default_rng(1).random((4, 3, 3, 3))
    np.testing.assert_array_equal(
        fc.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1).numpy(), fastconv.conv2d(x, w, padding=1)
    )
