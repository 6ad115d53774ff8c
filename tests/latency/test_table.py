"""Block tables on a machine whose latencies are known, and what is stored of them."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from latency import Device, DeviceCosts, LatencyTable, PopulationCosts, build_onnx, measure_table, measuring, table
from latency.rounds import Rounds
from spaces import InputError, Task, get_space
from spaces.additive import AdditiveCost

OVERHEAD_MS, MS_PER_FLOP = 0.01, 1e-7
DEVICE = Device("a cpu", 2, 1, "CPUExecutionProvider", "1.0", "Linux x86_64")


def flops_of(model: bytes) -> float:
    """Multiply-adds of an ONNX model, from its own shapes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    weights = {w.name: list(w.dims) for w in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += np.prod(weights[node.input[1]]) * np.prod(shapes[node.output[0]][2:])
        elif node.op_type == "Gemm":
            total += np.prod(weights[node.input[1]])
    return float(total)


@pytest.fixture
def additive_machine(monkeypatch):
    """Every network takes an overhead a call plus a time for each multiply-add, exactly."""

    def run_rounds(models, *, visits, rng, rounds=8, budget_s=None):
        ms = np.array([OVERHEAD_MS + MS_PER_FLOP * flops_of(model) for model in models])
        times = np.tile(ms[:, None, None], (1, visits, rounds))
        return Rounds(times, times, times)

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)


@pytest.mark.parametrize("name", ["proxyless@w0.25", "proxyless@16,8x1,16x3s2,32x2s2,64"])
def test_blocks_in_context_sum_to_the_network_where_times_are_additive(additive_machine, name):
    space, task, rng = get_space(name), Task(16, 10), np.random.default_rng(0)
    reference = build_onnx(space.layers(space.arch([0] * len(space.choices)), task), rng)
    reference_ms = OVERHEAD_MS + MS_PER_FLOP * flops_of(reference)
    fitted = measure_table(space, task, DEVICE, reference, reference_ms, calibration=space.sample(5, rng), rng=rng)
    population = space.sample(50, rng)
    truth = OVERHEAD_MS + MS_PER_FLOP * PopulationCosts(space, task).of(population)["flops"]
    np.testing.assert_allclose(fitted.estimate_ms(population), truth, rtol=1e-6)
    assert fitted.relative_error < 1e-6


def make_table() -> LatencyTable:
    space, values = "proxyless@w0.25", np.random.default_rng(0).random((22, 7)) / 20
    return LatencyTable(DEVICE, space, Task(8, 10, 1), 0.5, AdditiveCost(0.1, values), 0.05, ((0.3, 0.31), (0.4, 0.38)))


def test_a_table_survives_its_file():
    stored = make_table()
    read = LatencyTable.from_json(stored.to_json(), space=stored.space, task=stored.task, device=DEVICE)
    population = get_space(stored.space).sample(10, np.random.default_rng(1))
    np.testing.assert_array_equal(read.estimate_ms(population), stored.estimate_ms(population))
    assert (read.relative_error, read.calibration, read.reference_ms) == (0.05, ((0.3, 0.31), (0.4, 0.38)), 0.5)


@pytest.mark.parametrize(
    ("what", "others"),
    [
        ("device", {"device": replace(DEVICE, onnxruntime="2.0")}),
        ("space", {"space": "proxyless"}),
        ("task", {"task": Task(16, 10, 1)}),
    ],
)
def test_a_table_of_something_else_is_refused(what, others):
    stored = make_table()
    asked = {"space": stored.space, "task": stored.task, "device": DEVICE, **others}
    with pytest.raises(InputError, match=f"must be of this {what}"):
        LatencyTable.from_json(stored.to_json(), **asked)


def test_the_stated_error_covers_new_networks():
    """Student's t for one more draw: 95 % of new normal ratios lie inside, whatever the few calibrated ones say."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(4000):
        ratios = 0.03 * rng.standard_normal(8)
        centred = 0.03 * rng.standard_normal() - ratios.mean()
        inside.append(abs(centred) <= table._prediction_error(ratios))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


def test_costs_of_a_device_carry_estimates_and_intervals():
    space, stored = get_space("proxyless@w0.25"), make_table()
    costs = DeviceCosts(space, stored.task, stored)
    population = space.sample(6, np.random.default_rng(1))
    estimate = costs.of(population)["latency_ms_estimated"]
    low, high = costs.interval("latency_ms", population)
    np.testing.assert_allclose(low, 0.95 * estimate)
    np.testing.assert_allclose(high, 1.05 * estimate)
    np.testing.assert_array_equal(*costs.interval("params", population))
    with pytest.raises(InputError, match="needs a latency table"):
        DeviceCosts(space, stored.task).interval("latency_ms", population)
