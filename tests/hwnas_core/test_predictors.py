from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest

from hwnas.belief import NormalBelief
from hwnas.predictors import (
    FittedPredictor,
    LinePredictor,
    Predictor,
    RidgePredictor,
    TreesPredictor,
    choose_predictor,
    cross_validate,
    quality,
)
from hwnas.predictors.baselines import pair_counts
from spaces.errors import InputError
from spaces.graph import GraphBatch

BASELINES = [RidgePredictor(), TreesPredictor(trees=50), LinePredictor(0)]


def chains(n, rng, nodes=8, kinds=3):
    """Paths with a one-hot stage for each half, and the number of nodes of each kind in each half."""
    operations = rng.integers(-1, kinds, (n, nodes))
    stage = np.repeat(np.eye(2, dtype=np.float32), nodes // 2, axis=0)
    path = np.eye(nodes, k=1, dtype=bool)
    return GraphBatch(
        operations, np.broadcast_to(path, (n, nodes, nodes)), np.broadcast_to(stage, (n, nodes, 2)), kinds
    )


def additive(graphs, noise, rng):
    """Accuracies that are sums over (operation, half), with noise; log flops that know only part of it."""
    gain = np.array([[0.1, 0.6], [0.5, 0.2], [1.0, -0.4]])
    half = np.repeat([0, 1], graphs.operations.shape[1] // 2)
    parts = np.where(graphs.operations >= 0, gain[graphs.operations, half], 0.0).sum(axis=1)
    flops = np.log1p((graphs.operations + 1).sum(axis=1, dtype=np.float64))
    return 90 + parts + rng.normal(scale=noise, size=len(graphs)), flops[:, None]


def test_pair_counts_are_counts():
    graphs = chains(30, np.random.default_rng(0))
    counts = pair_counts(graphs).reshape(30, 3, 3)
    for g in range(30):
        for kind in range(3):
            own = graphs.operations[g] == kind
            assert counts[g, kind].tolist() == [own.sum(), own[:4].sum(), own[4:].sum()]


def test_ridge_recovers_a_sum_over_pairs_and_its_noise():
    rng = np.random.default_rng(1)
    graphs = chains(500, rng)
    targets, features = additive(graphs, 0.3, rng)
    model = RidgePredictor().fit(graphs[:300], features[:300], targets[:300], seed=0)
    truth, _ = additive(graphs, 0.0, rng)
    mean, std = model.predict(graphs[300:], features[300:])
    assert np.abs(mean - truth[300:]).max() < 0.3
    assert std == pytest.approx(np.full(200, 0.3), rel=0.12)


def test_line_is_the_least_squares_line():
    rng = np.random.default_rng(2)
    graphs, features = chains(40, rng), rng.normal(size=(40, 3))
    targets = 3 * features[:, 1] + rng.normal(size=40)
    slope, intercept = np.polyfit(features[:, 1], targets, 1)
    mean, std = LinePredictor(1).fit(graphs, features, targets, seed=0).predict(graphs, features)
    np.testing.assert_allclose(mean, intercept + slope * features[:, 1])
    np.testing.assert_allclose(std, np.sqrt(((targets - mean) ** 2).sum() / 38))
    falling, _ = LinePredictor(1).fit(graphs, features, -targets, seed=0).predict(graphs, features)
    np.testing.assert_allclose(falling, -targets.mean())  # more flops never count against a network


@pytest.mark.parametrize("predictor", BASELINES, ids=lambda each: type(each).__name__)
def test_baselines_are_honest_about_noise(predictor):
    rng = np.random.default_rng(3)
    graphs = chains(700, rng)
    targets, features = additive(graphs, 0.3, rng)
    model = predictor.fit(graphs[:100], features[:100], targets[:100], seed=0)
    found = quality(NormalBelief(*model.predict(graphs[100:], features[100:])), targets[100:])
    assert 0.9 <= found.coverage <= 0.99
    assert found.kendall_tau > 0.2


@pytest.mark.parametrize("predictor", BASELINES, ids=lambda each: type(each).__name__)
def test_one_seed_gives_one_baseline(predictor):
    rng = np.random.default_rng(4)
    graphs = chains(30, rng)
    targets, features = additive(graphs, 0.3, rng)
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the global state is what is tested
    first, second = (predictor.fit(graphs, features, targets, seed=5).predict(graphs, features) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert predictor.fit(graphs, features, targets, seed=5).predict(graphs[:0], features[:0])[0].shape == (0,)


@pytest.mark.parametrize("predictor", BASELINES, ids=lambda each: type(each).__name__)
def test_baselines_name_bad_input(predictor):
    rng = np.random.default_rng(5)
    graphs = chains(10, rng)
    targets, features = additive(graphs, 0.3, rng)
    model = predictor.fit(graphs, features, targets, seed=0)
    for call in (
        lambda: predictor.fit(graphs, features[1:], targets, seed=0),
        lambda: predictor.fit(graphs, features, targets[1:], seed=0),
        lambda: predictor.fit(graphs, features * np.inf, targets, seed=0),
        lambda: predictor.fit(graphs, features, targets * np.nan, seed=0),
        lambda: predictor.fit(graphs[:3], features[:3], targets[:3], seed=0),
        lambda: model.predict(graphs, features[:, :0]),
    ):
        with pytest.raises(InputError):
            call()


def test_quality_by_definition():
    rng = np.random.default_rng(6)
    truth, mean = rng.random(40), rng.random(40)
    std = rng.random(40) * 0.3
    found = quality(NormalBelief(mean, std), truth)
    agree = [np.sign((mean[i] - mean[j]) * (truth[i] - truth[j])) for i, j in combinations(range(40), 2)]
    ranks = [np.argsort(np.argsort(each)) for each in (mean, truth)]
    assert found.kendall_tau == pytest.approx(np.mean(agree))
    assert found.spearman == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert found.rmse == pytest.approx(np.sqrt(((mean - truth) ** 2).sum() / 40))
    assert (
        found.coverage == sum(m - 1.96 * s <= t <= m + 1.96 * s for m, s, t in zip(mean, std, truth, strict=True)) / 40
    )
    assert (
        quality(NormalBelief(np.ones(40), std), truth).kendall_tau
        == quality(NormalBelief(np.ones(40), std), truth).spearman
        == 0.0
    )


@dataclass(frozen=True)
class Memory(Predictor, FittedPredictor):
    """Knows the targets that it was fitted on, by the first feature, and says `unknown` of all others."""

    known: tuple[tuple[float, float], ...] = ()
    unknown: float = 0.0

    def fit(self, graphs, features, targets, *, seed):
        return Memory(tuple(zip(features[:, 0], targets, strict=True)), self.unknown)

    def predict(self, graphs, features):
        known = dict(self.known)
        return np.array([known.get(x, self.unknown) for x in features[:, 0]]), np.ones(len(features))


@dataclass(frozen=True)
class Oracle(Memory):
    """Says the first feature."""

    def fit(self, graphs, features, targets, *, seed):
        return self

    def predict(self, graphs, features):
        return features[:, 0], np.ones(len(features))


@pytest.mark.parametrize("folds", [2, 5, 23])
def test_cross_validation_never_shows_what_it_asks(folds):
    graphs = chains(23, np.random.default_rng(7))
    names = np.arange(23.0)[:, None]
    targets = np.linspace(5, 9, 23)
    found = cross_validate(Memory(), graphs, names, targets, folds=folds, seed=0)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(targets**2)))
    assert found.coverage == 0.0
    assert cross_validate(
        Oracle(), graphs, targets[:, None], targets, folds=folds, seed=0
    ).kendall_tau == pytest.approx(1)


@pytest.mark.parametrize("folds", [1, 24])
def test_impossible_folds_are_named(folds):
    graphs = chains(23, np.random.default_rng(8))
    with pytest.raises(InputError, match="folds"):
        cross_validate(RidgePredictor(), graphs, np.ones((23, 1)), np.arange(23.0), folds=folds, seed=0)


def test_a_gcn_that_ranks_well_stays():
    rng = np.random.default_rng(9)
    graphs = chains(60, rng)
    targets, flops = additive(graphs, 0.3, rng)
    choice = choose_predictor(Oracle(), graphs, np.c_[targets, flops], targets, flops_column=1, seed=0)
    assert (choice.name, choice.predictor, choice.warning) == ("gcn", Oracle(), None)
    assert set(choice.qualities) == {"gcn", "flops"}
    assert isinstance(choice.fitted, Oracle)


@dataclass(frozen=True)
class Folded(Oracle):
    """Says the first feature, and remembers that it was told the second column of features as left out."""

    kept: tuple[float, ...] = ()

    def fit(self, graphs, features, targets, *, seed):
        return Folded(kept=tuple(features[:, 1]))

    def left_out(self):
        return np.array(self.kept), np.full(len(self.kept), 0.5)


def test_folds_that_a_fit_left_out_are_its_cross_validation():
    rng = np.random.default_rng(12)
    graphs = chains(60, rng)
    targets, flops = additive(graphs, 0.3, rng)
    said = targets + rng.normal(scale=0.5, size=60)
    features = np.c_[targets, said, flops]
    choice = choose_predictor(Folded(), graphs, features, targets, flops_column=2, seed=0)
    assert choice.qualities["gcn"] == quality(NormalBelief(said, np.full(60, 0.5)), targets)  # not the perfect Oracle's
    backwards = np.c_[targets, -said, flops]
    choice = choose_predictor(Folded(), graphs, backwards, targets, flops_column=2, seed=0)
    assert choice.qualities["gcn"].spearman < 0
    assert choice.name != "gcn"
    mean, _ = choice.fitted.predict(graphs, backwards)
    np.testing.assert_array_equal(
        mean, choice.predictor.fit(graphs, backwards, targets, seed=0).predict(graphs, backwards)[0]
    )


def test_a_gcn_that_ranks_worse_than_flops_is_replaced_with_a_warning():
    rng = np.random.default_rng(10)
    graphs = chains(60, rng)
    targets, flops = additive(graphs, 0.1, rng)
    choice = choose_predictor(Memory(), graphs, flops, targets, flops_column=0, seed=0)
    assert choice.name == "ridge"  # the truth is a sum over pairs
    assert set(choice.qualities) == {"gcn", "flops", "ridge", "trees"}
    assert choice.predictor == RidgePredictor()
    assert choice.warning is not None
    assert "ridge" in choice.warning
    noise = rng.random(60)[:, None]
    choice = choose_predictor(Memory(), graphs, noise, 80 + noise[:, 0] ** 3, flops_column=0, seed=0)
    assert choice.name == "flops"
    assert choice.flops_spearman == pytest.approx(1)
    assert choice.predictor == LinePredictor(0)
