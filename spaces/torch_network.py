"""Layer records -> `nn.Module`."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

from .layers import Layer, Network, last_uses


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
            for x in self._free[position]:
                del outputs[x]
        return outputs[len(self.network) - 1]


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
        elif isinstance(part, nn.BatchNorm2d):
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
