"""Does it matter what a process has run before, and how it was started?

    python benchmarks/latency_processes.py --busy 1                                  # 10 minutes
    python benchmarks/latency_processes.py --space darts@8x16 --resolution 32 --classes 10

12 networks, each beside the reference network, are visited again and again, as a latency table does it, in four ways by
turns: in a new process each; in a fork each of a process that has loaded everything and run nothing (`new_processes` on
Linux, another such process each turn); in such a fork that builds the network, as for a table that is measured here;
and one after another in one process. Printed: how far the last three are from the first, on average over the networks,
with the 95 % interval over turns; the deviation of what one visit says of a network; and seconds.
`results/latency_processes.csv` holds every visit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from latency_common import busy, described, wide_sample, write_some
from latency_help import half_interval

from latency import Device, build_onnx
from latency.drift import WARM_RUNS, readings_of
from latency.reference import reference_model
from latency.rounds import in_new_process, new_processes, rounds_of, run_rounds
from spaces import Arch, SearchSpace, Task, get_space

RESULTS = Path(__file__).with_name("results") / "latency_processes.csv"
NETWORKS = 12
WAYS = ("new", "forked", "built", "shared")
Visits = list[tuple[float, float]]  # of each network: logarithm of its time over the reference's, and that in ms


def visit(models: Sequence[bytes], reference: bytes, rng: np.random.Generator) -> Visits:
    """Of each network, by one process."""
    found: Visits = []
    for model in models:
        raw = run_rounds([reference, model], visits=1, rounds=rounds_of([model]), warm_runs=WARM_RUNS, rng=rng)
        ((reading,),) = readings_of(raw)
        found.append((reading.log_ratio, reading.reference_ms))
    return found


def visit_built(space: SearchSpace, task: Task, arch: Arch, reference: bytes, rng: np.random.Generator) -> Visits:
    """Of one network, by the process that builds it."""
    return visit([build_onnx(space.layers(arch, task), rng, normalise=True)], reference, rng)


def visit_by(
    way: str, space: SearchSpace, task: Task, archs: Sequence[Arch], models: Sequence[bytes], rng: np.random.Generator
) -> Visits:
    """Of each network, of which the model is there too."""
    reference = reference_model(task)
    if way == "shared":
        return in_new_process(visit, models, reference, rng)

    def alone(run: Callable[..., Visits]) -> Visits:
        return [found for model in models for found in run(visit, [model], reference, *rng.spawn(1))]

    if way == "new":
        return alone(in_new_process)
    with new_processes() as run:
        if way == "forked":
            return alone(run)
        return [found for arch in archs for found in run(visit_built, space, task, arch, reference, *rng.spawn(1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="proxyless")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that never rest")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if sys.platform != "linux":
        parser.error("processes are forked on Linux alone")
    space, task = get_space(asked.space), Task(asked.resolution, asked.classes, 3)
    rng = np.random.default_rng(asked.seed)
    archs = [space.arch(row) for row in wide_sample(space, task, NETWORKS, rng)]
    models = [build_onnx(space.layers(arch, task), rng, normalise=True) for arch in archs]
    ends = time.monotonic() + 60 * asked.minutes
    ratios, seconds, rows = np.empty((0, len(WAYS), NETWORKS)), dict.fromkeys(WAYS, 0.0), list[dict[str, object]]()
    with busy(asked.busy):
        while time.monotonic() < ends:
            order, found = rng.permutation(NETWORKS).tolist(), np.empty((len(WAYS), NETWORKS))
            for w in rng.permutation(len(WAYS)).tolist():
                began = time.monotonic()
                ordered = [archs[i] for i in order], [models[i] for i in order]
                visits = visit_by(WAYS[w], space, task, *ordered, *rng.spawn(1))
                seconds[WAYS[w]] += time.monotonic() - began
                for i, (log_ratio, reference_ms) in zip(order, visits, strict=True):
                    found[w, i] = log_ratio
                    about = {"space": asked.space, "resolution": asked.resolution, "busy": asked.busy}
                    about |= {"turn": len(ratios), "way": WAYS[w]}
                    measured = {"log_ratio": log_ratio, "reference_ms": reference_ms}
                    rows.append({**about, "network": str(archs[i]), **measured, "device": described(Device.here())})
            ratios = np.concatenate([ratios, found[None]])
    write_some(RESULTS, rows, by=("space", "resolution", "busy", "device"))
    for w, way in enumerate(WAYS):
        apart = (ratios[:, w] - ratios[:, 0]).mean(axis=1)
        said = f"{apart.mean():+.2%} +- {half_interval(apart):.2%}, " if w else ""
        deviation = np.sqrt(ratios[:, w].var(axis=0, ddof=1).mean())
        each_s = seconds[way] / ratios[:, w].size
        print(f"{way}: {said}deviation of a visit {deviation:.1%}, {each_s:.2f} s each, {len(ratios)} turns")


if __name__ == "__main__":
    main()
