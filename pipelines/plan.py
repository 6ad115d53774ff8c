"""A budget in minutes becomes a plan: how many networks, how many epochs, when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from spaces import InputError

# What a run does besides training, in seconds on a slow core: CHOOSING_S fits predictors and measures the finalists,
# EXPORT_S exports, checks and measures the chosen model, and writes the report.
CHOOSING_S, EXPORT_S = 12.0, 30.0
CLOSING_S = CHOOSING_S + EXPORT_S
LEAST_TABLE_S = 5.0  # timing the blocks of the smallest chain takes longer than that: 8 s on a slow core
SEARCH_SHARE = 0.65  # of the time for training; the rest trains the finalists
CHOSEN_SHARE = 0.3  # of the trials; the rest are random ones that train the predictor
PREFERRED_TRIALS = 40
# Below so many steps of the optimiser, accuracies are near chance and teach a predictor nothing; fewer trials are
# better. That is 4 epochs of digits, or a fifth of one of CIFAR-10.
LEAST_STEPS = 150
MOST_EPOCHS = 30
EPOCH_PARTS = 20  # short trials last a multiple of a twentieth of an epoch
MOST_FINAL_EPOCHS = 200
LEAST_TRIALS = 6


@dataclass(frozen=True)
class TrainingSpeed:
    """Seconds to train and to validate on one image, as a line over a network's flops, in one busy worker."""

    train: tuple[float, float]  # constant, slope
    validate: tuple[float, float]
    setup_s: float  # of a training: building the network, moving all to the device, its slower first steps

    @classmethod
    def fit(
        cls, flops: Sequence[float], train: Sequence[float], validate: Sequence[float], *, setup_s: float
    ) -> TrainingSpeed:
        """From a few timed networks; with equal flops, or times that fall with them, the line is flat at the mean."""
        return cls(_line(flops, train), _line(flops, validate), setup_s)

    def found(
        self,
        flops: NDArray[np.float64],
        seconds: NDArray[np.float64],
        train_s_per_image: NDArray[np.float64],
        *,
        epochs: float,
        train_images: int,
        validation_images: int,
    ) -> TrainingSpeed:
        """As trainings of so many epochs have shown it; the line over flops keeps its shape.

        Setup and images are told apart, since short trainings are mostly the one and long ones the other.

        Args:
            flops, seconds, train_s_per_image: (n,) of the trainings; for an image NaN where it is not known.
        """
        known = ~np.isnan(train_s_per_image)
        factor = 1.0
        if known.any():
            factor = float(train_s_per_image[known].mean() / (self.train[0] + self.train[1] * flops[known]).mean())
        train, validate = ((factor * a, factor * b) for a, b in (self.train, self.validate))
        images = TrainingSpeed(train, validate, setup_s=0.0)
        planned = images.seconds(
            flops, epochs=epochs, train_images=train_images, validation_images=validation_images
        ).mean()
        return replace(images, setup_s=max(0.0, float(seconds.mean() - planned)))

    def seconds(
        self, flops: NDArray[np.float64], *, epochs: float, train_images: int, validation_images: int
    ) -> NDArray[np.float64]:
        """(n,) seconds of whole trainings."""
        per_image = self.train[0] + self.train[1] * flops
        validation = self.validate[0] + self.validate[1] * flops
        return np.asarray(self.setup_s + epochs * train_images * per_image + validation_images * validation)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    if np.ptp(x) == 0:
        return float(np.mean(y)), 0.0
    slope, constant = np.polyfit(x, y, 1)
    if slope <= 0 or constant < 0:
        # Through the origin where the constant would be negative, so that no network costs less than nothing.
        return (float(np.mean(y)), 0.0) if slope <= 0 else (0.0, float(np.dot(x, y) / np.dot(x, x)))
    return float(constant), float(slope)


@dataclass(frozen=True)
class Plan:
    """What a run will do. Recorded; given the plan and the recorded measurements, the seed decides the rest.

    Attributes:
        n_random, n_chosen: trials drawn at random, and trials that the predictor picks.
        epochs: of every trial.
        finalists: how many networks are trained to the end.
        final_epochs: of their training.
        ends_after_s: when the run is expected to end, in seconds after its start.
    """

    n_random: PositiveInt
    n_chosen: NonNegativeInt
    epochs: PositiveFloat
    finalists: PositiveInt
    final_epochs: PositiveFloat
    ends_after_s: float | None = None

    @property
    def n_trials(self) -> int:
        return self.n_random + self.n_chosen


def plan_trials(trials: int, *, epochs: float, final_epochs: float, finalists: int) -> Plan:
    """The plan of `--trials`."""
    n_chosen = min(round(CHOSEN_SHARE * trials), trials - 1)
    return Plan(trials - n_chosen, n_chosen, epochs, finalists, final_epochs)


@dataclass(frozen=True)
class Workload:
    """What planning a budget needs to know.

    Attributes:
        flops: (n,) of networks as they will be drawn.
        workers: trainings at once.
        steps_per_epoch: of the optimiser.
    """

    speed: TrainingSpeed
    flops: NDArray[np.float64]
    train_images: int
    validation_images: int
    workers: int
    steps_per_epoch: int
    test_images: int

    def mean_seconds(self, epochs: float) -> float:
        return float(
            self.speed.seconds(
                self.flops,
                epochs=epochs,
                train_images=self.train_images,
                validation_images=self.validation_images,
            ).mean()
        )

    def test_seconds(self) -> float:
        """Of scoring one finalist on the test images."""
        constant, slope = self.speed.validate
        return float(self.test_images * (constant + slope * self.flops.mean()))

    def finals_seconds(self, finalists: int, final_epochs: float) -> float:
        """Of training and scoring all finalists."""
        rounds = -(-finalists // self.workers)  # how many finalists one worker trains, one after another
        return rounds * (self.mean_seconds(final_epochs) + self.test_seconds())

    def epoch_seconds(self) -> float:
        return self.mean_seconds(1) - self.mean_seconds(0)


def check_budget(budget_s: float, elapsed_s: float, *, table_s: float = 0.0) -> None:
    """Make sure, before anything is timed for it, that a budget can leave time for trainings.

    Args:
        table_s: what a latency table that is still to measure takes at least.
    Raises:
        InputError: if it cannot.
    """
    least_s = elapsed_s + table_s + CLOSING_S
    if budget_s <= least_s:
        raise InputError(
            f"a budget must leave time for trainings, but of {budget_s:.0f} s all else takes {least_s:.0f} s at least",
            hint=f"give --budget {int(least_s / 60) + 2}m or more",
        )


def plan_budget(
    budget_s: float,
    elapsed_s: float,
    work: Workload,
    *,
    finalists: int,
    epochs: float | None = None,
    final_epochs: float | None = None,
) -> Plan:
    """Fill what is left of the budget.

    Raises:
        InputError: if it is too short for the least that makes sense.
    """
    left_s = budget_s - elapsed_s - CLOSING_S
    if final_epochs is None:
        share, finals_s = SEARCH_SHARE, 0.0
    else:  # they take what they take; the search has the rest
        share, finals_s = 1.0, work.finals_seconds(finalists, final_epochs)
    search_s = share * (left_s - finals_s)
    if epochs is None:
        epochs = _trial_epochs(search_s, work)
    rounds = int(search_s / work.mean_seconds(epochs))
    if rounds < _rounds(LEAST_TRIALS, work):
        least_s = _rounds(LEAST_TRIALS, work) * work.mean_seconds(epochs)
        needed = elapsed_s + CLOSING_S + least_s / share + finals_s
        raise InputError(
            f"a budget of {budget_s / 60:.1f} minutes leaves time for {max(rounds, 0) * work.workers} trainings of "
            f"{epochs:g} epochs, and {_rounds(LEAST_TRIALS, work) * work.workers} are needed",
            hint=f"give --budget {int(needed / 60) + 1}m or more, smaller images, or a narrower space",
        )
    rounds_chosen = max(1, round(CHOSEN_SHARE * rounds))
    n_random, n_chosen = (rounds - rounds_chosen) * work.workers, rounds_chosen * work.workers
    plan = Plan(n_random, n_chosen, epochs, finalists, final_epochs or 1, budget_s)
    return plan if final_epochs else replan_final(plan, budget_s, elapsed_s + rounds * work.mean_seconds(epochs), work)


def _rounds(trials: int, work: Workload) -> int:
    """How many trainings each worker does for so many trials: at least a random one and a pick."""
    return max(2, -(-trials // work.workers))


def _trial_epochs(search_s: float, work: Workload) -> float:
    """As many as leave time for PREFERRED_TRIALS trials, if that is enough for each; whole ones from 4 on.

    Where time is short, each has a quarter of LEAST_STEPS at least, and more, as long as LEAST_TRIALS are left, where
    that takes no longer than the rest of a trial: a GPU compiles for seconds what it then trains in tenths of one.
    """

    def affordable(trials: int) -> float:
        return (search_s / _rounds(trials, work) - work.mean_seconds(0)) / work.epoch_seconds()

    least = LEAST_STEPS / work.steps_per_epoch
    epochs = float(np.clip(affordable(PREFERRED_TRIALS), least, MOST_EPOCHS))
    if search_s / work.mean_seconds(epochs) < _rounds(2 * LEAST_TRIALS, work):
        as_long = work.mean_seconds(0) / work.epoch_seconds()
        short = max(least / 4, min(least, as_long, affordable(LEAST_TRIALS)))
        epochs = float(np.clip(affordable(2 * LEAST_TRIALS), short, epochs))
    return _whole_or_parts(epochs)


def _whole_or_parts(epochs: float) -> float:
    parts = 1 if epochs >= 4 else EPOCH_PARTS
    return max(1, int(epochs * parts)) / parts


def replan_chosen(
    plan: Plan, budget_s: float, elapsed_s: float, work: Workload, *, final_epochs: float | None = None
) -> Plan:
    """Once the random trials have shown the true speed: as many picks as the rest of the search time holds.

    Args:
        final_epochs: where they are given, and do not follow from what is left.
    """
    left_s = budget_s - CLOSING_S - elapsed_s
    if final_epochs is None:
        # The picks' part of what is left: they and the final trainings were planned in this proportion.
        picks, finals = SEARCH_SHARE * CHOSEN_SHARE, 1 - SEARCH_SHARE
        picks_s = left_s * picks / (picks + finals)
    else:
        picks_s = left_s - work.finals_seconds(plan.finalists, final_epochs)
    rounds = int(picks_s / work.mean_seconds(plan.epochs))
    return replace(plan, n_chosen=max(1, rounds) * work.workers)  # whole rounds, so that no worker waits for the others


def replan_final(
    plan: Plan, budget_s: float, elapsed_s: float, work: Workload, *, closing_s: float = CLOSING_S
) -> Plan:
    """The epochs of the final trainings that fill what is left.

    Args:
        work: its flops are those of the finalists, once they are known.
        closing_s: what is still to come besides training.
    """
    rounds = -(-plan.finalists // work.workers)  # how many finalists one worker trains, one after another
    seconds = (budget_s - closing_s - elapsed_s) / rounds - work.mean_seconds(0) - work.test_seconds()
    epochs = float(np.clip(seconds / work.epoch_seconds(), plan.epochs, MOST_FINAL_EPOCHS))
    return replace(plan, final_epochs=_whole_or_parts(epochs))
