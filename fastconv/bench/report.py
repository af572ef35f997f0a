"""What a run says: tables for the terminal and for Markdown, and a CSV that can be read back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

from fastconv.bench.peers import CONTESTANTS
from fastconv.bench.runner import FUNCTIONAL, PREPARED, Result, Timing, algorithm_names
from fastconv.bench.shapes import COLUMNS, parse_layer
from fastconv.plan.explain import size

TORCH, BEST = "torch best", "best peer"
Form = Callable[..., str]  # (headers, rows, number of columns to the left) -> a table
CSV_COLUMNS = (
    "threads", "dtype", "direction", *COLUMNS, "contestant", "algorithm", "ms", "median_ms", "samples",
    "gflops", "roof_gflops", "roof_gbytes", "roof_percent", "workspace", "note",
)  # fmt: skip


def geomean(values: Iterable[float]) -> float:
    """Geometric mean; nan for no values."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else float("nan")


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Columns aligned with spaces, the first `left` of them to the left."""
    table = [list(headers), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """The same in Markdown."""
    rule = [":--" if i < left else "--:" for i in range(len(headers))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headers, rule, *rows))


def milliseconds(seconds: float) -> str:
    """Three digits or four, without an exponent."""
    ms = 1e3 * seconds
    digits = next(digits for least, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3), (0, 4)) if ms >= least)
    return f"{ms:.{digits}f}"


def ratio_text(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def by_suite(results: Iterable[Result]) -> dict[str, list[Result]]:
    suites: dict[str, list[Result]] = {}
    for result in results:
        suites.setdefault(result.layer.suite, []).append(result)
    return suites


def thread_counts(results: Iterable[Result]) -> list[int]:
    return sorted({result.threads for result in results})


# ---- ratios --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One of our contestants against groups of peers; a group's time is that of its fastest member."""

    ours: str
    groups: dict[str, tuple[str, ...]]

    def ratio(self, result: Result, group: str) -> float | None:
        """Their time / ours: above 1 we are faster."""
        ours, theirs = result.seconds(self.ours), result.seconds(*self.groups[group])
        return None if ours is None or theirs is None else theirs / ours

    def geomeans(self, results: Sequence[Result], group: str) -> float | None:
        ratios = [r for result in results if (r := self.ratio(result, group)) is not None]
        return geomean(ratios) if ratios else None


def comparisons(results: Sequence[Result]) -> list[Comparison]:
    """Our prepared layers against everybody, our functional calls against peers that are functional too."""
    timed = {name for result in results for name in result.timings}
    found = []
    for ours in (PREPARED, FUNCTIONAL):
        peers = [
            name for name, peer in CONTESTANTS.items() if name in timed and (ours == PREPARED or not peer.prepared)
        ]
        groups: dict[str, tuple[str, ...]] = {name: (name,) for name in peers}
        torch = tuple(name for name in peers if name.startswith("torch"))
        if torch:
            groups = {TORCH: torch, **groups}
        if len(peers) > len(torch):
            groups[BEST] = tuple(peers)
        if ours in timed and groups:
            found.append(Comparison(ours, groups))
    return found


def headline(comparison: Comparison) -> str:
    """The group that a single number is given for."""
    return next(iter(comparison.groups))


# ---- tables --------------------------------------------------------------------------------------------------------


def layer_table(results: Sequence[Result]) -> str:
    """A suite: each layer's algorithm, our speed, and every other contestant's time with its ratio to ours."""
    timed = {name for result in results for name in result.timings}
    ours = PREPARED if PREPARED in timed else FUNCTIONAL
    peers = [name for name in CONTESTANTS if name in timed]
    algorithms = [name for name in algorithm_names() if name in timed]
    others = algorithms if ours == FUNCTIONAL or FUNCTIONAL not in timed else [FUNCTIONAL, *algorithms]
    headers = ["layer", "algorithm", "ms", "GFLOP/s", "% roof", "scratch", *others]
    headers += [f"{name} (ratio)" for name in peers]
    rows = []
    for result in results:
        timing = result.timings[ours]
        speed = [milliseconds(timing.best), f"{result.gflops(timing):.1f}", f"{result.roof_percent(timing):.0f}"]
        scratch = result.workspace.get(result.algorithm)
        row = [result.layer.short_name, result.algorithm, *speed, "-" if scratch is None else size(scratch)]
        row += [milliseconds(result.timings[name].best) if name in result.timings else "-" for name in others]
        for name in peers:
            theirs = result.seconds(name)
            row.append("-" if theirs is None else f"{milliseconds(theirs)} ({ratio_text(theirs / timing.best)})")
        rows.append(row)
    return text_table(headers, rows, left=2)


def summary_table(results: Sequence[Result], comparison: Comparison, form: Form = text_table) -> str:
    """Geometric means of the ratios, suite by suite."""
    rows = []
    for suite, members in [*by_suite(results).items(), ("all", list(results))]:
        means = [comparison.geomeans(members, group) for group in comparison.groups]
        rows.append([suite, str(len(members)), *(ratio_text(mean) or "-" for mean in means)])
    return form(["suite", "layers", *comparison.groups], rows)


def worst_table(
    results: Sequence[Result], comparison: Comparison, group: str, count: int = 10, form: Form = text_table
) -> str:
    """The layers where a group of peers does best against us."""
    ranked = sorted((ratio, i) for i, r in enumerate(results) if (ratio := comparison.ratio(r, group)) is not None)
    rows = []
    for ratio, i in ranked[:count]:
        result = results[i]
        theirs = min(comparison.groups[group], key=lambda name: result.seconds(name) or float("inf"))
        ours = result.timings[comparison.ours]
        rows.append(
            [f"{result.layer.suite}/{result.layer.short_name}", result.algorithm, theirs, ratio_text(ratio),
             milliseconds(ours.best), f"{result.roof_percent(ours):.0f}"]
        )  # fmt: skip
    return form(["layer", "algorithm", "peer", "ratio", "ms", "% roof"], rows, left=3)


def regrets(results: Sequence[Result]) -> list[tuple[float, Result, str]]:
    """(time chosen / time of the best algorithm, layer, best algorithm), the greatest regret first."""
    found = []
    for result in results:
        times = {name: timing.best for name, timing in result.algorithms().items()}
        if len(times) > 1 and result.algorithm in times:
            best = min(times, key=times.__getitem__)
            found.append((times[result.algorithm] / times[best], result, best))
    return sorted(found, key=lambda item: -item[0])


def regret_line(results: Sequence[Result]) -> str:
    """How much time choosing by the cost model lost; empty if no layer had two algorithms timed."""
    found = regrets(results)
    if not found:
        return ""
    mean, worst = geomean(regret for regret, _, _ in found), found[0][0]
    right = sum(regret == 1 for regret, _, _ in found)
    return f"regret {mean:.3f} (geomean of {len(found)} layers), worst {worst:.2f}, fastest chosen {right} times"


def regret_table(results: Sequence[Result], count: int = 10, form: Form = text_table) -> str:
    """Where choosing lost most; empty if it lost nothing."""
    rows = [
        [f"{result.layer.suite}/{result.layer.short_name}", result.algorithm, best, f"{regret:.2f}",
         milliseconds(result.algorithms()[result.algorithm].best), milliseconds(result.algorithms()[best].best)]
        for regret, result, best in regrets(results)[:count]
        if regret > 1
    ]  # fmt: skip
    return form(["layer", "chosen", "better", "regret", "ms", "better ms"], rows, left=3) if rows else ""


def workspace_table(results: Sequence[Result], form: Form = text_table) -> str:
    """The most scratch memory that each algorithm plans over a suite's layers, and over all."""
    names = [name for name in algorithm_names() if any(name in result.workspace for result in results)]
    rows = []
    for suite, members in [*by_suite(results).items(), ("all", list(results))]:
        most = [max((r.workspace[name] for r in members if name in r.workspace), default=None) for name in names]
        chosen = max((r.workspace.get(r.algorithm, 0) for r in members), default=0)
        rows.append([suite, size(chosen), *("-" if bytes_ is None else size(bytes_) for bytes_ in most)])
    return form(["suite", "chosen", *names], rows) if names else ""


def direct_table(results: Sequence[Result], form: Form = text_table) -> str:
    """The direct algorithm on the compute-bound 3x3 layers of ResNet-50, in % of the multiply-add peak."""
    rows = []
    for r in results:
        direct = r.algorithms().get("direct")
        if direct and r.layer.suite.startswith("resnet50") and r.layer.kernel == (3, 3):
            sizes = f"{r.layer.n}x{r.layer.c}x{'x'.join(map(str, r.layer.spatial))} -> {r.layer.oc}"
            speed = [milliseconds(direct.best), f"{r.gflops(direct):.1f}", f"{r.roof_percent(direct):.1f}"]
            rows.append([r.layer.suite, r.layer.short_name, sizes, *speed])
    return form(["suite", "layer", "size", "direct ms", "GFLOP/s", "% peak"], rows, 3) if rows else ""


def scaling_table(results: Sequence[Result], seconds: float = 1e-3, form: Form = text_table) -> str:
    """Time on one thread / time on more, over layers that take at least `seconds` on one thread."""
    one = {r.layer: r for r in results if r.threads == 1}
    rows = []
    for threads in thread_counts(results)[1:]:
        gains = [
            (one[r.layer].timings[name].best / r.timings[name].best, f"{r.layer.suite}/{r.layer.short_name}")
            for name in (PREPARED, FUNCTIONAL)
            for r in results
            if r.threads == threads and r.layer in one and name in r.timings and name in one[r.layer].timings
            and one[r.layer].timings[name].best >= seconds
        ]  # fmt: skip
        if gains:
            worst, layer = min(gains)
            rows.append([str(threads), f"{geomean(gain for gain, _ in gains):.2f}", f"{worst:.2f}", layer])
    return form(["threads", "speed-up", "least", "on"], rows) if rows else ""


def problem_lines(results: Iterable[Result]) -> list[str]:
    """A line for each contestant that should have run and did not."""
    return [
        f"{r.layer.suite}/{r.layer.short_name}, {r.threads} threads, {name}: {note}"
        for r in results
        for name, note in r.problems.items()
    ]


def full_report(results: Sequence[Result]) -> str:
    """Everything after the layer tables."""
    parts = []
    for threads in thread_counts(results):
        members = [result for result in results if result.threads == threads]
        title = f"{threads} thread{'s' * (threads > 1)}"
        for comparison in comparisons(members):
            parts.append(f"## {comparison.ours}, {title}: geometric mean of (time of peer / ours)")
            parts.append(summary_table(members, comparison))
            for group in dict.fromkeys((headline(comparison), BEST)):
                if group in comparison.groups:
                    parts.append(f"slowest against {group}:\n{worst_table(members, comparison, group)}")
        for heading, table in (
            ("choice of algorithm", "\n".join(filter(None, (regret_line(members), regret_table(members))))),
            ("direct on 3x3 layers of ResNet-50", direct_table(members)),
            ("most scratch memory that an algorithm plans", workspace_table(members)),
        ):
            if table:
                parts.append(f"## {heading}, {title}\n\n{table}")
    if table := scaling_table(results):
        parts.append(f"## speed-up by threads, layers of at least 1 ms\n\n{table}")
    if problems := problem_lines(results):
        parts.append("## problems\n\n" + "\n".join(problems))
    return "\n\n".join(parts)


def markdown_report(results: Sequence[Result], environment: str) -> str:
    """Suite by suite, one column for each group of peers and number of threads."""
    parts = [environment]
    counts = thread_counts(results)
    for comparison in comparisons(results):
        what = "weights prepared" if comparison.ours == PREPARED else "weights passed with each call"
        columns = [(group, threads) for group in comparison.groups for threads in counts]
        headers = ["suite", "layers"] + [
            f"{group}, {threads} thread{'s' * (threads > 1)}" for group, threads in columns
        ]
        rows = []
        for suite, members in [*by_suite(results).items(), ("**all**", list(results))]:
            cells = [
                ratio_text(comparison.geomeans([r for r in members if r.threads == threads], group)) or "-"
                for group, threads in columns
            ]
            rows.append([suite, str(len({r.layer for r in members})), *cells])
        parts.append(f"Time of the peer / time of fastconv ({what}), geometric mean; above 1 fastconv is faster.")
        parts.append(markdown_table(headers, rows))
    return "\n\n".join(parts) + "\n"


# ---- CSV -----------------------------------------------------------------------------------------------------------


def csv_rows(results: Iterable[Result]) -> Iterable[dict[str, Any]]:
    """A row for each contestant that was timed, refused or failed, and for each algorithm that was only planned."""
    for result in results:
        common = {
            "threads": result.threads, "dtype": result.dtype, "direction": result.direction, **result.layer.row(),
            "algorithm": result.algorithm, "roof_gflops": f"{result.roof / 1e9:.2f}",
            "roof_gbytes": f"{result.bandwidth / 1e9:.3f}",
        }  # fmt: skip
        for name in dict.fromkeys((*result.timings, *result.workspace, *result.notes)):
            row = common | {
                "contestant": name, "note": result.notes.get(name, ""), "workspace": result.workspace.get(name, "")
            }  # fmt: skip
            if timing := result.timings.get(name):
                row |= {
                    "ms": f"{1e3 * timing.best:.6g}",
                    "median_ms": f"{1e3 * timing.median:.6g}",
                    "samples": timing.samples,
                    "gflops": f"{result.gflops(timing):.2f}",
                    "roof_percent": f"{result.roof_percent(timing):.1f}",
                }
            yield row


def write_csv(results: Iterable[Result], path: Path, environment: str) -> None:
    """One row per layer and contestant, below a comment line that says on what machine."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write(f"# {environment}\n")
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(csv_rows(results))


def read_csv(path: Path) -> tuple[list[Result], str]:
    """What `write_csv` wrote: the results and the line on the machine."""
    results: dict[Any, Result] = {}
    with open(path, newline="", encoding="utf-8") as file:
        first = file.readline()
        rows = csv.DictReader(file)
        if not first.startswith("# ") or tuple(rows.fieldnames or ()) != CSV_COLUMNS:
            raise ValueError(f"{path} was not written by this version of the benchmark")
        for row in rows:
            layer, threads, dtype, direction = parse_layer(row), int(row["threads"]), row["dtype"], row["direction"]
            rates = 1e9 * float(row["roof_gflops"]), 1e9 * float(row["roof_gbytes"])
            new = Result(layer, threads, dtype, row["algorithm"], *rates, direction)
            result = results.setdefault((layer, threads, dtype, direction), new)
            name = row["contestant"]
            if row["ms"]:
                timing = Timing(float(row["ms"]) / 1e3, float(row["median_ms"]) / 1e3, int(row["samples"]))
                result.timings[name] = timing
            if row["workspace"]:
                result.workspace[name] = int(row["workspace"])
            if row["note"]:
                result.notes[name] = row["note"]
    return list(results.values()), first[2:].strip()
