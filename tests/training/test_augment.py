"""Augmentation of batches, against one image at a time with numpy and torchvision."""

import numpy as np
import pytest
import torch

from hwnas.training.augment import augment, random_boxes, resized_crops, shifted


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=40, channels=3, size=10, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8))


def test_shifts_are_pad_crop_and_mirror():
    images, reach = pictures(), 2
    rng = np.random.default_rng(1)
    offsets, mirrored = rng.integers(0, 2 * reach + 1, (40, 2)), rng.random(40) < 0.5
    ours = shifted(images, torch.from_numpy(offsets), torch.from_numpy(mirrored), reach)
    for i, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)))
        top, left = offsets[i]
        expected = padded[:, top : top + 10, left : left + 10]
        assert np.array_equal(ours[i].numpy(), expected[..., ::-1] if mirrored[i] else expected)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_crops_are_torchvisions_resized_crop():
    from torchvision.transforms.v2 import functional as v2_functional

    images = pictures(size=21)
    boxes = random_boxes(40, 21, generator())
    mirrored = torch.arange(40) % 2 == 0
    ours = resized_crops(images, boxes, mirrored, 16)
    for i, image in enumerate(images.float()):
        expected = v2_functional.resized_crop(image, *boxes[i].tolist(), [16, 16], antialias=False)
        torch.testing.assert_close(ours[i], expected.flip(-1) if mirrored[i] else expected, atol=1e-2, rtol=0)


def test_boxes_lie_inside_and_have_the_promised_sizes():
    boxes = random_boxes(5000, 110, generator()).numpy()
    top, left, height, width = boxes.T
    assert (boxes >= 0).all()
    assert ((top + height <= 110) & (left + width <= 110)).all()
    area = height * width / 110**2
    assert area.min() > 0.37
    assert area.max() <= 1
    assert abs(area.mean() - 0.7) < 0.03  # uniform in 0.4 .. 1, but for what would stick out
    ratio = width / height
    assert ratio.min() > 0.73
    assert ratio.max() < 1.37
    free = 110 - height > 20
    assert abs((top[free] / (110 - height[free])).mean() - 0.5) < 0.03


def test_offsets_reach_every_place_and_half_is_mirrored():
    column = torch.arange(16, dtype=torch.uint8).repeat(16, 1)[None, None] + 1
    images = column.repeat(4000, 1, 1, 1)
    result = augment(images, 16, photographs=False, flip=True, generator=generator()).numpy()
    rising = result[:, 0, 8, 7] < result[:, 0, 8, 8]
    assert abs(rising.mean() - 0.5) < 0.03
    shifts = result[rising][:, 0, 8, 8].astype(int) - 9
    assert set(shifts) == {-2, -1, 0, 1, 2}
    assert np.bincount(shifts + 2).min() > 0.8 * len(shifts) / 5


@pytest.mark.parametrize("photographs", [False, True])
def test_no_mirror_where_a_mirrored_image_is_of_another_class(photographs):
    ramp = torch.linspace(0, 255, 18).to(torch.uint8).repeat(18, 1)[None, None].repeat(200, 1, 1, 1)
    size = 16 if photographs else 18
    result = augment(ramp, size, photographs=photographs, flip=False, generator=generator()).float()
    assert result.shape == (200, 1, size, size)
    assert (result[:, 0, 9, 10] > result[:, 0, 9, 7]).all()


@pytest.mark.parametrize("photographs", [False, True])
def test_only_the_generator_decides(photographs):
    images = pictures()
    first = augment(images, 10, photographs=photographs, flip=True, generator=generator(3))
    torch.manual_seed(99)
    again = augment(images, 10, photographs=photographs, flip=True, generator=generator(3))
    assert torch.equal(first, again)
    other = augment(images, 10, photographs=photographs, flip=True, generator=generator(4))
    assert not torch.equal(first, other)
