"""Why an algorithm was chosen, as rows and as a table."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass

from fastconv.plan import calibrate, wisdom
from fastconv.plan.choice import Candidate, Request, choose, consider, expected, model_error, time_all, with_times

WIDTH = 120  # columns


@dataclass(frozen=True)
class Row:
    """One algorithm on one problem; None where a number does not exist.

    Attributes
    ----------
    algorithm : str
        Its name.
    chosen : bool
        Whether the plan uses it.
    predicted_ms, measured_ms : float or None
        Milliseconds a call takes, by the cost model and as measured now or by `autotune`; with prepared weights
        unless the plan is for calls that prepare them every time.
    gflops : float or None
        Speed counted as the direct method, whatever the algorithm really computes.
    roof_percent : float or None
        Of the least time any direct method could need on this machine; algorithms with fewer multiplications can
        exceed 100.
    workspace : int or None
        Bytes of scratch memory.
    error_bound : float
        Of abs(error) / (u * (abs(weight) * abs(x))), u the unit roundoff.
    reason : str
        Why it was chosen, how much slower it is, or why it was refused.
    """

    algorithm: str
    chosen: bool
    predicted_ms: float | None
    measured_ms: float | None
    gflops: float | None
    roof_percent: float | None
    workspace: int | None
    error_bound: float
    reason: str


_HEADINGS = ("", "algorithm", "predicted ms", "measured ms", "GFLOP/s", "% of roof", "workspace", "error bound", "why")


@dataclass(frozen=True)
class Explanation:
    """What every algorithm would do with a problem; printing it gives a table.

    Attributes
    ----------
    problem, machine : str
        The two lines above the table.
    rows : tuple of Row
        One for each algorithm, the chosen one first, then from fast to slow, the refused ones last.
    """

    problem: str
    machine: str
    rows: tuple[Row, ...]

    @property
    def chosen(self) -> Row:
        """The row of the algorithm that the plan uses."""
        return next(row for row in self.rows if row.chosen)

    def __str__(self) -> str:
        cells = [_HEADINGS, *map(_cells, self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS) - 1)]
        left = sum(widths) + 2 * len(widths)
        lines = [*_wrap(self.problem), *_wrap(self.machine)]
        for index, line in enumerate(cells):
            # Names to the left, numbers to the right, reasons wrapped in the last column.
            fields = [
                text.ljust(w) if i < 2 else text.rjust(w)
                for i, (text, w) in enumerate(zip(line[:-1], widths, strict=True))
            ]
            why = textwrap.wrap(line[-1], max(WIDTH - left, 20)) or [""]
            lines.append("  ".join([*fields, why[0]]).rstrip())
            lines += [" " * left + more for more in why[1:]]
            if index == 0:
                lines.append("-" * min(max(map(len, lines)), WIDTH))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{html.escape(text)}</th>" for text in _HEADINGS)
        body = ""
        for row in self.rows:
            cells = "".join(f"<td>{html.escape(text)}</td>" for text in _cells(row))
            body += f'<tr style="font-weight: bold">{cells}</tr>' if row.chosen else f"<tr>{cells}</tr>"
        caption = f"{html.escape(self.problem)}<br>{html.escape(self.machine)}"
        return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def explain_request(request: Request, measure: bool = False) -> Explanation:
    """The table behind a plan; with `measure`, every algorithm is timed now."""
    spec, threads = request.spec, request.threads
    found = consider(request)
    if measure:
        found = with_times(found, time_all(request, found), request.prepared)
    asked = [c for c in found if request.algorithm in ("auto", c.name)]
    chosen = choose(asked)
    correction = model_error(found)
    machine = calibrate.machine()
    roof = machine.roof_seconds(spec, threads)

    def row(c: Candidate) -> Row:
        seconds = c.predicted if c.measured is None else c.measured
        able = c.reason is None
        return Row(
            algorithm=c.name,
            chosen=c is chosen,
            predicted_ms=c.predicted * 1e3 if able else None,
            measured_ms=None if c.measured is None else c.measured * 1e3,
            gflops=spec.flops / seconds / 1e9 if able else None,
            roof_percent=100 * roof / seconds if able else None,
            workspace=c.params.workspace if able else None,
            error_bound=c.module.ERROR_BOUND,
            reason=_reason(request, c, chosen, correction),
        )

    found.sort(key=lambda c: (c is not chosen, expected(c, correction)))
    result = {"forward": spec.out_shape, "input": spec.x_shape, "weight": spec.weight_shape}[request.direction]
    shape = "x".join(map(str, result))
    what = "" if request.direction == "forward" else f"{request.direction} gradient of "
    rates = f"{machine.peak_flops(spec.dtype, threads) / 1e9:.0f} GFLOP/s, {machine.bandwidth(threads) / 1e9:.0f} GB/s"
    how = "measured" if machine.roof.source == "measured" else "estimated"
    return Explanation(
        problem=f"{what}{spec} -> {shape}: {spec.flops / 1e6:.4g} MFLOP, input {size(spec.input_bytes)}, "
        f"weights {size(spec.weight_bytes)}, output {size(spec.output_bytes)}",
        machine=f"{wisdom.machine_name()}, {threads} thread{'s' if threads > 1 else ''}: {rates} ({how}), "
        f"roof {_number(roof * 1e3)} ms",
        rows=tuple(map(row, found)),
    )


def _reason(request: Request, c: Candidate, chosen: Candidate | None, correction: float) -> str:
    if c.reason is not None:
        return f"refused: {c.reason}"
    if c is chosen and request.algorithm != "auto":
        return "chosen: asked for"
    if c is chosen:
        return "chosen: fastest predicted" if c.measured is None else "chosen: fastest measured"
    assert chosen is not None  # c accepts, so somebody was chosen
    ratio = expected(c, correction) / expected(chosen, correction)
    return f"{ratio:.3g}x slower than chosen" if ratio >= 1 else f"{1 / ratio:.3g}x faster than chosen"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        ">" if row.chosen else "",
        row.algorithm,
        _number(row.predicted_ms),
        _number(row.measured_ms),
        _number(row.gflops),
        "-" if row.roof_percent is None else f"{row.roof_percent:.0f}",
        "-" if row.workspace is None else size(row.workspace),
        f"{row.error_bound:g} u",
        row.reason,
    )


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def _number(value: float | None) -> str:
    """Three digits, never in scientific notation."""
    if value is None:
        return "-"
    return f"{value:.3g}" if 1e-3 <= value < 1e3 else f"{value:.0f}" if value >= 1 else f"{value:.6f}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            break
        if unit != "GiB":
            count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
