"""The NASNet space: a normal and a reduction cell of blocks with thirteen operations.

Source: Zoph et al., 1707.07012; what the paper leaves open as in tensorflow/models, research/slim/nets/nasnet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .cell_arrays import Cells
from .cell_order import INPUTS
from .cell_parts import COMBINATIONS, Size, add_crossed, add_factorized_reduction, add_pointwise, add_separable
from .cell_skeleton import FORMS, NUMBER, Skeleton, parse_skeleton
from .cells import CellSpace, Slot
from .errors import InputError
from .layers import NetworkBuilder
from .space import Task

NORMAL, REDUCTION = 0, 1
PENULTIMATE = 24  # the last cell of NASNet-A has 6 outputs, with 4 times the filters of the first cell
IMAGENET_STEM = 32  # channels of the first convolution where images are large
Write = Callable[[NetworkBuilder, int, int, int], int]  # (net, state, filters, stride) -> layer


def _identity(net: NetworkBuilder, x: int, filters: int, stride: int) -> int:
    return x if stride == 1 and net.shape(x)[0] == filters else add_pointwise(net, x, filters, stride)


def _convolution(kernel: int, dilation: int = 1) -> Write:
    return lambda net, x, filters, stride: net.conv(
        net.relu(x), filters, kernel=kernel, stride=stride, dilation=dilation
    )


def _crossed(kernel: int) -> Write:
    return lambda net, x, filters, stride: add_crossed(net, x, filters, kernel=kernel, stride=stride)


def _separable(kernel: int) -> Write:
    return lambda net, x, filters, stride: add_separable(net, x, filters, kernel=kernel, stride=stride)


def _pool(kind: str, kernel: int) -> Write:
    def write(net: NetworkBuilder, x: int, filters: int, stride: int) -> int:
        x = net.pool(x, kind="max_pool" if kind == "max" else "avg_pool", kernel=kernel, stride=stride)
        return x if net.shape(x)[0] == filters else net.conv(x, filters)

    return write


WRITERS: dict[str, Write] = {
    "identity": _identity,
    "1x3 then 3x1": _crossed(3),
    "1x7 then 7x1": _crossed(7),
    "dilated 3x3": _convolution(3, dilation=2),
    "average 3x3": _pool("average", 3),
    "max 3x3": _pool("max", 3),
    "max 5x5": _pool("max", 5),
    "max 7x7": _pool("max", 7),
    "1x1": _convolution(1),
    "3x3": _convolution(3),
    "separable 3x3": _separable(3),
    "separable 5x5": _separable(5),
    "separable 7x7": _separable(7),
}
OPERATIONS = tuple(WRITERS)


def _narrow(write: Write, eighths: int) -> Write:
    """The operation on fewer channels, between two 1x1 convolutions."""

    def write_narrow(net: NetworkBuilder, x: int, filters: int, stride: int) -> int:
        fewer = eighths * filters // 8
        if fewer == 0:
            return write(net, x, filters, stride)
        return add_pointwise(net, write(net, add_pointwise(net, x, fewer), fewer, stride), filters)

    return write_narrow


# How AmoebaNet's released code writes these operations; its published figures are met only so.
NARROW_WRITERS: dict[str, Write] = {
    **WRITERS,
    **{name: _narrow(WRITERS[name], 2) for name in ("1x7 then 7x1", "dilated 3x3", "3x3")},
    "1x3 then 3x1": _narrow(WRITERS["1x3 then 3x1"], 3),
}


def add_stem(net: NetworkBuilder, *, imagenet: bool, filters: int) -> tuple[int, ...]:
    """A 3x3 convolution; of stride 2 and without padding where images are large."""
    return (net.conv(0, filters, kernel=3, stride=2 if imagenet else 1, padded=not imagenet),)


def add_input(net: NetworkBuilder, x: int, state: int, size: Size, filters: int) -> int:
    """The last map passes through a 1x1 convolution; the one before it only where its shape differs."""
    channels, *own = net.shape(x)
    if tuple(own) != size:
        return add_factorized_reduction(net, net.relu(x), filters)
    return x if state == 0 and channels == filters else add_pointwise(net, x, filters)


@dataclass(frozen=True)
class NasnetSpace(CellSpace):
    """Rows: blocks of the normal and the reduction cell by turns.

    Genes of a block: input, input, operation, operation, combination.

    `skeleton` is the text after the @ of the space's name, `4x1056` for NASNet-A's 4 @ 1056: cells in each of the
    three stages, and filters of the penultimate layer as NASNet-A has them, 24 times those of the first cell. Then
    options: `b3` for at most 3 blocks a cell (else 5), `imagenet` or `cifar` for the form (else by the resolution),
    `stem96` for the channels of the stem (else 32, or three times the filters in the CIFAR form), `norms` for the
    normalised sums of NASNet-B and C, `skip` for normal cells after a reduction that read the map before its
    input, `narrow` for convolutions other than separable and 1x1 ones on a quarter of the filters, as AmoebaNet
    has them, `keepn0r3` for states that are joined to the output of the normal or reduction cell though they are read.
    """

    skeleton: str = ""

    def __post_init__(self) -> None:
        if self._shape.filters % PENULTIMATE:
            raise InputError(
                f"the filters of the penultimate layer must be a multiple of {PENULTIMATE}, got {self._shape.filters}",
                hint="for example nasnet@4x1056, whose first cell has 44 filters",
            )
        if any(state >= INPUTS + self.blocks for states in self._kept_states for state in states):
            raise InputError(f"{self.name} keeps a state that no cell of {self.blocks} blocks has")

    @cached_property
    def _shape(self) -> Skeleton:
        keep = "(?=.)(?:n[0-9]+)?(?:r[0-9]+)?"
        options = {"b": "[1-7]", **FORMS, "stem": NUMBER, "norms": "", "narrow": "", "skip": "", "keep": keep}
        example = "nasnet@4x1056 or nasnet@6x768,b4,cifar"
        return parse_skeleton("nasnet", self.skeleton, "2x768", options, example, imagenet_filters=4 * PENULTIMATE)

    @property
    def name(self) -> str:
        return f"nasnet@{self.skeleton}" if self.skeleton else "nasnet"

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("normal", "reduction")

    @property
    def operations(self) -> tuple[str, ...]:
        return OPERATIONS

    @property
    def combinations(self) -> tuple[str, ...]:
        return COMBINATIONS if "norms" in self._shape.options else COMBINATIONS[:2]

    @property
    def blocks(self) -> int:
        return int(self._shape.options.get("b", 5))

    @property
    def distinct_inputs(self) -> bool:
        return False

    @cached_property
    def _kept_states(self) -> tuple[tuple[int, ...], ...]:
        normal, _, reduction = self._shape.options.get("keep", "").removeprefix("n").partition("r")
        return tuple(map(int, normal)), tuple(map(int, reduction))

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        states = np.arange(INPUTS + self.blocks)
        return np.array([np.isin(states, kept) for kept in self._kept_states])

    @property
    def imagenet_form(self) -> bool | None:
        return self._shape.imagenet_form

    @property
    def filters(self) -> int:
        """Of the first cell."""
        return self._shape.filters // PENULTIMATE

    def slots(self, imagenet: bool) -> tuple[Slot, ...]:
        cells = [(REDUCTION, 2, self.filters // 4), (REDUCTION, 2, self.filters // 2)] if imagenet else []
        skipping = set()
        for stage in range(3):
            filters = 2**stage * self.filters
            if stage:
                cells.append((REDUCTION, 2, filters))
                skipping.add(len(cells))
            cells += [(NORMAL, 1, filters)] * self._shape.repeats
        slots: list[Slot] = []
        for number, (kind, stride, filters) in enumerate(cells):
            skips = "skip" in self._shape.options and number in skipping
            before = None if number == 0 else number - (3 if skips else 2)
            slots.append(Slot(kind, stride, filters, before, number - 1, (number + 1) / len(cells)))
        return tuple(slots)

    def add_stem(self, net: NetworkBuilder, imagenet: bool) -> tuple[int, ...]:
        if imagenet:
            self._shape.check_imagenet_form()
        channels = int(self._shape.options.get("stem", IMAGENET_STEM if imagenet else 3 * self.filters))
        return add_stem(net, imagenet=imagenet, filters=channels)

    def add_input(self, net: NetworkBuilder, x: int, state: int, size: Size, filters: int) -> int:
        return add_input(net, x, state, size, filters)

    def add_operation(self, net: NetworkBuilder, x: int, operation: int, filters: int, stride: int) -> int:
        writers = NARROW_WRITERS if "narrow" in self._shape.options else WRITERS
        return writers[OPERATIONS[operation]](net, x, filters, stride)

    def as_written(self, cells: Cells) -> Cells:
        """Identity becomes the 1x1 convolution where the size or the width changes: there it is written as one."""
        strided = (np.array(self.kinds) == "reduction")[:, None, None] & (cells.inputs < INPUTS)
        changes = (cells.operations == OPERATIONS.index("identity")) & (strided | (cells.units_read > 1))
        return replace(cells, operations=np.where(changes, OPERATIONS.index("1x1"), cells.operations))

    def drops(self, operation: int, stride: int) -> bool:
        return OPERATIONS[operation] != "identity"

    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int:
        return net.classifier(net.relu(x), classes=task.classes)

    def auxiliary_after(self, imagenet: bool) -> int:
        """The last cell before the second reduction."""
        return max(n for n, slot in enumerate(self.slots(imagenet)) if slot.kind == REDUCTION) - 1
