"""The scripts of examples/, with less work than they do by default."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

for library in ("sklearn", "skimage", "matplotlib", "rich"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def segment():
    return runpy.run_path(str(EXAMPLES / "segment_digits.py"))


def test_pictures_are_photographs_with_ink_on_them(segment):
    learned, unseen = segment["load"]()
    assert len(learned.digits) + len(unseen.digits) == 1797
    x, inked = segment["pictures"](unseen, 8, np.random.default_rng(0))
    assert x.shape == (8, 3, 64, 64)
    assert np.abs(x).max() <= 0.5
    assert 0.02 < inked.mean() < 0.4
    assert segment["overlap"](inked == 1, inked == 1) == 1
    assert segment["overlap"](inked == 0, inked == 1) == 0


@pytest.mark.slow
def test_segnet_learns(segment, report):
    learned, unseen = segment["load"]()
    losses = []
    network = segment["train"](learned, 120, lambda step, loss: losses.append(loss))
    x, inked = segment["pictures"](unseen, 40, np.random.default_rng(1))
    iou = segment["overlap"](network(x).argmax(1) == 1, inked == 1)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert iou > 0.3  # 0.1 if all is ink
    report(f"examples: SegNet after {len(losses)} steps: IoU {iou:.2f}")


@pytest.mark.slow
def test_segment_digits_runs(segment, tmp_path, monkeypatch, capsys):
    out = tmp_path / "segmented.png"
    monkeypatch.setattr(sys, "argv", ["segment_digits.py", "--steps", "3", "--out", str(out)])
    segment["main"]()
    printed = capsys.readouterr().out
    assert "MaxUnpool2d" in printed
    assert "IoU" in printed
    assert out.read_bytes()[:4] == b"\x89PNG"
