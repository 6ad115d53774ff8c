"""Growth of chains: one step at a time, every network reached, the simplest first."""

import numpy as np
import pytest

from spaces import Task, get_space

PROXYLESS = "proxyless@8,8x1,8x3s2,16x2s2,8"
CHAINS = ["nasbench_macro", PROXYLESS, "proxyless@w0.25", "proxyless@8,8x1,8x2,8x2,8"]


def is_step(space, gene: int, before: int, after: int) -> bool:
    """DESIGN section 5: zero becomes the smallest layer, or a layer takes the next kernel or expansion."""
    if space.name.startswith("nasbench_macro"):
        return after == before + 1
    if gene == 0:
        return after == before + 1  # kernels of the block of expansion 1
    if before == 6:
        return after == 0
    kernels, expansions = (3, 5, 7, 3, 5, 7), (3, 3, 3, 6, 6, 6)
    if after == 6:
        return False
    next_kernel = kernels[after] == kernels[before] + 2 and expansions[after] == expansions[before]
    return next_kernel or (kernels[after] == kernels[before] and expansions[after] == 2 * expansions[before])


def children_by_definition(space, row) -> set[tuple[int, ...]]:
    children = set()
    for gene, values in enumerate(space.allowed):
        for after in np.flatnonzero(values):
            if is_step(space, gene, row[gene], after):
                children.add((*row[:gene], int(after), *row[gene + 1 :]))
    return children


@pytest.mark.parametrize("name", CHAINS)
def test_children_are_one_step_away(name):
    space = get_space(name)
    rows = space.sample(40, np.random.default_rng(0))
    expected = [child for row in rows.tolist() for child in children_by_definition(space, row)]
    children = space.grow(rows)
    assert space.is_valid(children).all()
    assert sorted(map(tuple, children.tolist())) == sorted(expected)
    assert space.grow(rows[:0]).shape == (0, rows.shape[1])


def test_the_largest_chain_has_no_children():
    assert len(get_space("nasbench_macro").grow(np.full((1, 8), 2))) == 0
    space = get_space("proxyless")
    largest = np.full((1, 22), 5)
    largest[0, 0] = 2
    assert len(space.grow(largest)) == 0


@pytest.mark.parametrize(("name", "n"), [("nasbench_macro", 3_969), ("proxyless@8,8x1,8x3s2,8x1s2,8", 3 * 6 * 43 * 6)])
def test_every_network_grows_from_the_simplest(name, n):
    space = get_space(name)
    rows = space.simplest(10**6, np.random.default_rng(1))
    assert space.is_valid(rows).all()
    assert len(rows) == len(np.unique(space.canonical(rows), axis=0)) == n


@pytest.mark.parametrize("name", CHAINS)
def test_the_simplest_networks_come_in_order(name):
    """Steps from the smallest network, counted gene by gene, never fall; all of fewer steps come first."""
    space = get_space(name)
    rows = space.simplest(60, np.random.default_rng(2))
    assert len(rows) == 60
    if name == "nasbench_macro":
        steps = rows.sum(axis=1)
        assert np.bincount(steps)[:2].tolist() == [
            1,
            6,
        ]  # 8 children, of which two pairs are equal
    else:
        rank = np.array([1, 2, 3, 2, 3, 4, 0])
        steps = rank[rows].sum(axis=1)
    assert (np.diff(steps) >= 0).all()
    assert np.array_equal(space.simplest(7, np.random.default_rng(2)), rows[:7])
    flops, _ = space.counts(rows, Task(32, 10))
    assert flops.argmin() == 0


def test_the_generator_decides_which_networks_of_the_last_step_are_drawn():
    space = get_space("proxyless")
    draws = [space.simplest(9, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert len(space.simplest(0, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("name", [*CHAINS, "pnas@1x8,b3", "nasnet@3x24,b2", "nasbench101"])
def test_every_step_of_growth_raises_the_complexity(name):
    space = get_space(name)
    rows = space.simplest(20, np.random.default_rng(3))
    found = space.complexity(rows)
    assert (np.diff(found) >= 0).all()
    for row, level in zip(rows, found, strict=True):
        assert (space.complexity(space.grow(row[None])) == level + 1).all()


def test_complexity_is_what_spaces_call_it():
    """Steps from the smallest chain, blocks, vertices; of a space that says nothing, the genes that a row uses."""
    assert get_space("nasbench_macro").complexity(np.array([[0] * 8, [0, 1, 2, 0, 0, 0, 0, 1]])).tolist() == [0, 4]
    proxyless = get_space("proxyless")
    largest = np.full((1, 22), 5)
    largest[0, 0] = 2
    steps, row = 0, proxyless.simplest(1, np.random.default_rng(0))
    while len(grown := proxyless.grow(row)):
        steps, row = steps + 1, grown[-1:]
    assert proxyless.complexity(row).tolist() == [steps] == proxyless.complexity(largest).tolist()
    cells = get_space("nasbench101")
    assert cells.complexity(cells.numbered(np.array([0, cells.cardinality - 1]))).tolist() == [2, 7]
    pnas = get_space("pnas@1x8,b3")
    rows = pnas.sample(50, np.random.default_rng(0))
    assert np.array_equal(pnas.complexity(rows), (rows >= 0).sum(axis=1) // 4)
