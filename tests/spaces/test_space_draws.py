"""Sampling, mutation and crossover: uniform where that is promised, valid always, decided by the generator alone."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare

from spaces import SPACES, InputError, SearchSpace, Task, get_space
from spaces.layers import Network, NetworkBuilder

TINY = get_space("proxyless@8,8x1,8x2s2,16")


class Cells(SearchSpace):
    """Rows of one to three genes in 0..2; what follows the last is -1; the sum is even. Nothing but the required."""

    name = "cells"
    choices = (3, 3, 3)

    def is_valid(self, population):
        used = population >= 0
        in_front = (np.diff(used.astype(int), axis=1) <= 0).all(axis=1) & used[:, 0]
        return in_front & (population < 3).all(axis=1) & (np.where(used, population, 0).sum(axis=1) % 2 == 0)

    def layers(self, arch, task) -> Network:
        net, x = NetworkBuilder(task.input_shape), 0
        for gene in self.row(arch)[: len(arch.genes)]:
            x = net.conv(x, 4, kernel=(1, 3, 5)[gene])
        net.classifier(x, classes=task.classes)
        return net.network


class Stuck(Cells):
    """Of two genes, both must be 1: no row has a neighbour."""

    name = "stuck"
    choices = (3, 3)

    def is_valid(self, population):
        return (population == 1).all(axis=1)


def frequencies(rows, drawn) -> np.ndarray:
    """How often each of the distinct `rows` was drawn; every drawn row must be one of them."""
    index = {tuple(row): i for i, row in enumerate(rows.tolist())}
    return np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(rows))


@pytest.mark.parametrize(("space", "seed"), [(TINY, 0), (TINY, 1), (TINY, 2), (get_space("nasbench_macro"), 3)])
def test_sampling_is_uniform_over_all_rows(space, seed, all_rows):
    rows = all_rows(space)
    counts = frequencies(rows, space.sample(50 * len(rows), np.random.default_rng(seed)))
    assert chisquare(counts).pvalue > 1e-3


def test_sampling_by_rejection_is_uniform_over_valid_rows():
    space = Cells()
    every = (row for genes in (1, 2, 3) for row in product(range(3), repeat=genes))
    rows = np.array([(*row, *[-1] * (3 - len(row))) for row in every if sum(row) % 2 == 0])
    assert len(rows) == space.cardinality == 2 + 5 + 14
    counts = frequencies(rows, space.sample(200 * len(rows), np.random.default_rng(4)))
    assert chisquare(counts).pvalue > 1e-3
    assert space.sample(0, np.random.default_rng(4)).shape == (0, 3)


def test_sampling_a_space_without_valid_rows_says_so():
    class Nothing(Cells):
        def is_valid(self, population):
            return np.zeros(len(population), dtype=bool)

    with pytest.raises(InputError, match="0 of 1000 rounds"):
        Nothing().sample(1, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["nasbench_macro", "proxyless", "proxyless@w0.25"])
@pytest.mark.parametrize("rate", [None, 0.0, 0.3, 1.0])
def test_mutants_are_valid_and_differ(name, rate):
    space, rng = get_space(name), np.random.default_rng(1)
    parents = space.sample(2000, rng)
    before = parents.copy()
    children = space.mutate(parents, rng, rate=rate)
    assert np.array_equal(parents, before)
    assert space.is_valid(children).all()
    changes = (children != parents).sum(axis=1)
    assert changes.min() >= 1
    if rate == 0.0:
        assert changes.max() == 1
    elif rate == 1.0:
        assert changes.min() == parents.shape[1]
    elif rate is None:  # one gene for sure, each other with probability 1/genes
        others = parents.shape[1] - 1
        assert abs(changes.mean() - (1 + others / (others + 1))) < 4 * np.sqrt(others**2 / (others + 1) ** 2 / 2000)


def test_every_neighbour_is_reached_and_nothing_else(all_rows):
    rows = all_rows(TINY)
    for parent in rows[::25]:
        neighbours = {tuple(row) for row in rows if (row != parent).sum() == 1}
        children = TINY.mutate(np.repeat(parent[None], 1500, axis=0), np.random.default_rng(2), rate=0.0)
        assert {tuple(child) for child in children} == neighbours


def test_mutation_reaches_every_row(all_rows):
    rows = all_rows(TINY)
    children = TINY.mutate(np.repeat(rows[:1], 20_000, axis=0), np.random.default_rng(3), rate=0.5)
    assert {tuple(child) for child in children} == {tuple(row) for row in rows[1:]}


def test_mutants_of_short_rows_differ_and_stay_short():
    """The gene drawn for certain may be an unused one: it must not count as the change."""
    space = Cells()
    parents = np.repeat([[2, -1, -1], [0, -1, -1], [2, 0, -1], [2, 1, 1]], 500, axis=0)
    children = space.mutate(parents, np.random.default_rng(0), rate=0.0)
    assert space.is_valid(children).all()
    assert ((children != parents).sum(axis=1) >= 1).all()
    assert np.array_equal(children < 0, parents < 0)


def test_a_parent_without_neighbours_is_named():
    with pytest.raises(InputError, match="stuck:1-1"):
        Stuck().mutate(np.array([[1, 1]]), np.random.default_rng(0))


@pytest.mark.parametrize("space", [get_space("proxyless"), Cells()], ids=lambda space: space.name)
def test_children_of_two_have_genes_of_both(space):
    rng = np.random.default_rng(6)
    mothers, fathers = space.sample(1000, rng), space.sample(1000, rng)
    children = space.crossover(mothers, fathers, rng)
    assert space.is_valid(children).all()
    assert ((children == mothers) | (children == fathers)).all()
    differing = mothers != fathers
    from_mother = (children == mothers)[differing].mean()
    assert 0.4 < from_mother < 0.6
    assert np.array_equal(space.crossover(mothers, mothers, rng), mothers)


def test_crossover_of_short_rows_is_valid():
    space = Cells()
    mothers = np.array([[2, -1, -1], [1, 1, -1], [2, 1, 1]] * 100)
    fathers = np.array([[1, 1, 2], [0, 2, 0], [0, -1, -1]] * 100)
    children = space.crossover(mothers, fathers, np.random.default_rng(0))
    assert space.is_valid(children).all()
    assert ((children == mothers) | (children == fathers)).all()


@pytest.mark.parametrize("space", [*(get_space(name) for name in sorted(SPACES)), Cells()], ids=lambda s: s.name)
def test_only_the_generator_decides(space):
    def draw(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        first = space.sample(30, rng)
        return [first, space.mutate(first, rng), space.crossover(first[:15], first[15:], rng), rng.random(1)]

    np.random.seed(1)  # noqa: NPY002  the state of others is the subject
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    once = draw(7)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(once, draw(7), strict=True))
    assert not np.array_equal(once[0], draw(8)[0])


def test_counts_that_a_space_of_its_own_inherits():
    """1x1, 3x3 and 5x5 convolutions on 8x8 maps of 4 channels: by hand."""
    rows = np.array([[0, 2, -1], [1, 1, 2], [0, -1, -1]])
    flops, params = Cells().counts(rows, Task(8, 2))
    weights = [3 * 4 * 1 + 4 * 4 * 25, 3 * 4 * 9 + 4 * 4 * 9 + 4 * 4 * 25, 3 * 4]
    assert flops.tolist() == [64 * w + 8 for w in weights]
    assert params.tolist() == [w + 8 * n + 10 for w, n in zip(weights, (2, 3, 1), strict=True)]
