import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.belief import NormalBelief
from hwnas.predictors import GCNPredictor, LinePredictor, RidgePredictor, TreesPredictor, quality
from hwnas.predictors.gcn import Weights, as_tensors, bidirectional_layer, drop, forward
from spaces.errors import InputError
from spaces.graph import GraphBatch

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SMALL = GCNPredictor(layers=2, width=8, heads=(8,), epochs=4, dropout=0.1, features=True)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_graphs(n, rng, nodes=7, kinds=4, attributes=2):
    """DAGs of 3 to `nodes` nodes, absent ones anywhere, with edges at absent nodes that must not matter."""
    operations = rng.integers(0, kinds, (n, nodes))
    for row in operations:
        row[rng.permutation(nodes)[: rng.integers(0, nodes - 2)]] = -1
    adjacency = np.triu(rng.random((n, nodes, nodes)) < 0.4, k=1)
    return GraphBatch(operations, adjacency, rng.random((n, nodes, attributes), dtype=np.float32), kinds)


def permuted(graphs, rng):
    rows = np.arange(len(graphs))[:, None]
    order = rng.permuted(np.tile(np.arange(graphs.operations.shape[1]), (len(graphs), 1)), axis=1)
    adjacency = graphs.adjacency[rows[:, :, None], order[:, :, None], order[:, None, :]]
    return replace(
        graphs,
        operations=graphs.operations[rows, order],
        adjacency=adjacency,
        attributes=graphs.attributes[rows, order],
    )


def padded(graphs, extra):
    n, nodes = graphs.operations.shape
    grow = ((0, 0), (0, extra))
    adjacency = np.ones((n, nodes + extra, nodes + extra), dtype=bool)  # edges at absent nodes are noise
    adjacency[:, :nodes, :nodes] = graphs.adjacency
    return GraphBatch(
        np.pad(graphs.operations, grow, constant_values=-1),
        adjacency,
        np.pad(graphs.attributes, (*grow, (0, 0)), constant_values=7.0),
        graphs.n_operations,
    )


def sample(n, seed, k=2):
    rng = np.random.default_rng(seed)
    graphs = random_graphs(n, rng)
    features = rng.normal(size=(n, k))
    return graphs, features, 90 + rng.normal(size=n) + (graphs.operations == 1).sum(axis=1)


def layer_by_hand(V, adjacency, present, W_plus, W_minus):
    """One graph, node by node: the mean of W v over the node and its neighbours, both ways."""
    out = np.zeros((len(V), W_plus.shape[1]))
    for i in np.flatnonzero(present):
        after = [i] + [j for j in range(len(V)) if adjacency[i, j] and present[j]]
        before = [i] + [j for j in range(len(V)) if adjacency[j, i] and present[j]]
        forwards = np.mean([V[j] @ W_plus for j in after], axis=0)
        backwards = np.mean([V[j] @ W_minus for j in before], axis=0)
        out[i] = (np.maximum(forwards, 0) + np.maximum(backwards, 0)) / 2
    return out


def test_layer_equals_a_loop_over_nodes():
    rng = np.random.default_rng(0)
    graphs = random_graphs(6, rng)
    nodes, neighbours, _ = as_tensors(graphs)
    W = torch.from_numpy(rng.normal(size=(3, nodes.shape[-1], 10)).astype(np.float32))
    out = bidirectional_layer(nodes.expand(3, -1, -1, -1), neighbours.expand(3, -1, -1, -1, -1), W)
    for member in range(3):
        for g in range(6):
            V = np.zeros((7, 6))
            for i in np.flatnonzero(graphs.operations[g] >= 0):
                V[i, graphs.operations[g, i]] = 1
                V[i, 4:] = graphs.attributes[g, i]
            expected = layer_by_hand(
                V, graphs.adjacency[g], graphs.operations[g] >= 0, W[member, :, :5].numpy(), W[member, :, 5:].numpy()
            )
            np.testing.assert_allclose(out[member, g].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_network_equals_its_layers_by_hand():
    rng = np.random.default_rng(1)
    graphs, features = random_graphs(5, rng), torch.from_numpy(rng.normal(size=(5, 2)).astype(np.float32))
    weights = Weights.initial((6, 8, 8), 2, (4, 3), 1, torch.Generator().manual_seed(0))
    inputs = [each[None] for each in (*as_tensors(graphs), features)]
    out = forward(weights, inputs, 0.0, None)[0]
    W1, W2, hidden, hidden_bias, second, second_bias, output, output_bias = (each[0].numpy() for each in weights.all())
    for g in range(5):
        present = graphs.operations[g] >= 0
        V = as_tensors(graphs)[0][g].numpy()
        for W in (W1, W2):
            V = layer_by_hand(V, graphs.adjacency[g], present, W[:, :8], W[:, 8:])
        x = np.maximum(np.r_[V[present].mean(axis=0), features[g].numpy()] @ hidden + hidden_bias[0], 0)
        x = np.maximum(x @ second + second_bias[0], 0)
        assert out[g].item() == pytest.approx(1 / (1 + np.exp(-(x @ output + output_bias[0])[0])), rel=1e-5)


def test_members_do_not_mix():
    rng = np.random.default_rng(2)
    graphs, features = random_graphs(6, rng), torch.zeros(6, 0)
    weights = Weights.initial((6, 8), 0, (4,), 3, torch.Generator().manual_seed(0))
    inputs = [each.reshape(3, 2, *each.shape[1:]) for each in (*as_tensors(graphs), features)]
    together = forward(weights, inputs, 0.0, None)
    for m, own in enumerate(weights.apart()):
        alone = forward(own, [each[m : m + 1] for each in inputs], 0.0, None)
        torch.testing.assert_close(together[m : m + 1], alone)


def test_each_member_never_sees_its_fold():
    # Targets swapped inside one fold leave the member that never saw it as it was, and change the four others.
    graphs, features, targets = sample(10, 3)
    base = SMALL.fit(graphs, features, targets, seed=0).predict_members(graphs, features)
    unchanged = []
    for other in range(1, 10):
        swapped = targets.copy()
        swapped[[0, other]] = targets[[other, 0]]
        members = SMALL.fit(graphs, features, swapped, seed=0).predict_members(graphs, features)
        unchanged.append(int((np.abs(members - base).max(axis=1) < 1e-4).sum()))
    assert sorted(unchanged) == [0] * 8 + [1]


def test_every_other_row_is_seen_in_turn():
    folds = torch.arange(13) % 5  # 3, 3, 3, 2 and 2 rows: a pass has 10
    held_out = folds == torch.arange(5)[:, None]
    generator = torch.Generator().manual_seed(0)
    passes = [torch.cat(list(SMALL._batches(held_out, generator)), dim=1) for _ in range(40)]
    assert all(each.shape == (5, 10) and len(set(row.tolist())) == 10 for each in passes for row in each)
    for member in range(5):
        seen = {row for each in passes for row in each[member].tolist()}
        assert seen == set(range(13)) - set(np.flatnonzero(folds == member))


def test_residuals_are_those_of_the_unseen_fold():
    graphs, features, targets = sample(40, 4)
    members_alone = replace(SMALL, members=2, epochs=40).fit(graphs, features, targets, seed=1)
    errors = (members_alone.predict_members(graphs, features) - targets) ** 2
    # Half of the entries are out of fold; whichever they are, the mean lies between those of the best and the worst.
    low, high = np.sqrt(errors.min(axis=0).mean()), np.sqrt(errors.max(axis=0).mean())
    assert low <= members_alone.residual_std <= high
    mean, std = members_alone.predict(graphs, features)
    members = members_alone.predict_members(graphs, features)
    np.testing.assert_allclose(mean, members.mean(axis=0))
    np.testing.assert_allclose(std**2, members.var(axis=0, ddof=1) + members_alone.residual_std**2)


def test_a_single_network_sees_everything_and_its_twin_tells_the_error():
    graphs, features, targets = sample(40, 11)
    alone = replace(SMALL, members=1, epochs=20)
    model = alone.fit(graphs, features, targets, seed=0)
    for row in range(0, 40, 5):  # whichever row is another, the network is another
        swapped = targets.copy()
        swapped[[row, row + 1]] = targets[[row + 1, row]]
        other = alone.fit(graphs, features, swapped, seed=0)
        assert not torch.equal(other.weights.heads[-1][0], model.weights.heads[-1][0])
    mean, std = model.predict(graphs, features)
    np.testing.assert_array_equal(std, model.residual_std)
    # What it never saw it predicts worse than what it was trained on, and as badly as is said.
    rest, rest_features, truth = sample(400, 12)
    ahead, _ = model.predict(rest, rest_features)
    assert np.sqrt(np.mean((mean - targets) ** 2)) < model.residual_std
    assert model.residual_std == pytest.approx(np.sqrt(np.mean((ahead - truth) ** 2)), rel=0.5)
    assert model.left_out() is None


def test_left_out_is_what_the_member_says_that_never_saw_it():
    graphs, features, targets = sample(40, 13)
    model = SMALL.fit(graphs, features, targets, seed=0)
    mean, std = model.left_out()
    members = model.predict_members(graphs, features)
    assert (np.abs(members - mean).min(axis=0) < 1e-5).all()
    # One std for each fold, that of the errors of the other four.
    errors, folds = (mean - targets) ** 2, np.unique(std, return_inverse=True)[1]
    assert sorted(np.bincount(folds)) == [8] * 5
    for fold in range(5):
        np.testing.assert_allclose(std[folds == fold] ** 2, errors[folds != fold].mean())
    assert model.residual_std == pytest.approx(np.sqrt(errors.mean()))


def test_what_is_not_read_does_not_matter():
    graphs, features, targets = sample(20, 14)
    bare = replace(SMALL, attributes=False, features=False)
    model = bare.fit(graphs, features, targets, seed=0)
    other = replace(graphs, attributes=graphs.attributes + 1)
    np.testing.assert_array_equal(model.predict(other, features * 7), model.predict(graphs, features))
    again = bare.fit(other, features * 7, targets, seed=0)
    np.testing.assert_array_equal(again.predict(graphs, features), model.predict(graphs, features))


def test_a_span_holds_whatever_the_targets_were():
    graphs, features, targets = sample(20, 15)
    fractions = (targets - targets.min()) / np.ptp(targets) * 0.05 + 0.9
    wide = replace(SMALL, span=(0.1, 1.0), epochs=1, learning_rate=1e3)
    mean, _ = wide.fit(graphs, features, fractions, seed=0).predict(graphs, features)
    assert mean.min() < 0.9 or mean.max() > 0.95
    assert ((mean >= 0.1) & (mean <= 1.0)).all()
    with pytest.raises(InputError, match="span"):
        wide.fit(graphs, features, targets, seed=0)


def test_cross_entropy_learns_probabilities():
    # Operation 1 present or not decides with 90 % and 20 %: that is what is to be said.
    rng = np.random.default_rng(16)
    graphs = random_graphs(600, rng)
    chance = np.where((graphs.operations == 1).any(axis=1), 0.9, 0.2)
    labels = (rng.random(600) < chance).astype(float)
    classifier = GCNPredictor(members=1, epochs=30, span=(0, 1), loss="cross-entropy", attributes=False, features=False)
    mean, _ = classifier.fit(graphs, np.empty((600, 0)), labels, seed=0).predict(graphs, np.empty((600, 0)))
    for p in (0.9, 0.2):
        assert mean[chance == p].mean() == pytest.approx(labels[chance == p].mean(), abs=0.08)


def test_settings_of_the_paper():
    for n, width in ((43, 48), (86, 72), (129, 96), (172, 144), (334, 210), (860, 320)):
        assert GCNPredictor.paper_nasbench101(n).width == width
    regressor, classifier = GCNPredictor.paper_nasbench101(172), GCNPredictor.paper_nasbench101_classifier(172)
    assert (regressor.layers, regressor.heads, regressor.epochs, regressor.batch) == (3, (128,), 300, 10)
    assert (regressor.learning_rate, classifier.learning_rate) == (1e-4, 2e-4)
    graphs, features, _ = sample(12, 17)
    model = replace(GCNPredictor.paper_proxyless(), epochs=1).fit(graphs, features, np.linspace(0.6, 0.7, 12), seed=0)
    shapes = [tuple(each.shape[1:]) for each in model.weights.layers]
    assert shapes == [(4, 192), *[(96, 192)] * 17]  # four one-hot operations, and nothing else is read
    assert [tuple(weight.shape[1:]) for weight, _ in model.weights.heads] == [(96, 512), (512, 128), (128, 1)]


@pytest.fixture(scope="module")
def fitted():
    graphs, features, targets = sample(30, 5)
    return SMALL.fit(graphs, features, targets, seed=0), graphs, features, targets


def test_the_numbering_of_nodes_does_not_matter(fitted):
    model, graphs, features, _ = fitted
    again = model.predict(permuted(graphs, np.random.default_rng(0)), features)
    np.testing.assert_allclose(again, model.predict(graphs, features), rtol=1e-5)


def test_padding_does_not_matter(fitted):
    model, graphs, features, _ = fitted
    np.testing.assert_allclose(model.predict(padded(graphs, 3), features), model.predict(graphs, features), rtol=1e-5)


def test_batches_do_not_matter(fitted):
    model, graphs, features, _ = fitted
    rows = np.tile(np.arange(30), 20)
    many = model.predict(graphs[rows], features[rows])
    np.testing.assert_allclose(many, np.tile(model.predict(graphs, features), 20), rtol=1e-5)


def test_the_direction_of_edges_and_the_features_matter(fitted):
    model, graphs, features, _ = fitted
    mean, _ = model.predict(graphs, features)
    reversed_edges = replace(graphs, adjacency=graphs.adjacency.transpose(0, 2, 1))
    assert np.abs(model.predict(reversed_edges, features)[0] - mean).max() > 1e-4
    assert np.abs(model.predict(graphs, features + 1)[0] - mean).max() > 1e-4


def test_units_of_features_and_targets_do_not_matter(fitted):
    model, graphs, features, targets = fitted
    mean, std = model.predict(graphs, features)
    other = SMALL.fit(graphs, features * 1000 - 5, targets / 100, seed=0)
    other_mean, other_std = other.predict(graphs, features * 1000 - 5)
    np.testing.assert_allclose(other_mean * 100, mean, rtol=1e-3)
    np.testing.assert_allclose(other_std * 100, std, rtol=2e-2)


def test_predictions_stay_in_the_range_with_its_margin(fitted):
    model, graphs, features, targets = fitted
    mean, _ = model.predict(graphs, features * 1e6)
    margin = 0.25 * np.ptp(targets)
    assert (mean >= targets.min() - margin - 1e-6).all()
    assert (mean <= targets.max() + margin + 1e-6).all()


def test_only_the_seed_decides(fitted):
    model, graphs, features, targets = fitted
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002  the global state is what is tested
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = SMALL.fit(graphs, features, targets, seed=0).predict(graphs, features)
    other = SMALL.fit(graphs, features, targets, seed=1).predict(graphs, features)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    np.testing.assert_array_equal(again, model.predict(graphs, features))
    assert np.abs(other[0] - again[0]).max() > 1e-4


def test_a_fitted_model_crosses_processes(fitted):
    model, graphs, features, _ = fitted
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict(graphs, features), model.predict(graphs, features))


def test_no_features_no_attributes_and_equal_targets():
    graphs, _, _ = sample(12, 6)
    bare = replace(graphs, attributes=graphs.attributes[:, :, :0])
    mean, std = SMALL.fit(bare, np.empty((12, 0)), np.full(12, 0.75), seed=0).predict(bare, np.empty((12, 0)))
    assert np.abs(mean - 0.75).max() < 0.2
    assert np.isfinite(std).all()
    none, _ = SMALL.fit(bare, np.empty((12, 0)), np.arange(12.0), seed=0).predict(bare[:0], np.empty((0, 0)))
    assert none.shape == (0,)


def test_dropout_keeps_the_expectation():
    x = torch.ones(400, 400)
    dropped = drop(x, 0.25, torch.Generator().manual_seed(0))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=4 * np.sqrt(0.25 / 0.75) / 400)
    assert drop(x, 0.25, None) is x


def test_edges_are_learned_where_counts_say_nothing():
    # Every graph is a path over the same 6 operations; the target is the place of operation 0.
    rng = np.random.default_rng(8)
    operations = rng.permuted(np.tile(np.arange(6), (400, 1)), axis=1)
    graphs = GraphBatch(
        operations,
        np.broadcast_to(np.eye(6, k=1, dtype=bool), (400, 6, 6)),
        np.zeros((400, 6, 0), dtype=np.float32),
        6,
    )
    # How many of operations 1 and 2 stand right behind operation 0 is seen by edges only.
    place = (operations == 0).argmax(axis=1)
    following = np.where(place < 5, operations[np.arange(400), np.minimum(place + 1, 5)], -1)
    targets, none = np.isin(following, [1, 2]).astype(float), np.empty((400, 0))
    gcn = replace(GCNPredictor(), epochs=40).fit(graphs[:200], none[:200], targets[:200], seed=0)
    ridge = RidgePredictor().fit(graphs[:200], none[:200], targets[:200], seed=0)
    rest = slice(200, None)
    assert quality(NormalBelief(*gcn.predict(graphs[rest], none[rest])), targets[rest]).spearman > 0.7
    assert quality(NormalBelief(*ridge.predict(graphs[rest], none[rest])), targets[rest]).spearman < 0.2


@pytest.mark.parametrize(
    "call",
    [
        lambda model, graphs, features, targets: SMALL.fit(graphs, features[:-1], targets, seed=0),
        lambda model, graphs, features, targets: SMALL.fit(graphs, features, targets[:-1], seed=0),
        lambda model, graphs, features, targets: SMALL.fit(graphs, features, targets * np.nan, seed=0),
        lambda model, graphs, features, targets: SMALL.fit(graphs[:4], features[:4], targets[:4], seed=0),
        lambda model, graphs, features, targets: model.predict(replace(graphs, n_operations=9), features),
        lambda model, graphs, features, targets: model.predict(graphs, features[:, :1]),
    ],
)
def test_bad_input_is_named(fitted, call):
    with pytest.raises(InputError):
        call(*fitted)


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(fitted, name):
    model, graphs, features, targets = fitted
    with pytest.raises(InputError, match=name):
        replace(SMALL, device=name).fit(graphs, features, targets, seed=0)
    with pytest.raises(InputError, match=name):
        replace(model, predictor=replace(SMALL, device=name)).predict(graphs, features)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_trains_and_predicts_as_the_cpu_does(fitted):
    """The same draws: weights, dropout and order; only rounding is another."""
    on_cpu, graphs, features, targets = fitted
    on_gpu = replace(SMALL, device="cuda").fit(graphs, features, targets, seed=0)
    assert {each.device.type for each in on_gpu.weights.all()} == {"cpu"}
    moved = replace(on_cpu, predictor=replace(SMALL, device="cuda"))
    spread = np.ptp(targets)
    for other, near in ((moved, 1e-5), (on_gpu, 1e-3)):
        for here, there in zip(on_cpu.predict(graphs, features), other.predict(graphs, features), strict=True):
            assert there == pytest.approx(here, abs=near * spread)
    again = replace(SMALL, device="cuda").fit(graphs, features, targets, seed=0)
    assert (again.predict(graphs, features)[0] == on_gpu.predict(graphs, features)[0]).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"members": 0},
        {"layers": -1},
        {"heads": (8, 0)},
        {"dropout": 1.0},
        {"margin": 0.0},
        {"span": (1.0, 0.1)},
        {"loss": "absolute"},
        {"loss": "cross-entropy"},
    ],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(InputError):
        GCNPredictor(**settings)


@pytest.fixture(scope="module")
def macro():
    """NAS-Bench-Macro as chains: graphs and features of all distinct networks, one run, the mean of two others."""
    path = DATA / "tables" / "nas_bench_macro.parquet"
    if not path.exists():
        pytest.skip("the NAS-Bench-Macro table is not here")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(path)
    table = {name: columns[name].to_numpy() for name in columns.column_names if name != "arch"}
    genes = np.stack([table[f"layer{i}"] for i in range(8)], axis=1).astype(np.int64)
    stages = ((0, 2), (2, 5), (5, 8))
    for start, stop in stages:  # identities commute inside a stage: last
        rest = genes[:, start + 1 : stop]
        genes[:, start + 1 : stop] = np.take_along_axis(rest, np.argsort(rest == 0, axis=1, kind="stable"), axis=1)
    genes, rows = np.unique(genes, axis=0, return_index=True)
    operations = np.full((len(rows), 10), 4)
    operations[:, 1:-1], operations[:, -1] = genes, 5
    attributes = np.zeros((10, 3), dtype=np.float32)
    for stage, (start, stop) in enumerate(stages):
        attributes[1 + start : 1 + stop, stage] = 1
        operations[operations[:, 1 + start] == 0, 1 + start] = 3  # there, an identity is a strided convolution
    graphs = GraphBatch(
        operations,
        np.broadcast_to(np.eye(10, k=1, dtype=bool), (len(rows), 10, 10)),
        np.broadcast_to(attributes, (len(rows), 10, 3)),
        6,
    )
    features = np.log(np.stack([table["params"][rows], table["flops"][rows]], axis=1))
    truth = (table["test_acc_run1"][rows] + table["test_acc_run2"][rows]) / 2
    return graphs, features, table["test_acc_run0"][rows], truth


def test_macro_ranking_from_100_networks(macro):
    graphs, features, signal, truth = macro
    assert len(graphs) == 3969
    chosen = np.random.default_rng(7).permutation(len(graphs))
    train, rest = chosen[:100], chosen[100:]
    found = {}
    for name, predictor in {
        "gcn": GCNPredictor(),
        "ridge": RidgePredictor(),
        "trees": TreesPredictor(),
        "flops": LinePredictor(1),
    }.items():
        model = predictor.fit(graphs[train], features[train], signal[train], seed=7)
        found[name] = quality(NormalBelief(*model.predict(graphs[rest], features[rest])), truth[rest])
    # One run ranks the mean of the two others with a tau of 0.895; flops alone give 0.545.
    assert found["gcn"].kendall_tau >= 0.83
    assert found["gcn"].kendall_tau > found["ridge"].kendall_tau > found["flops"].kendall_tau
    assert found["gcn"].kendall_tau > found["trees"].kendall_tau - 0.01
    assert found["gcn"].coverage >= 0.9
    assert found["ridge"].coverage >= 0.9
    assert found["trees"].coverage >= 0.9
