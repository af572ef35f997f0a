"""Set-up that must come before the first import of fastconv, and the closing report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Compiled kernels live with the checkout's other caches; the user's wisdom neither steers the tests nor learns from
# them. Two threads wherever the tests run: what depends on their number is then the same everywhere.
os.environ.setdefault("FASTCONV_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "fastconv"))
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

_report = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_report] = []


@pytest.fixture
def report(request: pytest.FixtureRequest, record_property):
    """Call it with a line that belongs into the summary of the run."""

    def add(line: str) -> None:
        request.config.stash[_report].append(line)
        record_property("report", line)

    return add


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # With pytest-xdist the test ran in another process: its lines arrive with its report.
    if report.when == "call" and hasattr(report, "node"):
        lines = [str(value) for name, value in report.user_properties if name == "report"]
        _arrived.extend(lines)


_arrived: list[str] = []


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    lines = [*config.stash[_report], *_arrived]
    if lines:
        terminalreporter.section("what was compared")
        for line in lines:
            terminalreporter.write_line(line)
