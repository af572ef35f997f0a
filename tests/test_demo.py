"""The demo: its oracle against plain loops, its verdicts, and the whole of it on a small picture."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from fastconv import cli, demo
from fastconv.demo import measure
from fastconv.demo.oracle import convolve
from fastconv.demo.problems import filter_bank, gabor, layer_stack, photograph


@pytest.fixture
def picture(tmp_path):
    from PIL import Image

    random = np.random.default_rng(1)
    file = tmp_path / "picture.png"
    Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(file)
    return file


def plain_loops(x, weight, stride, pads, dilation, groups, mode):
    """The definition, one output at a time."""
    padded = np.pad(x, [(0, 0), (0, 0), *pads], mode=mode)
    N, OC, (kh, kw), Cg = len(x), len(weight), weight.shape[2:], weight.shape[1]
    oh = (padded.shape[2] - dilation * (kh - 1) - 1) // stride + 1
    ow = (padded.shape[3] - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((N, OC, oh, ow))
    for n, o, i, j in itertools.product(range(N), range(OC), range(oh), range(ow)):
        group = o // (OC // groups)
        for c, a, b in itertools.product(range(Cg), range(kh), range(kw)):
            value = padded[n, group * Cg + c, i * stride + a * dilation, j * stride + b * dilation]
            out[n, o, i, j] += weight[o, c, a, b] * value
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("groups", "OC"), [(1, 3), (2, 4), (4, 4)])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_oracle_is_the_definition(stride, dilation, groups, OC, padding_mode):
    random = np.random.default_rng(0)
    x = random.integers(-9, 10, (2, 4, 7, 8)).astype(np.float32)
    weight = random.integers(-9, 10, (OC, 4 // groups, 3, 2)).astype(np.float32)
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": 1, "padding_mode": padding_mode}
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[padding_mode]
    expected = plain_loops(x, weight, stride, [(1, 1), (1, 1)], dilation, groups, mode)
    np.testing.assert_array_equal(convolve(x, weight, options), expected)


def test_oracle_same_padding_against_scipy():
    from scipy.signal import correlate

    random = np.random.default_rng(0)
    x, weight = random.standard_normal((1, 1, 20, 21)), random.standard_normal((1, 1, 5, 7))
    expected = correlate(x[0, 0], weight[0, 0], mode="same")
    np.testing.assert_allclose(convolve(x, weight, {"padding": "same"})[0, 0], expected, atol=1e-12)


def test_filters_are_what_their_names_say():
    kernels = {problem.name: problem.weight[0, 0] for problem in filter_bank()}
    for name in ("identity", "sharpen", "emboss", "box", "Gaussian 5", "Gaussian 15", "Gaussian 31", "motion blur 31"):
        assert kernels[name].sum() == pytest.approx(1, abs=1e-6), name
    for name in ("edge", "Sobel x", "Sobel y"):
        assert kernels[name].sum() == 0, name
    assert kernels["Gaussian 31"].shape == kernels["motion blur 31"].shape == (31, 31)
    np.testing.assert_array_equal(kernels["Sobel x"], kernels["Sobel y"].T)
    ramp = np.arange(5, dtype=np.float32) * np.ones((5, 1), dtype=np.float32)  # brighter to the right
    assert convolve(ramp[None, None], kernels["Sobel x"][None, None], {}).min() == 8
    assert abs(gabor(7, 30, 0.0).sum()) < 1e-12


def test_layers_fit_together():
    channels = {None: 3}
    for problem in layer_stack():
        groups = problem.options.get("groups", 1)
        assert problem.weight.shape[1] * groups == channels[problem.after], problem.name
        channels[problem.name] = len(problem.weight)
        if problem.residual:
            assert channels[problem.name] == channels[problem.after]


def test_errors_are_judged_strictly():
    difference, scale = np.array([0.0, 2.0**-24]), np.array([0.0, 0.5])
    assert measure.worst_error(difference, scale) == 2
    assert measure.worst_error(np.array([1e-30]), np.array([0.0])) == np.inf
    assert not measure.Run("direct", 1, 1, measure.worst_error(np.array([np.nan]), np.array([1.0])), 16).passed
    assert measure.Run("direct", 1, 1, 16.0, 16).passed


def test_whole_demo(picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    out = tmp_path / "new folder" / "gallery.png"
    assert cli.main(["demo", "--image", str(picture), "--size", "64", "--out", str(out), "--skip-digits"]) == 0
    printed = capsys.readouterr().out
    for problem in filter_bank() + layer_stack():
        assert f"\n {problem.name} " in printed, problem.name
    assert "FAILED" not in printed
    assert str(out) in printed
    from PIL import Image

    with Image.open(out) as gallery:
        assert gallery.width > 1000
        pixels = np.asarray(gallery.convert("RGB"))
    assert pixels.std(axis=(0, 1)).min() > 20  # not a blank page


def test_a_wrong_result_fails_the_demo(picture, tmp_path, capsys, monkeypatch):
    def wrong(x, weight, options):
        out = convolve(x, weight, options)
        if x.min() >= 0:  # not in |w| * |x| of the layers
            out[..., 3, 3] += 1e-2
        return out

    monkeypatch.setattr(measure, "convolve", wrong)
    arguments = ["demo", "--image", str(picture), "--size", "64", "--skip-digits"]
    arguments += ["--out", str(tmp_path / "gallery.png")]
    assert cli.main(arguments) == 1
    assert "FAILED  identity: direct" in capsys.readouterr().out


def test_photograph_keeps_its_shape(picture, tmp_path):
    pixels = photograph(str(picture), 128)
    assert pixels.shape == (3, 96, 128)
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert photograph(str(picture), 64).shape == (3, 48, 64)


def test_unusable_images_are_named(tmp_path, picture):
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    with pytest.raises(demo.UnusableImage, match=r"notes\.txt: not a picture"):
        photograph(str(text), 64)
    with pytest.raises(demo.UnusableImage, match="No such file"):
        photograph(str(tmp_path / "missing.png"), 64)
    with pytest.raises(demo.UnusableImage, match="is 31x23; both sides need 32"):
        photograph(str(picture), 31)


@pytest.mark.parametrize("missing", ["rich", "matplotlib", "PIL"])
def test_missing_extra_names_the_command(missing, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert 'python -m pip install ".[demo]"' in error
    assert len(error.splitlines()) == 1
