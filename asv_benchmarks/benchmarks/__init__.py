"""Benchmarks of fastconv over its history, run by asv; see README.md beside this folder."""

import os
import tempfile
from pathlib import Path

# Each commit compiles into a folder of its own: what another commit compiled, measured or remembered must not be
# used. This runs before any benchmark imports fastconv or numba.
_commit = os.environ.get("ASV_COMMIT", "working-tree")[:12]
_folder = Path(tempfile.gettempdir()) / f"fastconv-asv-{os.getuid()}" / _commit
_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ["FASTCONV_CACHE_DIR"] = str(_folder / "fastconv")
os.environ["NUMBA_CACHE_DIR"] = str(_folder / "numba")
