"""The feasible part of a space that is no chain, under a latency that is no sum over genes."""

from pathlib import Path

import numpy as np
import pytest

from hwnas import FeasibleSet, InfeasibleError, Limit
from latency import Device, DeviceCosts
from latency.model import learn_latency
from spaces import Task, get_space

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "my_space.py"
SPACE = get_space(f"{EXAMPLE}:MySpace")
TASK = Task(16, 10)


@pytest.fixture(scope="module")
def costs() -> DeviceCosts:
    device = Device("a cpu", 2, 1, "CPUExecutionProvider", "1.0", "Linux x86_64")
    rng = np.random.default_rng(0)
    rows = SPACE.sample(30, rng)
    ms = (0.1 + 1e-6 * SPACE.counts(rows, TASK)[0]) * np.exp(0.03 * rng.standard_normal(30))
    return DeviceCosts(SPACE, TASK, learn_latency(SPACE, TASK, device, 0.5, rows, ms, reference_now_ms=0.5))


def test_the_feasible_part_of_a_space_with_a_learned_latency(costs):
    rng = np.random.default_rng(4)
    assert costs.additive("latency_ms") is None
    assert costs.additive("flops") is None
    rows = SPACE.sample(1000, rng)
    values = costs.of(rows)
    low, high = costs.interval("latency_ms", rows)
    assert (low < values["latency_ms_estimated"]).all()
    assert (values["latency_ms_estimated"] < high).all()
    limits = [
        Limit.parse(f"latency_ms<={np.quantile(high, 0.3)}"),
        Limit.parse(f"intensity>={np.quantile(values['intensity'], 0.3)}"),
        Limit.parse(f"peak_memory_bytes<={np.quantile(values['peak_memory_bytes'], 0.9)}"),
    ]
    feasible = FeasibleSet(SPACE, costs, limits)
    feasible.check(rng)
    drawn = feasible.distinct(40, rng)
    assert len(drawn) == 40
    found = costs.of(drawn)
    assert (costs.interval("latency_ms", drawn)[1] <= limits[0].value * (1 + 1e-9)).all()
    assert (found["intensity"] >= limits[1].value).all()
    assert (found["peak_memory_bytes"] <= limits[2].value).all()


def test_a_limit_that_nothing_was_found_to_meet(costs):
    least = costs.of(SPACE.sample(2000, np.random.default_rng(0)))["latency_ms_estimated"].min()
    feasible = FeasibleSet(SPACE, costs, [Limit.parse(f"latency_ms<={least / 3}")])
    with pytest.raises(InfeasibleError, match=r"none found in .* the nearest is residual:0-"):
        feasible.check(np.random.default_rng(0))
