"""Layers: gradients of every one by finite differences, states, training, and networks read as convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from layer_checks import assert_gradient, channels_last

import fastconv
from fastconv import nn

F64 = {"dtype": np.float64}
LAYERS = [
    (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2, **F64), (2, 4, 9)),
    (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="zeros", **F64), (2, 3, 7, 8)),
    (lambda: nn.Conv3d(2, 3, 2, bias=False, **F64), (1, 2, 4, 4, 5)),
    (lambda: nn.ConvTranspose1d(3, 2, 3, stride=2, output_padding=1, **F64), (2, 3, 6)),
    (lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, groups=2, **F64), (2, 4, 4, 5)),
    (lambda: nn.ConvTranspose3d(2, 2, 2, **F64), (1, 2, 3, 3, 3)),
    (lambda: nn.Linear(6, 4, **F64), (5, 6)),
    (lambda: nn.LocallyConnected2d(2, 3, (5, 6), 3, **F64), (2, 2, 5, 6)),
    (lambda: nn.MaxPool2d(2), (2, 3, 6, 6)),
    (lambda: nn.MaxPool1d(3, 2, 1), (2, 3, 9)),
    (lambda: nn.AvgPool2d(3, 2, 1), (2, 3, 7, 7)),
    (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect", **F64), (1, 2, 5, 6)),
    (lambda: nn.LocallyConnected1d(2, 3, 6, 3, **F64), (2, 2, 6)),
    (lambda: nn.LocallyConnected3d(1, 2, (3, 4, 3), 2, **F64), (1, 1, 3, 4, 3)),
    (lambda: nn.MaxPool3d(2), (1, 2, 4, 4, 5)),
    (lambda: nn.AvgPool1d(3, 2, 1), (2, 3, 9)),
    (lambda: nn.AvgPool3d(2, ceil_mode=True), (1, 2, 4, 5, 4)),
    (lambda: nn.LPPool1d(3, 2), (2, 3, 8)),
    (lambda: nn.LPPool2d(2, 2), (2, 3, 6, 6)),
    (lambda: nn.LPPool3d(2, 2), (1, 2, 4, 4, 4)),
    (lambda: nn.AdaptiveAvgPool1d(3), (2, 3, 7)),
    (lambda: nn.AdaptiveAvgPool3d(2), (1, 2, 3, 4, 5)),
    (lambda: nn.AdaptiveMaxPool1d(3), (2, 3, 7)),
    (lambda: nn.AdaptiveMaxPool3d(2), (1, 2, 3, 4, 5)),
    (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 3, 7, 8)),
    (lambda: nn.AdaptiveMaxPool2d(2), (2, 3, 7, 8)),
    (lambda: nn.NearestUnpool2d(2), (2, 3, 4, 5)),
    (lambda: nn.BedOfNailsUnpool2d(2), (2, 3, 4, 5)),
    (lambda: nn.AvgUnpool2d(2), (2, 3, 4, 5)),
    (lambda: nn.NearestUnpool1d(3), (2, 3, 4)),
    (lambda: nn.NearestUnpool3d((1, 2, 3)), (1, 2, 2, 3, 2)),
    (lambda: nn.BedOfNailsUnpool1d(2), (2, 3, 4)),
    (lambda: nn.BedOfNailsUnpool3d(2), (1, 2, 2, 3, 2)),
    (lambda: nn.AvgUnpool1d(2), (2, 3, 4)),
    (lambda: nn.AvgUnpool3d(2), (1, 2, 2, 3, 2)),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), (2, 3, 4, 5)),
    (lambda: nn.BatchNorm2d(3, **F64), (4, 3, 5, 5)),
    (lambda: nn.BatchNorm1d(6, **F64), (8, 6)),
    (lambda: nn.BatchNorm3d(2, **F64), (2, 2, 3, 2, 3)),
    (lambda: nn.InstanceNorm1d(3, affine=True, **F64), (2, 3, 6)),
    (lambda: nn.InstanceNorm3d(2, **F64), (2, 2, 3, 2, 3)),
    (lambda: nn.GroupNorm(2, 4, **F64), (2, 4, 5, 5)),
    (lambda: nn.InstanceNorm2d(3, affine=True, **F64), (2, 3, 5, 5)),
    (lambda: nn.LayerNorm((3, 5), **F64), (4, 3, 5)),
    (lambda: nn.LocalResponseNorm(3, 0.3), (2, 5, 4, 4)),
    *((kind, (3, 4, 5)) for kind in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU)),
    *((kind, (3, 4, 5)) for kind in (nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)),
    (nn.Softmax, (3, 4, 5)),
    (nn.LogSoftmax, (3, 4, 5)),
    (nn.Flatten, (3, 4, 5)),
    (nn.Identity, (3, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), LAYERS, ids=lambda v: "x".join(map(str, v)) if isinstance(v, tuple) else "")
def test_gradients(make, shape):
    nn.manual_seed(0)
    layer = make()
    random = np.random.default_rng(0)
    x = random.standard_normal(shape)
    g = random.standard_normal(layer(x).shape)
    grad_x = layer.backward(g)
    gradients = [p.grad.copy() for p in layer.parameters()]
    loss = lambda: float((g * layer(x)).sum())  # noqa: E731
    assert_gradient(loss, x, np.ascontiguousarray(grad_x), 1e-5)
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        assert_gradient(loss, parameter.data, gradient, 1e-5)
    layer(x)
    layer.backward_parameters(g)
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        np.testing.assert_allclose(parameter.grad, 2 * gradient, rtol=1e-9, atol=1e-9)  # added to what was there
    layer.zero_grad()
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert type(layer).__name__ in repr(layer)


def segnet():
    one, two = nn.MaxPool2d(2), nn.MaxPool2d(2)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, **F64), nn.ReLU(), one, nn.Conv2d(4, 4, 3, padding=1, **F64), two,
        nn.MaxUnpool2d(two), nn.Conv2d(4, 4, 3, padding=1, **F64), nn.MaxUnpool2d(one), nn.Conv2d(4, 2, 1, **F64),
    )  # fmt: skip


def test_encoder_and_decoder_share_places():
    nn.manual_seed(0)
    net = segnet()
    random = np.random.default_rng(0)
    x, classes = random.standard_normal((2, 2, 9, 8)), random.integers(0, 2, (2, 9, 8))
    loss = nn.CrossEntropyLoss()
    assert net(x).shape == (2, 2, 9, 8)
    loss(net(x), classes)
    grad_x = net.backward(loss.backward())
    assert_gradient(lambda: loss(net(x), classes), x, np.ascontiguousarray(grad_x), 1e-5)
    np.testing.assert_allclose(net.eval()(x), net.train()(x), atol=1e-12)


def test_states(tmp_path):
    nn.manual_seed(0)
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(1, 2, 3, **F64), nn.BatchNorm2d(2, **F64), nn.Flatten(), nn.Linear(8, 3, **F64)
    )
    net = make()
    assert sorted(net.state_dict()) == sorted(
        ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight", "3.bias"]
    )
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4))
    net(x)
    expected = net.eval()(x)
    net.save(tmp_path / "net.npz")
    nn.manual_seed(1)
    other = make().eval()
    assert (other(x) != expected).any()
    other.load(tmp_path / "net.npz")  # drops the weights that were packed
    np.testing.assert_array_equal(other(x), expected)
    state = net.state_dict()
    del state["0.bias"]
    with pytest.raises(ValueError, match=r"missing: \['0.bias'\]"):
        other.load_state_dict(state)
    state = net.state_dict()
    state["3.bias"] = np.zeros(4)
    with pytest.raises(ValueError, match=r"state\['3.bias'\] must have shape \(3,\)"):
        other.load_state_dict(state)
    np.savez(tmp_path / "evil.npz", **{"0.weight": np.array([object()])})
    with pytest.raises(ValueError, match="allow_pickle"):
        other.load(tmp_path / "evil.npz")
    np.testing.assert_array_equal(other(x), expected)


def test_evaluation_uses_prepared_weights_of_now():
    net = nn.Conv2d(1, 1, 1, bias=False, **F64)
    x = np.ones((1, 1, 2, 2))
    net.eval()(x)
    net.weight.data[:] = 5
    assert (net.eval()(x) == 5).all()
    with pytest.raises(RuntimeError, match="needs a forward pass in training mode"):
        net.backward(x)


def test_optimisers_as_torch():
    torch = pytest.importorskip("torch")
    for ours, theirs, options in (
        (nn.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        (nn.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (nn.Adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.01}),
    ):
        start = np.random.default_rng(0).standard_normal(5)
        parameter, tensor = nn.Parameter(start.copy()), torch.tensor(start.copy(), requires_grad=True)
        one, other = ours([parameter], **options), theirs([tensor], **options)
        for step in range(5):
            gradient = np.cos(start * (step + 1))
            parameter.grad, tensor.grad = gradient.copy(), torch.tensor(gradient)
            one.step()
            other.step()
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-10)


def test_a_network_as_torch():
    """The same weights, a forward and a backward pass."""
    torch = pytest.importorskip("torch")
    nn.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, **F64), nn.BatchNorm2d(8, **F64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 5, **F64),
    )  # fmt: skip
    t = torch.nn
    other = t.Sequential(
        t.Conv2d(3, 8, 3, padding=1), t.BatchNorm2d(8), t.ReLU(), t.MaxPool2d(2), t.Flatten(), t.Linear(128, 5)
    ).double()
    other.load_state_dict({k: torch.tensor(v) for k, v in net.state_dict().items()}, strict=False)
    random = np.random.default_rng(0)
    x, classes = random.standard_normal((4, 3, 8, 8)), np.arange(4)
    loss = nn.CrossEntropyLoss()
    value = loss(net(x), classes)
    net.backward_parameters(loss.backward())
    expected = t.CrossEntropyLoss()(other(torch.tensor(x)), torch.tensor(classes))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-12)
    for (name, parameter), (_, tensor) in zip(net.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_allclose(parameter.grad, tensor.grad.numpy(), atol=1e-12, err_msg=name)


def test_fully_convolutional_is_the_network_at_every_window():
    nn.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, **F64), nn.BatchNorm2d(4, **F64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 8, **F64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3, **F64),
    )  # fmt: skip
    everywhere = nn.fully_convolutional(net, (1, 8, 8))
    assert net.training
    net.eval()
    everywhere.eval()
    page = np.random.default_rng(0).standard_normal((1, 1, 20, 14))
    scores = everywhere(page)
    assert scores.shape == (1, 3, 7, 4)
    for i, j in ((0, 0), (6, 3), (2, 1)):
        window = page[:, :, 2 * i : 2 * i + 8, 2 * j : 2 * j + 8]
        np.testing.assert_allclose(scores[:, :, i, j], net(window), atol=1e-12)
    with pytest.raises(ValueError, match="must flatten its feature map"):
        nn.fully_convolutional(nn.Sequential(nn.Linear(4, 2)), (4,))


def test_summary():
    net = nn.Sequential(
        nn.Conv2d(3, 10, 5, padding=2, **F64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 20, 3, **F64),
        nn.Flatten(),
        nn.Linear(3920, 10, **F64),
    )
    table = nn.summary(net, (1, 3, 32, 32), np.float64)
    assert [row.output for row in table.rows][-3:] == [(1, 20, 14, 14), (1, 3920), (1, 10)]
    assert [row.field for row in table.rows] == [(5, 5), (5, 5), (6, 6), (10, 10), None, None]
    assert table.rows[0].parameters == 760
    assert table.rows[0].flops == 2 * 10 * 75 * 32 * 32
    assert table.parameters == 760 + 1820 + 39210
    plan = fastconv.plan((1, 3, 32, 32), (10, 3, 5, 5), padding=2, dtype="float64")
    assert table.rows[0].algorithm == plan.algorithm
    assert "760" in str(table)
    assert net.training


def test_losses():
    random = np.random.default_rng(0)
    prediction, target = random.standard_normal((4, 3)), random.standard_normal((4, 3))
    squares = nn.MSELoss()
    assert squares(prediction, target) == pytest.approx(((prediction - target) ** 2).mean())
    assert_gradient(lambda: squares(prediction, target), prediction, squares.backward())
    entropy = nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5])
    entropy(prediction, [0, 2, 1, 1])
    gradient = entropy.backward()
    assert_gradient(lambda: entropy(prediction, [0, 2, 1, 1]), prediction, gradient)
    with pytest.raises(ValueError, match="target must have the shape of prediction"):
        squares(prediction, target[:2])
    with pytest.raises(RuntimeError, match="needs a loss"):
        nn.MSELoss().backward()


def test_memory_order_goes_through_a_network():
    """Channels-last images stay so from layer to layer, and give the same results."""
    nn.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, **F64), nn.BatchNorm2d(4, **F64), nn.ReLU(), nn.MaxPool2d(2),
        nn.GroupNorm(2, 4, **F64), nn.AvgPool2d(2), nn.NearestUnpool2d(2), nn.Conv2d(4, 2, 1, **F64),
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    first = net(x)
    grad_first = net.backward(np.cos(first))
    last = net(channels_last(x))
    grad_last = net.backward(np.cos(last))
    assert np.moveaxis(last, 1, -1).flags.c_contiguous
    assert np.moveaxis(grad_last, 1, -1).flags.c_contiguous
    np.testing.assert_allclose(last, first, atol=1e-12)
    np.testing.assert_allclose(grad_last, grad_first, atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="groups must divide"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(TypeError, match=r"layers\[0\] must be a Module"):
        nn.Sequential(3)
    with pytest.raises(TypeError, match="partner must be the MaxPool2d"):
        nn.MaxUnpool2d(nn.MaxPool1d(2))
    with pytest.raises(TypeError, match="parameters must be Parameters"):
        nn.SGD([np.zeros(3)], lr=0.1)
    with pytest.raises(ValueError, match="lr must be"):
        nn.Adam([], lr=-1.0)
    assert fastconv.nn is nn
