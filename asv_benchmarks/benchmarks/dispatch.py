"""Cost of a call besides its arithmetic. No setup hooks: asv then repeats these short calls inside a sample."""

from functools import cache
from itertools import count

import numpy as np

import fastconv

_batches = count(1)


@cache
def _tiny():
    x, weight = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    return x, weight, fastconv.prepare(weight, padding=1)


class TimeDispatch:
    """One 1x3x8x8 layer."""

    def time_conv2d(self):
        x, weight, _ = _tiny()
        fastconv.conv2d(x, weight, padding=1)

    def time_prepared(self):
        x, _, layer = _tiny()
        layer(x)

    def time_plan_known(self):
        fastconv.plan((1, 64, 56, 56), (64, 64, 3, 3), padding=1)

    def time_plan_new(self):
        fastconv.plan((next(_batches), 64, 56, 56), (64, 64, 3, 3), padding=1)
