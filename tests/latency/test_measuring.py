"""How the visits of a plan lie in time and in processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latency import Device, calibration_of, fit_latency_model, measure, measuring, plan_latency_model
from latency.drift import Reading, at_stored_speed
from latency.measuring import (
    LEAST_PLAN_VISITS,
    PLAN_VISITS,
    PlanTimes,
    measure_plan,
    network_name,
    visit_in_processes,
)
from latency.reference import reference_model
from latency.rounds import ROUNDS_A_VISIT, Rounds, in_new_process, new_processes, rounds_of
from spaces import Task, get_space

SPACE, TASK = get_space("proxyless@8,8x1,16x2s2,32"), Task(16, 10)
ROOT = Path(__file__).resolve().parents[2]


def test_groups_are_visited_in_processes_of_their_own_in_random_order(monkeypatch):
    """What a process has run before makes networks faster."""
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    asked = []
    monkeypatch.setattr(measuring, "new_processes", lambda: nullcontext(lambda _, part, *__: asked.append(part) or {}))
    rng = np.random.default_rng(0)
    for _ in range(2):
        visit_in_processes(plan, b"", rng)
    orders = [
        [plan.groups.index(group) for part in visit for group in part.groups] for visit in np.split(np.array(asked), 2)
    ]
    assert {len(part.groups) for part in asked} == {1}
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(plan.groups)))
    assert orders[0] != orders[1]


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
    monkeypatch.setattr(measuring, "new_processes", lambda: nullcontext(in_process))
    return state


def test_drift_moves_no_network_against_the_others(slowing):
    """Measured one after another they would be 10 % apart; so every network is off alike."""
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    slowing["all"] = PLAN_VISITS * sum(rounds_of(group) * (len(group) + 1) for group in plan.groups)
    times = measure_plan(plan, b"", 1.0, np.random.default_rng(1))
    ratios = times.log_ratios
    assert {len(visits) for visits in ratios.values()} == {PLAN_VISITS}
    assert slowing["processes"] == PLAN_VISITS * len(plan.groups)
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
    monkeypatch.setattr(measuring, "new_processes", lambda: nullcontext(lambda fn, *args: fn(*args)))
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    groups = len(plan.groups)
    times = measure_plan(plan, b"", 1.0, np.random.default_rng(1))
    number = np.arange(1, PLAN_VISITS * groups + 1).reshape(PLAN_VISITS, groups)
    wanted = np.median(np.quantile(1 + 0.5 * number / number[-1, -1], 0.25, axis=1))
    assert times.reference_now_ms == pytest.approx(wanted)


def test_how_far_slopes_may_be_wrong_is_known_of_every_plan():
    """The root mean square over its networks, of whose visits some show more of their slopes than others."""
    rng = np.random.default_rng(0)
    now = np.exp(0.2 * rng.standard_normal(PLAN_VISITS))
    visits = [{"seen": Reading(0.1 * np.log(ms), ms, 0.0), "still": Reading(1.0, 1.0, 0.0)} for ms in now.tolist()]
    alone = [at_stored_speed([visit[name] for visit in visits], 1.0).slope_deviation for name in visits[0]]
    assert alone[0] < 0.9 * alone[1]
    assert PlanTimes.of(visits, 1.0).slope_deviation == pytest.approx(np.sqrt(np.mean(np.square(alone))))


@pytest.mark.parametrize("name", ["proxyless@8,8x1,16x2s2,32", "pnas@1x4,b1"])
def test_models_say_how_the_machine_was_and_how_far_slopes_may_be_wrong(slowing, name):
    slowing["all"] = 1e9
    space = get_space(name)
    plan = plan_latency_model(space, TASK, calibration_of(space, TASK, np.random.default_rng(0)))
    times = measure_plan(plan, b"", 1.0, np.random.default_rng(1), budget_s=0.0)
    moved = replace(times, reference_now_ms=1.3, slope_deviation=0.2)
    calm, far = (fit_latency_model(space, plan, Device.here(), 1.0, each) for each in (times, moved))
    assert (far.reference_now_ms, far.slope_deviation) == (1.3, 0.2)
    between = far.stated_error**2 - calm.stated_error**2
    assert between == pytest.approx((1.96 * 0.2 * np.log(1.3)) ** 2)


@pytest.mark.parametrize(("budget_s", "visits"), [(1, LEAST_PLAN_VISITS), (35, 3), (10_000, PLAN_VISITS)])
def test_a_budget_makes_fewer_visits(slowing, monkeypatch, budget_s, visits):
    slowing["all"] = 1
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, np.random.default_rng(0)))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: 10.0 * slowing["processes"] / len(plan.groups))  # a visit
    ratios = measure_plan(plan, b"", 1.0, np.random.default_rng(1), budget_s=budget_s).log_ratios
    assert {len(each) for each in ratios.values()} == {visits}


def test_what_is_measured_goes_through_processes_and_back():
    """Models, files, plans and raw times between real processes; few, and of the smallest networks."""
    rng, model = np.random.default_rng(0), reference_model(TASK)
    (timing,) = measure([model], model, 1.0, rng=rng, processes=3, most_processes=3, visits=1)
    assert (timing.processes, timing.rounds) == (3, 3 * ROUNDS_A_VISIT)
    assert timing.latency_ms_interval[0] < 1.0 < timing.latency_ms_interval[1]
    plan = plan_latency_model(SPACE, TASK, calibration_of(SPACE, TASK, rng))
    few = replace(plan, groups=(plan.groups[0][:2], plan.groups[-1]))
    visit = visit_in_processes(few, model, rng)
    assert set(visit) == {network_name(network) for group in few.groups for network in group}
    assert all(np.isfinite(reading).all() and reading.reference_ms > 0 for reading in visit.values())


def test_a_process_is_new_answers_and_passes_errors_on():
    assert os.getpid() != in_new_process(os.getpid) != in_new_process(os.getpid)
    with pytest.raises(ZeroDivisionError):
        in_new_process(divmod, 1, 0)
    with new_processes() as run:
        assert len({os.getpid(), run(os.getpid), run(os.getpid)}) == 3
        assert run(exec, "import builtins; builtins.left = 1") is None
        assert run(eval, "hasattr(__import__('builtins'), 'left')") is False
        with pytest.raises(ZeroDivisionError):
            run(divmod, 1, 0)
        with pytest.raises(BrokenProcessPool):
            run(os._exit, 3)
        assert run(divmod, 7, 2) == (3, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are not forked")
def test_processes_are_forks_of_one_that_is_not_this_and_needs_no_second():
    with new_processes() as run:
        first, *others = [run(os.getppid) for _ in range(3)]
    assert set(others) == {first} != {os.getpid()}
    with new_processes() as run:
        assert run(os.getppid) != first


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("runs", ["in_new_process(", "with new_processes() as run: run("])
def test_a_process_ends_with_the_one_that_started_it(tmp_path, runs):
    code = "import os, time; open('pid.txt', 'w').write(str(os.getpid())); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from latency.rounds import in_new_process, new_processes\n{runs}exec, {code!r})"],
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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere interrupts are sent otherwise")
@pytest.mark.parametrize("runs", ["in_new_process(", "with new_processes() as run: run("])
@pytest.mark.parametrize(
    ("handler", "delays", "ends"),
    [("default_int_handler", np.linspace(0.02, 1.2, 6), "stopped\n"), ("SIG_IGN", (0.02, 0.3, 1.2), "done\n")],
)
def test_an_interrupt_is_told_by_the_one_that_started_them_alone(runs, handler, delays, ends):
    """As by Ctrl-C, which every process of the terminal gets, at whatever moment: also while one loads."""
    code = f"""
import signal, time
from latency.rounds import in_new_process, new_processes
signal.signal(signal.SIGINT, signal.{handler})  # what is started in the background of a script ignores it
print("begun", flush=True)
try:
    for _ in range(3):
        {runs}time.sleep, 1.0)
    print("done")
except KeyboardInterrupt:
    print("stopped")
"""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for delay in delays:
        started = subprocess.Popen([sys.executable, "-c", code], env=env, **how)
        assert started.stdout.readline() == "begun\n"
        time.sleep(delay)
        os.killpg(started.pid, signal.SIGINT)
        assert started.communicate(timeout=60) == (ends, "")


def wait_until(true, seconds=30):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)
