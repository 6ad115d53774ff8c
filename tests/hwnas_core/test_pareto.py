import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from hwnas.pareto import hypervolume, is_non_dominated, soft_front, spread_along
from spaces.errors import InputError

PATIENT = settings(deadline=None)  # a busy core is no failure
FEW_VALUES = st.integers(0, 3)  # on purpose: ties and duplicates
TABLES = st.integers(1, 4).flatmap(
    lambda m: arrays(int, st.tuples(st.integers(0, 12), st.just(m)), elements=FEW_VALUES)
)
PAIRS = st.integers(0, 14).flatmap(
    lambda n: st.tuples(*[arrays(float, n, elements=st.sampled_from([0.0, 1.0, 2.5, 3.0, 9.0, np.inf]))] * 2)
)


def by_definition(F):
    return [not any((g <= f).all() and (g < f).any() for g in F) for f in F]


def soft_by_the_sentence(costs, accuracies, J):
    """Sort by latency; stay if above the J-th best predicted accuracy among the faster ones; ties by accuracy."""
    kept = []
    for cost, accuracy in zip(costs, accuracies, strict=True):
        before = [
            other for c, other in zip(costs, accuracies, strict=True) if c < cost or (c == cost and other > accuracy)
        ]
        kept.append(len(before) < J or accuracy > sorted(before, reverse=True)[J - 1])
    return kept


@PATIENT
@given(TABLES)
def test_front_agrees_with_its_definition(F):
    assert is_non_dominated(F).tolist() == by_definition(F)


def test_front_with_infinities_agrees_with_its_definition():
    F = np.array([[0, np.inf], [np.inf, 0], [np.inf, np.inf], [0, np.inf], [-np.inf, 5], [1, 1]])
    assert is_non_dominated(F).tolist() == by_definition(F) == [False, True, False, False, True, True]


@pytest.mark.parametrize("m", [2, 3])
def test_front_agrees_with_pymoo(m):
    F = np.random.default_rng(m).integers(0, 60, size=(400, m)).astype(float)
    front = NonDominatedSorting().do(F, only_non_dominated_front=True)
    assert sorted(front) == np.flatnonzero(is_non_dominated(F)).tolist()


@PATIENT
@given(PAIRS, st.integers(1, 5))
def test_soft_front_agrees_with_its_sentence(pair, J):
    costs, accuracies = pair
    assert soft_front(costs, accuracies, J=J).tolist() == soft_by_the_sentence(costs, accuracies, J)


@PATIENT
@given(PAIRS, st.integers(1, 5))
def test_soft_front_keeps_what_fewer_than_j_others_dominate(pair, J):
    F = np.stack([pair[0], -pair[1]], axis=1)
    dominators = [sum((g <= f).all() and (g < f).any() for g in F) for f in F]
    assert soft_front(*pair, J=J).tolist() == [count < J for count in dominators]


@PATIENT
@given(PAIRS)
def test_soft_front_of_one_is_the_front(pair):
    F = np.stack([pair[0], -pair[1]], axis=1)
    assert soft_front(*pair, J=1).tolist() == is_non_dominated(F).tolist()


def test_soft_front_does_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    costs, accuracies = rng.integers(0, 20, 300), rng.integers(0, 20, 300)
    order = rng.permutation(300)
    np.testing.assert_array_equal(soft_front(costs, accuracies)[order], soft_front(costs[order], accuracies[order]))


def test_soft_front_on_random_points_keeps_what_theory_expects():
    # Of n points with independent ranks, the k-th cheapest stays with probability min(1, J / k).
    n, J = 20_000, 6
    rng = np.random.default_rng(3)
    kept = [soft_front(rng.random(n), rng.random(n), J=J).sum() for _ in range(20)]
    chances = np.minimum(1.0, J / np.arange(1, n + 1))
    std = np.sqrt((chances * (1 - chances)).sum() / len(kept))
    assert np.mean(kept) == pytest.approx(chances.sum(), abs=4 * std)


def test_soft_front_of_a_million_points_is_its_own_soft_front():
    rng = np.random.default_rng(1)
    costs, accuracies = rng.random(1_000_000), rng.random(1_000_000)
    kept = soft_front(costs, accuracies)
    assert soft_front(costs[kept], accuracies[kept]).all()  # dominators of a point that stays stay, so nothing changes
    assert soft_front(np.r_[costs[kept], 0.5], np.r_[accuracies[kept], 0.0])[-1] == (np.sum(costs[kept] <= 0.5) < 6)


@PATIENT
@given(arrays(int, st.tuples(st.integers(0, 10), st.just(2)), elements=st.integers(0, 6)))
def test_hypervolume_counts_unit_squares(F):
    corners = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2)
    covered = sum(any((f <= corner).all() for f in F) for corner in corners)
    assert hypervolume(F, [5, 5]) == pytest.approx(covered)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_agrees_with_pymoo(m):
    F = np.random.default_rng(m).random((60, m)) * 1.3
    expected = HV(ref_point=np.ones(m))(F)
    assert hypervolume(F, np.ones(m)) == pytest.approx(expected)
    assert moocore.hypervolume(F, ref=np.ones(m)) == pytest.approx(expected)


def test_spread_takes_the_best_of_each_part():
    costs = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    scores = np.array([1.0, 9.0, 2.0, 1.0, 1.0, 3.0, 3.0, 0.0, 8.0])
    # Parts of width 8/3: {0, 1, 2}, {3, 4, 5}, {6, 7, 8}.
    assert spread_along(costs, scores, 3).tolist() == [1, 5, 8]
    assert spread_along(costs, scores, 3, mask=scores < 9).tolist() == [2, 5, 8]


def test_spread_prefers_the_cheaper_then_the_earlier_of_equal_scores():
    assert spread_along([2.0, 1.0, 1.0, 10.0], [5.0, 5.0, 5.0, 0.0], 2).tolist() == [1, 3]
    assert spread_along([3.0, 3.0, 3.0], [1.0, 2.0, 2.0], 2).tolist() == [1, 2]


def test_spread_fills_open_places_and_an_outlier_takes_one():
    costs = np.r_[np.linspace(0, 1, 101), 1e6]
    picks = spread_along(costs, np.zeros(102), 11)
    assert len(set(picks)) == 11
    assert 101 in picks
    assert np.diff(costs[picks[:-1]]).max() <= 0.25


@PATIENT
@given(PAIRS, st.integers(0, 16), st.integers(0, 2**16))
def test_spread_gives_as_many_as_there_are(pair, k, seed):
    costs = np.minimum(pair[0], 20.0)
    mask = np.random.default_rng(seed).random(len(costs)) < 0.7
    picks = spread_along(costs, pair[1], k, mask=mask)
    assert len(set(picks)) == len(picks) == min(k, mask.sum())
    assert mask[picks].all()
    assert (np.diff(costs[picks]) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**16))
def test_spread_of_dense_candidates_has_the_best_of_every_part(k, seed):
    rng = np.random.default_rng(seed)
    costs, scores = np.r_[0.0, 1.0, rng.random(3000)], rng.random(3002)
    picks = spread_along(costs, scores, k)
    parts = np.minimum((costs * k).astype(int), k - 1)
    assert [scores[pick] for pick in picks] == [scores[parts == part].max() for part in range(k)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: is_non_dominated([1.0, 2.0]),
        lambda: is_non_dominated(np.empty((3, 0))),
        lambda: is_non_dominated([[1.0, np.nan]]),
        lambda: soft_front([1.0], [1.0, 2.0]),
        lambda: soft_front([np.nan], [1.0]),
        lambda: soft_front([1.0], [1.0], J=0),
        lambda: hypervolume([[1.0, 2.0]], [1.0]),
        lambda: hypervolume([[1.0, 2.0]], [np.nan, 1.0]),
        lambda: spread_along([np.inf], [1.0], 1),
        lambda: spread_along([1.0], [1.0], -1),
        lambda: spread_along([1.0], [1.0], 1, mask=np.array([True, False])),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(InputError):
        call()
