"""Architectures as graphs: one path each, equal if and only if the networks are."""

import numpy as np
import pytest

from spaces import GraphBatch, get_space


@pytest.mark.parametrize("name", ["proxyless", "proxyless@w0.25", "proxyless@8,8x1s2,8x3,16x2s2,8", "nasbench_macro"])
def test_a_chain_is_a_path(name):
    space = get_space(name)
    graphs = space.graphs(space.sample(20, np.random.default_rng(0)))
    nodes = len(space.choices) + 2
    expected = np.array([[j == i + 1 for j in range(nodes)] for i in range(nodes)])
    assert graphs.adjacency.shape == (20, nodes, nodes)
    assert (graphs.adjacency == expected).all()
    assert graphs.operations.shape == (20, nodes)
    assert graphs.operations.min() >= 0
    assert graphs.operations.max() < graphs.n_operations


@pytest.mark.parametrize("name", ["proxyless@8,8x1,8x3s2,16", "proxyless@8,8x1,8x2s2,8x2,16", "nasbench_macro"])
def test_graphs_are_equal_if_and_only_if_the_keys_are(name, all_rows):
    space = get_space(name)
    rows = all_rows(space)
    keys = space.canonical(rows)
    graphs = space.graphs(rows)
    pairs = {
        (tuple(key), tuple(operations))
        for key, operations in zip(keys.tolist(), graphs.operations.tolist(), strict=True)
    }
    assert len(pairs) == len({key for key, _ in pairs}) == len({operations for _, operations in pairs}) < len(rows)
    assert (graphs.attributes == graphs.attributes[0]).all()


def test_input_output_first_block_and_layers_are_told_apart():
    space = get_space("proxyless")
    rows = space.sample(3000, np.random.default_rng(1))
    operations = space.graphs(rows).operations
    kinds = [set(operations[:, 0]), set(operations[:, -1]), set(operations[:, 1]), set(operations[:, 2:-1].ravel())]
    assert [len(kind) for kind in kinds] == [1, 1, 3, 7]
    assert sum(map(len, kinds)) == len(set.union(*kinds)) == space.graphs(rows).n_operations


def test_attributes_say_the_stage():
    space = get_space("proxyless@8,8x1,8x3s2,16x2s2,16")
    attributes = space.graphs(space.sample(4, np.random.default_rng(2))).attributes
    assert attributes.dtype == np.float32
    expected = np.zeros((8, 3))
    for node, stage in enumerate([0, 1, 1, 1, 2, 2], start=1):
        expected[node, stage] = 1
    assert np.array_equal(attributes, np.broadcast_to(expected, (4, 8, 3)))


PARTS = [slice(2, 7), np.array([4, 4, 0]), np.arange(10) % 2 == 1]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_slices_of_graphs_that_share_nothing(part):
    rng = np.random.default_rng(4)
    arrays = rng.integers(0, 5, (10, 6)), rng.random((10, 6, 6)) < 0.5, rng.random((10, 6, 3), dtype=np.float32)
    few = GraphBatch(*arrays, 5)[part]
    for ours, whole in zip((few.operations, few.adjacency, few.attributes), arrays, strict=True):
        assert np.array_equal(ours, whole[part])
    assert (len(few), few.n_operations) == (len(arrays[0][part]), 5)


def test_slices_of_a_batch():
    space = get_space("proxyless")
    rows = space.sample(10, np.random.default_rng(3))
    graphs = space.graphs(rows)
    assert len(graphs) == 10
    for part in PARTS:
        few, direct = graphs[part], space.graphs(rows[part])
        assert len(few) == len(rows[part])
        assert few.n_operations == direct.n_operations
        for field in ("operations", "adjacency", "attributes"):
            assert np.array_equal(getattr(few, field), getattr(direct, field))
    assert len(space.graphs(rows[:0])) == 0
