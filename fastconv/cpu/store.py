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

edition = 0  # raised when stored knowledge changes in this process: plans made before are stale
_warned: set[Path] = set()


def read(path: Path, form: str, schema: int) -> dict[str, Any] | None:
    """Contents of a file that `write` made with this form and schema; None if there is none.

    A damaged or foreign file is ignored with one warning.
    """
    try:
        return load(path, form, schema)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if path not in _warned:
            _warned.add(path)
            warnings.warn(f"fastconv ignores {error}", RuntimeWarning, stacklevel=3)
        return None


def load(path: Path, form: str, schema: int) -> dict[str, Any]:
    """The same, but a missing file is a FileNotFoundError and a damaged or foreign one a ValueError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: it cannot be read ({error})") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise ValueError(f"{path}: it is not a {form} file")
    if content.get("schema") != schema:
        raise ValueError(f"{path}: its schema is {content.get('schema')!r}, this version of fastconv reads {schema}")
    return content


def changed() -> None:
    """Declare every plan made so far stale."""
    global edition
    edition += 1


def set_aside(path: Path, form: str, schema: int) -> None:
    """Rename a file that `read` would ignore, so that writing does not destroy what may be somebody's data."""
    try:
        load(path, form, schema)
    except FileNotFoundError:
        pass
    except ValueError:
        os.replace(path, path.with_name(path.name + ".old"))


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
    changed()


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
