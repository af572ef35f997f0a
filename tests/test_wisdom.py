"""The wisdom file: what goes in comes out, and nothing in it can break a convolution."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest

from fastconv.cpu import store
from fastconv.plan import wisdom
from fastconv.plan.wisdom import Measured
from fastconv.spec import ConvSpec

SPEC = ConvSpec.make((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
OTHER = ConvSpec.make((1, 64, 56, 56), (64, 64, 3, 3), padding=1, dtype="float64")


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "wisdom.json"
    monkeypatch.setenv("FASTCONV_WISDOM", str(path))
    wisdom.forget()
    yield path
    monkeypatch.undo()
    wisdom.forget()


def test_round_trip(file):
    times = {"direct": Measured(0.00068), "fft": Measured(0.0123, 0.5, "tile 64")}
    wisdom.remember(SPEC, 2, times)
    wisdom.forget()
    assert wisdom.lookup(SPEC, 2) == times
    assert wisdom.lookup(SPEC, 1) == {}
    assert wisdom.lookup(OTHER, 2) == {}


def test_file_is_readable(file):
    wisdom.remember(SPEC, 2, {"direct": Measured(0.00068)})
    content = json.loads(file.read_text())
    assert content["format"] == "fastconv wisdom"
    assert content["schema"] == 1
    problems = content["machines"][wisdom.machine_name()]["2 threads"]
    assert problems == {"1x64x56x56 * 64x64x3x3 pad 1 float32": {"direct": {"ms": 0.68, "prepare_ms": 0.0}}}


def test_later_measurements_replace_earlier_ones(file):
    wisdom.remember(SPEC, 1, {"direct": Measured(1.0), "im2col": Measured(2.0)})
    wisdom.remember(SPEC, 1, {"direct": Measured(3.0)})
    assert wisdom.lookup(SPEC, 1) == {"direct": Measured(3.0), "im2col": Measured(2.0)}


def test_plans_become_stale(file):
    before = store.edition
    wisdom.remember(SPEC, 1, {"direct": Measured(1.0)})
    assert store.edition > before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"format": "fastconv wisdom", "sche', "cannot be read"),
        (b"", "cannot be read"),
        (b"\xff\xfe\x00garbage", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1, 2, 3]", "not a fastconv wisdom file"),
        (b'{"name": "somebody else\'s"}', "not a fastconv wisdom file"),
        (b'{"format": "fastconv wisdom", "schema": 99, "machines": {}}', "schema is 99"),
    ],
)
def test_corrupt_or_foreign_file_is_ignored_with_one_warning(file, content, why):
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=why) as caught:
        assert wisdom.lookup(SPEC, 1) == {}
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wisdom.forget()
        assert wisdom.lookup(SPEC, 1) == {}
        wisdom.remember(SPEC, 1, {"direct": Measured(1.0)})
    assert file.with_name("wisdom.json.old").read_bytes() == content  # it may be somebody's data
    wisdom.forget()
    assert wisdom.lookup(SPEC, 1) == {"direct": Measured(1.0)}


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        "fast",
        [],
        {"ms": "0.5"},
        {"ms": -1},
        {"ms": 0},
        {"ms": True},
        {"ms": 1, "variant": 3},
        {"ms": 1e999},
        {},
    ],
)
def test_malformed_entries_are_left_out(file, entry):
    file.parent.mkdir()
    problems = {str(SPEC): {"direct": {"ms": 1.0}, "im2col": entry}, str(OTHER): entry}
    machines = {wisdom.machine_name(): {"1 thread": problems, "2 threads": entry}, "other": entry}
    file.write_text(json.dumps({"format": "fastconv wisdom", "schema": 1, "machines": machines}))
    assert wisdom.lookup(SPEC, 1) == {"direct": Measured(1e-3)}
    assert wisdom.lookup(OTHER, 1) == {}
    assert wisdom.lookup(SPEC, 2) == {}


def test_other_machines_are_kept_and_not_used(file):
    file.parent.mkdir()
    machines = {"Z80, 4 MHz": {"1 thread": {str(SPEC): {"direct": {"ms": 9e9}}}}}
    file.write_text(json.dumps({"format": "fastconv wisdom", "schema": 1, "machines": machines}))
    assert wisdom.lookup(SPEC, 1) == {}
    wisdom.remember(SPEC, 1, {"direct": Measured(1.0)})
    assert json.loads(file.read_text())["machines"]["Z80, 4 MHz"] == machines["Z80, 4 MHz"]


@pytest.mark.parametrize("value", ["off", "0", "", "none", "OFF"])
def test_wisdom_can_be_switched_off(monkeypatch, value):
    monkeypatch.setenv("FASTCONV_WISDOM", value)
    wisdom.forget()
    assert wisdom.path() is None
    wisdom.remember(SPEC, 1, {"direct": Measured(1.0)})
    assert wisdom.lookup(SPEC, 1) == {"direct": Measured(1.0)}  # this process still remembers
    wisdom.forget()
    assert wisdom.lookup(SPEC, 1) == {}


def test_export_and_import(file, tmp_path, monkeypatch):
    wisdom.remember(SPEC, 1, {"direct": Measured(1.0)})
    wisdom.remember(OTHER, 2, {"direct": Measured(2.0)})
    exported = tmp_path / "exported.json"
    assert wisdom.export_wisdom(exported) == 2
    file.unlink()
    wisdom.forget()
    assert wisdom.lookup(SPEC, 1) == {}
    assert wisdom.import_wisdom(exported) == 2
    wisdom.forget()
    assert wisdom.lookup(SPEC, 1) == {"direct": Measured(1.0)}
    assert wisdom.lookup(OTHER, 2) == {"direct": Measured(2.0)}


def test_importing_something_else_is_an_error(file, tmp_path):
    with pytest.raises(FileNotFoundError):
        wisdom.import_wisdom(tmp_path / "nothing.json")
    (tmp_path / "foreign.json").write_text("{}")
    with pytest.raises(ValueError, match="not a fastconv wisdom file"):
        wisdom.import_wisdom(tmp_path / "foreign.json")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs file locks")
def test_concurrent_writers_lose_nothing(file):
    """Four processes write ten problems each into one file."""
    script = (
        "import sys\n"
        "from fastconv.plan import wisdom\n"
        "from fastconv.spec import ConvSpec\n"
        "for size in range(10):\n"
        "    spec = ConvSpec.make((1, int(sys.argv[1]), 8 + size), (1, int(sys.argv[1]), 3))\n"
        "    wisdom.remember(spec, 1, {'direct': wisdom.Measured(1e-3)})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(i)]) for i in range(1, 5)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]
    problems = json.loads(file.read_text())["machines"][wisdom.machine_name()]["1 thread"]
    assert len(problems) == 40
    assert [p.name for p in file.parent.iterdir() if p.suffix == ".tmp"] == []


def test_a_failed_write_leaves_the_old_file(file, monkeypatch):
    wisdom.remember(SPEC, 1, {"direct": Measured(1.0)})
    before = file.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        wisdom.remember(SPEC, 1, {"direct": Measured(2.0)})
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir() if p.suffix == ".tmp"] == []
    assert wisdom.lookup(SPEC, 1) == {"direct": Measured(2.0)}
