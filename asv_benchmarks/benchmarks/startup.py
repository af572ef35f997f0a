"""What a new process pays: import, and import plus first call, with a warm and with an empty cache."""

import os
import subprocess
import sys
import tempfile

FIRST_CALL = """
import numpy as np, fastconv
fastconv.conv2d(np.ones((1, 64, 56, 56), np.float32), np.ones((64, 64, 3, 3), np.float32), padding=1)
"""


def run(script, **environment):
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **environment}, check=True)


class TimeStartup:
    """Each sample is a new process. The warm cache is warm after the untimed first sample."""

    number = 1
    repeat = (3, 5, 10.0)
    rounds = 1
    timeout = 300

    def time_python(self):
        run("pass")

    def time_import(self):
        run("import fastconv")

    def time_first_call(self):
        run(FIRST_CALL)


class TimeColdStartup:
    """Compiles everything that one call needs."""

    number = 1
    repeat = (2, 2, 60.0)
    rounds = 1
    warmup_time = 0
    timeout = 300

    def time_first_call(self):
        with tempfile.TemporaryDirectory() as folder:
            run(FIRST_CALL, FASTCONV_CACHE_DIR=folder, NUMBA_CACHE_DIR=folder)
