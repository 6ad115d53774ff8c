"""What the benchmarks of latency conclude, on numbers whose truth is known."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

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
    share, factor = benchmark("latency_repeat").coverage(logs, np.full(logs.shape, stated_half * 0.02))
    assert share == pytest.approx(0.95 if stated_half == true_half else 0.683, abs=0.01)
    assert factor == pytest.approx(true_half / stated_half, rel=0.03)


def test_rows_of_other_spaces_stay(benchmark, tmp_path):
    write_some, path = benchmark("latency_common").write_some, tmp_path / "results" / "a.csv"
    write_some(path, [{"space": "a", "px": 32, "x": 1}, {"space": "a", "px": 96, "x": 2}], by=("space", "px"))
    write_some(path, [{"space": "b", "px": 32, "x": 3}], by=("space", "px"))
    write_some(path, [{"space": "a", "px": 32, "x": 4}], by=("space", "px"))
    with path.open() as file:
        found = sorted((row["space"], row["px"], row["x"]) for row in csv.DictReader(file))
    assert found == [("a", "32", "4"), ("a", "96", "2"), ("b", "32", "3")]
