"""The demo's second part: its data, its training, its page and its picture."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.demo import digits

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return digits.load()


@pytest.fixture(scope="module")
def training(data):
    return digits.train(data)


def test_data_are_split_without_overlap(data):
    assert len(data.train) + len(data.test) == 1797
    seen = {picture.tobytes() for picture in data.train}
    assert sum(picture.tobytes() in seen for picture in data.test) <= 2  # a few pictures occur twice in the set
    assert data.train.min() == 0
    assert data.train.max() == 1


def test_windows_look_at_digits_and_beside_them(data):
    x, classes = digits.windows(data.train[:50], data.train_classes[:50], np.random.default_rng(0))
    assert x.shape == (100, 1, digits.WINDOW, digits.WINDOW)
    np.testing.assert_array_equal(classes[::2], data.train_classes[:50])
    assert (classes[1::2] == digits.NOTHING).all()


@pytest.mark.slow
def test_it_learns(training, report):
    assert training.losses[-1] < 0.2 * training.losses[0]
    assert training.accuracy >= 0.98
    report(f"digits: {100 * training.accuracy:.1f} % of the test digits after {training.seconds:.1f} s of training")


@pytest.mark.slow
def test_the_page_is_read_as_the_network_reads_windows(data, training):
    page = digits.make_page(data, 60, 80, 12)
    assert len(page.digits) == 12
    found = digits.find(training.network, page)
    rows, columns = found.probabilities.shape[1:]
    assert (rows, columns) == ((60 - digits.WINDOW) // 2 + 1, (80 - digits.WINDOW) // 2 + 1)
    window = page.pixels[10 : 10 + digits.WINDOW, 20 : 20 + digits.WINDOW][None, None]
    scores = training.network(window)[0]
    scores = np.exp(scores - scores.max())
    np.testing.assert_allclose(found.probabilities[:, 5, 10], scores / scores.sum(), atol=1e-5)
    right, wrong, extra = digits.matched(page, found)
    assert right >= 10
    assert right + wrong <= 12
    assert len(found.digits) == right + wrong + extra


def test_peaks_of_a_made_up_map():
    probabilities = np.zeros((11, 12, 20))
    probabilities[digits.NOTHING] = 1
    for row, column, kind in ((3, 4, 7), (8, 15, 2)):
        probabilities[digits.NOTHING, row - 1 : row + 2, column - 1 : column + 2] = 0.2
        probabilities[kind, row - 1 : row + 2, column - 1 : column + 2] = 0.8
    half = digits.WINDOW // 2
    found = {tuple(map(int, digit)) for digit in digits.peaks(probabilities)}
    assert found == {(6 + half, 8 + half, 7), (16 + half, 30 + half, 2)}


@pytest.mark.slow
def test_picture(data, training, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from fastconv.demo.digits_picture import draw

    page = digits.make_page(data, 60, 120, 12)
    out = tmp_path / "digits.png"
    draw(data, training, page, digits.find(training.network, page), "here", out)
    with Image.open(out) as picture:
        assert picture.width == 1600
        assert np.asarray(picture.convert("RGB")).std(axis=(0, 1)).min() > 20
