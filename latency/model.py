"""Latency estimates: what all of them promise, and one that is learned for spaces that are no chains.

The learned estimate is a sum over kinds of operation: so much for each launch, each multiply-add and each byte of a
kind, none of them negative. The prices are a ridge regression on a few networks of the space that were measured.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls

from spaces import InputError, Layer, Network, Population, SearchSpace, Task
from spaces.additive import AdditiveCost
from spaces.derived import KINDS, kind_of

from .counts import FLOAT_BYTES, PerNetwork
from .device import Device
from .measuring import Group, LogRatios, MeasuringPlan, measure_plan, network_name

LEARNED_NETWORKS = 28
LEAST_NETWORKS = 6  # below, no error can be stated
VISITS, ROUNDS = 6, 5
DRAWN = 600  # random rows of which the measured ones are chosen
ALPHA = 1e-3  # of the ridge; from 0 to 0.1 the error is about the same, since no price can be negative


class LatencyModel(ABC):
    """Estimated latency of every network of one space and task on one device, with its error.

    Attributes:
        space: the full name.
        reference_ms: the reference network's own latency, which all ratios on this device and task are times of.
        relative_error: half-width of the 95 % interval of an estimate, as a share of it.
        calibration: (measured ms, ms estimated by all others alone) of the networks that the estimate was fitted to.
    """

    device: Device
    space: str
    task: Task
    reference_ms: float
    relative_error: float
    calibration: tuple[tuple[float, float], ...]

    @abstractmethod
    def estimate_ms(self, population: Population) -> NDArray[np.float64]:
        """(n, genes) -> (n,) estimated latency_ms."""

    @abstractmethod
    def additive(self) -> AdditiveCost | None:
        """The estimate as a sum over genes, or None where it is no such sum."""

    @abstractmethod
    def to_json(self) -> str:
        """What `read_latency_model` reads."""

    def interval_ms(self, population: Population) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper end of the 95 % interval of each estimate, (n,) each."""
        estimate = self.estimate_ms(population)
        return estimate * (1 - self.relative_error), estimate * (1 + self.relative_error)

    def common_fields(self) -> dict[str, Any]:
        """What every stored model holds."""
        names = ("space", "reference_ms", "relative_error", "calibration")
        return {
            **{name: getattr(self, name) for name in names},
            "device": asdict(self.device),
            "task": asdict(self.task),
        }


def stored_fields(stored: Mapping[str, Any], *, space: str, task: Task, device: Device) -> dict[str, Any]:
    """The fields that all models share, from what `common_fields` gave.

    Raises:
        InputError: if they are of another device, space or task than the ones given.
    """
    for what, theirs, ours in (
        ("device", Device(**stored["device"]), device),
        ("space", stored["space"], space),
        ("task", Task(**stored["task"]), task),
    ):
        if theirs != ours:
            raise InputError(
                f"the latency table must be of this {what} ({ours}), but it is of {theirs}",
                hint="measure a new table: start a new run without the old one",
            )
    return {
        "device": device,
        "space": space,
        "task": task,
        "reference_ms": stored["reference_ms"],
        "relative_error": stored["relative_error"],
        "calibration": tuple((a, b) for a, b in stored["calibration"]),
    }


OPERATIONS = ("conv1x1", *(kind for kind in KINDS if kind != "input"))
FEATURES = ("networks", *(f"{each} of {kind}" for kind in OPERATIONS for each in ("launches", "flops", "bytes")))


def operation_features(network: Network) -> list[float]:
    """What a network does, in the order of `FEATURES`: 1, then launches, multiply-adds and bytes of each operation.

    Bytes are those of inputs, outputs and weights. Batch norm and activation of a convolution are part of its launch.
    """
    totals = np.zeros((len(OPERATIONS), 3))
    for layer in network[1:]:
        elements = sum(math.prod(network[x].shape) for x in layer.inputs) + math.prod(layer.shape)
        launches = len(layer.inputs) - 1 if layer.op == "add" else 1
        totals[_operation(layer)] += (launches, layer.flops, FLOAT_BYTES * (elements + layer.folded_weights))
    return [1.0, *totals.ravel().tolist()]


def _operation(layer: Layer) -> int:
    kind = kind_of(layer)
    return OPERATIONS.index("conv1x1" if kind == "conv" and layer.kernel == (1, 1) else kind)


@dataclass(frozen=True)
class LearnedLatency(LatencyModel):
    """A price for each feature of a network.

    Attributes:
        prices_ms: (features,) milliseconds for one of each of `FEATURES`.
        features: (n, genes) -> (n, features). From layer records that is one network after another, thousands a
            second; a space that knows better gives arrays.
    """

    device: Device
    space: str
    task: Task
    reference_ms: float
    relative_error: float
    calibration: tuple[tuple[float, float], ...]
    prices_ms: NDArray[np.float64]
    features: Callable[[Population], NDArray[np.float64]]

    def estimate_ms(self, population: Population) -> NDArray[np.float64]:
        return np.asarray(self.features(population) @ self.prices_ms)

    def additive(self) -> AdditiveCost | None:
        return None

    def to_json(self) -> str:
        prices = dict(zip(FEATURES, self.prices_ms.tolist(), strict=True))
        return json.dumps({**self.common_fields(), "kind": "learned", "prices_ms": prices}, indent=1)

    @classmethod
    def from_json(cls, text: str, *, space: SearchSpace, task: Task, device: Device) -> LearnedLatency:
        """Read a stored model.

        Raises:
            InputError: if it is of another device, space or task than the ones given.
        """
        stored: Mapping[str, Any] = json.loads(text)
        return cls(
            **stored_fields(stored, space=space.name, task=task, device=device),
            prices_ms=np.array([stored["prices_ms"][name] for name in FEATURES]),
            features=PerNetwork(space, task, operation_features, names=FEATURES),
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
    """Measure the networks of `calibration` and learn what operations cost.

    The stated error is that of each network when the others alone set the prices.

    Args:
        calibration: (n, genes) rows, different from one another and spread over the space, as `spread_rows` draws.
        budget_s: make fewer visits so that timing takes about this long.
    Raises:
        InputError: if there are fewer than 6 rows.
    """
    plan = learned_plan(space, task, calibration)
    log_ratios = measure_plan(plan, reference, rng, budget_s=budget_s)
    return fit_learned(space, plan, device, reference_ms, log_ratios)


def learned_plan(space: SearchSpace, task: Task, calibration: Population) -> MeasuringPlan:
    """What `fit_learned` needs measured: the networks of the rows.

    Raises:
        InputError: if there are fewer than 6 rows.
    """
    if len(calibration) < LEAST_NETWORKS:
        raise InputError(
            f"a latency estimate of {space.name} needs {LEAST_NETWORKS} different networks to learn from, "
            f"got {len(calibration)}",
            hint="widen the space: give a gene more values",
        )
    networks = tuple(space.layers(space.arch(row), task) for row in calibration)
    return MeasuringPlan(space.name, task, calibration, (Group(networks, VISITS, ROUNDS, share=1.0),))


def fit_learned(
    space: SearchSpace, plan: MeasuringPlan, device: Device, reference_ms: float, log_ratios: LogRatios
) -> LearnedLatency:
    """The model of a device on which a `learned_plan` was measured."""
    task, calibration = plan.task, plan.calibration
    names = [network_name(space.layers(space.arch(row), task)) for row in calibration]
    measured = reference_ms * np.exp([log_ratios[name].mean() for name in names])
    features = PerNetwork(space, task, operation_features, names=FEATURES)
    prices_ms, relative_error = fit_prices(features(calibration), measured)
    model = LearnedLatency(device, space.name, task, reference_ms, relative_error, (), prices_ms, features)
    pairs = zip(measured.tolist(), model.estimate_ms(calibration).tolist(), strict=True)
    return replace(model, calibration=tuple(pairs))


def fit_prices(features: NDArray[np.float64], measured_ms: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Prices of features (k,), none negative, and the relative error at 95 % for a network that is not among the n.

    Least squares of relative errors, with the squares of the prices, each as a share of a mean network, kept small.

    Args:
        features: (n, k), none negative.
        measured_ms: (n,).
    """
    typical_ms = float(np.exp(np.log(measured_ms).mean()))
    mean = features.mean(axis=0)
    scale = np.where(mean > 0, mean, 1.0)
    shares = features / scale * (typical_ms / measured_ms)[:, None]
    n = len(measured_ms)
    left_out = np.array([shares[i] @ _ridge(np.delete(shares, i, axis=0)) for i in range(n)])
    error = stats.t.ppf(0.975, n - 1) * np.sqrt(np.mean((1 / left_out - 1) ** 2))
    return np.asarray(_ridge(shares) * typical_ms / scale), float(error)


def _ridge(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights w, none negative, that minimise |shares w - 1|^2 + ALPHA |w|^2.

    Solved exactly, as least squares with a row more for each weight; scikit-learn's Ridge(positive=True) stops early.
    """
    n, k = shares.shape
    return np.asarray(nnls(np.vstack([shares, np.sqrt(ALPHA) * np.eye(k)]), np.repeat([1.0, 0.0], [n, k]))[0])


def spread_rows(space: SearchSpace, task: Task, n: int, rng: np.random.Generator) -> Population:
    """Up to n rows of different networks, spread evenly over the logarithm of flops as far as random rows reach."""
    rows = space.sample(DRAWN, rng)
    rows = rows[np.sort(np.unique(space.canonical(rows), axis=0, return_index=True)[1])]
    flops = np.log(space.counts(rows, task)[0])
    left = np.ones(len(rows), dtype=np.bool_)
    for wanted in np.linspace(flops.min(), flops.max(), min(n, len(rows))):
        left[np.argmin(np.where(left, np.abs(flops - wanted), np.inf))] = False
    return rows[~left]
