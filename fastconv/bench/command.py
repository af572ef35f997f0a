"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

import fastconv
from fastconv.bench import fusion, overhead, pools, report
from fastconv.bench.directions import DIRECTIONS
from fastconv.bench.html import write_html
from fastconv.bench.peers import INSTALL_HINT, PEERS, Peer, load, quieten_pools
from fastconv.bench.runner import MODES, Neighbours, Result, algorithm_names, contest, time_layer
from fastconv.bench.shapes import DEFAULT_SUITE, Layer, read_layers, select
from fastconv.cpu import isa, peak

BUSY_CORES = 0.05  # of other processes, from which on a suite's numbers come with a warning

EPILOG = """\
Ratios are (time of the peer) / (time of fastconv): above 1 fastconv is faster. All contestants run in one process and
take turns; each one's result is compared with ours before it is timed. For quiet numbers leave the machine alone.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Returns
    -------
    int
        0 when all results agreed, 1 when a contestant failed or computed something else, 2 for a wrong argument.
    """
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        return run(parser, options)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Do what the options ask for."""
    quieten_pools()
    try:
        saved = [report.read_csv(path) for path in options.load or ()]
        layers = select(read_layers(options.suite), options.suites, options.filter)
        peers, missing = load([] if saved else options.peers)
        check_algorithms(options.algorithms)
        check_threads(options.threads)
    except (ValueError, OSError, re.error) as error:
        parser.error(str(error))
    if saved:
        return show_saved(saved, options)
    for line in missing:
        print(line, file=sys.stderr)
    environment = describe_environment(peers)
    print(environment, flush=True)
    if options.pool:
        seconds = options.seconds_per_layer * (0.05 if options.quick else 0.2)
        return pools.run(options.threads, options.batches, seconds, re.compile(options.filter).search)
    if options.overhead:
        with contest(peers, max(options.threads)):
            print("\n" + overhead.overhead_report(peers))
        return 0
    if not layers:
        parser.error(f"no layer matches --filter {options.filter!r}")
    if options.fusion:
        seconds = options.seconds_per_layer * (0.1 if options.quick else 1)
        for threads in options.threads:
            with contest([], threads):
                print(f"\n# {threads} thread{'s' * (threads > 1)}\n")
                print(fusion.fusion_report(layers, options.dtype, seconds), flush=True)
        return 0
    return finish(run_layers(layers, peers, options), environment, options)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastconv bench", description="Time convolution layers against other libraries.", epilog=EPILOG
    )

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    add = parser.add_argument
    add("--suite", type=Path, default=DEFAULT_SUITE, metavar="FILE.csv", help="layers to time [%(default)s]")
    add("--suites", type=names, default=[], metavar="A,B", help="only these suites of the file")
    add("--filter", default="", metavar="REGEX", help="only layers whose suite/name matches")
    add("--peers", type=names, default=list(PEERS), metavar="A,B",
        help=f"of {', '.join(PEERS)}; '' for none [all that are installed]")  # fmt: skip
    add("--threads", type=int, nargs="+", default=[1, fastconv.get_num_threads()], metavar="N",
        help="numbers of threads, one pass each [1 and all]")  # fmt: skip
    add("--dtype", choices=("float32", "float64"), default="float32", help="[%(default)s]")
    add("--direction", choices=DIRECTIONS, default="forward",
        help="the convolution, a gradient, both gradients, or the transposed convolution [%(default)s]")  # fmt: skip
    add("--mode", choices=MODES, default="prepared",
        help="weights prepared ahead, or passed with each call, or both [%(default)s]")  # fmt: skip
    add("--accuracy", choices=("exact", "default", "fast"), default="default", help="[%(default)s]")
    add("--algorithms", type=names, default=[], metavar="A,B", help="time these algorithms too; 'all' for all")
    add("--regret", action="store_true", help="time all algorithms: was the fastest one chosen?")
    add("--seconds-per-layer", type=float, default=2.0, metavar="S", help="[%(default)s]")
    add("--quick", action="store_true", help="a tenth of that, and 3 rounds instead of 7")
    add(
        "--pool",
        action="store_true",
        help="instead of layers, time pools, unpools and norms, both directions, against torch",
    )
    add("--batches", type=int, nargs="+", default=[1, 8], metavar="N", help="batch sizes of the pools [1 8]")
    add("--overhead", action="store_true", help="instead of layers, time an empty call and the start of a process")
    add("--fusion", action="store_true", help="of each layer, time what bias, activation and residual add")
    add(
        "--out",
        type=Path,
        default=Path("fastconv-bench"),
        metavar="DIR",
        help="for the CSV, the page and the plot [%(default)s]",
    )
    add("--markdown", type=Path, metavar="FILE", help="write the geometric means as a Markdown table too")
    add("--load", type=Path, nargs="+", metavar="FILE.csv", help="measure nothing, report what earlier runs wrote")
    return parser


def check_algorithms(names: Sequence[str]) -> None:
    known = ["all", *algorithm_names()]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown algorithm {name!r}; known: {', '.join(known)}")


def check_threads(counts: Sequence[int]) -> None:
    most = numba.config.NUMBA_NUM_THREADS
    for count in counts:
        if not 1 <= count <= most:
            raise ValueError(f"--threads takes numbers from 1 to {most} here, got {count}")


def describe_environment(peers: Sequence[Peer]) -> str:
    """One line: what was measured, and on what."""
    libraries = {"numba": numba.__version__, "numpy": np.__version__} | {peer.library: peer.version for peer in peers}
    return ", ".join(
        (
            f"fastconv {fastconv.__version__}",
            f"{peak.cpu_model()} ({isa.name()}, {os.cpu_count()} cores)",
            f"Python {platform.python_version()}",
            *(f"{name} {number}" for name, number in libraries.items()),
        )
    )


def run_layers(layers: Sequence[Layer], peers: Sequence[Peer], options: argparse.Namespace) -> list[Result]:
    """Time everything, suite by suite; Ctrl-C ends the run, not the report."""
    algorithms = ["all"] if options.regret else options.algorithms
    seconds = options.seconds_per_layer * (0.1 if options.quick else 1)
    results: list[Result] = []
    counts = list(dict.fromkeys(options.threads))
    progress = Progress(len(layers) * len(counts))
    try:
        for threads in counts:
            with contest(peers, threads):
                for suite in dict.fromkeys(layer.suite for layer in layers):
                    members, neighbours = [], Neighbours()
                    for layer in (layer for layer in layers if layer.suite == suite):
                        progress.show(f"{threads} thread{'s' * (threads > 1)}, {suite}/{layer.short_name}")
                        result = time_layer(
                            layer, peers, threads=threads, dtype=options.dtype, mode=options.mode,
                            accuracy=options.accuracy, algorithms=algorithms, seconds=seconds,
                            min_rounds=3 if options.quick else 7, direction=options.direction,
                        )  # fmt: skip
                        members.append(result)
                        results.append(result)
                        for name, note in result.problems.items():
                            progress.clear()
                            print(f"{layer.short_name}: {name} {note}", file=sys.stderr)
                    progress.clear()
                    print(f"\n# {suite}, {threads} thread{'s' * (threads > 1)}\n")
                    print(report.layer_table(members), flush=True)
                    others = neighbours.cores()
                    if others is not None and others > BUSY_CORES:
                        print(f"\nOther processes kept {others:.2f} cores busy meanwhile: do not trust these numbers.")
    except KeyboardInterrupt:
        progress.clear()
        print(f"interrupted after {len(results)} layers", file=sys.stderr)
    return results


def finish(results: Sequence[Result], environment: str, options: argparse.Namespace) -> int:
    """Write the files and print the summary."""
    if not results:
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    written = [options.out / "layers.csv"]
    report.write_csv(results, written[0], environment)
    written.append(options.out / "report.html")
    write_html(results, written[-1], environment)
    if report.comparisons(results):
        try:
            from fastconv.bench.plot import write_plot

            write_plot(results, options.out / "ratios.png", environment)
            written.append(options.out / "ratios.png")
        except ImportError as error:
            print(f"no plot ({error}): {INSTALL_HINT}", file=sys.stderr)
    if options.markdown:
        options.markdown.write_text(report.markdown_report(results, environment), encoding="utf-8")
        written.append(options.markdown)
    print("\n" + report.full_report(results))
    print("\nwrote " + ", ".join(map(str, written)))
    return 1 if any(result.problems for result in results) else 0


def show_saved(saved: Sequence[tuple[list[Result], str]], options: argparse.Namespace) -> int:
    """Report earlier runs together, a later one's result replacing an earlier one's for the same layer."""
    environment = "; ".join(dict.fromkeys(line for _, line in saved))
    merged = {
        (result.layer, result.threads, result.dtype, result.direction): result
        for results, _ in saved
        for result in results
    }
    results = list(merged.values())
    print(environment)
    for threads in report.thread_counts(results):
        for suite, members in report.by_suite(r for r in results if r.threads == threads).items():
            print(f"\n# {suite}, {threads} thread{'s' * (threads > 1)}\n\n{report.layer_table(members)}")
    return finish(results, environment, options)


class Progress:
    """One line on the terminal's stderr with the time left; nothing where stderr is a file."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.begin = total, 0, time.monotonic()
        self.active = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Announce the next of `total` steps."""
        if self.active:
            left = (time.monotonic() - self.begin) / self.done * (self.total - self.done) if self.done else 0
            clock = f", {left // 60:.0f}:{left % 60:02.0f} left" if self.done else ""
            self.clear()
            print(f"[{self.done + 1}/{self.total}{clock}] {text}"[:100], end="", file=sys.stderr, flush=True)
        self.done += 1

    def clear(self) -> None:
        if self.active:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
