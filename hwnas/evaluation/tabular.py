"""Scoring an architecture by looking it up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spaces import Arch, InputError, Population, SearchSpace

from ..objectives import is_maximised
from .evaluator import Evaluator
from .restricted import RestrictedSpace
from .table import Table


def check_cost_names(names: Iterable[str]) -> None:
    """Make sure that nothing is called a cost that would be taken for an accuracy.

    Raises:
        InputError: if something is.
    """
    if taken := [name for name in names if is_maximised(name)]:
        raise InputError(
            f"no cost may be named {', '.join(taken)}: names that begin with accuracy are of what is maximised",
            hint="name it otherwise",
        )


@dataclass(frozen=True, eq=False)
class TabularEvaluator(Evaluator):
    """Answers from a table instead of training.

    A search runs on `restricted`, the part of the space that the table lists. What a strategy may see of a network is
    what it asked for: one accuracy and the costs. The judging columns are read by `judge` alone, after a search.

    Attributes:
        accuracy: the column that is given as `accuracy_val`.
        costs: further values by name, and the columns they are in.
        judged_by: the columns whose mean judges a network that was chosen.
    """

    space: SearchSpace
    table: Table
    accuracy: str
    costs: Mapping[str, str] = field(default_factory=dict)
    judged_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_cost_names(self.costs)
        unknown = {self.accuracy, *self.costs.values(), *self.judged_by} - set(self.table.names)
        if unknown:
            raise InputError(
                f"the table has no column {', '.join(sorted(unknown))}", hint=f"it has {', '.join(self.table.names)}"
            )

    @cached_property
    def restricted(self) -> RestrictedSpace:
        """The networks of the table, as a space."""
        return RestrictedSpace(self.space, self.table.rows)

    def evaluate(self, arch: Arch, *, epochs: float, seed: int) -> Mapping[str, float]:
        """{"accuracy_val"} and the costs, whatever the fidelity and the seed.

        Raises:
            InputError: if the network is not in the table.
        """
        place = self.restricted.places(self.restricted.row(arch)[None])
        names = {"accuracy_val": self.accuracy, **self.costs}
        return {name: float(self.table.read(column, place)[0]) for name, column in names.items()}

    def judge(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,): the accuracy that is reported of networks after a search.

        Raises:
            InputError: if a network is not in the table, or the table has nothing to judge by.
        """
        if not self.judged_by:
            raise InputError("this table has no column to judge by", hint="name one as `reported`")
        places = self.restricted.places(population)
        if (places < 0).any():
            bad = population[int(np.argmin(places))]
            raise InputError(f"{self.space.format(bad)} is not in the table")
        return np.asarray(np.mean([self.table.read(column, places) for column in self.judged_by], axis=0))
