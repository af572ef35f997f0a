"""Draws how much faster or slower each layer is than with the peers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastconv.bench.report import BEST, by_suite, comparisons, geomean, headline, thread_counts
from fastconv.bench.runner import Result

COLOURS = ("#1f6f8b", "#e07a3f")


def write_plot(results: Sequence[Result], path: Path, environment: str) -> None:
    """A bar for each suite's geometric mean, a dot for each layer; a panel for each number of threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    comparison = comparisons(results)[0]
    groups = [group for group in dict.fromkeys((headline(comparison), BEST)) if group in comparison.groups]
    suites, counts = by_suite(results), thread_counts(results)
    labels = ["all", *reversed(suites)]
    figure = Figure(
        figsize=(1.5 + 6.5 * len(counts), 1.6 + 0.24 * (1 + len(groups)) * len(labels)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(counts), sharex=True, sharey=True, squeeze=False)[0]
    height = 0.8 / len(groups)
    for panel, threads in zip(panels, counts, strict=True):
        for g, (group, colour) in enumerate(zip(groups, COLOURS, strict=False)):
            for y, label in enumerate(labels):
                members = [r for r in (results if label == "all" else suites[label]) if r.threads == threads]
                ratios = [ratio for r in members if (ratio := comparison.ratio(r, group)) is not None]
                if not ratios:
                    continue
                mean, middle = geomean(ratios), y + 0.4 - height * (g + 0.5)
                legend = f"{group}: {mean:.2f} over all" if label == "all" else None
                panel.barh(middle, mean - 1, height * 0.9, left=1, color=colour, alpha=0.75, label=legend)
                if label != "all":
                    panel.plot(ratios, [middle] * len(ratios), "o", color=colour, ms=3.5, mec="white", mew=0.5)
                panel.annotate(
                    f"{mean:.2f}", (1, middle), xycoords=("axes fraction", "data"), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=7, color=colour,
                )  # fmt: skip
        panel.axvline(1, color="black", lw=0.8)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
        )
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_ylim(-0.6, len(labels) - 0.4)
        panel.set_yticks(range(len(labels)), labels)
        panel.grid(axis="x", color="#dddddd", lw=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.set_title(f"{threads} thread{'s' * (threads > 1)}")
        panel.set_xlabel(f"time of peer / time of {comparison.ours} (right of 1: fastconv is faster)")
        panel.legend(loc="best", fontsize=8)
    figure.suptitle(environment, fontsize=8)
    figure.savefig(path, dpi=130)
