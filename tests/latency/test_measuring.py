"""How the visits of a plan lie in time and in processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from latency import calibration_of, measuring, plan_latency_model
from latency.measuring import LEAST_PLAN_VISITS, PLAN_ROUNDS, PLAN_VISITS, measure_plan
from latency.rounds import Rounds, in_new_process, pieces
from spaces import Task, get_space

SPACE, TASK = get_space("proxyless@8,8x1,16x2s2,32"), Task(16, 10)
ROOT = Path(__file__).resolve().parents[2]


def test_groups_have_processes_of_their_own_and_single_networks_share_one_in_random_order():
    rng = np.random.default_rng(0)
    first, second = (pieces([40, *[1] * 30, 5], rng) for _ in range(2))
    assert first[:2] == second[:2] == [[0], [31]]
    assert first[2] != second[2]
    assert sorted(first[2]) == sorted(second[2]) == list(range(1, 31))
    assert pieces([3], rng) == [[0]]
    assert pieces([1, 1], rng) in ([[0, 1]], [[1, 0]])


@pytest.fixture
def slowing(monkeypatch):
    """Networks take the same time at first; as time goes by all slow down against the reference, by 10 % in the end.

    All of one process is 2 % off, and so is each visit of a network.
    """
    state = {"runs": 0, "process": 0.0, "processes": 0}
    rng = np.random.default_rng(0)

    def run_rounds(models, *, visits, rng=rng, rounds, warm_runs):
        assert visits == 1
        state["runs"] += len(models) * rounds
        slower = 0.1 * state["runs"] / state["all"] + state["process"]
        ms = np.exp(slower + 0.02 * rng.standard_normal((len(models), 1, 1)))
        ms[0] = 1.0
        times = np.tile(ms, (1, 2, rounds))
        return Rounds(times, times, times[:, :1, :warm_runs])

    def in_process(fn, *args):
        state["processes"] += 1
        state["process"] = 0.02 * rng.standard_normal()
        return fn(*args)

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)
    monkeypatch.setattr(measuring, "in_new_process", in_process)
    return state


def test_drift_moves_no_network_against_the_others(slowing):
    """Measured one after another they would be 10 % apart; so every network is off alike."""
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    slowing["all"] = PLAN_VISITS * PLAN_ROUNDS * sum(len(group) + 1 for group in plan.groups)
    times = measure_plan(plan, b"", 1.0, np.random.default_rng(1))
    ratios = times.log_ratios
    assert {len(visits) for visits in ratios.values()} == {PLAN_VISITS}
    assert slowing["processes"] == PLAN_VISITS * 2  # the blocks, and the networks
    means = np.array([visits.mean() for visits in ratios.values()])
    assert means.mean() == pytest.approx(0.05, abs=0.02)
    assert means.std() < 0.02
    by_time = np.stack(list(ratios.values())).mean(axis=0)
    assert by_time[-1] - by_time[0] > 0.05
    assert times.reference_now_ms == 1.0


def test_what_the_reference_took_is_known_of_every_plan(monkeypatch):
    """It slows down from 1 ms to 1.5 ms; that of a visit is the lower quartile over its groups, of all the median."""
    asked = []

    def run_rounds(models, *, visits, rng, rounds, warm_runs):
        asked.append(len(models))
        ms = np.full((len(models), 2, rounds), 1 + 0.5 * len(asked) / (PLAN_VISITS * groups))
        return Rounds(ms, ms, ms[:, :1, :warm_runs])

    monkeypatch.setattr(measuring, "run_rounds", run_rounds)
    monkeypatch.setattr(measuring, "in_new_process", lambda fn, *args: fn(*args))
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    groups = len(plan.groups)
    times = measure_plan(plan, b"", 1.0, np.random.default_rng(1))
    number = np.arange(1, PLAN_VISITS * groups + 1).reshape(PLAN_VISITS, groups)
    wanted = np.median(np.quantile(1 + 0.5 * number / number[-1, -1], 0.25, axis=1))
    assert times.reference_now_ms == pytest.approx(wanted)


@pytest.mark.parametrize(("budget_s", "visits"), [(1, LEAST_PLAN_VISITS), (45, 4), (10_000, PLAN_VISITS)])
def test_a_budget_makes_fewer_visits(slowing, monkeypatch, budget_s, visits):
    slowing["all"] = 1
    monkeypatch.setattr(measuring.time, "monotonic", lambda: 10.0 * slowing["processes"] / 2)  # 10 s a visit
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    ratios = measure_plan(plan, b"", 1.0, np.random.default_rng(1), budget_s=budget_s).log_ratios
    assert {len(each) for each in ratios.values()} == {visits}


def test_a_process_is_new_answers_and_passes_errors_on():
    assert os.getpid() != in_new_process(os.getpid) != in_new_process(os.getpid)
    with pytest.raises(ZeroDivisionError):
        in_new_process(divmod, 1, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    code = "import os, time; open('pid.txt', 'w').write(str(os.getpid())); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from latency.rounds import in_new_process; in_new_process(exec, {code!r})"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    told = tmp_path / "pid.txt"
    wait_until(lambda: told.exists() and told.read_text())
    child = Path("/proc") / told.read_text()
    assert child.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not child.exists() or "\nState:\tZ" in (child / "status").read_text())


def wait_until(true, seconds=30):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)
