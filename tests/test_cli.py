"""The command line: what it prints, and one clear line with status 2 for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv import cli

PICTURE = str(Path(__file__).parent.parent / "docs" / "images" / "gallery.jpg")
PROBLEM = ["--input", "1x8x12x12", "--weight", "4x8x3x3"]


@pytest.fixture(autouse=True)
def same_threads():
    """``--threads`` must not reach the tests that follow."""
    before = fastconv.get_num_threads()
    yield
    fastconv.set_num_threads(before)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastconv", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_info_names_what_a_bug_report_needs(capsys):
    assert cli.main(["info", "--no-measure"]) == 0
    labels = capsys.readouterr().out
    for label in ("CPU", "instruction set", "threading layer", "numba", "numpy", "cache folder", "memory read"):
        assert f"\n{label}" in f"\n{labels}", label


def test_explain_lists_every_algorithm(capsys):
    from fastconv.plan.candidates import CANDIDATES

    assert cli.main(["explain", *PROBLEM, "--padding", "1"]) == 0
    out = capsys.readouterr().out
    for module in CANDIDATES:
        assert module.NAME in out


def test_explain_passes_every_option_on(capsys):
    problem = ["--input", "1x9x7x8", "--weight", "8x2x3x1", "--layout", "NHWC", "--groups", "4"]
    options = ["--stride", "2x1", "--padding", "1x0", "--dilation", "1x1", "--dtype", "float64"]
    assert cli.main(["explain", *problem, *options, "--accuracy", "exact", "--threads", "1"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    for part in ("1x8x9x7", "8x2x3x1", "stride 2x1", "groups 4", "float64"):
        assert part in first


def test_explain_measures(capsys):
    assert cli.main(["explain", *PROBLEM, "--measure"]) == 0
    assert "measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["explain", "--input", "1x8x12x12", "--weight", "4x7x3x3"], "weight.shape[1]"),
        (["explain", "--input", "1x8x2x2", "--weight", "4x8x3x3"], "weight must not be larger"),
        (["explain", *PROBLEM, "--groups", "3"], "groups"),
        (["explain", *PROBLEM, "--stride", "0"], "stride"),
        (["explain", *PROBLEM, "--padding", "lots"], "--padding"),
        (["explain", *PROBLEM, "--dtype", "float12"], "dtype"),
        (["explain", *PROBLEM, "--layout", "HNWC"], "layout"),
        (["explain", *PROBLEM, "--threads", "0"], "--threads"),
        (["explain", *PROBLEM, "--threads", "100000"], "--threads 100000"),
        (["explain", "--input", "1xtwo", "--weight", "4x8x3x3"], "--input"),
        (["explain", "--input", "1x8x12x12"], "--weight"),
        (["tune"], "--suite"),
        (["tune", "--input", "1x8x12x12"], "--weight"),
        (["tune", *PROBLEM, "--suite", "layers.csv"], "--suite"),
        (["tune", "--suite", "no-such-file.csv"], "no-such-file.csv"),
        (["demo", "--image", "no-such-file.jpg"], "no-such-file.jpg"),
        (["demo", "--size", "-5"], "--size"),
        (["demo", "--image", PICTURE, "--out", "gallery.docx"], "must end in .png or .jpg"),
        (["demo", "--image", PICTURE, "--out", "/dev/null/gallery.png"], "/dev/null/gallery.png: "),
        (["dance"], "dance"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(arguments, names, capsys):
    try:
        status = cli.main(arguments)
    except SystemExit as stop:  # argparse's own way out
        status = stop.code
    assert status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.rstrip().splitlines()[-1]
    assert names in last
    assert "error: " in last
    assert "Traceback" not in captured.err


def test_tune_reads_a_suite(tmp_path, capsys):
    suite = tmp_path / "layers.csv"
    suite.write_text(
        "suite,name,n,c,spatial,oc,kernel,stride,padding,dilation,groups\n"
        "mine,net:first,1,3,12x12,4,3x3,1x1,1x1,1x1,1\n"
        "mine,net:second,1,4,30,4,3,1,1,1,1\n"
    )
    assert cli.main(["tune", "--suite", str(suite)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["mine/net:first:", "mine/net:second:"]
    assert cli.main(["tune", "--suite", str(suite), "--select", "second"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert cli.main(["tune", "--suite", str(suite), "--select", "third"]) == 2


def test_warmup_compiles_each_algorithm(monkeypatch, capsys):
    small = (((1, 2, 9), (2, 2, 3), {}), ((1, 4, 8, 8), (4, 1, 3, 3), {"groups": 4}))
    monkeypatch.setattr(cli, "COMMON", small)
    seen = []
    prepare = fastconv.prepare
    monkeypatch.setattr(fastconv, "prepare", lambda *a, **k: (seen.append(k["algorithm"]), prepare(*a, **k))[1])
    assert cli.main(["warmup", "--dtype", "float32", "float64"]) == 0
    assert {"direct", "im2col", "reference"} <= set(seen)
    assert f"{len(seen)} cases ready" in capsys.readouterr().out


def test_progress_works_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(cli.steps([1, 2], "counting", str)) == [1, 2]
    assert "counting 2/2 2" in capsys.readouterr().err


def test_module_and_help():
    done = run("--help")
    assert done.returncode == 0
    for name in ("info", "demo", "explain", "bench", "tune", "warmup"):
        assert f"\n    {name} " in done.stdout


def test_help_needs_no_compiler():
    code = "import sys, fastconv.cli as c; c.build_parser().format_help(); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_a_reader_that_stops_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "fastconv", "info", "--no-measure"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert "Traceback" not in done.stderr
