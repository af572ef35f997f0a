"""The exercises of the lectures: sizes, parameters and receptive fields by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import Window, conv_parameters, output_size, receptive_field


def test_a_seven_by_seven_input_and_a_three_by_three_filter():
    assert output_size(7, 3, stride=1, exact=True) == 5
    assert output_size(7, 3, stride=2, exact=True) == 3
    with pytest.raises(ValueError, match=r"stride 3 does not fit: .* = 2\.33 outputs"):
        output_size(7, 3, stride=3, exact=True)
    assert output_size(7, 3, stride=1, padding=1) == 7


def test_padding_that_keeps_the_size():
    for kernel in (3, 5, 7):
        assert output_size(32, kernel, padding=(kernel - 1) // 2) == 32


def test_ten_filters_on_a_small_colour_image():
    assert output_size(32, 5, padding=2) == 32
    assert conv_parameters(3, 10, (5, 5)) == 760
    assert conv_parameters(3, 10, (5, 5), bias=False) == 750
    assert conv_parameters(16, 16, (3, 3), groups=16) == 160


def test_full_convolution():
    for P, K in ((10, 3), (5, 5), (7, 1)):
        assert output_size(P, K, padding=K - 1) == P + K - 1
        assert len(np.convolve(np.ones(P), np.ones(K))) == P + K - 1


def test_stacks_of_small_filters():
    assert [f.field for f in receptive_field([(3,)] * 3)] == [3, 5, 7]
    assert [f.field for f in receptive_field([(3, 1, d, d) for d in (1, 2, 4)], 64)] == [3, 7, 15]
    assert [f.size for f in receptive_field([(3, 1, d, d) for d in (1, 2, 4)], 64)] == [64, 64, 64]


def test_alexnet():
    layers = [(11, 4), (3, 2), (5, 1, 2), (3, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2)]
    fields = receptive_field(layers, 227)
    assert [f.size for f in fields] == [55, 27, 27, 13, 13, 13, 13, 6]
    assert fields[-1].field == 195
    assert fields[-1].jump == 32


def test_fields_are_what_a_gradient_reaches():
    """Which inputs change an output, found by running the stack."""
    layers = [Window(3, 2, 1), Window(2, 2), Window(3, 1, 2, 2), Window(4, 2, 1, transposed=True)]
    size = 64
    weight = {w: np.ones((1, 1, w.kernel)) for w in layers}

    def run(x):
        for w in layers:
            f = fastconv.conv_transpose1d if w.transposed else fastconv.conv1d
            x = f(x, weight[w], stride=w.stride, padding=w.padding, dilation=w.dilation)
        return x[0, 0]

    outputs = np.array([run(np.eye(size)[None, None, i]) for i in range(size)])
    final = receptive_field(layers, size)[-1]
    assert outputs.shape[1] == final.size
    seen = [np.flatnonzero(outputs[:, o]) for o in range(final.size)]
    spans = [s[-1] - s[0] + 1 for s in seen[8:-8]]
    assert max(spans) == final.field
    middles = [Fraction(int(s[0] + s[-1]), 2) for s in seen]
    o = final.size // 2
    expected = [final.start + final.jump * i for i in (o, o + 1)]
    assert (middles[o] + middles[o + 1]) / 2 == sum(expected) / 2


def test_errors():
    with pytest.raises(ValueError, match="kernel covers 9 cells, more than the padded input's 7"):
        output_size(7, 5, dilation=2)
    with pytest.raises(ValueError, match="stride must be a positive integer"):
        output_size(7, 3, stride=0)
    with pytest.raises(TypeError, match="size must be a positive integer"):
        output_size(7.0, 3)
    with pytest.raises(ValueError, match="groups must divide"):
        conv_parameters(3, 10, (5, 5), groups=2)
