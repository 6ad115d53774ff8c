import tracemalloc

import numpy as np
import pytest

from hwnas import uncertain_front
from hwnas.belief import NormalBelief
from hwnas.pareto import hypervolume, is_non_dominated
from hwnas.uncertain_front import (
    best_gains,
    expected_gain,
    hypervolume_interval,
    probability_non_dominated,
)
from spaces import InputError


def scene(n, k, m, seed=0):
    rng = np.random.default_rng(seed)
    candidates = rng.uniform(0.5, 0.9, n), rng.uniform(0.0, 0.1, n), rng.random((n, m))
    known = rng.uniform(0.4, 0.9, k), rng.random((k, m)).round(1)  # some costs are equal
    return candidates, {
        "accuracies": known[0], "known_costs": known[1], "floor": 0.5, "reference": np.full(m, 0.9)
    }  # fmt: skip


def volume(accuracies, costs, floor, reference):
    return hypervolume(np.concatenate([-accuracies[:, None], costs], axis=1), np.append(-floor, reference))


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("k", [0, 1, 12])
def test_an_exact_candidate_gains_what_hypervolumes_differ_by(m, k):
    (mean, _, costs), known = scene(30, k, m)
    found = expected_gain(NormalBelief(mean, np.zeros(30)), costs, **known)
    accuracies, known_costs, floor, reference = known.values()
    before = volume(accuracies, known_costs, floor, reference)
    for i in range(30):
        after = volume(np.append(accuracies, mean[i]), np.concatenate([known_costs, costs[[i]]]), floor, reference)
        assert found[i] == pytest.approx(after - before, abs=1e-9)


@pytest.mark.parametrize("m", [1, 2])
def test_an_uncertain_candidate_gains_the_mean_over_its_accuracies(m):
    (mean, std, costs), known = scene(5, 8, m, seed=1)
    found = expected_gain(NormalBelief(mean, std), costs, **known)
    draws = np.random.default_rng(0).standard_normal(40_000)
    for i in range(5):
        drawn = mean[i] + std[i] * draws
        known_ones = NormalBelief(drawn, np.zeros(len(drawn)))
        exact = expected_gain(known_ones, np.repeat(costs[[i]], len(drawn), axis=0), **known)
        assert found[i] == pytest.approx(exact.mean(), abs=4 * exact.std() / len(draws) ** 0.5 + 1e-9)


def test_the_batch_is_that_of_looking_at_all_candidates():
    for m in (1, 2):
        (mean, std, costs), known = scene(900, 10, m, seed=2)
        accuracies, known_costs = known["accuracies"], known["known_costs"]
        expected = []
        for _ in range(6):
            belief = NormalBelief(mean, std)
            gains = expected_gain(belief, costs, **known | {"accuracies": accuracies, "known_costs": known_costs})
            gains[expected] = -1
            expected.append(int(np.argmax(gains)))
            accuracies = np.append(accuracies, mean[expected[-1]])
            known_costs = np.concatenate([known_costs, costs[[expected[-1]]]])
        assert best_gains(6, NormalBelief(mean, std), costs, **known).tolist() == expected
    assert len(best_gains(6, NormalBelief(mean[:2], std[:2]), costs[:2], **known)) == 2


@pytest.mark.parametrize("exact_costs", [True, False])
def test_probabilities_of_the_front_are_those_of_draws(exact_costs):
    rng = np.random.default_rng(0)
    mean, std, cost = rng.uniform(0.8, 0.9, 12), rng.uniform(0, 0.03, 12), rng.uniform(1, 3, 12)
    std[:3] = 0
    cost[4] = cost[5]
    cost_std = np.zeros(12) if exact_costs else rng.uniform(0.01, 0.5, 12)
    draws = 20_000
    on_front = np.zeros(12)
    for _ in range(draws):
        on_front += is_non_dominated(np.stack([-rng.normal(mean, std), rng.normal(cost, cost_std)], axis=1))
    assert probability_non_dominated(mean, std, cost, cost_std) == pytest.approx(on_front / draws, abs=0.02)


def test_exact_networks_are_on_the_front_or_not():
    rng = np.random.default_rng(0)
    mean, cost = rng.random(40).round(1), rng.random(40).round(1)  # with equal ones
    expected = is_non_dominated(np.stack([-mean, cost], axis=1))
    assert (probability_non_dominated(mean, np.zeros(40), cost) == expected).all()


@pytest.mark.parametrize("m", [1, 2, 3])
def test_parts_make_the_whole(monkeypatch, m):
    (mean, std, costs), known = scene(40, 15, m, seed=3)
    belief, cost_std = NormalBelief(mean, std), np.full(40, 0.1)
    whole = expected_gain(belief, costs, **known)
    likely = probability_non_dominated(mean, std, costs[:, 0], cost_std)
    monkeypatch.setattr(uncertain_front, "CHUNK_VALUES", 50)
    monkeypatch.setattr(uncertain_front, "OTHERS_AT_ONCE", 7)
    assert expected_gain(belief, costs, **known) == pytest.approx(whole, abs=1e-12)
    assert probability_non_dominated(mean, std, costs[:, 0], cost_std) == pytest.approx(likely, abs=1e-12)
    assert len(best_gains(3, belief, costs, **known)) == 3


def test_memory_is_bounded():
    rng = np.random.default_rng(0)
    costs = rng.random((100, 3))
    known = {"accuracies": 0.5 + costs.sum(axis=1) / 10, "known_costs": costs}  # all of them on the front
    candidates = NormalBelief(np.full(8, 0.7), np.full(8, 0.1))
    tracemalloc.start()
    expected_gain(candidates, rng.random((8, 3)), **known, floor=0.4, reference=np.full(3, 2.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6  # 101 levels on a grid of 101 x 101 x 101 cells are 832 MB


def test_the_interval_of_a_hypervolume_holds_95_percent():
    mean, std, costs = np.array([0.7, 0.8]), np.array([0.02, 0.0]), np.array([[0.2], [0.6]])
    low, high = hypervolume_interval(
        mean, std, costs, floor=0.5, reference=[1.0], rng=np.random.default_rng(0), draws=8000
    )
    exact = 0.4 * (mean[0] - 0.5 + 1.959964 * std[0] * np.array([-1, 1])) + 0.4 * 0.3
    assert (low, high) == pytest.approx(exact, abs=6e-4)


def test_what_does_not_go_together_is_refused():
    (mean, std, costs), known = scene(5, 3, 2)
    with pytest.raises(InputError, match="one cost for each of 2"):
        expected_gain(NormalBelief(mean, std), costs[:, :1], **known)
    with pytest.raises(InputError, match="finite"):
        expected_gain(NormalBelief(mean * np.nan, std), costs, **known)
    with pytest.raises(InputError, match="finite"):
        probability_non_dominated(mean, -std, costs[:, 0])
