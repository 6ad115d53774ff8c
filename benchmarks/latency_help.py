"""How well does the learned latency model do on other people's measurements, from few of them?

    python benchmarks/latency_help.py help_fbnet_latency.parquet

Networks of the FBNet space that were measured for HELP on eight devices: from 10, 50, 100 and 400 of them the prices
of layers are learned, and judged on all the others. Which ones are measured is drawn at random, or chosen by
`most_telling` among 1,000 random ones. Beside it, on the same random rows: a line on flops, and a table of one price
for each layer and operation (ridge). `--all` learns from all rows but a tenth: how well rows repeat is the limit of
what any model reaches. Prints means over devices, with the 95 % interval of the mean over draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hwnas.study import write_csv
from latency.prices import fit_prices, most_telling
from spaces.layers import Network, NetworkBuilder
from spaces.tally import TallyOfSums

RESULTS = Path(__file__).with_name("results")
DEVICES = ("gold_6226", "gold_6240", "silver_4114", "silver_4210r", "1080ti_1", "1080ti_64", "2080ti_1", "titan_rtx_32")
SIZES = (10, 50, 100, 400)
CANDIDATES = 1000  # random rows among which the measured ones are chosen
RIDGE = 1e-2
# FBNet (1812.03443, tables 1 and 2), in the form for 32 px that HW-NAS-Bench (2103.10584) gave it: width and stride of
# each layer; expansion, kernel and groups of each operation, the last of which is to skip the layer.
STEM, PIXELS = 16, 32
LAYERS = (
    (16, 1),
    *((24, 1),) * 4,
    *((32, 2), (32, 1), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1), (64, 1)),
    *((112, 1),) * 4,
    *((184, 2), (184, 1), (184, 1), (184, 1)),
    (352, 1),
)
BLOCKS = ((1, 3, 1), (1, 3, 2), (3, 3, 1), (6, 3, 1), (1, 5, 1), (1, 5, 2), (3, 5, 1), (6, 5, 1))

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def pieces() -> list[list[Network | None]]:
    """[layer][operation] of the space, as layer records; None where nothing is done."""
    rows = []
    shape: tuple[int, ...] = (STEM, PIXELS, PIXELS)
    for width, stride in LAYERS:
        keeps = stride == 1 and width == shape[0]
        made: list[Network | None] = []
        for expansion, kernel, groups in BLOCKS:
            net = NetworkBuilder(shape)
            x = net.conv(0, expansion * shape[0], groups=groups, activation="relu")
            x = net.depthwise(x, kernel=kernel, stride=stride, activation="relu")
            x = net.conv(x, width, groups=groups)
            if keeps:
                net.add((x, 0))
            made.append(net.network)
        skip = NetworkBuilder(shape)
        after = skip.shape(skip.conv(0, width, stride=stride, activation="relu"))
        rows.append([*made, None if keeps else skip.network])
        shape = after
    return rows


class Rows:
    """The table's networks, counted, and their latencies."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet  # noqa: PLC0415  a development tool

        table = parquet.read_table(path)
        rows = np.stack([table[f"layer{i:02d}"].to_numpy() for i in range(len(LAYERS))], axis=1).astype(np.int64)
        tally = TallyOfSums((), pieces())
        self.counts = tally(rows)
        self.forms = tally.forms
        self.flops = self.counts @ [form.flops for form in self.forms]
        self.flat = (rows[:, :, None] == np.arange(len(BLOCKS) + 1)).reshape(len(rows), -1).astype(float)
        self.ms = {name[7:]: table[name].to_numpy().astype(float) for name in table.column_names if "lat_ms" in name}


Guess = Callable[[Rows, Integers, Floats], tuple[Floats, Floats, Floats]]


def learned(rows: Rows, measured: Integers, ms: Floats) -> tuple[Floats, Floats, Floats]:
    prices = fit_prices(rows.counts[measured], rows.forms, ms[measured])
    return prices.estimate(rows.counts, rows.forms), *prices.interval(rows.counts, rows.forms)


def line_on_flops(rows: Rows, measured: Integers, ms: Floats) -> tuple[Floats, Floats, Floats]:
    slope, constant = np.polyfit(rows.flops[measured], ms[measured], 1)
    guess = constant + slope * rows.flops
    return guess, guess, guess


def flat_table(rows: Rows, measured: Integers, ms: Floats) -> tuple[Floats, Floats, Floats]:
    """One price for each layer and operation, kept near their mean."""
    mean = ms[measured].mean()
    x = rows.flat[measured] - rows.flat[measured].mean(axis=0)
    dual = np.linalg.solve(x @ x.T + RIDGE * len(x) * np.eye(len(x)), ms[measured] - mean)
    guess = mean + (rows.flat - rows.flat[measured].mean(axis=0)) @ (x.T @ dual)
    return guess, guess, guess


def judged(guess: Guess, rows: Rows, measured: Integers, ms: Floats) -> dict[str, float]:
    """On all rows that were not measured; what the interval holds only where the model has one."""
    others = np.setdiff1d(np.arange(len(ms)), measured)
    estimate, low, high = (values[others] for values in guess(rows, measured, ms))
    error = np.abs(estimate / ms[others] - 1)
    return {
        "spearman": float(stats.spearmanr(estimate, ms[others]).statistic),
        "within_10": float((error < 0.1).mean()),
        "within_5": float((error < 0.05).mean()),
        "held": float(((low <= ms[others]) & (ms[others] <= high)).mean()) if (low < high).any() else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="help_fbnet_latency.parquet")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--devices", nargs="+", default=DEVICES)
    parser.add_argument("--all", action="store_true")
    asked = parser.parse_args()
    rows = Rows(asked.table)
    if asked.all:
        return ceiling(rows, asked.devices, asked.draws)
    found: list[dict[str, object]] = []
    for n in asked.sizes:
        for draw in range(asked.draws):
            order = np.random.default_rng([n, draw]).permutation(len(rows.counts))
            candidates = order[:CANDIDATES]
            chosen = candidates[most_telling(rows.counts[candidates], rows.forms, n)]
            ways: Mapping[str, tuple[Guess, Integers]] = {
                "learned": (learned, order[:n]),
                "learned, chosen": (learned, chosen),
                "flat table": (flat_table, order[:n]),
                "line on flops": (line_on_flops, order[:n]),
            }
            found += [
                {"model": name, "networks": n, "draw": draw, "device": device}
                | judged(guess, rows, measured, rows.ms[device])
                for name, (guess, measured) in ways.items()
                for device in asked.devices
            ]
        show(found, n)
    RESULTS.mkdir(exist_ok=True)
    write_csv(RESULTS / "latency_help.csv", averaged(found, ("model", "networks", "device")))


def averaged(found: Sequence[Mapping[str, object]], by: Sequence[str]) -> list[dict[str, object]]:
    """Means over draws, and half the 95 % interval of each mean."""
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for row in found:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    means = []
    for key, rows in groups.items():
        mean = {**dict(zip(by, key, strict=True)), "draws": len(rows)}
        for name in rows[0]:
            if name not in (*by, "draw"):
                values = np.array([row[name] for row in rows], dtype=float)
                mean |= {name: round(float(values.mean()), 5), f"{name}_half": round(half_interval(values), 5)}
        means.append(mean)
    return means


def half_interval(values: Floats) -> float:
    """Of the mean, at 95 %."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def ceiling(rows: Rows, devices: Sequence[str], draws: int) -> None:
    """What least squares over forms of layers, with no prior, reach from 4,500 rows; how errors of next rows agree."""
    design = np.concatenate([np.ones((len(rows.counts), 1)), rows.counts], axis=1)

    def least_squares(_: Rows, measured: Integers, ms: Floats) -> tuple[Floats, Floats, Floats]:
        guess = design @ np.linalg.lstsq(design[measured], ms[measured], rcond=1e-9)[0]
        return guess, guess, guess

    orders = [np.random.default_rng([0, draw]).permutation(len(design))[500:] for draw in range(draws)]
    found = [
        {"model": "all rows", "networks": len(order), "draw": draw}
        | judged(least_squares, rows, order, rows.ms[device])
        for device in devices
        for draw, order in enumerate(orders)
    ]
    show(found, len(orders[0]))
    for device in devices:
        error = rows.ms[device] / least_squares(rows, np.arange(len(design)), rows.ms[device])[0] - 1
        print(f"{device}: errors of next rows correlate with {np.corrcoef(error[:-1], error[1:])[0, 1]:.2f}")


def show(found: Sequence[Mapping[str, Any]], n: int) -> None:
    for model in dict.fromkeys(row["model"] for row in found):
        mine = [row for row in found if row["model"] == model and row["networks"] == n]
        draws = sorted({row["draw"] for row in mine})
        text = []
        measures = ("spearman", "within_10", "within_5", "held")
        for what in (name for name in measures if not np.isnan([row[name] for row in mine]).any()):
            means = [np.mean([row[what] for row in mine if row["draw"] == draw]) for draw in draws]
            text.append(f"{what} {np.mean(means):.4f} +-{half_interval(np.array(means)):.4f}")
        print(f"{n:4d} {model:16s} {', '.join(text)}", flush=True)


if __name__ == "__main__":
    main()
