"""The feasible part of a space, against all rows of a small one."""

import itertools

import numpy as np
import pytest
from scipy.stats import chisquare

from hwnas import FeasibleSet, InfeasibleError, Limit
from latency import Device, DeviceCosts, LatencyTable
from spaces import Task, get_space
from spaces.additive import AdditiveCost

SMALL = get_space("proxyless@8,8x1,16x2s2,24x2s2,32")  # 3 * 6 * 7 * 6 * 7 = 5,292 rows
TASK = Task(16, 10)
DEVICE = Device("a cpu", 2, 1, "CPUExecutionProvider", "1.0", "Linux x86_64")


def small_table(relative_error: float = 0.05) -> LatencyTable:
    entries = np.random.default_rng(3).uniform(0.01, 0.2, size=(5, 7))
    entries[:, 6] = 0.0
    return LatencyTable(DEVICE, SMALL.name, TASK, 0.5, 0.5, 0.0, AdditiveCost(0.1, entries), relative_error, (), "")


STATED = np.hypot(0.05, 1.96 * 0.01)  # half of the interval of the logarithm, what another time makes included
COSTS = DeviceCosts(SMALL, TASK, small_table())


@pytest.fixture(scope="module")
def every_row() -> np.ndarray:
    rows = np.array(list(itertools.product(*[range(n) for n in SMALL.choices])))
    return rows[SMALL.is_valid(rows)]


def limits_at(every_row: np.ndarray, *quantiles: tuple[str, str, float]) -> tuple[Limit, ...]:
    """Limits at quantiles of what the space holds."""
    values = COSTS.of(every_row)
    found = []
    for name, op, quantile in quantiles:
        value = np.quantile(values["latency_ms_estimated" if name == "latency_ms" else name], quantile)
        found.append(Limit.parse(f"{name}{op}{value:.6g}"))
    return tuple(found)


CASES = [
    [("latency_ms", "<=", 0.5)],
    [("latency_ms", ">=", 0.6)],
    [("params", "<=", 0.3), ("flops", ">=", 0.1)],
    [("intensity", ">=", 0.7)],
    [("intensity", "<=", 0.3), ("latency_ms", "<=", 0.7)],
    [("peak_memory_bytes", "<=", 0.2)],
    [("weight_bytes", "<=", 0.4), ("peak_memory_bytes", "<=", 0.4), ("latency_ms", "<=", 0.8)],
]


@pytest.mark.parametrize("case", CASES)
def test_samples_are_exactly_the_rows_that_meet_all_limits(every_row, case):
    limits = limits_at(every_row, *case)
    feasible = FeasibleSet(SMALL, COSTS, limits)
    values = COSTS.of(every_row)
    meets = np.ones(len(every_row), dtype=bool)
    for limit in limits:
        worst = values[limit.name] if limit.name != "latency_ms" else None
        if worst is None:
            worst = values["latency_ms_estimated"] * np.exp(STATED if limit.op == "<=" else -STATED)
        meets &= limit.holds(worst)
    np.testing.assert_array_equal(feasible.holds(every_row), meets)
    allowed = {tuple(row) for row in every_row[meets]}
    drawn = {tuple(row) for row in feasible.sample(6000, np.random.default_rng(0))}
    assert drawn <= allowed
    assert len(drawn) > 0.4 * len(allowed)
    feasible.check(np.random.default_rng(0))


def test_samples_spread_evenly_along_latency(every_row):
    feasible = FeasibleSet(SMALL, COSTS, limits_at(every_row, ("latency_ms", "<=", 0.9)))
    latency = COSTS.of(feasible.sample(20_000, np.random.default_rng(0)))["latency_ms_estimated"]
    counts = np.histogram(latency, bins=8)[0][1:-1]  # the ends hold bins that no row reaches
    assert counts.min() > 0.6 * counts.max()
    uniform = COSTS.of(every_row[feasible.holds(every_row)])["latency_ms_estimated"]
    rows = np.histogram(uniform, bins=8)[0][1:-1]
    assert rows.min() < 0.3 * rows.max()


def test_distinct_networks_are_distinct_new_and_feasible(every_row):
    feasible = FeasibleSet(SMALL, COSTS, limits_at(every_row, ("latency_ms", "<=", 0.2)))
    rng = np.random.default_rng(1)
    first = feasible.distinct(100, rng)
    second = feasible.distinct(100, rng, exclude=first)
    assert len(first) == len(second) == 100
    keys = SMALL.canonical(np.concatenate([first, second]))
    assert len(np.unique(keys, axis=0)) == 200
    assert feasible.holds(second).all()
    few = FeasibleSet(SMALL, COSTS, limits_at(every_row, ("latency_ms", "<=", 0.005)))
    there_are = len(np.unique(SMALL.canonical(every_row[few.holds(every_row)]), axis=0))
    assert len(few.distinct(1000, rng)) == there_are


@pytest.mark.parametrize(
    ("limits", "how"),
    [
        (["latency_ms<=0.05"], "proved by the table"),
        (["params>=1G"], "proved by the table"),
        (["flops<=1"], "proved by the table"),
        (["intensity>=1000"], "proved by the table"),
        (["peak_memory_bytes<=10"], "none found"),
    ],
)
def test_limits_that_nothing_meets(limits, how):
    feasible = FeasibleSet(SMALL, COSTS, [Limit.parse(text) for text in limits])
    with pytest.raises(InfeasibleError, match=how) as caught:
        feasible.check(np.random.default_rng(0))
    assert caught.value.exit_code == 3
    assert f"the nearest is {SMALL.name}:" in str(caught.value)
    assert limits[0].split("<")[0].split(">")[0] in str(caught.value)


def test_two_limits_that_hold_alone_but_not_together(every_row):
    values = COSTS.of(every_row)
    params, flops = values["params"], values["flops"]
    low_flops = np.quantile(flops, 0.05)
    out_of_reach = params[flops <= low_flops].max() + 1
    limits = [Limit.parse(f"flops<={low_flops:.0f}"), Limit.parse(f"params>={out_of_reach:.0f}")]
    for limit in limits:
        FeasibleSet(SMALL, COSTS, [limit]).check(np.random.default_rng(0))
    with pytest.raises(InfeasibleError):
        FeasibleSet(SMALL, COSTS, limits).check(np.random.default_rng(0))


def test_an_estimate_between_proof_and_promise_is_not_called_proved(every_row):
    """The least estimate meets the limit, its interval does not: nothing is proved, and nothing passes."""
    least = COSTS.of(every_row)["latency_ms_estimated"].min()
    feasible = FeasibleSet(SMALL, COSTS, [Limit.parse(f"latency_ms<={least * 1.001:.6f}")])
    with pytest.raises(InfeasibleError, match="none found"):
        feasible.check(np.random.default_rng(0))


def test_the_nearest_network_is_the_nearest(every_row):
    feasible = FeasibleSet(SMALL, COSTS, [Limit.parse("flops<=1"), Limit.parse("params>=20k")])
    best = feasible.violation(every_row).min()
    found = feasible.violation(feasible.nearest(np.random.default_rng(0)))[0]
    assert found == pytest.approx(best, rel=0.02)


def test_without_limits_or_costs_rows_are_uniform():
    tiny = get_space("proxyless@8,8x1,16x1s2,24")
    rows = FeasibleSet(tiny).sample(9000, np.random.default_rng(0))
    counts = np.bincount(rows[:, 0] * 6 + rows[:, 1], minlength=18)
    assert chisquare(counts).pvalue > 1e-4


def test_limits_need_costs():
    with pytest.raises(ValueError, match="need costs"):
        FeasibleSet(SMALL, None, [Limit.parse("params<=1M")])


def test_no_rows_are_no_draw():
    """Nothing is looked for, so nothing can be missing: neither in a chain nor elsewhere."""
    cells = get_space("nasbench101")
    for space, costs in ((SMALL, COSTS), (cells, DeviceCosts(cells, TASK))):
        none = FeasibleSet(space, costs, [Limit("params", "<=", 1.0)]).sample(0, np.random.default_rng(0))
        assert none.shape == (0, len(space.choices))
