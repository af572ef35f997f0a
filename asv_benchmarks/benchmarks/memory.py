"""Memory of each algorithm."""

import fastconv

from .common import ALGORITHMS, LAYERS, require


class Memory:
    """Planned scratch memory, and the peak of the whole process (numba and its compiler included)."""

    params = (ALGORITHMS, list(LAYERS))
    param_names = ("algorithm", "layer")
    timeout = 300

    def setup(self, algorithm, layer):
        self.call = require(algorithm, layer)

    def track_workspace(self, algorithm, layer):
        x_shape, weight_shape, options = LAYERS[layer]
        return fastconv.plan(x_shape, weight_shape, algorithm=algorithm, accuracy="fast", **options).workspace

    track_workspace.unit = "bytes"

    def peakmem_layer(self, algorithm, layer):
        self.call()
