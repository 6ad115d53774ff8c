"""Random changes of training images, a batch at a time, on any device.

All draws come from a CPU generator, so a seed means the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..device import on_device

LEAST_AREA = 0.4  # of a crop, as a share of the image
ASPECT_RATIOS = (3 / 4, 4 / 3)


def augment(images: Tensor, resolution: int, *, photographs: bool, flip: bool, generator: torch.Generator) -> Tensor:
    """One random version of every image.

    Args:
        images: (n, channels, s, s) uint8.
        resolution: of the result.
        photographs: draw crops of random size and shape; otherwise shift by up to an eighth of the resolution.
        flip: mirror every second image.
        generator: of the CPU.
    Returns:
        (n, channels, resolution, resolution): uint8 after shifts, float32 in 0..255 after crops.
    """
    mirrored = torch.rand(len(images), generator=generator) < (0.5 if flip else 0.0)
    if photographs:
        boxes = random_boxes(len(images), images.shape[-1], generator)
        return resized_crops(images, boxes, mirrored, resolution)
    reach = max(1, resolution // 8)
    offsets = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=generator)
    return shifted(images, offsets, mirrored, reach)


def shifted(images: Tensor, offsets: Tensor, mirrored: Tensor, reach: int) -> Tensor:
    """Pad with `reach` black pixels on every side, crop to the old size at `offsets`, then mirror.

    Args:
        offsets: (n, 2) top and left of each crop, in 0 .. 2 * reach.
        mirrored: (n,) bool.
    """
    n, _, height, width = images.shape
    offsets, mirrored = on_device(offsets, images.device), on_device(mirrored, images.device)
    padded = F.pad(images, (reach, reach, reach, reach))
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    which = torch.arange(n, device=images.device)[:, None, None]
    # Indices on both sides of a slice: the channels come last, which is the memory format that training wants.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_boxes(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, 4) top, left, height, width of crops of a square of `size`, as torchvision's RandomResizedCrop draws them.

    A side that would stick out is cut to the square's, where torchvision draws again.
    """
    draws = torch.rand(n, 4, generator=generator)
    area = size**2 * (LEAST_AREA + (1 - LEAST_AREA) * draws[:, 0])
    low, high = map(math.log, ASPECT_RATIOS)
    ratio = torch.exp(low + (high - low) * draws[:, 1])
    width = torch.sqrt(area * ratio).round().clamp(1, size)
    height = torch.sqrt(area / ratio).round().clamp(1, size)
    top = (draws[:, 2] * (size - height + 1)).floor().clamp(max=size - 1)
    left = (draws[:, 3] * (size - width + 1)).floor().clamp(max=size - 1)
    return torch.stack([top, left, height, width], dim=1).long()


def resized_crops(images: Tensor, boxes: Tensor, mirrored: Tensor, resolution: int) -> Tensor:
    """Each box resized to `resolution` by bilinear interpolation without antialiasing, then mirrored; float32."""
    size = images.shape[-1]
    top, left, height, width = on_device(boxes.float(), images.device).T[:, :, None]
    y = _sample_points(top, height, resolution, size)
    x = _sample_points(left, width, resolution, size)
    x = torch.where(on_device(mirrored, images.device)[:, None], x.flip(1), x)
    shape = (len(images), resolution, resolution)
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sample_points(start: Tensor, length: Tensor, resolution: int, size: int) -> Tensor:
    """(n, resolution) where to read, in grid_sample's coordinates; nothing outside the box is mixed in."""
    steps = torch.arange(resolution, device=start.device) + 0.5
    inside = torch.minimum((steps * length / resolution - 0.5).clamp(min=0), length - 1)
    return (2 * (start + inside) + 1) / size - 1
