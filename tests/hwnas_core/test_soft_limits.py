"""The reward under limits: accuracy where all hold, less for each violation, by whatever unit and in any order."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import FeasibleSet, Limit, SoftLimit, reward
from hwnas.soft_limits import kept_by_estimates, kept_share, reward_by_estimates
from hwnas.strategies import EPNAS
from latency import DeviceCosts
from spaces import InputError, Task, get_space

NAMES = ("params", "flops", "intensity", "latency_ms", "weight_bytes")
amounts = st.floats(0.01, 1e9)
limits = st.lists(
    st.builds(
        SoftLimit,
        st.builds(Limit, st.sampled_from(NAMES), st.sampled_from(["<=", ">="]), amounts),
        st.floats(0.01, 0.99),
    ),
    max_size=5,
)
costs = st.fixed_dictionaries(dict.fromkeys(NAMES, amounts))


@given(limits, costs, st.floats(0, 1))
def test_the_reward_is_the_accuracy_exactly_where_all_limits_hold(soft, values, accuracy):
    holds = all(bool(each.limit.holds(values[each.limit.name])) for each in soft)
    (found,) = reward([accuracy], {name: [value] for name, value in values.items()}, soft=soft)
    assert found == accuracy if holds else found <= accuracy
    assert found >= 0


@pytest.mark.parametrize(
    ("text", "value", "share"),
    [
        ("params<=1M@0.5", 1e6, 1.0),
        ("params<=1M@0.5", 2e6, 0.5),  # a violation of 100 %
        ("params<=1M@0.5", 3e6, 0.25),  # and again for each further 100 %
        ("params<=1M@0.8", 1.5e6, 0.8**0.5),
        ("intensity>=10@0.5", 5.0, 0.5),
        ("intensity>=10@0.5", 20.0, 1.0),
        ("intensity>=10@0.5", 2.5, 0.5**3),
        ("intensity>=10", 0.0, 0.0),
        ("bytes<=1M@0.5", 2e6, 0.5),
    ],
)
def test_what_is_kept_at_known_violations(text, value, share):
    soft = SoftLimit.parse(text)
    assert kept_share([soft], {soft.limit.name: [value]}) == pytest.approx([share])
    assert SoftLimit.parse(str(soft)) == soft


@given(limits, costs, st.sampled_from(NAMES), st.floats(1, 1e3))
def test_the_reward_falls_with_each_violation(soft, values, name, factor):
    """More of a quantity that has upper limits alone is never better; nor is less of one with lower limits alone."""
    ops = {each.limit.op for each in soft if each.limit.name == name}
    if len(ops) == 2:
        return
    worse = {**values, name: values[name] * factor if ops == {"<="} else values[name] / factor}
    now, then = (kept_share(soft, {k: [v] for k, v in each.items()})[0] for each in (values, worse))
    assert then <= now * (1 + 1e-12)
    violated = [each for each in soft if each.limit.name == name and each.limit.violation(worse[name]) > 1e-6]
    if ops and factor > 1.01 and violated and now > 1e-200 and np.isfinite(violated[0].limit.violation(worse[name])):
        assert then < now


@given(limits, costs, st.sampled_from(NAMES), st.floats(1e-3, 1e3))
def test_units_do_not_matter(soft, values, name, factor):
    scaled = [
        SoftLimit(Limit(name, each.limit.op, each.limit.value * factor), each.share)
        if each.limit.name == name
        else each
        for each in soft
    ]
    here = kept_share(soft, {k: [v] for k, v in values.items()})
    there = kept_share(scaled, {k: [v * factor if k == name else v] for k, v in values.items()})
    assert there == pytest.approx(here, rel=1e-6, abs=1e-12)


@given(limits.filter(lambda soft: len(soft) <= 4), costs)
def test_the_order_of_limits_does_not_matter(soft, values):
    arrays = {name: [value] for name, value in values.items()}
    shares = [kept_share(order, arrays)[0] for order in itertools.permutations(soft)]
    assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-9, abs=1e-300)


def test_a_missed_hard_limit_makes_void_whatever_the_accuracy():
    hard, soft = [Limit.parse("flops<=2M"), Limit.parse("intensity>=3")], [SoftLimit.parse("params<=10@0.5")]
    found = reward(
        [0.9, 0.9, 0.9, 0.9],
        {"flops": [2e6, 2.1e6, 1e6, 1e6], "intensity": [3, 5, 2.9, 4], "params": [10, 1, 1, 20]},
        soft=soft,
        hard=hard,
    )
    assert found.tolist() == [0.9, 0.0, 0.0, 0.45]


def test_of_a_population_the_exact_counts_are_taken():
    space = get_space("nasbench_macro")
    rows, task = space.sample(20, np.random.default_rng(0)), Task(32, 10)
    flops, params = space.counts(rows, task)
    soft = [SoftLimit.parse("params<=1M@0.7"), SoftLimit.parse("flops<=40M@0.5")]
    expected = [
        0.7 ** max(0, p / 1e6 - 1) * 0.5 ** max(0, f / 40e6 - 1)
        for p, f in zip(params.tolist(), flops.tolist(), strict=True)
    ]
    assert kept_by_estimates(soft, DeviceCosts(space, task), rows) == pytest.approx(expected)
    assert 0 < min(expected) < max(expected)
    assert FeasibleSet(space).costs is None


def test_what_epnas_weighs_is_the_reward():
    """Of exact counts the same numbers as of values by name; of an interval the far end of each limit."""
    space, task = get_space("nasbench_macro"), Task(32, 10)
    rows, costs = space.sample(30, np.random.default_rng(0)), DeviceCosts(space, task)
    accuracy = np.linspace(-0.1, 0.9, 30)
    soft = [SoftLimit.parse(text) for text in ("params<=1M@0.7", "flops>=40M@0.5", "bytes<=5M")]
    strategy = EPNAS(soft=soft)
    strategy.start(FeasibleSet(space, costs), 0)
    expected = reward(np.maximum(accuracy, 0), costs.of(rows), soft=soft)
    assert strategy.worth(accuracy, rows) == pytest.approx(expected, rel=1e-12)
    assert len(set(expected.tolist())) > 20

    class Interval(DeviceCosts):
        def interval(self, name, population):
            return np.full(len(population), 2.0), np.full(len(population), 4.0)

    soft = [SoftLimit.parse("latency_ms<=2@0.5"), SoftLimit.parse("latency_ms>=4@0.5")]  # both missed by 100 %
    found = reward_by_estimates(np.full(3, 0.8), soft, FeasibleSet(space, Interval(space, task)), rows[:3])
    assert found == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("text", ["params<=0", "params>=0@0.3"])
def test_a_soft_limit_of_0_is_refused(text):
    with pytest.raises(
        InputError, match=r"missed by shares of its value, which must be above 0, got params.=0"
    ) as error:
        SoftLimit.parse(text)
    assert "--limit" in error.value.hint


@pytest.mark.parametrize("text", ["params<=1M@0", "params<=1M@1", "params<=1M@half", "params<=1M@nan", "size<=3@0.5"])
def test_malformed_soft_limits_are_refused(text):
    with pytest.raises(InputError):
        SoftLimit.parse(text)


def test_a_quantity_that_is_not_known_is_named():
    with pytest.raises(InputError, match=r"params<=1000000@0\.5 needs params"):
        kept_share([SoftLimit.parse("params<=1M")], {"flops": [1.0]})
