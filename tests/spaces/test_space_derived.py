"""What a space need not give: keys against networkx, and everything against the hand-written chain."""

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from spaces import SPACES, InputError, SearchSpace, Task, derived, get_space
from spaces.derived import KINDS, canonical_form, graphs_of, kind_of, live, network_key
from spaces.layers import Network, NetworkBuilder


class Bare(SearchSpace):
    """A chain of the ProxylessNAS space with all that can be derived taken away from it."""

    def __init__(self, skeleton):
        self.chain = get_space(f"proxyless@{skeleton}")

    name = property(lambda self: self.chain.name)
    choices = property(lambda self: self.chain.choices)

    def is_valid(self, population):
        return self.chain.is_valid(population)

    def layers(self, arch, task):
        return self.chain.layers(arch, task)


SMALL = ["8,8x1,8x3s2,16", "8,8x1,8x2s2,8x2,16", "8,8x1s2,16x2,24x2,8"]


def partition(keys) -> list[int]:
    numbers: dict = {}
    return [numbers.setdefault(tuple(key), len(numbers)) for key in keys.tolist()]


@pytest.mark.parametrize("skeleton", SMALL)
def test_derived_keys_part_a_chain_as_its_own_do(skeleton, all_rows):
    bare = Bare(skeleton)
    rows = all_rows(bare.chain)
    rows = rows[rows[:, 0] == 0][::3]
    keys = bare.canonical(rows)
    assert keys.dtype == np.int64
    assert partition(keys) == partition(bare.chain.canonical(rows))


def test_derived_keys_on_the_whole_proxyless_chain():
    bare, rng = Bare("w0.25"), np.random.default_rng(0)
    rows = bare.chain.sample(60, rng)
    rows[(rng.random(rows.shape) < 0.6) & bare.chain.allowed[:, 6]] = 6
    others = rows.copy()
    for other in others:
        for stage in bare.chain.stages:
            genes = np.arange(stage.start + 1, stage.stop)
            other[genes] = other[rng.permutation(genes)]
    both = np.concatenate([rows, others])
    assert partition(bare.canonical(both)) == partition(bare.chain.canonical(both))
    assert len(set(partition(bare.canonical(both)))) < len(both)


@pytest.mark.parametrize("skeleton", SMALL)
def test_derived_counts_draws_and_numbers_are_those_of_the_chain(skeleton, all_rows):
    bare, task = Bare(skeleton), Task(32, 10)
    rows = all_rows(bare.chain)
    if len(rows) < 2000:
        assert bare.cardinality == bare.chain.cardinality == len(rows)
    some = rows[::97]
    for ours, theirs in zip(bare.counts(some, task), bare.chain.counts(some, task), strict=True):
        assert np.array_equal(ours, theirs)
    assert bare.is_valid(bare.sample(100, np.random.default_rng(0))).all()


@pytest.mark.parametrize("name", sorted(SPACES))
def test_what_a_space_gives_faster_is_what_would_be_derived(name):
    """On random rows and a line of mutants of them, for every space that there is."""
    space, task, rng = get_space(name), Task(32, 10), np.random.default_rng(5)
    family = [space.sample(25, rng)]
    for _ in range(3):
        family.append(space.mutate(family[-1], rng))
    rows = np.concatenate(family)
    assert partition(SearchSpace.canonical(space, rows)) == partition(space.canonical(rows))
    for ours, theirs in zip(SearchSpace.counts(space, rows, task), space.counts(rows, task), strict=True):
        assert np.array_equal(ours, theirs)


def test_large_spaces_are_not_counted():
    assert Bare("w0.5").cardinality is None


@pytest.mark.parametrize("skeleton", SMALL[:2])
def test_derived_graphs_are_equal_if_and_only_if_the_keys_are(skeleton, all_rows):
    bare = Bare(skeleton)
    rows = all_rows(bare.chain)
    rows = rows[rows[:, 0] == 0][::3]
    graphs, keys = bare.graphs(rows), bare.canonical(rows)
    as_bytes = [
        (o.tobytes(), a.tobytes(), x.tobytes())
        for o, a, x in zip(graphs.operations, graphs.adjacency, graphs.attributes, strict=True)
    ]
    numbers: dict = {}
    assert [numbers.setdefault(each, len(numbers)) for each in as_bytes] == partition(keys)


def test_nodes_and_edges_of_a_derived_graph():
    """x -> relu -> conv 3x3 -> add(conv, x) -> classifier; the bare relu is passed by."""
    net = NetworkBuilder((16, 32, 32))
    y = net.conv(net.relu(0), 16, kernel=3, activation="relu")
    net.conv(y, 64)  # nobody reads it
    net.classifier(net.add((y, 0)), classes=4)
    graphs = graphs_of([net.network])
    kinds = [KINDS[kind] for kind in graphs.operations[0]]
    assert kinds == ["input", "conv", "add", "global_avg_pool", "linear"]
    expected = np.zeros((5, 5), dtype=bool)
    for i, j in ((0, 1), (0, 2), (1, 2), (2, 3), (3, 4)):
        expected[i, j] = True
    assert np.array_equal(graphs.adjacency[0], expected)
    np.testing.assert_allclose(graphs.attributes[0, 1], [0.4, 5 / 8, 3 / 7, 3 / 7, 0, 0, 0, 1], rtol=1e-6)
    assert graphs.n_operations == len(KINDS)


def test_smaller_graphs_are_padded():
    small, large = (NetworkBuilder((3, 8, 8)) for _ in range(2))
    small.classifier(0, classes=2)
    large.classifier(large.depthwise(large.conv(0, 8), kernel=3, stride=2), classes=2)
    graphs = graphs_of([small.network, large.network])
    assert graphs.operations.shape == (2, 5)
    assert graphs.operations[0].tolist() == [KINDS.index(k) for k in ("input", "global_avg_pool", "linear")] + [-1, -1]
    assert not graphs.adjacency[0, 3:].any()
    assert not graphs.adjacency[0, :, 3:].any()
    assert not graphs.attributes[0, 3:].any()
    assert kind_of(large.network[2]) == "depthwise"
    assert graphs.attributes[1, 2].tolist() == pytest.approx([0.3, 2 / 8, 3 / 7, 3 / 7, 1, 0, 0.3, 0])


# Keys against an isomorphism test that tries all correspondences.


def as_networkx(network: Network) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    for position in live(network):
        layer = network[position]
        graph.add_node(position, label=replace(layer, inputs=(), block=""))
        graph.add_edges_from((x, position) for x in layer.inputs)
    return graph


def isomorphic(a: Network, b: Network) -> bool:
    """Only operations that commute have several inputs here, so edges carry no position."""
    return nx.is_isomorphic(as_networkx(a), as_networkx(b), node_match=lambda u, v: u == v)


def random_network(rng: random.Random, size: int) -> Network:
    """Few kinds of records and few inputs to choose from, so that symmetries are frequent."""
    net = NetworkBuilder((4, 8, 8))
    for _ in range(size):
        last = len(net.layers) - 1
        near = [rng.randint(max(0, last - 3), last) for _ in range(3)]
        kind = rng.choice(["conv", "conv", "add", "add", "pool"])
        if kind == "conv":
            net.conv(near[0], 4, kernel=rng.choice([1, 1, 3]))
        elif kind == "add":
            net.add(near[: rng.choice([2, 2, 3])])
        else:
            net.pool(near[0], kind="max_pool")
    net.add([x for x in range(1, len(net.layers)) if rng.random() < 0.7] or [len(net.layers) - 1])
    return net.network


def shuffled(network: Network, rng: random.Random) -> Network:
    """The same network with its records in another order that has inputs first, and the inputs of adds turned."""
    left, place, records = set(range(len(network))), {}, []
    while left:
        ready = [x for x in left if all(i in place for i in network[x].inputs)]
        last = len(network) - 1
        x = rng.choice([r for r in ready if r != last] or [last])
        left.remove(x)
        place[x] = len(records)
        inputs = [place[i] for i in network[x].inputs]
        rng.shuffle(inputs)
        records.append(replace(network[x], inputs=tuple(inputs), block=str(rng.random())))
    return tuple(records)


@pytest.mark.parametrize("seed", range(4))
def test_keys_are_equal_if_and_only_if_networks_are_isomorphic(seed):
    rng = random.Random(seed)
    networks = [random_network(rng, rng.choice([2, 3, 4])) for _ in range(120)]
    networks += [shuffled(rng.choice(networks), rng) for _ in range(30)]
    keys = [network_key(network) for network in networks]
    shapes = [Counter(replace(layer, inputs=(), block="") for layer in map(n.__getitem__, live(n))) for n in networks]
    equal = different = 0
    for i, first in enumerate(networks):
        for j in range(i):
            if shapes[i] != shapes[j]:
                assert keys[i] != keys[j]
                continue
            same = isomorphic(first, networks[j])
            assert (keys[i] == keys[j]) == same
            equal, different = equal + same, different + (not same)
    assert equal > 30
    assert different > 30


@pytest.mark.parametrize("seed", range(30))
def test_the_order_of_records_and_the_names_of_blocks_do_not_count(seed):
    rng = random.Random(100 + seed)
    network = random_network(rng, 14)
    twin = shuffled(network, rng)
    assert network_key(network) == network_key(twin)
    ours, theirs = graphs_of([network]), graphs_of([twin])
    for field in ("operations", "adjacency", "attributes"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field))
    order = canonical_form(network)[1]
    assert sorted(order) == live(network)
    assert all(order.index(x) < i for i, position in enumerate(order) for x in network[position].inputs)


def rings(*sizes: int) -> Network:
    """Convolutions of the input, each added to the next one in its ring, all sums added: every colour looks alike."""
    net = NetworkBuilder((4, 8, 8))
    sums = []
    for size in sizes:
        convs = [net.conv(0, 4) for _ in range(size)]
        sums += [net.add((convs[i], convs[(i + 1) % size])) for i in range(size)]
    net.add(sums)
    return net.network


def test_networks_that_local_views_cannot_tell_apart():
    """Six convolutions summed in pairs around one ring, or around two: each sees the same neighbours."""
    assert network_key(rings(6)) != network_key(rings(3, 3))
    assert network_key(rings(3, 4)) == network_key(rings(4, 3)) != network_key(rings(7))
    assert len({network_key(rings(*sizes)) for sizes in ((8,), (4, 4), (3, 5), (5, 3))}) == 3


def test_two_convolutions_of_one_map_are_not_one_that_is_read_twice():
    two, one = (NetworkBuilder((4, 8, 8)) for _ in range(2))
    two.add((two.conv(0, 4), two.conv(0, 4)))
    y = one.conv(0, 4)
    one.add((y, y))
    one.conv(0, 4)  # dead: it must not make up for the other
    assert network_key(two.network) != network_key(one.network)


def symmetric_chain(blocks: int, *, odd_one: int = -1) -> Network:
    """Two equal branches in each block, each with a shortcut of its own: 2^blocks symmetries."""
    net, x = NetworkBuilder((4, 8, 8)), 0
    for block in range(blocks):
        branches = []
        for side in range(2):
            y = net.conv(x, 4, kernel=3)
            z = net.conv(y, 4, kernel=5 if (block, side) == (odd_one, 1) else 3)
            branches.append(net.add((y, z)))
        x = net.add(branches)
    net.classifier(x, classes=2)
    return net.network


def test_many_symmetries_do_not_multiply():
    keys = {network_key(symmetric_chain(40, odd_one=odd)) for odd in (-1, 0, 20, 39)}
    assert len(keys) == 4
    twin = shuffled(symmetric_chain(40, odd_one=20), random.Random(0))
    assert network_key(twin) in keys


def layered(*levels: list[list[int]]) -> Network:
    """Of every level, the sums that read the given ones of the level before; each sum passes a convolution."""
    net = NetworkBuilder((4, 8, 8))
    below = [net.conv(0, 4) for _ in range(1 + max(x for reads in levels[0] for x in reads))]
    for level in levels:
        below = [net.conv(net.add([below[x] for x in reads]), 4) for reads in level]
    net.add(below)
    return net.network


def dense(nodes: int) -> list[list[int]]:
    return [list(range(nodes))] * nodes


def all_but_one(nodes: int) -> list[list[int]]:
    return [[x for x in range(nodes) if x != left_out] for left_out in range(nodes)]


@pytest.mark.parametrize(
    "levels",
    [(dense(40),), (dense(15),) * 4, (all_but_one(40),), (all_but_one(15), dense(15), all_but_one(15))],
    ids=["dense", "dense four times", "all but one", "in turn"],
)
def test_levels_whose_nodes_may_all_be_exchanged(levels):
    """n! symmetries each, of which none needs a mark: what is usual between two levels is said once."""
    network = layered(*levels)
    twin = shuffled(network, random.Random(3))
    assert network_key(network) == network_key(twin)
    first = levels[0]
    other = layered([first[0], *[first[0]] * 2, *first[3:]], *levels[1:])
    if first[0] != first[1]:
        assert network_key(network) != network_key(other)


def ring(*sizes: int) -> list[list[int]]:
    pairs, start = [], 0
    for size in sizes:
        pairs += [[start + i, start + (i + 1) % size] for i in range(size)]
        start += size
    return pairs


def test_one_ring_or_two_beneath_a_level_that_reads_all_but_one():
    """The one is a single part when what is usual is left out, the other falls apart; side by side in one network."""
    one, two = layered(ring(6), all_but_one(6)), layered(ring(3, 3), all_but_one(6))
    assert network_key(one) != network_key(two)
    keys = set()
    for networks in ((one, two), (two, one), (one, one), (two, two)):
        net = NetworkBuilder((4, 8, 8))
        net.add([net.extend(0, network) for network in networks])
        keys.add(network_key(net.network))
    assert len(keys) == 3


def test_keys_of_dense_levels_are_equal_if_and_only_if_networks_are_isomorphic():
    """Sums over random sets of four convolutions, most of them read, some of them twice."""
    rng = random.Random(0)
    networks = []
    for _ in range(60):
        reads = [[x for x in range(4) for _ in range(rng.choice([0, 1, 1, 1, 1, 2]))] or [0] for _ in range(4)]
        networks.append(layered([sorted({*reads[0], 3}), *reads[1:]]))
    networks += [shuffled(rng.choice(networks), rng) for _ in range(20)]
    keys = [network_key(network) for network in networks]
    equal = 0
    for i, first in enumerate(networks):
        for j in range(i):
            assert (keys[i] == keys[j]) == isomorphic(first, networks[j])
            equal += keys[i] == keys[j]
    assert equal >= 20


def test_twins_are_marked_once(monkeypatch):
    """Every convolution of a ring of six stands five times: marks for the ring, not for the copies."""
    reads = [[5 * i + copy for i in pair for copy in range(5)] for pair in ring(6)]
    network = layered([pair for pair in reads for _ in range(5)])
    monkeypatch.setattr(derived, "MOST_MARKS", 12)
    assert network_key(network) == network_key(shuffled(network, random.Random(1)))


def test_networks_that_are_too_symmetric_are_refused_in_time():
    """Sums over every four of eight: 8! symmetries that only marks could find."""
    with pytest.raises(InputError, match=r"too symmetric.* after 1000 attempts.* records.* \(4, 8, 8\)") as caught:
        network_key(layered([list(some) for some in combinations(range(8), 4)]))
    assert "canonical()" in caught.value.hint


def test_every_field_of_a_record_counts():
    net = NetworkBuilder((4, 8, 8))
    net.conv(0, 4, kernel=3)
    (start, conv) = net.network
    changes = [
        {"stride": (2, 2)},
        {"dilation": (2, 2)},
        {"groups": 2},
        {"kernel": (3, 1)},
        {"bias": True},
        {"batch_norm": False},
        {"activation": "relu"},
        {"activation": "relu6"},
    ]
    keys = {network_key((start, replace(conv, **change))) for change in [{}, *changes]}
    assert len(keys) == 1 + len(changes)


@pytest.mark.parametrize("method", ["simplest", "grow"])
def test_what_cannot_be_derived_is_said_to_be_missing(method):
    bare = Bare("8,8x1,8x2s2,8")
    arguments = (3, np.random.default_rng(0)) if method == "simplest" else (np.zeros((1, 3), dtype=np.int64),)
    with pytest.raises(InputError, match=rf"{bare.name} must give .* PNAS and EPNAS need, .* does not give {method}"):
        getattr(bare, method)(*arguments)


def test_ranges():
    bare = Bare("8,8x1,8x2s2,8")
    rows = np.array([[0, 0, 0], [2, 5, 6], [3, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 7]])
    assert bare.in_range(rows).tolist() == [True, True, False, False, False, False]
