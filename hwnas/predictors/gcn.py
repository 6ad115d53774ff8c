"""The Neural Predictor: an ensemble of bidirectional graph convolutional networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spaces.errors import InputError
from spaces.graph import GraphBatch

from .predictor import FittedPredictor, Floats, Predictor, checked_inputs, checked_targets

PREDICTION_BATCH = 256  # graphs: larger batches fall out of the cache and are slower


@dataclass(frozen=True)
class GCNPredictor(Predictor):
    """An ensemble of bidirectional GCNs, trained as one model with a leading member dimension.

    A layer is V' = 1/2 ReLU(A V W+) + 1/2 ReLU(B V W-), where A holds the edges and a self-loop for each node, B the
    same for the reversed edges, each divided by its row sums. The first V is the one-hot operation and the attributes
    of each node. The mean over the nodes that are present, joined by the standardised features of the graph, goes
    through one hidden layer to a sigmoid, scaled to the range of the targets and a `margin` on either side.

    Each member starts from other weights and leaves out another fold of the data. The mean is that of the members;
    the variance is theirs plus the mean squared error of each member on the fold that it never saw.

    Attributes:
        layers: graph convolutions, at least 1.
        width: D, values per node.
        head: values of the hidden layer after the mean.
        members: networks in the ensemble and folds, at least 2; also the least number of architectures to fit.
        epochs: passes over the data.
        batch: architectures in one step of one member.
        learning_rate: of Adam, falling to 0 by a cosine.
        weight_decay: L2, in the gradient.
        dropout: share of values dropped after each layer and in the head.
        margin: widens the range of the sigmoid beyond the targets seen, as a share of their range, on either side.

    Source: Wen et al., Neural Predictor for Neural Architecture Search (arXiv 1912.00848). The ensemble, the features
    and the defaults are ours, chosen by cross-validation on 60 architectures of NAS-Bench-Macro and of NAS-Bench-101.
    """

    layers: int = 3
    width: int = 32
    head: int = 128
    members: int = 5
    epochs: int = 200
    batch: int = 10
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    dropout: float = 0.1
    margin: float = 0.25

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.head, self.epochs, self.batch) < 1 or self.members < 2:
            raise InputError("a GCN needs layers, width, head, epochs and batch of at least 1 and 2 members or more")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and 0 <= self.dropout < 1 and self.margin > 0):
            raise InputError(
                "a GCN needs learning_rate and margin above 0, weight_decay of at least 0 and dropout in [0, 1)"
            )

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedGCN:
        features = checked_inputs(graphs, features)
        targets = checked_targets(targets, len(graphs), least=self.members)
        scale = Scale.of(features, targets, self.margin)
        generator = torch.Generator().manual_seed(seed)
        nodes, neighbours, present = as_tensors(graphs)
        parameters = initial_parameters(
            (nodes.shape[-1], *[self.width] * self.layers), features.shape[1], self.head, self.members, generator
        )
        for parameter in parameters:
            parameter.requires_grad_()
        inputs = (nodes, neighbours, present, torch.from_numpy(scale.standard(features)))
        y = torch.from_numpy(scale.to_unit(targets))
        with torch.no_grad():  # each member starts at the mean, not in the middle of the range
            parameters[-1].fill_(float(torch.logit(y.mean())))
        folds = torch.randperm(len(y), generator=generator) % self.members  # nearly equal
        self._train(parameters, inputs, y, folds, generator)
        parameters = [parameter.detach() for parameter in parameters]
        fitted = FittedGCN(tuple(parameters), scale, 0.0, graphs.n_operations, graphs.attributes.shape[-1])
        members = fitted.predict_members(graphs, features)
        unseen = members[folds.numpy(), np.arange(len(targets))]
        residual_std = math.sqrt(float(np.mean((unseen - targets) ** 2)))
        return FittedGCN(fitted.parameters, scale, residual_std, fitted.n_operations, fitted.n_attributes)

    def _train(
        self, parameters: list[Tensor], inputs: tuple[Tensor, ...], y: Tensor, folds: Tensor, generator: torch.Generator
    ) -> None:
        spread = float(y.var()) or 1.0  # makes loss and weight decay independent of the targets' unit and shape
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        held_out = folds == torch.arange(self.members)[:, None]
        steps = self.epochs * math.ceil((len(y) - math.ceil(len(y) / self.members)) / self.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        for _ in range(self.epochs):
            for rows in self._batches(held_out, generator):
                outputs = forward(parameters, [each[rows] for each in inputs], self.dropout, generator)
                # Summed over members: none of them shares a weight, so each gets its own mean squared error's gradient.
                loss = ((outputs - y[rows]) ** 2).mean(dim=1).sum() / spread
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()

    def _batches(self, held_out: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """One pass: (members, batch) rows, in another order for each member, without those it must not see.

        All members see as many as the one that sees fewest; which row another leaves out changes from pass to pass.
        """
        order = (torch.rand(held_out.shape, generator=generator) + 2.0 * held_out).argsort(dim=1)
        fewest = held_out.shape[1] - int(held_out.sum(dim=1).max())
        yield from torch.split(order[:, :fewest], self.batch, dim=1)


@dataclass(frozen=True)
class Scale:
    """How features and targets enter the network."""

    feature_mean: Floats
    feature_std: Floats
    low: float
    high: float

    @classmethod
    def of(cls, features: Floats, targets: Floats, margin: float) -> Scale:
        std = features.std(axis=0)
        span = float(np.ptp(targets)) or max(abs(float(targets[0])), 1.0)
        low, high = float(targets.min()) - margin * span, float(targets.max()) + margin * span
        return cls(features.mean(axis=0), np.where(std > 0, std, 1.0), low, high)

    def standard(self, features: Floats) -> NDArray[np.float32]:
        return np.asarray((features - self.feature_mean) / self.feature_std, dtype=np.float32)

    def to_unit(self, targets: Floats) -> NDArray[np.float32]:
        return np.asarray((targets - self.low) / (self.high - self.low), dtype=np.float32)

    def from_unit(self, values: Floats) -> Floats:
        return self.low + (self.high - self.low) * values


@dataclass(frozen=True)
class FittedGCN(FittedPredictor):
    """The trained ensemble.

    Attributes:
        parameters: as `initial_parameters` orders them.
        scale: how features and targets enter the network.
        residual_std: root mean squared error of each member on the fold that it never saw, in the unit of the targets.
        n_operations: kinds of node.
        n_attributes: attributes of a node.
    """

    parameters: tuple[Tensor, ...]
    scale: Scale
    residual_std: float
    n_operations: int
    n_attributes: int

    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        members = self.predict_members(graphs, features)
        return members.mean(axis=0), np.sqrt(members.var(axis=0, ddof=1) + self.residual_std**2)

    def predict_members(self, graphs: GraphBatch, features: Floats) -> Floats:
        """(members, n): what each network of the ensemble predicts."""
        features = checked_inputs(graphs, features)
        expected = (self.n_operations, self.n_attributes, len(self.scale.feature_mean))
        came = (graphs.n_operations, graphs.attributes.shape[-1], features.shape[1])
        if came != expected:
            raise InputError(
                "operations, attributes and features must be as many as in the fit: "
                f"{expected[0]}, {expected[1]} and {expected[2]}; got {came[0]}, {came[1]} and {came[2]}"
            )
        standard = torch.from_numpy(self.scale.standard(features))
        outputs = torch.empty(len(self.parameters[0]), len(graphs))
        with torch.inference_mode():
            for start in range(0, len(graphs), PREDICTION_BATCH):
                rows = slice(start, start + PREDICTION_BATCH)
                inputs = [*as_tensors(graphs[rows]), standard[rows]]
                for member in range(len(outputs)):
                    alone = [parameter[member : member + 1] for parameter in self.parameters]
                    outputs[member, rows] = forward(alone, [each[None] for each in inputs], 0.0, None)[0]
        return self.scale.from_unit(outputs.numpy().astype(np.float64))


def as_tensors(graphs: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
    """What the network reads of n graphs.

    Returns:
        nodes (n, nodes, operations + attributes): one-hot operations and attributes, 0 for absent nodes.
        neighbours (n, 2, nodes, nodes): edges with self-loops, and the reversed edges with self-loops, rows divided
            by their sums; 0 for absent nodes.
        present (n, nodes): 1 / the number of present nodes where there is one, 0 where not.
    """
    present = graphs.operations >= 0
    one_hot = graphs.operations[:, :, None] == np.arange(graphs.n_operations)
    nodes = np.concatenate([one_hot, graphs.attributes * present[:, :, None]], axis=2, dtype=np.float32)
    loops = graphs.adjacency | np.eye(graphs.operations.shape[1], dtype=np.bool_)
    edges = (loops & present[:, :, None] & present[:, None, :]).astype(np.float32)
    neighbours = np.stack([edges, edges.transpose(0, 2, 1)], axis=1)
    neighbours /= np.maximum(neighbours.sum(axis=3, keepdims=True), 1.0)
    weights = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(nodes), torch.from_numpy(neighbours), torch.from_numpy(weights.astype(np.float32))


def initial_parameters(
    sizes: tuple[int, ...], features: int, head: int, members: int, generator: torch.Generator
) -> list[Tensor]:
    """The weights before training, each with a leading member dimension.

    Args:
        sizes: values per node before the first layer and after each.
        features: of the whole graph.
    Returns:
        W+ and W- side by side (members, in, 2 out) for each layer, then weight and bias of the hidden layer, then
        those of the output. Glorot-uniform; biases are 0.
    """

    def glorot(rows: int, columns: int) -> Tensor:
        bound = math.sqrt(6 / (rows + columns))
        return (2 * torch.rand(members, rows, columns, generator=generator) - 1) * bound

    layers = [
        torch.cat([glorot(rows, columns), glorot(rows, columns)], dim=2) for rows, columns in itertools.pairwise(sizes)
    ]
    hidden = [glorot(sizes[-1] + features, head), torch.zeros(members, 1, head)]
    return [*layers, *hidden, glorot(head, 1), torch.zeros(members, 1, 1)]


def forward(
    parameters: list[Tensor], inputs: list[Tensor], dropout: float, generator: torch.Generator | None
) -> Tensor:
    """(members, batch): the outputs in [0, 1] of each member on its own batch.

    Args:
        parameters: as `initial_parameters` orders them.
        inputs: the tensors of `as_tensors` and the standardised features, each (members, batch, ...).
        generator: what draws the dropout; None where `dropout` is 0.
    """
    V, neighbours, present, features = inputs
    *layers, hidden, hidden_bias, output, output_bias = parameters
    for W in layers:
        V = drop(bidirectional_layer(V, neighbours, W), dropout, generator)
    pooled = torch.einsum("mbn,mbnd->mbd", present, V)
    x = functional.relu(torch.baddbmm(hidden_bias, torch.cat([pooled, features], dim=2), hidden))
    x = drop(x, dropout, generator)
    return torch.sigmoid(torch.baddbmm(output_bias, x, output))[..., 0]


def bidirectional_layer(V: Tensor, neighbours: Tensor, W: Tensor) -> Tensor:
    """One layer: 1/2 ReLU(A V W+) + 1/2 ReLU(B V W-).

    Args:
        V: (members, batch, nodes, in).
        neighbours: (members, batch, 2, nodes, nodes), A and B.
        W: (members, in, 2 out), W+ and W- side by side.
    """
    members, batch, nodes, _ = V.shape
    both = torch.bmm(V.reshape(members, batch * nodes, -1), W).view(members * batch, nodes, 2, -1)
    A, B = neighbours.reshape(members * batch, 2, nodes, nodes).unbind(1)
    forwards = functional.relu(torch.bmm(A, both[:, :, 0]))
    backwards = functional.relu(torch.bmm(B, both[:, :, 1]))
    return (0.5 * (forwards + backwards)).view(members, batch, nodes, -1)


def drop(x: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """Dropout that a generator of its own decides: the global random state stays as it is."""
    if dropout == 0 or generator is None:
        return x
    kept = torch.rand(x.shape, generator=generator) >= dropout
    return x * kept / (1 - dropout)
