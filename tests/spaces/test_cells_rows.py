"""Rows of the cell spaces: which are valid, what is said of the others, drawing, growing, texts."""

import math
import pickle
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from spaces import SPACES, InputError, Task, get_space, parse_arch
from spaces.cells import CellSpace

NAMES = ["pnas", "pnas@1x4,b2", "nasnet", "nasnet@1x96,b2,norms", "darts", "darts@4x4,repeats"]


def valid_by_definition(space: CellSpace, row: list[int]) -> bool:
    """Block by block: all genes or none, none after a missing one, one at least of each kind, inputs made before."""
    width, kinds = space.genes_per_block, len(space.kinds)
    blocks = [row[i : i + width] for i in range(0, len(row), width)]
    used = [block != [-1] * width for block in blocks]
    n = sum(used)
    if n < kinds or used != [True] * n + [False] * (len(blocks) - n):
        return False
    for number, (one, other, *rest) in enumerate(blocks[:n]):
        states = 2 + number // kinds
        sizes = [len(space.operations)] * 2 + [len(space.combinations)] * (width - 4)
        if not (0 <= one < states and 0 <= other < states):
            return False
        if not all(0 <= gene < size for gene, size in zip(rest, sizes, strict=True)):
            return False
        if space.distinct_inputs and one >= other:
            return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_validity_by_its_definition(name):
    space, rng = get_space(name), np.random.default_rng(1)
    rows = space.sample(3000, rng)
    assert space.is_valid(rows).all()
    assert all(valid_by_definition(space, row) for row in rows[:200].tolist())
    places = rng.integers(0, rows.shape[1], (3000, 2))
    values = rng.integers(-2, 15, (3000, 2))
    rows[np.arange(3000)[:, None], places] = values
    cut = rng.random(3000) < 0.3
    width = space.genes_per_block
    rows[cut] = np.where(np.arange(rows.shape[1]) < width * rng.integers(0, 7, (cut.sum(), 1)), rows[cut], -1)
    expected = [valid_by_definition(space, row) for row in rows.tolist()]
    assert space.is_valid(rows).tolist() == expected
    assert 100 < sum(expected) < 2900
    for row, is_valid in zip(rows[:300], expected, strict=False):
        if not is_valid:
            assert space.why_invalid(row).startswith("gene ")


def test_validity_of_nobody():
    assert get_space("nasnet").is_valid(np.empty((0, 50), dtype=np.int64)).shape == (0,)


PNAS = "0-0-1-6-1-1-2-6-1-1-1-0-4-1-0-6-0-1-0-4"
INVALID = [
    ("pnas", PNAS.replace("4-1-0-6", "5-1-0-6"), ("gene 12 ", "first input of block 4, cell", "0..4", "got 5")),
    ("pnas", "0-2-1-6", ("gene 1 ", "second input of block 1", "earlier state, 0..1", "got 2")),
    ("pnas", "0-1-8-0", ("gene 2 ", "first operation of block 1", "0..7", "got 8")),
    ("pnas", "0-1-7-0-2", ("gene 5 ", "second input of block 2", "missing")),
    ("pnas", "0", ("gene 1 ", "missing")),
    ("nasnet", "0-0-0-0-0", ("gene 5 ", "first input of block 1, reduction", "missing")),
    ("nasnet", "0-0-0-0-0-0-0-0-0-2", ("gene 9 ", "combination of block 1, reduction", "0..1", "got 2")),
    ("nasnet", "0-0-0-13-0-0-0-0-0-0", ("gene 3 ", "second operation of block 1, normal", "0..12", "got 13")),
    ("darts", "0-1-0-0-1-1-0-0", ("gene 5 ", "second input of block 1, reduction", "later state", "got 1")),
    ("darts", "0-1-0-0-0-1-0-0-1-3-0-0", ("gene 9 ", "second input of block 2, normal", "0..2", "got 3")),
    ("pnas@1x4,b1", PNAS, ("4 genes", "got 20")),
]


@pytest.mark.parametrize(("name", "genes", "words"), INVALID)
def test_what_is_said_of_an_invalid_architecture(name, genes, words):
    space, text = get_space(name), f"{name}:{genes}"
    for attempt in (
        lambda: space.parse(text),
        lambda: space.layers(parse_arch(text), Task(32, 10)),
        lambda: space.build(parse_arch(text), Task(32, 10)),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert all(word in str(caught.value) for word in words), caught.value


def test_a_text_of_another_space_says_which():
    with pytest.raises(InputError, match=r"'pnas@3x54', not of 'pnas'"):
        get_space("pnas").parse(f"pnas@3x54:{PNAS}")


@pytest.mark.parametrize("name", NAMES)
def test_text_round_trip(name):
    space = get_space(name)
    for row in space.sample(20, np.random.default_rng(0)):
        row[12 if len(space.kinds) == 1 else 4 * space.genes_per_block :] = -1
        arch = space.parse(space.format(row))
        assert np.array_equal(space.row(arch), row)
    assert pickle.loads(pickle.dumps(space)) == space


GOOD = ["", "1x24", "99x24000", "2x48,b3", "2x96,imagenet", "2x48,cifar,stem7,b1"]
MALFORMED = ["2", "x24", "2x", "0x24", "100x24", "2x24,", "2x24,,b3", "2x24,b0", "2x24,b8", "2x24,b3,b3", "2x24,c3"]
MALFORMED += ["2x24,imagenet,cifar", "2x24 ", "2X24", "2x24,stem0", "2x24,keep", "2x24,keepx", "2x240000", "２x24"]


@pytest.mark.parametrize("family", ["nasnet", "pnas"])
@pytest.mark.parametrize("text", GOOD)
def test_skeletons(family, text):
    space = get_space(f"{family}@{text}" if text else family)
    assert space.name == (f"{family}@{text}" if text else family)
    blocks = int(text.partition("b")[2][:1] or 5)
    assert len(space.choices) == blocks * {"nasnet": 10, "pnas": 4}[family]


@pytest.mark.parametrize("family", ["nasnet", "pnas", "darts"])
@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_skeletons(family, text):
    with pytest.raises(InputError, match=f"skeleton of {family}") as caught:
        get_space(f"{family}@{text}")
    assert repr(text) in str(caught.value)
    assert f"{family}@" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nasnet@4x1050", "multiple of 24"),
        ("nasnet@4x48,b2,keepn4", "keeps a state"),
        ("nasnet@4x48,b2,keepr9", "keeps a state"),
        ("pnas@4x48,b2,keep4", "keeps a state"),
        ("darts@3x16", "at least 4 cells"),
    ],
)
def test_impossible_skeletons(name, words):
    with pytest.raises(InputError, match=words):
        get_space(name)


@pytest.mark.parametrize(
    ("family", "few", "enough"),
    [("nasnet", (24, 48, 72), 96), ("pnas", (1, 2, 3), 4), ("darts", (1,), 2)],
)
def test_the_imagenet_form_has_no_maps_without_channels(family, few, enough):
    """Its first cells have a quarter of the filters, DARTS's first convolution half of them."""
    large, small = Task(128, 10), Task(32, 10)
    space = get_space(f"{family}@4x{enough},imagenet")
    row = space.sample(1, np.random.default_rng(0))
    assert min(layer.shape[0] for layer in space.layers(space.arch(row[0]), large)) == 1
    for filters in few:
        with pytest.raises(
            InputError, match=f"ImageNet form of {family} needs at least {enough} filters, got {filters}"
        ):
            get_space(f"{family}@4x{filters},imagenet")
        space = get_space(f"{family}@4x{filters}")
        assert space.counts(row, small)[0] > 0
        for attempt in (lambda: space.counts(row, large), lambda: space.layers(space.arch(row[0]), large)):  # noqa: B023
            with pytest.raises(InputError, match=f"needs at least {enough} filters") as caught:
                attempt()
            assert "cifar" in caught.value.hint


def all_rows(space: CellSpace) -> np.ndarray:
    """Every valid row, by trying every row."""
    values = [[-1, *range(size)] for size in space.choices]
    return np.array([row for row in product(*values) if valid_by_definition(space, list(row))])


class Tiny(CellSpace):
    """PNAS with two operations and at most two blocks: small enough to list."""

    name = "tiny"
    kinds = ("cell",)
    operations = ("identity", "max 3x3")
    combinations = ("add",)
    blocks = 2
    distinct_inputs = False
    kept = np.zeros((1, 4), dtype=bool)
    imagenet_form = False

    def _inner(self):
        return get_space("pnas@1x4,b2,cifar")

    def slots(self, imagenet):
        return self._inner().slots(imagenet)

    def add_stem(self, net, imagenet):
        return self._inner().add_stem(net, imagenet)

    def add_input(self, net, x, state, size, filters):
        return self._inner().add_input(net, x, state, size, filters)

    def add_operation(self, net, x, operation, filters, stride):
        return self._inner().add_operation(net, x, (4, 6)[operation], filters, stride)

    def add_head(self, net, x, task):
        return self._inner().add_head(net, x, task)

    def auxiliary_after(self, imagenet):
        return 1

    def drops(self, operation, stride):
        return operation == 1


class TinyDistinct(Tiny):
    name = "tiny-distinct"
    distinct_inputs = True


class TinyPair(Tiny):
    """Two kinds of cell of at most one block, add or concat."""

    name = "tiny-pair"
    kinds = ("normal", "reduction")
    combinations = ("add", "concat")
    operations = ("max 3x3",)
    blocks = 1
    kept = np.zeros((2, 3), dtype=bool)


@pytest.mark.parametrize("space", [Tiny(), TinyDistinct(), TinyPair()], ids=lambda space: space.name)
def test_sampling_is_uniform_over_all_rows(space):
    rows = all_rows(space)
    assert len(rows) == space.cardinality
    index = {tuple(row): i for i, row in enumerate(rows.tolist())}
    drawn = space.sample(50 * len(rows), np.random.default_rng(3))
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(rows))
    assert chisquare(counts).pvalue > 1e-3


def units_changed(space: CellSpace, parents: np.ndarray, children: np.ndarray) -> np.ndarray:
    """(n, units): which genes differ, where both inputs of a block are one gene if they must be distinct."""
    changed = (children != parents).reshape(len(parents), -1, space.genes_per_block)
    if space.distinct_inputs:
        changed = np.concatenate([changed[..., :2].any(axis=2, keepdims=True), changed[..., 2:]], axis=2)
    return changed.reshape(len(parents), -1)


@pytest.mark.parametrize("name", [*NAMES, "darts@4x2"])
@pytest.mark.parametrize("rate", [None, 0.0, 0.3, 1.0])
def test_mutants_are_valid_and_differ(name, rate):
    space, rng = get_space(name), np.random.default_rng(1)
    parents = space.sample(500, rng)
    parents[::2, 2 * len(space.kinds) * space.genes_per_block :] = -1
    children = space.mutate(parents, rng, rate=rate)
    assert space.is_valid(children).all()
    assert np.array_equal(children < 0, parents < 0)
    changed = units_changed(space, parents, children)
    assert (changed.sum(axis=1) >= 1).all()
    if rate == 0.0:
        assert (changed.sum(axis=1) == 1).all()
    elif rate == 1.0:
        only_pair = np.zeros_like(changed)
        if space.distinct_inputs:
            only_pair[:, [0, space.genes_per_block - 1]] = True  # of the first block of each kind: states 0 and 1
        unused = units_changed(space, parents, np.full_like(parents, -1)) == 0
        assert np.array_equal(changed, ~only_pair & ~unused)


def test_every_pair_of_distinct_inputs_is_reached_evenly():
    """From (0, 1) of three states to (0, 2) and (1, 2), of which the second differs in both genes."""
    space = get_space("darts@4x2")
    parent = np.full((1, 32), -1)
    parent[0, :12] = [0, 1, 3, 3, 0, 1, 3, 3, 0, 1, 3, 3]
    children = space.mutate(np.repeat(parent, 20_000, axis=0), np.random.default_rng(0), rate=0.0)
    pairs = children[(children[:, :12] != parent[:, :12])[:, 8:10].any(axis=1), 8:10].tolist()
    counts = [pairs.count([0, 2]), pairs.count([1, 2])]
    assert sum(counts) == len(pairs)
    assert chisquare(counts).pvalue > 1e-3
    # One of the seven genes that may change in three blocks is such a pair.
    assert len(pairs) / 20_000 == pytest.approx(1 / 7, abs=4 * np.sqrt(6 / 49 / 20_000))


@pytest.mark.parametrize("name", NAMES)
def test_children_of_two_have_genes_of_both(name):
    space, rng = get_space(name), np.random.default_rng(6)
    mothers, fathers = space.sample(1000, rng), space.sample(1000, rng)
    mothers[:500, 2 * len(space.kinds) * space.genes_per_block :] = -1
    fathers[250:750, 3 * len(space.kinds) * space.genes_per_block :] = -1
    children = space.crossover(mothers, fathers, rng)
    assert space.is_valid(children).all()
    assert ((children == mothers) | (children == fathers)).all()
    lengths = [space.n_blocks(rows) for rows in (children, mothers, fathers)]
    differ = lengths[1] != lengths[2]
    if differ.sum() > 100:
        assert 0.4 < (lengths[0] == lengths[1])[differ].mean() < 0.6
    both = (mothers != fathers) & (mothers >= 0) & (fathers >= 0) & (children >= 0)
    assert 0.4 < (children == mothers)[both].mean() < 0.6
    assert np.array_equal(space.crossover(mothers, mothers, rng), mothers)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_generator_decides(name):
    space = get_space(name)

    def draw(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        first = space.sample(30, rng)
        return [first, space.mutate(first, rng), space.crossover(first[:15], first[15:], rng), space.simplest(9, rng)]

    once = draw(7)
    assert all(np.array_equal(a, b) for a, b in zip(once, draw(7), strict=True))
    assert not np.array_equal(once[0], draw(8)[0])


@pytest.mark.parametrize("space", [Tiny(), TinyDistinct(), TinyPair(), get_space("pnas@1x4,b2")], ids=lambda s: s.name)
def test_growth_from_nothing_reaches_every_row_once(space):
    level = np.full((1, len(space.choices)), -1)
    reached = []
    while len(level):
        level = space.grow(level)
        reached.append(level)
    rows = np.concatenate(reached)
    rows = rows[space.n_blocks(rows) >= len(space.kinds)]
    assert space.is_valid(rows).all()
    assert len(np.unique(rows, axis=0)) == len(rows) == space.cardinality


def test_children_have_one_block_more_and_follow_their_parents():
    space, rng = get_space("nasnet@1x48,b2"), np.random.default_rng(2)
    parents = space.sample(4, rng)
    parents[0, 10:] = parents[2, 15:] = -1  # one block each; two normal and one reduction; complete
    children = space.grow(parents)
    ways = 3**2 * 13**2 * 2
    assert len(children) == 2 * ways
    assert np.array_equal(children[:ways, :10], np.repeat(parents[:1, :10], ways, axis=0))
    assert (children[:ways, 15:] == -1).all()
    assert np.array_equal(children[ways:, :15], np.repeat(parents[2:3, :15], ways, axis=0))
    assert space.is_valid(children).all()
    assert len(np.unique(children, axis=0)) == len(children)
    assert space.grow(parents[1:2]).shape == (0, 20)
    assert space.grow(parents[:0]).shape == (0, 20)


@pytest.mark.parametrize("name", NAMES)
def test_the_simplest_are_different_networks_of_fewest_blocks(name):
    space = get_space(name)
    rows = space.simplest(100, np.random.default_rng(0))
    assert space.is_valid(rows).all()
    assert len(rows) == 100 == len(np.unique(space.canonical(rows), axis=0))
    assert (space.n_blocks(rows) == len(space.kinds)).all()


def test_after_all_of_one_block_come_some_of_two():
    space = get_space("pnas")
    rows = space.simplest(200, np.random.default_rng(0))
    assert len(np.unique(space.canonical(rows), axis=0)) == 200
    assert space.n_blocks(rows).tolist() == 136 * [1] + 64 * [2]
    tiny = Tiny()
    everything = tiny.simplest(10_000, np.random.default_rng(0))
    assert len(everything) == len(np.unique(tiny.canonical(all_rows(tiny)), axis=0))


def test_the_simplest_are_drawn_evenly():
    counts = np.zeros(136)
    space, rng = get_space("pnas"), np.random.default_rng(4)
    keys = np.unique(space.canonical(space.grow(np.full((1, 20), -1))), axis=0)
    index = {tuple(key): i for i, key in enumerate(keys.tolist())}
    for _ in range(300):
        for key in space.canonical(space.simplest(20, rng)).tolist():
            counts[index[tuple(key)]] += 1
    # Each draw takes 20 different ones of 136, so the counts vary a little less than chi-squared says.
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_all_children_of_256_cells_of_four_blocks():
    """589,824 rows grown, made canonical and deduplicated; in memory that a small machine has."""
    space, rng = get_space("pnas"), np.random.default_rng(0)
    rows = space.sample(256, rng)
    rows[:, 16:] = -1
    children = space.grow(rows)
    assert len(children) == 256 * 6**2 * 8**2
    keys = np.unique(space.canonical(children), axis=0)
    # A block is one of 48 pairs of input and operation, unordered; the row that it joins is distinct, if drawn so.
    assert len(keys) <= 256 * 48 * 49 // 2
    assert len(keys) > 0.95 * 256 * 48 * 49 // 2


# Graphs


def test_a_graph_by_hand():
    """Two blocks: the second reads the first and state 1; the output joins the second alone."""
    space = get_space("pnas@1x4,b3")
    graphs = space.graphs(np.array([[0, 1, 6, 0, 2, 1, 4, 5, -1, -1, -1, -1]]))
    key = space.canonical(np.array([[0, 1, 6, 0, 2, 1, 4, 5, -1, -1, -1, -1]]))[0]
    assert key.tolist() == [0, 1, 6, 0, 1, 2, 5, 4, -1, -1, -1, -1]
    add, first, second, output = 8, 9, 10, 11
    assert graphs.operations.tolist() == [[first, second, 6, 0, add, 5, 4, add, -1, -1, -1, output]]
    edges = np.argwhere(graphs.adjacency[0]).tolist()
    assert edges == [[0, 2], [1, 3], [1, 5], [2, 4], [3, 4], [4, 6], [5, 7], [6, 7], [7, 11]]
    assert graphs.attributes.shape == (1, 12, 0)
    assert graphs.n_operations == 12


@pytest.mark.parametrize("name", NAMES)
def test_graphs_of_pairs_stand_side_by_side(name):
    space = get_space(name)
    rows = space.sample(50, np.random.default_rng(0))
    rows[::2, -space.genes_per_block :] = -1
    graphs = space.graphs(rows)
    kinds, nodes = len(space.kinds), 2 + 3 * space.blocks + 1
    assert graphs.operations.shape == (50, kinds * nodes)
    assert graphs.operations.max() == graphs.n_operations - 1
    present = graphs.operations >= 0
    assert not (graphs.adjacency & ~(present[:, :, None] & present[:, None, :])).any()
    if kinds == 2:
        assert not graphs.adjacency[:, :nodes, nodes:].any()
        assert not graphs.adjacency[:, nodes:, :nodes].any()
        assert np.array_equal(graphs.attributes[..., 0] + graphs.attributes[..., 1], present)
        assert not graphs.attributes[:, :nodes, 1].any()
    is_operation = (graphs.operations >= 0) & (graphs.operations < len(space.operations))
    assert np.array_equal(graphs.adjacency.sum(axis=1)[is_operation], np.ones(is_operation.sum()))
    assert np.array_equal(is_operation.sum(axis=1), 2 * space.n_blocks(rows))


@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**32))
def test_every_space_gives_rows_that_it_calls_valid(name, seed):
    space = get_space(name)
    rows = space.sample(5, np.random.default_rng(seed))
    assert space.is_valid(rows).all()
    assert (rows < np.array(space.choices)).all()


def test_rows_of_one_darts_cell():
    """8.3e10 where both inputs are drawn independently, 1.04e9 where they are distinct: whole cells, and pairs."""
    independent = math.prod((nodes * 7) ** 2 for nodes in range(2, 6))
    distinct = math.prod(math.comb(nodes, 2) * 7**2 for nodes in range(2, 6))
    assert f"{independent:.1e}" == "8.3e+10"
    assert f"{distinct:.2e}" == "1.04e+09"
    for name, of_one in (("darts@8x16,repeats", lambda n: (n * 7) ** 2), ("darts", lambda n: math.comb(n, 2) * 7**2)):
        ways = [of_one(nodes) for nodes in (2, 2, 3, 3, 4, 4, 5, 5)]
        assert get_space(name).cardinality == sum(math.prod(ways[:size]) for size in range(2, 9))


def test_rows_of_nasnet():
    ways = [(states * 13) ** 2 * 2 for states in (2, 2, 3, 3, 4, 4, 5, 5, 6, 6)]
    assert get_space("nasnet").cardinality == sum(math.prod(ways[:size]) for size in range(2, 11))
    assert len(get_space("nasnet").operations) == 13
    assert len(get_space("pnas").operations) == 8
    assert len(get_space("darts").operations) == 7
