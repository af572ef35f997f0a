"""Speed of each algorithm, and of each layer of the benchmark's table, compilation left out."""

from .common import (
    ALGORITHMS,
    LAYERS,
    frozen_call,
    layer_call,
    least_ratio,
    prepared_call,
    require,
    table,
    table_layer,
)


class _Algorithm:
    params = (ALGORITHMS, list(LAYERS))
    param_names = ("algorithm", "layer")
    timeout = 300

    def setup(self, algorithm, layer):
        self.call = require(algorithm, layer)


class TimeAlgorithm(_Algorithm):
    """Prepared layers on one thread, in seconds."""

    warmup_time = 0.05
    repeat = (5, 30, 1.0)

    def time_layer(self, algorithm, layer):
        self.call()


class RatioAlgorithm(_Algorithm):
    """The same in units of a frozen kernel timed in turns: the one to trust on a noisy machine."""

    unit = "frozen kernels"

    def track_ratio_algorithm(self, algorithm, layer):
        return least_ratio(self.call, frozen_call())


class RatioTable:
    """Every layer of `fastconv bench`, by the algorithm that the dispatcher chooses, one thread, weights prepared."""

    params = (list(table()),)
    param_names = ("layer",)
    unit = "frozen kernels"
    timeout = 300

    def track_ratio_layer(self, layer):
        return least_ratio(prepared_call(*table_layer(layer), "auto"), frozen_call())


class SpeedUp:
    """Time on one thread / time on two, of the algorithm that the dispatcher chooses."""

    params = ("3x3 64 56x56", "1x1 64->256 56x56", "depthwise 7x7 96 56x56", "image 31x31 512x512")
    param_names = ("layer",)
    unit = "x"
    timeout = 300

    def setup(self, layer):
        import numba

        if numba.config.NUMBA_NUM_THREADS < 2:
            raise NotImplementedError("one CPU")

    def track_speed_up(self, layer):
        import fastconv

        one, two = layer_call("auto", layer, 1), layer_call("auto", layer, 2)

        def on(threads, call):
            fastconv.set_num_threads(threads)
            call()

        return least_ratio(lambda: on(1, one), lambda: on(2, two))
