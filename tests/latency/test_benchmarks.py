"""What the benchmarks of latency conclude, on numbers whose truth is known."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from latency import Timing
from latency.measuring import PLAN_VISITS
from spaces import Task, get_space

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("latency_"):
            del sys.modules[name]


@pytest.mark.parametrize(("true_half", "stated_half"), [(1.96, 1.96), (1.96, 1.0)])
def test_coverage_is_what_was_stated_where_intervals_are_right(benchmark, true_half, stated_half):
    """Processes differ by a normal deviate of 2 %: right intervals hold 95 %, narrow ones 68 %."""
    logs = 0.02 * np.random.default_rng(0).standard_normal((3, 4000))
    ((share, factor),) = benchmark("latency_repeat").coverage(logs, np.full(logs.shape, stated_half * 0.02))
    assert share == pytest.approx(0.95 if stated_half == true_half else 0.683, abs=0.01)
    assert factor == pytest.approx(true_half / stated_half, rel=0.03)


def test_disturbed_measurements_are_held_against_calm_ones_alone(benchmark):
    """They are 5 % off, with intervals that know of it; those of calm ones need not hold them."""
    rng, calm = np.random.default_rng(0), np.array([True, False, True, False])
    logs = 0.01 * rng.standard_normal((4, 4000)) + np.where(calm, 0.0, 0.05)[:, None]
    halves = np.full(logs.shape, 1.96 * 0.01)
    (calm_share, _), (disturbed_share, factor) = benchmark("latency_repeat").coverage(logs, halves, calm)
    assert calm_share == pytest.approx(0.95, abs=0.01)
    assert disturbed_share < 0.1
    # The 95 % quantile of |5 + x| standard deviations, x normal with a variance of 1 + 1/2, enlarged as it is judged.
    assert factor == pytest.approx((5 / np.sqrt(1.5) + 1.645) / 1.96, rel=0.03)


def test_rows_of_other_spaces_stay(benchmark, tmp_path):
    write_some, path = benchmark("latency_common").write_some, tmp_path / "results" / "a.csv"
    write_some(path, [{"space": "a", "px": 32, "x": 1}, {"space": "a", "px": 96, "x": 2}], by=("space", "px"))
    write_some(path, [{"space": "b", "px": 32, "x": 3}], by=("space", "px"))
    write_some(path, [{"space": "a", "px": 32, "x": 4}], by=("space", "px"))
    with path.open() as file:
        found = sorted((row["space"], row["px"], row["x"]) for row in csv.DictReader(file))
    assert found == [("a", "32", "4"), ("a", "96", "2"), ("b", "32", "3")]


def kept_line(number, tag, scatter, **about):
    rng = np.random.default_rng(number)
    row = get_space("proxyless@w0.25").sample(1, rng)[0].tolist()
    of_turns = 0.1 * number + scatter * rng.standard_normal(PLAN_VISITS)
    log_ratios = np.repeat(of_turns, 3 if tag == "test" else 1)
    readings = [[ratio, 1.0, 0.0] for ratio in log_ratios.tolist()]
    place = {"space": "proxyless@w0.25", "res": 32, "classes": 10, "device": "a", "busy": 0, "stored": 1.0}
    return {**place, "tag": tag, "row": row, "readings": readings, **about}


def test_the_truths_own_error_is_that_of_the_networks_that_judge_as_their_turns_scatter(benchmark):
    kept = [kept_line(i, "test" if i < 400 else "train", 0.03 if i < 400 else 0.3) for i in range(500)]
    assert benchmark("latency_learned").Measured.of(kept).noise == pytest.approx(0.03 / np.sqrt(PLAN_VISITS), rel=0.05)


def test_devices_and_loads_are_learned_apart_and_keep_their_names(benchmark, monkeypatch, tmp_path):
    learned = benchmark("latency_learned")
    monkeypatch.setattr(learned, "RESULTS", tmp_path)
    monkeypatch.setattr(
        learned, "judge", lambda data: [{"device": data.device, "busy": data.busy, "n": len(data.rows)}]
    )
    monkeypatch.setattr(learned, "show", lambda found: None)
    monkeypatch.setattr(learned, "averaged", lambda found, by: [{"space": "s", "resolution": 32, **found[0]}])
    kept = [kept_line(i, ("test", "train")[i % 5 == 0], 0.01, device="ab"[i % 2], busy=i % 3) for i in range(60)]
    learned.conclude(kept)
    with (tmp_path / "latency_learned.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["device"], row["busy"], row["n"]) for row in rows) == [
        (device, str(busy), "10") for device in "ab" for busy in range(3)
    ]


def test_every_measurement_of_every_network_has_its_row(benchmark):
    space, task = get_space("proxyless@w0.25"), Task(8, 10, 1)
    rows = space.sample(3, np.random.default_rng(0))
    timings = [
        [Timing(10 * number + i, (i, i + 1), 0.02, 1.0, 1.0, 1.0, 6, 96, 0.1, 2.0, 3.0) for i in range(3)]
        for number in range(2)
    ]
    lines = benchmark("latency_repeat").described_lines(space, task, rows, timings)
    found = {(line["network"], line["measurement"]): line["latency_ms"] for line in lines}
    assert found == {(space.format(rows[i]), number): 10 * number + i for i in range(3) for number in range(2)}
    assert {line["reference_now"] for line in lines} == {1.5}
