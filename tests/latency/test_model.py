"""Learned latencies on machines whose prices are known, and what is stored of them."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from latency import Device, LatencyTable, LearnedLatency, build_onnx, measure_learned, measuring, read_latency_model
from latency.counts import PerNetwork
from latency.model import FEATURES, fit_prices, operation_features, spread_rows
from latency.rounds import Rounds
from spaces import InputError, Task, get_space
from spaces.additive import AdditiveCost
from spaces.layers import NetworkBuilder

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "my_space.py"
SPACE = get_space(f"{EXAMPLE}:MySpace")
TASK = Task(16, 10)
DEVICE = Device("a cpu", 2, 1, "CPUExecutionProvider", "1.0", "Linux x86_64")
NODE_MS = {"Conv": 0.004, "Gemm": 0.01, "Add": 0.002, "Relu": 0.0, "GlobalAveragePool": 0.003}
REFERENCE_MS = 0.5


def true_ms(graph_bytes: bytes) -> float:
    """A price for each node of the ONNX graph, and one for each multiply-add by the graph's own shapes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph_bytes)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    weights = {w.name: list(w.dims) for w in graph.initializer}
    flops = sum(
        np.prod(weights[node.input[1]]) * np.prod(shapes[node.output[0]][2:])
        for node in graph.node
        if node.op_type == "Conv"
    )
    return 0.05 + sum(NODE_MS.get(node.op_type, 0.0) for node in graph.node) + 2e-8 * float(flops)


@pytest.fixture
def known_machine(monkeypatch):
    """The first network, the reference, takes 0.5 ms; the others what `true_ms` says."""

    def run_rounds(models, *, visits, rng, rounds=8, warm_runs=0, budget_s=None):
        ms = np.array([REFERENCE_MS, *map(true_ms, models[1:])])
        times = np.broadcast_to(ms[:, None, None], (len(ms), visits, rounds))
        return Rounds(times, times, times)

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)


def learn(rows, rng) -> LearnedLatency:
    return measure_learned(SPACE, TASK, DEVICE, b"", REFERENCE_MS, calibration=rows, rng=rng)


def test_prices_that_exist_are_found(known_machine):
    rng = np.random.default_rng(0)
    learned = learn(spread_rows(SPACE, TASK, 28, rng), rng)
    new = SPACE.sample(60, rng)
    truth = [true_ms(build_onnx(SPACE.layers(SPACE.arch(row), TASK), rng, normalise=True)) for row in new]
    np.testing.assert_allclose(learned.estimate_ms(new), truth, rtol=0.02)
    assert learned.relative_error < 0.02
    assert (learned.prices_ms >= 0).all()
    assert len(learned.calibration) == 28
    for measured, estimated in learned.calibration:
        assert estimated == pytest.approx(measured, rel=0.02)


def test_the_stated_error_covers_new_networks():
    """Times that scatter by 6 % around a sum of prices: about 95 % of new networks lie inside the stated interval."""
    rng = np.random.default_rng(1)
    features = PerNetwork(SPACE, TASK, operation_features, names=FEATURES)
    rows = SPACE.sample(1500, rng)
    X = features(rows)
    truth = X @ (rng.random(len(FEATURES)) / np.maximum(X.mean(axis=0), 1) / len(FEATURES))
    ms = truth * np.exp(0.06 * rng.standard_normal(len(rows)))
    inside = []
    for _ in range(25):
        fit = rng.choice(len(rows), size=28, replace=False)
        prices, error = fit_prices(X[fit], ms[fit])
        assert 0.06 < error < 0.3
        inside.append(np.abs(ms / (X @ prices) - 1) <= error)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_features_by_hand():
    net = NetworkBuilder((4, 8, 8))
    x = net.conv(0, 8, activation="relu")
    y = net.depthwise(net.relu(x), kernel=3, stride=2)
    z = net.conv(y, 8, kernel=3)
    net.classifier(net.add((y, z, z)), classes=10)
    found = {name: value for name, value in zip(FEATURES, operation_features(net.network), strict=True) if value}
    small, large = 8 * 4 * 4, 8 * 8 * 8
    assert found == {
        "networks": 1,
        "launches of conv1x1": 1,
        "flops of conv1x1": 64 * 32,
        "bytes of conv1x1": 4 * (4 * 64 + large + 32 + 8),
        "launches of relu": 1,
        "bytes of relu": 4 * 2 * large,
        "launches of depthwise": 1,
        "flops of depthwise": 16 * 72,
        "bytes of depthwise": 4 * (large + small + 72 + 8),
        "launches of conv": 1,
        "flops of conv": 16 * 576,
        "bytes of conv": 4 * (2 * small + 576 + 8),
        "launches of add": 2,
        "bytes of add": 4 * 4 * small,
        "launches of global_avg_pool": 1,
        "bytes of global_avg_pool": 4 * (small + 8),
        "launches of linear": 1,
        "flops of linear": 80,
        "bytes of linear": 4 * (8 + 10 + 90),
    }


def test_the_measured_networks_differ_and_spread():
    rows = spread_rows(SPACE, TASK, 28, np.random.default_rng(2))
    assert len(np.unique(SPACE.canonical(rows), axis=0)) == 28
    flops = np.sort(np.log(SPACE.counts(rows, TASK)[0]))
    uniform = np.log(SPACE.counts(SPACE.sample(2000, np.random.default_rng(3)), TASK)[0])
    reach = uniform.max() - uniform.min()
    assert flops[-1] - flops[0] > 0.9 * reach
    assert max(b - a for a, b in pairwise(flops)) < 4 * reach / 28


def make_learned() -> LearnedLatency:
    prices = np.random.default_rng(0).random(len(FEATURES)) * 1e-6
    features = PerNetwork(SPACE, TASK, operation_features, names=FEATURES)
    return LearnedLatency(DEVICE, SPACE.name, TASK, 0.5, 0.08, ((0.3, 0.31), (0.4, 0.38)), prices, features)


def test_a_model_survives_its_file():
    stored = make_learned()
    read = read_latency_model(stored.to_json(), space=SPACE, task=TASK, device=DEVICE)
    assert isinstance(read, LearnedLatency)
    population = SPACE.sample(10, np.random.default_rng(1))
    np.testing.assert_array_equal(read.estimate_ms(population), stored.estimate_ms(population))
    assert (read.relative_error, read.calibration, read.reference_ms) == (0.08, ((0.3, 0.31), (0.4, 0.38)), 0.5)


def test_tables_and_models_are_told_apart():
    chain = get_space("proxyless@w0.25")
    table = LatencyTable(DEVICE, chain.name, TASK, 0.5, AdditiveCost(0.1, np.ones((22, 7))), 0.05, ())
    read = read_latency_model(table.to_json(), space=chain, task=TASK, device=DEVICE)
    assert isinstance(read, LatencyTable)
    assert read.additive().constant == 0.1
    older = {name: value for name, value in json.loads(table.to_json()).items() if name != "kind"}
    assert isinstance(read_latency_model(json.dumps(older), space=chain, task=TASK, device=DEVICE), LatencyTable)


@pytest.mark.parametrize(
    ("what", "others"),
    [
        ("device", {"device": replace(DEVICE, onnxruntime="2.0")}),
        ("space", {"space": get_space("proxyless")}),
        ("task", {"task": Task(8, 10)}),
    ],
)
def test_a_model_of_something_else_is_refused(what, others):
    asked = {"space": SPACE, "task": TASK, "device": DEVICE, **others}
    with pytest.raises(InputError, match=f"must be of this {what}"):
        read_latency_model(make_learned().to_json(), **asked)


def test_too_few_networks_are_refused():
    with pytest.raises(InputError, match="residual needs 6 different networks to learn from, got 5"):
        learn(SPACE.sample(5, np.random.default_rng(0)), np.random.default_rng(0))
