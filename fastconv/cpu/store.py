"""Small JSON files that outlive a process: written whole or not at all, and never trusted blindly."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(path: Path, form: str, schema: int) -> dict[str, Any] | None:
    """Contents of a file that `write` made with this form and schema; None if absent.

    A damaged file, or one that is something else, is left alone with a warning (RuntimeWarning) and None.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return _ignored(path, f"it cannot be read ({error})")
    if not isinstance(content, dict) or content.get("format") != form:
        return _ignored(path, f"it is not a {form} file")
    if content.get("schema") != schema:
        return _ignored(path, f"its schema is {content.get('schema')!r}, this version of fastconv reads {schema}")
    return content


def _ignored(path: Path, why: str) -> None:
    warnings.warn(f"fastconv ignores {path}: {why}.", RuntimeWarning, stacklevel=4)


def write(path: Path, form: str, schema: int, content: dict[str, Any]) -> None:
    """Replace the file in one step: a reader sees the old contents or the new ones, never a part."""
    text = json.dumps({"format": form, "schema": schema, **content}, indent=1, sort_keys=False) + "\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of a read-change-write of `path`; best effort (no lock where the system has none)."""
    try:
        import fcntl
    except ImportError:  # Windows: a lost entry is measured again
        yield
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
