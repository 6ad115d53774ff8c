"""Networks as groups of numbers, for models of accuracy that are no graph networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from hwnas.evaluation.restricted import RestrictedSpace
from spaces import GraphBatch, InputError, Population, SearchSpace
from spaces.chain import ChainSpace

if TYPE_CHECKING:
    from hwnas.feasible import FeasibleSet
    from latency import DeviceCosts

Floats = NDArray[np.float64]
Features = dict[str, Floats]  # (n, k) each: names of groups, and what is known of each network
CHUNK = 4096
KEPT = 65_536  # networks of the largest table whose features are kept: 60 MB of cells
NEVER = -1  # steps to a value that growth does not reach

# Of the networks of a table, for as long as its space lives: an iterated search asks for the same ones at every step.
_of_tables: WeakKeyDictionary[RestrictedSpace, Features] = WeakKeyDictionary()
# Costs of the same rows need not be the same: tables tell some of their own. Both keys are weak, since costs may know
# the space.
_costs_of_tables: WeakKeyDictionary[RestrictedSpace, WeakKeyDictionary[DeviceCosts, Features]] = WeakKeyDictionary()


def describe(feasible: FeasibleSet, population: Population) -> Features:
    """(n, genes) -> groups of features; which ones depends on the space.

    Everywhere, where costs are known: `costs`, log params and log flops. Of chains those of `chain_features`, of spaces
    that give graphs at array speed those of `graph_features`; of others `genes`, one-hot.
    """
    space = feasible.space
    if not isinstance(space, RestrictedSpace):
        return _in_chunks(space, population) | _costs(feasible, population)
    places = space.places(population)
    if (places < 0).any():
        outside = population[int(np.argmin(places))]
        raise InputError(f"{space.inner.format(outside)} is not in the table, and nothing describes it")
    if len(space.rows) > KEPT:
        return _in_chunks(space.inner, space.rows[places]) | _costs(feasible, population)
    return {name: values[places] for name, values in _of_table(space, feasible).items()}


def _of_table(space: RestrictedSpace, feasible: FeasibleSet) -> Features:
    if space not in _of_tables:
        _of_tables[space] = _in_chunks(space.inner, space.rows)
    if feasible.costs is None:
        return _of_tables[space]
    known = _costs_of_tables.setdefault(space, WeakKeyDictionary())
    if feasible.costs not in known:
        known[feasible.costs] = _costs(feasible, space.rows)
    return _of_tables[space] | known[feasible.costs]


def _costs(feasible: FeasibleSet, population: Population) -> Features:
    if feasible.costs is None:
        return {}
    costs = np.stack([feasible.costs.one(name, population) for name in ("params", "flops")], axis=1)
    return {"costs": np.log(np.maximum(costs, 1.0))}


def _in_chunks(space: SearchSpace, population: Population) -> Features:
    chunks = [population[start : start + CHUNK] for start in range(0, max(len(population), 1), CHUNK)]
    described = [_space_features(space, chunk) for chunk in chunks]
    return {name: np.concatenate([each[name] for each in described]) for name in described[0]}


def _space_features(space: SearchSpace, population: Population) -> Features:
    if isinstance(space, ChainSpace):
        return chain_features(space, population)
    return (
        graph_features(space.graphs(population))
        if _has_quick_graphs(space)
        else {"genes": one_hot_genes(space, population)}
    )


def _has_quick_graphs(space: SearchSpace) -> bool:
    """Not from the records of one network after another, which takes 5 ms each."""
    return type(space).graphs is not SearchSpace.graphs


def walked_nodes(space: SearchSpace) -> int:
    """How many nodes of each network `describe` walks through, most of what it takes; 0 where it walks no graph."""
    inner = space.inner if isinstance(space, RestrictedSpace) else space
    if isinstance(inner, ChainSpace) or not _has_quick_graphs(inner):
        return 0
    return int(inner.graphs(inner.sample(1, np.random.default_rng(0))).operations.shape[1])


def one_hot_genes(space: SearchSpace, population: Population) -> Floats:
    """(n, genes) -> (n, genes * values): of canonical rows, where the keys of the space are rows."""
    keys = space.canonical(population)
    rows = keys if keys.shape == population.shape else population
    values = np.arange(-1, max(space.choices))
    return np.asarray((rows[:, :, None] == values).reshape(len(rows), -1), dtype=np.float64)


def chain_features(space: ChainSpace, population: Population) -> Features:
    """Chains, block by block.

    Returns:
        `steps` (n, genes): how many steps of growth lead to the block; `empty` (n, genes): 1 where it adds nothing;
        `depth` (n, stages + 1): blocks that add something, of each stage and of all; `genes`, where one number of
        steps stands for several kinds of block.
    """
    rows = space.canonical(population)
    steps = steps_of_growth(space)
    taken = steps[np.arange(rows.shape[1]), rows].astype(np.float64)
    present = rows != space.identity
    stages = np.stack([present[:, stage.start : stage.stop].sum(axis=1) for stage in space.stages], axis=1)
    groups = {
        "steps": taken,
        "empty": (~present).astype(np.float64),
        "depth": np.concatenate([stages, stages.sum(axis=1, keepdims=True)], axis=1).astype(np.float64),
    }
    if any(len(np.unique(row[row != NEVER])) < (row != NEVER).sum() for row in steps):
        groups["genes"] = one_hot_genes(space, rows)
    return groups


def steps_of_growth(space: ChainSpace) -> NDArray[np.int64]:
    """(genes, values): the fewest steps from the value that no step leads to; `NEVER` where it is not reached."""
    genes, values = space.allowed.shape
    found = np.full((genes, values), NEVER)
    found[np.arange(genes), space.smallest_row] = 0
    for distance in range(1, values):
        for before, after in space.steps:
            reached = (found[:, before] == distance - 1) & space.allowed[:, after] & (found[:, after] == NEVER)
            found[reached, after] = distance
    return found


def graph_features(graphs: GraphBatch) -> Features:
    """Graphs by random walks from their sources to their sinks, and by degrees.

    There are three kinds of walk: forwards, where each edge out of a node is as likely; backwards, the same against
    the edges; and even, where each path from a source to a sink is as likely. Nodes stand in topological order.

    Returns:
        `degrees`: edges into and out of the nodes of each operation, and how many such nodes there are.
        `visits`: how often a walk of each kind passes each operation, and with which sum of each attribute.
        `edges`: how often an even walk passes from one operation to another.
        `moments`: mean and variance of the number of nodes of each operation, and of all, on a walk of each kind.
        `none`: how likely a walk of each kind passes no node of an operation.
    """
    present = graphs.operations >= 0
    A = (graphs.adjacency & present[:, :, None] & present[:, None, :]).astype(np.float64)
    kinds = (graphs.operations[:, :, None] == np.arange(graphs.n_operations)).astype(np.float64)
    counted = np.concatenate([kinds, present[:, :, None]], axis=2)
    walks = (_Walk.forwards(A, present), _Walk.backwards(A, present), _Walk.evenly(A, present))
    visits = [kinds.transpose(0, 2, 1) @ (walk.visits[:, :, None] * _with_one(graphs.attributes)) for walk in walks]
    numbers = [walk.numbers(counted) for walk in walks]
    degrees = np.stack([A.sum(axis=1), A.sum(axis=2), np.ones_like(A[:, 0])], axis=2)
    return {
        "degrees": _flat(kinds.transpose(0, 2, 1) @ degrees),
        "visits": np.concatenate([_flat(each) for each in visits], axis=1),
        "edges": _flat(kinds.transpose(0, 2, 1) @ walks[2].flow @ kinds),
        "moments": np.concatenate([part for mean, variance, _ in numbers for part in (mean, variance)], axis=1),
        "none": np.concatenate([none for _, _, none in numbers], axis=1),
    }


@dataclass(frozen=True)
class _Walk:
    """Random walks on n graphs with v nodes each, in an order that no edge points against.

    Attributes:
        start: (n, v) how likely a walk starts at each node.
        step: (n, v, v) how likely it goes on from one node to another; it ends where it cannot.
        order: of the nodes.
    """

    start: Floats
    step: Floats
    order: range

    @classmethod
    def forwards(cls, A: Floats, present: NDArray[np.bool_]) -> _Walk:
        sources = present & (A.sum(axis=1) == 0)
        step = A / np.maximum(A.sum(axis=2, keepdims=True), 1.0)
        return cls(sources / np.maximum(sources.sum(axis=1, keepdims=True), 1), step, range(A.shape[1]))

    @classmethod
    def backwards(cls, A: Floats, present: NDArray[np.bool_]) -> _Walk:
        reversed_ = cls.forwards(A.transpose(0, 2, 1), present)
        return cls(reversed_.start, reversed_.step, reversed_.order[::-1])

    @classmethod
    def evenly(cls, A: Floats, present: NDArray[np.bool_]) -> _Walk:
        """As likely along each path: a step is as likely as its share of the paths that go on from here."""
        paths = (present & (A.sum(axis=2) == 0)).astype(np.float64)  # from each node to a sink
        for node in reversed(range(A.shape[1])):
            paths[:, node] += (A[:, node] * paths).sum(axis=1)
        start = np.where(A.sum(axis=1) == 0, paths, 0.0)
        start /= np.maximum(start.sum(axis=1, keepdims=True), 1.0)
        return cls(start, A * paths[:, None, :] / np.maximum(paths, 1.0)[:, :, None], range(A.shape[1]))

    @cached_property
    def visits(self) -> Floats:
        """(n, v): how likely a walk passes each node."""
        visits = self.start.copy()
        for node in self.order:
            visits[:, node] += (visits * self.step[:, :, node]).sum(axis=1)
        return visits

    @property
    def flow(self) -> Floats:
        """(n, v, v): how likely a walk takes each edge."""
        return self.visits[:, :, None] * self.step

    def numbers(self, counted: Floats) -> tuple[Floats, Floats, Floats]:
        """What of k kinds of node, 0 or 1 in (n, v, k), a whole walk passes.

        Returns:
            mean and variance of its number, and how likely it is none: (n, k) each.
        """
        # At each node, summed over the walks that come to it, how likely each is times: its number so far, the
        # square of that, and whether that is 0. Side by side, since many small products take longer than few.
        n, v, k = counted.shape
        number, square, none = slice(k), slice(k, 2 * k), slice(2 * k, 3 * k)
        state = np.zeros((n, v, 3 * k))
        state[:, :, none] = self.start[:, :, None]
        backwards = np.ascontiguousarray(self.step.transpose(0, 2, 1))
        for node in self.order:
            one, visits = counted[:, node], self.visits[:, node, None]
            before = (backwards[:, node, None] @ state)[:, 0]
            state[:, node, number] = before[:, number] + visits * one
            state[:, node, square] = before[:, square] + (2 * before[:, number] + visits) * one
            state[:, node, none] = (state[:, node, none] + before[:, none]) * (1 - one)
        ends = (self.step.sum(axis=2) == 0).astype(np.float64)[:, None, :]
        mean, squared, never = np.split((ends @ state)[:, 0], 3, axis=1)
        return mean, squared - mean**2, never


def _with_one(attributes: NDArray[np.float32]) -> Floats:
    return np.concatenate([np.ones((*attributes.shape[:2], 1)), attributes], axis=2)


def _flat(values: Floats) -> Floats:
    return values.reshape(len(values), -1)
