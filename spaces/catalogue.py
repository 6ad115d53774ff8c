"""All spaces by name, and published networks with the figures that their papers give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .darts import DartsSpace
from .errors import InputError
from .nasbench101 import NASBench101Space
from .nasbench_macro import NASBenchMacroSpace
from .nasnet import NasnetSpace
from .own_file import CHECK_TASK, SpaceFile
from .pnas import PnasSpace
from .proxyless import ProxylessSpace
from .space import Arch, SearchSpace, Task, parse_arch

SPACES: dict[str, Callable[[str], SearchSpace]] = {
    "darts": DartsSpace,
    "nasbench101": NASBench101Space,
    "nasbench_macro": NASBenchMacroSpace,
    "nasnet": NasnetSpace,
    "pnas": PnasSpace,
    "proxyless": ProxylessSpace,
}


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

    `arch` is None where the genes were never published. `params` and `flops` (multiply-adds) are exact where the
    source's released code gives them, else as printed, to two or three digits; `figures` are further values by name,
    as printed: top1_pct on ImageNet, test_error_pct on CIFAR-10. Where ours differ, `source` says what it leaves open.
    """

    arch: Arch | None
    task: Task
    params: int | None
    flops: int | None
    figures: Mapping[str, float]
    source: str


CIFAR10 = Task(resolution=32, classes=10)
IMAGENET_224 = Task(resolution=224, classes=1000)
IMAGENET_299 = Task(resolution=299, classes=1000)
IMAGENET_331 = Task(resolution=331, classes=1000)
_PROXYLESS = "Cai et al., 1812.00332, and its released networks"
_NASNET = "Zoph et al., 1707.07012, tables 1 to 3; cells of tensorflow/models, research/slim/nets/nasnet"
_NASNET_7 = (
    f"{_NASNET}; ours has 32.59 M parameters, and 28.21 M with N = 6: section 4.1 says that N was 4 or 6, so "
    "the 27.6 M that are printed for 7 may be those of 6"
)
_NASNET_BC = "Zoph et al., 1707.07012, tables 1 and 3; the cells were only drawn"
_PNAS = "Liu et al., 1712.00559, tables 3 to 5; cell of tensorflow/models, research/slim/nets/nasnet/pnasnet.py"
_DARTS = "Liu et al., 1806.09055, tables 1 and 3, and quark0/darts (cells, and parameters to the thousand)"
_DARTS_IMAGENET = (
    f"{_DARTS}; ours has 529.9 M multiply-adds, as many parameters: what was counted as 574 M, the paper does not say"
)
_DARTS_FIRST = (
    f"{_DARTS}; no figures, as none is said to be of its cell DARTS_V1: of the first order, table 1 prints 3.00 % test "
    "error and 3.3 M parameters, but this cell has 3.17 M"
)
_AMOEBANET = "Real et al., 1802.01548, tables 1 and 2; cells of tensorflow/tpu, models/official/amoeba_net"
_AMOEBANET_299 = f"{_AMOEBANET}; its multiply-adds are those of 299 px, the resolution of that code"

# Which states the released code joins to the output of a cell though they are read, and in which order it stacks
# cells, is part of the skeletons here: the papers' figures are met only so.
_NASNET_A = (
    "1-0-11-10-0-1-0-11-12-0-0-0-11-10-0-1-0-5-12-0-1-0-4-0-0-1-0-4-11-0-0-0-4-4-0-3-2-0-4-0-1-1-10-0-0-2-1-10-5-0"
)
_AMOEBANET_A = (
    "1-1-4-5-0-0-1-10-4-0-0-0-10-0-0-1-2-5-12-0-1-0-0-4-0-0-1-5-5-0-1-2-10-11-0-4-1-10-2-0-5-1-4-10-0-0-1-4-12-0"
)
_PNASNET_5 = "0-0-1-6-1-1-2-6-1-1-1-0-4-1-0-6-0-1-0-4"
_DARTS_V1 = "0-1-3-3-0-1-0-0-0-1-2-3-0-2-0-2-0-1-2-3-0-2-0-2-0-2-3-2-0-2-1-2"
_DARTS_V2 = "0-1-3-3-0-1-0-0-0-1-3-3-1-2-0-2-0-1-2-3-0-2-0-2-0-2-2-5-1-2-0-2"


def _network(
    text: str | None,
    source: str,
    *,
    task: Task = IMAGENET_224,
    params: float | None = None,
    flops: float | None = None,
    **figures: float,
) -> PublishedNetwork:
    return PublishedNetwork(
        None if text is None else parse_arch(text),
        task,
        None if params is None else round(params),
        None if flops is None else round(flops),
        figures,
        source,
    )


# Missing: the nine of the Neural Predictor (Wen et al., 1912.00848, table 2), whose genes are in no source at hand.
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
    "nasnet-a@4x1056": _network(
        f"nasnet@4x1056,keepn0r3:{_NASNET_A}", _NASNET, params=5.3e6, flops=564e6, top1_pct=74.0
    ),
    "nasnet-a@6x4032": _network(
        f"nasnet@6x4032,stem96,skip,keepn0r3:{_NASNET_A}",
        _NASNET,
        task=IMAGENET_331,
        params=88.9e6,
        flops=23.8e9,
        top1_pct=82.7,
    ),
    "nasnet-a@6x768": _network(
        f"nasnet@6x768,keepn0r3:{_NASNET_A}", _NASNET, task=CIFAR10, params=3.3e6, test_error_pct=3.41
    ),
    "nasnet-a@7x2304": _network(
        f"nasnet@7x2304,keepn0r3:{_NASNET_A}", _NASNET_7, task=CIFAR10, params=27.6e6, test_error_pct=2.97
    ),
    "nasnet-b@4x1536": _network(None, _NASNET_BC, params=5.3e6, flops=488e6, top1_pct=72.8),
    "nasnet-b@4x1152": _network(None, _NASNET_BC, task=CIFAR10, params=2.6e6, test_error_pct=3.73),
    "nasnet-c@3x960": _network(None, _NASNET_BC, params=4.9e6, flops=558e6, top1_pct=72.5),
    "nasnet-c@4x640": _network(None, _NASNET_BC, task=CIFAR10, params=3.1e6, test_error_pct=3.59),
    "pnasnet-5@3x54": _network(f"pnas@3x54,keep4:{_PNASNET_5}", _PNAS, params=5.1e6, flops=588e6, top1_pct=74.2),
    "pnasnet-5@4x216": _network(
        f"pnas@4x216,stem96,keep4:{_PNASNET_5}",
        _PNAS,
        task=IMAGENET_331,
        params=86.1e6,
        flops=25.0e9,
        top1_pct=82.9,
    ),
    "pnasnet-5@3x48": _network(f"pnas@3x48,keep4:{_PNASNET_5}", _PNAS, task=CIFAR10, params=3.2e6, test_error_pct=3.41),
    "darts-v1@20x36": _network(f"darts@20x36:{_DARTS_V1}", _DARTS_FIRST, task=CIFAR10),
    "darts-v1@14x48": _network(f"darts@14x48:{_DARTS_V1}", _DARTS_FIRST),
    "darts-v2@20x36": _network(f"darts@20x36:{_DARTS_V2}", _DARTS, task=CIFAR10, params=3.349e6, test_error_pct=2.76),
    "darts-v2@14x48": _network(f"darts@14x48:{_DARTS_V2}", _DARTS_IMAGENET, params=4.719e6, flops=574e6, top1_pct=73.3),
    "amoebanet-a@6x32": _network(
        f"nasnet@6x768,narrow,keepn0r24:{_AMOEBANET_A}", _AMOEBANET, task=CIFAR10, params=2.6e6, test_error_pct=3.40
    ),
    "amoebanet-a@6x36": _network(
        f"nasnet@6x864,narrow,keepn0r24:{_AMOEBANET_A}", _AMOEBANET, task=CIFAR10, params=3.2e6, test_error_pct=3.34
    ),
    "amoebanet-a@4x50": _network(
        f"nasnet@4x1200,narrow,keepn0r24:{_AMOEBANET_A}", _AMOEBANET, params=5.1e6, flops=555e6, top1_pct=74.5
    ),
    "amoebanet-a@6x190": _network(
        f"nasnet@6x4560,narrow,keepn0r24:{_AMOEBANET_A}",
        _AMOEBANET,
        task=IMAGENET_331,
        params=86.7e6,
        flops=23.1e9,
        top1_pct=82.8,
    ),
    "amoebanet-a@6x448": _network(
        f"nasnet@6x10752,narrow,keepn0r24:{_AMOEBANET_A}",
        _AMOEBANET_299,
        task=IMAGENET_299,
        params=469e6,
        flops=104e9,
        top1_pct=83.9,
    ),
}
