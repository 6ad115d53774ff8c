"""What else a person could take under the same limits: random networks, and MobileNetV2 made narrower.

    uv run python benchmarks/main_job_rivals.py runs/photos-... --random 3

Rivals are trained exactly as the finalists of the run (images, split, recipe, epochs, device) and measured by the same
protocol. Random networks are drawn uniformly under the limits that a network can be counted and estimated by.
MobileNetV2 comes as torchvision builds it, and with the strides that this project gives to small images; each at the
largest width, in steps of 0.05, at which every limit holds. The test images report, nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from hwnas.evaluation import wilson_interval
from hwnas.execution import WorkerPool
from hwnas.feasible import FeasibleSet
from hwnas.objectives import Limit
from hwnas.study import write_csv
from hwnas.training import ImageData, Recipe, evaluate, resolve_device, train
from latency import Device, DeviceCosts, LatencyTable, Timing, build_onnx, count, export_onnx, measure
from latency.reference import reference_model
from pipelines.config import RunConfig
from pipelines.deploy import with_normalisation
from pipelines.run_folder import RunFolder
from pipelines.run_record import RunRecord
from spaces import PUBLISHED, Task, get_space
from spaces.chain import ChainSpace
from spaces.layers import make_divisible

RESULTS = Path(__file__).with_name("results")
WIDTHS = np.arange(0.05, 1.01, 0.05)


@dataclass(frozen=True)
class Rival:
    """A network under comparison: what it is called, how to build it, what it costs."""

    name: str
    arch: str  # text of an architecture, or "torchvision:WIDTH"
    costs: Mapping[str, float]
    timing: Timing

    def meets(self, limits: tuple[Limit, ...]) -> bool:
        low, high = self.timing.latency_ms_interval
        return all(
            limit.holds((high if limit.op == "<=" else low) if limit.name == "latency_ms" else self.costs[limit.name])
            for limit in limits
        )


def build(arch: str, task: Task) -> nn.Module:
    if arch.startswith("torchvision:"):
        module: nn.Module = mobilenet_v2(num_classes=task.classes, width_mult=float(arch.partition(":")[2]))
        cast(nn.Sequential, module.classifier)[0] = nn.Identity()  # dropout: no other network here has it
        if task.channels != 3:
            stem = cast(nn.Sequential, cast(nn.Sequential, module.features)[0])
            first = cast(nn.Conv2d, stem[0])
            stem[0] = nn.Conv2d(task.channels, first.out_channels, 3, 2, 1, bias=False)
        return module
    space = get_space(arch.rpartition(":")[0])
    return space.build(space.parse(arch), task)


def torch_costs(module: nn.Module, task: Task) -> dict[str, float]:
    """Counts of convolutions and linear layers of a module, by watching them run once."""
    total = {"flops": 0, "bytes": 0, "weight_bytes": 0}

    def watch(layer: nn.Conv2d | nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weights = layer.weight.numel() + output.shape[1]  # a folded batch norm leaves a bias
        total["flops"] += layer.weight.numel() * output[0, 0].numel()
        total["bytes"] += 4 * (inputs[0].numel() + output.numel() + weights)
        total["weight_bytes"] += 4 * weights

    handles = [m.register_forward_hook(watch) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.inference_mode():
        module.eval()(torch.zeros(1, *task.input_shape))
    for handle in handles:
        handle.remove()
    params = sum(p.numel() for p in module.parameters())
    return {**total, "params": params, "intensity": total["flops"] / total["bytes"]}


def narrow_mobilenet(width: float) -> str:
    """MobileNetV2 at a width as an architecture of the chain space, whose strides follow the resolution."""
    published = PUBLISHED["mobilenet-v2"].arch
    assert published is not None
    parts = published.space.partition("@")[2].split(",")

    def scaled(part: str) -> str:
        channels, _, rest = part.partition("x")
        return f"{make_divisible(width * int(channels))}x{rest}" if rest else str(make_divisible(width * int(channels)))

    head = parts[-1]  # never shrinks
    return f"proxyless@{','.join([*map(scaled, parts[:-1]), head])}:{'-'.join(map(str, published.genes))}"


def train_rival(arch: str, folder: Path, device_name: str, epochs: float, seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    data, device = ImageData.open(folder), resolve_device(device_name)
    module = build(arch, data.task)
    result = train(module, data, Recipe(), epochs=epochs, seed=seed, device=device)
    images, labels = data.test()
    accuracy, correct = evaluate(module, images, labels, mean=data.mean, std=data.std, device=device)
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {"accuracy_val": result.accuracy_val, "accuracy_test": accuracy, "low": low, "high": high}


class Bench:
    """A finished run, and measuring beside its reference network."""

    def __init__(self, path: Path) -> None:
        self.run = RunFolder.existing(path)
        self.config = RunConfig.from_toml(self.run.config)
        self.space, self.data = get_space(self.config.space), ImageData.open(self.run.data)
        if not isinstance(self.space, ChainSpace) or any(
            limit.name == "peak_memory_bytes" for limit in self.config.parsed_limits
        ):
            raise SystemExit("rivals are compared for runs over chains without a limit on peak_memory_bytes")
        self.task = self.data.task
        stored = self.run.table.read_text()
        self.table = LatencyTable.from_json(stored, space=self.space, task=self.task, device=Device.here())
        self.epochs = RunRecord.read(self.run.plan).plan.final_epochs

    def measured(self, model: bytes | Path) -> Timing:
        rng = np.random.default_rng(0)
        (timing,) = measure([model], reference_model(self.task), self.table.reference_ms, rng=rng)
        return timing

    def of_arch(self, name: str, arch: str) -> Rival:
        space = get_space(arch.rpartition(":")[0])
        network = space.layers(space.parse(arch), self.task)
        counts = count(network)
        costs = {key: getattr(counts, key) for key in ("flops", "params", "bytes", "weight_bytes")}
        costs |= {"intensity": counts.intensity, "peak_memory_bytes": counts.peak_memory_bytes}
        return Rival(name, arch, costs, self.measured(build_onnx(network, np.random.default_rng(0), normalise=True)))

    def of_torchvision(self, width: float) -> Rival:
        arch = f"torchvision:{width:.2f}"
        module = build(arch, self.task)
        images = self.data.val_images[:4].astype(np.float32) / np.float32(255)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            export_onnx(with_normalisation(module, self.data.mean, self.data.std), file, images, metadata={})
            timing = self.measured(file)
        return Rival(f"torchvision mobilenet_v2 x{width:.2f}", arch, torch_costs(module, self.task), timing)

    def random(self, n: int, seed: int) -> list[Rival]:
        """Uniform draws that the run itself would have admitted, and that meet the limits when measured."""
        feasible = FeasibleSet(self.space, DeviceCosts(self.space, self.task, self.table), self.config.parsed_limits)
        rows = self.space.sample(50_000, np.random.default_rng([99, seed]))
        found: list[Rival] = []
        for row in rows[feasible.holds(rows)][: 4 * n]:
            rival = self.of_arch(f"random {len(found)}", self.space.format(row))
            if rival.meets(self.config.parsed_limits):
                found.append(rival)
            if len(found) == n:
                break
        return found

    def widest(self, strides: str) -> Rival | None:
        """The widest MobileNetV2 that meets all limits; intensity, which hardly moves with width, may be missed."""
        limits = tuple(limit for limit in self.config.parsed_limits if limit.name != "intensity")

        def at(width: float) -> Rival:
            if strides == "torchvision":
                return self.of_torchvision(width)
            return self.of_arch(f"MobileNetV2 x{width:.2f}, our strides", narrow_mobilenet(width))

        found, fits, too_wide = None, -1, len(WIDTHS)
        while too_wide - fits > 1:  # costs rise with width
            middle = (fits + too_wide) // 2
            rival = at(float(WIDTHS[middle]))
            if rival.meets(limits):
                found, fits = rival, middle
            else:
                too_wide = middle
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--random", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(asked.run)
    widest = {f"MobileNetV2, {strides} strides": bench.widest(strides) for strides in ("torchvision", "our")}
    rivals = [rival for rival in widest.values() if rival is not None]
    rivals += bench.random(asked.random, asked.seed)
    with WorkerPool(asked.workers) as pool:
        futures = [
            pool.submit(train_rival, rival.arch, bench.run.data, bench.config.device, bench.epochs, asked.seed + i)
            for i, rival in enumerate(rivals)
        ]
        results: list[dict[str, Any]] = [future.result() for future in futures]
    rows: list[dict[str, Any]] = []
    for name, model in bench.run.models().items():
        rows.append(
            {"name": f"finalist {name}", "arch": model["arch"], "accuracy_val": model["accuracy_val"]}
            | {"accuracy_test": model["accuracy_test"], "low": model["accuracy_test_interval"][0]}
            | {"high": model["accuracy_test_interval"][1], "latency_ms": model["latency_ms"]}
            | {key: model[key] for key in ("params", "flops", "intensity")}
            | {"meets": model["meets_limits"]}
        )
    for rival, result in zip(rivals, results, strict=True):
        rows.append(
            {"name": rival.name, "arch": rival.arch, **result, "latency_ms": rival.timing.latency_ms}
            | {key: rival.costs[key] for key in ("params", "flops", "intensity")}
            | {"meets": rival.meets(bench.config.parsed_limits)}
        )
    print(f"{bench.config.data}, limits {', '.join(bench.config.limits)}, {bench.epochs:g} epochs, {Device.here()}")
    for row in rows:
        verdict = "meets" if row["meets"] else "MISSES"
        print(
            f"{row['name']:38s} val {row['accuracy_val']:6.1%}  test {row['accuracy_test']:6.1%} "
            f"({row['low']:.1%} to {row['high']:.1%})  {row['latency_ms']:.3f} ms  {row['params']:9,.0f} params  "
            f"{row['flops'] / 1e6:7.2f} M flops  intensity {row['intensity']:.2f}  {verdict}"
        )
    for name, widest_rival in widest.items():
        if widest_rival is None:
            print(f"{name:38s} meets the limits at no width from {WIDTHS[0]:.2f} to {WIDTHS[-1]:.2f}")
            rows.append({"name": f"{name}, any width", "meets": False})
    RESULTS.mkdir(exist_ok=True)
    extra = {"data": Path(bench.config.data).name, "limits": " ".join(bench.config.limits), "epochs": bench.epochs}
    write_csv(
        RESULTS / f"main_job_rivals_{Path(bench.config.data).name}.csv",
        [{**extra, **row, "device": str(Device.here())} for row in rows],
    )


if __name__ == "__main__":
    main()
