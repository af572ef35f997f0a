"""The pictures of the HTML report, as inline SVG: colours are classes and variables of the page's style sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import ceil, floor, log2, log10

from fastconv.bench.report import BEST, Comparison, by_suite, milliseconds, ratio_text
from fastconv.bench.runner import PREPARED, Result, algorithm_names

COLOURS = 8  # --c0 to --c7 of the style sheet; the last one is grey
CLIP = 4.0  # bars end at this ratio and its reciprocal


def text(x: float, y: float, content: str, anchor: str = "start", style: str = "") -> str:
    """A line of text, its baseline at y."""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "rule", width: float = 1, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--{colour})" '
        f'stroke-width="{width}"{dashes}/>'
    )


def picture(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """An SVG that shrinks with the page and never grows."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def colour_of(algorithm: str) -> str:
    """The same colour for an algorithm in every picture."""
    names = [name for name in algorithm_names() if name != "reference"]
    return f"c{names.index(algorithm) % (COLOURS - 1)}" if algorithm in names else f"c{COLOURS - 1}"


# ---- ratios --------------------------------------------------------------------------------------------------------


def ratio_bars(results: Sequence[Result], comparison: Comparison) -> str:
    """A row for each suite, a column for each group of peers: geometric means, logarithmic around 1."""
    cell, bar, row, top, left = 104.0, 56.0, 21.0, 30.0, 150.0
    lines = [("all", list(results)), *by_suite(results).items()]
    groups = list(comparison.groups)
    parts = []
    for g, group in enumerate(groups):
        middle = left + g * cell + bar / 2
        parts += [text(middle + 12, 16, group, "middle"), line(middle, top - 4, middle, top + row * len(lines))]
    for i, (suite, members) in enumerate(lines):
        y = top + i * row
        if i == 1:
            parts.append(line(0, y, left + len(groups) * cell, y))
        parts.append(
            text(0, y + 15, suite),
        )
        parts.append(text(left - 14, y + 15, str(len(members)), "end", "quiet"))
        for g, group in enumerate(groups):
            mean = comparison.geomeans(members, group)
            if mean is None:
                continue
            middle, style = left + g * cell + bar / 2, "win" if mean >= 1 else "lose"
            length = bar / 2 * min(max(log2(mean) / log2(CLIP), -1), 1)
            detail = f"{suite}, {group}: {mean:.3g} (geometric mean of {count(members, comparison, group)} layers)"
            parts.append(
                f'<rect x="{min(middle, middle + length):.1f}" y="{y + 5:.1f}" width="{max(abs(length), 0.6):.1f}" '
                f'height="{row - 9:.0f}" class="{style}"><title>{escape(detail)}</title></rect>'
            )
            parts.append(text(middle + bar / 2 + 5, y + 15, ratio_text(mean), style=style))
    height = top + row * len(lines) + 6
    return picture(left + len(groups) * cell, height, f"time of each peer / time of {comparison.ours}", parts)


def count(results: Iterable[Result], comparison: Comparison, group: str) -> int:
    return sum(comparison.ratio(result, group) is not None for result in results)


# ---- roofline ------------------------------------------------------------------------------------------------------


def roofline(results: Sequence[Result], comparison: Comparison | None, ours: str = PREPARED) -> str:
    """Speed over arithmetic intensity, both logarithmic, below the roof measured; the best peer as a ring."""
    shown = [result for result in results if ours in result.timings]
    width, height, left, right, top, bottom = 600.0, 400.0, 52.0, 22.0, 12.0, 62.0
    peak, bandwidth = max(r.roof for r in shown) / 1e9, max(r.bandwidth for r in shown) / 1e9
    speeds = [(r, r.gflops(r.timings[ours]), best_peer(r, comparison)) for r in shown]
    least = min(min(mine, peer[1] if peer else mine) for _, mine, peer in speeds)
    most = max(peak, *(max(mine, peer[1] if peer else mine) for _, mine, peer in speeds))
    low, high = floor(log10(least)), log10(most * 1.6)
    near, far = floor(log10(min(r.intensity for r in shown))), ceil(log10(max(r.intensity for r in shown)))

    def x_of(intensity: float) -> float:
        return left + (log10(intensity) - near) / (far - near) * (width - left - right)

    def y_of(speed: float) -> float:
        return height - bottom - (log10(speed) - low) / (high - low) * (height - top - bottom)

    parts = list(axes(near, far, low, high, x_of, y_of))
    start = min(max(10.0**near, 10.0**low / bandwidth), 10.0**far)  # where the slope enters the picture
    roof = [(x, min(peak, bandwidth * x)) for x in (start, max(start, peak / bandwidth), 10.0**far)]
    points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in roof)
    parts.append(f'<polyline points="{points}" fill="none" stroke="var(--roof)" stroke-width="1.6"/>')
    parts.append(text(width - right - 4, y_of(peak) - 6, f"peak {peak:.0f} GFLOP/s", "end"))
    if bandwidth * start < peak:
        parts.append(text(x_of(start) + 20, y_of(bandwidth * start) - 6, f"memory {bandwidth:.0f} GB/s"))
    for result, mine, peer in speeds:
        x, name = x_of(result.intensity), f"{result.layer.suite}/{result.layer.short_name}"
        if peer:
            ring = f"{name}: {peer[0]}, {peer[1]:.0f} GFLOP/s"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y_of(peer[1]):.1f}" r="3" fill="none" stroke="var(--quiet)" '
                f'stroke-opacity="0.6"><title>{escape(ring)}</title></circle>'
            )
        detail = (
            f"{name}: {result.algorithm}, {mine:.0f} GFLOP/s, {milliseconds(result.timings[ours].best)} ms, "
            f"{result.intensity:.1f} operations a byte"
        )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y_of(mine):.1f}" r="3.8" fill="var(--{colour_of(result.algorithm)})" '
            f'fill-opacity="0.85"><title>{escape(detail)}</title></circle>'
        )
    parts += legend(dict.fromkeys(r.algorithm for r in shown), height - 10, left, any(peer for *_, peer in speeds))
    return picture(width, height, "roofline: GFLOP/s over operations per byte", parts)


def best_peer(result: Result, comparison: Comparison | None) -> tuple[str, float] | None:
    """Name and GFLOP/s of the fastest contestant that is not ours."""
    if comparison is None:
        return None
    members = comparison.groups.get(BEST) or next(iter(comparison.groups.values()))
    timed = [name for name in members if name in result.timings]
    if not timed:
        return None
    best = min(timed, key=lambda name: result.timings[name].best)
    return best, result.gflops(result.timings[best])


def axes(
    near: int, far: int, low: int, top: float, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> Iterable[str]:
    """Lines at powers of ten, and what the axes mean."""
    x0, x1, y0, y1 = x_of(10.0**near), x_of(10.0**far), y_of(10.0**low), y_of(10.0**top)
    for power in range(near, far + 1):
        yield line(x_of(10.0**power), y0, x_of(10.0**power), y_of(10.0**top))
        yield text(x_of(10.0**power), y0 + 16, f"{10.0**power:g}", "middle", "quiet")
    for power in range(low, floor(top) + 1):
        yield line(x0, y_of(10.0**power), x1, y_of(10.0**power))
        yield text(x0 - 6, y_of(10.0**power) + 4, f"{10.0**power:g}", "end", "quiet")
    yield text((x0 + x1) / 2, y0 + 32, "operations per byte", "middle", "quiet")
    middle = (y0 + y1) / 2
    yield f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle" class="quiet">GFLOP/s</text>'


def legend(algorithms: Iterable[str], y: float, x: float, with_peer: bool) -> Iterable[str]:
    for name in algorithms:
        yield f'<circle cx="{x + 4:.1f}" cy="{y - 4:.1f}" r="4" fill="var(--{colour_of(name)})"/>'
        yield text(x + 12, y, name)
        x += 26 + 6.4 * len(name)
    if with_peer:
        yield f'<circle cx="{x + 4:.1f}" cy="{y - 4:.1f}" r="3" fill="none" stroke="var(--quiet)"/>'
        yield text(x + 12, y, "best peer")
