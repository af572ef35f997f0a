"""Benchmarks against other libraries: ``python -m fastconv bench``."""

from fastconv.bench.command import main

__all__ = ["main"]
