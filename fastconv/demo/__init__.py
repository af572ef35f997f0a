"""The demo: a photograph through classic kernels and CNN layers, by every algorithm, checked, timed and drawn.

Then a small network learns to read handwritten digits (`digits`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastconv.demo.problems import MissingExtra, UnusableImage, filter_bank, layer_stack, photograph

__all__ = ["MissingExtra", "UnusableImage", "check_digits", "run", "run_digits"]


def run(image: str, out: Path, size: int) -> int:
    """Run the demo, print its table and write its gallery.

    Parameters
    ----------
    image : str
        ``"astronaut"``, ``"china"``, ``"flower"`` or an image file.
    out : Path
        The picture to write, PNG or JPEG.
    size : int
        Pixels of the photograph's longer side.

    Returns
    -------
    int
        0, or 1 if an algorithm's result lies outside its error bound.
    """
    for name in ("rich", "matplotlib"):
        if find_spec(name) is None:
            raise MissingExtra(name)
    pixels = photograph(image, size)
    check_writable(out)

    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from fastconv.demo.measure import measure_all
    from fastconv.demo.ready import compile_all
    from fastconv.demo.table import console, table
    from fastconv.plan import calibrate

    filters, layers = filter_bank(), layer_stack()
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("compiling", total=1.0)
        compile_all(filters + layers, lambda name: progress.update(task, description=f"compiling {name}"))
        progress.update(task, description="measuring this machine's peaks")
        calibrate.machine(measure=True)
        results = measure_all(
            pixels, filters, layers, lambda text, done: progress.update(task, description=text, completed=done)
        )
        progress.update(task, description="drawing the gallery")
        from fastconv.demo.gallery import draw

        heading = machine()
        draw(pixels, results[: len(filters)], results[len(filters) :], heading, out)
    paper = console()
    paper.print(table(results, heading, paper.width))
    print(f"gallery: {out}")
    return 0 if all(run.passed for result in results for run in result.runs) else 1


def check_digits() -> None:
    """Find out before the first part runs that the second cannot."""
    if find_spec("sklearn") is None:
        raise MissingExtra("scikit-learn")


def run_digits(out: Path) -> int:
    """Run the second part: train a network on handwritten digits and let it read a page.

    Parameters
    ----------
    out : Path
        The first part's picture; this one is written beside it, as ``digits`` with the same suffix.

    Returns
    -------
    int
        0, or 1 if the network learned too little.
    """
    from fastconv.demo import digits

    target = out.with_name(f"digits{out.suffix}")
    check_writable(target)
    return digits.run(target, machine())


def check_writable(out: Path) -> None:
    """Find out before the work is done that its picture cannot be written."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UnusableImage(f"--out {out}: the name must end in .png or .jpg")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = not out.exists()
        with open(out, "ab"):
            pass
        if new:
            out.unlink()
    except OSError as error:
        raise UnusableImage(f"--out {out}: {error.strerror}") from error


def machine() -> str:
    """One line on where the times were taken."""
    import fastconv
    from fastconv.cpu import isa, peak

    threads = fastconv.get_num_threads()
    return f"{peak.cpu_model()}, {isa.name()}, {threads} thread{'s' if threads > 1 else ''}"
