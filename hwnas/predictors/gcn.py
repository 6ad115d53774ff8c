"""The Neural Predictor: an ensemble of bidirectional graph convolutional networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hwnas.device import resolve_device
from spaces.errors import InputError
from spaces.graph import GraphBatch

from .predictor import FittedPredictor, Floats, Predictor, checked_inputs, checked_targets

PREDICTION_BATCH = {"cpu": 256, "cuda": 8192}  # graphs: on a CPU larger batches fall out of the cache and are slower
PAPER_CELLS = (43, 86, 129, 172, 334, 860)
PAPER_WIDTHS = (48, 72, 96, 144, 210, 320)
TWIN_FOLDS = 5  # of which the twin of a single member leaves out one


@dataclass(frozen=True)
class GCNPredictor(Predictor):
    """An ensemble of bidirectional GCNs, trained as one model with a leading member dimension.

    A layer is V' = 1/2 ReLU(A V W+) + 1/2 ReLU(B V W-), where A holds the edges and a self-loop for each node, B the
    same for the reversed edges, each divided by its row sums. The first V is the one-hot operation and the attributes
    of each node. The mean over the nodes that are present, joined by the standardised features of the graph, goes
    through hidden layers to a sigmoid, scaled to a range of targets.

    Each of several members starts from other weights and leaves out another fold of the data. The mean is that of the
    members; the variance is theirs plus the mean squared error of each member on the fold that it never saw. A single
    member sees everything; its variance is the mean squared error of a twin on the fifth that the twin left out.

    Attributes:
        layers: graph convolutions; 0 takes the mean of the nodes as they are.
        width: D, values per node.
        heads: values of each hidden layer after the mean.
        members: networks in the ensemble and folds; also the least number of architectures to fit (2 of a single one).
        epochs: passes over the data.
        batch: architectures in one step of one member.
        learning_rate: of Adam, falling to 0 by a cosine.
        weight_decay: L2, in the gradient.
        dropout: share of values dropped after each layer and in the head.
        attributes: whether the attributes of nodes are read.
        features: whether the features of graphs are read.
        span: least and greatest value of the sigmoid, in the unit of the targets; None for the range of the targets
            seen and a margin.
        margin: widens that range on either side, as a share of it.
        loss: "squared" error, over the variance of the targets; or "cross-entropy" of targets in 0..1, with that span.
        device: where it is trained and predicts, as `resolve_device` takes it; "auto" is a GPU when there is one. What
            is drawn is the same on each, results differ by rounding.

    Source: Wen et al., Neural Predictor for Neural Architecture Search (arXiv 1912.00848). The ensemble, the features
    and the defaults are ours, chosen on 50 to 172 architectures of NAS-Bench-Macro and of NAS-Bench-101: there dropout
    harms, and log params and log flops as features harm below 100 architectures and change nothing above.
    """

    layers: int = 3
    width: int = 32
    heads: tuple[int, ...] = (128,)
    members: int = 5
    epochs: int = 200
    batch: int = 10
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    dropout: float = 0.0
    attributes: bool = True
    features: bool = False
    span: tuple[float, float] | None = None
    margin: float = 0.25
    loss: Literal["squared", "cross-entropy"] = "squared"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.width, self.members, self.epochs, self.batch, *self.heads) < 1 or self.layers < 0:
            raise InputError("a GCN needs width, heads, members, epochs and batch of at least 1, layers of at least 0")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and 0 <= self.dropout < 1 and self.margin > 0):
            raise InputError(
                "a GCN needs learning_rate and margin above 0, weight_decay of at least 0 and dropout in [0, 1)"
            )
        if self.span is not None and not self.span[0] < self.span[1]:
            raise InputError(f"the span of a GCN must rise, got {self.span[0]} to {self.span[1]}")
        if self.loss not in ("squared", "cross-entropy") or (self.loss == "cross-entropy" and self.span != (0, 1)):
            raise InputError(
                f"the loss is 'squared', or 'cross-entropy' with span (0, 1); got {self.loss!r}, {self.span}"
            )

    @classmethod
    def paper_nasbench101(cls, n: int) -> GCNPredictor:
        """The regressor of the paper for n cells of NAS-Bench-101 with accuracies as fractions.

        Between the numbers of cells that the paper names, the width is on a line. Ours, since the paper does not say:
        the initial weights, where dropout stands, that the sigmoid spans 0 to 1, and the unit of the loss that the
        weight decay is beside.

        Source: Wen et al., 1912.00848, section 4.1 and its supplement.
        """
        return cls(
            layers=3,
            width=round(float(np.interp(n, PAPER_CELLS, PAPER_WIDTHS))),
            heads=(128,),
            members=1,
            epochs=300,
            batch=10,
            learning_rate=1e-4,
            weight_decay=1e-3,
            dropout=0.1,
            attributes=False,
            features=False,
            span=(0.0, 1.0),
        )

    @classmethod
    def paper_nasbench101_classifier(cls, n: int) -> GCNPredictor:
        """The first stage of the paper's two: the same network, asked whether an accuracy is above the threshold."""
        return replace(cls.paper_nasbench101(n), learning_rate=2e-4, span=(0, 1), loss="cross-entropy")

    @classmethod
    def paper_proxyless(cls) -> GCNPredictor:
        """The regressor of the paper for 119 ProxylessNAS networks, with accuracies as fractions.

        What the paper's section on ImageNet does not name is as for NAS-Bench-101.

        Source: Wen et al., 1912.00848, section 4.2.
        """
        return replace(
            cls.paper_nasbench101(119),
            layers=18,
            width=96,
            heads=(512, 128),
            learning_rate=1e-3,
            weight_decay=1e-5,
            span=(0.0, 1.0),
        )

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedGCN:
        features = checked_inputs(graphs, features)
        targets = checked_targets(targets, len(graphs), least=max(self.members, 2))
        read = self._read(features)
        scale = Scale.of(read, targets, self.margin, self.span)
        generator = torch.Generator().manual_seed(seed)
        device = resolve_device(self.device)
        known = (*as_tensors(graphs, attributes=self.attributes), torch.from_numpy(scale.standard(read)))
        inputs = tuple(each.to(device) for each in known)
        y = torch.from_numpy(scale.to_unit(targets)).to(device)
        first = self._initial(inputs, y, generator)
        folds = torch.randperm(len(y), generator=generator) % (self.members if self.members > 1 else TWIN_FOLDS)
        held_out = folds == torch.arange(self.members)[:, None]
        sees_all = torch.zeros_like(held_out)
        weights = self._trained(first, inputs, y, held_out if self.members > 1 else sees_all, generator)
        fitted = FittedGCN(self, weights, scale, 0.0, None, graphs.n_operations, graphs.attributes.shape[-1])
        if self.members == 1:
            twin = self._trained(self._initial(inputs, y, generator), inputs, y, held_out, generator)
            apart = held_out[0].numpy()
            (unseen,) = replace(fitted, weights=twin).predict_members(graphs[apart], features[apart])
            return replace(fitted, residual_std=_root_mean_square(unseen - targets[apart]))
        own = folds.numpy()
        unseen = fitted.predict_members(graphs, features)[own, np.arange(len(targets))]
        error = unseen - targets
        # What is said of a fold's errors may not know them: the other folds' say it.
        of_others = np.array([_root_mean_square(error[own != fold]) for fold in range(self.members)])
        return replace(fitted, residual_std=_root_mean_square(error), unseen=(unseen, of_others[own]))

    def _read(self, features: Floats) -> Floats:
        return features if self.features else features[:, :0]

    def _initial(self, inputs: tuple[Tensor, ...], y: Tensor, generator: torch.Generator) -> Weights:
        nodes, _, _, features = inputs
        sizes = (nodes.shape[-1], *[self.width] * self.layers)
        weights = Weights.initial(sizes, features.shape[1], self.heads, self.members, generator)
        # Each member starts at the mean, not in the middle of the range.
        weights.heads[-1][1].fill_(float(torch.logit(y.mean().clamp(0.01, 0.99))))
        return weights.on(y.device)

    def _trained(
        self,
        weights: Weights,
        inputs: tuple[Tensor, ...],
        y: Tensor,
        held_out: Tensor,
        generator: torch.Generator,
    ) -> Weights:
        """The weights after training; (members, n) `held_out` says what each member must not see."""
        parameters = [parameter.requires_grad_() for parameter in weights.all()]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        fewest = held_out.shape[1] - int(held_out.sum(dim=1).max())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * math.ceil(fewest / self.batch))
        spread = float(y.var()) or 1.0  # makes loss and weight decay independent of the targets' unit and shape
        for _ in range(self.epochs):
            for drawn in self._batches(held_out, generator):
                rows = drawn.to(y.device)
                outputs = forward(weights, [each[rows] for each in inputs], self.dropout, generator)
                if self.loss == "squared":
                    losses = (outputs - y[rows]) ** 2 / spread
                else:
                    losses = functional.binary_cross_entropy(outputs, y[rows], reduction="none")
                optimizer.zero_grad()
                # Summed over members: none of them shares a weight, so each gets its own mean's gradient.
                losses.mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        return weights.detached()

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
    def of(cls, features: Floats, targets: Floats, margin: float, span: tuple[float, float] | None) -> Scale:
        std = features.std(axis=0)
        low, high = span or _widened(targets, margin)
        if targets.min() < low or targets.max() > high:
            raise InputError(
                f"targets must lie in the span {low:g} to {high:g}, got {targets.min():g} to {targets.max():g}",
                hint="give targets as fractions, or another span",
            )
        return cls(features.mean(axis=0), np.where(std > 0, std, 1.0), low, high)

    def standard(self, features: Floats) -> NDArray[np.float32]:
        return np.asarray((features - self.feature_mean) / self.feature_std, dtype=np.float32)

    def to_unit(self, targets: Floats) -> NDArray[np.float32]:
        return np.asarray((targets - self.low) / (self.high - self.low), dtype=np.float32)

    def from_unit(self, values: Floats) -> Floats:
        return self.low + (self.high - self.low) * values


def _widened(targets: Floats, margin: float) -> tuple[float, float]:
    span = float(np.ptp(targets)) or max(abs(float(targets[0])), 1.0)
    return float(targets.min()) - margin * span, float(targets.max()) + margin * span


def _root_mean_square(errors: Floats) -> float:
    return math.sqrt(float(np.mean(errors**2)))


@dataclass(frozen=True)
class FittedGCN(FittedPredictor):
    """The trained ensemble.

    Attributes:
        predictor: as it was fitted.
        weights: of all members.
        scale: how features and targets enter the network.
        residual_std: root mean squared error on what was left out, in the unit of the targets.
        unseen: of each architecture of the fit, what the member predicts that never saw it, and the error of the other
            members on theirs; None of a single member.
        n_operations: kinds of node.
        n_attributes: attributes of a node.
    """

    predictor: GCNPredictor
    weights: Weights
    scale: Scale
    residual_std: float
    unseen: tuple[Floats, Floats] | None
    n_operations: int
    n_attributes: int

    def left_out(self) -> tuple[Floats, Floats] | None:
        return self.unseen

    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        members = self.predict_members(graphs, features)
        apart = members.var(axis=0, ddof=1) if len(members) > 1 else 0.0
        return members.mean(axis=0), np.sqrt(apart + np.full(len(graphs), self.residual_std**2))

    def predict_members(self, graphs: GraphBatch, features: Floats) -> Floats:
        """(members, n): what each network of the ensemble predicts."""
        features = self.predictor._read(checked_inputs(graphs, features))
        expected = (self.n_operations, self.n_attributes, len(self.scale.feature_mean))
        came = (graphs.n_operations, graphs.attributes.shape[-1], features.shape[1])
        if came != expected:
            raise InputError(
                "operations, attributes and features must be as many as in the fit: "
                f"{expected[0]}, {expected[1]} and {expected[2]}; got {came[0]}, {came[1]} and {came[2]}"
            )
        standard = torch.from_numpy(self.scale.standard(features))
        outputs = torch.empty(self.weights.members, len(graphs))
        device = resolve_device(self.predictor.device)
        members = self.weights.on(device).apart()
        at_once = PREDICTION_BATCH.get(device.type, PREDICTION_BATCH["cpu"])
        with torch.inference_mode():
            for start in range(0, len(graphs), at_once):
                rows = slice(start, start + at_once)
                inputs = (*as_tensors(graphs[rows], attributes=self.predictor.attributes), standard[rows])
                alike = [each[None].to(device) for each in inputs]
                for member, alone in enumerate(members):
                    outputs[member, rows] = forward(alone, alike, 0.0, None)[0]
        return self.scale.from_unit(outputs.numpy().astype(np.float64))


def as_tensors(graphs: GraphBatch, *, attributes: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """What the network reads of n graphs.

    Returns:
        nodes (n, nodes, operations + attributes): one-hot operations, and attributes where asked for; 0 for absent
            nodes.
        neighbours (n, 2, nodes, nodes): edges with self-loops, and the reversed edges with self-loops, rows divided
            by their sums; 0 for absent nodes.
        present (n, nodes): 1 / the number of present nodes where there is one, 0 where not.
    """
    present = graphs.operations >= 0
    one_hot = graphs.operations[:, :, None] == np.arange(graphs.n_operations)
    known = [graphs.attributes * present[:, :, None]] if attributes else []
    nodes = np.concatenate([one_hot, *known], axis=2, dtype=np.float32)
    loops = graphs.adjacency | np.eye(graphs.operations.shape[1], dtype=np.bool_)
    edges = (loops & present[:, :, None] & present[:, None, :]).astype(np.float32)
    neighbours = np.stack([edges, edges.transpose(0, 2, 1)], axis=1)
    neighbours /= np.maximum(neighbours.sum(axis=3, keepdims=True), 1.0)
    weights = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(nodes), torch.from_numpy(neighbours), torch.from_numpy(weights.astype(np.float32))


@dataclass(frozen=True)
class Weights:
    """What is trained, each tensor with a leading member dimension.

    Attributes:
        layers: W+ and W- side by side, (members, in, 2 out), of each graph convolution.
        heads: weight (members, in, out) and bias (members, 1, out) of each hidden layer and of the output.
    """

    layers: tuple[Tensor, ...]
    heads: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def initial(
        cls, sizes: tuple[int, ...], features: int, heads: tuple[int, ...], members: int, generator: torch.Generator
    ) -> Weights:
        """Glorot-uniform weights, and biases of 0.

        Args:
            sizes: values per node before the first layer and after each.
            features: of the whole graph.
        """

        def glorot(rows: int, columns: int) -> Tensor:
            bound = math.sqrt(6 / (rows + columns))
            return (2 * torch.rand(members, rows, columns, generator=generator) - 1) * bound

        layers = [
            torch.cat([glorot(rows, columns), glorot(rows, columns)], dim=2)
            for rows, columns in itertools.pairwise(sizes)
        ]
        ends = itertools.pairwise((sizes[-1] + features, *heads, 1))
        return cls(
            tuple(layers), tuple((glorot(rows, columns), torch.zeros(members, 1, columns)) for rows, columns in ends)
        )

    @property
    def members(self) -> int:
        return len(self.heads[0][0])

    def all(self) -> list[Tensor]:
        return [*self.layers, *itertools.chain.from_iterable(self.heads)]

    def detached(self) -> Weights:
        """On the CPU, where a fitted predictor is kept, so that it can be sent to another process."""
        return self._each(lambda each: each.detach().cpu())

    def on(self, device: torch.device) -> Weights:
        return self._each(lambda each: each.to(device))

    def apart(self) -> list[Weights]:
        """Those of each member alone, as an ensemble of one."""
        return [self._each(itemgetter(slice(member, member + 1))) for member in range(self.members)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Weights:
        heads = tuple((change(weight), change(bias)) for weight, bias in self.heads)
        return Weights(tuple(change(W) for W in self.layers), heads)


def forward(weights: Weights, inputs: list[Tensor], dropout: float, generator: torch.Generator | None) -> Tensor:
    """(members, batch): the outputs in [0, 1] of each member on its own batch.

    Args:
        inputs: the tensors of `as_tensors` and the standardised features, each (members, batch, ...).
        generator: what draws the dropout; None where `dropout` is 0.
    """
    V, neighbours, present, features = inputs
    for W in weights.layers:
        V = drop(bidirectional_layer(V, neighbours, W), dropout, generator)
    x = torch.cat([torch.einsum("mbn,mbnd->mbd", present, V), features], dim=2)
    *hidden, (output, output_bias) = weights.heads
    for weight, bias in hidden:
        x = drop(functional.relu(torch.baddbmm(bias, x, weight)), dropout, generator)
    return torch.sigmoid(torch.baddbmm(output_bias, x, output))[..., 0]


def bidirectional_layer(V: Tensor, neighbours: Tensor, W: Tensor) -> Tensor:
    """One layer: 1/2 ReLU(A V W+) + 1/2 ReLU(B V W-).

    Args:
        V: (members, batch, nodes, in).
        neighbours: (members, batch, 2, nodes, nodes), A and B.
        W: (members, in, 2 out), W+ and W- side by side.
    """
    members, batch, nodes, _ = V.shape
    # ReLU(x / 2) is ReLU(x) / 2, and W is far smaller than what comes out.
    both = torch.bmm(V.reshape(members, batch * nodes, -1), 0.5 * W).view(members * batch, nodes, 2, -1)
    A, B = neighbours.reshape(members * batch, 2, nodes, nodes).unbind(1)
    forwards = torch.bmm(A, both[:, :, 0]).relu_()
    backwards = torch.bmm(B, both[:, :, 1]).relu_()
    return (forwards + backwards).view(members, batch, nodes, -1)


def drop(x: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """Dropout that a generator of its own decides: the global random state stays as it is."""
    if dropout == 0 or generator is None:
        return x
    kept = torch.rand(x.shape, generator=generator) >= dropout  # drawn on the CPU, the same for every device
    return x * kept.to(x.device) / (1 - dropout)
