"""What searches share that fit a surrogate again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwnas.belief import Belief
from hwnas.feasible import FeasibleSet
from hwnas.predictors import PredictorJudgement, quality, spearman
from hwnas.predictors.failures import FittedWithFailures, SuccessChance
from hwnas.predictors.flops_line import FittedFlopsLine, FlopsLine, log_flops
from hwnas.predictors.surrogate import FittedSurrogate, Surrogate, Warp
from spaces import Population

from .strategy import PhasedStrategy

Floats = NDArray[np.float64]
# Third parts of seeds, so that what is drawn for one purpose is drawn for no other. 0 is that of proposals: numpy takes
# parts that are missing for 0.
FITTING, REFERENCE = 1, 2
LEAST_TO_FIT = 5  # as many as an ensemble of 5 needs
LEAST_TO_DOUBT = 20  # below, a rank correlation says too little
STOOD_IN = (  # of no number, so that a run that goes on says it no second time
    "flops stand in for the model for a while: it ranks the networks, each predicted from the others, no better"
)
OF_HOPEFUL = 20  # networks are drawn for each that is taken, while only failures tell anything
DOUBTED_FOR = 5  # trials: without the last of them the surrogate must be no better either, since ranks are noisy


class SurrogateSearch(PhasedStrategy):
    """A search in phases whose surrogate learns from all trials before each.

    Attributes:
        surrogate: set by the constructor.
    """

    surrogate: Surrogate

    def start(self, feasible: FeasibleSet, seed: int) -> None:
        super().start(feasible, seed)
        self._remarks: list[str] = []
        self._learned: tuple[int, FittedSurrogate, PredictorJudgement | None] | None = None

    def fitted(self, first: int) -> FittedSurrogate | None:
        """What is learned from the trials before `first`; None where fewer than 5 of them succeeded.

        Failed ones say where others will fail. Where the surrogate tells 20 and more networks, each from the others, no
        better than flops do, a line on flops stands in, and a remark says so.
        """
        succeeded = self._succeeded(first)
        if succeeded.sum() < LEAST_TO_FIT:
            return None
        fitted, judgement = self._used(first)
        if judgement is not None and judgement.name != self.surrogate.name and STOOD_IN not in self._remarks:
            self._remarks.append(STOOD_IN)
        if succeeded.all():
            return fitted
        chance = SuccessChance.of(self.feasible, self.rows_before(first), succeeded)
        return FittedWithFailures(fitted, chance, float(self.told_accuracies()[:first][succeeded].min()))

    def draw_hopeful(self, first: int, n: int, rng: np.random.Generator) -> Population:
        """As `draw_after`; where trials before `first` failed and some did not, those likeliest to train to the end."""
        succeeded = self._succeeded(first)
        if succeeded.all() or not succeeded.any():
            return self.draw_after(first, n, rng)
        rows = self.draw_after(first, OF_HOPEFUL * n, rng)
        chance = SuccessChance.of(self.feasible, self.rows_before(first), succeeded)(rows)
        return rows[np.argsort(-chance, kind="stable")[:n]]

    @property
    def remarks(self) -> Sequence[str]:
        return self._remarks

    def _succeeded(self, first: int) -> NDArray[np.bool_]:
        return np.isfinite(self.told_accuracies()[:first])

    def _of_succeeded(self, first: int) -> tuple[Population, Floats]:
        good = self._succeeded(first)
        return self.rows_before(first)[good], self.told_accuracies()[:first][good]

    def _used(self, first: int) -> tuple[FittedSurrogate, PredictorJudgement | None]:
        """What the networks before `first` that succeeded teach, and how good it is."""
        if self._learned is None or self._learned[0] != first:
            fitted, judgement = self._fit(first), None
            left_out = fitted.left_out()
            if left_out is not None and self.feasible.costs is not None:
                line = self._line(first)
                judgement = self._judged(left_out, line.left_out(), first)
                fitted = line if judgement.name == FlopsLine.name else fitted
            self._learned = first, fitted, judgement
        return self._learned[1:]

    def _fit(self, first: int) -> FittedSurrogate:
        seed = int(self.seeds(first, FITTING).generate_state(1)[0])
        return self.surrogate.fit(*self._of_succeeded(first), feasible=self.feasible, seed=seed)

    def _line(self, first: int) -> FittedFlopsLine:
        return FlopsLine().fit(*self._of_succeeded(first), feasible=self.feasible, seed=0)  # nothing random in it

    def _judged(self, left_out: Belief, line: Belief, first: int) -> PredictorJudgement:
        """The surrogate beside a line on flops, by what each says of every network from the others.

        A search trains networks that are alike, whose order is mostly noise, so that a low rank correlation alone
        is but a warning: for flops to stand in, the errors must be as large as theirs too, and were before.
        """
        rows, accuracies = self._of_succeeded(first)
        own, by_flops = quality(left_out, accuracies), spearman(log_flops(self.feasible, rows), accuracies)
        warning, name = None, self.surrogate.name
        if own.spearman <= by_flops and len(rows) >= LEAST_TO_DOUBT:
            warning = (
                f"each of {len(rows)} networks predicted from the others, the model ranks no better than flops alone "
                f"(Spearman {own.spearman:.2f} and {by_flops:.2f})"
            )
            if self._no_better(left_out, line, first) and self._was_no_better(first - DOUBTED_FOR):
                warning, name = f"{warning}, which stand in for it", FlopsLine.name
        qualities = {self.surrogate.name: own, FlopsLine.name: quality(line, accuracies)}
        return PredictorJudgement(name, qualities, by_flops, warning)

    def _was_no_better(self, first: int) -> bool:
        left_out = self._fit(first).left_out()
        assert left_out is not None
        return self._no_better(left_out, self._line(first).left_out(), first)

    def _no_better(self, left_out: Belief, line: Belief, first: int) -> bool:
        """Neither in rank nor in error."""
        rows, accuracies = self._of_succeeded(first)
        ranks = spearman(left_out.at(0.0), accuracies), spearman(log_flops(self.feasible, rows), accuracies)
        return ranks[0] <= ranks[1] and _error(left_out, accuracies) >= _error(line, accuracies)

    def seeds(self, first: int, purpose: int) -> np.random.SeedSequence:
        """Of what is drawn before proposal `first` for a purpose of its own, other than 0."""
        return np.random.SeedSequence([self.seed, first, purpose])

    def scores(self) -> Floats:
        """Half the accuracy that was seen, half what the surrogate makes of it, once there are enough trials to fit it.

        A surrogate takes for noise what it cannot explain of a network, some of which is the network's own. Where flops
        stand in for it, the accuracy alone.
        """
        scores, rows = self.told_accuracies(), self.told_rows()
        good = np.isfinite(scores)
        if good.sum() >= LEAST_TO_FIT:
            fitted, judgement = self._used(len(self.told))
            if judgement is None or judgement.name == self.surrogate.name:
                scores[good] = (scores[good] + fitted.predict(rows[good])[0]) / 2
        scores[good] = self.worth(scores[good], rows[good])
        return scores

    def worth(self, accuracies: Floats, rows: Population) -> Floats:
        """(n,): what networks (n, genes) of such accuracies are worth."""
        del rows
        return accuracies

    @property
    def judgement(self) -> PredictorJudgement | None:
        """How well the surrogate of all trials predicts each of them from the others, and flops beside it."""
        now = len(self.told)
        return None if self._succeeded(now).sum() < LEAST_TO_FIT else self._used(now)[1]


def _error(belief: Belief, values: Floats) -> float:
    """The mean squared error of medians on the warped scale, where the worst of the values do not decide it."""
    warp = Warp.of(values)
    return float(((warp(np.minimum(belief.at(0.0), values.max())) - warp(values)) ** 2).mean())


def in_any_order(rows: Population, rng: np.random.Generator) -> Population:
    """The same rows; where the first of equally good ones is taken, it is any of them, not the first of a table."""
    return rows[rng.permutation(len(rows))]
