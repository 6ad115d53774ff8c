"""Layer records: what a network is, before anything runs it.

A network is a tuple of `Layer`s in execution order. The torch module, the ONNX graph, the counts, the block
table and the drawing are all readers of this one list, so no space is written twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Op = Literal[
    "input",
    "conv",
    "linear",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "relu",
    "batch_norm",
    "group_norm",
    "shift",
    "add",
    "concat",
    "slice",
]
Activation = Literal["", "relu", "relu6"]
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation on the outputs of earlier layers.

    `inputs` are positions in the network's tuple, all smaller than this layer's own. `shape` is the output for
    one image: (channels, height, width) for feature maps, (features,) for vectors. A convolution is followed by
    its own batch norm and activation where those fields say so; a bare `batch_norm` or `relu` record stands
    where no convolution comes before it. Padding keeps ceil(size / stride) for odd kernels; a layer that is not
    `padded` reads the map as it is; a max-pool of an even kernel has as much stride and no padding, and its last
    window may end outside the map. `shift` moves a map by one pixel up and to the left, zeros come in. `slice` keeps
    the first channels of its input. `group_norm` normalises each of `groups` groups of channels over one image, with a
    scale and a shift per channel: one group is layer normalisation, as many as channels is instance normalisation.
    """

    op: Op
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    in_features: int = 0  # channels (conv) or features (linear) that come in
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False
    batch_norm: bool = False
    activation: Activation = ""
    padded: bool = True
    drop: float = 0.0  # share of the drop-path probability that this layer's output meets in training, 0 for never
    block: str = ""  # the part of the network that a reader would name: "stem", "3 MB5x5-6", "head"

    @property
    def padding(self) -> Pair:
        """Zeros added on each side (height, width)."""
        if not self.padded:
            return 0, 0
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return dh * (kh - 1) // 2, dw * (kw - 1) // 2

    @property
    def ceil_mode(self) -> bool:
        """Whether the last window of a pool may end outside the map, as that of an even kernel does on odd sizes."""
        return self.padded and self.kernel[0] % 2 == 0

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight of a convolution or linear layer as torch and ONNX order it; () for the others."""
        if self.op == "conv":
            return (self.shape[0], self.in_features // self.groups, *self.kernel)
        if self.op == "linear":
            return (self.shape[0], self.in_features)
        return ()

    @property
    def flops(self) -> int:
        """Multiply-adds of a convolution or linear layer, one per multiply-add; 0 for every other operation."""
        if not self.weight_shape:
            return 0
        return math.prod(self.weight_shape) * math.prod(self.shape[1:])

    @property
    def params(self) -> int:
        """Trained parameters, as torch's `parameters()` has them: weights, biases, scale and shift of batch norm."""
        if self.op in ("batch_norm", "group_norm"):
            return 2 * self.shape[0]
        if not self.weight_shape:
            return 0
        return math.prod(self.weight_shape) + self.shape[0] * (self.bias + 2 * self.batch_norm)

    @property
    def folded_weights(self) -> int:
        """Numbers that a deployed network holds for this layer: batch norm folded, so a bias stands for both."""
        if not self.weight_shape:
            return 2 * self.shape[0] if self.op in ("batch_norm", "group_norm") else 0
        return math.prod(self.weight_shape) + self.shape[0] * (self.bias or self.batch_norm)


Network = tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class AuxiliaryHead:
    """A second classifier that is trained beside the first and then thrown away: never counted, never exported.

    Attributes:
        reads: the layer of the main network whose output is the head's input.
        network: the head's own records, from that map to class scores.
    """

    reads: int
    network: Network


@dataclass
class NetworkBuilder:
    """Writes layer records one after another; every method returns the position of the layer it added.

    >>> net = NetworkBuilder((3, 32, 32))
    >>> x = net.conv(0, 16, kernel=3, stride=2, activation="relu")
    >>> x = net.classifier(x, classes=10)
    >>> [layer.shape for layer in net.network]
    [(3, 32, 32), (16, 16, 16), (16,), (10,)]
    """

    input_shape: tuple[int, ...]
    layers: list[Layer] = field(default_factory=list)
    block: str = ""
    _relus: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layers.append(Layer("input", (), self.input_shape))

    @property
    def network(self) -> Network:
        return tuple(self.layers)

    def shape(self, x: int) -> tuple[int, ...]:
        return self.layers[x].shape

    def conv(
        self,
        x: int,
        out_channels: int,
        *,
        kernel: int | Pair = 1,
        stride: int | Pair = 1,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        batch_norm: bool = True,
        activation: Activation = "",
        padded: bool = True,
    ) -> int:
        channels = self.shape(x)[0]
        if channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups must divide both {channels} and {out_channels} channels")
        return self._add_window(
            Layer(
                "conv",
                (x,),
                (out_channels,),
                in_features=channels,
                kernel=_pair(kernel),
                stride=_pair(stride),
                dilation=_pair(dilation),
                groups=groups,
                bias=bias,
                batch_norm=batch_norm,
                activation=activation,
                padded=padded,
                block=self.block,
            )
        )

    def depthwise(
        self,
        x: int,
        *,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        batch_norm: bool = True,
        activation: Activation = "",
    ) -> int:
        channels = self.shape(x)[0]
        return self.conv(
            x,
            channels,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            groups=channels,
            batch_norm=batch_norm,
            activation=activation,
        )

    def pool(
        self,
        x: int,
        *,
        kind: Literal["max_pool", "avg_pool"],
        kernel: int | Pair = 3,
        stride: int = 1,
        padded: bool = True,
    ) -> int:
        channels = self.shape(x)[:1]
        window = Layer(kind, (x,), channels, kernel=_pair(kernel), stride=_pair(stride), padded=padded)
        return self._add_window(replace(window, block=self.block))

    def first_channels(self, x: int, channels: int) -> int:
        """The first `channels` of layer x; x itself where it has no more."""
        have, *size = self.shape(x)
        if not 1 <= channels <= have:
            raise ValueError(f"between 1 and {have} channels can be kept, got {channels}")
        return x if channels == have else self._add(Layer("slice", (x,), (channels, *size), block=self.block))

    def global_avg_pool(self, x: int) -> int:
        return self._add(Layer("global_avg_pool", (x,), (self.shape(x)[0],), block=self.block))

    def linear(self, x: int, out_features: int) -> int:
        (features,) = self.shape(x)
        return self._add(Layer("linear", (x,), (out_features,), in_features=features, bias=True, block=self.block))

    def classifier(self, x: int, *, classes: int) -> int:
        return self.linear(self.global_avg_pool(x), classes)

    def relu(self, x: int) -> int:
        """The relu of layer x; written once, however many layers read it."""
        if x not in self._relus:
            self._relus[x] = self._add(Layer("relu", (x,), self.shape(x), block=self.block))
        return self._relus[x]

    def batch_norm(self, x: int) -> int:
        return self._add(Layer("batch_norm", (x,), self.shape(x), block=self.block))

    def group_norm(self, x: int, *, groups: int) -> int:
        if self.shape(x)[0] % groups:
            raise ValueError(f"{groups} groups must divide {self.shape(x)[0]} channels")
        return self._add(Layer("group_norm", (x,), self.shape(x), groups=groups, block=self.block))

    def shift(self, x: int) -> int:
        return self._add(Layer("shift", (x,), self.shape(x), block=self.block))

    def add(self, xs: Sequence[int]) -> int:
        shapes = {self.shape(x) for x in xs}
        if len(shapes) != 1:
            raise ValueError(f"only equal shapes can be added, got {sorted(shapes)}")
        return self._add(Layer("add", tuple(xs), shapes.pop(), block=self.block))

    def concat(self, xs: Sequence[int]) -> int:
        shapes = [self.shape(x) for x in xs]
        if len({shape[1:] for shape in shapes}) != 1:
            raise ValueError(f"only maps of equal height and width can be concatenated, got {shapes}")
        return self._add(Layer("concat", tuple(xs), (sum(s[0] for s in shapes), *shapes[0][1:]), block=self.block))

    def extend(self, x: int, network: Network) -> int:
        """Append a whole network whose input is layer x; returns the position of its last layer."""
        if network[0].shape != self.shape(x):
            raise ValueError(f"the network reads {network[0].shape}, but layer {x} gives {self.shape(x)}")
        positions = [x]
        for layer in network[1:]:
            inputs = tuple(positions[i] for i in layer.inputs)
            positions.append(self._add(replace(layer, inputs=inputs)))
        return positions[-1]

    def cut_after(self, x: int) -> None:
        """Take back all that was written after layer x."""
        del self.layers[x + 1 :]
        self._relus = {read: relu for read, relu in self._relus.items() if relu <= x}

    def droppable(self, x: int, share: float) -> int:
        """Layer x, whose output drop-path may leave out in training with this share of its probability."""
        self.layers[x] = replace(self.layers[x], drop=share)
        return x

    def _add_window(self, layer: Layer) -> int:
        """Add a layer that passes a window over its input; `shape` holds the channels, the size is found here."""
        _, height, width = self.shape(layer.inputs[0])
        (kh, kw), (sh, sw), (dh, dw) = layer.kernel, layer.stride, layer.dilation
        if layer.padded:
            aligned = layer.op == "max_pool" and layer.kernel == layer.stride  # needs no padding on either side
            if (kh % 2 == 0 or kw % 2 == 0) and not aligned:
                raise ValueError(f"kernels must be odd, so that padding is symmetric; got {layer.kernel}")
            rows, columns = -(-height // sh), -(-width // sw)
        else:
            rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
            if min(rows, columns) < 1:
                raise ValueError(f"without padding, a window of {layer.kernel} needs a larger map than {height, width}")
        return self._add(replace(layer, shape=(*layer.shape, rows, columns)))

    def _add(self, layer: Layer) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1


def last_uses(network: Network) -> list[int]:
    """For every layer, the position of the last layer that reads it (its own position when none does)."""
    last = list(range(len(network)))
    for position, layer in enumerate(network):
        for x in layer.inputs:
            last[x] = position
    last[-1] = len(network) - 1
    return last


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, never below it and never down by more than 10 %.

    Source: the rule of the MobileNet papers' released code, which ProxylessNAS uses too.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
