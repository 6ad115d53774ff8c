"""NAS-Bench-101 cells against definitions in plain Python, networkx, torch, and facts of the released code."""

from itertools import permutations

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st
from outside import CELLS, cells_of_the_table, column, distinct, needs
from scipy.stats import chisquare

from spaces import InputError, Task, get_space
from spaces.nasbench101 import MAX_EDGES, NASBench101Space, pruned, rows_from_bits, vertex_widths

SPACE = NASBench101Space()
SMALL = NASBench101Space("2x1x9")  # 9 channels do not divide by 2 or 4: vertices differ in width
LENGTHS = {1: 0, 4: 1, 8: 2, 13: 3, 19: 4, 26: 5}  # genes: vertices between input and output
SINGLE_EDGE = np.array([[1, *25 * [-1]]])


def read(row) -> nx.DiGraph:
    """The cell of a row, gene by gene: nodes "in", 1, 2, ..., "out" with their kinds."""
    genes = iter(int(gene) for gene in row if gene >= 0)
    cell = nx.DiGraph()
    cell.add_node("in", kind="in")
    cell.add_node("out", kind="out")
    if next(genes):
        cell.add_edge("in", "out")
    for v in range(1, 1 + LENGTHS[sum(gene >= 0 for gene in row)]):
        cell.add_node(v, kind=next(genes))
        for u in ("in", *range(1, v)):
            if next(genes):
                cell.add_edge(u, v)
        if next(genes):
            cell.add_edge(v, "out")
    return cell


def write(cell: nx.DiGraph) -> list[int]:
    """The row of a cell whose vertices are numbered in an order of their edges."""
    inside = sorted(node for node in cell if node not in ("in", "out"))
    genes = [int(cell.has_edge("in", "out"))]
    for i, v in enumerate(inside):
        genes += [cell.nodes[v]["kind"], *(int(cell.has_edge(u, v)) for u in ("in", *inside[:i]))]
        genes.append(int(cell.has_edge(v, "out")))
    return genes + [-1] * (26 - len(genes))


def alive(cell: nx.DiGraph) -> set:
    return (nx.descendants(cell, "in") | {"in"}) & (nx.ancestors(cell, "out") | {"out"})


def is_valid_by_definition(row) -> bool:
    row = [int(gene) for gene in row]
    used = [gene for gene in row if gene != -1]
    if len(used) not in LENGTHS or row[: len(used)] != used:
        return False
    if any(not 0 <= gene < size for gene, size in zip(used, SPACE.choices, strict=False)):
        return False
    cell = read(row)
    return cell.number_of_edges() <= 9 and nx.has_path(cell, "in", "out") and alive(cell) == set(cell)


def smallest_form(cell: nx.DiGraph) -> tuple:
    """Operations and edges under the names that make them the least: equal for isomorphic cells only."""
    inside = [node for node in cell if node not in ("in", "out")]
    forms = []
    for names in permutations(range(1, 1 + len(inside))):
        name = {"in": 0, "out": 9, **dict(zip(inside, names, strict=True))}
        kinds = sorted((name[v], cell.nodes[v]["kind"]) for v in inside)
        forms.append((kinds, sorted((name[u], name[v]) for u, v in cell.edges)))
    return min(forms)


def reordered(row, rng: np.random.Generator) -> list[int]:
    """The same cell with its vertices in another order that their edges allow."""
    cell, place = read(row), {}
    while len(place) < len(cell) - 2:
        free = [v for v in cell if v not in place and v not in ("in", "out") and set(cell.pred[v]) <= {"in", *place}]
        place[free[rng.integers(len(free))]] = len(place) + 1
    return write(nx.relabel_nodes(cell, place))


def up_to(vertices: int) -> np.ndarray:
    return np.concatenate([SPACE.of_size(v) for v in range(2, vertices + 1)])


def as_set(rows) -> set[tuple[int, ...]]:
    return {tuple(row) for row in np.asarray(rows).tolist()}


# Rows and texts


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(-1, 3)), max_size=4), st.integers(0, 2**32))
def test_validity_near_the_border(changes, seed):
    rng = np.random.default_rng(seed)
    row = SPACE.numbered(np.array([rng.integers(0, SPACE.cardinality) // 10 ** rng.integers(0, 6)]))[0]
    for gene, value in changes:
        row[gene] = value
    assert SPACE.is_valid(row[None])[0] == is_valid_by_definition(row)


def test_validity_of_random_rows():
    """Every vertex present, edges drawn with all densities: unconnected, dead, crowded and valid ones."""
    rng = np.random.default_rng(0)
    density = rng.uniform(0.2, 0.8, size=(3000, 1))
    rows = np.where(np.array(SPACE.choices) == 3, rng.integers(0, 3, (3000, 26)), rng.random((3000, 26)) < density)
    for length in LENGTHS:
        rows[:, length:] = np.where(rng.random((3000, 1)) < 0.1, -1, rows[:, length:])
    answers = SPACE.is_valid(rows)
    assert answers.tolist() == [is_valid_by_definition(row) for row in rows]
    assert 100 < answers.sum() < 2900
    assert SPACE.is_valid(rows[:0]).shape == (0,)


def test_number_of_rows_by_counting_through_all_matrices():
    """A matrix, as a bit mask, is a cell if every vertex has an edge in and out, and there are at most 9."""
    for vertices in range(2, 8):
        pairs = [(x, y) for y in range(vertices) for x in range(y)]
        masks = np.arange(2 ** len(pairs), dtype=np.int32)
        good = sum((masks >> bit & 1) for bit in range(len(pairs))) <= MAX_EDGES
        for v in range(vertices):
            into = sum(1 << bit for bit, (_, y) in enumerate(pairs) if y == v)
            out = sum(1 << bit for bit, (x, _) in enumerate(pairs) if x == v)
            good &= ((masks & into) > 0) | (v == 0)
            good &= ((masks & out) > 0) | (v == vertices - 1)
        rows = SPACE.of_size(vertices)
        assert len(rows) == good.sum() * 3 ** (vertices - 2)
        assert SPACE.is_valid(rows).all()
        assert len(np.unique((rows + 1) @ 4 ** np.arange(26))) == len(rows)
    assert SPACE.cardinality == sum(len(SPACE.of_size(v)) for v in range(2, 8)) == 1_293_208


INVALID = [
    ("0", ("gene 0 (edge from input to output)", "must be 1")),
    ("2", ("gene 0 ", "0..1", "got 2")),
    ("0-3-1-1", ("gene 1 (operation of vertex 1)", "0..2", "got 3")),
    ("0-1-1", ("gene 3 (edge from vertex 1 to output) is missing", "1, 4, 8, 13, 19 or 26", "got 3")),
    ("0-1-1-1-0", ("gene 5 (edge from input to vertex 2) is missing", "got 5")),
    ("0-1-1-0", ("vertex 1 (genes 1 to 3)", "no edge from it")),
    ("1-1-1-1-0-0-0-1", ("vertex 2 (genes 4 to 7)", "no edge to it")),
    ("1-0-1-1-0-1-1-1-0-1-1-1-1-0-0-1-0-0-1", ("at most 9 edges, got 12", "gene 12 (edge from vertex 3 to output)")),
    ("-".join("0" * 27), ("26 genes", "got 27")),
]


@pytest.mark.parametrize(("genes", "words"), INVALID)
def test_what_is_said_of_an_invalid_cell(genes, words):
    with pytest.raises(InputError) as caught:
        SPACE.parse(f"nasbench101:{genes}")
    assert all(word in str(caught.value) for word in words), caught.value


def test_every_invalid_row_has_a_reason():
    rng = np.random.default_rng(1)
    rows = SPACE.sample(400, rng)
    rows[np.arange(400), rng.integers(0, 26, 400)] = rng.integers(-2, 4, 400)
    for row in rows[~SPACE.is_valid(rows)]:
        assert "gene" in SPACE.why_invalid(row)


def test_texts_round_trip():
    for row in SMALL.sample(50, np.random.default_rng(2)):
        text = SMALL.format(row)
        assert text.startswith("nasbench101@2x1x9:")
        assert np.array_equal(SMALL.row(SMALL.parse(text)), row)
        assert get_space(SMALL.parse(text).space) == SMALL


@pytest.mark.parametrize(
    "text", ["3x3", "3x3x3", "0x3x128", "3x0x128", "10x1x16", "3x3x128 ", "a", "3x3x12800", "٣x3x16"]
)
def test_malformed_skeletons(text):
    with pytest.raises(InputError, match="STACKSxCELLSxSTEM") as caught:
        get_space(f"nasbench101@{text}")
    assert "nasbench101@3x3x128" in caught.value.hint


def test_the_default_skeleton_is_the_papers():
    task, arch = Task(32, 10), "0-0-1-1"
    named = get_space("nasbench101@3x3x128")
    assert named.layers(named.parse(f"nasbench101@3x3x128:{arch}"), task) == SPACE.layers(
        SPACE.parse(f"nasbench101:{arch}"), task
    )


# Rows from the bits of a table


def test_rows_from_the_bits_of_a_matrix():
    rng = np.random.default_rng(3)
    rows = np.concatenate([up_to(4), SPACE.sample(50, rng)])
    bits, codes = [], []
    for row in rows:
        cell = read(row)
        number = {"in": 0, "out": len(cell) - 1}
        edges = [(number.get(u, u), number.get(v, v)) for u, v in cell.edges]
        bits.append(sum(1 << (x + y * (y - 1) // 2) for x, y in edges))
        codes.append("".join(str(cell.nodes[v]["kind"]) for v in sorted(set(cell) - {"in", "out"})))
    assert np.array_equal(rows_from_bits(np.array(bits), codes), rows)


@pytest.mark.parametrize(
    ("bits", "codes", "words"),
    [
        ([1, 1], ["", "3"], "cell 1 is not valid.*got 3"),
        ([0], [""], "cell 0 is not valid: gene 0"),
        ([1], ["000000"], "at most 5 operations"),
        ([1, 1], [""], "got 2 cells and 1 texts"),
        ([5], ["x"], "cell 0 is not valid.*operation of vertex 1"),
    ],
)
def test_bits_that_are_no_cells(bits, codes, words):
    with pytest.raises(InputError, match=words):
        rows_from_bits(np.array(bits), codes)


# Keys


def test_keys_of_all_cells_of_up_to_five_vertices_by_brute_force():
    rows = up_to(5)
    keys = [tuple(key) for key in SPACE.canonical(rows).tolist()]
    forms = [str(smallest_form(read(row))) for row in rows]
    pairs = set(zip(keys, forms, strict=True))
    assert len(pairs) == len(set(keys)) == len(set(forms)) == 2_532


def test_keys_of_large_cells_by_isomorphism():
    """Pairs that are often isomorphic: the same cell in another order, with one gene changed in half of them."""
    rng = np.random.default_rng(4)
    rows = np.concatenate([SPACE.sample(300, rng), SPACE.of_size(6)[rng.integers(0, 125_145, 100)]])
    others = np.where(rng.random((400, 1)) < 0.5, SPACE.mutate(rows, rng, rate=0.0), rows)
    others = np.array([reordered(row, rng) for row in others])
    assert SPACE.is_valid(others).all()
    same_key = (SPACE.canonical(rows) == SPACE.canonical(others)).all(axis=1)
    same_cell = [
        nx.is_isomorphic(read(a), read(b), node_match=lambda x, y: x["kind"] == y["kind"])
        for a, b in zip(rows, others, strict=True)
    ]
    assert same_key.tolist() == same_cell
    assert 100 < same_key.sum() < 300


def test_keys_are_valid_rows_of_the_same_cell():
    rows = np.concatenate([up_to(4), SPACE.sample(500, np.random.default_rng(5))])
    keys = SPACE.canonical(rows)
    assert SPACE.is_valid(keys).all()
    assert np.array_equal(SPACE.canonical(keys), keys)
    for row, key in zip(rows[::5], keys[::5], strict=True):
        assert smallest_form(read(row)) == smallest_form(read(key))
    assert SPACE.canonical(rows[:0]).shape == (0, 26)


def test_keys_are_equal_if_and_only_if_the_records_are(record_key):
    rows = up_to(4)
    keys = [tuple(key) for key in SMALL.canonical(rows).tolist()]
    records = [record_key(SMALL, row, Task(8, 2)) for row in rows]
    assert len(set(zip(keys, records, strict=True))) == len(set(keys)) == len(set(records)) == 91


def test_what_is_dead_for_the_output_does_not_count():
    rng = np.random.default_rng(6)
    rows = np.where(np.array(SPACE.choices) == 3, rng.integers(0, 3, (800, 26)), rng.random((800, 26)) < 0.25)
    rows = rows[[nx.has_path(read(row), "in", "out") for row in rows]].astype(np.int64)
    small = pruned(rows)
    expected = [write(read(row).subgraph(alive(read(row)))) for row in rows]
    assert small.tolist() == expected
    assert (small != rows).any(axis=1).sum() > 100
    few = (small == 1).sum(axis=1) <= MAX_EDGES  # operations count here too, so these have few edges for certain
    assert np.array_equal(SPACE.canonical(rows[few]), SPACE.canonical(small[few]))
    assert SPACE.is_valid(small[few]).all()
    assert np.array_equal(pruned(small), small)


# Draws


def test_sampling_is_uniform_over_valid_rows():
    """Shares of rows of each size, edge count and operations of the first vertices, against those of all rows."""

    def kinds(rows) -> np.ndarray:
        edges = (np.where(np.array(SPACE.choices) == 2, rows, 0) == 1).sum(axis=1)
        return np.unique(
            np.stack([(rows >= 0).sum(axis=1), edges, rows[:, 1], rows[:, 4], rows[:, 0]]), axis=1, return_counts=True
        )

    every = kinds(up_to(7))
    drawn = kinds(SPACE.sample(200_000, np.random.default_rng(7)))
    share = {tuple(kind): count / SPACE.cardinality for kind, count in zip(every[0].T, every[1], strict=True)}
    count = {tuple(kind): count for kind, count in zip(drawn[0].T, drawn[1], strict=True)}
    assert set(count) <= set(share)
    often = [kind for kind in share if share[kind] * 200_000 > 10]
    seen = [count.get(kind, 0) for kind in often]
    expected = [share[kind] * 200_000 for kind in often]
    rest = 200_000 - sum(seen), 200_000 - sum(expected)
    assert len(often) > 50
    assert chisquare([*seen, rest[0]], [*expected, rest[1]]).pvalue > 1e-3


def test_sampling_reaches_rows_one_by_one():
    """Among the rows of one shape all operations are equally likely, and so are all shapes."""
    numbers = SPACE.numbered(np.arange(SPACE.cardinality)[:97])
    assert as_set(numbers) == as_set(up_to(4))
    drawn = SPACE.sample(100_000, np.random.default_rng(8))
    index = np.unique((drawn + 1) @ 4 ** np.arange(26), return_counts=True)[1]
    # A row is drawn k times with Poisson chances of mean 100,000 / 1,293,208.
    mean = 100_000 / SPACE.cardinality
    expected = SPACE.cardinality * np.exp(-mean) * np.array([mean, mean**2 / 2, mean**3 / 6])
    for times, number in enumerate(expected, start=1):
        assert abs((index == times).sum() - number) < 5 * np.sqrt(number)


@pytest.mark.parametrize("rate", [None, 0.0, 0.3])
def test_mutants_are_valid_differ_and_change_size(rate):
    rng = np.random.default_rng(9)
    parents = np.concatenate([SPACE.sample(1000, rng), np.repeat(up_to(4), 10, axis=0)])
    before = parents.copy()
    children = SPACE.mutate(parents, rng, rate=rate)
    assert np.array_equal(parents, before)
    assert SPACE.is_valid(children).all()
    assert (children != parents).any(axis=1).all()
    sizes, old = (children >= 0).sum(axis=1), (parents >= 0).sum(axis=1)
    assert (sizes > old).sum() > 20
    assert (sizes < old).sum() > 20


def test_mutation_comes_from_the_smallest_cell_to_all_sizes():
    rng, rows, seen = np.random.default_rng(10), np.repeat(SINGLE_EDGE, 50, axis=0), set()
    for _ in range(30):
        rows = SPACE.mutate(rows, rng)
        seen |= set((rows >= 0).sum(axis=1).tolist())
    assert seen == set(LENGTHS)


def test_children_of_two_cells():
    rng = np.random.default_rng(11)
    mothers, fathers = (
        SPACE.sample(1000, rng),
        np.concatenate([SPACE.sample(500, rng), up_to(5)[rng.integers(0, 3364, 500)]]),
    )
    children = SPACE.crossover(mothers, fathers, rng)
    assert SPACE.is_valid(children).all()
    assert (children != mothers).any(axis=1).mean() > 0.5
    assert (children != fathers).any(axis=1).mean() > 0.5
    assert np.array_equal(SPACE.crossover(mothers, mothers, rng), mothers)
    for child, mother, father in zip(children[:300], mothers, fathers, strict=False):
        if (child >= 0).sum() == (mother >= 0).sum() == (father >= 0).sum() == 26:  # no vertex was taken away
            assert all(c in (m, f) for c, m, f in zip(child, mother, father, strict=True))


# Growth


@pytest.mark.parametrize("vertices", [2, 3, 4, 5])
def test_every_cell_grows_from_smaller_ones_and_nothing_else_does(vertices):
    children = SPACE.grow(SPACE.of_size(vertices))
    assert as_set(children) == as_set(SPACE.of_size(vertices + 1))


def test_cells_of_all_sizes_grow_at_once():
    rng = np.random.default_rng(12)
    rows = np.concatenate([SPACE.of_size(6)[rng.integers(0, 125_145, 100)], up_to(4), SPACE.of_size(7)[:9]])
    children = SPACE.grow(rows)
    assert SPACE.is_valid(children).all()
    assert as_set(children) == set().union(*(as_set(SPACE.grow(row[None])) for row in rows))
    assert len(SPACE.grow(SPACE.of_size(7)[:9])) == len(SPACE.grow(rows[:0])) == 0
    for child in children[:: len(children) // 200]:
        parent, cell = as_set(rows), read(child)
        newest = max(v for v in cell if v not in ("in", "out"))
        readers = [u for u in cell.pred[newest] if len(cell.succ[u]) == 1]  # they must have led to the output before
        cell.remove_node(newest)
        both = [u for u in read(child).pred[newest] if u not in readers and not cell.has_edge(u, "out")]
        cell.add_edges_from((u, "out") for u in readers)
        options = [write(cell)]
        for u in both:  # and these may have
            for option in list(options):
                more = read(option)
                more.add_edge(u, "out")
                options.append(write(more))
        assert any(tuple(option) in parent for option in options)


@pytest.mark.parametrize("k", [0, 1, 7, 50, 300])
def test_the_simplest_cells(k):
    cells = SPACE.simplest(k, np.random.default_rng(13))
    assert SPACE.is_valid(cells).all()
    assert len(cells) == len(as_set(SPACE.canonical(cells))) == k
    sizes = (cells >= 0).sum(axis=1)
    assert (np.diff(sizes) >= 0).all()
    assert [int((sizes == length).sum()) for length in (1, 4, 8, 13)] == [
        min(k, 1), min(max(k - 1, 0), 6), min(max(k - 7, 0), 84), max(k - 91, 0)
    ]  # fmt: skip


def test_the_generator_decides_which_of_the_largest_are_simplest():
    draw = [SPACE.simplest(40, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])


# Graphs


def test_graphs_are_the_cells():
    rows = np.concatenate([up_to(4), SPACE.sample(200, np.random.default_rng(14))])
    graphs = SPACE.graphs(rows)
    assert graphs.operations.shape == (len(rows), 7)
    assert graphs.adjacency.shape == (len(rows), 7, 7)
    assert graphs.attributes.shape == (len(rows), 7, 0)
    assert graphs.n_operations == 5
    for row, operations, edges in zip(rows, graphs.operations.tolist(), graphs.adjacency, strict=True):
        nodes = sum(kind >= 0 for kind in operations)
        assert operations == [3, *operations[1 : nodes - 1], 4] + [-1] * (7 - nodes)
        assert not np.tril(edges).any()
        assert not edges[nodes:].any()
        assert not edges[:, nodes:].any()
        cell = nx.DiGraph([(int(u), int(v)) for u, v in np.argwhere(edges)])
        nx.set_node_attributes(cell, dict(enumerate([*["in"], *operations[1 : nodes - 1], "out"])), "kind")
        assert nx.is_isomorphic(cell, read(row), node_match=lambda x, y: x["kind"] == y["kind"])


def test_isomorphic_cells_have_equal_graphs():
    rng = np.random.default_rng(15)
    rows = SPACE.sample(100, rng)
    first, second = SPACE.graphs(rows), SPACE.graphs(np.array([reordered(row, rng) for row in rows]))
    assert np.array_equal(first.operations, second.operations)
    assert np.array_equal(first.adjacency, second.adjacency)


# Networks


@pytest.mark.parametrize(
    ("edges", "channels", "widths"),
    [  # of model_builder_test.py of the release: edges between numbered vertices, the last being the output
        ("01 12 23", 16, [16, 16]),
        ("01 02 13 23 34", 16, [16, 16, 16]),
        ("01 02 13 23", 8, [4, 4]),
        ("01 02 13 23", 15, [8, 7]),
        ("01 02 03 14 24 34", 8, [3, 3, 2]),
        ("01 02 03 14 24 34", 15, [5, 5, 5]),
        ("01 12 13 24 34", 9, [5, 5, 4]),
        ("01 03 12 14 23 34", 15, [8, 7, 7]),
    ],
)
def test_widths_of_vertices_in_the_released_tests(edges, channels, widths):
    matrix = np.zeros((1, 7, 7), dtype=bool)
    last = max(edges)
    for source, target in edges.split():
        matrix[0, int(source), 6 if target == last else int(target)] = True
    assert vertex_widths(matrix, channels)[0].tolist() == widths + [0] * (5 - len(widths))


def test_a_cell_computes_what_the_paper_says():
    """In -> a, b, c, out; a -> c, out; b -> out; c -> d -> out: sums, a cut to 3 channels, projections, a concat."""
    space = NASBench101Space("1x1x10")
    cell = nx.DiGraph(
        [("in", 1), ("in", 2), ("in", 3), ("in", "out"), (1, 3), (1, "out"), (2, "out"), (3, 4), (4, "out")]
    )
    nx.set_node_attributes(cell, {1: 0, 2: 0, 3: 2, 4: 1}, "kind")
    row = np.array(write(cell))
    assert np.array_equal(space.canonical(row[None])[0], row)  # the vertices are numbered as in the key
    network = space.layers(space.arch(row), Task(6, 3))
    model = space.build(space.arch(row), Task(6, 3)).eval()
    state, convolutions = model.state_dict(), iter(i for i, layer in enumerate(network) if layer.op == "conv")
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    def conv(x, kernel, channels):
        weight = state[f"steps.{next(convolutions)}.0.weight"]
        assert weight.shape == (channels, x.shape[1], kernel, kernel)
        return nnf.relu(nnf.conv2d(x, weight, padding=kernel // 2) / np.sqrt(1 + 1e-5))

    x = conv(images, 3, 10)
    a = conv(conv(x, 1, 4), 3, 4)  # 10 channels between a, b and d: 4, 3, 3
    b = conv(conv(x, 1, 3), 3, 3)
    c = nnf.max_pool2d(a[:, :3] + conv(x, 1, 3), 3, 1, 1)
    d = conv(c, 1, 3)
    y = torch.cat([a, b, d], dim=1) + conv(x, 1, 10)
    scores = y.mean(dim=(2, 3)) @ state[f"steps.{len(network) - 1}.weight"].T + state[f"steps.{len(network) - 1}.bias"]
    with torch.no_grad():
        torch.testing.assert_close(model(images), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("text", "resolution"), [("", 32), ("3x2x5", 9), ("2x1x9", 1), ("4x1x4", 33)])
def test_counts_of_a_population_are_sums_over_its_records(text, resolution):
    space, task = NASBench101Space(text), Task(resolution, 7, channels=2)
    rows = np.concatenate([up_to(3), space.sample(60, np.random.default_rng(16))])
    flops, params = space.counts(rows, task)
    networks = [space.layers(space.arch(row), task) for row in rows]
    assert flops.tolist() == [sum(layer.flops for layer in network) for network in networks]
    assert params.tolist() == [sum(layer.params for layer in network) for network in networks]
    assert flops.dtype == params.dtype == np.int64
    assert [len(values) for values in space.counts(rows[:0], task)] == [0, 0]


def test_stacks_halve_the_map_and_double_the_channels():
    network = SPACE.layers(SPACE.parse("nasbench101:0-0-1-1"), Task(32, 10))
    cells = {layer.block: layer.shape for layer in network if layer.block.startswith("stack")}
    assert list(cells.values()) == 3 * [(128, 32, 32)] + 3 * [(256, 16, 16)] + 3 * [(512, 8, 8)]


# What was released


@needs(CELLS)
def test_cells_of_the_table_are_as_distinct_as_their_hashes():
    (hashes,) = column(CELLS, "hash")
    assert distinct(get_space("nasbench101").canonical(cells_of_the_table())) == len(set(hashes)) == 30_001


@needs(CELLS)
def test_keys_are_the_cells_that_the_table_lists():
    """Of all isomorphic matrices the released generator keeps the first: so do the keys."""
    rows = cells_of_the_table()
    assert np.array_equal(get_space("nasbench101").canonical(rows), rows)


def test_the_inception_like_cell_of_the_release():
    """As NASBench.ipynb of the release asks for it, and the cell and the parameters that it prints in answer."""
    space = get_space("nasbench101")
    asked = space.parse("nasbench101:0-1-1-1-0-1-0-1-0-1-0-0-0-0-0-0-0-1-1-2-1-0-0-0-0-1")
    printed = space.parse("nasbench101:0-0-1-1-1-1-0-1-2-1-0-0-1-0-1-0-0-0-0-0-0-0-0-0-1-1")
    assert np.array_equal(space.canonical(space.row(asked)[None])[0], space.row(printed))
    for arch in (asked, printed):
        flops, params = space.counts(space.row(arch)[None], Task(32, 10))
        network = space.layers(arch, Task(32, 10))
        assert int(params[0]) == sum(layer.params for layer in network) == 2_694_282
        assert int(flops[0]) == sum(layer.flops for layer in network)
