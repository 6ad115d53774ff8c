"""What follows from layer records alone: canonical keys and graphs of networks, one network after another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import product
from math import log2
from operator import attrgetter
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .graph import GraphBatch
from .layers import Layer, Network, Op

KINDS = (*get_args(Op), "depthwise")  # the last stands for every convolution in groups
COMMUTATIVE = ("add", "concat")
ATTRIBUTES = 8
MOST_MARKS = 1000  # nodes that are marked to find the form of one network; of hundreds of records each takes a few ms
_what_it_does = attrgetter(*(field.name for field in fields(Layer) if field.name not in ("inputs", "drop", "block")))
_PASSED_BY = ("relu", "batch_norm")  # bare ones are no nodes of a predictor's graph: they would only lengthen it

Edges = Sequence[Sequence[tuple[int, int]]]  # of every node, its inputs as (way of reading, node), each node once
Form = tuple[Any, ...]  # nested tuples that can be compared and printed


def kind_of(layer: Layer) -> str:
    """One of `KINDS`."""
    return "depthwise" if layer.op == "conv" and layer.groups > 1 else layer.op


def live(network: Network) -> list[int]:
    """Positions of the records that the last one depends on, itself included, in order."""
    needed = {len(network) - 1}
    for position in reversed(range(len(network))):
        if position in needed:
            needed.update(network[position].inputs)
    return sorted(needed)


def network_key(network: Network) -> tuple[int, int]:
    """Two 64-bit integers, equal if and only if the networks are isomorphic.

    Isomorphic: the records that the output depends on correspond one to one, equal in all but the name of their
    block and the share of drop-path in training, neither of which is part of what the network computes; each has
    corresponding inputs in the same order. For `add` and `concat` the order does not count, since the weights behind
    can undo it. Two convolutions of one input are two records, and never the same as one that is read twice. The key
    is a 128-bit digest of an exact canonical form, so unequal networks have unequal keys but for a chance of 3e-39 a
    pair.
    """
    form, _ = canonical_form(network)
    digest = hashlib.blake2b(repr(form).encode(), digest_size=16).digest()
    first, second = np.frombuffer(digest, dtype="<i8")
    return int(first), int(second)


def canonical_form(network: Network) -> tuple[Form, list[int]]:
    """A form that isomorphic networks share and no others, and the live positions in an order that they share too.

    The order has every record after its inputs.
    """
    positions = live(network)
    index = {position: i for i, position in enumerate(positions)}
    layers = [network[position] for position in positions]
    slots = [_slots(layer, index) for layer in layers]
    ways = sorted({way for before in slots for way in before.values()})
    inputs = [[(ways.index(way), u) for u, way in before.items()] for before in slots]
    depth = _longest_paths(slots)
    labels = [(d, *_what_it_does(layer)) for d, layer in zip(depth, layers, strict=True)]
    form, order = _form(labels, inputs, _marks(layers))
    return (tuple(ways), form), [positions[i] for i in order]


def _slots(layer: Layer, index: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """Of each input, by its index, the places among the inputs where it is read; all 0 where they have no order."""
    found: dict[int, tuple[int, ...]] = {}
    for slot, x in enumerate(layer.inputs):
        found[index[x]] = (*found.get(index[x], ()), 0 if layer.op in COMMUTATIVE else slot)
    return found


def _marks(layers: Sequence[Layer]) -> Iterator[int]:
    """One number for each mark that may be tried.

    Raises:
        InputError: after `MOST_MARKS`.
    """
    yield from range(MOST_MARKS)
    (op, shape), many = Counter((layer.op, layer.shape) for layer in layers).most_common(1)[0]
    raise InputError(
        f"a network is too symmetric to be told from others: after {MOST_MARKS} attempts to tell its records apart, "
        f"some of its {len(layers)} look alike from every side (most are {op} of {shape}: {many})",
        hint="give the space a canonical() and a graphs() of its own, which know what may be exchanged",
    )


def _longest_paths(inputs: Sequence[Iterable[int]]) -> list[int]:
    """How many records lie before each one, along the longest way; inputs come before their readers."""
    depth: list[int] = []
    for before in inputs:
        depth.append(1 + max((depth[u] for u in before), default=-1))
    return depth


def _form(labels: Sequence[Any], inputs: Edges, marks: Iterator[int]) -> tuple[Form, list[int]]:
    """The canonical form of a labelled graph, and its nodes in canonical order (first by label).

    Colours are refined until they are stable: nodes of one colour then have the same number of edges from and to
    every colour. What is left open are the edges among nodes that share their colour with others, and where most
    nodes of two colours are joined in one way, only those that are not. So two graphs are isomorphic exactly when
    their tables of colours are equal and the graphs of what is open are; these fall apart into connected parts, each
    with a form of its own. Where a whole graph is one such part, a node of the smallest colour is marked, each in
    turn, and the least form counts; of nodes with the same inputs and readers one stands for all.

    Args:
        marks: gives a number for each node that may be marked.
    """
    colours = _refine(labels, inputs)
    nodes = range(len(labels))
    sizes = Counter(colours)
    some = {colour: v for v, colour in enumerate(colours)}  # any node of a colour stands for all
    table = tuple(
        (labels[v], sizes[colour], tuple(sorted((way, colours[u]) for way, u in inputs[v])))
        for colour, v in sorted(some.items())
    )
    usual, edges = _unusual(colours, inputs)
    parts = _parts([v for v in nodes if sizes[colours[v]] > 1], edges)
    if len(parts) == 1 and len(parts[0]) == len(labels):
        form, order = _least_marked_form(colours, inputs, marks)
        return (table, usual, (form,)), order
    found = sorted((_form_of_part(part, colours, edges, marks) for part in parts), key=lambda each: each[0])
    place = {v: i for i, v in enumerate(v for _, order in found for v in order)}
    return (table, usual, tuple(form for form, _ in found)), sorted(nodes, key=lambda v: (colours[v], place.get(v, 0)))


def _least_marked_form(colours: Sequence[int], inputs: Edges, marks: Iterator[int]) -> tuple[Form, list[int]]:
    smallest = min((size, colour) for colour, size in Counter(colours).items())[1]
    readers = _readers(inputs)
    twins = {  # of each set, one
        (*sorted(inputs[v]), None, *sorted(readers[v])): v for v, colour in enumerate(colours) if colour == smallest
    }
    forms = []
    for mark in twins.values():
        next(marks)
        forms.append(_form([(colour, v == mark) for v, colour in enumerate(colours)], inputs, marks))
    return min(forms, key=lambda found: found[0])


def _form_of_part(
    part: Sequence[int], colours: Sequence[int], edges: Edges, marks: Iterator[int]
) -> tuple[Form, list[int]]:
    index = {v: i for i, v in enumerate(part)}
    inside = [[(way, index[u]) for way, u in edges[v] if u in index] for v in part]
    form, order = _form([(colours[v], False) for v in part], inside, marks)
    return form, [part[i] for i in order]


def _unusual(colours: Sequence[int], inputs: Edges) -> tuple[Form, Edges]:
    """Edges that say as much, once it is known in which way most nodes of two colours are joined.

    Returns:
        (from colour, to colour, way) of what is usual for more than half of the pairs of nodes of two colours, and
        the edges of all pairs that are not joined as usual, with a way of their own where they are not joined at all.
    """
    of_colour: dict[int, list[int]] = {}
    for v, colour in enumerate(colours):
        of_colour.setdefault(colour, []).append(v)
    joined: dict[tuple[int, int], dict[tuple[int, int], int]] = {}  # by colours, then by nodes
    for v, edges in enumerate(inputs):
        for way, u in edges:
            joined.setdefault((colours[u], colours[v]), {})[u, v] = way
    usual = []
    unusual: list[list[tuple[int, int]]] = [[] for _ in inputs]
    for (start, end), ways in sorted(joined.items()):
        most, number = Counter(ways.values()).most_common(1)[0]
        is_usual = 2 * number > len(of_colour[start]) * len(of_colour[end])
        if is_usual:
            usual.append((start, end, most))
        none = min(ways.values()) - 1
        for u, v in product(of_colour[start], of_colour[end]) if is_usual else ways:
            way = ways.get((u, v), none)
            if not (is_usual and way == most):
                unusual[v].append((way, u))
    return tuple(usual), unusual


def _refine(labels: Sequence[Any], inputs: Edges) -> list[int]:
    """Stable colours 0, 1, ...: ordered first by label, equal where labels and the colours around are equal."""
    readers = _readers(inputs)
    colours, number = _ranks(labels)
    while number < len(labels):
        around = [
            (
                colours[v],
                tuple(sorted((way, colours[u]) for way, u in inputs[v])),
                tuple(sorted((way, colours[w]) for way, w in readers[v])),
            )
            for v in range(len(labels))
        ]
        finer, finer_number = _ranks(around)
        if finer_number == number:
            break
        colours, number = finer, finer_number
    return colours


def _readers(inputs: Edges) -> list[list[tuple[int, int]]]:
    """Of every node, those that read it as (way, node)."""
    readers: list[list[tuple[int, int]]] = [[] for _ in inputs]
    for v, edges in enumerate(inputs):
        for way, u in edges:
            readers[u].append((way, v))
    return readers


def _ranks(values: Sequence[Any]) -> tuple[list[int], int]:
    distinct = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [distinct[value] for value in values], len(distinct)


def _parts(nodes: Sequence[int], inputs: Edges) -> list[list[int]]:
    """The connected parts of the graph of some nodes, whichever way its edges point."""
    parent = {v: v for v in nodes}

    def root(v: int) -> int:
        while parent[v] != v:
            parent[v] = v = parent[parent[v]]
        return v

    for v in nodes:
        for _, u in inputs[v]:
            if u in parent:
                parent[root(u)] = root(v)
    parts: dict[int, list[int]] = {}
    for v in nodes:
        parts.setdefault(root(v), []).append(v)
    return list(parts.values())


def graphs_of(networks: Iterable[Network]) -> GraphBatch:
    """Live operations as nodes in canonical order, so that isomorphic networks have equal graphs.

    Kinds are those of `KINDS`. Bare activations and batch norms are no nodes: who reads them reads what they read.
    Attributes, (nodes, 8), each about 0 to 1: log channels, log height, kernel height and width, stride, dilation,
    log groups, and whether an activation follows.
    """
    graphs = [_graph(network) for network in networks]
    width = max((len(kinds) for kinds, _, _ in graphs), default=0)
    operations = np.full((len(graphs), width), -1, dtype=np.int64)
    adjacency = np.zeros((len(graphs), width, width), dtype=np.bool_)
    attributes = np.zeros((len(graphs), width, ATTRIBUTES), dtype=np.float32)
    for g, (kinds, edges, values) in enumerate(graphs):
        operations[g, : len(kinds)] = kinds
        adjacency[g, edges[:, 0], edges[:, 1]] = True
        attributes[g, : len(kinds)] = values
    return GraphBatch(operations, adjacency, attributes, len(KINDS))


def _graph(network: Network) -> tuple[list[int], NDArray[np.int64], list[tuple[float, ...]]]:
    _, order = canonical_form(network)
    kinds: list[int] = []
    edges: list[tuple[int, int]] = []
    values: list[tuple[float, ...]] = []
    node: dict[int, int] = {}  # of a position
    for position in order:
        layer = network[position]
        if layer.op in _PASSED_BY:
            node[position] = node[layer.inputs[0]]
            continue
        node[position] = len(kinds)
        edges += [(node[x], len(kinds)) for x in layer.inputs]
        kinds.append(KINDS.index(kind_of(layer)))
        values.append(_attributes(layer))
    return kinds, np.array(edges, dtype=np.int64).reshape(-1, 2), values


def _attributes(layer: Layer) -> tuple[float, ...]:
    return (
        log2(layer.shape[0]) / 10,
        log2(layer.shape[1]) / 8 if len(layer.shape) == 3 else 0.0,
        layer.kernel[0] / 7,
        layer.kernel[1] / 7,
        max(layer.stride) - 1.0,
        max(layer.dilation) - 1.0,
        log2(layer.groups) / 10,
        float(layer.activation != ""),
    )
