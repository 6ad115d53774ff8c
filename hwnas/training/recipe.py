"""How a network is trained: every number of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spaces.errors import InputError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Nesterov SGD, linear warm-up, then cosine to zero.

    The defaults suit short trainings (2 to 50 epochs) of small networks. They were chosen by validation accuracy on
    digits at 8 px (3 to 10 epochs) and 4,000 images of CIFAR-10 (2 and 4 epochs), with `proxyless` at widths 0.25 and
    0.5: twice the rate loses the first epochs of such deep networks, and clipping gradients at norm 1 loses more.

    Attributes:
        batch_size: at most; small sets get smaller batches, so that an epoch has `least_steps` steps.
        lr: for `batch_size` images; smaller batches get their share of it, by the square root.
        weight_decay: of convolution and linear weights, not of batch norm and biases.
        warmup: share of all steps.
        augment: change training images at random.
        auxiliary_weight: of the loss of a second classifier, for networks that are given one; 0 trains without it.
            Source: 0.4 in 1707.07012, appendix A.7, and 1806.09055, appendix A.2.
        drop_path: probability with which paths of a cell are left out at the end of the training, to which it rises
            from 0. It pays in trainings of hundreds of epochs: 1806.09055 takes 0.2.
    """

    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    warmup: float = 0.15
    least_steps: int = 32
    least_batch_size: int = 16
    augment: bool = True
    auxiliary_weight: float = 0.4
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.least_batch_size < 1 or self.least_steps < 1:
            raise InputError("batch_size, least_batch_size and least_steps must be at least 1")
        if not self.lr > 0:
            raise InputError(f"lr must be positive, got {self.lr}")
        if not (0 <= self.momentum < 1 and 0 <= self.label_smoothing < 1 and 0 <= self.warmup < 1):
            raise InputError("momentum, label_smoothing and warmup must be at least 0 and below 1")
        if self.weight_decay < 0:
            raise InputError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not (self.auxiliary_weight >= 0 and 0 <= self.drop_path < 1):
            raise InputError(
                "auxiliary_weight must not be negative, and drop_path must be at least 0 and below 1; "
                f"got {self.auxiliary_weight} and {self.drop_path}"
            )

    def steps_per_epoch(self, n_images: int) -> int:
        """An epoch is cut into so many batches, equal within one image; all images are seen."""
        few = max(min(self.least_batch_size, self.batch_size), n_images // self.least_steps)
        return math.ceil(n_images / min(self.batch_size, few))

    def peak_lr(self, n_images: int) -> float:
        mean_batch = n_images / self.steps_per_epoch(n_images)
        return self.lr * math.sqrt(mean_batch / self.batch_size)

    def lr_at(self, step: int, steps: int, n_images: int) -> float:
        """The learning rate of one step out of `steps`, counted from 0."""
        warm = round(self.warmup * steps)
        if step < warm:
            return self.peak_lr(n_images) * (step + 1) / warm
        return self.peak_lr(n_images) * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    def drop_path_at(self, step: int, steps: int) -> float:
        """The probability of leaving out a path in one step out of `steps`, counted from 0: it rises linearly."""
        return self.drop_path * step / steps
