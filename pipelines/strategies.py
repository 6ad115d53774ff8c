"""The strategies that a run can be searched by, and how each is set up; they are imported late, for texts are cheap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spaces import InputError

if TYPE_CHECKING:
    from hwnas.soft_limits import SoftLimit
    from hwnas.strategies import Strategy

    from .run_record import RunRecord

NEURAL_PREDICTOR = "neural-predictor"  # the only one that plans random networks first and picks afterwards
GROWING = ("pnas", "epnas")  # that need a space whose networks grow
DEFAULT = "iterated"  # no other is ahead of it after 14 or after 40 trainings: docs/guide.md
FIRST = 10  # networks that strategies start from which go on after few
EVOLVED = 20  # the population of evolution; with 5 in a sample it is the better one for budgets of some 100 trainings
GENERATION = 10  # of NSGA-II, the best of 10 to 50 within 100 trainings
LEAST_BATCH = 3


@dataclass(frozen=True)
class Setting:
    """What a strategy is set up from; nothing of it changes when a run is gone on with.

    Attributes:
        n_random: the trials of the plan's first part.
        n_chosen: those of the second, as far as they are planned yet: no strategy but the one-shot Neural Predictor may
            depend on it.
        workers: trainings at once when the run began.
        job: "search" for one best network, "frontier" for the whole trade-off.
        soft: limits that may be missed at a price.
        costs: what a frontier weighs accuracy against.
    """

    n_random: int
    n_chosen: int
    workers: int
    job: Literal["search", "frontier"]
    soft: tuple[SoftLimit, ...] = ()
    costs: tuple[str, ...] = ("latency_ms_estimated",)

    @property
    def focus(self) -> float:
        """The share of the networks that are chosen for their accuracy alone."""
        return 0.5 if self.job == "search" else 0.0

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("accuracy_val",) if self.job == "search" else ("accuracy_val", *self.costs)

    @property
    def first(self) -> int:
        return min(FIRST, self.n_random)

    @property
    def batch(self) -> int:
        return self.workers * -(-LEAST_BATCH // self.workers)  # whole rounds, so that no worker waits for the others


def _random(setting: Setting) -> Strategy:
    from hwnas.strategies import RandomSearch

    return RandomSearch(planned=2 * setting.n_random)


def _neural_predictor(setting: Setting) -> Strategy:
    from hwnas.strategies import NeuralPredictor

    return NeuralPredictor(n_random=setting.n_random, n_chosen=setting.n_chosen, focus=setting.focus)


def _iterated(setting: Setting) -> Strategy:
    from hwnas.strategies import IteratedPredictor

    return IteratedPredictor(setting.objectives, n_random=setting.first, batch=setting.batch)


def _evolution(setting: Setting) -> Strategy:
    from hwnas.strategies import RegularizedEvolution

    return RegularizedEvolution(population=EVOLVED, sample=EVOLVED // 4)


def _nsga2(setting: Setting) -> Strategy:
    from hwnas.strategies import NSGA2

    return NSGA2(setting.objectives, population=GENERATION)


def _tpe(setting: Setting) -> Strategy:
    from hwnas.strategies import OptunaSampler

    return OptunaSampler("tpe", setting.objectives)


def _pnas(setting: Setting) -> Strategy:
    from hwnas.strategies import PNAS

    return PNAS(K=setting.batch, first=setting.first, all_up_to=setting.n_random, cost=only_cost(setting))


def only_cost(setting: Setting) -> str | None:
    """What PNAS weighs accuracy against; None in a search.

    Raises:
        InputError: if it is not one.
    """
    if setting.job == "search":
        return None
    if len(setting.costs) != 1:
        raise InputError(
            f"PNAS weighs accuracy against one cost, got {', '.join(setting.costs)}",
            hint="give one --cost, or compare other strategies",
        )
    return setting.costs[0]


def _epnas(setting: Setting) -> Strategy:
    from hwnas.strategies import EPNAS

    n_simple = setting.first // 2
    return EPNAS(
        n_simple=n_simple,
        n_random=setting.first - n_simple,
        batch=setting.batch,
        focus=1.0 if setting.job == "search" else 0.0,  # half from the front finds the best later (docs/guide.md)
        soft=setting.soft,
    )


STRATEGIES: dict[str, Callable[[Setting], Strategy]] = {
    NEURAL_PREDICTOR: _neural_predictor,
    "random": _random,
    "iterated": _iterated,
    "evolution": _evolution,
    "nsga2": _nsga2,
    "tpe": _tpe,
    "pnas": _pnas,
    "epnas": _epnas,
}
SOFT = ("epnas",)  # that weigh soft limits
EDITS = ("pnas", "epnas")  # that say which trained network a proposal was made from


def drawn_first(strategy: str, stored: RunRecord) -> int:
    """How many trials of a recorded plan the strategy draws before it uses what it learned; for reports."""
    if stored.n_first is not None:
        return stored.n_first
    plan = stored.plan
    counts = {NEURAL_PREDICTOR: plan.n_random, "random": plan.n_trials, "evolution": min(EVOLVED, plan.n_trials)}
    return counts.get(strategy, min(FIRST, plan.n_random))
