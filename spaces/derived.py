"""What follows from layer records alone: canonical keys and graphs of networks, one network after another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from math import log2
from operator import attrgetter
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .graph import GraphBatch
from .layers import Layer, Network, Op

KINDS = (*get_args(Op), "depthwise")  # the last stands for every convolution in groups
COMMUTATIVE = ("add", "concat")
ATTRIBUTES = 8
_what_it_does = attrgetter(*(field.name for field in fields(Layer) if field.name not in ("inputs", "drop", "block")))
_PASSED_BY = ("relu", "batch_norm")  # bare ones are no nodes of a predictor's graph: they would only lengthen it

Edges = Sequence[Sequence[tuple[int, int]]]  # of every node, its inputs as (slot, node)
Form = tuple[Any, ...]  # (table, parts): nested tuples that can be compared and printed


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
    inputs = [
        [(0 if layer.op in COMMUTATIVE else slot, index[x]) for slot, x in enumerate(layer.inputs)] for layer in layers
    ]
    depth = _longest_paths([[u for _, u in edges] for edges in inputs])
    form, order = _form([(d, *_what_it_does(layer)) for d, layer in zip(depth, layers, strict=True)], inputs)
    return form, [positions[i] for i in order]


def _longest_paths(inputs: Sequence[Sequence[int]]) -> list[int]:
    """How many records lie before each one, along the longest way; inputs come before their readers."""
    depth: list[int] = []
    for before in inputs:
        depth.append(1 + max((depth[u] for u in before), default=-1))
    return depth


def _form(labels: Sequence[Any], inputs: Edges) -> tuple[Form, list[int]]:
    """The canonical form of a labelled graph, and its nodes in canonical order (first by label).

    Colours are refined until they are stable: nodes of one colour then have the same number of edges from and to
    every colour. What is left open are the edges among nodes that share their colour with others, since all edges to
    a node of a colour of its own follow from the colours. So two graphs are isomorphic exactly when their tables of
    colours are equal and the graphs of such nodes are; these fall apart into connected parts, each with a form of its
    own. Where a whole graph is one such part, a node of the smallest colour is marked, each in turn, and the least
    form counts.
    """
    colours = _refine(labels, inputs)
    nodes = range(len(labels))
    sizes = Counter(colours)
    some = {colour: v for v, colour in enumerate(colours)}  # any node of a colour stands for all
    table = tuple(
        (labels[v], sizes[colour], tuple(sorted((slot, colours[u]) for slot, u in inputs[v])))
        for colour, v in sorted(some.items())
    )
    parts = _parts([v for v in nodes if sizes[colours[v]] > 1], inputs)
    if len(parts) == 1 and len(parts[0]) == len(labels):
        smallest = min((size, colour) for colour, size in sizes.items())[1]
        marked = ([(colours[v], v == mark) for v in nodes] for mark in nodes if colours[mark] == smallest)
        form, order = min((_form(each, inputs) for each in marked), key=lambda found: found[0])
        return (table, (form,)), order
    found = sorted((_form_of_part(part, colours, inputs) for part in parts), key=lambda each: each[0])
    place = {v: i for i, v in enumerate(v for _, order in found for v in order)}
    return (table, tuple(form for form, _ in found)), sorted(nodes, key=lambda v: (colours[v], place.get(v, 0)))


def _form_of_part(part: Sequence[int], colours: Sequence[int], inputs: Edges) -> tuple[Form, list[int]]:
    index = {v: i for i, v in enumerate(part)}
    inside = [[(slot, index[u]) for slot, u in inputs[v] if u in index] for v in part]
    form, order = _form([(colours[v], False) for v in part], inside)
    return form, [part[i] for i in order]


def _refine(labels: Sequence[Any], inputs: Edges) -> list[int]:
    """Stable colours 0, 1, ...: ordered first by label, equal where labels and the colours around are equal."""
    readers: list[list[tuple[int, int]]] = [[] for _ in labels]
    for v, edges in enumerate(inputs):
        for slot, u in edges:
            readers[u].append((slot, v))
    colours, number = _ranks(labels)
    while number < len(labels):
        around = [
            (
                colours[v],
                tuple(sorted((slot, colours[u]) for slot, u in inputs[v])),
                tuple(sorted((slot, colours[w]) for slot, w in readers[v])),
            )
            for v in range(len(labels))
        ]
        finer, finer_number = _ranks(around)
        if finer_number == number:
            break
        colours, number = finer, finer_number
    return colours


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
