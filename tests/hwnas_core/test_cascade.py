"""The two-stage cascade, the MLP of the ablation, tuning, and predictors as surrogates."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hwnas import FeasibleSet
from hwnas.predictors import (
    CascadePredictor,
    FittedPredictor,
    GCNPredictor,
    LinePredictor,
    MLPPredictor,
    Predictor,
    RidgePredictor,
    TunedPredictor,
    cross_validate,
    grid,
    tune,
)
from hwnas.predictors.mlp import flattened
from hwnas.predictors.surrogate_adapter import GraphSurrogate, graph_features
from latency import DeviceCosts
from spaces import Task, get_space
from spaces.errors import InputError
from spaces.graph import GraphBatch

TASK = Task(32, 10)


def cells(n, seed):
    space = get_space("nasbench101")
    return space, space.sample(n, np.random.default_rng(seed))


def blank(n):
    return GraphBatch(np.zeros((n, 1), np.int64), np.zeros((n, 1, 1), bool), np.zeros((n, 1, 0), np.float32), 1)


@dataclass(frozen=True)
class Says(Predictor, FittedPredictor):
    """Predicts one column of the features; remembers what it was fitted on."""

    column: int
    targets: tuple[float, ...] = ()

    def fit(self, graphs, features, targets, *, seed):
        return Says(self.column, tuple(targets))

    def predict(self, graphs, features):
        return features[:, self.column].copy(), np.full(len(features), 0.01)


def test_a_cascade_by_its_definition():
    # First column: the classifier's chance; second: what the regressor says.
    features = np.array([[0.9, 0.95], [0.5, 0.93], [0.49, 0.99], [0.1, 0.5], [0.0, 0.9], [1.0, 0.2]])
    targets = np.array([0.95, 0.92, 0.85, 0.80, 0.81, 0.93])
    fitted = CascadePredictor(Says(0), Says(1), 0.91).fit(blank(6), features, targets, seed=0)
    assert fitted.classifier.targets == (1, 1, 0, 0, 0, 1)
    assert fitted.regressor.targets == (0.95, 0.92, 0.93)
    assert fitted.passes(blank(6), features).tolist() == [True, True, False, False, False, True]
    mean, std = fitted.predict(blank(6), features)
    low = (0.85 + 0.80 + 0.81) / 3
    expected = [0.95, 0.93, low + 0.98 * (0.91 - low), low + 0.2 * (0.91 - low), low, 0.91]
    np.testing.assert_allclose(mean, expected)
    np.testing.assert_allclose(std, np.where(mean >= 0.91, 0.01, np.std([0.85, 0.80, 0.81], ddof=1)))
    assert fitted.predict(blank(0), features[:0])[0].shape == (0,)


def test_all_that_is_rejected_ranks_below_all_that_passes():
    rng = np.random.default_rng(0)
    features = rng.random((500, 2))
    fitted = CascadePredictor(Says(0), Says(1), 0.5).fit(blank(500), features, features[:, 1], seed=0)
    mean, _ = fitted.predict(blank(500), features)
    passed = fitted.passes(blank(500), features)
    assert mean[~passed].max() < 0.5 <= mean[passed].min()


@pytest.mark.parametrize("threshold", [-0.1, 0.05, 0.95, 1.0])
def test_a_cascade_needs_targets_on_both_sides(threshold):
    features = np.random.default_rng(1).random((11, 2))
    with pytest.raises(InputError, match="on either side"):
        CascadePredictor(Says(0), Says(1), threshold).fit(blank(11), features, np.linspace(0, 1, 11), seed=0)


def test_two_stages_of_gcns_find_who_fails():
    """Cells of two poolings or more fail by a wide margin; among the others the number of convolutions ranks."""
    space, rows = cells(360, 2)
    graphs = space.graphs(rows)
    kinds = np.stack([(graphs.operations == k).sum(axis=1) for k in range(graphs.n_operations)], axis=1)
    fails = kinds[:, 2] > 1
    targets = np.where(fails, 0.6, 0.92 + 0.01 * kinds[:, 0]) + np.random.default_rng(3).normal(0, 0.002, 360)
    assert 0.3 < fails.mean() < 0.7
    quick = {"epochs": 30, "learning_rate": 5e-3, "width": 24}
    cascade = CascadePredictor(
        replace(GCNPredictor.paper_nasbench101_classifier(172), **quick),
        replace(GCNPredictor.paper_nasbench101(172), **quick),
        0.91,
    )
    none = np.empty((360, 0))
    fitted = cascade.fit(graphs[:180], none[:180], targets[:180], seed=0)
    rest = slice(180, None)
    passed = fitted.passes(graphs[rest], none[rest])
    assert np.mean(passed == ~fails[rest]) > 0.95
    mean, _ = fitted.predict(graphs[rest], none[rest])
    both = passed & ~fails[rest]
    assert np.sqrt(np.mean((mean - targets[rest])[both] ** 2)) < 0.006
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict(graphs[rest], none[rest])[0], mean)


def test_flattened_cells_hold_the_cell():
    space, rows = cells(40, 4)
    graphs = space.graphs(rows)
    flat = flattened(graphs)
    nodes = graphs.operations.shape[1]
    assert flat.shape == (40, nodes * graphs.n_operations + nodes * (nodes - 1) // 2)
    for g in range(40):
        one_hot = flat[g, : nodes * graphs.n_operations].reshape(nodes, -1)
        assert np.where(one_hot.any(axis=1), one_hot.argmax(axis=1), -1).tolist() == graphs.operations[g].tolist()
        edges = iter(flat[g, nodes * graphs.n_operations :])
        for i in range(nodes):
            for j in range(i + 1, nodes):
                assert next(edges) == graphs.adjacency[g, i, j]


def test_the_mlp_is_layers_of_what_is_flattened():
    space, rows = cells(30, 5)
    graphs, none = space.graphs(rows), np.empty((30, 0))
    targets = np.linspace(0.9, 0.94, 30)
    fitted = replace(MLPPredictor.paper_nasbench101(172), network=replace(small_mlp(), epochs=3)).fit(
        graphs, none, targets, seed=0
    )
    network = fitted.network
    assert network.weights.layers == ()
    flat = flattened(graphs)
    std = np.where(flat.std(axis=0) > 0, flat.std(axis=0), 1.0)
    x = np.concatenate([np.ones((30, 1)), (flat - flat.mean(axis=0)) / std], axis=1)
    *hidden, (W, b) = [(w[0].numpy(), bias[0].numpy()) for w, bias in network.weights.heads]
    for weight, bias in hidden:
        x = np.maximum(x @ weight + bias, 0)
    np.testing.assert_allclose(fitted.predict(graphs, none)[0], 1 / (1 + np.exp(-(x @ W + b)[:, 0])), rtol=1e-5)


def small_mlp():
    network = MLPPredictor.paper_nasbench101(172).network
    assert network.heads == (144, 144, 144, 128)
    return replace(network, heads=(12, 12, 8))


def test_grids_hold_every_combination():
    found = grid(GCNPredictor(), width=(8, 16), dropout=(0.0, 0.1, 0.2))
    assert [(each.width, each.dropout) for each in found] == [(w, d) for w in (8, 16) for d in (0.0, 0.1, 0.2)]
    plain = GCNPredictor()
    assert all(replace(each, width=plain.width, dropout=plain.dropout) == plain for each in found)


def test_tuning_takes_the_least_cross_validated_error():
    rng = np.random.default_rng(6)
    features = rng.normal(size=(40, 3))
    targets = 2 * features[:, 1] + rng.normal(scale=0.1, size=40)
    candidates = [LinePredictor(0), LinePredictor(1), LinePredictor(2)]
    tuned = tune(candidates, blank(40), features, targets, splits=3, folds=4, seed=5)
    assert tuned.best == LinePredictor(1)
    assert [len(own) for own in tuned.qualities] == [3, 3, 3]
    assert min(q.rmse for q in tuned.qualities[0]) > max(q.rmse for q in tuned.qualities[1])
    # The same splits for all: a candidate that stands twice has the same qualities twice, and others elsewhere.
    twice = tune([RidgePredictor(), RidgePredictor()], blank(40), features, targets, splits=2, seed=1)
    assert twice.qualities[0] == twice.qualities[1]
    assert twice.qualities[0][0] != twice.qualities[0][1]
    (own,) = np.random.default_rng(9).integers(2**31, size=1)
    alone = tune([RidgePredictor()], blank(40), features, targets, splits=1, seed=9)
    assert alone.qualities[0][0] == cross_validate(RidgePredictor(), blank(40), features, targets, seed=int(own))
    for bad in ({"candidates": []}, {"splits": 0}):
        with pytest.raises(InputError, match="at least one"):
            tune(**{"candidates": candidates, **bad}, graphs=blank(40), features=features, targets=targets, seed=0)


def test_a_tuned_predictor_is_the_chosen_candidate_fitted_on_everything():
    rng = np.random.default_rng(6)
    features = rng.normal(size=(40, 3))
    targets = 2 * features[:, 1] + rng.normal(scale=0.1, size=40)
    candidates = LinePredictor(0), LinePredictor(1), LinePredictor(2)
    tuned = TunedPredictor(candidates).fit(blank(40), features, targets, seed=3)
    alone = LinePredictor(1).fit(blank(40), features, targets, seed=3)
    asked = blank(7), rng.normal(size=(7, 3))
    np.testing.assert_array_equal(tuned.predict(*asked), alone.predict(*asked))
    assert hash(TunedPredictor(grid(RidgePredictor()))) == hash(TunedPredictor((RidgePredictor(),)))
    with pytest.raises(InputError, match="at least 5"):
        TunedPredictor(candidates).fit(blank(4), features[:4], targets[:4], seed=3)


def test_what_tuning_could_not_try_is_told(caplog):
    features = np.random.default_rng(6).normal(size=(40, 3))
    tuned = tune([LinePredictor(7), LinePredictor(1)], blank(40), features, features[:, 1], seed=0)
    assert tuned.best == LinePredictor(1)
    (told,) = caplog.messages
    assert "LinePredictor(" in told
    assert "could not be cross-validated and is not chosen: " in told


class Diverges(Says):
    def fit(self, graphs, features, targets, *, seed):
        return self

    def predict(self, graphs, features):
        return np.full(len(graphs), np.nan), np.ones(len(graphs))


class Refuses(Says):
    def fit(self, graphs, features, targets, *, seed):
        raise InputError("too few above the threshold")


def test_candidates_that_fail_lose():
    rng = np.random.default_rng(6)
    features = rng.normal(size=(40, 2))
    arguments = (blank(40), features, features[:, 1] + rng.normal(scale=0.1, size=40))
    bad = [Diverges(0), Refuses(0)]
    tuned = tune([*bad, LinePredictor(1)], *arguments, seed=5)
    assert tuned.best == LinePredictor(1)
    assert [len(own) for own in tuned.qualities] == [2, 0, 2]
    with pytest.raises(InputError, match=r"none of 2 candidates could be cross-validated.*too few above"):
        tune(bad, *arguments, seed=5)
    with pytest.raises(InputError, match=r"none of 1 candidates.*not finite"):
        tune(bad[:1], *arguments, seed=5)


def test_a_predictor_as_a_surrogate_reads_graphs_and_costs(monkeypatch):
    space, rows = cells(50, 7)
    feasible = FeasibleSet(space, DeviceCosts(space, TASK))
    flops, params = space.counts(rows, TASK)
    np.testing.assert_allclose(graph_features(feasible, rows), np.log(np.stack([params, flops], axis=1)))
    assert graph_features(FeasibleSet(space), rows).shape == (50, 0)
    values = np.log(flops) + np.random.default_rng(8).normal(size=50)
    features = np.log(np.stack([params, flops], axis=1))
    expected = RidgePredictor().fit(space.graphs(rows), features, values, seed=0).predict(space.graphs(rows), features)
    monkeypatch.setattr("hwnas.predictors.surrogate_adapter.ROWS_AT_ONCE", 17)
    fitted = GraphSurrogate(RidgePredictor()).fit(rows, values, feasible=feasible, seed=0)
    np.testing.assert_allclose(fitted.predict(rows), expected)


class Free(DeviceCosts):
    """Costs of a space in which a row of nothing but 0 is a network without layers."""

    def one(self, name, population):
        return super().one(name, population) * (population > 0).any(axis=1)


def test_a_network_that_costs_nothing_is_described_too():
    space = get_space("nasbench_macro")
    rows = np.concatenate([np.zeros((1, 8), dtype=np.int64), space.sample(30, np.random.default_rng(0))])
    feasible = FeasibleSet(space, Free(space, TASK))
    assert graph_features(feasible, rows)[0].tolist() == [0.0, 0.0]
    fitted = GraphSurrogate(RidgePredictor()).fit(rows, np.linspace(0.5, 0.9, 31), feasible=feasible, seed=0)
    assert np.isfinite(fitted.predict(rows)).all()
