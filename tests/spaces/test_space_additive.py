"""Exact sampling under limits on sums, against brute force over all rows."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from spaces import Task, get_space
from spaces.additive import CHUNK, STRATA, AdditiveCost, AdditiveSampler, Interval, extremes

SMALL = get_space("proxyless@8,8x1,8x2s2,16x2s2,16")
FULL = get_space("proxyless")
INF = math.inf


@cache
def costs(name: str) -> tuple[AdditiveCost, AdditiveCost, AdditiveCost]:
    """Multiply-adds, parameters, and milliseconds that never sum to round numbers."""
    space, task = get_space(name), Task(224, 1000)
    pieces = space.fragments(task)
    flops = pieces.additive(lambda network: sum(layer.flops for layer in network))
    params = pieces.additive(lambda network: sum(layer.params for layer in network))
    noise = np.random.default_rng(0).random(flops.table.shape)
    noise[flops.table == 0] = 0
    return flops, params, AdditiveCost(0.3, 2e-9 * flops.table + 0.03 * noise)


@pytest.mark.parametrize("n", [0, 1, CHUNK, 2 * CHUNK + 3])
def test_a_cost_is_the_sum_of_its_entries(n):
    rows = FULL.sample(n, np.random.default_rng(9))
    for cost in costs("proxyless"):
        by_gene = [cost.table[gene][rows[:, gene]] for gene in range(22)]
        np.testing.assert_allclose(cost.of(rows), cost.constant + np.sum(by_gene, axis=0), rtol=1e-13)


def satisfied(rows, intervals) -> np.ndarray:
    """By definition, one row and one gene at a time."""
    good = []
    for row in rows.tolist():
        values = [i.cost.constant + math.fsum(i.cost.table[g, c] for g, c in enumerate(row)) for i in intervals]
        good.append(all(i.low <= value <= i.high for i, value in zip(intervals, values, strict=True)))
    return rows[good]


def between(cost, values, low, high) -> Interval:
    """An interval whose ends are quantiles, moved off every row's value so that rounding cannot decide."""
    ends = [e if math.isinf(e) else float(np.quantile(values, e)) * (1 + 1e-7) for e in (low, high)]
    return Interval(cost, *ends)


SCENARIOS = {
    "upper": [(2, -INF, 0.08)],
    "lower": [(0, 0.9, INF)],
    "both": [(2, 0.45, 0.55)],
    "two upper": [(0, -INF, 0.3), (1, -INF, 0.3)],
    "opposite": [(0, -INF, 0.5), (1, 0.5, INF)],
    "two bands": [(0, 0.3, 0.7), (2, 0.4, 0.8)],
    "three": [(0, -INF, 0.5), (1, 0.1, 0.6), (2, 0.05, INF)],
    "three bands": [(2, 0.2, 0.6), (1, 0.2, 0.6), (0, 0.2, 0.6)],
}


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_sampling_is_uniform_over_exactly_the_rows_that_satisfy(scenario, all_rows):
    rows = all_rows(SMALL)
    measures = costs(SMALL.name)
    intervals = [between(measures[c], measures[c].of(rows), low, high) for c, low, high in SCENARIOS[scenario]]
    expected = satisfied(rows, intervals)
    assert 30 < len(expected) < len(rows)
    drawn = AdditiveSampler(SMALL.allowed, intervals).sample(20 * len(expected), np.random.default_rng(1))
    index = {tuple(row): i for i, row in enumerate(expected.tolist())}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(expected))
    assert counts.sum() == 20 * len(expected)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "limits", [[(0, 7, 8)], [(0, -INF, 10), (1, 13, INF)], [(0, 9, 12), (1, 9, 13), (2, 8, 11)]], ids=len
)
def test_sampling_is_uniform_where_many_rows_cost_the_same(limits):
    """Costs of whole numbers: a total is reached in up to hundreds of ways, and those must be counted right."""
    rng = np.random.default_rng(9)
    tables = rng.integers(0, 4, (3, 6, 4)).astype(float)
    intervals = [Interval(AdditiveCost(0.0, tables[c]), low, high) for c, low, high in limits]
    expected = satisfied(np.array(list(product(range(4), repeat=6))), intervals)
    assert 100 < len(expected) < 3000
    drawn = AdditiveSampler(np.ones((6, 4), dtype=bool), intervals).sample(20 * len(expected), rng)
    index = {tuple(row): i for i, row in enumerate(expected.tolist())}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(expected))
    assert chisquare(counts).pvalue > 1e-3


def test_without_intervals_all_rows_are_equally_likely(all_rows):
    space = get_space("proxyless@8,8x1,8x2s2,16")
    rows = all_rows(space)
    drawn = AdditiveSampler(space.allowed, []).sample(100 * len(rows), np.random.default_rng(2))
    values, counts = np.unique(drawn, axis=0, return_counts=True)
    assert np.array_equal(values, rows)
    assert chisquare(counts).pvalue > 1e-3


@st.composite
def problems(draw):
    """A few genes, costs with ties or without, and limits at, just under or just over the cost of some row."""
    genes, width = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    allowed = rng.random((genes, width)) < 0.7
    allowed[np.arange(genes), rng.integers(0, width, genes)] = True
    rows = np.array(list(product(*(np.flatnonzero(row) for row in allowed))), dtype=np.int64)
    intervals = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["small integers", "large integers", "floats", "negative", "nothing", "tiny"]))
        table = {
            "small integers": lambda: rng.integers(0, 4, allowed.shape).astype(float),
            "large integers": lambda: rng.integers(0, 10**8, allowed.shape).astype(float),
            "floats": lambda: rng.random(allowed.shape) * 10.0 ** rng.integers(-3, 4),
            "negative": lambda: rng.normal(size=allowed.shape),
            "nothing": lambda: np.zeros(allowed.shape),
            "tiny": lambda: rng.random(allowed.shape) * 1e-9,
        }[kind]()
        table[~allowed] = np.nan  # never read
        cost = AdditiveCost(draw(st.sampled_from([0.0, 0.1, 12_345.6, -3.3])), table)
        values = np.sort(cost.of(rows))
        low, high = sorted(draw(st.tuples(*2 * [st.integers(0, len(rows) - 1)])))
        nudge = draw(st.sampled_from([0.0, 0.0, 1e-9, -1e-9]))
        ends = [(-INF, values[high]), (values[low], INF), (values[low], values[high]), (values[low], values[low])]
        low, high = draw(st.sampled_from(ends))
        intervals.append(Interval(cost, float(low + nudge), float(high + nudge)))
    return allowed, rows, intervals


@settings(max_examples=250)
@given(problems())
def test_empty_is_a_proof_and_nothing_starves(problem):
    allowed, rows, intervals = problem
    good = np.all([interval.holds(rows) for interval in intervals], axis=0)
    sampler = AdditiveSampler(allowed, intervals)
    if sampler.is_empty:
        assert not good.any()
    drawn = sampler.sample(60 * len(rows) if good.sum() > 1 else 3, np.random.default_rng(0))
    if good.sum() > 1:
        assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in rows[good].tolist()}
    else:
        assert drawn.tolist() == 3 * rows[good].tolist()
    if good.any():
        even = sampler.sample(5, np.random.default_rng(1), spread=True)
        assert len(even) == 5
        assert np.all([interval.holds(even) for interval in intervals])


def test_impossible_limits_are_found_out():
    flops, params, ms = costs("proxyless")
    (least, _), (most, _) = extremes(flops, FULL.allowed)
    for intervals in (
        [Interval(flops, high=least - 1)],
        [Interval(flops, low=most + 1)],
        [Interval(flops, low=least + 2, high=least + 1)],
        [Interval(ms), Interval(params, high=0), Interval(flops)],
        [Interval(flops, high=least * 1.05), Interval(params, low=extremes(params, FULL.allowed)[1][0])],
    ):
        sampler = AdditiveSampler(FULL.allowed, intervals)
        assert sampler.is_empty
        assert sampler.sample(3, np.random.default_rng(0)).shape == (0, 22)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_nothing_starves_at_the_ends_of_the_full_space(which):
    """Of 6.6e17 rows, the one at either end; then those within 0.01 %, 1 % of it."""
    cost, rng = costs("proxyless")[which], np.random.default_rng(3)
    (least, first), (most, last) = extremes(cost, FULL.allowed)
    for slack in (0.0, 1e-4, 1e-2):
        for interval in (Interval(cost, high=least * (1 + slack)), Interval(cost, low=most * (1 - slack))):
            drawn = AdditiveSampler(FULL.allowed, [interval]).sample(200, rng)
            assert len(drawn) == 200
            assert FULL.is_valid(drawn).all()
            assert interval.holds(drawn).all()
    for value, row in ((least, first), (most, last)):
        sampler = AdditiveSampler(FULL.allowed, [Interval(cost, value, value)])
        assert np.array_equal(cost.of(sampler.sample(3, rng)), 3 * [value])
        assert cost.of(row) == value


@pytest.mark.parametrize("intervals", [2, 3])
def test_nothing_starves_where_several_limits_are_tight(intervals):
    measures, rng = costs("proxyless")[:intervals], np.random.default_rng(4)
    ends = [extremes(cost, FULL.allowed) for cost in measures]
    for share in (0.06, 0.2, 0.5):
        tight = [
            Interval(c, high=low + share * (high - low))
            for c, ((low, _), (high, _)) in zip(measures, ends, strict=True)
        ]
        drawn = AdditiveSampler(FULL.allowed, tight).sample(100, rng)
        assert len(drawn) == 100
        assert FULL.is_valid(drawn).all()
        assert all(interval.holds(drawn).all() for interval in tight)
    largest = np.concatenate([row for _, (_, row) in ends])
    highest = [Interval(cost, low=float(cost.of(largest).min()) * 0.97) for cost in measures]
    assert len(AdditiveSampler(FULL.allowed, highest).sample(100, rng)) == 100


def test_rare_rows_are_as_rare_as_their_number(all_rows):
    """How many rows of the full space lie in a band: the sampler's frequencies against plain draws."""
    flops, rng = costs("proxyless")[0], np.random.default_rng(5)
    values = np.sort(flops.of(FULL.sample(100_000, rng)))
    band = Interval(flops, float(values[2000]), float(values[30_000]))
    drawn = np.sort(flops.of(AdditiveSampler(FULL.allowed, [band]).sample(28_000, rng)))
    edges = values[2000:30_001:2800]
    assert chisquare(np.histogram(drawn, edges)[0], np.full(10, 2800 * len(drawn) / 28_000)).pvalue > 1e-4


def test_spread_covers_the_cost_axis_evenly():
    """Where uniform draws leave the ends empty, all parts of the axis are filled alike (but for rounding)."""
    flops, rng = costs("proxyless")[0], np.random.default_rng(6)
    (least, _), (most, _) = extremes(flops, FULL.allowed)
    sampler = AdditiveSampler(FULL.allowed, [Interval(flops)])
    even = np.histogram(flops.of(sampler.sample(9600, rng, spread=True)), STRATA, (least, most))[0] / (9600 / STRATA)
    plain = np.histogram(flops.of(sampler.sample(9600, rng)), STRATA, (least, most))[0] / (9600 / STRATA)
    assert (plain == 0).sum() > 5
    assert plain.max() > 3
    assert even.sum() == pytest.approx(STRATA)
    assert 0.7 < even.min() <= even.max() < 1.4


def test_spread_keeps_to_its_intervals():
    flops, params, ms = costs("proxyless")
    low, high = 150e6, 250e6
    intervals = [Interval(flops, low, high), Interval(params, high=3.5e6), Interval(ms, high=2.5)]
    for count, least_share in ((1, 0.8), (2, 0.7), (3, 0.3)):  # the grid is coarser the more costs there are
        drawn = AdditiveSampler(FULL.allowed, intervals[:count]).sample(2000, np.random.default_rng(7), spread=True)
        assert len(drawn) == 2000
        assert all(interval.holds(drawn).all() for interval in intervals[:count])
        assert np.histogram(flops.of(drawn), 8, (low, high))[0].min() > least_share * 250


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4))
def test_extremes_by_brute_force(seed, genes, width):
    rng = np.random.default_rng(seed)
    allowed = rng.random((genes, width)) < 0.6
    allowed[np.arange(genes), rng.integers(0, width, genes)] = True
    table = np.where(allowed, rng.normal(size=allowed.shape), np.nan)
    cost = AdditiveCost(float(rng.normal()), table)
    rows = np.array(list(product(*(np.flatnonzero(row) for row in allowed))), dtype=np.int64)
    values = cost.of(rows)
    (least, first), (most, last) = extremes(cost, allowed)
    assert least == pytest.approx(values.min(), abs=1e-12)
    assert most == pytest.approx(values.max(), abs=1e-12)
    assert first.tolist() == [rows[values.argmin()].tolist()]
    assert last.tolist() == [rows[values.argmax()].tolist()]


def test_costs_add_and_scale():
    flops, params, _ = costs("proxyless")
    rows = FULL.sample(50, np.random.default_rng(8))
    np.testing.assert_allclose(
        (flops + params.scaled(40.0)).of(rows), flops.of(rows) + 40 * params.of(rows), rtol=1e-12
    )


def test_only_the_generator_decides_what_is_drawn():
    sampler = AdditiveSampler(FULL.allowed, [Interval(costs("proxyless")[0], high=200e6)])
    np.random.seed(1)  # noqa: NPY002  the state of others is the subject
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = sampler.sample(50, np.random.default_rng(7), spread=True)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(sampler.sample(50, np.random.default_rng(7), spread=True), first)
    assert sampler.sample(0, np.random.default_rng(7)).shape == (0, 22)
