"""What does the machine's speed make of ratios to the reference, and how much of it is taken off?

    python benchmarks/latency_drift.py --minutes 13
    python benchmarks/latency_drift.py --from benchmarks/results/latency_drift.csv

Networks of six spaces, each visited beside the reference in a process of its own, again and again in random order; the
machine is left alone, shares its cores with a process that computes, and with one that occupies the memory, by turns
(what other machines do to it comes on top, and is not known). For each space: by how much the means of the half of a
network's visits that found the machine fast and of the half that found it slow differ (root mean square), as they are
and brought to one speed (`latency/drift.py`), and how often the intervals of both hold the difference: each half knows
the other's speed only by its own slope. The same of the first and the second half in time. Then the slopes of log
ratios over logarithms of the reference's time, and what was expected of them beforehand.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from latency_common import COMPUTE, OCCUPY_MEMORY, busy, described, wide_sample
from latency_help import half_interval

from hwnas.study import write_csv
from latency import Device, build_onnx
from latency.drift import NORMAL, AtStoredSpeed, Reading, at_stored_speed, between_measurements, readings_of
from latency.reference import reference_model
from latency.rounds import DEFAULT_SETTING, DisturbedError, new_processes
from latency.runtime import measured_once
from spaces import Task, get_space

RESULTS = Path(__file__).with_name("results") / "latency_drift.csv"
SPACES = (
    ("proxyless", 96),
    ("proxyless", 224),
    ("proxyless@w0.25", 32),
    ("nasnet@2x48", 32),
    ("darts@8x16", 32),
    ("nasbench101", 32),
)
NETWORKS = 5  # of each
BESIDE = {"nothing": None, "computing": COMPUTE, "memory": OCCUPY_MEMORY}

Row = Mapping[str, object]


def visited(minutes: float, seed: int) -> list[Row]:
    """One row a visit."""
    rng = np.random.default_rng(seed)
    networks = []
    for name, px in SPACES:
        space, task = get_space(name), Task(px, 10)
        for row in wide_sample(space, task, NETWORKS, rng):
            model = build_onnx(space.layers(space.arch(row), task), rng, normalise=True)
            networks.append((name, px, space.format(row), model, reference_model(task)))
    ends, number = time.monotonic() + 60 * minutes, 0
    rows: list[Row] = []
    while time.monotonic() < ends:
        beside, work = list(BESIDE.items())[number % len(BESIDE)]
        with busy(1, work) if work else contextlib.nullcontext(), new_processes() as run:
            for i in rng.permutation(len(networks)):
                name, px, text, model, reference = networks[i]
                try:
                    raw = run(measured_once, model, reference, 1, *rng.spawn(1), DEFAULT_SETTING)
                except DisturbedError as error:
                    print(f"{name}, {beside}: {error}")
                    continue
                ((reading,),) = readings_of(raw)
                about = {"space": name, "resolution": px, "network": text, "pass": number, "beside": beside}
                rows.append({**about, **reading._asdict(), "device": described(Device.here())})
        number += 1
    return rows


@dataclass(frozen=True)
class Apart:
    """How far the means of two halves of a network's visits are apart.

    Attributes:
        raw: of the log ratios as they are.
        at_one_speed: brought to the stored speed, each half by what it knows.
        held: whether the intervals of both halves hold that.
    """

    raw: float
    at_one_speed: float
    held: bool

    @classmethod
    def of(cls, parts: Sequence[Sequence[Reading]], stored_ms: float) -> Apart:
        """Of two halves, the visits of each in the order of time."""
        raw = [float(np.mean([each.log_ratio for each in part])) for part in parts]
        first, second = (at_stored_speed(part, stored_ms) for part in parts)
        apart = float(second.log_ratios.mean() - first.log_ratios.mean())
        held = abs(apart) <= np.hypot(whole_interval(first), whole_interval(second))
        return cls(raw[1] - raw[0], apart, bool(held))


def halves(visits: Sequence[Reading], by: Sequence[float]) -> list[list[Reading]]:
    """The visits with the smallest and those with the greatest of these numbers, in the order they were in."""
    order, half = np.argsort(by), len(visits) // 2
    return [[visits[i] for i in sorted(part)] for part in (order[:half], order[-half:])]


def whole_interval(there: AtStoredSpeed) -> float:
    """Half of it, of visits in processes of their own."""
    scatter = half_interval(there.log_ratios)
    return float(np.hypot(scatter, NORMAL * between_measurements(there.drift, there.slope_deviation)))


def said(found: Sequence[Apart]) -> str:
    raw, left = (
        np.sqrt(np.mean(np.square(each)))
        for each in zip(*((each.raw, each.at_one_speed) for each in found), strict=True)
    )
    return f"{raw:.2%} apart, at one speed {left:.2%}, held {sum(each.held for each in found)} of {len(found)}"


def show(rows: Sequence[Row]) -> None:
    by_network: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_network[row["space"], row["resolution"], row["network"]].append(row)
    print(f"{len(rows)} visits of {len(by_network)} networks on {rows[0]['device']}")
    for name, px in SPACES:
        known = [some for key, some in by_network.items() if key[:2] in ((name, px), (name, str(px)))]
        visits = [[Reading(*(float(row[field]) for field in Reading._fields)) for row in some] for some in known]  # type: ignore[arg-type]
        took = np.array([each.reference_ms for some in visits for each in some])
        stored_ms = float(np.median(took))
        by_speed = [Apart.of(halves(some, [each.reference_ms for each in some]), stored_ms) for some in visits]
        in_time = [Apart.of(halves(some, range(len(some))), stored_ms) for some in visits]
        slopes = [
            np.polyfit(np.log([r.reference_ms for r in some]), [r.log_ratio for r in some], 1)[0] for some in visits
        ]
        expected = [np.median([each.expected_slope for each in some]) for some in visits]
        print(
            f"{name:16s} {px:3d} px: reference x{took.max() / took.min():.2f}; fast and slow halves {said(by_speed)}; "
            f"halves in time {said(in_time)}; slopes {min(slopes):+.2f} to {max(slopes):+.2f}, "
            f"expected {min(expected):+.2f} to {max(expected):+.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=13.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="kept", type=Path, help="what was written before; nothing is measured")
    asked = parser.parse_args()
    if asked.kept:
        with asked.kept.open(newline="") as file:
            show(list(csv.DictReader(file)))
        return
    rows = visited(asked.minutes, asked.seed)
    write_csv(RESULTS, [dict(row) for row in rows])
    show(rows)


if __name__ == "__main__":
    main()
