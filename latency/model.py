"""Latency estimates: what all of them promise, and one that is learned for spaces that are no chains.

The learned estimate is a sum of prices of layers, learned from a few networks of the space that were measured.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces import InputError, Network, Population, SearchSpace, Task
from spaces.additive import AdditiveCost
from spaces.tally import ROWS_AT_ONCE, Tally, TallyOneByOne

from .device import PROTOCOL, Device
from .drift import SLOPE_DEVIATION, half_between
from .measuring import MeasuringPlan, PlanTimes, measure_plan, network_name, networks_digest
from .prices import LayerPrices, fit_prices, learned_prices, most_telling

VERSION = 3  # of how networks are measured for a model, what is learned from them and how it is stored, by one protocol
LEARNED_NETWORKS = 30
LEAST_NETWORKS = 6  # below, no error can be stated
MEASURE_ANEW = "measure a new table: start a new run without the old one"
DRAWN = 600  # random rows of which the measured ones are chosen


class LatencyModel(ABC):
    """Estimated latency of every network of one space and task on one device, with its error.

    Attributes:
        space: the full name.
        reference_ms: the reference network's own latency, which all ratios on this device and task are times of.
        reference_now_ms: what it took while the networks were measured.
        slope_deviation: how far the slope may be wrong by which their ratios were changed for it: `drift`.
        relative_error: half-width of the 95 % interval of the logarithm of a usual estimate, as networks that are left
            out tell, all measured at one time.
        calibration: (measured ms, ms estimated by all others alone) of the networks that the estimate was fitted to.
        networks: `networks_digest` of what was measured.
    """

    device: Device
    space: str
    task: Task
    reference_ms: float
    reference_now_ms: float
    slope_deviation: float
    relative_error: float
    calibration: tuple[tuple[float, float], ...]
    networks: str

    @abstractmethod
    def estimate_ms(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,) estimated latency_ms."""

    @abstractmethod
    def additive(self) -> AdditiveCost | None:
        """The estimate as a sum over genes, or None where it is no such sum."""

    @abstractmethod
    def with_reference(self, reference_ms: float) -> LatencyModel:
        """The same where the reference network takes so long: what was measured are ratios to it."""

    @abstractmethod
    def to_json(self) -> str:
        """What `read_latency_model` reads."""

    def interval_ms(self, population: Population) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper end of the 95 % interval of each estimate, (n,) each."""
        estimate = self.estimate_ms(population)
        return estimate * np.exp(-self.stated_error), estimate * np.exp(self.stated_error)

    @property
    def stated_error(self) -> float:
        """Half-width of the 95 % interval of the logarithm of a usual estimate, of a latency measured at any time."""
        return stated_error(self.common_fields())

    @property
    def walks_records(self) -> bool:
        """Whether networks are estimated one after another, from their layer records: some hundred a second."""
        return False

    def calibration_with(self, reference_ms: float) -> tuple[tuple[float, float], ...]:
        """`calibration` where the reference network takes so long."""
        scale = reference_ms / self.reference_ms
        return tuple((scale * measured, scale * estimated) for measured, estimated in self.calibration)

    def common_fields(self) -> dict[str, Any]:
        """What every stored model holds."""
        names = (
            "space",
            "reference_ms",
            "reference_now_ms",
            "slope_deviation",
            "relative_error",
            "calibration",
            "networks",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "protocol": PROTOCOL,
            "version": VERSION,
            "device": asdict(self.device),
            "task": asdict(self.task),
        }


def stated_error(stored: Mapping[str, Any]) -> float:
    """`LatencyModel.stated_error`, of what `common_fields` gave."""
    known = (stored[name] for name in ("reference_ms", "reference_now_ms", "slope_deviation"))
    return math.hypot(stored["relative_error"], half_between(*known))


def stored_fields(stored: Mapping[str, Any], *, space: str, task: Task, device: Device) -> dict[str, Any]:
    """The fields that all models share, from what `common_fields` gave.

    Raises:
        InputError: if they are of another version, device, space or task than the ones given.
    """
    for what, theirs, ours in (
        ("protocol", stored.get("protocol", 1), PROTOCOL),
        ("version", stored.get("version", 1), VERSION),
        ("device", Device(**stored["device"]), device),
        ("space", stored["space"], space),
        ("task", Task(**stored["task"]), task),
    ):
        if theirs != ours:
            raise InputError(
                f"the latency table must be of this {what} ({ours}), but it is of {theirs}",
                hint=MEASURE_ANEW,
            )
    return {
        "device": device,
        "space": space,
        "task": task,
        "reference_ms": stored["reference_ms"],
        "reference_now_ms": stored["reference_now_ms"],
        "slope_deviation": stored["slope_deviation"],
        "relative_error": stored["relative_error"],
        "calibration": tuple((a, b) for a, b in stored["calibration"]),
        "networks": stored["networks"],
    }


def check_networks(stored: Mapping[str, Any], networks: Iterable[Network]) -> None:
    """Make sure that a stored model was measured with the networks that its space has now.

    Raises:
        InputError: if a space of this name had others.
    """
    others = f"the latency table must be of the networks that {stored['space']} has now, but it is of others"
    try:
        now = networks_digest(networks)
    except Exception as error:  # a person's space that was edited since raises what it likes at rows of before
        raise InputError(f"{others}: {error}", hint=MEASURE_ANEW) from None
    if stored["networks"] != now:
        raise InputError(others, hint=MEASURE_ANEW)


@dataclass(frozen=True)
class LearnedLatency(LatencyModel):
    """Prices of layers, learned from measured networks: see `prices`.

    Attributes:
        relative_error: from each measured network, when the others alone set the prices.
        rows: (n, genes) the networks of `calibration`.
        prices: what their layers cost.
        tally: counts the layers of networks of the space.
    """

    device: Device
    space: str
    task: Task
    reference_ms: float
    reference_now_ms: float
    slope_deviation: float
    relative_error: float
    calibration: tuple[tuple[float, float], ...]
    networks: str
    rows: Population
    prices: LayerPrices
    tally: Tally

    def estimate_ms(self, population: Population) -> NDArray[np.float64]:
        parts = [self.prices.estimate(counts, self.tally.forms) for counts in self._counted(population)]
        return np.concatenate([np.zeros(0), *parts])

    def interval_ms(self, population: Population) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Wider for networks that are unlike the measured ones."""
        between = half_between(self.reference_ms, self.reference_now_ms, self.slope_deviation)
        parts = [self.prices.interval(counts, self.tally.forms, between) for counts in self._counted(population)]
        low, high = np.concatenate([np.zeros((2, 0)), *map(np.array, parts)], axis=1)
        return low, high

    def _counted(self, population: Population) -> Iterator[NDArray[np.float64]]:
        return (self.tally(population[i : i + ROWS_AT_ONCE]) for i in range(0, len(population), ROWS_AT_ONCE))

    def additive(self) -> AdditiveCost | None:
        return None

    def with_reference(self, reference_ms: float) -> LearnedLatency:
        prices = replace(self.prices, measured_ms=reference_ms / self.reference_ms * self.prices.measured_ms)
        known = self.calibration_with(reference_ms)
        return replace(self, reference_ms=reference_ms, calibration=known, prices=prices)

    @property
    def walks_records(self) -> bool:
        return isinstance(self.tally, TallyOneByOne)

    def to_json(self) -> str:
        learned = {"kind": "learned", "rows": self.rows.tolist(), "variances": self.prices.variances}
        return json.dumps({**self.common_fields(), **learned}, indent=1)

    @classmethod
    def from_json(cls, text: str, *, space: SearchSpace, task: Task, device: Device) -> LearnedLatency:
        """Read a stored model.

        Raises:
            InputError: if it is of another device, space, task or networks than the ones given.
        """
        stored: Mapping[str, Any] = json.loads(text)
        fields = stored_fields(stored, space=space.name, task=task, device=device)
        rows = np.array(stored["rows"], dtype=np.int64)
        measured_ms = np.array([measured for measured, _ in fields["calibration"]])
        check_networks(stored, (space.layers(space.arch(row), task) for row in rows))
        tally = space.tally(task)
        counts = tally(rows)
        prices = learned_prices(counts, tally.forms, measured_ms, tuple(stored["variances"]))
        return cls(**fields, rows=rows, prices=prices, tally=tally)


def check_enough(space: SearchSpace, rows: Population) -> None:
    """Make sure that something can be learned from these networks, and that one left out is not among the others.

    Raises:
        InputError: if there are fewer than 6, or two are the same network.
    """
    if len(rows) < LEAST_NETWORKS:
        raise InputError(
            f"a latency estimate of {space.name} needs {LEAST_NETWORKS} different networks to learn from, "
            f"got {len(rows)}",
            hint="widen the space: give a gene more values",
        )
    different = len(np.unique(space.canonical(rows), axis=0))
    if different < len(rows):
        raise InputError(
            f"each network that a latency estimate of {space.name} is learned from must come once, but of {len(rows)} "
            f"only {different} are different",
            hint="leave out what comes twice: leaving one out would not tell the error of the estimate",
        )


def learn_latency(
    space: SearchSpace,
    task: Task,
    device: Device,
    reference_ms: float,
    rows: Population,
    measured_ms: NDArray[np.float64],
    *,
    reference_now_ms: float,
    slope_deviation: float = SLOPE_DEVIATION,
) -> LearnedLatency:
    """Learn what layers cost from networks that were measured.

    Args:
        reference_ms, reference_now_ms: of the reference network, as stored, and while they were measured.
        rows: (n, genes), different from one another.
        measured_ms: (n,) their latency on the device.
        slope_deviation: how far the slope may be wrong by which `measured_ms` were brought to the stored speed.
    Raises:
        InputError: if there are fewer than 6 rows, two of one network, or not as many times, each above 0.
    """
    check_enough(space, rows)
    if measured_ms.shape != (len(rows),) or not (np.isfinite(measured_ms) & (measured_ms > 0)).all():
        raise InputError(f"each of the {len(rows)} networks must have one latency above 0 ms, got {measured_ms}")
    tally = space.tally(task)
    prices = fit_prices(tally(rows), tally.forms, measured_ms)
    pairs = tuple(zip(measured_ms.tolist(), prices.left_out_ms.tolist(), strict=True))
    return LearnedLatency(
        device=device,
        space=space.name,
        task=task,
        reference_ms=reference_ms,
        reference_now_ms=reference_now_ms,
        slope_deviation=slope_deviation,
        relative_error=prices.relative_error,
        calibration=pairs,
        networks=networks_digest(space.layers(space.arch(row), task) for row in rows),
        rows=rows,
        prices=prices,
        tally=tally,
    )


def measure_learned(
    space: SearchSpace,
    task: Task,
    device: Device,
    reference: bytes,
    reference_ms: float,
    *,
    calibration: Population,
    rng: np.random.Generator,
    budget_s: float | None = None,
) -> LearnedLatency:
    """Measure the networks of `calibration` and learn what layers cost.

    The stated error is that of each network when the others alone set the prices.

    Args:
        calibration: (n, genes) rows, different from one another and spread over the space, as `spread_rows` draws.
        budget_s: make fewer visits so that timing takes about this long.
    Raises:
        InputError: if there are fewer than 6 rows, or two of one network.
    """
    plan = learned_plan(space, task, calibration)
    times = measure_plan(plan, reference, reference_ms, rng, budget_s=budget_s)
    return fit_learned(space, plan, device, reference_ms, times)


def learned_plan(space: SearchSpace, task: Task, calibration: Population) -> MeasuringPlan:
    """What `fit_learned` needs measured: the networks of the rows.

    Raises:
        InputError: if there are fewer than 6 rows, or two of one network.
    """
    check_enough(space, calibration)
    # Each beside the reference alone, as a file is measured at the end: in rounds of many, small networks are faster.
    networks = [space.layers(space.arch(row), task) for row in calibration]
    return MeasuringPlan(space.name, task, calibration, tuple((network,) for network in networks))


def fit_learned(
    space: SearchSpace, plan: MeasuringPlan, device: Device, reference_ms: float, times: PlanTimes
) -> LearnedLatency:
    """The model of a device on which a `learned_plan` was measured."""
    names = [network_name(space.layers(space.arch(row), plan.task)) for row in plan.calibration]
    measured = reference_ms * np.exp([times.log_ratios[name].mean() for name in names])
    return learn_latency(
        space,
        plan.task,
        device,
        reference_ms,
        plan.calibration,
        measured,
        reference_now_ms=times.reference_now_ms,
        slope_deviation=times.slope_deviation,
    )


def spread_rows(space: SearchSpace, task: Task, n: int, rng: np.random.Generator) -> Population:
    """Up to n rows of different networks to measure, of random ones those that tell most about all: `most_telling`."""
    rows = space.sample(DRAWN, rng)
    rows = rows[np.sort(np.unique(space.canonical(rows), axis=0, return_index=True)[1])]
    tally = space.tally(task)
    return rows[most_telling(tally(rows), tally.forms, n)]
