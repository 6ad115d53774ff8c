"""Prices of layers, and of pieces of networks, learned from a few measured networks.

A network's time is a constant plus the sum of the prices of its layers. Prices are a Gaussian process over the forms
of layers: so much for each launch, each multiply-add and each byte, for all kinds of layer and for each kind; then what
layers of one kind and nearly one size share; then what each form has for itself. How much each of these matters is
found by marginal likelihood, within the measured networks. Errors are relative. A piece costs what its layers cost, and
a share of what was timed for it: what timing tells of a large one, its layers tell better of a tiny one.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: sections 2.2 (prediction), 5.4.1
(marginal likelihood) and 5.4.2 (leaving one out).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import stdtrit

from spaces.tally import LayerForm

Floats = NDArray[np.float64]

# What a price is made of, and how much of a mean network's time each is expected to move, one standard deviation.
# From devices that no test judges by; found again from the measured networks, and within a factor e of these mostly.
PARTS = {
    "network": 1.0,
    "launches": 0.5,
    "flops": 0.5,
    "bytes": 0.2,
    "launches of the kind": 0.2,
    "flops of the kind": 0.2,
    "bytes of the kind": 0.1,
    "near in size": 0.25,
    "own": 0.1,
}
# Besides, of pieces that were timed: what all times together tell, and what each piece has for itself.
TIMED_PARTS = {"timed": 1.0, "own of the timed": 0.1}
NOISE = 0.01
SPREAD, NOISE_SPREAD = 0.7, 1.5  # standard deviation of the logarithms of the above, before anything is measured
NEAR = 2.0  # doublings of channels or pixels over which prices stay alike
LEAST_SHARE = 0.1  # of the fastest measured network: no estimate is below it
LEAST_ALWAYS = 0.01  # of it: what all networks have costs no less
LEAST_NOISE, FARTHEST = 1e-3, 4.0  # what is found stays above the one and within so many e-folds of what is expected
ITERATIONS = 60
DESIGN_NOISE = 0.03


@dataclass(frozen=True)
class _Table:
    """What prices of forms depend on.

    Attributes:
        amounts: (forms, 3) launches, flops and bytes, each as a share of what a mean network has.
        kind: (forms,) which of the kinds of layer.
        size: (forms, 5) in doublings: channels in and out, pixels out, shrinking, window.
        number: (forms,) different where forms are.
    """

    amounts: Floats
    kind: NDArray[np.str_]
    size: Floats
    number: NDArray[np.int64]

    @property
    def magnitude(self) -> Floats:
        return np.asarray(self.amounts.mean(axis=1))


def _table(forms: Sequence[LayerForm], mean: Floats, numbers: dict[LayerForm, int]) -> _Table:
    return _Table(
        _amounts(forms) / mean,
        np.array([form.kind for form in forms]),
        np.array([_size(form) for form in forms]).reshape(-1, 5),
        np.array([numbers.setdefault(form, len(numbers)) for form in forms], dtype=np.int64),
    )


def _amounts(forms: Sequence[LayerForm]) -> Floats:
    return np.array([(form.launches, form.flops, form.elements) for form in forms], dtype=float).reshape(-1, 3)


def _size(form: LayerForm) -> list[float]:
    before, after = math.prod(form.in_shape[1:]), math.prod(form.shape[1:])
    parts = (form.in_shape[0], form.shape[0], after, before / after, math.prod(form.kernel))
    return [math.log2(part) for part in parts]


def _covariances(a: _Table, b: _Table) -> Floats:
    """(parts but "network", forms of a, forms of b): prior covariance of prices, for a standard deviation of 1."""
    same_kind = a.kind[:, None] == b.kind
    outer = a.amounts.T[:, :, None] * b.amounts.T[:, None, :]
    magnitude = a.magnitude[:, None] * b.magnitude
    distance = ((a.size[:, None] - b.size) ** 2).sum(axis=2)
    near = np.where(same_kind, np.exp(-distance / (2 * NEAR**2)), 0.0) * magnitude
    own = np.where(a.number[:, None] == b.number, magnitude, 0.0)
    return np.concatenate([outer, outer * same_kind, near[None], own[None]])


@dataclass(frozen=True)
class _Process:
    """Times of measured networks, each relative to itself and so 1, as a Gaussian process.

    Attributes:
        kernels: (parts, n, n) their covariance, for variances of 1.
        variances: of each part and of the noise.
    """

    kernels: Floats
    variances: tuple[float, ...]

    @classmethod
    def fit(cls, kernels: Floats, parts: Sequence[float]) -> _Process:
        """With the variances that are most likely, where so many standard deviations are expected of the parts."""
        expected = np.array([*parts, NOISE])
        spread = 2 * np.repeat([SPREAD, NOISE_SPREAD], [len(parts), 1])
        start = 2 * np.log(expected)
        found = minimize(
            lambda logs: _misfit(kernels, logs, (logs - start) / spread, spread),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[*((log - 2 * FARTHEST, log + 2 * FARTHEST) for log in start[:-1]), (2 * np.log(LEAST_NOISE), 0.0)],
            options={"maxiter": ITERATIONS},
        )
        return cls(kernels, tuple(np.exp(found.x).tolist()))

    @cached_property
    def factor(self) -> tuple[Floats, bool]:
        return _factored(self.kernels, np.array(self.variances))

    @cached_property
    def weights(self) -> Floats:
        return np.asarray(cho_solve(self.factor, np.ones(self.kernels.shape[1])))

    @cached_property
    def precision(self) -> Floats:
        """(n,) one over the variance of each measured time, given the others."""
        return np.asarray(np.diag(cho_solve(self.factor, np.eye(self.kernels.shape[1]))))

    @property
    def left_out(self) -> Floats:
        """(n,) relative error of each measured network's time when the others alone set the prices."""
        return np.asarray(self.weights / self.precision)

    @property
    def weights_of_others(self) -> Floats:
        """(n, n): in each row the weights without another of the measured networks, whose own is 0 there."""
        return np.asarray(self.weights - cho_solve(self.factor, np.diag(self.left_out)).T)


def _kernels(covariances: Floats, scaled: Floats, ones: Floats) -> Floats:
    """(parts, n, n) covariance of measured networks: of what all have, and of what they have so many of."""
    return np.concatenate([np.outer(ones, ones)[None], scaled @ covariances @ scaled.T])


def relative_error(measured_ms: Floats, left_out_ms: Floats) -> float:
    """Half-width of a 95 % interval that would hold for a network like the measured ones, of the logarithm.

    Args:
        left_out_ms: (n,) what the others alone say of each measured network.
    """
    errors = np.log(left_out_ms / measured_ms)
    return float(stdtrit(len(errors) - 1, 0.975) * np.sqrt(np.mean(errors**2)))


@dataclass(frozen=True)
class LayerPrices:
    """What was learned, as far as it has to be kept.

    Attributes:
        forms: of the layers of the measured networks.
        counts: (n, forms) of the measured networks.
        measured_ms: (n,).
        variances: of each of `PARTS` and of the noise, as squared shares of a mean network's time.
    """

    forms: tuple[LayerForm, ...]
    counts: Floats
    measured_ms: Floats
    variances: tuple[float, ...]

    def estimate(self, counts: Floats, forms: Sequence[LayerForm]) -> Floats:
        """(n, forms) counts of any networks, of any forms of layers -> (n,) ms."""
        return np.asarray(self._typical_ms * self._shares(counts, self._cross(forms)))

    def interval(self, counts: Floats, forms: Sequence[LayerForm], between: float = 0.0) -> tuple[Floats, Floats]:
        """Lower and upper end of the 95 % interval of each network's measured time, (n,) each, in ms.

        Args:
            between: half of the interval, of the logarithm, that all networks get besides: what another time makes of
                them cannot be learned from networks that were measured at one.
        """
        cross = self._cross(forms)
        shares = self._shares(counts, cross)
        network, *others, noise = self.variances
        table = self._table(forms)
        among = np.tensordot(others, _covariances(table, table), 1)
        with_measured = counts @ cross @ self._scaled.T + network * self._ones
        known = solve_triangular(self._process.factor[0], with_measured.T, lower=True)
        unknown = network + ((counts @ among) * counts).sum(axis=1) - (known**2).sum(axis=0)
        half = np.hypot(self._reach * np.sqrt(np.maximum(unknown, 0.0) / shares**2 + noise), between)
        ms = self._typical_ms * shares
        return np.asarray(ms * np.exp(-half)), np.asarray(ms * np.exp(half))

    @property
    def left_out(self) -> Floats:
        """(n,) relative error of each measured network's time when the others alone set the prices."""
        return self._process.left_out

    @property
    def left_out_ms(self) -> Floats:
        """(n,) what the others alone say of each measured network, by the variances that all of them say."""
        return np.asarray(np.maximum(self.measured_ms * (1 - self.left_out), LEAST_SHARE * self.measured_ms.min()))

    @property
    def relative_error(self) -> float:
        """`relative_error` of those left out."""
        return relative_error(self.measured_ms, self.left_out_ms)

    @cached_property
    def _reach(self) -> float:
        """Standard deviations of half an interval; more than usual where those left out scatter by more than stated."""
        surprise = float(np.mean(self.left_out**2 * self._process.precision))
        return float(stdtrit(len(self.measured_ms) - 1, 0.975) * np.sqrt(max(1.0, surprise)))

    def _shares(self, counts: Floats, cross: Floats) -> Floats:
        """(n,) times as shares of the typical one."""
        weights = self._process.weights
        constant = self.variances[0] * (self._ones @ weights)
        least = LEAST_SHARE * self.measured_ms.min() / self._typical_ms
        return np.asarray(np.maximum(constant + counts @ (cross @ (self._scaled.T @ weights)), least))

    def _cross(self, forms: Sequence[LayerForm]) -> Floats:
        """(forms, measured forms) prior covariance of prices."""
        return np.asarray(np.tensordot(self.variances[1:-1], _covariances(self._table(forms), self._own_table), 1))

    def _table(self, forms: Sequence[LayerForm]) -> _Table:
        return _table(forms, self._mean, dict(self._numbers))

    @cached_property
    def _numbers(self) -> dict[LayerForm, int]:
        return {form: number for number, form in enumerate(self.forms)}

    @cached_property
    def _mean(self) -> Floats:
        mean = self.counts.mean(axis=0) @ _amounts(self.forms)
        return np.where(mean > 0, mean, 1.0)

    @cached_property
    def _own_table(self) -> _Table:
        return self._table(self.forms)

    @cached_property
    def _typical_ms(self) -> float:
        return float(np.exp(np.log(self.measured_ms).mean()))

    @cached_property
    def _ones(self) -> Floats:
        """What the constant is of each measured time; each of them is 1, since errors are relative."""
        return np.asarray(self._typical_ms / self.measured_ms)

    @cached_property
    def _scaled(self) -> Floats:
        return self.counts * self._ones[:, None]

    @cached_property
    def _process(self) -> _Process:
        pairs = _covariances(self._own_table, self._own_table)
        return _Process(_kernels(pairs, self._scaled, self._ones), self.variances)


def fit_prices(counts: Floats, forms: Sequence[LayerForm], measured_ms: Floats) -> LayerPrices:
    """Learn prices of layers.

    Args:
        counts: (n, forms), how many layers of each form the measured networks have.
        measured_ms: (n,).
    """
    unfitted = learned_prices(counts, forms, measured_ms, ())
    return replace(unfitted, variances=_Process.fit(unfitted._process.kernels, list(PARTS.values())).variances)


def learned_prices(
    counts: Floats, forms: Sequence[LayerForm], measured_ms: Floats, variances: tuple[float, ...]
) -> LayerPrices:
    """Prices of which the variances are known; forms that no measured network has are left out."""
    there = np.flatnonzero(counts.any(axis=0)).tolist()
    return LayerPrices(tuple(forms[i] for i in there), counts[:, there], measured_ms, variances)


@dataclass(frozen=True)
class PiecePrices:
    """What pieces of networks cost, of which each network has so many.

    Attributes:
        ms: (pieces,), none negative.
        constant_ms: what a network costs beside them; below 0 where the measured ones say so.
        left_out_ms: (n,) what prices that the others alone set say of each measured network, by the variances that all
            of them say.
    """

    ms: Floats
    constant_ms: float
    left_out_ms: Floats


def price_pieces(
    counts: Floats, timed_ms: Floats, layers: Floats, forms: Sequence[LayerForm], measured_ms: Floats, always: Floats
) -> PiecePrices:
    """Learn prices of pieces from networks that were measured whole.

    Args:
        counts: (n, pieces), how many of each the measured networks have.
        timed_ms: (pieces,) what was timed for each alone.
        layers: (pieces, forms), how many layers of each form a piece has.
        measured_ms: (n,).
        always: (pieces,) how many of each every network has: these and the constant cost a hundredth of the fastest
            measured network at least.
    """
    amounts = counts.mean(axis=0) @ layers @ _amounts(forms)
    table = _table(forms, np.where(amounts > 0, amounts, 1.0), {})
    of_layers = layers @ _covariances(table, table) @ layers.T
    timed = timed_ms / (float((counts @ timed_ms).mean()) or 1.0)
    covariances = np.concatenate([of_layers, np.outer(timed, timed)[None], np.diag(timed**2)[None]])
    typical_ms = float(np.exp(np.log(measured_ms).mean()))
    ones = typical_ms / measured_ms
    scaled = counts * ones[:, None]
    least_ms = LEAST_ALWAYS * measured_ms.min()
    kernels, parts = _kernels(covariances, scaled, ones), [*PARTS.values(), *TIMED_PARTS.values()]
    process = _Process.fit(kernels, parts)

    def priced(weights: Floats, variances: Sequence[float]) -> tuple[Floats, Floats]:
        """(k, n) weights of the measured networks -> (k, pieces) ms and (k,) constants."""
        network, *others, _ = variances
        ms = typical_ms * weights @ scaled @ np.tensordot(others, covariances, 1)
        return np.maximum(ms, 0.0), typical_ms * network * (weights @ ones)

    ms, constant_ms = priced(process.weights[None], process.variances)
    if constant_ms[0] < min(0.0, least_ms - ms[0] @ always):  # none is better than one that is raised for all networks
        process = _Process(kernels, (0.0, *_Process.fit(kernels[1:], parts[1:]).variances))
    ms, constant_ms = priced(np.vstack([process.weights, process.weights_of_others]), process.variances)
    constant_ms = np.maximum(constant_ms, least_ms - ms @ always)
    left_out_ms = (counts * ms[1:]).sum(axis=1) + constant_ms[1:]
    return PiecePrices(ms[0], float(constant_ms[0]), left_out_ms)


def _misfit(kernels: Floats, logs: Floats, surprise: Floats, spread: Floats) -> tuple[float, Floats]:
    """Minus the logarithm of the posterior of the logarithms of the variances, and its gradient."""
    variances = np.exp(logs)
    factor = _factored(kernels, variances)
    n = kernels.shape[1]
    weights = cho_solve(factor, np.ones(n))
    value = weights.sum() / 2 + np.log(np.diag(factor[0])).sum() + (surprise**2).sum() / 2
    slope = np.outer(weights, weights) - cho_solve(factor, np.eye(n))
    slopes = np.array([*(kernels * slope).sum(axis=(1, 2)), np.trace(slope)])
    return float(value), np.asarray(-variances * slopes / 2 + surprise / spread)


def _factored(kernels: Floats, variances: Floats) -> tuple[Floats, bool]:
    covariance = np.tensordot(variances[:-1], kernels, 1) + variances[-1] * np.eye(kernels.shape[1])
    factor, lower = cho_factor(covariance, lower=True)
    return np.tril(factor), lower


def most_telling(counts: Floats, forms: Sequence[LayerForm], n: int) -> NDArray[np.int64]:
    """Which n of many networks to measure: (n,) their places, the most telling one first.

    Each is the one that, measured beside those before, leaves least unknown of all networks together, by what is
    expected of prices before anything is measured.

    Source: Seo et al., Gaussian process regression: active data selection and test point rejection, IJCNN 2000.
    """
    mean = counts.mean(axis=0) @ _amounts(forms)
    table = _table(forms, np.where(mean > 0, mean, 1.0), {})
    expected = np.array(list(PARTS.values())) ** 2
    shares = (1.0 + counts @ table.magnitude) / 2  # a first guess of each network's time, as a share of a mean one's
    scaled = counts / shares[:, None]
    unknown = scaled @ np.tensordot(expected[1:], _covariances(table, table), 1) @ scaled.T
    unknown += expected[0] * np.outer(1 / shares, 1 / shares)
    chosen: list[int] = []
    for _ in range(min(n, len(counts))):
        told = (unknown**2).sum(axis=0) / (np.diag(unknown) + DESIGN_NOISE**2)
        told[chosen] = -np.inf
        best = int(np.argmax(told))
        chosen.append(best)
        unknown -= np.outer(unknown[best], unknown[best]) / (unknown[best, best] + DESIGN_NOISE**2)
    return np.array(chosen, dtype=np.int64)
