"""The part of a space that meets the limits: proofs that it is empty, sampling inside it, the network nearest to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency import DeviceCosts
from spaces import InputError, Population, SearchSpace
from spaces.additive import AdditiveSampler, Interval, extremes
from spaces.chain import ChainSpace

from .objectives import Limit, contradiction

DRAWS = 20_000  # random rows that are tried before a search gives up on limits that no table can decide
WALKED_DRAWS = 1000  # the same, and rounds, where each row's latency is estimated by walking its records: 2 to 5 ms
WALKED_ROUNDS = 3
SPARE = 50_000  # rows beyond those asked for that are drawn of sums, since other limits may refuse some
DESCENT_ROUNDS = 60
DESCENT_ROWS = 400
DISTINCT_ROUNDS = 8


class InfeasibleError(InputError):
    """No network meets the limits, by proof or as far as drawing could find."""

    exit_code = 3


class FeasibleSet:
    """The rows of a space that meet all limits, as far as counts and estimates can tell.

    A row passes a limit on an estimated quantity when the far end of the estimate's 95 % interval meets it.
    On chains, limits on sums are kept exactly by dynamic programming, the others by drawing again; elsewhere rows
    are drawn, and moved towards the limits where drawing finds none.
    """

    def __init__(self, space: SearchSpace, costs: DeviceCosts | None = None, limits: Sequence[Limit] = ()) -> None:
        if limits and costs is None:
            raise InputError(f"the limits {', '.join(map(str, limits))} need costs, and none were given")
        self.space = space
        self.costs = costs
        self.limits = tuple(limits)

    def holds(self, population: Population) -> NDArray[np.bool_]:
        """(n, genes) -> (n,)."""
        met = np.ones(len(population), dtype=np.bool_)
        # Latency last, and only where all else holds: outside chains its estimate is by far the dearest.
        for limit in sorted(self.limits, key=lambda limit: limit.name == "latency_ms"):
            assert self.costs is not None
            rows = np.flatnonzero(met)
            low, high = self.costs.interval(limit.name, population[rows])
            met[rows] = limit.holds(high if limit.op == "<=" else low)
        return met

    def cost(self, name: str, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,): a cost that is known before training, latency as it is estimated.

        Raises:
            InputError: if it is not known.
        """
        if self.costs is None:
            raise InputError(f"the cost {name} needs a task and, for latency, a device; none were given")
        if name not in self.costs.told and name in ("latency_ms", "latency_ms_estimated"):
            low, high = self.costs.interval("latency_ms", population)
            return (low + high) / 2
        if name not in self.costs.names:
            raise InputError(f"{name} is not known before training", hint=f"known are {', '.join(self.costs.names)}")
        return self.costs.one(name, population)

    def walks(self, name: str) -> bool:
        """Whether a cost is estimated one network after another, which takes milliseconds each."""
        is_latency = name in ("latency_ms", "latency_ms_estimated")
        return is_latency and self.costs is not None and self.costs.table is not None and self.costs.table.walks_records

    def violation(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,): the sum of the relative violations of all limits, 0 where all hold."""
        total = np.zeros(len(population))
        for limit in self.limits:
            assert self.costs is not None
            low, high = self.costs.interval(limit.name, population)
            total += limit.violation(high if limit.op == "<=" else low)
        return total

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        """n rows that meet the limits, on chains spread evenly along latency (along flops where none is known).

        Raises:
            InfeasibleError: if there is none, or none was found.
        """
        if n == 0:
            return np.empty((0, len(self.space.choices)), dtype=np.int64)
        if self._sampler is None:
            return self._sample_by_drawing(n, rng)
        kept = np.empty((0, len(self.space.choices)), dtype=np.int64)
        for _ in range(50):
            drawn = self._sampler.sample(max(256, min(2 * n, n + SPARE)), rng, spread=True)
            kept = np.concatenate([kept, drawn[self.holds(drawn)]])
            if len(kept) >= n:
                return kept[:n]
            if not len(drawn):
                break
        return self._cycle(kept if len(kept) else self._descend(rng), n, rng)

    def distinct(self, n: int, rng: np.random.Generator, *, exclude: Population | None = None) -> Population:
        """Up to n rows of different networks that meet the limits, none of them among `exclude`."""
        taken = np.empty((0, len(self.space.choices)), dtype=np.int64) if exclude is None else exclude
        seen = rows = taken
        keys = self.space.canonical(taken)
        for _ in range(WALKED_ROUNDS if self._walks else DISTINCT_ROUNDS):
            new = _unseen(seen, self.sample(max(256, n), rng))
            seen, rows = np.concatenate([seen, new]), np.concatenate([rows, new])
            keys = np.concatenate([keys, self.space.canonical(new)])  # the dear part: once for each row
            first = np.unique(keys, axis=0, return_index=True)[1]
            kept = np.concatenate([np.arange(len(taken)), np.sort(first[first >= len(taken)])])
            rows, keys = rows[kept], keys[kept]
            if len(rows) - len(taken) >= n:
                break
        return rows[len(taken) : len(taken) + n]

    def check(self, rng: np.random.Generator) -> None:
        """Make sure that some network meets the limits.

        Raises:
            InfeasibleError: with the limits and the nearest network; the text says whether it is proved.
        """
        if not self.limits:
            return
        against = contradiction(self.limits)
        if against is not None:
            self._raise(rng, against)
        self._raise_if_proved(rng)
        self.sample(1, rng)

    def nearest(self, rng: np.random.Generator) -> Population:
        """The row (1, genes) that violates the limits least, as far as a descent from many rows finds."""
        starts = [self.space.sample(DESCENT_ROWS, rng)]
        if isinstance(self.space, ChainSpace):
            for limit in self.limits:
                assert self.costs is not None
                known = self.costs.additive(limit.name)
                if known is not None:
                    starts += [row for _, row in extremes(known[0], self.space.allowed)]
        rows = np.concatenate(starts)
        for _ in range(DESCENT_ROUNDS):
            violation = self.violation(rows)
            order = np.argsort(violation, kind="stable")[: DESCENT_ROWS // 4]
            best = rows[order]
            if violation[order[0]] == 0.0:
                break
            rows = np.concatenate([best, *(self.space.mutate(best, rng) for _ in range(3))])
        return rows[[int(np.argmin(self.violation(rows)))]]

    def _raise_if_proved(self, rng: np.random.Generator) -> None:
        assert self.costs is not None
        if not isinstance(self.space, ChainSpace):
            return
        for limit in self.limits:
            known = self.costs.additive(limit.name)
            if known is None:
                continue
            cost, error = known
            (least, _), (most, _) = extremes(cost, self.space.allowed)
            least, most = least * math.exp(-error), most * math.exp(error)
            at_best = " at the best end of its 95 % interval" if error else ""
            if limit.op == "<=" and least > limit.value:
                found = f"the least {limit.name} of {self.space.name} is {least:.4g}{at_best}"
                self._raise(rng, f"proved by the table: {found}")
            if limit.op == ">=" and most < limit.value:
                found = f"the greatest {limit.name} of {self.space.name} is {most:.4g}{at_best}"
                self._raise(rng, f"proved by the table: {found}")
        optimistic = AdditiveSampler(self.space.allowed, self._intervals(pessimistic=False))
        if optimistic.is_empty:
            self._raise(rng, "proved by the table: no network meets them at once")

    def _raise(self, rng: np.random.Generator, how: str) -> None:
        row = self.nearest(rng)
        assert self.costs is not None
        values = []
        for limit in self.limits:
            (low,), (high,) = self.costs.interval(limit.name, row)
            known = (
                f"{low:.4g}"
                if low == high
                else f"{math.sqrt(low * high):.4g} (estimated, 95 %: {low:.4g} to {high:.4g})"
            )
            values.append(f"{limit.name} {known}")
        raise InfeasibleError(
            f"no network meets {' and '.join(map(str, self.limits))} ({how}); "
            f"the nearest is {self.space.format(row[0])} with {', '.join(values)}",
            hint="relax the limit, or choose a narrower or wider skeleton with --space",
        )

    @cached_property
    def _sampler(self) -> AdditiveSampler | None:
        """For chains with known costs: by all limits that are sums, latency (or flops) first."""
        if not isinstance(self.space, ChainSpace) or self.costs is None:
            return None
        return AdditiveSampler(self.space.allowed, self._intervals(pessimistic=True))

    @cached_property
    def _walks(self) -> bool:
        """Whether limits ask for the latency of a space that is no chain, of one network after another."""
        return any(self.walks(limit.name) for limit in self.limits)

    def _intervals(self, *, pessimistic: bool) -> list[Interval]:
        assert self.costs is not None
        knows_sum = self.costs.table is not None and self.costs.table.additive() is not None
        spread = "latency_ms" if knows_sum else "flops"
        bounds: dict[str, tuple[float, float]] = {spread: (-math.inf, math.inf)}
        for limit in self.limits:
            known = self.costs.additive(limit.name)
            if known is None:
                continue
            error = known[1] if pessimistic else -known[1]
            low, high = bounds.get(limit.name, (-math.inf, math.inf))
            if limit.op == "<=":
                high = min(high, limit.value * math.exp(-error))
            else:
                low = max(low, limit.value * math.exp(error))
            bounds[limit.name] = (low, high)
        intervals = []
        for name, (low, high) in bounds.items():
            known = self.costs.additive(name)
            assert known is not None
            intervals.append(Interval(known[0], low, high))
        return [*intervals, *self._intensity_intervals()]

    def _intensity_intervals(self) -> list[Interval]:
        """flops / bytes >= c is the same as flops - c * bytes >= 0, which is a sum."""
        assert self.costs is not None
        flops, moved = self.costs.additive("flops"), self.costs.additive("bytes")
        assert flops is not None
        assert moved is not None
        found = []
        for limit in self.limits:
            if limit.name == "intensity":
                difference = flops[0] + moved[0].scaled(-limit.value)
                found.append(Interval(difference, high=0.0) if limit.op == "<=" else Interval(difference, low=0.0))
        return found

    def _sample_by_drawing(self, n: int, rng: np.random.Generator) -> Population:
        if not self.limits:
            return self.space.sample(n, rng)
        kept = np.empty((0, len(self.space.choices)), dtype=np.int64)
        size, left = max(256, n), max(WALKED_DRAWS if self._walks else DRAWS, n)
        while len(kept) < n and left > 0:
            drawn = self.space.sample(min(size, left), rng)
            kept = np.concatenate([kept, drawn[self.holds(drawn)]])
            left -= len(drawn)
            size *= 2
        return self._cycle(kept if len(kept) else self._descend(rng), n, rng)

    def _descend(self, rng: np.random.Generator) -> Population:
        row = self.nearest(rng)
        if not self.holds(row)[0]:
            draws = "" if self._sampler is not None else f"{WALKED_DRAWS if self._walks else DRAWS} draws and "
            self._raise(rng, f"none found in {draws}a descent from many networks")
        return row

    def _cycle(self, rows: Population, n: int, rng: np.random.Generator) -> Population:
        """From few rows, n: the rows themselves and feasible mutants of them."""
        for _ in range(20):
            if len(rows) >= n:
                break
            mutants = self.space.mutate(rows[rng.integers(0, len(rows), size=max(64, 2 * n))], rng)
            rows = np.concatenate([rows, mutants[self.holds(mutants)]])
        return rows[:n] if len(rows) >= n else rows[np.arange(n) % len(rows)]


def _unseen(seen: Population, rows: Population) -> Population:
    """Those of `rows` that are not among `seen`, each once, in order."""
    first = np.unique(np.concatenate([seen, rows]), axis=0, return_index=True)[1]
    return rows[np.sort(first[first >= len(seen)]) - len(seen)]
