"""How fast networks train here: images a second of all trainings together, with one or several of them at once.

    uv run python benchmarks/training_speed.py --data cifar10 --data-root data --workers 1 2 4

Each network is trained as a search does it, for as many images as `--images` says and after a short training that
warms up. Compare only rows of one device: on a GPU short kernels of small networks wait for the processor that
launches them, so that several trainings at once, in processes of their own, are faster together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from latency_common import write_some

from hwnas.execution import WorkerPool
from hwnas.training import ImageData, Recipe, load_images, resolve_device, train
from latency import Device
from spaces import get_space

RESULTS = Path(__file__).with_name("results") / "training_speed.csv"
NETWORKS = ("proxyless@16,8x1,16x3s2,32x4s2,64x4s2,128x1,512", "nasnet@1x96", "darts@4x4")


def one_training(folder: Path, space: str, images: int, batch: int, device: str) -> float:
    """Images a second of training, without the validation after it."""
    data = ImageData.open(folder)
    data = replace(data, val_images=data.val_images[:128], val_labels=data.val_labels[:128])
    chosen = get_space(space)
    row = chosen.sample(1, np.random.default_rng(0))[0]
    recipe, epochs = Recipe(batch_size=batch), images / len(data.train_images)
    module = chosen.build(chosen.arch(row), data.task)
    for share in (0.1, 1.0):
        done = train(module, data, recipe, epochs=share * epochs, seed=0, device=device)
    return done.images_per_second


def measured(folder: Path, space: str, images: int, batch: int, device: str, workers: int) -> tuple[float, float]:
    """(images a second of all together, the slowest process with its start and warming up, in seconds)."""
    pool = WorkerPool(workers)
    try:
        began = time.perf_counter()
        tasks = [pool.submit(one_training, folder, space, images, batch, device) for _ in range(workers)]
        rates = [task.result() for task in tasks]
        return sum(rates), time.perf_counter() - began
    finally:
        pool.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[Recipe().batch_size])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--space", nargs="+", default=NETWORKS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = resolve_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else Device.here().cpu
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        load_images(args.data, root=args.data_root, seed=0).save(folder)
        for space in args.space:
            for batch in args.batch:
                for workers in args.workers:
                    rate, seconds = measured(folder, space, args.images, batch, str(device), workers)
                    rows.append(
                        {
                            "device": name,
                            "torch": torch.__version__,
                            "data": args.data,
                            "space": space,
                            "batch": batch,
                            "workers": workers,
                            "images_per_s": round(rate),
                            "step_ms": round(1000 * workers * batch / rate, 2),
                            "seconds": round(seconds, 1),
                        }
                    )
                    print(rows[-1], flush=True)
    write_some(args.out, rows, by=("device", "torch", "data", "space", "batch", "workers"))


if __name__ == "__main__":
    main()
