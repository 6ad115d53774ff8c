"""What spaces there are, with an architecture of each."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from spaces import SPACES, get_space


def list_spaces(names: Sequence[str] = ()) -> dict[str, Any]:
    """Name, number of valid rows (None where nobody counted), genes and an architecture of each space.

    Args:
        names: as `get_space` takes them, a person's own `FILE.py:CLASS` included; none stand for all of this project.
    Raises:
        InputError: if one is no space.
    """
    rows = []
    for name in names or sorted(SPACES):
        space = get_space(name)
        example = space.format(space.sample(1, np.random.default_rng(0))[0])
        rows.append(
            {
                "name": space.name,
                "cardinality": space.cardinality,
                "genes": len(space.choices),
                "choices": list(space.choices),
                "example": example,
            }
        )
    return {"spaces": rows}


def print_spaces(outcome: dict[str, Any]) -> None:
    """The same for people, a line each; never cut, so that the architecture can be copied."""
    for row in outcome["spaces"]:
        number = "not counted" if row["cardinality"] is None else _rounded(row["cardinality"])
        print(f"{row['name']:<16} {number:>11} rows {row['genes']:>4} genes   {row['example']}")


def _rounded(number: int) -> str:
    """Three digits, as a float would be written; beyond the largest float too."""
    return f"{number:.3g}" if number < 10**300 else f"{Decimal(number):.2e}"
