"""All spaces by name, and published networks with the figures that their papers give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .errors import InputError
from .own_file import CHECK_TASK, SpaceFile
from .proxyless import ProxylessSpace
from .space import Arch, SearchSpace, Task, parse_arch

SPACES: dict[str, Callable[[str], SearchSpace]] = {"proxyless": ProxylessSpace}


def get_space(name: str, task: Task = CHECK_TASK) -> SearchSpace:
    """The space of a full name such as `proxyless` or `proxyless@w0.5`, or of a person's own `FILE.py:CLASS`.

    Args:
        task: for which a person's own space is checked.
    Raises:
        InputError: if there is no such space, the part after the @ is malformed, or a person's own space is at fault.
    """
    if SpaceFile.is_meant_by(name):
        space = SpaceFile.read(name).opened(task)
        if space.name.partition("@")[0] in SPACES:
            raise InputError(f"{name}: its name must be its own, but {space.name!r} is a space of this project")
        return space
    family, _, skeleton = name.partition("@")
    if family not in SPACES:
        raise InputError(
            f"there is no space {family!r}",
            hint=f"the spaces are {', '.join(sorted(SPACES))}; your own is given as FILE.py:CLASS",
        )
    return SPACES[family](skeleton)


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """A network of the literature, and what its source prints about it.

    `params` and `flops` (multiply-adds) are exact where the source's released code gives them; `figures` are
    further values by name, as printed: top1_pct on ImageNet, pixel1_latency_ms.
    """

    arch: Arch
    task: Task
    params: int | None
    flops: int | None
    figures: Mapping[str, float]
    source: str


IMAGENET_224 = Task(resolution=224, classes=1000)
_PROXYLESS = "Cai et al., 1812.00332, and its released networks"


def _network(
    text: str, source: str, *, params: int | None = None, flops: int | None = None, **figures: float
) -> PublishedNetwork:
    return PublishedNetwork(parse_arch(text), IMAGENET_224, params, flops, figures, source)


PUBLISHED: dict[str, PublishedNetwork] = {
    "proxyless-mobile": _network(
        "proxyless@mobile:0-1-0-6-6-2-0-1-1-5-1-1-1-4-1-1-1-5-5-2-2-5",
        _PROXYLESS,
        params=4_080_512,
        flops=320_427_584,
        top1_pct=74.594,
    ),
    "proxyless-cpu": _network(
        "proxyless@cpu:0-3-0-0-0-3-0-0-1-3-6-6-0-4-0-0-0-4-1-1-0-4",
        _PROXYLESS,
        params=4_361_648,
        flops=439_243_864,
        top1_pct=75.29,
    ),
    "proxyless-gpu": _network(
        "proxyless@gpu:0-1-6-6-6-2-6-6-0-5-6-6-1-4-6-0-1-5-5-5-4-5",
        _PROXYLESS,
        params=7_119_848,
        flops=465_260_160,
        top1_pct=75.084,
    ),
    "mobilenet-v2": _network(
        "proxyless@32,16x1,24x2s2,32x3s2,64x4s2,96x3,160x3s2,320x1,1280:0-3-3-3-3-3-3-3-3-3-3-3-3-3-3-3-3",
        "Sandler et al., 1801.04381, table 4; params and flops of torchvision's mobilenet_v2",
        params=3_504_872,
        flops=300_774_272,
        top1_pct=72.0,
    ),
}
