"""Weights of a trained network as the start of a larger or other one: what fits is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher

import torch
from torch import Tensor, nn

from spaces.layers import Layer, Network
from spaces.torch_network import TorchNetwork


def inherit(child: nn.Module, parent: Network, weights: Mapping[str, Tensor]) -> int:
    """Overwrite weights of the child by those of a trained parent, as far as they fit; returns how many numbers were.

    Blocks are matched by their place (the first word of the name of a chain's block, the whole name elsewhere), the
    layers in a block by what they do, in order: pointwise, depthwise and larger convolutions, linear layers, norms.
    Of two matched layers the channels that both have are copied, kernels about their centres. What the child has beyond
    them in a matched weight becomes 0 where it reads more inputs or a wider window, so that on the inputs of the
    parent's layer a matched layer computes what that did; new outputs and new layers keep the weights that were drawn.
    A network that inherits from one that is equal computes the same.

    In chains the inputs are the same too, and a child of a wider kernel or expansion begins as its parent. In cells
    they need not be: layers are matched by kind and order alone, whatever they read, and a new block or vertex changes
    what is joined to the output, and so which channels come where in the next cell. A child then only begins near its
    parent, or with its first layers.

    Args:
        child: a `TorchNetwork` with fresh weights; of another module nothing is overwritten.
        parent: the layer records of the trained network.
        weights: its state dict, as a `TorchNetwork` has it.

    Source: the proposal of PNAS (1712.00559, section 6) to start children from their parents; zeros for what is new as
    in Net2Net (Chen et al., 1511.05641), which only grows.
    """
    if not isinstance(child, TorchNetwork):
        return 0
    own = child.state_dict()
    copied = 0
    with torch.no_grad():
        for to, source in matched_layers(child.network, parent):
            prefix, old_prefix = f"steps.{to}.", f"steps.{source}."
            for name in own:
                if name.startswith(prefix) and (old := weights.get(old_prefix + name.removeprefix(prefix))) is not None:
                    copied += _copy(own[name], old.to(own[name].device))
    return copied


def matched_layers(child: Network, parent: Network) -> Iterator[tuple[int, int]]:
    """Pairs (layer of the child, layer of the parent) that have weights and do the same at the same place."""
    ours, theirs = _by_block(child), _by_block(parent)
    for block, positions in ours.items():
        others = theirs.get(block, [])
        kinds, other_kinds = [_kind(child[x]) for x in positions], [_kind(parent[x]) for x in others]
        for match in SequenceMatcher(None, kinds, other_kinds, autojunk=False).get_matching_blocks():
            for i in range(match.size):
                yield positions[match.a + i], others[match.b + i]


def _by_block(network: Network) -> dict[str, list[int]]:
    """The layers that have weights, by the place of their block."""
    places: dict[str, list[int]] = {}
    for position, layer in enumerate(network):
        if layer.params:
            first = layer.block.split(" ")[0]
            places.setdefault(first if first.isdigit() else layer.block, []).append(position)
    return places


def _kind(layer: Layer) -> tuple[str, bool, bool]:
    is_depthwise = layer.groups > 1 and layer.groups == layer.in_features
    return layer.op, is_depthwise, is_depthwise or layer.kernel == (1, 1)


def _copy(new: Tensor, old: Tensor) -> int:
    """What both have; zeros where the new one reads more than the old one. New outputs (dimension 0) are left alone."""
    if new.dim() != old.dim():
        return 0
    if new.dim() == 0:  # how many batches a norm has seen
        new.copy_(old)
        return 1
    outputs = min(new.shape[0], old.shape[0])
    to, source = [slice(outputs)], [slice(outputs)]
    for dimension, (n, m) in enumerate(zip(new.shape[1:], old.shape[1:], strict=True), start=1):
        common = min(n, m)
        is_window = dimension >= 2
        start, old_start = ((n - common) // 2, (m - common) // 2) if is_window else (0, 0)
        to.append(slice(start, start + common))
        source.append(slice(old_start, old_start + common))
    if new.dim() > 1:
        new[:outputs] = 0
    new[tuple(to)] = old[tuple(source)]
    return new[tuple(to)].numel()
