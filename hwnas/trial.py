"""One evaluated architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spaces import Arch


@dataclass(frozen=True, slots=True)
class Trial:
    """What was asked of an evaluator and what came back.

    Attributes:
        number: its place in the run, from 0.
        epochs: the fidelity; parts of epochs are allowed.
        seed: of the evaluation: weights, order and augmentation of the images.
        values: by name, each in its natural direction (accuracy_val up, params down); empty when it failed.
        reason: why it failed; empty when it did not.
        parent: the number of the trial whose network was changed a little to make this one; None where there is none.
            Whether its weights were the start is the value `is_warm`, 1 or 0, of runs that keep weights.
    """

    number: int
    arch: Arch
    epochs: float
    seed: int
    state: Literal["complete", "failed"]
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    parent: int | None = None
