"""The measuring protocol, on clocks whose truth is known, and once on the real one."""

import numpy as np
import pytest

from latency import runtime
from latency.onnx_graph import build_onnx
from latency.reference import reference_network
from spaces import Task
from spaces.layers import NetworkBuilder


class DisturbedMachine:
    """Stands for the clock: true times, a clock that slows down by half, and one run in five disturbed."""

    def __init__(self, true_ms: list[float], seed: int) -> None:
        self.true_ms, self.rng, self.calls = true_ms, np.random.default_rng(seed), 0

    def time(self, session, _feed):
        self.calls += 1
        ms = self.true_ms[session] * (1 + self.calls / 4000) * np.exp(0.01 * self.rng.standard_normal())
        if self.rng.random() < 0.2:
            ms *= 1 + 3 * self.rng.random()
        return ms, ms + self.rng.exponential(0.1)


@pytest.fixture
def disturbed(monkeypatch):
    machine = DisturbedMachine([2.0, 1.0, 3.0, 8.0], seed=5)
    sessions = iter(range(4))
    monkeypatch.setattr(runtime, "open_session", lambda model: next(sessions))
    monkeypatch.setattr(runtime, "_feed", lambda session, rng: {})
    monkeypatch.setattr(runtime, "_time", machine.time)
    monkeypatch.setattr(runtime, "FLUSH_BYTES", 8)
    monkeypatch.setattr(runtime, "_warm_up", lambda session, feed: None)
    return machine


def test_drift_and_disturbances_cancel(disturbed):
    # The reference's own stored time is 2 ms; here the clock says up to 3 ms for it.
    timings = runtime.measure([b"", b"", b""], b"", 2.0, rounds=80, rng=np.random.default_rng(0))
    for timing, truth in zip(timings, (1.0, 3.0, 8.0), strict=True):
        assert timing.latency_ms == pytest.approx(truth, rel=0.02)
        low, high = timing.latency_ms_interval
        assert low < truth < high
        assert high / low < 1.08
        assert timing.rounds == 80
        assert timing.wall_p90_ms > timing.wall_p50_ms


def test_rounds_end_with_the_budget(disturbed, monkeypatch):
    # Half a second a round: each of two networks runs once flushed and twice warm.
    monkeypatch.setattr(runtime.time, "monotonic", lambda: 0.5 * disturbed.calls / 6)
    raw = runtime.run_rounds([b"", b""], rounds=100, rng=np.random.default_rng(0), budget_s=10)
    assert raw.cpu.shape == raw.warm.shape == (2, 20)
    assert np.isfinite(raw.cpu).all()


def test_a_network_with_thirty_times_the_work_takes_longer_on_the_real_clock():
    def network(width):
        net = NetworkBuilder((3, 32, 32))
        x = net.conv(0, width, kernel=3)
        net.classifier(net.conv(x, width, kernel=3), classes=2)
        return net.network

    rng = np.random.default_rng(0)
    reference = build_onnx(reference_network(Task(8, 2)), rng)
    models = [build_onnx(network(width), rng) for width in (8, 64)]
    small, large = runtime.measure(models, reference, 1.0, rounds=8, rng=rng)
    assert small.latency_ms < large.latency_ms
    assert small.latency_ms_interval[0] <= small.latency_ms <= small.latency_ms_interval[1]
