"""The benchmark: reading layers, comparing, reporting, and one real run without peers."""

import dataclasses
import math
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

import fastconv
from fastconv import bench
from fastconv.bench import fusion, peers, report, runner, shapes, svg
from fastconv.bench.html import write_html

SVG = "{http://www.w3.org/2000/svg}"
PEER_SECONDS = dict.fromkeys(peers.CONTESTANTS, 0.003)
HEADER = ",".join(shapes.COLUMNS)
SMALL = "net,net:conv1*3,1,3,8x9,4,3x3,1x2,1x0,1x1,1"


def layer(row: str = SMALL) -> shapes.Layer:
    return shapes.parse_layer(dict(zip(shapes.COLUMNS, row.split(","), strict=True)))


def result(row: str, threads: int = 1, **seconds: float) -> runner.Result:
    timings = {name.replace("_", "-"): runner.Timing(t, 1.5 * t, 7) for name, t in seconds.items()}
    return runner.Result(layer(row), threads, "float32", "direct", 100e9, 10e9, timings=timings)


def test_a_row_becomes_a_layer_and_back():
    small = layer()
    assert (small.spatial, small.kernel, small.stride, small.padding) == ((8, 9), (3, 3), (1, 2), (1, 0))
    assert small.short_name == "conv1"
    assert small.spec.out_shape == (1, 4, 8, 4)
    assert shapes.parse_layer({k: str(v) for k, v in small.row().items()}) == small


def test_the_packaged_suite_has_every_kind_of_layer():
    layers = shapes.read_layers()
    assert len(layers) == 190
    assert {one.ndim for one in layers} == {1, 2, 3}
    assert len({(one.suite, one.name) for one in layers}) == len(layers)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("net,a,1,3,8x8,4,3x3,1x1,1x1,1x1,", "groups is missing"),
        ("net,a,1,3,8x8,4,3xk,1x1,1x1,1x1,1", "kernel must be integers joined by x, got '3xk'"),
        ("net,a,1,3,8x8,4,3,1x1,1x1,1x1,1", "kernel must have 2 sizes"),
        ("net,a,1,3,8x8,4,9x9,1x1,0x0,1x1,1", "larger than the padded input"),
        ("net,a,1,3,8x8,4,3x3,1x1,1x1,1x1,2", "groups must divide"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    file = tmp_path / "layers.csv"
    file.write_text(f"{HEADER}\n{SMALL}\n{row}\n")
    with pytest.raises(ValueError, match=rf"layers.csv, line 3: .*{message}"):
        shapes.read_layers(file)


def test_select_by_suite_and_pattern():
    layers = shapes.read_layers()
    assert {one.suite for one in shapes.select(layers, ["image", "small"])} == {"image", "small"}
    assert [one.name for one in shapes.select(layers, ["image"], "_31$")] == ["img1024_31", "img2048_31"]
    with pytest.raises(ValueError, match="unknown suite 'pictures'"):
        shapes.select(layers, ["pictures"])


def test_geomean():
    assert report.geomean([2, 8]) == pytest.approx(4)
    assert math.isnan(report.geomean([]))


def test_tables_are_aligned():
    text = report.text_table(["layer", "ms"], [["a", "10.5"], ["longer name", "1"]])
    assert text.splitlines() == ["layer          ms", "-----------  ----", "a            10.5", "longer name     1"]
    assert report.markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| :-- | --: |\n| x | 1 |"


RESULTS = [
    result(SMALL, fastconv=1e-3, reference=8e-4, torch=2e-3, torch_nhwc=3e-3, ncnn=1e-3),
    result(SMALL.replace("net:conv1*3", "net:conv2"), fastconv=1e-3, reference=2e-3, torch=9e-3,
           torch_nhwc=8e-3),
    result(SMALL, threads=2, fastconv=5e-4, torch=2e-3),
]  # fmt: skip


def test_a_group_is_as_fast_as_its_fastest_member():
    (comparison,) = report.comparisons(RESULTS)
    assert comparison.ratio(RESULTS[0], report.TORCH) == pytest.approx(2)
    assert comparison.ratio(RESULTS[0], report.BEST) == pytest.approx(1)
    assert comparison.ratio(RESULTS[1], "ncnn") is None
    assert comparison.geomeans(RESULTS[:2], report.TORCH) == pytest.approx(4)


def test_functional_calls_are_compared_with_functional_peers_only():
    results = [result(SMALL, fastconv_functional=1e-3, torch=2e-3, ncnn=1e-4)]
    (comparison,) = report.comparisons(results)
    assert comparison.ours == runner.FUNCTIONAL
    assert set(comparison.groups) == {report.TORCH, "torch"}


def test_regret_and_speed_up():
    (first, found, best), (second, *_) = report.regrets(RESULTS[:2])
    assert (first, found, best, second) == (pytest.approx(1.25), RESULTS[0], "reference", 1)
    assert "worst 1.25, fastest chosen 1 times" in report.regret_line(RESULTS)
    assert report.regret_table(RESULTS).splitlines()[-1].split() == [
        "net/conv1",
        "direct",
        "reference",
        "1.25",
        "1.00",
        "0.800",
    ]
    assert report.scaling_table(RESULTS).splitlines()[-1].split() == ["2", "2.00", "2.00", "net/conv1"]


def test_csv_comes_back_as_it_was_written(tmp_path):
    noted = dataclasses.replace(
        RESULTS[0], notes={"opencv": "takes one plane, and odd kernels"}, workspace={"direct": 4096, "im2col": 0}
    )
    gradient = dataclasses.replace(RESULTS[0], direction="weight")  # the same layer, another row
    written = [noted, gradient, *RESULTS[1:]]
    report.write_csv(written, tmp_path / "layers.csv", "a machine, some versions")
    results, environment = report.read_csv(tmp_path / "layers.csv")
    assert environment == "a machine, some versions"
    assert list(report.csv_rows(results)) == list(report.csv_rows(written))
    assert [one.direction for one in results] == ["forward", "weight", "forward", "forward"]
    assert results[0].layer == noted.layer
    assert (results[0].notes, results[0].workspace) == (noted.notes, noted.workspace)
    assert (results[0].roof, results[0].bandwidth) == (noted.roof, noted.bandwidth)
    assert results[0].timings["torch"] == noted.timings["torch"]


def test_every_contestant_is_sampled_in_turn_and_the_hopeless_less():
    turns = []

    def call(name, seconds):
        turns.append(name)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    calls = {"quick": lambda: call("quick", 1e-3), "slow": lambda: call("slow", 12e-3)}
    timings = runner.interleave(calls, seconds=0.03, min_rounds=6)
    assert timings["quick"].samples >= 6
    assert 1 <= timings["slow"].samples <= runner.MIN_ROUNDS
    assert 1e-3 <= timings["quick"].best <= timings["quick"].median
    assert "slow" in turns[turns.index("quick") + 1 :]


def test_other_processes_are_noticed():
    neighbours = runner.Neighbours()
    if neighbours.cores() is None:
        pytest.skip("this system does not tell")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.3)
        other.kill()
    assert neighbours.cores() > 0.2


def test_another_result_is_not_timed():
    class Wrong(peers.Peer):
        name, library, version = "torch", "torch", "0"

        def prepare(self, layer, x, weight):
            return lambda: np.zeros(layer.spec.out_shape, np.float32)

    class Broken(Wrong):
        name = "ncnn"

        def prepare(self, layer, x, weight):
            raise KeyError("no such layer")

    with runner.contest([Wrong(), Broken()], 1):
        found = runner.time_layer(layer(), [Wrong(), Broken()], threads=1, seconds=0, min_rounds=3)
    assert set(found.timings) == {runner.PREPARED}
    assert found.problems["torch"].startswith(runner.DIFFERS)
    assert found.problems["ncnn"].startswith(runner.FAILED)


def test_a_missing_library_costs_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    loaded, problems = peers.load(["opencv"])
    assert loaded == []
    assert problems == [f"opencv is left out (import of cv2 halted; None in sys.modules): {peers.INSTALL_HINT}"]


@pytest.mark.parametrize(
    "arguments",
    [["--suites", "nowhere"], ["--peers", "nobody"], ["--algorithms", "magic"], ["--threads", "0"], ["--filter", "("],
     ["--suite", "missing.csv"], ["--filter", "matches nothing"], ["--load", str(shapes.DEFAULT_SUITE)]],
)  # fmt: skip
def test_wrong_arguments_end_with_status_2(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main([*arguments, "--peers", "", "--out", str(tmp_path)] if "--peers" not in arguments else arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_real_run_reports_and_can_be_read_back(tmp_path, capsys):
    suite, out, table = tmp_path / "suite.csv", tmp_path / "out", tmp_path / "table.md"
    suite.write_text(f"{HEADER}\n{SMALL}\nline,signal,2,3,40,4,5,1,2,1,1\n")
    common = ["--suite", str(suite), "--out", str(out), "--peers", "", "--threads", "1"]
    assert bench.main([*common, "--regret", "--mode", "both", "--quick", "--seconds-per-layer", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "# net, 1 thread" in printed
    assert "regret" in printed
    results, _ = report.read_csv(out / "layers.csv")
    assert [found.layer.name for found in results] == ["net:conv1*3", "signal"]
    for found in results:
        assert {runner.PREPARED, runner.FUNCTIONAL} <= set(found.timings)
        assert {"direct", "reference"} <= set(found.algorithms())
        assert all(0 < timing.best <= timing.median for timing in found.timings.values())
        assert found.problems == {}
    assert bench.main(["--load", str(out / "layers.csv"), "--out", str(out), "--markdown", str(table)]) == 0
    assert "# net, 1 thread" in capsys.readouterr().out
    assert table.read_text().startswith("fastconv ")


class Page(HTMLParser):
    """Checks that tags nest, and keeps the rows of each table and what the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.links, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("meta", "input"):
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.tables and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def test_the_page_stands_alone_and_shows_every_peer(tmp_path):
    strange = result(SMALL.replace("net:conv1*3", "<b>&"), fastconv=1e-3, fastconv_functional=2e-3, **PEER_SECONDS)
    odd = dataclasses.replace(
        strange,
        timings={name: timing for name, timing in strange.timings.items() if name != "opencv"},
        notes={"opencv": 'takes "one" plane'},
        workspace={"direct": 3 << 20, "fft": 512},
    )
    write_html([*RESULTS, strange, odd], tmp_path / "report.html", "fastconv 0, a machine (AVX-512, 2 cores), numba 1")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.links == []
    assert set(re.findall(r"https?://[^\"]*", text)) == {SVG[1:-1]}  # a name, never fetched
    assert "a machine (AVX-512, 2 cores)" in page.words
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)
    layers, scratch = page.tables[-2:]
    assert [row[1] for row in layers[1:]] == ["conv1", "conv2", "conv1", "<b>&", "<b>&"]
    assert set(layers[0]) >= set(peers.CONTESTANTS)
    assert layers[1][layers[0].index("torch-nhwc")] == "3.003.00"  # ratio and milliseconds
    assert layers[-1][layers[0].index("opencv")] == "-"
    assert 'title="takes &quot;one&quot; plane"' in text
    assert scratch[-1] == ["net", "<b>&", "direct", "1", "512 B", "3 MiB1.00 ms"]  # the one chosen was timed
    assert f'data-v="{3 << 20}"' in text
    pictures = [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert len(pictures) == 5  # bars: prepared by 1 and 2 threads, functional; a roofline for each number of threads
    circles = [title.text for title in pictures[-2].iter(f"{SVG}title")]
    assert sum("direct, " in circle for circle in circles) == 4


def test_a_layer_bound_by_memory_lies_on_the_roof():
    one = result(SMALL)
    assert one.intensity == pytest.approx(one.layer.spec.flops / (4 * (216 + 108 + 128)))
    assert one.intensity < one.roof / one.bandwidth
    one.timings[runner.PREPARED] = runner.Timing(one.flops / (one.bandwidth * one.intensity), 1.0, 7)
    drawing = ElementTree.fromstring(svg.roofline([one], None))
    (roof,) = drawing.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1), (_, y2) = [tuple(map(float, point.split(","))) for point in roof.get("points").split()]
    dot = next(circle for circle in drawing.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None)
    x, y = float(dot.get("cx")), float(dot.get("cy"))
    assert x0 < x < x1
    assert y0 > y > y1 == y2
    assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=0.3)


def test_scratch_memory_is_planned_for_every_algorithm_that_accepts():
    one = layer()
    plan = fastconv.plan(one.spec.x_shape, one.spec.weight_shape, **one.options)
    planned = runner.planned_workspace([plan])
    assert {"direct", "im2col", "reference"} <= set(planned)
    assert "depthwise" not in planned
    assert planned[plan.algorithm] == plan.workspace
    im2col = fastconv.plan(one.spec.x_shape, one.spec.weight_shape, algorithm="im2col", **one.options)
    assert planned["im2col"] == im2col.workspace > 0
    total = report.workspace_table([result(SMALL), dataclasses.replace(RESULTS[0], workspace={"direct": 2 << 20})])
    assert total.splitlines()[-1].split() == ["all", "2", "MiB", "2", "MiB"]


def test_the_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from fastconv.bench.plot import write_plot

    write_plot(RESULTS, tmp_path / "ratios.png", "a machine")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_fusion_is_timed_step_by_step(capsys):
    """Bias, activation and residual: the same plan, with more and more behind it, whose results are right."""
    assert bench.main(["--fusion", "--filter", "small/tiny8", "--threads", "1", "--seconds-per-layer", "0.05"]) == 0
    *_, head, _, row, mean = capsys.readouterr().out.strip().splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["layer", "algorithm", "ms", *fusion.STEPS]
    assert row.split()[:2] == ["small/tiny8", "direct"]
    assert len(re.findall(r"[+-]\d+\.\d %", row)) == len(re.findall(r"[+-]\d+\.\d %", mean)) == len(fusion.STEPS)
