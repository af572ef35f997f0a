"""The report as one HTML page that needs no network: tables that sort, pictures as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from fastconv.bench import report, svg
from fastconv.bench.peers import CONTESTANTS
from fastconv.bench.report import BEST, Comparison, milliseconds, ratio_text
from fastconv.bench.runner import FUNCTIONAL, PREPARED, Result, algorithm_names
from fastconv.plan.explain import size

PAGE = Path(__file__).with_name("page")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def write_html(results: Sequence[Result], path: Path, environment: str) -> None:
    """Write the page.

    Parameters
    ----------
    results : sequence of Result
        At least one.
    path : Path
    environment : str
        The line of `command.describe_environment`.
    """
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>fastconv benchmark</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body(results, environment)}\n</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n",
        encoding="utf-8",
    )


def body(results: Sequence[Result], environment: str) -> str:
    """Everything between the style sheet and the script."""
    parts = ["<h1>fastconv benchmark</h1>", facts(results, environment), tiles(results)]
    counts = report.thread_counts(results)
    by_threads = {threads: [r for r in results if r.threads == threads] for threads in counts}
    for ours in comparisons_of(results):
        parts.append(heading(f"Against each library: {what(ours)}", RATIO_NOTE))
        for threads, members in by_threads.items():
            for comparison in report.comparisons(members):
                if comparison.ours == ours:
                    bars = svg.ratio_bars(members, comparison)
                    parts.append(f'<h3>{title(threads)}</h3>\n<div class="figure wide">{bars}</div>')
    parts.append(heading("Below the roof", ROOF_NOTE) + f'<div class="pair">{rooflines(by_threads)}</div>')
    if slowest := worst(by_threads):
        parts.append(heading("Where fastconv does worst") + f'<div class="pair">{slowest}</div>')
    for threads, members in by_threads.items():
        if line := report.regret_line(members):
            parts.append(heading(f"Choice of algorithm, {title(threads)}", f"{line[0].upper()}{line[1:]}."))
            parts.append(report.regret_table(members, form=html_table))
    if table := report.scaling_table(results, form=html_table):
        parts.append(heading("Speed-up by threads", "Layers that take at least a millisecond on one thread.") + table)
    parts.append(heading("Layers", LAYER_NOTE) + layers(results))
    if any(result.workspace for result in results):
        parts.append(heading("Time and scratch memory of each algorithm", SCRATCH_NOTE) + algorithms(results))
    if problems := report.problem_lines(results):
        parts.append(heading("Problems") + "<ul>" + "".join(f"<li>{escape(p)}</li>" for p in problems) + "</ul>")
    return "\n".join(part for part in parts if part)


RATIO_NOTE = (
    "Time of the peer divided by time of fastconv, geometric mean over a suite's layers: above 1, to the right, "
    "fastconv is faster. Bars end at 4 and ¼. The second column counts layers; a peer is compared on those it takes."
)
ROOF_NOTE = (
    "The line is what this machine was measured to reach: multiply-adds in registers, and bytes beyond a core's own "
    "caches. Speed is counted as the direct method, so algorithms that need fewer multiplications (Winograd, FFT) can "
    "lie above it, as can layers that stay in cache."
)
LAYER_NOTE = (
    "A click on a heading sorts. Each library's column has the ratio of its time to that of fastconv, and the time in "
    "milliseconds; the pointer on an empty cell tells why it is empty."
)
SCRATCH_NOTE = "Planned before anything runs, whether timed here or not. The algorithm chosen is in the third column."


# ---- text ----------------------------------------------------------------------------------------------------------


def heading(content: str, note: str = "") -> str:
    return f"<h2>{escape(content)}</h2>\n" + (f"<p>{escape(note)}</p>\n" if note else "")


def title(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def what(ours: str) -> str:
    return "weights prepared" if ours == PREPARED else "weights passed with each call"


def comparisons_of(results: Sequence[Result]) -> list[str]:
    return [comparison.ours for comparison in report.comparisons(results)]


def facts(results: Sequence[Result], environment: str) -> str:
    """The machine and the versions, one by one."""
    items = re.split(r"[,;]\s+(?![^()]*\))", environment)
    for dtype, threads in sorted({(r.dtype, r.threads) for r in results}):
        members = [r for r in results if (r.dtype, r.threads) == (dtype, threads)]
        peak, bandwidth = max(r.roof for r in members) / 1e9, max(r.bandwidth for r in members) / 1e9
        items.append(f"{dtype}, {title(threads)}: {peak:.0f} GFLOP/s, {bandwidth:.0f} GB/s")
    return '<ul class="facts">' + "".join(f"<li>{escape(item)}</li>" for item in dict.fromkeys(items)) + "</ul>"


def tiles(results: Sequence[Result]) -> str:
    """The few numbers to remember."""
    found = []
    for threads in report.thread_counts(results):
        members = [r for r in results if r.threads == threads]
        for comparison in report.comparisons(members):
            for group in dict.fromkeys((BEST, report.headline(comparison))):
                mean = comparison.geomeans(members, group) if group in comparison.groups else None
                if mean is not None:
                    style = "win" if mean >= 1 else "lose"
                    found.append(
                        f'<div class="tile"><b class="{style}">{mean:.2f}</b><span>{escape(group)} / fastconv, '
                        f"{what(comparison.ours)}, {title(threads)}</span></div>"
                    )
    return f'<div class="tiles">{"".join(found)}</div>' if found else ""


# ---- pictures ------------------------------------------------------------------------------------------------------


def rooflines(by_threads: dict[int, list[Result]]) -> str:
    found = []
    for threads, members in by_threads.items():
        ours = PREPARED if any(PREPARED in r.timings for r in members) else FUNCTIONAL
        comparison: Comparison | None = next((c for c in report.comparisons(members) if c.ours == ours), None)
        drawing = svg.roofline(members, comparison, ours)
        found.append(f'<div><h3>{title(threads)}</h3><div class="figure">{drawing}</div></div>')
    return "".join(found)


def worst(by_threads: dict[int, list[Result]]) -> str:
    """The layers where the peers do best."""
    found = []
    for threads, members in by_threads.items():
        for comparison in report.comparisons(members):
            group = BEST if BEST in comparison.groups else report.headline(comparison)
            name = f"against {group}, {what(comparison.ours)}, {title(threads)}"
            found.append(f"<div><h3>{name}</h3>{report.worst_table(members, comparison, group, form=html_table)}</div>")
    return "".join(found)


# ---- tables --------------------------------------------------------------------------------------------------------


def html_table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of plain texts, in the form of `report.text_table`."""
    return table(headers, ([cell(text) for text in row] for row in rows), left, fit=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int, name: str = "", fit: bool = False) -> str:
    """A sortable table of ready cells; the first `left` columns are aligned to the left."""
    heads = "".join(f"<th{LEFT * (i < left)}>{escape(text)}</th>" for i, text in enumerate(headers))
    lines = []
    for row in rows:
        cells = (one.replace("<td", f"<td{LEFT}", 1) if i < left else one for i, one in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    identity = f' id="{name}"' if name else ""
    box = "scroll fit" if fit else "scroll"
    return (
        f'<div class="{box}"><table{identity}><thead><tr>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


LEFT = ' class="left"'


def cell(content: str, value: float | None = None, hint: str = "") -> str:
    """A cell of plain text; `value` is what it is sorted by where the text is not a number."""
    if value is None:
        number, _, unit = content.partition(" ")
        if unit in UNITS:
            value = float(number) * UNITS[unit]
    key = "" if value is None else f' data-v="{value:.6g}"'
    title_ = f' title="{escape(hint)}"' if hint else ""
    return f"<td{key}{title_}>{escape(content)}</td>"


def ratio_cell(result: Result, ours: float, name: str) -> str:
    """Ratio and milliseconds of a peer, or why it has none."""
    theirs = result.seconds(name)
    if theirs is None:
        return cell("-", hint=result.notes.get(name, ""))
    ratio = theirs / ours
    style = "win" if ratio >= 1 else "lose"
    number = f'<span class="{style}">{ratio_text(ratio)}</span>'
    return f'<td data-v="{ratio:.6g}">{number}<small>{milliseconds(theirs)}</small></td>'


def sizes(result: Result) -> str:
    """1x64x56x56 * 64x3x3 /2: input, filters and what is unusual about them."""
    layer = result.layer
    shape = "x".join(map(str, (layer.n, layer.c, *layer.spatial)))
    words = [f"{shape} → {layer.oc}, {'x'.join(map(str, layer.kernel))}"]
    for label, values, usual in (("/", layer.stride, 1), ("d", layer.dilation, 1)):
        if set(values) != {usual}:
            words.append(label + "x".join(map(str, dict.fromkeys(values) if len(set(values)) == 1 else values)))
    if layer.groups > 1:
        words.append(f"g{layer.groups}")
    return " ".join(words)


def layers(results: Sequence[Result]) -> str:
    """One row for each layer and number of threads, with every peer."""
    timed = {name for result in results for name in result.timings}
    peers = [name for name in CONTESTANTS if name in timed]
    directions = len({result.direction for result in results}) > 1
    headers = ["suite", "layer", "input → filters", "algorithm", "threads", "ms", "GFLOP/s", "% roof", "scratch"]
    headers = headers[:3] + ["direction"] * directions + headers[3:]
    both = {PREPARED, FUNCTIONAL} <= timed
    headers += [FUNCTIONAL] * both + peers
    rows = []
    for r in results:
        ours = PREPARED if PREPARED in r.timings else FUNCTIONAL
        timing = r.timings[ours]
        scratch = r.workspace.get(r.algorithm)
        row = [cell(r.layer.suite), cell(r.layer.short_name), cell(sizes(r), r.flops)]
        row += [cell(r.direction)] * directions
        row += [
            cell(r.algorithm), cell(str(r.threads)), cell(milliseconds(timing.best)), cell(f"{r.gflops(timing):.1f}"),
            cell(f"{r.roof_percent(timing):.0f}"), cell("-" if scratch is None else size(scratch), scratch),
        ]  # fmt: skip
        if both:
            row.append(ratio_cell(r, timing.best, FUNCTIONAL))
        rows.append(row + [ratio_cell(r, timing.best, name) for name in peers])
    return search("layers") + table(headers, rows, left=4 + directions, name="layers")


def algorithms(results: Sequence[Result]) -> str:
    """Time and scratch memory of each algorithm on each layer."""
    names = [name for name in algorithm_names() if any(name in r.workspace for r in results)]
    rows = []
    for r in results:
        row = [cell(r.layer.suite), cell(r.layer.short_name), cell(r.algorithm), cell(str(r.threads))]
        times = r.algorithms()
        for name in names:
            if name not in r.workspace:
                row.append(cell("-", hint=r.notes.get(name, "")))
                continue
            time = f"<small>{milliseconds(times[name].best)} ms</small>" if name in times else ""
            row.append(f'<td data-v="{r.workspace[name]}">{escape(size(r.workspace[name]))}{time}</td>')
        rows.append(row)
    headers = ["suite", "layer", "chosen", "threads", *names]
    return search("algorithms") + table(headers, rows, left=3, name="algorithms")


def search(name: str) -> str:
    return f'<input type="search" data-table="{name}" aria-label="Filter rows" placeholder="filter: resnet50 3x3 …">\n'
