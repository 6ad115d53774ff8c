"""Block tables on a machine whose latencies are known, and what is stored of them."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import onnx
import pytest

from latency import Device, DeviceCosts, LatencyTable, PopulationCosts, build_onnx, measure_table, measuring, table
from latency.measuring import PlanTimes, networks_digest
from latency.rounds import Rounds
from spaces import InputError, Task, get_space
from spaces.additive import AdditiveCost

OVERHEAD_MS, MS_PER_FLOP = 0.01, 1e-7
NARROW = get_space("proxyless@w0.25")
DEVICE = Device("a cpu", 2, 1, "CPUExecutionProvider", "1.0", "Linux x86_64")


def flops_by_weight(model: bytes) -> list[tuple[tuple[int, ...], float]]:
    """Shape of the weight and multiply-adds of each node of an ONNX model that has them, from its own shapes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    values = (*graph.value_info, *graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {w.name: tuple(w.dims) for w in graph.initializer}
    return [
        (weights[node.input[1]], float(np.prod(weights[node.input[1]]) * np.prod(shapes[node.output[0]][2:])))
        for node in graph.node
        if node.op_type in {"Conv", "Gemm"}
    ]


def flops_of(model: bytes) -> float:
    return sum(flops for _, flops in flops_by_weight(model))


@pytest.fixture
def additive_machine(monkeypatch):
    """Every network takes an overhead a call plus a time for each multiply-add, exactly."""

    def run_rounds(models, *, visits, rng, rounds=8, warm_runs):
        ms = np.array([OVERHEAD_MS + MS_PER_FLOP * flops_of(model) for model in models])
        times = np.tile(ms[:, None, None], (1, 2 * visits, rounds))
        return Rounds(times, times, times[:, :visits, :warm_runs])

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)
    monkeypatch.setattr(measuring, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))


@pytest.mark.parametrize("name", ["proxyless@w0.25", "proxyless@16,8x1,16x3s2,32x2s2,64"])
def test_blocks_in_context_sum_to_the_network_where_times_are_additive(additive_machine, name):
    space, task, rng = get_space(name), Task(16, 10), np.random.default_rng(0)
    reference = build_onnx(space.layers(space.arch([0] * len(space.choices)), task), rng)
    reference_ms = OVERHEAD_MS + MS_PER_FLOP * flops_of(reference)
    fitted = measure_table(space, task, DEVICE, reference, reference_ms, calibration=space.sample(8, rng), rng=rng)
    population = space.sample(50, rng)
    truth = OVERHEAD_MS + MS_PER_FLOP * PopulationCosts(space, task).of(population)["flops"]
    np.testing.assert_allclose(fitted.estimate_ms(population), truth, rtol=4e-3)
    assert np.abs(fitted.estimate_ms(population) / truth - 1).mean() < 1e-3
    assert fitted.relative_error < 0.01


def make_table() -> LatencyTable:
    values, known = np.random.default_rng(0).random((22, 7)) / 20, ((0.3, 0.31), (0.4, 0.38))
    networks = networks_digest(table.timed_networks(NARROW, Task(8, 10, 1)))
    cost = AdditiveCost(0.1, values)
    return LatencyTable(DEVICE, NARROW.name, Task(8, 10, 1), 0.5, 0.6, 0.07, cost, 0.05, known, networks)


def test_a_table_survives_its_file():
    stored = make_table()
    read = LatencyTable.from_json(stored.to_json(), space=NARROW, task=stored.task, device=DEVICE)
    population = NARROW.sample(10, np.random.default_rng(1))
    np.testing.assert_array_equal(read.estimate_ms(population), stored.estimate_ms(population))
    assert (read.relative_error, read.calibration, read.reference_ms) == (0.05, ((0.3, 0.31), (0.4, 0.38)), 0.5)
    assert (read.reference_now_ms, read.slope_deviation, read.networks) == (0.6, 0.07, stored.networks)


@pytest.mark.parametrize("cut", [np.s_[:1], np.s_[:, :-1]])
def test_a_table_that_does_not_price_all_choices_of_its_space_is_refused(cut):
    """A space may gain a choice that is a block which it had before: its blocks are those that were timed."""
    stored = json.loads(make_table().to_json())
    stored["table_ms"] = np.array(stored["table_ms"])[cut].tolist()
    with pytest.raises(ValueError, match=r"has \(22, 7\) blocks \(genes, choices\), and the table"):
        LatencyTable.from_json(json.dumps(stored), space=NARROW, task=Task(8, 10, 1), device=DEVICE)


def test_what_another_time_makes_of_a_network_is_in_the_stated_error():
    """1 % everywhere, and more where the machine was in another state; networks left out tell nothing of either."""
    calm = replace(make_table(), relative_error=0.0, reference_now_ms=0.5)
    assert calm.stated_error == pytest.approx(1.96 * 0.01)
    assert replace(calm, relative_error=0.03).stated_error == pytest.approx(np.hypot(0.03, 0.0196))
    twice = replace(calm, reference_now_ms=1.0)
    assert twice.stated_error == pytest.approx(1.96 * np.hypot(0.01, 0.07 * np.log(2)))
    rows = NARROW.sample(5, np.random.default_rng(0))
    low, high = twice.interval_ms(rows)
    np.testing.assert_allclose(np.log(high / low), 2 * twice.stated_error)
    assert DeviceCosts(NARROW, twice.task, twice).additive("latency_ms") == (twice.cost, twice.stated_error)
    assert twice.with_reference(1.0).stated_error == pytest.approx(calm.stated_error)  # stored anew as it was then


def test_a_table_of_networks_that_the_space_has_no_more_is_refused(monkeypatch):
    """One of the same name whose layers became others: the estimates would be those of networks that are gone."""
    stored = make_table()
    blocks = table._timed_blocks

    def wider(pieces):
        networks, contexts = blocks(pieces)
        return {key: (*network, network[-1]) for key, network in networks.items()}, contexts

    monkeypatch.setattr(table, "_timed_blocks", wider)
    with pytest.raises(InputError, match=r"must be of the networks that proxyless@w0\.25 has now, but it is of others"):
        LatencyTable.from_json(stored.to_json(), space=NARROW, task=stored.task, device=DEVICE)


@pytest.mark.parametrize(
    ("what", "others"),
    [
        ("device", {"device": replace(DEVICE, onnxruntime="2.0")}),
        ("space", {"space": get_space("proxyless")}),
        ("task", {"task": Task(16, 10, 1)}),
    ],
)
def test_a_table_of_something_else_is_refused(what, others):
    stored = make_table()
    asked = {"space": NARROW, "task": stored.task, "device": DEVICE, **others}
    with pytest.raises(InputError, match=f"must be of this {what}"):
        LatencyTable.from_json(stored.to_json(), **asked)


@pytest.fixture
def crooked_machine(monkeypatch):
    """Blocks in networks take 12 % more than alone, and each kind of block 8 % more or less; visits scatter by 3 %."""
    rng = np.random.default_rng(7)
    by_shape: dict[tuple[int, ...], float] = {}

    def run_rounds(models, *, visits, rng=rng, rounds=8, warm_runs=4):
        ms = []
        for model in models:
            nodes = flops_by_weight(model)
            whole = len(nodes[-1][0]) == 2  # a classifier ends it
            by = [by_shape.setdefault(shape, 1.12 * (1 + 0.08 * rng.standard_normal())) for shape, _ in nodes]
            ms.append(
                OVERHEAD_MS + MS_PER_FLOP * sum(n * (k if whole else 1) for (_, n), k in zip(nodes, by, strict=True))
            )
        scatter = np.exp(0.03 * rng.standard_normal((len(ms), visits, 1)))
        times = np.repeat(np.array(ms)[:, None, None] * scatter, 2, axis=1) * np.ones(rounds)
        return Rounds(times, times, times[:, :visits, :warm_runs])

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)
    monkeypatch.setattr(measuring, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))
    return run_rounds


def test_the_stated_error_holds_for_networks_that_were_never_measured(crooked_machine):
    space, task = get_space("proxyless@16,8x1,16x3s2,32x2s2,64"), Task(16, 10)
    inside, errors, stated = [], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        reference = build_onnx(space.layers(space.arch([0] * len(space.choices)), task), rng)
        reference_ms = float(crooked_machine([reference], visits=400).typical_ms().mean())
        calibration = table.calibration_rows(space, task, rng)
        fitted = measure_table(space, task, DEVICE, reference, reference_ms, calibration=calibration, rng=rng)
        rows = space.sample(40, rng)
        models = [build_onnx(space.layers(space.arch(row), task), rng, normalise=True) for row in rows]
        true_ms = reference_ms * np.exp(crooked_machine([reference, *models], visits=400).log_ratios().mean(axis=1))
        error = np.abs(np.log(true_ms / fitted.estimate_ms(rows)))
        inside.append(error <= fitted.relative_error)
        errors.append(error)
        stated.append(fitted.relative_error)
    assert 0.9 <= np.mean(inside) <= 1.0
    assert np.mean(errors) < 0.02
    assert np.max(stated) < 0.08


def test_no_network_costs_nothing():
    """Whatever was measured, as on a machine that stood still for one network and ran away in another."""
    task, rng = Task(8, 10, 1), np.random.default_rng(0)
    rows = NARROW.sample(300, rng)
    for scatter in (0.3, 1.0, 3.0):
        for n in (6, 24):
            plan = table.table_plan(NARROW, task, NARROW.sample(n, rng))
            names = [measuring.network_name(network) for group in plan.groups for network in group]
            times = PlanTimes({name: scatter * rng.standard_normal(2) for name in names}, 0.5, 0.1)
            fitted = table.fit_table(NARROW, plan, DEVICE, 0.5, times)
            least_ms = min(measured for measured, _ in fitted.calibration)
            assert fitted.estimate_ms(rows).min() >= 0.00999 * least_ms
            assert min(left_out for _, left_out in fitted.calibration) >= 0.00999 * least_ms
            assert np.isfinite(fitted.relative_error)


def test_costs_of_a_device_carry_estimates_and_intervals():
    space, stored = get_space("proxyless@w0.25"), make_table()
    costs = DeviceCosts(space, stored.task, stored)
    population = space.sample(6, np.random.default_rng(1))
    estimate = costs.of(population)["latency_ms_estimated"]
    low, high = costs.interval("latency_ms", population)
    # Of logarithms: its own, and what another time and another speed make, of a reference at 0.6 in place of 0.5 ms.
    stated = np.hypot(0.05, 1.96 * np.hypot(0.01, 0.07 * np.log(1.2)))
    np.testing.assert_allclose(low, np.exp(-stated) * estimate)
    np.testing.assert_allclose(high, np.exp(stated) * estimate)
    np.testing.assert_array_equal(*costs.interval("params", population))
    with pytest.raises(InputError, match="needs a latency table"):
        DeviceCosts(space, stored.task).interval("latency_ms", population)
