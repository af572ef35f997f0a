"""The command line: ``python -m fastconv info | demo | explain | bench | tune | warmup``.

Each command imports what it needs when it runs, so that ``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["main"]

Item = TypeVar("Item")


class UserError(Exception):
    """A mistake in what was asked: printed as one line, exit status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0 when all went well, 1 when a check failed, 2 for a mistake in the arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["bench"]:  # the benchmark has a command line of its own
        from fastconv import bench

        return int(bench.main(arguments[1:]) or 0)
    options = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            return int(options.run(options))
    except UserError as error:
        print(f"fastconv {options.command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands but ``bench``, which parses its own arguments."""
    parser = argparse.ArgumentParser(
        prog="fastconv", description="Fast N-d convolution on the CPU, and why each algorithm was chosen."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    info = command("info", run_info, "this machine as fastconv sees it, with its measured peaks")
    info.add_argument("--no-measure", action="store_true", help="leave out the measured peaks (about a second)")

    demo = command("demo", run_demo, "filter a photograph with every algorithm, check each, draw a gallery")
    demo.add_argument("--image", default="astronaut", help="astronaut, china, flower or an image file [%(default)s]")
    demo.add_argument(
        "--out", type=Path, default=Path("gallery.png"), help="gallery to write, .png or .jpg [%(default)s]"
    )
    demo.add_argument("--size", type=positive, default=512, help="longer side in pixels [%(default)s]")
    demo.add_argument(
        "--skip-digits", action="store_true", help="leave out the second part, a network that learns to read digits"
    )
    add_threads(demo)

    explain = command("explain", run_explain, "which algorithm a convolution would use, and why the others lost")
    add_problem(explain, required=True)
    explain.add_argument("--output-padding", type=per_axis, default=0, help="of --direction transpose [0]")
    explain.add_argument("--measure", action="store_true", help="time every algorithm instead of predicting")

    tune = command("tune", run_tune, "measure the algorithms on given problems and remember the fastest")
    add_problem(tune, required=False)
    tune.add_argument("--suite", type=Path, help="CSV of problems, columns as in fastconv/bench/shapes")
    tune.add_argument("--select", default="", metavar="TEXT", help="only the suite's problems with TEXT in their name")

    warmup = command("warmup", run_warmup, "compile the common kernels into the cache, so that first calls are fast")
    warmup.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32"], help="[float32]")
    add_threads(warmup)

    commands.add_parser("bench", help="compare with other libraries (fastconv bench --help)")
    return parser


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, help="number of threads [all]")


def add_problem(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--input", type=sizes, required=required, metavar="NxCxHxW", help="input shape, e.g. 1x64x56x56"
    )
    parser.add_argument(
        "--weight", type=sizes, required=required, metavar="OxCxHxW", help="weight shape (C per group), e.g. 64x64x3x3"
    )
    parser.add_argument("--stride", type=per_axis, default=1, help="one number or one an axis, e.g. 2 or 2x1 [1]")
    parser.add_argument("--padding", type=padding, default=0, help="number, one an axis (1x2), same or valid [0]")
    parser.add_argument("--dilation", type=per_axis, default=1, help="one number or one an axis [1]")
    parser.add_argument("--groups", type=positive, default=1, help="[1]")
    parser.add_argument("--dtype", default="float32", help="[float32]")
    parser.add_argument("--layout", default="NCHW", help="layout of the input shape, e.g. NHWC [NCHW]")
    parser.add_argument("--accuracy", choices=("fast", "default", "exact"), default="default", help="[default]")
    parser.add_argument(
        "--direction", choices=("forward", "input", "weight", "transpose"), default="forward",
        help="the convolution, the gradient of its input or weight, or the transposed convolution [forward]",
    )  # fmt: skip
    add_threads(parser)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def sizes(text: str) -> tuple[int, ...]:
    parts = text.lower().replace(",", "x").split("x")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected sizes joined by x, such as 1x64x56x56, got {text!r}")
    return tuple(map(int, parts))


def per_axis(text: str) -> int | tuple[int, ...]:
    values = sizes(text)
    return values[0] if len(values) == 1 else values


def padding(text: str) -> int | str | tuple[int, ...]:
    return text if text in ("same", "valid") else per_axis(text)


def set_threads(count: int | None) -> None:
    import fastconv

    if count is not None:
        try:
            fastconv.set_num_threads(count)
        except ValueError as error:
            raise UserError(f"--threads {count}: {error}") from error


def run_info(options: argparse.Namespace) -> int:
    from fastconv.cpu.info import system_info

    rows = system_info(measure=not options.no_measure)
    width = max(map(len, rows))
    for label, value in rows.items():
        print(f"{label:<{width}}  {value}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    from fastconv import demo

    set_threads(options.threads)
    try:
        if not options.skip_digits:
            demo.check_digits()
        status = demo.run(options.image, options.out, options.size)
        if not options.skip_digits:
            status |= demo.run_digits(options.out)
        return status
    except (demo.MissingExtra, demo.UnusableImage) as error:
        raise UserError(str(error)) from error


def problem_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        name: getattr(options, name)
        for name in ("stride", "padding", "dilation", "groups", "dtype", "layout", "accuracy", "direction")
    }


def run_explain(options: argparse.Namespace) -> int:
    import fastconv

    set_threads(options.threads)
    try:
        chosen = problem_options(options)
        if options.output_padding:
            chosen["output_padding"] = options.output_padding
        plan = fastconv.plan(options.input, options.weight, **chosen)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    print(plan.explain(measure=options.measure))
    return 0


def run_tune(options: argparse.Namespace) -> int:
    import fastconv

    if (options.suite is None) == (options.input is None) or (options.input is None) != (options.weight is None):
        raise UserError("give either --suite, or --input together with --weight")
    if options.suite is None:
        problems = [("this problem", options.input, options.weight, problem_options(options))]
    else:
        from fastconv.bench.shapes import read_layers, select

        try:
            layers = select(read_layers(options.suite), pattern=options.select)
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from error
        if not layers:
            raise UserError(f"--select {options.select}: no problem of {options.suite} has this in its name")
        if options.direction == "transpose":
            raise UserError("--suite holds convolutions: --direction takes forward, input or weight")
        settings = {name: getattr(options, name) for name in ("dtype", "accuracy", "direction")}
        problems = [
            (f"{layer.suite}/{layer.name}", layer.spec.x_shape, layer.spec.weight_shape, layer.options | settings)
            for layer in layers
        ]
    set_threads(options.threads)
    for name, x_shape, weight_shape, chosen in steps(problems, "measuring", lambda problem: problem[0]):
        try:
            fastconv.autotune(x_shape, weight_shape, **chosen)
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error
        plan = fastconv.plan(x_shape, weight_shape, **chosen)
        print(f"{name}: {plan.algorithm}, {1e3 * (plan.measured or plan.predicted):.3g} ms")
    return 0


#: Problems that between them use every kernel in the ways that networks and image filters do: x, weight, options.
COMMON: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((1, 32, 28, 28), (32, 32, 3, 3), {"padding": 1}),
    ((1, 32, 28, 28), (32, 32, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 28, 28, 32), (32, 32, 3, 3), {"padding": 1, "layout": "NHWC"}),
    ((1, 64, 28, 28), (64, 64, 1, 1), {}),
    ((1, 3, 64, 64), (16, 3, 7, 7), {"padding": 3, "stride": 2}),
    ((1, 32, 28, 28), (32, 1, 3, 3), {"padding": 1, "groups": 32}),
    ((1, 28, 28, 32), (32, 1, 3, 3), {"padding": 1, "groups": 32, "layout": "NHWC"}),
    ((1, 1, 128, 128), (1, 1, 31, 31), {"padding": "same"}),
    ((1, 16, 256), (16, 16, 9), {"padding": 4}),
    ((1, 8, 12, 12, 12), (8, 8, 3, 3, 3), {"padding": 1}),
)


def run_warmup(options: argparse.Namespace) -> int:
    from time import perf_counter

    import numpy as np

    import fastconv
    from fastconv.cpu.jit import cache_folder
    from fastconv.plan import calibrate

    set_threads(options.threads)
    start = perf_counter()
    calibrate.machine(measure=True)
    calls = []
    for dtype in options.dtype:
        for x_shape, weight_shape, chosen in COMMON:
            for row in fastconv.explain(x_shape, weight_shape, dtype=dtype, **chosen).rows:
                if row.predicted_ms is not None:
                    calls.append((dtype, x_shape, weight_shape, {**chosen, "algorithm": row.algorithm}))
    for dtype, x_shape, weight_shape, chosen in steps(
        calls, "compiling", lambda call: f"{call[3]['algorithm']} {call[0]}"
    ):
        fastconv.prepare(np.ones(weight_shape, dtype), **chosen)(np.ones(x_shape, dtype))
    print(f"{len(calls)} cases ready after {perf_counter() - start:.1f} s; compiled kernels are in {cache_folder()}")
    return 0


def steps(items: Sequence[Item], title: str, name: Callable[[Item], str]) -> Iterator[Item]:
    """The items one by one, with a progress bar on stderr: rich's if it is installed, else a plain counter."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        for done, item in enumerate(items, 1):
            if sys.stderr.isatty():
                print(f"\r{title} {done}/{len(items)} {name(item):<60.60}", end="", file=sys.stderr, flush=True)
            yield item
        if sys.stderr.isatty():
            print(file=sys.stderr)
        return
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=len(items))
        for item in items:
            progress.update(task, description=name(item))
            yield item
            progress.advance(task)
