"""The MLP that the Neural Predictor paper compares its GCN with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spaces.graph import GraphBatch

from .gcn import FittedGCN, GCNPredictor
from .predictor import FittedPredictor, Floats, Predictor, checked_inputs


def flattened(graphs: GraphBatch) -> Floats:
    """One-hot operations, then the upper triangle of the adjacency: (n, nodes * kinds + nodes * (nodes - 1) / 2).

    What an MLP reads depends on the numbering of the nodes, unlike what a GCN reads.
    """
    one_hot = graphs.operations[:, :, None] == np.arange(graphs.n_operations)
    above = np.triu_indices(graphs.operations.shape[1], k=1)
    edges = graphs.adjacency[:, above[0], above[1]]
    return np.concatenate([one_hot.reshape(len(graphs), -1), edges], axis=1).astype(np.float64)


@dataclass(frozen=True)
class MLPPredictor(Predictor):
    """Hidden layers on the flattened graph; neither attributes nor features are read.

    Attributes:
        network: how it is trained, and its hidden layers as `heads`. It reads what is flattened as features of a graph
            that has nothing else; `layers` must be 0.

    Source: Wen et al., Neural Predictor for Neural Architecture Search (arXiv 1912.00848), supplement.
    """

    network: GCNPredictor

    @classmethod
    def paper_nasbench101(cls, n: int) -> MLPPredictor:
        """For n cells of NAS-Bench-101, trained as the paper's GCN.

        The paper gives no sizes; three layers as wide as the GCN's and its head are those of the rerun
        itouchz/Neural-Predictor-Tensorflow.
        """
        gcn = GCNPredictor.paper_nasbench101(n)
        return cls(replace(gcn, layers=0, heads=(gcn.width,) * 3 + gcn.heads, features=True))

    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedMLP:
        checked_inputs(graphs, features)
        return FittedMLP(self.network.fit(_nothing(len(graphs)), flattened(graphs), targets, seed=seed))


@dataclass(frozen=True)
class FittedMLP(FittedPredictor):
    """The trained network."""

    network: FittedGCN

    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        checked_inputs(graphs, features)
        return self.network.predict(_nothing(len(graphs)), flattened(graphs))

    def left_out(self) -> tuple[Floats, Floats] | None:
        return self.network.left_out()


def _nothing(n: int) -> GraphBatch:
    """Graphs of one node of the one operation there is."""
    return GraphBatch(np.zeros((n, 1), np.int64), np.zeros((n, 1, 1), np.bool_), np.zeros((n, 1, 0), np.float32), 1)
