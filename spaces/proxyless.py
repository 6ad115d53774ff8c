"""The ProxylessNAS chain of mobile inverted bottlenecks.

Source: Cai et al., ProxylessNAS, 1812.00332; the skeleton as the Neural Predictor (1912.00848) searches it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .chain import ChainSpace
from .errors import InputError
from .layers import NetworkBuilder, make_divisible
from .space import Task

BLOCKS = ((3, 3), (5, 3), (7, 3), (3, 6), (5, 6), (7, 6))  # (kernel, expansion) of genes 0-5; gene 6 is zero
ZERO = 6
# One zero becomes the smallest layer, or one layer takes the next kernel or the larger expansion.
STEPS = ((ZERO, 0), (0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5))
FIRST_KERNELS = (3, 5, 7)  # of the first block, whose expansion is 1
SMALLEST_LAST_MAP = 4


@dataclass(frozen=True, slots=True)
class Stage:
    width: int
    layers: int
    stride: int = 1

    def __str__(self) -> str:
        return f"{self.width}x{self.layers}" + ("s2" if self.stride == 2 else "")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Everything of a chain but its genes: channels of the stem, the stages, channels before the classifier.

    The first stage holds the block of expansion 1 and has one layer.
    """

    stem: int
    stages: tuple[Stage, ...]
    head: int

    def __str__(self) -> str:
        return ",".join(map(str, (self.stem, *self.stages, self.head)))

    def scaled(self, width: float) -> Skeleton:
        """All widths times `width`, to multiples of 8; the head never shrinks (MobileNetV2, 1801.04381, section 6)."""
        stages = tuple(Stage(make_divisible(width * s.width), s.layers, s.stride) for s in self.stages)
        return Skeleton(make_divisible(width * self.stem), stages, make_divisible(max(1.0, width) * self.head))


def _skeleton(stem: int, widths: tuple[int, ...], head: int) -> Skeleton:
    layers, strides = (1, 4, 4, 4, 4, 4, 1), (1, 2, 2, 2, 1, 2, 1)
    return Skeleton(stem, tuple(map(Stage, widths, layers, strides)), head)


STANDARD = _skeleton(32, (16, 24, 40, 80, 96, 192, 320), 1280)
SKELETONS: dict[str, Skeleton] = {
    "mobile": _skeleton(32, (16, 32, 40, 80, 96, 192, 320), 1280),
    "cpu": _skeleton(40, (24, 32, 48, 88, 104, 216, 360), 1432),
    "gpu": _skeleton(40, (24, 32, 56, 112, 128, 256, 432), 1728),
}
_NUMBER = "[1-9][0-9]{0,4}"
_STAGE = re.compile(f"({_NUMBER})x([1-9][0-9]{{0,2}})(s2)?")


def parse_skeleton(text: str) -> Skeleton:
    """`""` (standard), `w0.5` (standard at half width), a name of `SKELETONS`, or `32,16x1,24x4s2,...,1280`.

    Raises:
        InputError: if it is none of these.
    """
    if not text:
        return STANDARD
    if text in SKELETONS:
        return SKELETONS[text]
    if re.fullmatch(r"w[0-9]+(\.[0-9]+)?", text) and 0.05 <= float(text[1:]) <= 8:
        return STANDARD.scaled(float(text[1:]))
    stem, *middle, head = text.split(",") if "," in text else (text, "")
    stages = [_STAGE.fullmatch(part) for part in middle]
    well_formed = len(stages) > 1 and all(stages) and all(re.fullmatch(_NUMBER, part) for part in (stem, head))
    if not well_formed or int(stages[0].group(2)) != 1:  # type: ignore[union-attr]  # all matched
        raise InputError(
            f"a skeleton of proxyless is wFACTOR (0.05 to 8), one of {', '.join(SKELETONS)}, or "
            "STEM,WIDTHx1[s2],WIDTHxLAYERS[s2],...,HEAD (numbers from 1, widths to 99999, layers to 999); "
            f"got {text!r}",
            hint="for example proxyless@w0.5 or proxyless@32,16x1,24x4s2,40x4s2,1280",
        )
    return Skeleton(
        int(stem),
        tuple(Stage(int(m.group(1)), int(m.group(2)), 2 if m.group(3) else 1) for m in stages if m),
        int(head),
    )


@dataclass(frozen=True)
class ProxylessSpace(ChainSpace):
    """Rows: kernel 3/5/7 of the first block (genes 0-2), then MBConv kernel and expansion, or zero, for each layer.

    Zero never stands first in a stage. `skeleton` is the text after the @ of the space's name.
    """

    skeleton: str = ""

    def __post_init__(self) -> None:
        parse_skeleton(self.skeleton)

    @cached_property
    def shape(self) -> Skeleton:
        return parse_skeleton(self.skeleton)

    @property
    def name(self) -> str:
        return f"proxyless@{self.skeleton}" if self.skeleton else "proxyless"

    @cached_property
    def stages(self) -> tuple[range, ...]:
        starts = np.cumsum([0, *(stage.layers for stage in self.shape.stages)])
        return tuple(range(int(a), int(b)) for a, b in pairwise(starts))

    @cached_property
    def runs(self) -> tuple[tuple[range, ...], ...]:
        """A stage joins the one before it where it keeps the width and has no stride, as at w0.25.

        That is so at full strides: of tasks so small that a stride is taken away, no more stages are joined.
        """
        runs: list[tuple[range, ...]] = []
        for i, (genes, stage) in enumerate(zip(self.stages, self.shape.stages, strict=True)):
            # Not the second: the first stage's block is of another kind, so no block could stand in both.
            if i > 1 and stage.stride == 1 and stage.width == self.shape.stages[i - 1].width:
                runs[-1] = (*runs[-1], genes)
            else:
                runs.append((genes,))
        return tuple(runs)

    @property
    def identity(self) -> int:
        return ZERO

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        return STEPS

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        table = np.ones((self.stages[-1].stop, ZERO + 1), dtype=np.bool_)
        table[0, len(FIRST_KERNELS) :] = False
        table[[stage.start for stage in self.stages], ZERO] = False
        return table

    def why_invalid(self, row: NDArray[np.int64]) -> str:
        for stage in self.stages[1:]:
            if row[stage.start] == ZERO:
                return f"gene {stage.start} must not be {ZERO} (zero): it is the first layer of its stage"
        return super().why_invalid(row)

    def strides(self, resolution: int) -> tuple[int, ...]:
        """Of the stem and each stage; the earliest become 1 until the last map has 4 pixels or no stride is left."""
        strides = [2, *(stage.stride for stage in self.shape.stages)]
        for i, stride in enumerate(strides):
            size = resolution
            for step in strides:
                size = -(-size // step)
            if size >= SMALLEST_LAST_MAP:
                break
            if stride == 2:
                strides[i] = 1
        return tuple(strides)

    def add_stem(self, net: NetworkBuilder, task: Task) -> int:
        return net.conv(0, self.shape.stem, kernel=3, stride=self.strides(task.resolution)[0], activation="relu6")

    def add_block(self, net: NetworkBuilder, x: int, gene: int, choice: int, task: Task) -> int:
        if gene and choice == ZERO:
            return x
        stage = next(i for i, genes in enumerate(self.stages) if gene in genes)
        width = self.shape.stages[stage].width
        stride = self.strides(task.resolution)[1 + stage] if gene == self.stages[stage].start else 1
        kernel, expansion = (FIRST_KERNELS[choice], 1) if gene == 0 else BLOCKS[choice]
        channels = net.shape(x)[0]
        y = net.conv(x, expansion * channels, activation="relu6") if expansion > 1 else x
        y = net.depthwise(y, kernel=kernel, stride=stride, activation="relu6")
        y = net.conv(y, width)
        return net.add((x, y)) if net.shape(x) == net.shape(y) and stride == 1 else y

    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int:
        x = net.conv(x, self.shape.head, activation="relu6")
        return net.classifier(x, classes=task.classes)

    def block_name(self, gene: int, choice: int) -> str:
        if gene == 0:
            kernel, expansion = FIRST_KERNELS[choice], 1
        elif choice == ZERO:
            return "zero"
        else:
            kernel, expansion = BLOCKS[choice]
        return f"MB{kernel}x{kernel}-{expansion}"

    def operation_ids(self) -> tuple[NDArray[np.int64], int]:
        ids = np.broadcast_to(np.arange(ZERO + 1), self.allowed.shape).copy()
        ids[0, : len(FIRST_KERNELS)] = ZERO + 1 + np.arange(len(FIRST_KERNELS))
        return ids, ZERO + 1 + len(FIRST_KERNELS)
