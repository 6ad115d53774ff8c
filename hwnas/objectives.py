"""Limits on what a network may cost, and how far a network is from meeting them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spaces.errors import InputError

LIMITED = ("latency_ms", "params", "flops", "intensity", "bytes", "weight_bytes", "peak_memory_bytes")

_POWERS = {"": 0, "k": 3, "M": 6, "G": 9}
_FORM = re.compile(
    r"(?P<name>\w+)\s*(?P<op><=|>=)\s*(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<suffix>[kMG]?)"
)
_HINT = "write NAME<=NUMBER or NAME>=NUMBER, for example latency_ms<=3, params<=2M or flops>=2e6"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a quantity of a network must be at most ("<=") or at least (">=").

    Attributes:
        name: the quantity, in the unit that its name says.
        op: "<=" or ">="; the value itself is allowed.
        value: finite and not negative.
    """

    name: str
    op: Literal["<=", ">="]
    value: float

    def __post_init__(self) -> None:
        if self.op not in ("<=", ">="):
            raise InputError(f"a limit compares by <= or >=, got {self.op!r}", hint=_HINT)
        if not (math.isfinite(self.value) and self.value >= 0):
            raise InputError(f"the value of a limit must be finite and not negative, got {self.value}", hint=_HINT)

    @classmethod
    def parse(cls, text: str, *, names: Sequence[str] = LIMITED) -> Limit:
        """The limit of a text such as "latency_ms<=3".

        Args:
            text: a name, <= or >=, and a number such as 3, 0.3 or 2e6, or one with a decimal suffix: k for a
                thousand, M for a million, G for 1e9. Blanks around the three parts are ignored.
            names: the quantities that are known.
        Raises:
            InputError: if the text has another form, or names a quantity that is not known.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"a limit must be a quantity, <= or >=, and a number of 0 or more, got {text!r}",
                hint=_hint_for(text, names),
            )
        name = match["name"]
        if name not in names:
            raise InputError(
                f"{name!r} is not a quantity that can be limited; these are: {', '.join(names)}",
                hint=_hint_for(text, names),
            )
        op: Literal["<=", ">="] = "<=" if match["op"] == "<=" else ">="
        return cls(name, op, float(Decimal(match["number"]).scaleb(_POWERS[match["suffix"]])))

    def __str__(self) -> str:
        return f"{self.name}{self.op}{repr(float(self.value)).removesuffix('.0')}"

    def holds(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Where the limit is met; an unknown value (NaN) meets no limit."""
        values = np.asarray(values, dtype=np.float64)
        return np.asarray(values <= self.value if self.op == "<=" else values >= self.value)

    def violation(self, values: ArrayLike) -> NDArray[np.float64]:
        """By how much the limit is missed, relative to what is allowed.

        Args:
            values: quantities of any shape, not negative.
        Returns:
            The same shape: 0 where the limit holds, U/C - 1 above an upper limit C, C/U - 1 below a lower one. inf
            where that quotient has no value: an upper limit of 0 that is missed, a value of 0, or one not known (NaN).

        Source: the violations of EPNAS (arXiv 1907.04648).
        """
        U, C = np.asarray(values, dtype=np.float64), self.value
        excess, base = (U - C, np.full_like(U, C)) if self.op == "<=" else (C - U, U)
        # (U - C) / C, not U/C - 1: the difference of two close numbers is exact, so a missed limit never gives 0.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            missed = np.where(base > 0, excess / base, np.inf)
        missed = np.where(np.isnan(missed), np.inf, missed)
        return np.asarray(np.where(self.holds(U), 0.0, missed), dtype=np.float64)


def _hint_for(text: str, names: Sequence[str]) -> str:
    word = re.match(r"\s*([\w-]*)", text)
    near = difflib.get_close_matches((word[1] if word else "").replace("-", "_").lower(), names, n=1)
    hint = _HINT if "latency_ms" in names else f"write {names[0]}<=NUMBER or {names[0]}>=NUMBER"
    return f"did you mean {near[0]!r}? {hint}" if near and near[0] != (word and word[1]) else hint


def is_maximised(name: str) -> bool:
    """Whether more of a value is better: true of accuracies alone."""
    return name.startswith("accuracy")


def minimised(trial_values: Sequence[Mapping[str, float]], names: Sequence[str]) -> NDArray[np.float64]:
    """Values of n trials by name -> F (n, m): one column an objective, turned so that less is better.

    Raises:
        InputError: if a trial lacks one of them.
    """
    try:
        F = np.array([[values[name] for name in names] for values in trial_values], dtype=np.float64)
    except KeyError as error:
        raise InputError(f"the objective {error} is not among the values of every trial") from error
    return F.reshape(-1, len(names)) * [-1.0 if is_maximised(name) else 1.0 for name in names]


def satisfies(limits: Sequence[Limit], values: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
    """Where all limits hold.

    Args:
        limits: several, or none: then everything passes.
        values: by name, arrays of one shape.
    Raises:
        InputError: if a limited quantity has no values.
    """
    met = np.ones(_shape(values), dtype=np.bool_)
    for limit in limits:
        met &= limit.holds(_values_of(limit, values))
    return met


def total_violation(limits: Sequence[Limit], values: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """The sum of all violations, 0 exactly where all limits hold; its least entry names the nearest network.

    Raises:
        InputError: if a limited quantity has no values.
    """
    total = np.zeros(_shape(values))
    for limit in limits:
        total += limit.violation(_values_of(limit, values))
    return total


def contradiction(limits: Sequence[Limit]) -> str | None:
    """Two limits on one quantity that no network can meet together, in words, or None."""
    for name in dict.fromkeys(limit.name for limit in limits):
        uppers = [limit for limit in limits if limit.name == name and limit.op == "<="]
        lowers = [limit for limit in limits if limit.name == name and limit.op == ">="]
        if not (uppers and lowers):
            continue
        upper, lower = min(uppers, key=lambda limit: limit.value), max(lowers, key=lambda limit: limit.value)
        if lower.value > upper.value:
            return f"{upper} and {lower} cannot both hold"
    return None


def _shape(values: Mapping[str, ArrayLike]) -> tuple[int, ...]:
    return np.broadcast_shapes(*(np.shape(each) for each in values.values()))


def _values_of(limit: Limit, values: Mapping[str, ArrayLike]) -> ArrayLike:
    if limit.name not in values:
        raise InputError(
            f"the limit {limit} needs {limit.name}, which is not known here; known: {', '.join(values) or 'nothing'}",
            hint="leave the limit out, or measure that quantity",
        )
    return values[limit.name]
