"""Tables of architectures that others trained: rows, and what was measured of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spaces import InputError, Population, SearchSpace

Floats = NDArray[np.float64]
Places = NDArray[np.int64]  # of rows in a table, from 0


class Table(ABC):
    """What is known of some networks of a space; all values are read through `read`."""

    @property
    @abstractmethod
    def rows(self) -> Population:
        """(n, genes): one row of each network."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The columns; accuracies are fractions."""

    @abstractmethod
    def read(self, name: str, places: Places) -> Floats:
        """The values of one column at some places, (k,) -> (k,)."""


@dataclass(frozen=True)
class Source:
    """Where the rows of a table come from, for messages.

    Attributes:
        name: of the file.
        lines: of the file, one for each row; None where a file has none, and rows are counted from 1.
    """

    name: str
    lines: Sequence[int] | None = None

    def __str__(self) -> str:
        return self.name

    def place(self, row: int) -> str:
        """Where row number `row`, counted from 0, stands."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def both(self, a: int, b: int) -> str:
        kind, _, first = self.place(a).partition(" ")
        return f"{kind}s {first} and {self.place(b).partition(' ')[2]}"


@dataclass(frozen=True, eq=False)
class ArrayTable(Table):
    """A table in memory."""

    population: Population
    columns: Mapping[str, Floats]

    @property
    def rows(self) -> Population:
        return self.population

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def read(self, name: str, places: Places) -> Floats:
        return self.columns[name][places]


def table_of(
    space: SearchSpace, rows: Population, columns: Mapping[str, Floats], *, source: Source | str
) -> ArrayTable:
    """A table with one row of each network; where isomorphic rows agree in all columns, the first stands for all.

    Args:
        rows: (n, genes).
        columns: (n,) each, checked already.
        source: of the table, for messages; of a name alone, rows are counted from 1.
    Raises:
        InputError: if a row is not valid, stands twice, or its network stands twice with different values.
    """
    source = Source(source) if isinstance(source, str) else source
    valid = space.is_valid(rows)
    if not valid.all():
        bad = int(np.flatnonzero(~valid)[0])
        raise InputError(
            f"{source}: {source.place(bad)} is no architecture of {space.name}: {space.why_invalid(rows[bad])}"
        )
    _refuse_repeats(rows, source)
    _, first, network = np.unique(space.canonical(rows), axis=0, return_index=True, return_inverse=True)
    original = first[network.ravel()]
    for name, values in columns.items():
        differs = np.flatnonzero(values != values[original])
        if len(differs):
            bad = int(differs[0])
            raise InputError(
                f"{source}: {source.both(original[bad], bad)} are one network, but column {name!r} holds "
                f"{values[original[bad]]} and {values[bad]}",
                hint="keep one row of each network",
            )
    kept = np.sort(first)
    return ArrayTable(rows[kept], {name: values[kept] for name, values in columns.items()})


def _refuse_repeats(rows: Population, source: Source) -> None:
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[which.ravel()] != np.arange(len(rows)))
    if len(repeated):
        bad = int(repeated[0])
        raise InputError(
            f"{source}: {source.both(first[which.ravel()[bad]], bad)} are the same architecture",
            hint="keep one of them, or their mean",
        )


def numbers(values: Sequence[object], *, column: str, source: Source) -> Floats:
    """A column as finite floats.

    Raises:
        InputError: if a value is missing, no number, or not finite; it names row and column.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array([_number(value) for value in values])
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise InputError(
            f"{source}: {source.place(bad[0])}, column {column!r} must be a finite number, got {values[bad[0]]!r}",
            hint="leave rows that were never measured out of the table",
        )
    return found


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def accuracies(values: Floats, *, unit: str, column: str, source: Source) -> Floats:
    """Accuracies as fractions.

    Args:
        unit: of the values, "percent" or "fraction".
    Raises:
        InputError: if they cannot be in that unit: the column and the row that shows it are named.
    """
    top = 100.0 if unit == "percent" else 1.0
    outside = np.flatnonzero((values < 0) | (values > top))
    if len(outside):
        bad = int(outside[0])
        raise InputError(
            f"{source}: {source.place(bad)}, column {column!r} must be a {unit} in 0..{top:g}, got {values[bad]:g}",
            hint='say unit = "percent"' if unit == "fraction" and 1 < values[bad] <= 100 else "mend the value",
        )
    if unit == "percent" and len(values) and values.max() <= 1:
        best = int(values.argmax())
        raise InputError(
            f"{source}: column {column!r} is said to hold percent, but its greatest value is {values[best]:g} "
            f"({source.place(best)})",
            hint='say unit = "fraction"',
        )
    return values / top


def costs(values: Floats, *, column: str, source: Source) -> Floats:
    """Costs as they are, none of them negative.

    Raises:
        InputError: if one is.
    """
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise InputError(
            f"{source}: {source.place(bad[0])}, column {column!r} is a cost and must not be negative, got "
            f"{values[bad[0]]:g}"
        )
    return values
