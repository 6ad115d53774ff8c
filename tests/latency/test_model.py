"""Learned latencies on machines whose prices are known, and what is stored of them."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from latency import Device, LatencyTable, LearnedLatency, build_onnx, measure_learned, measuring, read_latency_model
from latency.measuring import networks_digest
from latency.model import learn_latency, spread_rows
from latency.rounds import Rounds
from latency.table import timed_networks
from spaces import InputError, Task, get_space
from spaces.additive import AdditiveCost

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

    def run_rounds(models, *, visits, rng, rounds=8, warm_runs):
        ms = np.array([REFERENCE_MS, *map(true_ms, models[1:])])
        times = np.broadcast_to(ms[:, None, None], (len(ms), 2 * visits, rounds))
        return Rounds(times, times, times[:, :visits, :warm_runs])

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)
    monkeypatch.setattr(measuring, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))


def learn(rows, rng) -> LearnedLatency:
    return measure_learned(SPACE, TASK, DEVICE, b"", REFERENCE_MS, calibration=rows, rng=rng)


def test_prices_that_exist_are_found(known_machine):
    rng = np.random.default_rng(0)
    learned = learn(spread_rows(SPACE, TASK, 28, rng), rng)
    new = SPACE.sample(60, rng)
    truth = [true_ms(build_onnx(SPACE.layers(SPACE.arch(row), TASK), rng, normalise=True)) for row in new]
    np.testing.assert_allclose(learned.estimate_ms(new), truth, rtol=0.02)
    assert learned.relative_error < 0.02
    low, high = learned.interval_ms(new)
    assert (low <= truth).all()
    assert (truth <= high).all()
    assert len(learned.calibration) == 28
    for measured, estimated in learned.calibration:
        assert estimated == pytest.approx(measured, rel=0.02)


def test_the_measured_networks_differ_and_tell_more_than_random_ones():
    rows = spread_rows(SPACE, TASK, 28, np.random.default_rng(2))
    assert len(np.unique(SPACE.canonical(rows), axis=0)) == 28
    flops = np.log(SPACE.counts(rows, TASK)[0])
    usual = np.log(SPACE.counts(SPACE.sample(2000, np.random.default_rng(3)), TASK)[0])
    assert np.ptp(flops) > 0.9 * np.ptp(usual)
    assert flops.std() > 1.1 * usual.std()


def make_learned() -> LearnedLatency:
    rng = np.random.default_rng(0)
    rows = SPACE.sample(20, rng)
    ms = SPACE.counts(rows, TASK)[0] * 1e-6 * np.exp(0.03 * rng.standard_normal(20))
    return learn_latency(SPACE, TASK, DEVICE, 0.5, rows, ms, reference_now_ms=0.5, slope_deviation=0.07)


def test_what_another_time_makes_of_a_network_is_in_every_interval():
    """As for tables: of the interval's half, what another time and another state of the machine make, as squares."""
    calm, rows = make_learned(), SPACE.sample(50, np.random.default_rng(1))
    twice = replace(calm, reference_now_ms=1.0)
    alone = np.log(np.divide(*calm.prices.interval(calm.tally(rows), calm.tally.forms)[::-1])) / 2
    for learned, between in ((calm, 0.01), (twice, np.hypot(0.01, 0.07 * np.log(2)))):
        low, high = learned.interval_ms(rows)
        np.testing.assert_allclose(np.log(high / low) / 2, np.hypot(alone, 1.96 * between))
        assert learned.stated_error == pytest.approx(np.hypot(learned.relative_error, 1.96 * between))


def test_a_model_of_networks_that_the_space_has_no_more_is_refused():
    stored = json.loads(make_learned().to_json())
    text = json.dumps(stored | {"networks": "0" * 12})
    with pytest.raises(InputError, match="must be of the networks that residual has now, but it is of others"):
        read_latency_model(text, space=SPACE, task=TASK, device=DEVICE)


def test_a_space_file_that_was_edited_may_raise_what_it_likes(monkeypatch):
    """Its networks are asked for before anything is made of the rows that it no longer has."""

    def layers(*_):
        raise KeyError("no such block any more")

    text = make_learned().to_json()
    monkeypatch.setattr(SPACE, "layers", layers)
    with pytest.raises(InputError, match=r"but it is of others: 'no such block any more'"):
        read_latency_model(text, space=SPACE, task=TASK, device=DEVICE)


def test_a_model_survives_its_file():
    stored = make_learned()
    read = read_latency_model(stored.to_json(), space=SPACE, task=TASK, device=DEVICE)
    assert isinstance(read, LearnedLatency)
    population = SPACE.sample(10, np.random.default_rng(1))
    np.testing.assert_array_equal(read.estimate_ms(population), stored.estimate_ms(population))
    np.testing.assert_array_equal(read.interval_ms(population), stored.interval_ms(population))
    assert (read.relative_error, read.calibration) == (stored.relative_error, stored.calibration)
    assert read.to_json() == stored.to_json()


def test_every_network_has_an_interval_of_its_own():
    learned = make_learned()
    population = SPACE.sample(50, np.random.default_rng(1))
    low, high = learned.interval_ms(population)
    estimate = learned.estimate_ms(population)
    np.testing.assert_allclose(low * high, estimate**2)
    assert len(np.unique(np.round(high / low, 6))) > 10
    none = population[:0]
    assert [len(values) for values in (learned.estimate_ms(none), *learned.interval_ms(none))] == [0, 0, 0]


@pytest.mark.parametrize("ms", [np.ones(19), np.r_[np.ones(19), 0.0], np.r_[np.ones(19), np.nan]])
def test_latencies_that_cannot_be_are_refused(ms):
    rows = SPACE.sample(20, np.random.default_rng(0))
    with pytest.raises(InputError, match="each of the 20 networks must have one latency above 0 ms"):
        learn_latency(SPACE, TASK, DEVICE, 0.5, rows, ms, reference_now_ms=0.5)


def test_tables_and_models_are_told_apart():
    chain = get_space("proxyless@w0.25")
    networks = networks_digest(timed_networks(chain, TASK))
    table = LatencyTable(
        DEVICE, chain.name, TASK, 0.5, 0.5, 0.0, AdditiveCost(0.1, np.ones((22, 7))), 0.05, (), networks
    )
    read = read_latency_model(table.to_json(), space=chain, task=TASK, device=DEVICE)
    assert isinstance(read, LatencyTable)
    assert read.additive().constant == 0.1


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


def test_a_network_that_comes_twice_is_refused():
    rows = SPACE.sample(20, np.random.default_rng(0))
    rows = rows[np.unique(SPACE.canonical(rows), axis=0, return_index=True)[1]]
    with pytest.raises(InputError, match=f"must come once, but of {len(rows) + 1} only {len(rows)} are different"):
        learn(np.concatenate([rows, rows[:1]]), np.random.default_rng(0))
