"""The demo's table: one line a problem, the dispatcher's choice and the algorithms that lost."""

from __future__ import annotations

from math import exp, log
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastconv.demo.measure import Result

__all__ = ["console", "milliseconds", "table"]

WIDE = 110  # columns from which on the losers fit beside the rest


def table(results: list[Result], machine: str, width: int) -> RenderableType:
    """The table and a few lines that say how to read it; the losers are a table of their own on a narrow screen."""
    wide = width >= WIDE
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 2 if wide else 1, 0, 0)}
    grid = Table(title=machine, title_justify="left", title_style="bold", **style)
    others = grid if wide else Table(**style)
    grid.add_column("problem", no_wrap=True)
    grid.add_column("chosen", no_wrap=True)
    for header in ("predicted\nms", "measured\nms", "GFLOP/s", "% of\nroof", "error\nu"):
        grid.add_column(header, justify="right", no_wrap=True)
    if not wide:
        others.add_column("problem", no_wrap=True)
    others.add_column("the others, ms")
    for result in results:
        chosen = result.chosen
        row = [
            Text(result.problem.name),
            Text(chosen.algorithm, style="bold"),
            Text(milliseconds(chosen.predicted_ms)),
            Text(milliseconds(chosen.ms), style="bold"),
            Text(f"{result.gflops:.0f}" if result.gflops >= 10 else f"{result.gflops:.1f}"),
            Text(f"{100 * result.gflops / result.roof_gflops:.0f}"),
            Text(f"{chosen.error:.1f}", style="green" if chosen.passed else "bold red"),
        ]
        if wide:
            grid.add_row(*row, losers(result))
        else:
            grid.add_row(*row)
            others.add_row(result.problem.name, losers(result))
    checks = [run for result in results for run in result.runs]
    failed = [(result.problem.name, run) for result in results for run in result.runs if not run.passed]
    regrets = [result.regret for result in results]
    geomean = exp(sum(map(log, regrets)) / len(regrets))
    worst = max(results, key=lambda result: result.regret)
    notes = Text(
        "measured: fastest of several calls with prepared weights. GFLOP/s count the multiply-adds of the definition, "
        "so an algorithm that needs fewer can pass 100 % of the roof (the lower of this machine's FMA peak and what "
        "its memory feeds). error: largest distance from a float64 result, in units of u (|w| * |x|), u = 2^-24.\n",
        style="dim",
    )
    verdict = Text.assemble(
        (f"{len(checks) - len(failed)} of {len(checks)} results ", "bold green" if not failed else "bold red"),
        "lie within their algorithm's error bound. Chosen over fastest algorithm: ",
        f"{geomean:.2f} on average, {worst.regret:.2f} at worst ({worst.problem.name}).",
    )
    for name, run in failed:
        verdict.append(
            f"\nFAILED  {name}: {run.algorithm} is off by {run.error:.3g} u, its bound is {run.bound:g} u", "bold red"
        )
    return Group(grid, notes, verdict) if wide else Group(grid, others, notes, verdict)


def losers(result: Result) -> Text:
    """The other algorithms from fast to slow; one that beat the choice stands out, as does a wrong one."""
    text = Text()
    for run in result.runs[1:]:
        style = "bold red" if not run.passed else "yellow" if run.ms < result.chosen.ms else ""
        text.append(", " if text else "").append(f"{run.algorithm}\u00a0{milliseconds(run.ms)}", style)
    return text


def milliseconds(value: float) -> str:
    """Three digits, from microseconds to seconds."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def console(*, stderr: bool = False) -> Console:
    """A console that keeps the table readable when it is piped into a file."""
    plain = Console(stderr=stderr)
    return plain if plain.is_terminal else Console(stderr=stderr, width=max(plain.width, 120))
