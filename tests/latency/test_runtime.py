"""The measuring protocol, on clocks whose truth is known, and once on the real one."""

import numpy as np
import pytest

from latency import rounds, runtime
from latency.onnx_graph import build_onnx
from latency.reference import reference_network
from spaces import Task
from spaces.layers import NetworkBuilder


class DisturbedMachine:
    """Stands for the clock: true times, a clock that slows down by half, and one run in five disturbed.

    Every loaded network lies somewhere else in memory, which moves its time by 3 % as long as it is loaded.
    """

    def __init__(self, true_ms: dict[bytes, float], seed: int, *, by_place: float = 0.03) -> None:
        self.true_ms, self.rng, self.calls, self.by_place = true_ms, np.random.default_rng(seed), 0, by_place

    def load(self, model, *, threads):
        return self.true_ms[model] * np.exp(self.by_place * self.rng.standard_normal())

    def time(self, session, _feed):
        self.calls += 1
        ms = session * (1 + self.calls / 4000) * np.exp(0.01 * self.rng.standard_normal())
        if self.rng.random() < 0.2:
            ms *= 1 + 3 * self.rng.random()
        return ms, ms + self.rng.exponential(0.1)


TRUE_MS = {b"reference": 2.0, b"a": 1.0, b"b": 3.0, b"c": 8.0}


@pytest.fixture
def disturbed(monkeypatch):
    machine = DisturbedMachine(TRUE_MS, seed=5)
    monkeypatch.setattr(rounds, "open_session", machine.load)
    monkeypatch.setattr(rounds, "_feed", lambda session, rng: {})
    monkeypatch.setattr(rounds, "_time", machine.time)
    monkeypatch.setattr(rounds, "FLUSH_BYTES", 8)
    monkeypatch.setattr(rounds, "_warm_up", lambda session, feed: None)
    return machine


def test_drift_disturbances_and_places_in_memory_cancel(disturbed):
    # The reference's own stored time is 2 ms; here the clock says up to 3 ms for it.
    timings = runtime.measure([b"a", b"b", b"c"], b"reference", 2.0, visits=12, rng=np.random.default_rng(0))
    for timing, truth in zip(timings, (1.0, 3.0, 8.0), strict=True):
        assert timing.latency_ms == pytest.approx(truth, rel=0.03)
        assert timing.warm_ms == pytest.approx(truth, rel=0.06)
        assert timing.rounds == 12 * rounds.ROUNDS_A_VISIT
        assert timing.wall_p90_ms > timing.wall_p50_ms


def test_intervals_hold_the_truth_as_often_as_they_say(disturbed):
    """95 %, and more by what is added for other processes; with few visits too."""
    inside, widths = [], []
    for _ in range(150):
        disturbed.calls = 0
        timings = runtime.measure([b"a", b"b"], b"reference", 2.0, visits=5, rng=np.random.default_rng(0))
        for timing, truth in zip(timings, (1.0, 3.0), strict=True):
            low, high = timing.latency_ms_interval
            inside.append(low <= truth <= high)
            widths.append(high / low)
    assert 0.93 <= np.mean(inside) <= 0.995
    assert np.median(widths) < 1.2


def test_visits_end_with_the_budget(disturbed, monkeypatch):
    # Half a second a visit: two networks, 8 rounds each.
    monkeypatch.setattr(rounds.time, "monotonic", lambda: 0.5 * disturbed.calls / 16)
    raw = rounds.run_rounds([b"reference", b"a"], visits=100, rng=np.random.default_rng(0), budget_s=10)
    assert raw.cpu.shape == raw.wall.shape == (2, 20, 8)
    assert raw.warm.shape == (2, 20, 0)
    assert np.isfinite(raw.cpu).all()
    few = rounds.run_rounds([b"reference", b"a"], visits=100, rng=np.random.default_rng(0), budget_s=0.1)
    assert few.cpu.shape[1] == rounds.LEAST_VISITS
    with pytest.raises(ValueError, match="at least 3 visits"):
        runtime.measure([b"a"], b"reference", 2.0, visits=2, rng=np.random.default_rng(0))


def test_a_network_with_thirty_times_the_work_takes_longer_on_the_real_clock():
    def network(width):
        net = NetworkBuilder((3, 32, 32))
        x = net.conv(0, width, kernel=3)
        net.classifier(net.conv(x, width, kernel=3), classes=2)
        return net.network

    rng = np.random.default_rng(0)
    reference = build_onnx(reference_network(Task(8, 2)), rng)
    models = [build_onnx(network(width), rng) for width in (8, 64)]
    small, large = runtime.measure(models, reference, 1.0, visits=3, rng=rng)
    assert small.latency_ms < large.latency_ms
    assert small.latency_ms_interval[0] <= small.latency_ms <= small.latency_ms_interval[1]
