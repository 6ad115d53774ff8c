import gc
import weakref
from itertools import pairwise, product

import numpy as np
import pytest

from hwnas import FeasibleSet
from hwnas.evaluation.restricted import RestrictedSpace
from hwnas.predictors import features
from hwnas.predictors.features import chain_features, describe, graph_features, steps_of_growth
from latency import DeviceCosts
from spaces import GraphBatch, InputError, Task, get_space

MACRO = get_space("nasbench_macro")
KINDS = 3


def random_graphs(n, nodes, rng):
    """Acyclic graphs, some of whose nodes are absent or reached by nothing."""
    operations = rng.integers(-1, KINDS, (n, nodes))
    operations[:, 0] = 0
    adjacency = np.triu(rng.random((n, nodes, nodes)) < 0.4, k=1)
    attributes = rng.random((n, nodes, 2)).astype(np.float32) * (operations >= 0)[:, :, None]
    return GraphBatch(operations, adjacency, attributes, KINDS)


def walks(operations, adjacency):
    """All paths from sources to sinks, each with its probability forwards, backwards and evenly."""
    present = np.flatnonzero(operations >= 0)
    A = adjacency[np.ix_(present, present)]
    sources, sinks = np.flatnonzero(A.sum(0) == 0), np.flatnonzero(A.sum(1) == 0)

    def onwards(path):
        following = np.flatnonzero(A[path[-1]])
        return [path] if not len(following) else [more for v in following for more in onwards([*path, v])]

    paths = [path for source in sources for path in onwards([source])]
    steps = [list(pairwise(path)) for path in paths]
    forwards = [np.prod([1 / A[u].sum() for u, _ in edges]) / len(sources) for edges in steps]
    backwards = [np.prod([1 / A[:, v].sum() for _, v in edges]) / len(sinks) for edges in steps]
    even = [1 / len(paths)] * len(paths)
    return [(present[path], *chances) for path, *chances in zip(paths, forwards, backwards, even, strict=True)]


def test_walks_are_those_of_all_paths_written_out():
    graphs = random_graphs(40, 6, np.random.default_rng(0))
    found = graph_features(graphs)
    for g in range(len(graphs)):
        operations, attributes = graphs.operations[g], graphs.attributes[g]
        all_walks = walks(operations, graphs.adjacency[g])
        number = np.array(
            [[(operations[path] == k).sum() for k in range(KINDS)] + [len(path)] for path, *_ in all_walks]
        )
        chances = np.array([chances for _, *chances in all_walks])
        assert chances.sum(axis=0) == pytest.approx([1, 1, 1])
        mean = chances.T @ number
        variance = chances.T @ number**2 - mean**2
        assert found["moments"][g] == pytest.approx(np.stack([mean, variance], axis=1).ravel(), abs=1e-9)
        assert found["none"][g] == pytest.approx((chances.T @ (number == 0)).ravel(), abs=1e-9)
        passed = np.zeros((3, KINDS, 3))
        edges = np.zeros((KINDS, KINDS))
        for path, *chance in all_walks:
            for v in path:
                passed[:, operations[v]] += np.outer(chance, [1, *attributes[v]])
            for u, v in pairwise(path):
                edges[operations[u], operations[v]] += chance[2]
        assert found["visits"][g] == pytest.approx(passed.ravel(), abs=1e-6)
        assert found["edges"][g] == pytest.approx(edges.ravel(), abs=1e-9)


def test_degrees_are_counted():
    graphs = random_graphs(20, 6, np.random.default_rng(1))
    found = graph_features(graphs)["degrees"]
    for g in range(len(graphs)):
        expected = np.zeros((KINDS, 3))
        for v, operation in enumerate(graphs.operations[g]):
            if operation >= 0:
                others = graphs.operations[g] >= 0
                into, out = graphs.adjacency[g][others, v].sum(), graphs.adjacency[g][v, others].sum()
                expected[operation] += [into, out, 1]
        assert found[g].tolist() == expected.ravel().tolist()


@pytest.mark.parametrize("name", ["nasbench101", "pnas", "darts", "nasnet"])
def test_isomorphic_cells_have_equal_features(name):
    space = get_space(name)
    rows = space.sample(200, np.random.default_rng(0))
    found = graph_features(space.graphs(rows))
    _, first, which = np.unique(space.canonical(rows), axis=0, return_index=True, return_inverse=True)
    for values in found.values():
        assert np.isfinite(values).all()
        assert values == pytest.approx(values[first[which.ravel()]], abs=1e-9)


def test_steps_of_growth_are_those_that_growth_takes():
    """From the smallest network each child is one step further, of one gene."""
    for name in ("nasbench_macro", "proxyless@16,8x1,16x3s2,128"):
        space = get_space(name)
        steps = steps_of_growth(space)
        rows = space.simplest(1, np.random.default_rng(0))
        for _ in range(3):
            children = space.grow(rows)
            taken = steps[np.arange(rows.shape[1]), children].sum(axis=1)
            before = steps[np.arange(rows.shape[1]), rows].sum(axis=1)
            assert set(taken) <= set(before + 1)
            rows = np.unique(children, axis=0)


def test_chain_features_of_all_of_a_space():
    rows = np.array(list(product(range(3), repeat=8)))
    found = chain_features(MACRO, rows)
    canonical = MACRO.canonical(rows)
    assert (found["steps"] == canonical).all()  # identity, then one block, then the other
    assert (found["empty"] == (canonical == 0)).all()
    assert (found["depth"][:, :3].sum(axis=1) == found["depth"][:, 3]).all()
    assert (found["depth"][:, 3] == (rows > 0).sum(axis=1)).all()
    assert "genes" not in found  # the steps say which block it is
    proxyless = get_space("proxyless")
    rows = proxyless.sample(5, np.random.default_rng(0))
    assert chain_features(proxyless, rows)["genes"].sum() == 5 * 22


def test_networks_of_a_table_are_described_as_in_their_space():
    rows = np.unique(MACRO.canonical(MACRO.sample(300, np.random.default_rng(0))), axis=0)
    table = RestrictedSpace(MACRO, rows)
    inside = describe(FeasibleSet(table, DeviceCosts(table, Task(32, 10))), rows[5:50])
    outside = describe(FeasibleSet(MACRO, DeviceCosts(MACRO, Task(32, 10))), rows[5:50])
    assert inside.keys() == outside.keys() == {"steps", "empty", "depth", "costs"}
    assert all((inside[name] == outside[name]).all() for name in inside)


def test_features_of_a_table_are_kept_once_and_as_long_as_its_space(monkeypatch):
    rows = np.unique(MACRO.canonical(MACRO.sample(300, np.random.default_rng(0))), axis=0)
    asked = []
    original = features.chain_features
    monkeypatch.setattr(
        features, "chain_features", lambda space, part: asked.append(len(part)) or original(space, part)
    )
    table = RestrictedSpace(MACRO, rows)
    for _ in range(3):  # whoever asks
        describe(FeasibleSet(table, DeviceCosts(table, Task(32, 10))), rows[:20])
    assert asked == [len(rows)]
    assert table in features._of_tables
    kept = describe(FeasibleSet(table), rows[3:9])
    assert "costs" not in kept  # what one caller knows is not another's
    alive = weakref.ref(table)
    del table
    gc.collect()
    assert alive() is None
    monkeypatch.setattr(features, "KEPT", 100)
    large = RestrictedSpace(MACRO, rows)
    found = describe(FeasibleSet(large), rows[3:9])
    assert asked[-1] == 6  # of a large table what is asked for alone
    assert large not in features._of_tables
    assert all((found[name] == kept[name]).all() for name in found)


def test_what_is_not_in_the_table_is_not_described():
    rows = np.unique(MACRO.canonical(MACRO.sample(300, np.random.default_rng(0))), axis=0)
    with pytest.raises(InputError, match="is not in the table"):
        describe(FeasibleSet(RestrictedSpace(MACRO, rows[:50])), rows[40:60])
