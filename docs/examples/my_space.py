"""A search space of one's own in one file: two stages of residual blocks.

    hwnas search --data digits --space docs/examples/my_space.py:MySpace --trials 30 --limit 'params<=20k'

A space says how many values each gene has, which rows of genes are networks, and what network a row is. All else
is derived from that: sampling, mutation, counts, which rows are the same network, graphs for the predictor.
"""

import numpy as np

from spaces import Arch, Network, NetworkBuilder, Population, SearchSpace, Task

WIDTHS = (8, 12, 16)  # gene 0: channels of the first stage; the second has twice as many
NONE, PLAIN, SEPARABLE, BOTTLENECK = range(4)  # genes 1-3: blocks of the first stage; genes 4-6: of the second
STAGES = (slice(1, 4), slice(4, 7))


class MySpace(SearchSpace):
    name = "residual"  # architectures are written residual:2-1-0-0-2-3-0
    choices = (3, 4, 4, 4, 4, 4, 4)

    def is_valid(self, population: Population) -> np.ndarray:
        """All genes in range, and at least one block in each stage."""
        valid = self.in_range(population)
        for stage in STAGES:
            valid &= (population[:, stage] != NONE).any(axis=1)
        return valid

    def why_invalid(self, row: np.ndarray) -> str:
        """May be left out; errors then say only which gene is out of range."""
        empty = [genes.start for genes in STAGES if not (row[genes] != NONE).any()]
        return f"of genes {empty[0]}-{empty[0] + 2} one must not be 0" if empty else super().why_invalid(row)

    def layers(self, arch: Arch, task: Task) -> Network:
        row = self.row(arch)  # checks the genes
        width = WIDTHS[row[0]]
        net = NetworkBuilder(task.input_shape, block="stem")  # `block` names the parts for the report
        x = net.conv(0, width, kernel=3, activation="relu")
        for gene, choice in enumerate(row[1:], start=1):
            if gene == STAGES[1].start:
                net.block = "halve"
                x = net.conv(x, 2 * width, kernel=3, stride=2, activation="relu")
            if choice != NONE:
                net.block = f"block {gene}"
                x = self.add_block(net, x, choice)
        net.block = "head"
        net.classifier(x, classes=task.classes)
        return net.network

    def add_block(self, net: NetworkBuilder, x: int, choice: int) -> int:
        """x + f(x); convolutions come with batch norm, and pad so that the map keeps its size."""
        channels = net.shape(x)[0]
        if choice == PLAIN:
            y = net.conv(x, channels, kernel=3, activation="relu")
            y = net.conv(y, channels, kernel=3)
        elif choice == SEPARABLE:
            y = net.depthwise(x, kernel=5, activation="relu")
            y = net.conv(y, channels)
        else:
            y = net.conv(x, channels // 2, activation="relu")
            y = net.conv(y, channels // 2, kernel=3, activation="relu")
            y = net.conv(y, channels)
        return net.relu(net.add((x, y)))
