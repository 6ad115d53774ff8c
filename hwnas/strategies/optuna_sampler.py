"""Optuna's samplers as strategies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState, create_trial

from hwnas.feasible import FeasibleSet
from hwnas.objectives import is_maximised
from spaces import InputError, Population

from .strategy import Strategy

Kind = Literal["tpe", "tpe-multivariate", "nsga2", "gp"]
GENERATION = "NSGAIISampler:generation"  # where Optuna keeps the generation of a trial
ASKS = 5  # of one proposal, while what is proposed is a network that is known

SAMPLERS: dict[Kind, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, _: TPESampler(seed=seed),
    "tpe-multivariate": lambda seed, _: TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed, population: NSGAIISampler(seed=seed, population_size=population),
    "gp": lambda seed, _: GPSampler(seed=seed),
}


class OptunaSampler(Strategy):
    """A sampler of Optuna with its own defaults; every gene is a categorical parameter.

    A study in memory holds what was told, and what is pending as running trials. What the sampler proposes is made a
    network that meets the limits; a known one is asked for again, up to 5 times. NSGA-II proposes in generations: it
    waits until a whole one is told. Failed trials are told as such.

    Args:
        kind: "tpe", the same with all genes drawn jointly ("tpe-multivariate"), "nsga2" or "gp".
        objectives: names of values; accuracies are to rise, all else is to fall.
        population: of NSGA-II alone.

    Source: Akiba et al., Optuna, 1907.10902, and its documentation.
    """

    def __init__(
        self, kind: Kind = "tpe", objectives: tuple[str, ...] = ("accuracy_val",), *, population: int = 50
    ) -> None:
        if kind not in SAMPLERS:
            raise InputError(f"the samplers of Optuna are {', '.join(SAMPLERS)}, got {kind!r}")
        if not objectives or population < 2:
            raise InputError(f"a sampler needs objectives and a population of at least 2, got {population}")
        self.kind = kind
        self.objectives = objectives
        self.population = population

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._genes = {
            f"gene_{i:02d}": CategoricalDistribution(tuple(range(size)))
            for i, size in enumerate(feasible.space.choices)
        }
        self._study = self._new_study()
        self._in_study = 0
        self._complete = 0  # of those in the study

    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        if self.kind == "nsga2" and len(self.told) < k - k % self.population:
            return None
        # Proposals of one generation must not see each other's results, however early they come.
        self._bring_in(k - k % self.population if self.kind == "nsga2" else len(self.told))
        study = self._with_pending() if self.pending and self.kind != "nsga2" else self._study
        known = self.feasible.space.canonical(self.known_rows())
        row = self._ask(study, rng)
        for _ in range(ASKS - 1):
            if not (known == self.feasible.space.canonical(row[None])).all(axis=1).any():
                break
            row = self._ask(study, rng)
        return row

    def _ask(self, study: optuna.Study, rng: np.random.Generator) -> Population:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = SAMPLERS[self.kind](int(rng.integers(1 << 31)), self.population)
            if isinstance(study.sampler, NSGAIISampler):
                # Optuna draws from parents in another order where it has just chosen them than where it remembers
                # them; now it remembers all, whether this strategy was just rebuilt or not.
                for generation in range(1, self._complete // self.population + 1):
                    study.sampler.get_parent_population(study, generation)
            trial = study.ask(dict(self._genes))
        vector = np.array([trial.params[name] for name in self._genes], dtype=np.int64)
        # The network may become another one, so this trial ends, and the network that was evaluated is added later.
        study.tell(trial, state=TrialState.FAIL)
        return np.asarray(self.inside(vector[None], rng)[0])

    def _bring_in(self, n: int) -> None:
        for number in range(self._in_study, n):
            trial, row = self.told[number], self._told_rows[number]
            complete = trial.state == "complete"
            self._study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if complete else TrialState.FAIL,
                    values=[float(trial.values[name]) for name in self.objectives] if complete else None,
                    params=self._parameters(row),
                    distributions=dict(self._genes),
                    system_attrs={GENERATION: self._complete // self.population} if self.kind == "nsga2" else None,
                )
            )
            self._complete += complete
        self._in_study = max(self._in_study, n)

    def _with_pending(self) -> optuna.Study:
        study = self._new_study()
        study.add_trials(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        for row in self.pending.values():
            study.add_trial(
                create_trial(state=TrialState.RUNNING, params=self._parameters(row), distributions=dict(self._genes))
            )
        return study

    def _parameters(self, row: Population) -> dict[str, int]:
        return dict(zip(self._genes, np.maximum(row, 0).tolist(), strict=True))

    def _new_study(self) -> optuna.Study:
        up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [up if is_maximised(name) else down for name in self.objectives]
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.create_study(directions=directions)
        finally:
            optuna.logging.set_verbosity(before)
