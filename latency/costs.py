"""All costs of many architectures on one device: counted exactly, latency estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from spaces import InputError, Population, SearchSpace, Task
from spaces.additive import AdditiveCost

from .counts import COUNTED, PopulationCosts
from .model import LatencyModel

Told = Callable[[Population], NDArray[np.float64]]  # (n, genes) -> (n,)


class DeviceCosts:
    """Costs by name for a space and task; `latency_ms_estimated` only where the latency of the device is modelled."""

    def __init__(
        self,
        space: SearchSpace,
        task: Task,
        table: LatencyModel | None = None,
        *,
        told: Mapping[str, Told] | None = None,
    ) -> None:
        """
        Args:
            told: costs that somebody measured of every network that is asked for, by name; they stand before what is
                counted or estimated under the same name.
        """
        if table is not None and (table.space, table.task) != (space.name, task):
            raise InputError(f"the latency table is of {table.space} and {table.task}, not of {space.name} and {task}")
        self.space = space
        self.task = task
        self.table = table
        self.told = dict(told or {})
        self._counts = PopulationCosts(space, task)

    def of(self, population: Population) -> dict[str, NDArray[np.float64]]:
        """(n, genes) -> one (n,) array a name."""
        values = self._counts.of(population)
        if self.table is not None:
            values["latency_ms_estimated"] = self.table.estimate_ms(population)
        return values | {name: tell(population) for name, tell in self.told.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities that `interval` answers for."""
        latency = () if self.table is None else ("latency_ms",)
        return tuple(dict.fromkeys([*COUNTED, *latency, *self.told]))

    def one(self, name: str, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,): one counted or told quantity alone, which may be much faster than all of them."""
        return self.told[name](population) if name in self.told else self._counts.one(name, population)

    def interval(self, name: str, population: Population) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper end of what is known of a quantity: equal for counts, 95 % for an estimated `latency_ms`."""
        if name == "latency_ms" and name not in self.told:
            return self._table().interval_ms(population)
        values = self.one(name, population)
        return values, values

    def additive(self, name: str) -> tuple[AdditiveCost, float] | None:
        """A limited quantity as a sum over genes, and half the interval of its logarithm; None where it is no sum."""
        if name in self.told:
            return None
        if name == "latency_ms":
            latency = self._table().additive()
            return None if latency is None else (latency, self._table().stated_error)
        cost = self._counts.additive(name) if name in COUNTED else None
        return None if cost is None else (cost, 0.0)

    def _table(self) -> LatencyModel:
        if self.table is None:
            raise InputError("a limit on latency_ms needs a latency table of the device, and none was measured")
        return self.table
