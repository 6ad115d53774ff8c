"""Layer records -> `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import AuxiliaryHead, Layer, Network, last_uses


@dataclass(frozen=True, slots=True)
class DropPath:
    """Leaves out whole paths of a cell while training, each for each image on its own; what stays is scaled up.

    Attributes:
        probability: of a path being left out where its layer's `drop` is 1. ScheduledDropPath raises it linearly
            from 0 over the training.
        generator: decides which; it lives on the device of its choice.

    Source: Larsson et al., FractalNet, 1605.07648; scheduled: Zoph et al., 1707.07012, appendix A.5.
    """

    probability: float
    generator: torch.Generator

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ValueError(f"the probability of leaving out a path must be in [0, 1), got {self.probability}")

    def __call__(self, paths: Tensor, share: float) -> Tensor:
        keep = 1.0 - self.probability * share
        chances = torch.rand(len(paths), generator=self.generator, device=self.generator.device)
        mask = (chances < keep).to(paths) / keep
        return paths * mask.view(-1, *[1] * (paths.dim() - 1))


class TorchNetwork(nn.Module):
    """Runs layer records in order; every intermediate map is dropped after its last reader.

    Input (n, channels, height, width), output (n, classes). Building draws weights from torch's defaults without
    moving torch's global generator; `initialise` redraws them from a generator that the caller gives.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        with torch.random.fork_rng(devices=[]):
            self.steps = nn.ModuleList(_module(layer) for layer in network)
        last = last_uses(network)
        self._free = [
            [x for x in {*layer.inputs, i} if last[x] == i and x < len(network) - 1] for i, layer in enumerate(network)
        ]

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)[len(self.network) - 1]

    def run(self, images: Tensor, *, also: Iterable[int] = (), drop_path: DropPath | None = None) -> dict[int, Tensor]:
        """The outputs by layer: that of the last one, and those of the layers in `also`.

        Args:
            drop_path: leaves out paths while the module trains; without it, or in evaluation, all stay.
        """
        wanted = {*also, len(self.network) - 1}
        outputs: dict[int, Tensor] = {}
        for position, (layer, step) in enumerate(zip(self.network, self.steps, strict=True)):
            inputs = [outputs[x] for x in layer.inputs]
            if layer.op == "input":
                outputs[position] = images
            elif layer.op == "add":
                outputs[position] = reduce(torch.add, inputs)  # a loop's variables would keep the maps alive
            elif layer.op == "concat":
                outputs[position] = torch.cat(inputs, dim=1)
            else:
                outputs[position] = step(inputs[0])
            if drop_path is not None and self.training and drop_path.probability * layer.drop > 0:
                outputs[position] = drop_path(outputs[position], layer.drop)
            for x in self._free[position]:
                if x not in wanted:
                    del outputs[x]
        return {position: outputs[position] for position in wanted}


class TrainingNetwork(nn.Module):
    """A network together with its auxiliary head, as they are trained; only `network` is kept and deployed."""

    def __init__(self, network: TorchNetwork, auxiliary: AuxiliaryHead | None) -> None:
        super().__init__()
        self.network = network
        self.reads = None if auxiliary is None else auxiliary.reads
        self.head = None if auxiliary is None else TorchNetwork(auxiliary.network)

    def forward(self, images: Tensor, drop_path: DropPath | None = None) -> tuple[Tensor, Tensor | None]:
        """Class scores of the network, and those of the auxiliary head (None where there is none)."""
        last = len(self.network.network) - 1
        if self.head is None or self.reads is None:
            return self.network.run(images, drop_path=drop_path)[last], None
        outputs = self.network.run(images, also=(self.reads,), drop_path=drop_path)
        return outputs[last], self.head(outputs[self.reads])


class Shift(nn.Module):
    """Moves maps one pixel up and to the left, so that what a stride leaves out is seen; zeros come in.

    Source: the factorized reduction of NASNet's released code.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return functional.pad(maps, (-1, 1, -1, 1))


class FirstChannels(nn.Module):
    """(n, c, height, width) -> (n, channels, height, width), the first of the c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, : self.channels]


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights from `generator`: He normal over fan-out for convolutions, N(0, 0.01) for linear layers.

    Source: the initialisation of MobileNetV2 and ProxylessNAS.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.01, generator=generator)
            nn.init.zeros_(part.bias)


def _module(layer: Layer) -> nn.Module:
    module: nn.Module
    match layer.op:
        case "conv":
            module = _conv(layer)
        case "linear":
            module = nn.Linear(layer.in_features, layer.shape[0])
        case "max_pool":
            module = nn.MaxPool2d(layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
        case "avg_pool":
            module = nn.AvgPool2d(layer.kernel, layer.stride, layer.padding, count_include_pad=False)
        case "global_avg_pool":
            module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        case "batch_norm":
            module = nn.BatchNorm2d(layer.shape[0])
        case "group_norm":
            module = nn.GroupNorm(layer.groups, layer.shape[0])
        case "shift":
            module = Shift()
        case "relu":
            module = nn.ReLU()
        case "slice":
            module = FirstChannels(layer.shape[0])
        case "input" | "add" | "concat":
            module = nn.Identity()  # forward() does these itself
    return module


def _conv(layer: Layer) -> nn.Module:
    steps: list[nn.Module] = [
        nn.Conv2d(
            layer.in_features,
            layer.shape[0],
            layer.kernel,
            layer.stride,
            layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias,
        )
    ]
    if layer.batch_norm:
        steps.append(nn.BatchNorm2d(layer.shape[0]))
    if layer.activation:
        steps.append(nn.ReLU() if layer.activation == "relu" else nn.ReLU6())
    return nn.Sequential(*steps)
