"""Geometry: sizes against brute force, every form of padding, and equal problems being equal specs."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from fastconv.spec import ConvSpec


def positions(size: int, extent: int, stride: int, lo: int, hi: int) -> int:
    """Output size by counting the places where the kernel fits."""
    return len(range(-lo, size + hi - extent + 1, stride))


def test_output_size_by_counting():
    for size, k, s, d, lo, hi in itertools.product((1, 5, 8), (1, 2, 3), (1, 2, 3, 7), (1, 2, 3), (0, 1, 4), (0, 2)):
        extent = (k - 1) * d + 1
        if extent > size + lo + hi:
            continue
        spec = ConvSpec.make((1, 1, size), (1, 1, k), stride=s, dilation=d, padding=((lo, hi),))
        assert spec.output == (positions(size, extent, s, lo, hi),)
        assert spec.effective_kernel == (extent,)
        assert spec.padded == (size + lo + hi,)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        (np.int64(2), ((2, 2), (2, 2))),
        (np.array(2), ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (np.array([1, 2]), ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ((1, (2, 3)), ((1, 1), (2, 3))),
        (np.array([[0, 1], [2, 3]]), ((0, 1), (2, 3))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (1, 1))),
    ],
)
def test_padding_forms(padding, expected):
    spec = ConvSpec.make((1, 1, 9, 9), (1, 1, 3, 3), padding=padding)
    assert spec.padding == expected
    assert all(type(end) is int for pair in spec.padding for end in pair)


def test_same_is_ceil_of_size_over_stride_with_the_odd_cell_at_the_end():
    for size, k, s, d in itertools.product(range(1, 12), (1, 2, 3, 4, 7), (1, 2, 3, 5), (1, 2)):
        spec = ConvSpec.make((1, 1, size), (1, 1, k), stride=s, dilation=d, padding="same")
        assert spec.output == (-(-size // s),)
        lo, hi = spec.padding[0]
        assert hi - lo in (0, 1)
    # Values of TensorFlow's and ONNX's definition, written out.
    assert ConvSpec.make((1, 1, 5), (1, 1, 2), padding="same").padding == ((0, 1),)
    assert ConvSpec.make((1, 1, 6), (1, 1, 3), stride=2, padding="same").padding == ((0, 1),)
    assert ConvSpec.make((1, 1, 224), (1, 1, 7), stride=2, padding="same").padding == ((2, 3),)
    assert ConvSpec.make((1, 1, 5), (1, 1, 1), stride=2, padding="same").padding == ((0, 0),)


def test_three_dimensional_forms_fill_missing_axes_in_front():
    spec = ConvSpec.make((2, 6, 9), (4, 3, 3), stride=2, dilation=2, padding=((1, 2),), groups=2)
    assert spec.input3 == (1, 1, 9)
    assert spec.kernel3 == (1, 1, 3)
    assert spec.stride3 == (1, 1, 2)
    assert spec.dilation3 == (1, 1, 2)
    assert spec.padding3 == ((0, 0), (0, 0), (1, 2))
    assert spec.output3 == (1, 1, 4)
    flat = ConvSpec.make((2, 6, 5, 9), (4, 6, 1, 3))
    assert flat.input3 == (1, 5, 9)


def test_derived_numbers():
    spec = ConvSpec.make((2, 6, 9, 8), (4, 3, 3, 2), groups=2, dtype="float64")
    assert spec.output == (7, 7)
    assert spec.K == 3 * 3 * 2
    assert spec.flops == 2 * (2 * 4 * 7 * 7) * 18
    assert spec.x_shape == (2, 6, 9, 8)
    assert spec.weight_shape == (4, 3, 3, 2)
    assert spec.out_shape == (2, 4, 7, 7)
    assert (spec.itemsize, spec.input_bytes) == (8, 2 * 6 * 9 * 8 * 8)
    assert (spec.weight_bytes, spec.output_bytes) == (4 * 3 * 3 * 2 * 8, 2 * 4 * 7 * 7 * 8)
    assert not spec.is_depthwise
    assert ConvSpec.make((1, 6, 9), (12, 1, 3), groups=6).is_depthwise


def test_equal_problems_are_equal_specs():
    one = ConvSpec.make((1, 1, 8, 8), (1, 1, 8, 1), stride=(3, 1), dilation=(1, 5), padding_mode="reflect")
    two = ConvSpec.make([1, 1, 8, 8], np.array([1, 1, 8, 1]), padding=((0, 0), (0, 0)))
    assert one == two
    assert hash(one) == hash(two)
    assert ConvSpec.make((1, 1, 8), (1, 1, 1), flip=True) == ConvSpec.make((1, 1, 8), (1, 1, 1))
    # With one output the stride may be anything that leaves no second.
    huge = ConvSpec.make((1, 1, 8), (1, 1, 3), stride=2**61)
    assert huge == ConvSpec.make((1, 1, 8), (1, 1, 3), stride=7)
    assert (huge.stride, huge.output) == ((6,), (1,))
    different = [
        ConvSpec.make((1, 2, 8), (2, 2, 3), **options)
        for options in (
            {}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"flip": True}, {"channels_last": True},
            {"dtype": "float64"}, {"padding": 1, "padding_mode": "reflect"},
        )
    ]  # fmt: skip
    assert len(set(different)) == len(different)


def test_spec_is_immutable_and_survives_pickling():
    spec = ConvSpec.make((1, 1, 8, 8), (1, 1, 3, 3), stride=2, padding=1)
    hash(spec)
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert hash(copy) == hash(spec)
    assert "_hash" not in pickle.loads(pickle.dumps(copy)).__getstate__()
    with pytest.raises(AttributeError):
        spec.N = 2


def test_text():
    spec = ConvSpec.make((1, 64, 56, 56), (64, 2, 3, 3), stride=2, padding=1, groups=32, dilation=(1, 2))
    assert str(spec) == "1x64x56x56 * 64x2x3x3 stride 2 pad 1 dilation 1x2 groups 32 float32"
    spec = ConvSpec.make((1, 1, 8), (1, 1, 2), padding="same", padding_mode="circular", flip=True, channels_last=True)
    assert str(spec) == "1x1x8 * 1x1x2 pad ((0,1)) circular flip float32 channels-last".replace("((0,1))", "((0,1),)")


def test_sizes_near_the_limit_are_computed_not_overflowed():
    spec = ConvSpec.make((1, 1, 2**59), (1, 1, 2**31), stride=2**31, dtype="float32")
    assert spec.output == (2**28,)
    assert spec.flops == 2 * 2**28 * 2**31
    # pytorch #73189: a kernel near 2**31 must be refused or computed, never wrapped.
    with pytest.raises(ValueError, match="covers 2147483647 cells"):
        ConvSpec.make((1, 1, 10), (1, 1, 2**31 - 1))
