"""The one interface of a learned accuracy predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from spaces.errors import InputError
from spaces.graph import GraphBatch

Floats = NDArray[np.float64]


class FittedPredictor(ABC):
    """What a predictor has learned."""

    @abstractmethod
    def predict(self, graphs: GraphBatch, features: Floats) -> tuple[Floats, Floats]:
        """Predicted targets and how far off they may be.

        Args:
            graphs: n architectures of the space it was fitted on.
            features: (n, k), the same columns as in `fit`.
        Returns:
            mean (n,) and std (n,), both in the unit of the targets. std covers what the model does not know and the
            noise of one target: about 95 % of new targets lie within mean +- 1.96 std.
        Raises:
            InputError: if the shapes do not go together or differ from those in `fit`.
        """

    def left_out(self) -> tuple[Floats, Floats] | None:
        """Cross-validation that the fit made by itself: mean and std (n,) of each architecture that it was fitted on,
        as they are predicted without it. None where the fit made none.
        """
        return None


class Predictor(ABC):
    """A way to learn targets from architectures. Settings are fields; `fit` leaves the predictor as it is."""

    @abstractmethod
    def fit(self, graphs: GraphBatch, features: Floats, targets: Floats, *, seed: int) -> FittedPredictor:
        """Learn from n evaluated architectures.

        Args:
            graphs: the architectures.
            features: (n, k) known properties of each whole architecture, such as log params and log flops; k may be 0.
            targets: (n,) finite, such as accuracies.
            seed: decides everything that is drawn.
        Raises:
            InputError: if the shapes do not go together, a value is not finite, or there are too few architectures.
        """


def checked_inputs(graphs: GraphBatch, features: Floats) -> Floats:
    """The features as float64, after a look at shapes and values."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) != len(graphs):
        raise InputError(f"{len(graphs)} graphs need features of shape ({len(graphs)}, k), got {features.shape}")
    if not np.isfinite(features).all():
        raise InputError("features of architectures must be finite")
    return features


def checked_targets(targets: Floats, n: int, *, least: int) -> Floats:
    """The targets as float64, one finite number for each of n architectures, of which there must be `least`."""
    targets = np.asarray(targets, dtype=np.float64)
    if targets.shape != (n,):
        raise InputError(f"{n} graphs need {n} targets, got the shape {targets.shape}")
    if not np.isfinite(targets).all():
        raise InputError("targets must be finite", hint="leave failed trials out before fitting")
    if n < least:
        raise InputError(
            f"this predictor needs at least {least} evaluated architectures, got {n}", hint="evaluate more"
        )
    return targets
