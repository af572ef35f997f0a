"""What the README shows is true: its examples run, its commands parse, its files and extras exist."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest

from fastconv import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def test_examples():
    source = "\n".join(block for kind, block in BLOCKS if kind == "python")
    test = doctest.DocTestParser().get_doctest(source, {}, "README.md", "README.md", 0)
    assert len(test.examples) > 15
    runner = doctest.DocTestRunner()
    report: list[str] = []
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_commands_are_found():
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("command", [part for line in COMMANDS for part in line.split(" && ")])
def test_command(command):
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    if words[2] == "pip":
        assert words[3] == "install"
        extra = re.fullmatch(r"\.\[(\w+)\]", words[4])
        assert extra
        assert re.search(rf"^{extra[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    elif words[2] == "fastconv" and words[3] == "bench":
        from fastconv import bench

        with pytest.raises(SystemExit) as stop:
            bench.main([*words[4:], "--help"])
        assert stop.value.code == 0
    elif words[2] == "fastconv":
        cli.build_parser().parse_args(words[3:])
    else:
        assert words[2:] == ["pytest", "-n", "auto", "--dist", "worksteal"]


@pytest.mark.parametrize("name", ["main-job", "tests"])
def test_the_two_commands_are_one_line_each(name):
    block = re.search(rf"^<!-- {name} -->\n```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block
    assert len(block[1].splitlines()) == 1


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_version_is_the_same_everywhere():
    import fastconv

    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated
    assert fastconv.__version__ in (stated[1], "unknown")  # unknown: a checkout that is not installed
    assert f"[{stated[1]}]" in (ROOT / "CHANGELOG.md").read_text()
