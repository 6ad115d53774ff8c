"""NAS-Bench-Macro: a chain of 8 layers, each an identity or one of two mobile inverted bottlenecks.

Source: Su et al., Prioritized Architecture Sampling with Monte-Carlo Tree Search, 2103.11922; the skeleton as the
released code (xiusu/NAS-Bench-Macro, `train/model.py`) has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .chain import ChainSpace
from .errors import InputError
from .layers import NetworkBuilder
from .space import Task

IDENTITY = 0
BLOCKS = {1: (3, 3), 2: (5, 6)}  # (kernel, expansion)
STAGES = (range(2), range(2, 5), range(5, 8))


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Channels of the stem and before the classifier; each stage halves the map and doubles the channels."""

    stem: int = 32
    head: int = 1280


def parse_skeleton(text: str) -> Skeleton:
    """`""` (the benchmark's 32x1280) or `STEMxHEAD`.

    Raises:
        InputError: if it is neither.
    """
    match = re.fullmatch("([1-9][0-9]{0,3})x([1-9][0-9]{0,4})", text or "32x1280")
    if not match:
        raise InputError(
            f"a skeleton of nasbench_macro is STEMxHEAD: 1 to 9999 and 1 to 99999 channels; got {text!r}",
            hint="for example nasbench_macro@32x1280, which is the benchmark's, or nasbench_macro@8x64",
        )
    return Skeleton(int(match.group(1)), int(match.group(2)))


@dataclass(frozen=True)
class NASBenchMacroSpace(ChainSpace):
    """Rows of 8 genes: 0 identity, 1 MBConv of kernel 3 and expansion 3, 2 MBConv of kernel 5 and expansion 6.

    The first layer of each stage (genes 0, 2 and 5) has stride 2 and doubles the channels; an identity there is a 1x1
    convolution with batch norm. All activations are ReLU. `skeleton` is the text after the @ of the space's name.
    """

    skeleton: str = ""

    def __post_init__(self) -> None:
        parse_skeleton(self.skeleton)

    @cached_property
    def shape(self) -> Skeleton:
        return parse_skeleton(self.skeleton)

    @property
    def name(self) -> str:
        return f"nasbench_macro@{self.skeleton}" if self.skeleton else "nasbench_macro"

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        return np.ones((STAGES[-1].stop, 1 + len(BLOCKS)), dtype=np.bool_)

    @property
    def stages(self) -> tuple[range, ...]:
        return STAGES

    @property
    def identity(self) -> int:
        return IDENTITY

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        return (IDENTITY, 1), (1, 2)

    def add_stem(self, net: NetworkBuilder, task: Task) -> int:
        return net.conv(0, self.shape.stem, kernel=3, activation="relu")

    def add_block(self, net: NetworkBuilder, x: int, gene: int, choice: int, task: Task) -> int:
        is_first = any(gene == stage.start for stage in STAGES)
        channels = net.shape(x)[0]
        width, stride = (2 * channels, 2) if is_first else (channels, 1)
        if choice == IDENTITY:
            return net.conv(x, width, stride=stride) if is_first else x
        kernel, expansion = BLOCKS[choice]
        y = net.conv(x, expansion * channels, activation="relu")
        y = net.depthwise(y, kernel=kernel, stride=stride, activation="relu")
        y = net.conv(y, width)
        return y if is_first else net.add((x, y))

    def add_head(self, net: NetworkBuilder, x: int, task: Task) -> int:
        return net.classifier(net.conv(x, self.shape.head, activation="relu"), classes=task.classes)

    def block_name(self, gene: int, choice: int) -> str:
        if choice == IDENTITY:
            return "identity"
        kernel, expansion = BLOCKS[choice]
        return f"MB{kernel}x{kernel}-{expansion}"

    def operation_ids(self) -> tuple[NDArray[np.int64], int]:
        kinds = self.allowed.shape[1]
        return np.broadcast_to(np.arange(kinds), self.allowed.shape).copy(), kinds
