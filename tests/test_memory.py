"""Scratch memory as planned, and as used: on the benchmark's layers, on large inputs and large batches."""

import threading
import tracemalloc

import numpy as np
import pytest

import fastconv
from fastconv import grad
from fastconv.bench.shapes import read_layers
from fastconv.cpu import workspace
from fastconv.plan import candidates
from fastconv.plan.dispatch import WORKSPACE_LIMIT
from fastconv.spec import ConvSpec

MIB = 1 << 20

# name: (x, weight, options). Inputs of 4096 x 4096 and batches of 64.
LARGE = {
    "photo 31x31": ((1, 1, 4096, 4096), (1, 1, 31, 31), {"padding": 15}),
    "photo 5x5": ((1, 3, 4096, 4096), (3, 1, 5, 5), {"padding": 2, "groups": 3}),
    "photo 3x3": ((1, 3, 4096, 4096), (64, 3, 3, 3), {"padding": 1}),
    "photo 3x3/2": ((1, 3, 4096, 4096), (32, 3, 3, 3), {"padding": 1, "stride": 2}),
    "features 3x3": ((1, 64, 4096, 4096), (64, 64, 3, 3), {"padding": 1}),
    "features dilated": ((1, 32, 4096, 4096), (32, 32, 3, 3), {"padding": 12, "dilation": 12}),
    "features 1x1": ((1, 64, 4096, 4096), (128, 64, 1, 1), {}),
    "batch rgb 7x7/2": ((64, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
    "batch 3x3": ((64, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "batch 3x3 deep": ((64, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    "batch 1x1": ((64, 256, 56, 56), (64, 256, 1, 1), {}),
    "batch depthwise": ((64, 96, 112, 112), (96, 1, 3, 3), {"padding": 1, "groups": 96}),
    "batch 9x9": ((64, 32, 64, 64), (32, 32, 9, 9), {"padding": 4}),
    "batch signal": ((64, 16, 65536), (16, 16, 101), {"padding": 50}),
    "batch volume": ((64, 16, 16, 56, 56), (16, 16, 3, 3, 3), {"padding": 1}),
}


def planned(spec, direction, threads, limit):
    """Bytes by algorithm; those that refuse are absent."""
    found = {}
    for module in candidates.table(direction):
        if module.refuses(spec) is None:
            params = module.parameters(spec, threads, limit)
            if not isinstance(params, str):
                found[module.NAME] = params.workspace
    return found


@pytest.mark.parametrize("direction", candidates.DIRECTIONS)
@pytest.mark.parametrize("name", LARGE)
def test_large_problems_stay_below_the_cap(name, direction):
    x_shape, weight_shape, options = LARGE[name]
    spec = ConvSpec.make(x_shape, weight_shape, **options)
    for threads, limit in ((1, WORKSPACE_LIMIT), (2, WORKSPACE_LIMIT), (16, WORKSPACE_LIMIT), (2, 32 * MIB), (2, MIB)):
        found = planned(spec, direction, threads, limit)
        assert {name: size for name, size in found.items() if not 0 <= size <= limit} == {}
        if limit == WORKSPACE_LIMIT:  # the cap may never be what leaves a problem to the plain loops
            assert set(found) - {"reference"}


@pytest.mark.slow
@pytest.mark.parametrize("direction", candidates.DIRECTIONS)
def test_every_algorithm_on_every_layer_stays_below_the_cap(direction):
    for layer in read_layers():
        for threads in (1, 2, 16):
            found = planned(layer.spec, direction, threads, WORKSPACE_LIMIT)
            assert {name: size for name, size in found.items() if not 0 <= size <= WORKSPACE_LIMIT} == {}, layer


def used(call):
    """What a call returns, the scratch memory it left behind and the most bytes NumPy held at once during it."""
    result = []

    def run():  # a new thread has no arena yet
        call()  # compiles
        workspace.release()
        tracemalloc.start()
        try:
            result.extend((call(), workspace.held(), tracemalloc.get_traced_memory()[1]))
        finally:
            tracemalloc.stop()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result


# In 2-D, because every algorithm takes one of the two.
SMALL = [((2, 8, 24, 40), (16, 8, 3, 3), {"padding": 1}), ((2, 8, 24, 40), (8, 1, 3, 3), {"padding": 1, "groups": 8})]


@pytest.mark.slow  # compiles every algorithm
@pytest.mark.parametrize("algorithm", [name for name in candidates.names() if name != "reference"])
def test_a_call_takes_no_more_than_its_plan_says(algorithm):
    for x_shape, weight_shape, options in SMALL:
        x, weight = np.ones(x_shape, np.float32), np.ones(weight_shape, np.float32)
        options = options | {"algorithm": algorithm, "accuracy": "fast"}
        try:
            plan = fastconv.plan(x_shape, weight_shape, **options)
        except ValueError:
            continue
        layer = fastconv.prepare(weight, **options)
        out, held, peak = used(lambda: layer(x))  # noqa: B023
        assert held <= plan.workspace
        assert peak <= out.nbytes + plan.workspace + 16384  # and a few Python objects
        return
    pytest.fail(f"{algorithm} takes neither problem")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photo 31x31", "photo 5x5", "batch 3x3"])
def test_large_problems_run_within_the_cap(name):
    x_shape, weight_shape, options = LARGE[name]
    random = np.random.default_rng(0)
    x, weight = (random.integers(-2, 3, shape).astype(np.float32) for shape in (x_shape, weight_shape))
    layer = fastconv.prepare(weight, **options)
    out, held, peak = used(lambda: layer(x))
    plan = fastconv.plan(x_shape, weight_shape, **options)
    assert held <= plan.workspace <= WORKSPACE_LIMIT
    assert peak <= out.nbytes + plan.workspace + MIB
    # The last pixel's window, by hand: small integers are exact but for what FFT and Winograd round.
    inside, filters = options["padding"] + 1, len(weight) // options.get("groups", 1)
    corner = x[-1, -weight_shape[1] :, -inside:, -inside:]
    expected = (weight[-filters:, :, :inside, :inside] * corner).sum((1, 2, 3))
    np.testing.assert_allclose(out[-1, -filters:, -1, -1], expected, atol=2e-3)


@pytest.mark.slow
def test_gradients_of_a_large_batch_run_within_the_cap():
    x_shape, weight_shape, options = LARGE["batch 3x3"]
    x, weight = np.ones(x_shape, np.float32), np.ones(weight_shape, np.float32)
    g = np.ones(ConvSpec.make(x_shape, weight_shape, **options).out_shape, np.float32)
    calls = {
        "input": lambda: grad.conv2d_input(x_shape, weight, g, **options),
        "weight": lambda: grad.conv2d_weight(x, weight_shape, g, **options),
    }
    for direction, call in calls.items():
        out, held, peak = used(call)
        plan = fastconv.plan(x_shape, weight_shape, direction=direction, prepared=False, **options)
        assert held <= plan.workspace <= WORKSPACE_LIMIT
        assert peak <= out.nbytes + plan.workspace + 2 * MIB  # weights packed for this call
        middle = out[1, 1, 20, 20] if direction == "input" else out[1, 1, 1, 1]
        assert middle == pytest.approx(64 * 9 if direction == "input" else 64 * 56 * 56, rel=1e-5)
