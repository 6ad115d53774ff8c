"""What a machine's speed makes of a ratio to the reference, against what is known of made-up machines."""

import numpy as np
import pytest

from latency import drift
from latency.drift import Reading, at_stored_speed, measured_anew, readings_of
from latency.rounds import Rounds
from latency.runtime import UNSTEADY, half_interval

VISITS = 12


def visits(rng, *, slope, speeds, expected=0.0, scatter=0.01, truth=0.5):
    """Readings of a network that takes exp(truth) times the reference, 2 ms, at the stored speed."""
    noise = scatter * rng.standard_normal((2, len(speeds)))
    now = speeds + noise[0]
    ratios = truth + slope * speeds + noise[1] - noise[0]
    return [Reading(ratio, 2.0 * float(np.exp(x)), expected) for ratio, x in zip(ratios, now, strict=True)]


def speeds_of(rng, centre, spread):
    """Logarithms of how much longer the reference takes: two states that come and go."""
    return centre + spread * rng.choice([-1.0, 1.0], VISITS)


@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.4])
def test_a_machine_of_two_speeds_shows_the_slope(slope):
    """Slowed down by 1.4 times in half of the visits, networks of three kinds are as fast as at the stored speed."""
    rng, raw, found = np.random.default_rng(0), [], []
    for _ in range(200):
        readings = visits(rng, slope=slope, speeds=speeds_of(rng, 0.17, 0.17))
        there = at_stored_speed(readings, 2.0)
        raw.append(np.mean([each.log_ratio for each in readings]))
        found.append(there.log_ratios.mean())
        assert drift.SLOPE_CHANGES < there.slope_deviation < 0.08
        assert there.drift == pytest.approx(np.mean([np.log(each.reference_ms / 2) for each in readings]))
    assert np.mean(raw) - 0.5 == pytest.approx(slope * 0.17, abs=0.01)
    assert np.mean(found) == pytest.approx(0.5, abs=0.005)
    assert np.std(found) < 0.01


def test_a_machine_of_one_speed_is_corrected_as_expected():
    """Nothing shows the slope: what the cost of flushing lets expect is taken off, and is as uncertain as it was."""
    rng = np.random.default_rng(1)
    there = at_stored_speed(visits(rng, slope=-0.3, expected=-0.3, speeds=np.full(VISITS, 0.2)), 2.0)
    assert there.log_ratios.mean() == pytest.approx(0.5, abs=0.01)
    visits_told = drift.EXPECTED_SCATTER / np.sqrt(VISITS)
    nothing_seen = np.sqrt(drift.SLOPE_DEVIATION**2 + visits_told**2 + drift.SLOPE_CHANGES**2)
    assert there.slope_deviation == pytest.approx(nothing_seen, rel=0.05)


def test_few_visits_are_less_sure_of_what_is_expected():
    """Each of them sees its own cost of flushing, and the median of few is as far off as the kept visits show."""
    rng = np.random.default_rng(6)
    (two, twelve) = (
        at_stored_speed(visits(rng, slope=0.0, speeds=np.full(n, 0.2)), 2.0).slope_deviation for n in (2, 12)
    )
    assert two == pytest.approx(0.22, abs=0.01)
    assert twelve == pytest.approx(0.17, abs=0.01)


def test_the_scatter_of_the_reference_is_no_drift():
    """On a steady machine far from its stored speed it would pass for a slope of -1, and move every latency."""
    rng = np.random.default_rng(2)
    found = [
        at_stored_speed(visits(rng, slope=0.0, speeds=np.full(VISITS, 0.3), scatter=scatter), 2.0).log_ratios.mean()
        for scatter in (0.01, 0.02)
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.003)


@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.4])
def test_of_many_visits_the_slope_is_that_of_orthogonal_regression(slope):
    """Network and reference scatter alike: of the logarithms of both, Deming's line (1943) is the best."""
    rng = np.random.default_rng(3)
    readings = visits(rng, slope=slope, speeds=0.06 * rng.standard_normal(4000), scatter=0.03)
    ratios, now_ms, _ = np.array(readings).T
    x, y = np.log(now_ms), ratios + np.log(now_ms)
    (xx, xy), (_, yy) = np.cov(x, y)
    deming = (yy - xx + np.sqrt((yy - xx) ** 2 + 4 * xy**2)) / (2 * xy) - 1
    assert deming == pytest.approx(slope, abs=0.05)
    found, _ = drift._slope(x - x.mean(), ratios - ratios.mean(), 0.0, drift.SLOPE_DEVIATION)
    assert found == pytest.approx(deming, abs=0.02)
    least_squares = np.polyfit(x, ratios, 1)[0]
    assert abs(least_squares - deming) > 0.1


def test_of_few_visits_the_slope_lies_between_what_is_expected_and_what_is_seen():
    rng = np.random.default_rng(5)
    x = np.array([-0.1, 0.2, 0.0, -0.2, 0.1])
    y = 0.4 * x + 0.002 * rng.standard_normal(5)
    for spread, low, high in ((1.0, 0.32, 0.41), (0.05, -0.02, 0.1), (0.0, 0.0, 0.0)):
        found, deviation = drift._slope(spread * x, spread * (y - y.mean()), 0.0, drift.SLOPE_DEVIATION)
        assert low <= found <= high
        assert deviation <= drift.SLOPE_DEVIATION


def test_what_is_stated_holds_as_often_as_it_says():
    """Slopes as they were found, on machines that stand still, wander, or jump, near their stored speed or not."""
    rng, inside, by_drift = np.random.default_rng(4), [], []
    for _ in range(1500):
        slope = 0.1 + drift.SLOPE_DEVIATION * rng.standard_normal()
        speeds = speeds_of(rng, rng.uniform(-0.3, 0.3), rng.choice([0.0, 0.03, 0.15]))
        there = at_stored_speed(visits(rng, slope=slope, expected=0.1, speeds=speeds), 2.0)
        error = there.log_ratios.mean() - 0.5
        half = np.hypot(
            2.2 * there.log_ratios.std(ddof=1) / np.sqrt(VISITS), 1.96 * there.slope_deviation * there.drift
        )
        inside.append(abs(error) <= half)
        by_drift.append(abs(there.drift))
    far = np.array(by_drift) > 0.15
    assert 0.93 <= np.mean(np.array(inside)[far]) <= 0.985
    assert 0.93 <= np.mean(np.array(inside)[~far]) <= 0.99


def test_of_processes_that_differ_the_visits_of_each_count_once():
    """Six processes, each at a speed of its own and 2 % faster or slower than the next, two visits in each."""
    rng, together, one_by_one = np.random.default_rng(7), [], []
    for _ in range(300):
        slope = drift.SLOPE_DEVIATION * rng.standard_normal()
        speeds = np.repeat(0.15 + 0.12 * rng.standard_normal(6), 2)
        own = np.repeat(0.02 * rng.standard_normal(6), 2)
        readings = [
            each._replace(log_ratio=each.log_ratio + more)
            for each, more in zip(visits(rng, slope=slope, speeds=speeds, scatter=0.005), own, strict=True)
        ]
        for processes, surprises in ((6, together), (None, one_by_one)):
            there = at_stored_speed(readings, 2.0, processes=processes)
            taken_off = np.mean([each.log_ratio for each in readings] - there.log_ratios) / there.drift
            surprises.append((taken_off - slope) / np.sqrt(there.slope_deviation**2 - drift.SLOPE_CHANGES**2))
    assert np.sqrt(np.mean(np.square(together))) < 1.1
    assert np.sqrt(np.mean(np.square(one_by_one))) > 1.15


@pytest.mark.parametrize("speeds", [(0.25, 0.1), (-0.15, -0.05), (0.15, 0.3)])
def test_what_time_makes_of_a_network_passes_for_no_slope(speeds, monkeypatch):
    """Ten processes find one speed, fourteen later ones another, and at both times the network is 1 % different."""

    def inside(count: int) -> float:
        rng, holds = np.random.default_rng(8), []
        for _ in range(count):
            slope = 0.1 + drift.SLOPE_DEVIATION * rng.standard_normal()
            found = visits(rng, slope=slope, expected=0.1, speeds=np.repeat(speeds, (20, 28)), scatter=0.012)
            later = np.repeat(0.01 * rng.standard_normal(2), (20, 28))
            readings = [each._replace(log_ratio=each.log_ratio + more) for each, more in zip(found, later, strict=True)]
            there = at_stored_speed(readings, 2.0, processes=24)
            means = there.log_ratios.reshape(24, 2).mean(axis=1)
            half = np.hypot(half_interval(means, 10), 1.96 * np.hypot(0.01, there.slope_deviation * there.drift))
            holds.append(abs(means.mean() - 0.5) <= half)
        return float(np.mean(holds))

    assert 0.94 <= inside(500) <= 0.995
    monkeypatch.setattr(drift, "BETWEEN_TIMES", 0.0)
    assert inside(500) < 0.93


def test_readings_are_what_the_rounds_say():
    """Flushed, the reference takes 2 ms and others 4 and 1 ms; warm 1.6, 2.4 and 1 ms: that costs 20, 40 and 0 %."""
    flushed = np.broadcast_to(np.array([2.0, 4.0, 1.0])[:, None, None], (3, 6, 8))
    warm = np.broadcast_to(np.array([1.6, 2.4, 1.0])[:, None, None], (3, 3, 4))
    first, second = readings_of(Rounds(flushed, flushed, warm))
    assert first == [pytest.approx((np.log(2), 2.0, 0.4))] * 3
    assert second == [pytest.approx((-np.log(2), 2.0, -0.4))] * 3
    ((even,),) = readings_of(Rounds(flushed[:2, :2], flushed[:2, :2], flushed[:2, :1, :4]))
    assert even.expected_slope == 0.0  # flushing costs nothing, so nothing is known


def test_a_deviation_between_measurements_grows_with_how_far_the_machine_is_from_its_stored_state():
    assert drift.between_measurements(0.0, 0.15) == drift.BETWEEN_TIMES
    assert drift.between_measurements(0.2, 0.15) == pytest.approx(np.hypot(drift.BETWEEN_TIMES, 0.03))
    assert drift.between_measurements(-0.2, 0.15) == drift.between_measurements(0.2, 0.15)
    assert drift.half_between(2.0, 2.4, 0.1) == pytest.approx(1.96 * np.hypot(0.01, 0.1 * np.log(1.2)))


def test_drift_is_said_where_it_is_notable():
    assert drift.drift_remark(2.0, 2.15) == drift.drift_remark(2.0, 1.85) == ""
    assert "20% slower than when" in drift.drift_remark(2.0, 2.4)
    assert "20% faster than when" in drift.drift_remark(2.0, 1.6)


def test_where_the_machine_is_another_for_good_it_is_said_what_helps(tmp_path):
    helps = measured_anew(tmp_path / "device.json")
    assert "remove" not in drift.drift_remark(2.0, 2.3)
    assert drift.drift_remark(2.0, 2.1, helps=helps) == ""
    assert f"if it stays so, remove {tmp_path / 'device.json'}" in drift.drift_remark(2.0, 2.3, helps=helps)
    assert f"if it stays so, remove {tmp_path / 'device.json'}" in drift.drift_remark(2.0, 1.6, helps=helps)
    assert drift.drift_remark(2.0, 3.0, ran="it ran").startswith("it ran 50% slower")
    # Where nothing showed the slope in six processes, an interval is too wide for a number from 1.3 times as slow on.
    still = at_stored_speed([Reading(0.0, 2.0, 0.0)] * 6, 2.0).slope_deviation
    assert drift.half_between(2.0, 2.7, still) > UNSTEADY > drift.half_between(2.0, 2.56, still)


@pytest.mark.parametrize(("between", "reason"), [(0.14, "unlike its state"), (0.1, "disturbed")])
def test_why_a_latency_is_none_is_the_larger_part_of_its_interval(between, reason):
    """Half of it is 0.18 of the logarithm: 0.14 leave 0.113 to the scatter of processes, 0.1 leave 0.15."""
    assert reason in drift.unsteady_reason((2 * np.exp(-0.18), 2 * np.exp(0.18)), between)
