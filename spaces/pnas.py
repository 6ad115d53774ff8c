"""The PNAS space: one cell of one to five blocks with eight operations, which also reduces, at stride 2.

Source: Liu et al., 1712.00559; what the paper leaves open as in tensorflow/models, research/slim/nets/nasnet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .cell_order import INPUTS
from .cell_parts import COMBINATIONS, Size
from .cell_skeleton import FORMS, NUMBER, Skeleton, parse_skeleton
from .cells import CellSpace, Slot
from .errors import InputError
from .layers import NetworkBuilder
from .nasnet import IMAGENET_STEM, WRITERS, add_input, add_stem
from .space import Task

OPERATIONS = (
    "separable 3x3",
    "separable 5x5",
    "separable 7x7",
    "1x7 then 7x1",
    "identity",
    "average 3x3",
    "max 3x3",
    "dilated 3x3",
)


@dataclass(frozen=True)
class PnasSpace(CellSpace):
    """Rows: the blocks of the cell, each (input, input, operation, operation); their results are added.

    `skeleton` is the text after the @ of the space's name, `2x24` for the paper's N = 2 and F = 24: cells in each
    of the three stages, of which the first has stride 2 in the second and third, and filters of the first cell.
    Then options: `b3` for at most 3 blocks (else 5), `imagenet` or `cifar` for the form (else by the resolution),
    `stem96` for the channels of the stem (else 32, or three times the filters in the CIFAR form), `keep4` for
    states that are joined to the output though they are read.
    """

    skeleton: str = ""

    def __post_init__(self) -> None:
        if any(state >= INPUTS + self.blocks for state in self._kept_states):
            raise InputError(f"{self.name} keeps a state that no cell of {self.blocks} blocks has")

    @cached_property
    def _shape(self) -> Skeleton:
        options = {"b": "[1-7]", **FORMS, "stem": NUMBER, "keep": "[0-9]+"}
        example = "pnas@2x24 or pnas@3x48,b4,cifar"
        return parse_skeleton("pnas", self.skeleton, "2x24", options, example, imagenet_filters=4)

    @property
    def name(self) -> str:
        return f"pnas@{self.skeleton}" if self.skeleton else "pnas"

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("cell",)

    @property
    def operations(self) -> tuple[str, ...]:
        return OPERATIONS

    @property
    def combinations(self) -> tuple[str, ...]:
        return COMBINATIONS[:1]

    @property
    def blocks(self) -> int:
        return int(self._shape.options.get("b", 5))

    @property
    def distinct_inputs(self) -> bool:
        return False

    @property
    def _kept_states(self) -> tuple[int, ...]:
        return tuple(map(int, self._shape.options.get("keep", "")))

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        return np.isin(np.arange(INPUTS + self.blocks), self._kept_states)[None]

    @property
    def imagenet_form(self) -> bool | None:
        return self._shape.imagenet_form

    def slots(self, imagenet: bool) -> tuple[Slot, ...]:
        filters, repeats = self._shape.filters, self._shape.repeats
        cells = [(2, filters // 4), (2, filters // 2)] if imagenet else []
        for stage in range(3):
            strides = [2 if stage else 1] + [1] * (repeats - 1)
            cells += [(stride, 2**stage * filters) for stride in strides]
        return tuple(
            Slot(0, stride, width, None if number == 0 else number - 2, number - 1, (number + 1) / len(cells))
            for number, (stride, width) in enumerate(cells)
        )

    def add_stem(self, net: NetworkBuilder, imagenet: bool) -> tuple[int, ...]:
        if imagenet:
            self._shape.check_imagenet_form()
        channels = int(self._shape.options.get("stem", IMAGENET_STEM if imagenet else 3 * self._shape.filters))
        return add_stem(net, imagenet=imagenet, filters=channels)

    def add_input(self, net: NetworkBuilder, x: int, state: int, size: Size, filters: int) -> int:
        return add_input(net, x, state, size, filters)

    def add_operation(self, net: NetworkBuilder, x: int, operation: int, filters: int, stride: int) -> int:
        return WRITERS[OPERATIONS[operation]](net, x, filters, stride)

    def drops(self, operation: int, stride: int) -> bool:
        return OPERATIONS[operation] != "identity"

    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int:
        return net.classifier(net.relu(x), classes=task.classes)

    def auxiliary_after(self, imagenet: bool) -> int:
        """The last cell before the second reduction."""
        return len(self.slots(imagenet)) - self._shape.repeats - 1
