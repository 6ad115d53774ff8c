"""The DARTS space: a normal and a reduction cell of four nodes with seven operations.

Source: Liu et al., 1806.09055, and quark0/darts; independent inputs as Casale et al., 1902.05116, draw them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .cell_order import INPUTS
from .cell_parts import COMBINATIONS, Size, add_factorized_reduction, add_pointwise, add_separable
from .cell_skeleton import FORMS, Skeleton, parse_skeleton
from .cells import CellSpace, Slot
from .errors import InputError
from .layers import NetworkBuilder
from .space import Task

NODES = 4
OPERATIONS = (
    "max 3x3",
    "average 3x3",
    "skip",
    "separable 3x3",
    "separable 5x5",
    "dilated 3x3",
    "dilated 5x5",
)


@dataclass(frozen=True)
class DartsSpace(CellSpace):
    """Rows: nodes of the normal and the reduction cell by turns, each (input, input, operation, operation).

    The results of a node are added; all nodes are joined to the cell's output. `skeleton` is the text after the @
    of the space's name, `20x36` for 20 cells, those at one and two thirds of the depth reductions, and 36 filters
    in the first. Then options: `repeats` lets both inputs of a node be the same, as PARSEC draws them (else they
    are two different states, the smaller first); `imagenet` or `cifar` for the form (else by the resolution).
    """

    skeleton: str = ""

    def __post_init__(self) -> None:
        if self._shape.repeats < 4:
            raise InputError(f"{self.name} needs at least 4 cells, two of them reductions")

    @cached_property
    def _shape(self) -> Skeleton:
        example = "darts@20x36 or darts@14x48,repeats,imagenet"
        options = {"repeats": "", **FORMS}
        return parse_skeleton("darts", self.skeleton, "8x16", options, example, imagenet_filters=2)

    @property
    def name(self) -> str:
        return f"darts@{self.skeleton}" if self.skeleton else "darts"

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("normal", "reduction")

    @property
    def operations(self) -> tuple[str, ...]:
        return OPERATIONS

    @property
    def combinations(self) -> tuple[str, ...]:
        return COMBINATIONS[:1]

    @property
    def blocks(self) -> int:
        return NODES

    @property
    def distinct_inputs(self) -> bool:
        return "repeats" not in self._shape.options

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """All nodes."""
        return np.broadcast_to(np.arange(INPUTS + NODES) >= INPUTS, (2, INPUTS + NODES))

    @property
    def imagenet_form(self) -> bool | None:
        return self._shape.imagenet_form

    @property
    def _reductions(self) -> tuple[int, int]:
        return self._shape.repeats // 3, 2 * self._shape.repeats // 3

    def slots(self, imagenet: bool) -> tuple[Slot, ...]:
        first = -2 if imagenet else -1  # what the first cell reads as the map before the last
        slots = []
        for number in range(self._shape.repeats):
            reduces = number in self._reductions
            filters = self._shape.filters * 2 ** sum(number >= place for place in self._reductions)
            slots.append(Slot(int(reduces), 1 + reduces, filters, max(number - 2, first), number - 1, 1.0))
        return tuple(slots)

    def add_stem(self, net: NetworkBuilder, imagenet: bool) -> tuple[int, ...]:
        filters = self._shape.filters
        if not imagenet:
            return (net.conv(0, 3 * filters, kernel=3),)
        self._shape.check_imagenet_form()
        x = net.conv(0, filters // 2, kernel=3, stride=2, activation="relu")
        x = net.conv(x, filters, kernel=3, stride=2)
        return x, net.conv(net.relu(x), filters, kernel=3, stride=2)

    def add_input(self, net: NetworkBuilder, x: int, state: int, size: Size, filters: int) -> int:
        if net.shape(x)[1:] == size:
            return add_pointwise(net, x, filters)
        return add_factorized_reduction(net, net.relu(x), filters)

    def add_operation(self, net: NetworkBuilder, x: int, operation: int, filters: int, stride: int) -> int:
        match OPERATIONS[operation].split():
            case ["max", _]:
                return net.pool(x, kind="max_pool", stride=stride)
            case ["average", _]:
                return net.pool(x, kind="avg_pool", stride=stride)
            case ["skip"]:
                return x if stride == 1 else add_factorized_reduction(net, net.relu(x), filters)
            case [name, size]:
                times, dilation = (1, 2) if name == "dilated" else (2, 1)
                kernel = int(size[0])
                return add_separable(net, x, filters, kernel=kernel, stride=stride, times=times, dilation=dilation)
        raise AssertionError(operation)

    def drops(self, operation: int, stride: int) -> bool:
        return stride > 1 or OPERATIONS[operation] != "skip"

    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int:
        return net.classifier(x, classes=task.classes)

    def auxiliary_after(self, imagenet: bool) -> int:
        """The second reduction."""
        return self._reductions[1]

    def auxiliary_stride(self, imagenet: bool) -> int:
        return 2 if imagenet else 3
