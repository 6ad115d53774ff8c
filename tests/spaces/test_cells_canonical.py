"""Equal keys if and only if the networks, written out layer by layer, are isomorphic."""

from itertools import combinations, permutations, product

import networkx as nx
import numpy as np
import pytest

from spaces import Task, get_space

TASK = Task(8, 2)


def as_graph(network) -> nx.MultiDiGraph:
    """Layers with all that they say but their names; the inputs of sums and concatenations have no order."""
    graph = nx.MultiDiGraph()
    for position, layer in enumerate(network):
        label = (
            layer.op,
            layer.shape,
            layer.in_features,
            layer.kernel,
            layer.stride,
            layer.dilation,
            layer.groups,
            layer.bias,
            layer.batch_norm,
            layer.activation,
            layer.padded,
        )
        graph.add_node(position, label=label)
        graph.add_edges_from((x, position) for x in layer.inputs)
    return graph


def are_isomorphic(one, other) -> bool:
    return nx.is_isomorphic(one, other, node_match=lambda a, b: a["label"] == b["label"])


def summary(graph) -> tuple:
    """What isomorphic graphs share, to keep the comparisons few: labels with those of what they read."""
    labels = graph.nodes(data="label")
    kept = dict(labels)
    return tuple(sorted(str((kept[v], sorted(str(kept[u]) for u, _ in graph.in_edges(v)))) for v in graph))


def classes(networks) -> list[int]:
    """The number of the isomorphism class of each network, in the order of first appearance."""
    found, representatives, number = {}, [], []
    for network in networks:
        graph = as_graph(network)
        candidates = found.setdefault(summary(graph), [])
        for index in candidates:
            if are_isomorphic(representatives[index], graph):
                number.append(index)
                break
        else:
            candidates.append(len(representatives))
            number.append(len(representatives))
            representatives.append(graph)
    return number


def numbered(keys) -> list[int]:
    numbers: dict = {}
    return [numbers.setdefault(tuple(key), len(numbers)) for key in keys.tolist()]


def networks_of(space, rows, task=TASK) -> list:
    return [space.layers(space.arch(row), task) for row in rows]


def shuffled(space, rows, rng):
    """The same cells written otherwise: blocks in another order that respects what they read, inputs swapped."""
    others = rows.copy()
    width, kinds = space.genes_per_block, len(space.kinds)
    for row, other in zip(rows, others, strict=True):
        blocks = row.reshape(-1, kinds, width)
        target = other.reshape(-1, kinds, width)
        for kind in range(kinds):
            used = int((blocks[:, kind, 0] >= 0).sum())
            orders = [
                order
                for order in permutations(range(used))
                if all(i < 2 or order.index(i - 2) < order.index(b) for b in order for i in blocks[b, kind, :2])
            ]
            order = orders[rng.integers(len(orders))]
            for place, b in enumerate(order):
                inputs = [int(i) if i < 2 else 2 + order.index(i - 2) for i in blocks[b, kind, :2]]
                operations = list(blocks[b, kind, 2:4])
                if rng.random() < 0.5 and not (space.distinct_inputs and inputs[0] < inputs[1]):
                    inputs, operations = inputs[::-1], operations[::-1]
                if space.distinct_inputs and inputs[0] > inputs[1]:
                    inputs, operations = inputs[::-1], operations[::-1]
                target[place, kind, :2], target[place, kind, 2:4] = inputs, operations
                target[place, kind, 4:] = blocks[b, kind, 4:]
    return others


def few_operations(space, rows, operations):
    """Rows with only the given operations, so that equal cells are not rare."""
    places = np.arange(rows.shape[1]) % space.genes_per_block
    is_operation = (places == 2) | (places == 3)
    return np.where(is_operation & (rows >= 0), np.array(operations)[rows % len(operations)], rows)


def test_all_pnas_cells_of_two_blocks_with_two_operations():
    space = get_space("pnas@1x4,b2")
    rows = space.grow(space.grow(np.full((1, 8), -1)))
    rows = rows[np.isin(rows[:, [2, 3, 6, 7]], (4, 6)).all(axis=1)]  # identity and max pooling
    assert len(rows) == (2**2 * 2**2) * (3**2 * 2**2)
    assert numbered(space.canonical(rows)) == classes(networks_of(space, rows))


def test_pnas_cells_of_three_blocks_with_one_operation():
    """All ways in which three blocks can be joined, where only the edges tell them apart: twins of every sort."""
    space = get_space("pnas@1x4,b3")
    pairs = [list(product(range(states), repeat=2)) for states in (2, 3, 4)]
    rows = np.array([[*a, 5, 5, *b, 5, 5, *c, 5, 5] for a, b, c in product(*pairs)])
    assert space.is_valid(rows).all()
    assert len(rows) == 4 * 9 * 16
    assert numbered(space.canonical(rows)) == classes(networks_of(space, rows))


def orders_of(cell) -> set[tuple]:
    """Every way to write a cell of (input, input, operation, operation) blocks: all orders, all swaps."""
    blocks = [tuple(cell[i : i + 4]) for i in range(0, len(cell), 4)]
    written = set()
    for order in permutations(range(len(blocks))):
        place = {2 + old: 2 + new for new, old in enumerate(order)} | {0: 0, 1: 1}
        moved = []
        for old in order:
            a, b, x, y = blocks[old]
            ends = sorted([(place[a], x), (place[b], y)])
            if any(state >= 2 + len(moved) for state, _ in ends):
                break
            moved.append((ends[0][0], ends[1][0], ends[0][1], ends[1][1]))
        else:
            written.add(tuple(moved))
    return written


@pytest.mark.parametrize("blocks", [4, 5])
def test_large_cells_against_all_orders_of_their_blocks(blocks):
    """Cells that can be written alike, by trying every order, have equal keys, and no others; two operations."""
    space, rng = get_space("pnas"), np.random.default_rng(blocks)
    rows = np.full((400, 20), -1)
    for block in range(blocks):
        rows[:, 4 * block : 4 * block + 2] = rng.integers(0, 2 + block, (400, 2))
        rows[:, 4 * block + 2 : 4 * block + 4] = rng.choice([4, 6], (400, 2))
    rows[:, 8:12] = np.where(rng.random((400, 1)) < 0.5, rows[:, 4:8], rows[:, 8:12])  # twins are common
    rows = np.concatenate([rows, shuffled(space, rows, rng)])
    assert space.is_valid(rows).all()
    smallest = np.array([min(orders_of(row[row >= 0].tolist())) for row in rows]).reshape(len(rows), -1)
    assert numbered(space.canonical(rows)) == numbered(smallest)
    assert len(set(numbered(smallest))) <= 400


NAMES = [
    "pnas@1x4",
    "pnas@1x4,keep4",
    "nasnet@1x96,b3,cifar",
    "nasnet@1x96,b3,norms,cifar",
    "nasnet@1x96,b3,keepn0r3,cifar",
    "nasnet@2x96,b3,skip,keepn2r0",
    "darts@4x4",
    "darts@6x4,repeats",
]


IDENTITY_AND_1X1 = (0, 8)  # of nasnet, which are one where the size or the width changes


@pytest.mark.parametrize(
    ("name", "operations"),
    [(name, (2, -2)) for name in NAMES[1:]]
    + [(name, IDENTITY_AND_1X1) for name in [*NAMES[2:6], "nasnet@1x96,b2,narrow,imagenet"]],
)
def test_keys_agree_with_graph_isomorphism(name, operations):
    """Random cells with two operations, each also written otherwise, with one gene changed, or one operation."""
    space, rng = get_space(name), np.random.default_rng(5)
    operations = [operation % len(space.operations) for operation in operations]
    rows = few_operations(space, space.sample(20, rng), operations)
    rows[::4, 2 * len(space.kinds) * space.genes_per_block :] = -1  # fewer blocks
    others = shuffled(space, rows, rng)
    swapped = rows.copy()
    places = np.flatnonzero(np.isin(np.arange(rows.shape[1]) % space.genes_per_block, (2, 3)))
    place = rng.choice(places[: 2 * 2 * len(space.kinds)], len(rows))
    at = np.arange(len(rows)), place
    swapped[at] = np.where(swapped[at] == operations[0], operations[1], operations[0])
    rows = np.concatenate([rows, others, space.mutate(others, rng, rate=0.0), swapped])
    keys, networks = numbered(space.canonical(rows)), classes(networks_of(space, rows))
    assert keys == networks
    assert 20 < len(set(keys)) < 80


def test_an_identity_that_must_change_its_map_is_the_1x1_convolution():
    """At stride 2, and on a concatenation; on a map that it can pass on it is nothing."""
    space = get_space("nasnet@1x96,b2,cifar")
    normal = [0, 1, 10, 10, 1], [2, 1, 0, 10, 0]  # reads a concatenation
    reduction = [0, 1, 8, 0, 0], [2, 1, 10, 0, 0]
    row = np.array([*normal[0], *reduction[0], *normal[1], *reduction[1]])
    changes = {5 + 2: 0, 5 + 3: 8, 10 + 2: 8, 15 + 3: 8}  # gene: identity to 1x1, or back
    rows = np.repeat(row[None], 1 + len(changes), axis=0)
    for other, (gene, operation) in zip(rows[1:], changes.items(), strict=True):
        assert other[gene] != operation
        other[gene] = operation
    summed = rows[[0, 3]]
    summed[:, 4] = 0
    keys, graphs = space.canonical(rows), space.graphs(rows)
    assert classes(networks_of(space, rows)) == numbered(keys) == [0] * 5
    assert all((part == part[:1]).all() for part in (graphs.operations, graphs.adjacency))
    assert classes(networks_of(space, summed)) == numbered(space.canonical(summed)) == [0, 1]


@pytest.mark.parametrize(("skeleton", "expected"), [("1x96", [0, 0]), ("1x192", [0, 1])])
def test_layer_and_instance_norm_of_one_channel_are_the_same(skeleton, expected):
    """Only the first reduction of the ImageNet form is alive, with a quarter of the first cell's filters."""
    space = get_space(f"nasnet@{skeleton},b1,norms,imagenet")
    rows = np.array([[0, 0, 5, 5, 0, 0, 0, 5, 5, norm] for norm in (2, 3)])
    assert classes(networks_of(space, rows, Task(64, 2))) == numbered(space.canonical(rows)) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if "keep" not in name])
def test_keys_are_valid_rows_of_the_same_network(name):
    space = get_space(name)
    rows = space.sample(300, np.random.default_rng(1))
    rows[::2, 2 * len(space.kinds) * space.genes_per_block :] = -1
    keys = space.canonical(rows)
    assert space.is_valid(keys).all()
    assert np.array_equal(space.canonical(keys), keys)
    for row, key in zip(rows[:10], keys[:10], strict=True):
        one, other = networks_of(space, [row, key])
        assert are_isomorphic(as_graph(one), as_graph(other))


def test_a_kept_block_is_not_like_its_twin():
    """State 2 is joined to the output although it is read; an equal block that is read is not."""
    space = get_space("pnas@1x4,b3,keep2")
    first = [0, 0, 6, 6, 0, 1, 6, 6, 2, 2, 4, 4]  # the kept block is read
    second = [0, 1, 6, 6, 0, 0, 6, 6, 3, 3, 4, 4]  # the same cell, were it not that another block is kept
    rows = np.array([first, second])
    assert classes(networks_of(space, rows)) == [0, 1] == numbered(space.canonical(rows))
    plain = get_space("pnas@1x4,b3")
    assert classes(networks_of(plain, rows)) == [0, 0] == numbered(plain.canonical(rows))


@pytest.mark.parametrize(("name", "is_dead"), [("nasnet@1x96,b1,cifar", True), ("nasnet@2x96,b1,cifar", False)])
def test_a_reduction_cell_that_nothing_reads_does_not_count(name, is_dead):
    """Normal cells that read only the cell before the last leap over the reductions where their number is odd."""
    space = get_space(name)
    rows = np.array([[0, 0, 5, 0, 0, *reduction, 0] for reduction in ([0, 0, 5, 5], [1, 1, 10, 10], [0, 1, 3, 4])])
    assert space.is_valid(rows).all()
    networks = networks_of(space, rows)
    assert classes(networks) == numbered(space.canonical(rows)) == ([0, 0, 0] if is_dead else [0, 1, 2])
    keys = space.canonical(rows)
    assert space.is_valid(keys).all()
    for row, key in zip(rows, keys, strict=True):
        one, other = networks_of(space, [row, key])
        assert are_isomorphic(as_graph(one), as_graph(other))


def test_a_reduction_cell_counts_where_some_form_of_the_network_reads_it():
    """Without a form in the text, the ImageNet form's stem of reduction cells keeps them alive."""
    space = get_space("nasnet@1x96,b1")
    rows = np.array([[0, 0, 5, 0, 0, 0, 0, 5, 5, 0], [0, 0, 5, 0, 0, 0, 0, 10, 10, 0]])
    assert classes(networks_of(space, rows, Task(128, 2))) == [0, 1]
    assert classes(networks_of(space, rows, Task(32, 2))) == [0, 0]
    assert numbered(space.canonical(rows)) == [0, 1]
    assert numbered(get_space("nasnet@1x72,b1").canonical(rows)) == [0, 0]  # too narrow for the ImageNet form


@pytest.mark.parametrize("name", NAMES)
def test_graphs_are_equal_if_and_only_if_the_keys_are(name):
    space, rng = get_space(name), np.random.default_rng(2)
    rows = few_operations(space, space.sample(60, rng), (2, len(space.operations) - 2))
    rows[::4, 2 * len(space.kinds) * space.genes_per_block :] = -1
    rows = np.concatenate([rows, shuffled(space, rows, rng)])
    graphs = space.graphs(rows)
    flat = np.concatenate([graphs.operations, graphs.adjacency.reshape(len(rows), -1)], axis=1)
    assert numbered(flat) == numbered(space.canonical(rows))


def test_canonical_does_not_depend_on_the_other_rows():
    space = get_space("nasnet")
    rows = space.sample(200, np.random.default_rng(3))
    rows[::2, -10:] = -1
    together = space.canonical(rows)
    alone = np.concatenate([space.canonical(rows[i : i + 1]) for i in range(len(rows))])
    assert np.array_equal(together, alone)
    assert space.canonical(rows[:0]).shape == (0, 50)


def test_no_two_darts_cells_of_one_node_a_kind_are_the_same():
    space = get_space("darts@4x4,cifar")
    rows = np.full((49**2, 32), -1)
    operations = np.array(list(product(range(7), repeat=4)))
    rows[:, :8] = np.stack([0 * operations[:, 0], 1 + 0 * operations[:, 0], *operations[:, :2].T] * 2, axis=1)
    rows[:, 6:8] = operations[:, 2:]
    assert space.is_valid(rows).all()
    assert len(np.unique(space.canonical(rows), axis=0)) == 49**2
    few = rows[np.isin(rows[:, [2, 3, 6, 7]], (0, 3)).all(axis=1)]
    graphs = [as_graph(network) for network in networks_of(space, few)]
    assert not any(are_isomorphic(a, b) for a, b in combinations(graphs, 2))


def test_many_cells_whose_blocks_are_all_alike():
    """Seven twins could be ordered in 5,040 ways; 60,000 such cells would not fit in memory that way."""
    space = get_space("pnas@1x4,b7")
    rows = np.zeros((60_000, 28), dtype=np.int64)
    rows[1::2, 24] = 7  # the last block reads one of the others
    assert space.is_valid(rows).all()
    keys = space.canonical(rows)
    assert np.array_equal(np.unique(keys, axis=0), [[0] * 28, [0] * 25 + [2, 0, 0]])
