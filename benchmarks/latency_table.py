"""How well does a block table tell the latency of networks that it has never seen?

    uv run python benchmarks/latency_table.py --resolution 96
    uv run python benchmarks/latency_table.py --resolution 224 --busy 1
    uv run python benchmarks/latency_table.py --resolution 96 --later

A table is measured as a search does it; other networks, from the whole range of multiply-adds, each in 12 processes of
its own, in the rounds and visits of latency/runtime.py. The two take turns: with each of the four visits of the table's
networks all others are measured in three processes each, so that a machine that drifts is the same for both, and what
one minute makes of a network is not taken for its latency: the errors are those of the table. With `--later` the others
are measured when the table is done, as in a search: what another time makes of networks is in the errors then, as it is
in the interval that a table states. Printed: the errors, how often that interval holds what was measured, the same for
multiply-adds scaled by the very networks that calibrate the table, how long the table took, how far what was measured
is known (95 %, as the four turns scatter), and how fast the table estimates.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from latency_common import busy, described, reference_ms, wide_sample, write_some
from numpy.typing import NDArray
from scipy.stats import spearmanr

from latency import Device, LatencyModel, build_onnx, calibration_of, fit_latency_model, plan_latency_model
from latency.drift import Visit, at_stored_speed, readings_of
from latency.measuring import PLAN_VISITS, PlanTimes, visit_in_processes
from latency.reference import reference_model
from latency.rounds import DEFAULT_SETTING, Rounds, new_processes
from latency.runtime import VISITS, half_interval, measured_once
from spaces import Population, SearchSpace, Task, get_space

RESULTS = Path(__file__).with_name("results")
MILLION = 1_000_000
PROCESSES_A_TURN = 3
TRUTH = "all networks in four turns"


def errors(name: str, estimated: NDArray[np.float64], measured: NDArray[np.float64]) -> str:
    error = np.abs(estimated / measured - 1)
    return (
        f"{name}: mean error {error.mean():.2%}, within 5 % {np.mean(error <= 0.05):.1%}, within 10 % "
        f"{np.mean(error <= 0.1):.1%}, worst {error.max():.1%}, Spearman {spearmanr(estimated, measured).statistic:.3f}"
    )


@dataclass(frozen=True)
class Truth:
    """What a network takes, by all turns.

    Attributes:
        half: of the 95 % interval of the mean over turns, of the logarithm, as they scatter: not how far the
            slope may be wrong that brought them to one speed.
        reference_now: what the reference took, times its stored value, mean.
    """

    latency_ms: float
    half: float
    reference_now: float

    @classmethod
    def of(cls, found: Sequence[Rounds], known_ms: float) -> Truth:
        readings = [each for raw in found for each in readings_of(raw)[0]]
        there = at_stored_speed(readings, known_ms, processes=len(found))
        turns = there.log_ratios.reshape(PLAN_VISITS, -1).mean(axis=1)
        half = half_interval(turns, PLAN_VISITS)
        return cls(float(known_ms * np.exp(turns.mean())), half, float(np.exp(there.drift)))


def measured_by_turns(
    space: SearchSpace, task: Task, calibration: Population, rows: Population, seed: int, *, later: bool
) -> tuple[LatencyModel, list[Truth], float]:
    """The table, the truth of all rows, and the seconds that the table took.

    Args:
        later: measure the rows after all visits of the table's networks, not by turns with them.
    """
    plan, reference, known_ms = plan_latency_model(space, task, calibration), reference_model(task), reference_ms(task)
    rng = np.random.default_rng([seed, 1, 1])
    visits: list[Visit] = []
    found: list[list[Rounds]] = [[] for _ in rows]
    seconds = 0.0

    def visit_table() -> None:
        nonlocal seconds
        started = time.monotonic()
        visits.append(visit_in_processes(plan, reference, rng))
        seconds += time.monotonic() - started

    def visit_rows() -> None:
        with new_processes() as run:
            for i in np.concatenate([rng.permutation(len(rows)) for _ in range(PROCESSES_A_TURN)]):
                found[i].append(run(measured_once, models[i], reference, VISITS, *rng.spawn(1), DEFAULT_SETTING))

    # By turns each is first as often as the other.
    by_turns = [visit_rows, visit_table, visit_table, visit_rows] * (PLAN_VISITS // 2)
    one_after_another = [visit_table] * PLAN_VISITS + [visit_rows] * PLAN_VISITS
    with tempfile.TemporaryDirectory() as folder:
        models = [Path(folder) / f"{i}.onnx" for i in range(len(rows))]
        for model, row in zip(models, rows, strict=True):
            model.write_bytes(build_onnx(space.layers(space.arch(row), task), rng, normalise=True))
        for step in one_after_another if later else by_turns:
            step()
    table = fit_latency_model(space, plan, Device.here(), known_ms, PlanTimes.of(visits, known_ms))
    return table, [Truth.of(each, known_ms) for each in found], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="proxyless")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that never rest")
    parser.add_argument("--later", action="store_true", help="measure the others when the table is done, not by turns")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    space, task = get_space(asked.space), Task(asked.resolution, asked.classes, asked.channels)
    rng = np.random.default_rng([3, asked.seed])
    calibration = calibration_of(space, task, np.random.default_rng([asked.seed, 1, 1]))  # as measure_model draws it
    rows = wide_sample(space, task, asked.networks + len(calibration), rng)
    keys, known = space.canonical(rows), space.canonical(calibration)
    rows = rows[~(keys[:, None] == known).all(axis=2).any(axis=1)][: asked.networks]
    with busy(asked.busy):
        table, truths, seconds = measured_by_turns(space, task, calibration, rows, asked.seed, later=asked.later)
    measured = np.array([truth.latency_ms for truth in truths])
    estimated = table.estimate_ms(rows)
    low, high = table.interval_ms(rows)
    flops, of_calibration = (space.counts(each, task)[0].astype(float) for each in (rows, calibration))
    by_flops = flops * np.exp(np.mean(np.log([ms for ms, _ in table.calibration] / of_calibration)))
    when = "when the table is done" if asked.later else "by turns with the table"
    print(f"{asked.space} at {asked.resolution} px on {Device.here()}, {asked.busy} busy processes beside it, {when}")
    print(f"{len(rows)} networks, range x{measured.max() / measured.min():.2f}; {len(calibration)} others calibrate")
    print(errors("block table", estimated, measured))
    print(errors("multiply-adds, scaled", by_flops, measured))
    held = np.mean((low <= measured) & (measured <= high))
    print(f"the stated +-{table.stated_error:.1%} (95 %) holds {held:.1%}; built in {seconds:.0f} s")
    half, now = np.array([(truth.half, truth.reference_now) for truth in truths]).T
    print(f"what was measured is known within {np.median(half):.1%} (95 %, median of the networks)")
    print(f"the reference took {now.min():.2f} to {now.max():.2f} times its stored value, mean of a network's turns")
    many = space.sample(MILLION, rng)
    started = time.monotonic()
    table.estimate_ms(many)
    print(f"{MILLION:,} networks estimated in {time.monotonic() - started:.2f} s")
    write_some(
        RESULTS / f"latency_table_{asked.resolution}px_busy{asked.busy}.csv",
        [
            {
                "space": asked.space,
                "resolution": asked.resolution,
                "network": space.format(row),
                "busy": asked.busy,
                "later": asked.later,
                "truth": TRUTH,
                "latency_ms": truth.latency_ms,
                "low": truth.latency_ms * np.exp(-truth.half),
                "high": truth.latency_ms * np.exp(truth.half),
                "latency_ms_estimated": estimate,
                "stated_error": table.stated_error,
                "flops_scaled_ms": scaled,
                "reference_now": truth.reference_now,
                "device": described(Device.here()),
            }
            for row, truth, estimate, scaled in zip(rows, truths, estimated, by_flops, strict=True)
        ],
        by=("space", "resolution", "busy", "later", "truth", "device"),
    )


if __name__ == "__main__":
    main()
