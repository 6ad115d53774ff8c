"""What every search strategy is: it proposes architectures and learns from trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwnas.feasible import FeasibleSet
from hwnas.predictors import PredictorJudgement
from hwnas.trial import Trial
from spaces import Arch, InputError, Population
from spaces.space import Rate

NEAR_DRAWS = 256


class Strategy(ABC):
    """Proposes architectures; `start` is called once before the first `ask`.

    Proposal k draws from `default_rng([seed, k])` and depends on nothing but that and the trials told before, so a
    strategy that is told the recorded trials in order goes on where an earlier one stopped.
    """

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        self.feasible = feasible
        self.seed = seed
        self.asked = 0
        self.told: list[Trial] = []
        self.pending: dict[int, Population] = {}  # proposals that were not told yet, by number
        self._told_rows: list[Population] = []

    def resume(self, asked: int, pending: Mapping[int, Population]) -> None:
        """Go on after proposal `asked` - 1 of an earlier strategy, with the proposals that nobody told yet."""
        self.asked = asked
        self.pending = dict(pending)

    def ask(self, n: int) -> Population:
        """Up to n rows to evaluate next; fewer, or none, where the strategy first needs trials that it asked for."""
        rows: list[Population] = []
        for _ in range(n):
            row = self.propose(self.asked, np.random.default_rng([self.seed, self.asked]))
            if row is None:
                break
            rows.append(row)
            self.pending[self.asked] = row
            self.asked += 1
        genes = len(self.feasible.space.choices)
        return np.stack(rows) if rows else np.empty((0, genes), dtype=np.int64)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from finished trials, in the order of their numbers."""
        self.told.extend(trials)
        for trial in trials:
            self.pending.pop(trial.number, None)
            self._told_rows.append(self.feasible.space.row(trial.arch))
        self.asked = max([self.asked, *(trial.number + 1 for trial in trials)])

    @abstractmethod
    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        """Proposal k, (genes,), or None while it has to wait for trials."""

    def parent(self, number: int) -> int | None:
        """The earlier trial whose network was changed a little to make proposal `number`; None where there is none."""
        del number
        return None

    @property
    def remarks(self) -> Sequence[str]:
        """What a person should know of how the search goes; those that were there stay as more come."""
        return ()

    @property
    def n_first(self) -> int | None:
        """How many proposals did not depend on results; None where that is known beforehand, or not yet."""
        return None

    @property
    def judgement(self) -> PredictorJudgement | None:
        """How good the predictor is that proposals come from; None where there is none, or nothing is known of it."""
        return None

    def told_rows(self) -> Population:
        """The rows of all trials told so far."""
        return self._stacked(self._told_rows)

    def known_rows(self) -> Population:
        """The rows of all trials told so far, then of all that are pending."""
        return self._stacked([*self._told_rows, *self.pending.values()])

    def told_accuracies(self) -> NDArray[np.float64]:
        """The accuracies of all trials told so far, -inf where one failed."""
        return np.array([trial.values.get("accuracy_val", -np.inf) for trial in self.told], dtype=np.float64)

    def scores(self) -> NDArray[np.float64]:
        """(trials told,): what each network is worth by all that is known, in units of accuracy; -inf where it failed.

        Here the accuracy that was seen; of strategies with a model, half is what the model says: noise moves it less.
        """
        return self.told_accuracies()

    def chosen(self) -> Trial | None:
        """The trial of the highest score, of equals the earliest; None where none succeeded."""
        scores = self.scores()
        best = int(np.argmax(scores)) if len(scores) else 0
        return self.told[best] if np.isfinite(scores[best : best + 1]).any() else None

    def draw(self, n: int, rng: np.random.Generator, *, new: bool = True) -> Population:
        """n rows that meet the limits, of different networks as far as there are so many, `new`: none known."""
        rows = self.feasible.distinct(n, rng, exclude=self.known_rows() if new else None)
        return rows if len(rows) == n else np.concatenate([rows, self.feasible.sample(n - len(rows), rng)])

    def inside(self, vectors: Population, rng: np.random.Generator) -> Population:
        """Rows that meet the limits, of vectors of genes that an optimiser wrote: where one does not, it becomes the
        nearest of some that are drawn."""
        rows = self.feasible.space.repair(vectors)
        good = self.feasible.space.is_valid(rows)
        good[good] = self.feasible.holds(rows[good])
        if not good.all():
            drawn = self.feasible.sample(NEAR_DRAWS, rng)
            differ = (vectors[~good][:, None, :] != drawn).sum(axis=2)
            rows = rows.copy()
            rows[~good] = drawn[differ.argmin(axis=1)]
        return rows

    def mutant(self, row: Population, rng: np.random.Generator, *, rate: Rate | None = None) -> Population:
        """A child of one row (genes,) that meets the limits; a network that is drawn anew where none is found."""
        for n in (1, 16, 256):
            children = self.feasible.space.mutate(np.repeat(row[None], n, axis=0), rng, rate=rate)
            good = np.flatnonzero(self.feasible.holds(children))
            if len(good):
                return np.asarray(children[good[0]])
        return np.asarray(self.draw(1, rng)[0])

    def _stacked(self, rows: Sequence[Population]) -> Population:
        return np.stack(rows) if rows else np.empty((0, len(self.feasible.space.choices)), dtype=np.int64)


class DifferentRecordError(InputError):
    """What is recorded of a run is not what its strategy proposes."""

    def __init__(self, number: int, arch: Arch, recorded: Arch) -> None:
        super().__init__(
            f"trial {number} of this run must be {arch}, but {recorded} is recorded",
            hint="the record belongs to another seed, plan or version: start a new run",
        )


class PhasedStrategy(Strategy):
    """Proposes in phases: the next is planned when all trials before it are told, and until then it waits.

    Proposing raises `DifferentRecordError` where a phase that was planned before a break is not what is recorded.
    """

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._planned: list[Population] = []

    def propose(self, k: int, rng: np.random.Generator) -> Population | None:
        while k >= len(self._planned):
            first = len(self._planned)
            if len(self.told) < first:
                return None
            rows = self.plan(first, np.random.default_rng([self.seed, first]))
            self._compare_with_record(first, rows)
            self._planned.extend(rows)
        return self._planned[k]

    def _compare_with_record(self, first: int, rows: Population) -> None:
        """After a break phases are planned again, and what is known of a proposal must be of the network recorded."""
        recorded = dict(enumerate(self._told_rows[first:], start=first)) | self.pending
        for number, row in enumerate(rows, start=first):
            if number in recorded and not np.array_equal(recorded[number], row):
                arch, other = (self.feasible.space.arch(each) for each in (row, recorded[number]))
                raise DifferentRecordError(number, arch, other)

    @abstractmethod
    def plan(self, first: int, rng: np.random.Generator) -> Population:
        """At least one row for proposal `first` and those after it, from the trials before `first` alone."""

    def rows_before(self, first: int) -> Population:
        """The rows of the trials before `first`."""
        return self._stacked(self._told_rows[:first])

    def draw_after(self, first: int, n: int, rng: np.random.Generator) -> Population:
        """As `draw`, but new to the trials before `first` alone: after a break, later ones may be known too."""
        rows = self.feasible.distinct(n, rng, exclude=self.rows_before(first))
        return rows if len(rows) == n else np.concatenate([rows, self.feasible.sample(n - len(rows), rng)])
