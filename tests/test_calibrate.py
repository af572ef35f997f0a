"""The constants of the machine: estimated, measured, stored, and never trusted blindly."""

from __future__ import annotations

import json
import warnings

import pytest

from fastconv.cpu import isa, peak, store, threads
from fastconv.plan import calibrate, candidates


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder for what is measured; compiled kernels stay where they are."""
    for module in (peak, calibrate):
        monkeypatch.setattr(module, "cache_folder", lambda: tmp_path)
    peak.forget()
    calibrate.forget()
    yield tmp_path
    monkeypatch.undo()
    peak.forget()
    calibrate.forget()


def fake_roof(source="measured"):
    flops = dict.fromkeys(peak.DTYPES, 5e10)
    return peak.Roof(flops, {k: 2 * v for k, v in flops.items()}, 1e10, 2e10, 1e10, 2e10, 2, source)


def test_nothing_is_measured_unasked(folder, monkeypatch):
    monkeypatch.setattr(peak, "_measured", lambda: pytest.fail("measured"))
    machine = calibrate.machine()
    assert machine.source == "default"
    assert machine.roof.source == "default"
    assert machine.scale == {}
    assert 1e9 < machine.peak_flops("float32") < 1e12
    assert machine.peak_flops("float32") == 2 * machine.peak_flops("float64")
    assert list(folder.iterdir()) == []


def test_roof_round_trip(folder, monkeypatch):
    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), True))
    assert peak.roof(measure=True) == fake_roof()
    monkeypatch.setattr(peak, "_measured", lambda: pytest.fail("measured again"))
    peak.forget()
    assert peak.roof() == fake_roof()
    assert peak.roof(measure=True) == fake_roof()


def test_disturbed_measurement_is_used_but_not_stored(folder, monkeypatch):
    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), False))
    assert peak.roof(measure=True) == fake_roof()
    assert list(folder.iterdir()) == []
    peak.forget()
    assert peak.roof().source == "default"


def test_calibration_round_trip(folder, monkeypatch):
    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), True))
    monkeypatch.setattr(calibrate, "_ratios", lambda spec, bare: {"direct": 2.0, "fft": 100.0})
    before = store.edition
    measured = calibrate.machine(measure=True)
    assert measured.source == "measured"
    assert measured.scale == {"direct": pytest.approx(2.0), "fft": calibrate.SPREAD}
    assert store.edition > before  # plans made before are stale
    monkeypatch.setattr(calibrate, "_ratios", lambda spec, bare: pytest.fail("measured again"))
    calibrate.forget()
    for stored in (calibrate.machine(), calibrate.machine(measure=True)):
        assert stored.scale == measured.scale
        assert stored.roof == fake_roof()
        assert stored.source.endswith("calibration.json")


def test_a_busy_moment_spoils_no_comparison(folder, monkeypatch):
    """Every layer is timed in another moment, at another speed of the machine; not all algorithms take it."""
    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), True))
    speeds = iter([1.0, 3.0, 1.0, 3.0])

    def ratios(spec, bare):
        slower = next(speeds)
        others = {"fft": 0.5 * slower} if slower == 3.0 else {"winograd": 2.0 * slower}
        return {"direct": slower, **others}

    monkeypatch.setattr(calibrate, "_ratios", ratios)
    scale = calibrate.calibrate().scale
    assert scale["fft"] == pytest.approx(0.5 * scale["direct"], rel=1e-3)
    assert scale["winograd"] == pytest.approx(2.0 * scale["direct"], rel=1e-3)


@pytest.mark.parametrize("name", ["roof.json", "calibration.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"format": "another"}'])
def test_corrupt_file_gives_estimates_and_one_warning(folder, name, content):
    (folder / name).write_text(content)
    with pytest.warns(RuntimeWarning, match=name) as caught:
        machine = calibrate.machine()
    assert len(caught) == 1
    assert machine.source == "default"
    assert machine.roof.source == "default"


@pytest.mark.parametrize("change", [{"key": "another machine"}, {"flops": None}, {"read": "fast"}, {"threads": 0}])
def test_roof_of_another_machine_or_mistyped_is_not_used(folder, monkeypatch, change):
    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), True))
    peak.roof(measure=True)
    file = folder / "roof.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    peak.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert peak.roof().source == "default"


@pytest.mark.parametrize("scale", [None, [1], {"direct": "2"}, {"direct": -1.0}, {"direct": 1e999}])
def test_mistyped_scale_is_not_used(folder, monkeypatch, scale):
    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), True))
    monkeypatch.setattr(calibrate, "_ratios", lambda spec, bare: {"direct": 2.0})
    calibrate.calibrate()
    file = folder / "calibration.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scale": scale}))
    calibrate.forget()
    assert calibrate.machine().scale == {}


def test_full_disk_does_not_stop_a_calibration(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(peak, "_measured", lambda: (fake_roof(), True))
    monkeypatch.setattr(calibrate, "_ratios", lambda spec, bare: {"direct": 2.0})
    monkeypatch.setattr(store, "write", full)
    assert calibrate.calibrate().scale == {"direct": pytest.approx(2.0)}
    assert calibrate.machine().scale == {"direct": pytest.approx(2.0)}


def test_threads_share_the_roof():
    roof = fake_roof()
    assert roof.peak("float32") == 5e10
    assert roof.peak("float32", 2) == 1e11
    assert roof.peak("float32", 8) == 1e11
    assert roof.bandwidth(1) == 1e10
    assert roof.bandwidth(2) == 2e10


def test_measured_peak_is_plausible():
    """The multiply-add loop really multiplies and adds, and no faster than any core can."""
    cycles = 6e9  # more than any clock
    for dtype in peak.DTYPES:
        rate = peak._flops(dtype, 1)
        assert 1e8 < rate < 4 * isa.width(dtype) * cycles


def test_multiply_add_loop_computes():
    """Each chain converges to 2 (x = 0.75 x + 0.5), from its number: the loop is not optimised away."""
    import numpy as np

    for dtype in ("float32", "float64"):
        sums = np.zeros(3, dtype)
        threads.run(peak._compute, 3, (np.array([200]), sums), 1)
        assert sums == pytest.approx(2.0 * peak.CHAINS)
    sums = np.zeros(1, np.int64)
    threads.run(peak._compute, 1, (np.array([2]), sums), 1)
    assert sums[0] == sum((chain * 3 + 7) * 3 + 7 for chain in range(3, 3 + peak.CHAINS))


def test_no_multiply_add_of_the_loop_is_left_out():
    """A chain that begins at its fixed point is a constant for LLVM: the roof would be that much too high."""
    import numba
    import numpy as np

    @numba.njit
    def loop(like, rounds):
        return peak._multiply_adds(like, rounds)

    for dtype in ("float32", "float64"):
        loop(np.zeros(1, dtype), 10)
    instruction = {"AVX-512": "vfmadd", "AVX2+FMA": "vfmadd", "NEON": "fmla"}.get(isa.name())
    for code in loop.inspect_asm().values() if instruction else ():
        found = code.count(instruction)
        assert found > 0
        assert found % peak.CHAINS == 0


def test_calibration_layers_fit_every_algorithm(folder, monkeypatch):
    """Really measured: every algorithm of the table gets a scale, but for the reference."""
    monkeypatch.setattr(peak, "_measured", lambda: (peak.estimate(), True))
    scale = calibrate.calibrate().scale
    assert set(scale) == set(candidates.names()) - {"reference"}
    assert all(1 / calibrate.SPREAD <= value <= calibrate.SPREAD for value in scale.values())
