"""The dispatcher: choosing, refusing, caching, explaining. Most tests use algorithms made up for the purpose."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest

from fastconv.kernels import reference
from fastconv.kernels.common import Cost
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan import candidates, choice, cost, dispatch, wisdom
from fastconv.plan.autotune import autotune_spec
from fastconv.plan.candidates import CANDIDATES
from fastconv.plan.dispatch import plan_spec
from fastconv.plan.explain import Explanation
from fastconv.spec import ConvSpec

SPEC = ConvSpec.make((1, 4, 12, 12), (8, 4, 3, 3), padding=1)
LARGE = ConvSpec.make((1, 64, 64, 64), (64, 64, 3, 3), padding=1)


@dataclass(frozen=True)
class Params:
    workspace: int = 1024
    threads: int = 1
    sleep: float = 0.0


@dataclass
class Fake:
    """An algorithm that computes nothing, in a chosen time."""

    NAME: str
    flops: float = 1e6
    ACCURACY: str = "default"
    ERROR_BOUND: float = 3.0
    refusal: str | None = None
    needs: int = 1024
    sleep: float = 0.0
    preparation: float = 0.0  # seconds
    calls: list[str] = field(default_factory=list)

    def refuses(self, spec):
        return self.refusal

    def parameters(self, spec, threads, limit):
        self.calls.append("parameters")
        if self.needs > limit:
            return f"needs {self.needs} bytes of workspace, the limit is {limit}"
        return Params(self.needs, threads, self.sleep)

    def cost(self, spec, params):
        return Cost(self.flops, 0.0, 0.0, 4)

    def prepare_cost(self, spec, params):
        return Cost(self.preparation * 1e11, 0.0, 0.0, 1)

    def prepare(self, spec, params, weight):
        time.sleep(self.preparation)
        return weight.reshape(-1)

    def run(self, spec, params, x, packed, out, epilogue):
        time.sleep(params.sleep)


@pytest.fixture(autouse=True)
def _own_wisdom(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_WISDOM", str(tmp_path / "wisdom.json"))
    wisdom.forget()
    yield
    wisdom.forget()


@pytest.fixture
def use(monkeypatch):
    """Replace the table of algorithms."""

    def replace(*modules):
        monkeypatch.setattr(candidates, "CANDIDATES", modules)
        dispatch.clear()

    yield replace
    dispatch.clear()


# ---- the real table -----------------------------------------------------------------------------------------------


def test_table_is_complete_and_ends_with_the_reference():
    assert candidates.names() == ("fft", "winograd_fast", "winograd", "depthwise", "direct", "im2col", "reference")
    for module in CANDIDATES:
        assert module.ACCURACY in choice.ACCURACIES
        assert module.ERROR_BOUND > 0
        assert module.NAME in cost.RATES


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_every_accepting_algorithm_runs_its_plan(dtype, prepared):
    """What `forced` gives is what was asked for, and all of them compute the same."""
    spec = ConvSpec.make((2, 16, 9, 7), (4, 8, 3, 3), padding=(1, 0), groups=2, dtype=dtype)
    asked = {"accuracy": "fast", "prepared": prepared}
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, np.prod(spec.x_shape)).astype(dtype)
    weight = rng.integers(-4, 5, spec.weight_shape).astype(dtype)
    results = {}
    for row in plan_spec(spec, **asked).explain().rows:
        if row.reason.startswith("refused"):
            with pytest.raises(ValueError, match=row.algorithm):
                plan_spec(spec, algorithm=row.algorithm, **asked)
            continue
        plan = plan_spec(spec, algorithm=row.algorithm, **asked)
        assert plan.algorithm == row.algorithm
        out = np.zeros(np.prod(spec.out_shape), dtype)
        plan.run(x, plan.prepare(weight), out, Epilogue.make(dtype))
        results[row.algorithm] = out
    assert "reference" in results
    assert ("winograd_fast" in results) == dtype.startswith("float")
    for out in results.values():
        np.testing.assert_allclose(out, results["reference"], atol=4e-3)


# ---- choosing -----------------------------------------------------------------------------------------------------


def test_fastest_prediction_wins(use):
    use(Fake("slow", flops=1e9), Fake("quick", flops=1e6), Fake("middle", flops=1e8))
    plan = plan_spec(SPEC)
    assert plan.algorithm == "quick"
    assert plan.measured is None
    assert 0 < plan.predicted < 1


def test_equal_predictions_go_to_the_earlier_line(use):
    use(Fake("first"), Fake("second"))
    assert plan_spec(SPEC).algorithm == "first"


def test_accuracy_filters(use):
    use(Fake("loose", 1e3, "fast"), Fake("usual", 1e5, "default"), Fake("strict", 1e7, "exact"))
    assert plan_spec(SPEC, accuracy="fast").algorithm == "loose"
    assert plan_spec(SPEC).algorithm == "usual"
    assert plan_spec(SPEC, accuracy="exact").algorithm == "strict"
    with pytest.raises(ValueError, match=r"algorithm='loose'.*accuracy class is 'fast', asked for was 'exact'"):
        plan_spec(SPEC, algorithm="loose", accuracy="exact")


def test_workspace_limit_refuses(use):
    use(Fake("hungry", 1e3, needs=10_000), Fake("modest", 1e6, needs=100))
    assert plan_spec(SPEC).algorithm == "hungry"
    assert plan_spec(SPEC, workspace_limit=5000).algorithm == "modest"
    with pytest.raises(ValueError, match="needs 10000 bytes of workspace, the limit is 5000"):
        plan_spec(SPEC, algorithm="hungry", workspace_limit=5000)
    with pytest.raises(ValueError, match=r"no algorithm can compute .*hungry: needs 10000.*modest: needs 100 "):
        plan_spec(SPEC, workspace_limit=0)


def test_unknown_algorithm_lists_the_names():
    with pytest.raises(
        ValueError,
        match=r"algorithm must be 'auto' or one of fft, winograd_fast, winograd, depthwise, direct.*got 'magic'",
    ):
        plan_spec(SPEC, algorithm="magic")


def test_refusal_of_the_forced_algorithm_says_why(use):
    use(Fake("picky", refusal="only odd Tuesdays"), Fake("other"))
    with pytest.raises(ValueError, match=r"algorithm='picky' cannot compute .*: only odd Tuesdays"):
        plan_spec(SPEC, algorithm="picky")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"accuracy": "best"}, ValueError, "accuracy must be one of exact, default, fast, got 'best'"),
        ({"workspace_limit": -1}, ValueError, "workspace_limit must be an integer of at least 0, got -1"),
        ({"workspace_limit": 1e6}, TypeError, "workspace_limit must be an integer"),
        ({"workspace_limit": True}, TypeError, "workspace_limit must be an integer"),
        ({"threads": 0}, ValueError, "threads must be an integer of at least 1, got 0"),
        ({"threads": "2"}, TypeError, "threads must be an integer"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        plan_spec(SPEC, **options)


def test_empty_batch_is_planned_as_one_image():
    plan = plan_spec(ConvSpec.make((0, 4, 12, 12), (8, 4, 3, 3), padding=1))
    assert plan.spec.N == 1
    assert plan.algorithm == plan_spec(SPEC).algorithm


def test_weights_prepared_in_every_call_count(use):
    use(Fake("transforms", 1e6, preparation=0.02), Fake("plain", 1e8))
    assert plan_spec(SPEC).algorithm == "transforms"
    assert plan_spec(SPEC, prepared=False).algorithm == "plain"
    assert plan_spec(SPEC, prepared=False, algorithm="transforms").predicted > 0.01
    rows = plan_spec(SPEC, prepared=False).explain(measure=True).rows
    assert [row.algorithm for row in rows] == ["plain", "transforms"]
    assert rows[1].measured_ms > 20
    autotune_spec(SPEC, seconds=0.01)
    assert wisdom.lookup(SPEC, plan_spec(SPEC).request.threads)["transforms"].prepare > 0.02
    assert plan_spec(SPEC, prepared=False).algorithm == "plain"


# ---- the cache ----------------------------------------------------------------------------------------------------


def test_a_plan_is_made_once(use):
    module = Fake("only")
    use(module)
    first = plan_spec(SPEC)
    assert plan_spec(ConvSpec.make((1, 4, 12, 12), (8, 4, 3, 3), padding=1)) is first
    assert module.calls == ["parameters"]
    assert plan_spec(SPEC, threads=1) is not plan_spec(SPEC, threads=2)
    assert plan_spec(SPEC, accuracy="fast") is not first
    assert plan_spec(SPEC, workspace_limit=2000) is not first


def test_the_cache_is_bounded(use):
    use(Fake("only"))
    for size in range(3, dispatch.PLANS + 100):
        plan_spec(ConvSpec.make((1, 1, size), (1, 1, 3)))
    assert dispatch._plan.cache_info().currsize == dispatch.PLANS


def test_calibration_makes_plans_stale(use, monkeypatch):
    use(Fake("a", flops=1e9), Fake("b", flops=1.5e9))
    assert plan_spec(SPEC).algorithm == "a"
    machine = choice.calibrate.machine()
    monkeypatch.setattr(choice.calibrate, "machine", lambda: cost.Machine(machine.roof, {"a": 2.0}))
    assert plan_spec(SPEC).algorithm == "a"  # still cached
    dispatch.store.changed()
    assert plan_spec(SPEC).algorithm == "b"


# ---- the slow reference -------------------------------------------------------------------------------------------


@pytest.fixture
def only_reference(use, monkeypatch):
    use(Fake("picky", refusal="not today"), reference)
    monkeypatch.setattr(dispatch, "_warned", False)


@pytest.mark.usefixtures("only_reference")
def test_large_problem_on_the_reference_warns_once():
    with pytest.warns(RuntimeWarning, match=r"slow reference .*picky: not today"):
        assert plan_spec(LARGE).algorithm == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_spec(ConvSpec.make((2, 64, 64, 64), (64, 64, 3, 3)))


@pytest.mark.usefixtures("only_reference")
def test_reference_is_silent_when_small_or_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan_spec(SPEC).algorithm == "reference"
        assert plan_spec(LARGE, algorithm="reference").algorithm == "reference"


# ---- cost ---------------------------------------------------------------------------------------------------------


ROOF = cost.Roof(
    flops={"float32": 1e11}, flops_all={"float32": 4e11}, read=1e10, read_all=2e10, copy=1e10, copy_all=2e10,
    threads=4, source="test",
)  # fmt: skip


def predict(flops=0.0, moved=0.0, transform=0.0, tasks=64, threads=1, name="direct", **scale):
    return cost.seconds(name, Cost(flops, moved, transform, tasks), SPEC, threads, cost.Machine(ROOF, scale))


def test_cost_grows_with_the_work():
    idle = predict()
    assert idle > 0
    assert predict(flops=1e9) == pytest.approx(idle + 1e9 / (cost.RATES["direct"].efficiency * 1e11))
    assert predict(transform=1e9) > predict(flops=1e9)
    assert predict(moved=1e9) == pytest.approx(idle + cost.RATES["direct"].memory * 0.1)


def test_tasks_are_not_divided_between_threads():
    """Three equal tasks keep two threads busy as long as four do; threads beyond the tasks are idle."""
    alone, two = predict(flops=3e9, tasks=3), predict(flops=3e9, tasks=3, threads=2)
    assert two == pytest.approx(alone * 2 / 3, rel=1e-3)
    assert predict(flops=1e9, tasks=1, threads=4) == predict(flops=1e9, tasks=1)
    assert predict(flops=4e9, tasks=4, threads=4) < predict(flops=4e9, tasks=2, threads=4)


def test_scale_corrects_one_algorithm():
    assert predict(flops=1e9, direct=2.0) == pytest.approx(2 * predict(flops=1e9), rel=1e-2)
    assert predict(flops=1e9, im2col=2.0) == predict(flops=1e9)
    assert predict(flops=1e9, name="nobody has fitted this") > 0


def test_roof_is_compute_or_memory():
    compute = ConvSpec.make((1, 256, 56, 56), (256, 256, 3, 3))
    memory = ConvSpec.make((1, 1, 2048, 2048), (1, 1, 1, 1))
    machine = cost.Machine(ROOF)
    assert machine.roof_seconds(compute, 1) == pytest.approx(compute.flops / 1e11)
    assert machine.roof_seconds(memory, 1) == pytest.approx((2 * 2048**2 + 1) * 4 / 1e10)
    assert machine.roof_seconds(compute, 4) == pytest.approx(compute.flops / 4e11)


# ---- explaining ---------------------------------------------------------------------------------------------------


def test_explanation_has_a_row_for_each_algorithm(use):
    use(
        Fake("best", 1e6),
        Fake("twice", 2e9),
        Fake("picky", refusal="only odd Tuesdays " * 8),
        Fake("loose", 1.0, "fast"),
    )
    explanation = plan_spec(SPEC, threads=1).explain()
    assert isinstance(explanation, Explanation)
    assert [row.algorithm for row in explanation.rows[:2]] == ["best", "twice"]
    best, twice, *refused = explanation.rows
    assert best.chosen
    assert explanation.chosen is best
    assert best.reason == "chosen: fastest predicted"
    assert best.workspace == 1024
    assert best.error_bound == 3.0
    assert best.measured_ms is None
    assert best.gflops == pytest.approx(SPEC.flops / best.predicted_ms / 1e6)
    assert twice.reason == f"{twice.predicted_ms / best.predicted_ms:.3g}x slower than chosen"
    assert {row.algorithm: row.predicted_ms for row in refused} == {"picky": None, "loose": None}
    assert all(row.reason.startswith("refused: ") for row in refused)


def test_table_is_aligned_and_narrow(use):
    use(Fake("best", 1e6), Fake("twice", 2e9, needs=3 << 20), Fake("picky", refusal="only odd Tuesdays " * 8))
    explanation = plan_spec(SPEC).explain()
    lines = str(explanation).splitlines()
    assert max(map(len, lines)) <= 120
    assert str(SPEC) in lines[0]
    assert "1x8x12x12" in lines[0]
    assert "threads" in lines[1]
    assert "GFLOP/s" in lines[1]
    head = next(line for line in lines if "algorithm" in line)
    rows = lines[lines.index(head) + 2 :]
    why = head.index("why")
    assert rows[0].startswith(">  best")
    assert rows[0][why:].startswith("chosen")
    assert rows[1][why:].endswith("slower than chosen")
    assert "3 MiB" in rows[1]
    assert rows[2][why:].startswith("refused: only odd")
    assert rows[3][:why].isspace()  # the reason goes on below itself
    html = explanation._repr_html_()
    assert html.count("<tr") == 4
    assert "only odd Tuesdays" in html


def test_forced_algorithm_is_marked_chosen(use):
    use(Fake("best", 1e6), Fake("worse", 2e9))
    rows = plan_spec(SPEC, algorithm="worse").explain().rows
    assert rows[0].algorithm == "worse"
    assert rows[0].reason == "chosen: asked for"
    assert rows[1].reason.endswith("x faster than chosen")


def test_explain_measures_and_reports_the_truth(use):
    """The model believes in "liar"; the clock does not."""
    use(Fake("liar", 1e3, sleep=0.01), Fake("honest", 1e6, sleep=0.001))
    plan = plan_spec(SPEC)
    assert plan.algorithm == "liar"
    rows = plan.explain(measure=True).rows
    assert [row.algorithm for row in rows] == ["honest", "liar"]
    assert rows[0].reason == "chosen: fastest measured"
    assert rows[0].measured_ms == pytest.approx(1, abs=0.9)
    assert 10 <= rows[1].measured_ms < 30
    assert plan_spec(SPEC).algorithm == "liar"  # measuring for a table is not tuning


def test_hopeless_algorithms_are_not_timed(use):
    use(Fake("best", 1e6), Fake("hopeless", 1e13))
    rows = plan_spec(SPEC).explain(measure=True).rows
    assert rows[0].measured_ms is not None
    assert rows[1].measured_ms is None
    assert rows[1].predicted_ms > 50


def test_plan_prints_in_one_line(use):
    use(Fake("best", 1e6))
    assert repr(plan_spec(SPEC, threads=2)).startswith(f"Plan({SPEC}: best, 2 threads, workspace 1 KiB, ")


# ---- autotune -----------------------------------------------------------------------------------------------------


def test_autotune_overrules_the_model(use):
    use(Fake("liar", 1e3, sleep=0.004), Fake("honest", 1e6, sleep=0.001))
    assert plan_spec(SPEC).algorithm == "liar"
    plan = autotune_spec(SPEC, seconds=0.05)
    assert plan.algorithm == "honest"
    assert 0.001 <= plan.measured < 0.004
    assert plan_spec(SPEC).algorithm == "honest"
    wisdom.forget()  # as a new process would start
    assert plan_spec(SPEC).algorithm == "honest"
    row = plan_spec(SPEC).explain().rows[0]
    assert row.reason == "chosen: fastest measured"
    assert row.measured_ms == pytest.approx(plan.measured * 1e3, rel=1e-3)


def test_measured_times_hold_for_their_number_of_threads(use):
    use(Fake("liar", 1e3, sleep=0.004), Fake("honest", 1e6, sleep=0.001))
    autotune_spec(SPEC, threads=2, seconds=0.02)
    assert plan_spec(SPEC, threads=2).algorithm == "honest"
    assert plan_spec(SPEC, threads=1).algorithm == "liar"


def test_autotune_measures_blocking_variants(use):
    class Blocked(Fake):
        def variants(self, spec, threads, limit):
            return {"wide": Params(2048, threads, 0.001), "narrow": Params(512, threads, 0.008)}

    use(Blocked("blocked", sleep=0.004))
    assert plan_spec(SPEC).workspace == 1024
    plan = autotune_spec(SPEC, seconds=0.05)
    assert plan.workspace == 2048
    assert plan.measured < 0.004
    assert wisdom.lookup(SPEC, plan.request.threads)["blocked"].variant == "wide"


def test_a_new_algorithm_competes_with_measured_ones(use):
    """The machine turned out 10 times slower than the model on this problem: the newcomer is believed no better."""
    slow = Fake("slow", 1e9, sleep=0.0)
    use(slow)
    predicted = plan_spec(SPEC).predicted
    wisdom.remember(SPEC, plan_spec(SPEC).request.threads, {"slow": wisdom.Measured(10 * predicted)})
    use(slow, Fake("newcomer", 0.5e9))
    assert plan_spec(SPEC).algorithm == "newcomer"
    use(slow, Fake("newcomer", 2e9))
    assert plan_spec(SPEC).algorithm == "slow"


@pytest.mark.parametrize("module", [*CANDIDATES, Fake("made up")], ids=lambda module: module.NAME)
def test_modules_offer_what_the_table_needs(module):
    assert {"NAME", "ACCURACY", "ERROR_BOUND", "refuses", "parameters", "cost", "prepare", "run"} <= set(dir(module))
