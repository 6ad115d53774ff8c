"""The one-shot Neural Predictor: train random networks, learn to predict accuracy, train what it picks.

Source: Wen et al., Neural Predictor for Neural Architecture Search, 1912.00848, section 3; the picks are its
soft-Pareto set (section 4.2), taken along the whole cost axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas.evaluation.restricted import RestrictedSpace
from hwnas.feasible import FeasibleSet
from hwnas.pareto import soft_front, spread_along
from hwnas.predictors import FittedPredictor, GCNPredictor, Predictor, PredictorChoice, choose_predictor
from hwnas.predictors.surrogate_adapter import FLOPS_COLUMN, graph_features
from hwnas.trial import Trial
from spaces import InputError, Population
from spaces.chain import ChainSpace

from .random_search import RandomSearch
from .strategy import Strategy

WALKED_CANDIDATES = 1000  # of spaces whose latency is estimated one network after another, at 5 ms each
LEAST_TO_FIT = 8  # evaluated networks below which no predictor is fitted and the picks are random ones


class NeuralPredictor(Strategy):
    """`n_random` networks under the limits, then `n_chosen` picked by the predictor that they train.

    Args:
        n_candidates: how many unseen networks the predictor ranks; at most 1,000 of a space that is neither a chain
            nor a table.
        J: softness of the front that picks come from; None picks the highest predicted accuracies, whatever they cost.
        focus: share of the picks that go to the highest predicted accuracy; the others spread along the cost axis.
        fallback: whether a predictor that ranks no better than flops, cross-validated, gives way to the best baseline.
    """

    def __init__(
        self,
        *,
        n_random: int,
        n_chosen: int,
        n_candidates: int = 20_000,
        J: int | None = 6,
        focus: float = 0.0,
        predictor: Predictor | None = None,
        fallback: bool = True,
    ) -> None:
        if n_random < 1 or n_chosen < 0 or not 0 <= focus <= 1:
            raise InputError(
                "the Neural Predictor needs n_random >= 1, n_chosen >= 0 and a focus in 0..1; "
                f"got {n_random}, {n_chosen} and {focus}"
            )
        self.n_random = n_random
        self.n_chosen = n_chosen
        self.n_candidates = n_candidates
        self.J = J
        self.focus = focus
        self.predictor = GCNPredictor() if predictor is None else predictor
        self.fallback = fallback

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._random = RandomSearch(planned=self.n_random)
        self._random.start(feasible, seed)
        self.__dict__.pop("picks", None)

    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        if k < self.n_random:
            return self._random.propose(k, rng)
        if len(self.told) < self.n_random:
            return None
        i = k - self.n_random
        return self.picks.rows[i] if i < len(self.picks.rows) else self._random.propose(k, rng)

    def scores(self) -> NDArray[np.float64]:
        """Half the accuracy that was seen, half what a predictor of all trials says, once there are enough."""
        scores = self.told_accuracies()
        fitted, _ = self._fit([trial for trial in self.told if trial.state == "complete"])
        if fitted is not None:
            good = np.isfinite(scores)
            rows = self.told_rows()[good]
            mean, _ = fitted.predict(self.feasible.space.graphs(rows), graph_features(self.feasible, rows))
            scores[good] = (scores[good] + mean) / 2
        return scores

    @property
    def judgement(self) -> PredictorChoice | None:
        """Of the predictor that made the picks; None before, and where nothing was chosen between."""
        picks: Picks | None = self.__dict__.get("picks")
        return None if picks is None else picks.choice

    def _fit(self, trials: list[Trial]) -> tuple[FittedPredictor | None, PredictorChoice | None]:
        if not self.fallback or self.feasible.costs is None:
            return fit_accuracy(self.predictor, self.feasible, trials, seed=self.seed), None
        choice = choose_accuracy(self.predictor, self.feasible, trials, seed=self.seed)
        return (None, None) if choice is None else (choice.fitted, choice)

    @cached_property
    def picks(self) -> Picks:
        """What the predictor chose, from the first n_random trials alone."""
        rng = np.random.default_rng([self.seed, self.n_random])
        is_fast = isinstance(self.feasible.space, ChainSpace | RestrictedSpace)
        n = self.n_candidates if is_fast else min(self.n_candidates, WALKED_CANDIDATES)
        # Later trials are picks themselves, of which a resumed run has been told some already.
        rows = self.feasible.distinct(n, rng, exclude=self.told_rows()[: self.n_random])
        fitted, choice = self._fit(self.told[: self.n_random])
        if fitted is None or not len(rows):
            return Picks(rows[: self.n_chosen], np.empty(0), np.empty(0), 0, choice)
        mean, _ = fitted.predict(self.feasible.space.graphs(rows), graph_features(self.feasible, rows))
        cost = cost_axis(self.feasible, rows)
        if self.J is None:
            top = np.argsort(-mean, kind="stable")[: self.n_chosen]
            return Picks(rows[top], mean[top], cost[top], len(top), choice)
        chosen, front_size = soft_picks(cost, mean, self.n_chosen, J=self.J, focus=self.focus)
        return Picks(rows[chosen], mean[chosen], cost[chosen], front_size, choice)


@dataclass(frozen=True)
class Picks:
    """Chosen rows with their predicted accuracy and cost, how many candidates the front held, and what predicted."""

    rows: Population
    predicted: NDArray[np.float64]
    cost: NDArray[np.float64]
    front_size: int
    choice: PredictorChoice | None


def soft_picks(
    cost: NDArray[np.float64], mean: NDArray[np.float64], n: int, *, J: int = 6, focus: float
) -> tuple[NDArray[np.int64], int]:
    """Which n networks of the soft front to train, and how many the front holds.

    The share `focus` of the picks goes to the highest means, the others spread along the cost; where the front is too
    small, along that of all.
    """
    front = soft_front(cost, mean, J=J)
    best = np.argsort(-np.where(front, mean, -np.inf), kind="stable")
    best = best[: min(round(focus * n), int(front.sum()))]
    rest = front.copy()
    rest[best] = False
    spread = spread_along(cost, mean, min(n - len(best), int(rest.sum())), mask=rest)
    chosen = np.concatenate([best, spread]).astype(np.int64)
    if len(chosen) < n:
        left = np.ones(len(mean), dtype=np.bool_)
        left[chosen] = False
        chosen = np.concatenate([chosen, spread_along(cost, mean, n - len(chosen), mask=left)])
    return chosen, int(front.sum())


def fit_accuracy(
    predictor: Predictor, feasible: FeasibleSet, trials: list[Trial], *, seed: int
) -> FittedPredictor | None:
    """A predictor of validation accuracy from the trials that succeeded, or None where they are too few."""
    rows, accuracy = _learned_from(feasible, trials)
    if len(rows) < LEAST_TO_FIT:
        return None
    return predictor.fit(feasible.space.graphs(rows), graph_features(feasible, rows), accuracy, seed=seed)


def choose_accuracy(
    predictor: Predictor, feasible: FeasibleSet, trials: list[Trial], *, seed: int
) -> PredictorChoice | None:
    """The same, or what ranks better where that ranks no better than flops; costs must be known."""
    rows, accuracy = _learned_from(feasible, trials)
    if len(rows) < LEAST_TO_FIT:
        return None
    features = graph_features(feasible, rows)
    return choose_predictor(
        predictor, feasible.space.graphs(rows), features, accuracy, flops_column=FLOPS_COLUMN, seed=seed
    )


def _learned_from(feasible: FeasibleSet, trials: list[Trial]) -> tuple[Population, NDArray[np.float64]]:
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return np.empty((0, len(feasible.space.choices)), dtype=np.int64), np.empty(0)
    rows = np.stack([feasible.space.row(trial.arch) for trial in complete])
    return rows, np.array([trial.values["accuracy_val"] for trial in complete])


def cost_axis(feasible: FeasibleSet, rows: Population) -> NDArray[np.float64]:
    """(n,): estimated latency where the device is known, else flops, else 0."""
    if feasible.costs is None:
        return np.zeros(len(rows))
    table = feasible.costs.table
    return feasible.costs.one("flops", rows) if table is None else table.estimate_ms(rows)
