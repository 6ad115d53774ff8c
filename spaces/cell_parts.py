"""The pieces that cells are made of, as layer records.

Source: tensorflow/models, research/slim/nets/nasnet; tensorflow/tpu, models/official/amoeba_net; quark0/darts, cnn.
"""

from __future__ import annotations

from collections.abc import Sequence

from .layers import NetworkBuilder

COMBINATIONS = ("add", "concat", "add and layer norm", "add and instance norm")

Size = tuple[int, ...]  # height and width


def add_combination(net: NetworkBuilder, xs: Sequence[int], combination: int) -> int:
    """Layers xs combined as `COMBINATIONS` says.

    Source: 1707.07012, section 3; the normalised sums are those of NASNet-B and C, appendix B.
    """
    if COMBINATIONS[combination] == "concat":
        return net.concat(xs)
    x = net.add(xs)
    if COMBINATIONS[combination] == "add":
        return x
    return net.group_norm(x, groups=1 if COMBINATIONS[combination] == "add and layer norm" else net.shape(x)[0])


def add_pointwise(net: NetworkBuilder, x: int, filters: int, stride: int = 1) -> int:
    """relu, 1x1 convolution, batch norm."""
    return net.conv(net.relu(x), filters, stride=stride)


def add_separable(
    net: NetworkBuilder, x: int, filters: int, *, kernel: int, stride: int, times: int = 2, dilation: int = 1
) -> int:
    """relu, depthwise and pointwise convolution with nothing between, batch norm; all that `times` times."""
    for time in range(times):
        channels = net.shape(x)[0] if time == 0 else filters
        x = net.conv(
            net.relu(x),
            channels,
            kernel=kernel,
            stride=stride if time == 0 else 1,
            dilation=dilation,
            groups=channels,
            batch_norm=False,
        )
        x = net.conv(x, filters)
    return x


def add_crossed(net: NetworkBuilder, x: int, filters: int, *, kernel: int, stride: int) -> int:
    """relu, convolution of one row, batch norm, relu, convolution of one column, batch norm."""
    x = net.conv(net.relu(x), filters, kernel=(1, kernel), stride=(1, stride), activation="relu")
    return net.conv(x, filters, kernel=(kernel, 1), stride=(stride, 1))


def add_factorized_reduction(net: NetworkBuilder, x: int, filters: int) -> int:
    """Half of the channels from every second pixel, half from those between, so that no pixel is lost.

    The batch norm over both halves is written in each, where a deployed network folds it.
    """
    halves = [(x, filters // 2), (net.shift(x), filters - filters // 2)]
    return net.concat([net.conv(half, channels, stride=2) for half, channels in halves if channels])


def add_fitted(net: NetworkBuilder, x: int, size: Size, filters: int) -> int:
    """Map x with `filters` channels and the given size, where it has others; no relu."""
    channels, *own = net.shape(x)
    if tuple(own) != size:
        return add_factorized_reduction(net, x, filters)
    return x if channels == filters else net.conv(x, filters)
