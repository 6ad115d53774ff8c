"""The report of a run: one HTML file that needs nothing else, written from what lies in the run folder.

The pictures keep apart what was estimated and what was measured: different markers, and a legend that says so.
"""

from __future__ import annotations

import html
import io
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hwnas.objectives import Limit
from hwnas.strategies.neural_predictor import LEAST_TO_FIT
from hwnas.study import Study
from hwnas.trial import Trial
from latency.files import write_atomically
from latency.model import stated_error
from spaces import Network, Task
from spaces.chain import ChainSpace

from .config import RunConfig
from .deploy import limits_met
from .drawing import blocks_of, draw_blocks
from .judgement import NAMES
from .latencies import is_measured, known_interval, known_ms, read_any_table
from .run_folder import RunFolder
from .run_record import RunRecord
from .strategies import NEURAL_PREDICTOR, drawn_first
from .wiring import draw_graph, parts_of

TEMPLATE = Path(__file__).with_name("report.html.j2")
SHOWN_CLASSES = 24
FAR = 1.5  # a limit farther than this factor from all points would squeeze them: it is told, not drawn

# Okabe and Ito's colours, which stay apart for colour-blind readers.
RANDOM, PICKED, FINAL, TESTED, LIMIT = "#8a939b", "#0072b2", "#d55e00", "#1b1f24", "#a3195b"
INK, RULE = "#1b1f24", "#dfe4e8"
STYLE: Any = {  # Any: matplotlib types the keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "hwnas",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page shows its own in the place of it
    "font.size": 9.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": "#8a939b",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": "#667079",
    "ytick.color": "#667079",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.labelspacing": 0.45,
}


def write_report(run: RunFolder, outcome: Mapping[str, Any]) -> None:
    """Write `report.html` of a run that ended.

    Args:
        outcome: what the run found, as `--json` prints it.
    Raises:
        InputError: if a file of the run is missing or is not what this project wrote.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=_percent, whole_percent=whole_percent, whole=lambda value: f"{value:,.0f}", number=lambda v: f"{v:.3g}"
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_atomically(run.report, template.render(_context(run, outcome)).encode())


def _context(run: RunFolder, outcome: Mapping[str, Any]) -> dict[str, Any]:
    config, stored, table = RunConfig.from_toml(run.config), RunRecord.read(run.plan), read_any_table(run.table)
    task = Task(**table["task"])
    space = run.open_space(config, task)
    plan, models = stored.plan, run.models()
    n_random = drawn_first(config.strategy, stored)
    least = LEAST_TO_FIT if config.strategy == NEURAL_PREDICTOR else 1
    trials = Trials.of(Study(run.study, space).trials(), n_random=n_random, least=least)
    chosen = models[outcome["chosen"]["name"]]
    finals = sorted(models.values(), key=lambda model: (known_ms(model), model["name"]))
    latency_limits = [limit for limit in config.parsed_limits if limit.name == "latency_ms"]
    picture = FrontPicture(trials, finals, chosen["name"], latency_limits, plan.epochs)
    onnx = (run.model(chosen["name"]) / "model.onnx").relative_to(run.path).as_posix()
    blocks = blocks_of(space, space.parse(chosen["arch"]), task)
    decimals = _decimals(
        [value for model in finals for value in (*known_interval(model), model["latency_ms_estimated"])]
    )
    return {
        "outcome": outcome,
        "config": config,
        "settings": config.model_dump(mode="json"),
        "task": task,
        "predictor": stored.predictor,
        "remarks": stored.remarks,
        "predictor_names": NAMES,
        "plan": replace(plan, n_random=n_random, n_chosen=plan.n_trials - n_random),
        "trials": trials,
        "models": finals,
        "front": {model["name"]: model["on_front_probability"] for model in outcome["frontier"]},
        "ms": lambda value: f"{value:.{decimals}f}",
        "known_ms": known_ms,
        "known_interval": known_interval,
        "how": _how(chosen),
        "is_unsteady": _is_unsteady,
        "threads": f"{table['device']['threads']} thread{'s' if table['device']['threads'] > 1 else ''}",
        "chosen": chosen,
        "limits": [_verdict(limit, chosen) for limit in config.parsed_limits],
        "untrained": {
            name: stored.failed_finalists.get(name, "") for name in sorted(stored.finalists or {}) if name not in models
        },
        "latency_of": _by_text({model["name"]: model.get("latency_of", "") for model in finals}),
        "onnx": onnx,
        "onnx_link": quote(onnx),
        "front_wide": picture.svg("wide"),
        "front_narrow": picture.svg("narrow"),
        "limits_outside": picture.limits_outside,
        "estimates": _estimates_svg(finals, chosen["name"], table),
        "network": Markup(draw_blocks(blocks)),
        "wirings": [] if isinstance(space, ChainSpace) else _wirings(space.layers(space.parse(chosen["arch"]), task)),
        "left_out": sum(not block.layers for block in blocks),
        "table": {**table, "stated_error": stated_error(table)},
        "class_names": chosen.get("class_names", [])[:SHOWN_CLASSES],
        "more_classes": max(0, task.classes - SHOWN_CLASSES) if chosen.get("class_names") else 0,
        "run_text": shlex.quote(str(run.path)),
        "again": rerun_command(config),
    }


def _wirings(network: Network) -> list[dict[str, Any]]:
    """Pictures of the parts that are more than a row of operations, and which blocks are wired like each."""
    return [
        {
            "svg": Markup(draw_graph(part.network, f"How {part.names[0] or 'the network'} is wired")),
            "name": part.names[0] or "The whole network",
            "others": part.names[1:],
        }
        for part in parts_of(network)
    ]


@dataclass(frozen=True)
class Trials:
    """The trials of a run by where they came from and how they ended."""

    random: tuple[Trial, ...]
    picked: tuple[Trial, ...]
    failed: tuple[Trial, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], *, n_random: int, least: int) -> Trials:
        """The first `n_random` were drawn; so were all others, if fewer than `least` of those succeeded."""
        complete = tuple(trial for trial in trials if trial.state == "complete")
        failed = tuple(trial for trial in trials if trial.state != "complete")
        first = tuple(trial for trial in complete if trial.number < n_random)
        if len(first) < least:
            return cls(complete, (), failed)
        return cls(first, tuple(trial for trial in complete if trial.number >= n_random), failed)

    @property
    def complete(self) -> tuple[Trial, ...]:
        return (*self.random, *self.picked)

    @property
    def warm(self) -> int:
        """How many began with the weights of an earlier one."""
        return sum(bool(trial.values.get("is_warm")) for trial in self.complete)


def _verdict(limit: Limit, model: Mapping[str, Any]) -> dict[str, Any]:
    """A limit, what the model has, and whether that meets it: of an interval the end that is worse must."""
    if limit.name != "latency_ms":
        value = float(model[limit.name])
        return {"limit": limit, "value": f"{value:,.0f}" if value.is_integer() else f"{value:.3g}", "by": "counted"} | {
            "met": bool(limit.holds(value))
        }
    low, high = known_interval(model)
    worse, name = (high, "upper") if limit.op == "<=" else (low, "lower")
    (met,) = limits_met([limit], model).values()
    return {
        "limit": limit,
        "value": "unsteady" if _is_unsteady(model) else f"{known_ms(model):.3g} ms",
        "by": f"{_how(model)}; {name} end, {worse:.3g} ms" + (", decides" if met is not None else ""),
        "met": met,
    }


def _is_unsteady(model: Mapping[str, Any]) -> bool:
    """Whether the machine was too disturbed for its latency to be a number."""
    return model.get("latency_steady") is False


def rerun_command(config: RunConfig) -> str:
    """The command that asks for the same run again, every setting that is not the default written out."""
    parts = [["hwnas", config.job, "--data", config.data], ["--space", config.space]]
    parts += [["--limit", limit] for limit in config.limits]
    parts += [["--soft-limit", limit] for limit in config.soft_limits]
    if config.budget_s is not None:
        parts.append(["--budget", f"{config.budget_s!r}".removesuffix(".0") + "s"])
    parts.append(["--seed", str(config.seed)])
    if config.device_table is not None:
        parts.append(["--device-table", config.device_table])
    if config.data_root != "data":
        parts.append(["--data-root", config.data_root])
    if config.download:
        parts.append(["--download"])
    if config.warm_start:
        parts.append(["--warm-start"])
    for name in (
        "strategy",
        "resolution",
        "trials",
        "epochs",
        "final_epochs",
        "finalists",
        "validation_share",
        "device",
        "workers",
    ):
        value = getattr(config, name)
        if value != RunConfig.model_fields[name].default:
            parts.append(["--" + name.replace("_", "-"), str(value)])
    return " \\\n    ".join(map(shlex.join, parts))


@dataclass(frozen=True)
class FrontPicture:
    """Accuracy against latency: every trial by its estimate, every final model by its measurement."""

    trials: Trials
    finals: Sequence[Mapping[str, Any]]
    chosen: str
    limits: Sequence[Limit]
    epochs: float  # of a trial

    def svg(self, shape: str) -> Markup:
        """`wide` for a page, `narrow` for a telephone."""
        wide = shape == "wide"
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(8.0, 5.2) if wide else (4.1, 5.6), layout="constrained")
            self.draw(figure.add_subplot(), separator=": " if wide else ":\n")
            figure.legend(loc="outside lower left")
            titles = {f"final-{i}": _final_title(model) for i, model in enumerate(self.finals)}
            label = "Accuracy against latency of all trials and final models"
            return _svg(figure, f"front-{shape}", label, titles)

    def draw(self, ax: Axes, *, separator: str = ": ") -> Axes:
        """Draw on an axis; `separator` stands between a legend's subject and what is shown of it."""
        after = f"validation accuracy after {_epochs(self.epochs)}, estimated latency"
        for trials, gid, name, marker, colour in (
            (self.trials.random, "trials-random", "random trials", "o", RANDOM),
            (self.trials.picked, "trials-picked", "trials that the search picked", "^", PICKED),
        ):
            if trials:
                x = [trial.values["latency_ms_estimated"] for trial in trials]
                y = [trial.values["accuracy_val"] for trial in trials]
                label = f"{len(trials)} {name}{separator}{after}"
                ax.scatter(x, y, s=22, marker=marker, c=colour, alpha=0.75, linewidths=0, label=label, gid=gid)
        self._draw_finals(ax, separator)
        for i, limit in enumerate(self.limits_inside):
            sign = "≤" if limit.op == "<=" else "≥"
            label = f"limit{separator}latency {sign} {limit.value:g} ms"
            ax.axvline(limit.value, color=LIMIT, linewidth=1.2, dashes=(5, 3), label=label, gid=f"limit-{i}", zorder=1)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        ax.set_xlabel(f"latency in ms (trials: estimated; finals: {_how(self.finals[0])})")
        ax.set_ylabel("accuracy")
        ax.margins(0.06)
        return ax

    def _draw_finals(self, ax: Axes, separator: str) -> None:
        how = _how(self.finals[0])
        label_val = f"final models{separator}validation accuracy, {how} latency"
        label_test = f"final models{separator}test accuracy, {how} latency, 95 % intervals"
        for i, model in enumerate(self.finals):
            x, val, test = known_ms(model), model["accuracy_val"], model["accuracy_test"]
            across, up = _reach(x, known_interval(model)), _reach(test, model["accuracy_test_interval"])
            look: dict[str, Any] = {"marker": "D", "ms": 6, "color": FINAL}
            _point(ax, x, val, f"final-{i}-val", label_val, xerr=across, **look)
            look = {"marker": "s", "ms": 5.5, "mfc": "white", "color": TESTED}
            _point(ax, x, test, f"final-{i}-test", label_test, xerr=across, yerr=up, **look)
            label_val = label_test = "_nolegend_"
        for model in self.finals:
            if model["name"] == self.chosen:
                _ring(ax, known_ms(model), model["accuracy_val"], model["accuracy_test"])

    @property
    def limits_inside(self) -> list[Limit]:
        at = [trial.values["latency_ms_estimated"] for trial in self.trials.complete]
        at += [end for model in self.finals for end in known_interval(model)]
        return [limit for limit in self.limits if min(at) / FAR <= limit.value <= max(at) * FAR]

    @property
    def limits_outside(self) -> list[Limit]:
        return [limit for limit in self.limits if limit not in self.limits_inside]


def _estimates_svg(finals: Sequence[Mapping[str, Any]], chosen: str, table: Mapping[str, Any]) -> Markup:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.5), layout="constrained")
        draw_estimates(figure.add_subplot(), finals, chosen, table)
        figure.legend(loc="outside lower left")
        return _svg(figure, "estimates", "Measured against estimated latency", {})


def draw_estimates(ax: Axes, finals: Sequence[Mapping[str, Any]], chosen: str, table: Mapping[str, Any]) -> Axes:
    """Measured against estimated latency, with the error that the table states."""
    error, calibration = stated_error(table), table["calibration"]
    finals = [model for model in finals if is_measured(model)]
    estimated = [model["latency_ms_estimated"] for model in finals] + [pair[1] for pair in calibration]
    x = np.array([0.93 * min(estimated), 1.05 * max(estimated)])
    band = f"stated error of an estimate: ±{_percent(error)} (95 %)"
    ax.fill_between(
        x, x * np.exp(-error), x * np.exp(error), color="#56b4e9", alpha=0.25, linewidth=0, label=band, gid="band"
    )
    ax.plot(x, x, color="#667079", linewidth=0.8, label="measured = estimated", gid="identity")
    if calibration:
        measured = [pair[0] for pair in calibration]
        label = f"{len(calibration)} networks that the table is calibrated on"
        look: dict[str, Any] = {"s": 24, "facecolors": "white", "edgecolors": PICKED, "linewidths": 1.1}
        ax.scatter([pair[1] for pair in calibration], measured, **look, label=label, gid="calibration", zorder=3)
    label = "final models, 95 % interval of the measurement"
    for i, model in enumerate(finals):
        up = _reach(model["latency_ms"], model["latency_ms_interval"])
        at = model["latency_ms_estimated"], model["latency_ms"]
        _point(ax, *at, f"final-{i}", label, yerr=up, marker="D", ms=5.5, color=FINAL)
        label = "_nolegend_"
    for model in finals:
        if model["name"] == chosen:
            _ring(ax, model["latency_ms_estimated"], model["latency_ms"])
    ax.set_xlabel("estimated latency in ms")
    ax.set_ylabel("measured latency in ms")
    return ax


def _point(ax: Axes, x: float, y: float, gid: str, label: str, **look: Any) -> None:
    """A marker with error bars, of which the legend shows the marker."""
    line = ax.errorbar([x], [y], capsize=2.5, elinewidth=1.0, linestyle="none", zorder=4, **look).lines[0]
    line.set_gid(gid)
    line.set_label(label)


def _ring(ax: Axes, x: float, *ys: float) -> None:
    look: dict[str, Any] = {"marker": "o", "ms": 13, "mfc": "none", "mec": LIMIT, "mew": 1.3, "linestyle": "none"}
    ax.plot([x] * len(ys), ys, **look, zorder=5, gid="chosen", label="the chosen network")


def _svg(figure: Figure, prefix: str, label: str, titles: Mapping[str, str]) -> Markup:
    """The picture as one element to stand in a page: ids of its own, a tooltip for each named part, no metadata."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for gid, title in titles.items():
        opening = re.compile(rf'<g id="{prefix}-{gid}-(?:val|test)">')
        text = opening.sub(lambda m, title=title: f"{m[0]}<title>{html.escape(title)}</title>", text)  # type: ignore[misc]
    role = f'<svg class="{prefix}" role="img" aria-label="{html.escape(label)}" '
    return Markup(re.sub(r"\s+\n", "\n", text.replace("<svg ", role, 1)))


def _final_title(model: Mapping[str, Any]) -> str:
    low, high = known_interval(model)
    return (
        f"{model['name']}: {known_ms(model):.3g} ms {_how(model)} ({low:.3g} to {high:.3g}), "
        f"validation {_percent(model['accuracy_val'])}, test {_percent(model['accuracy_test'])}"
    )


def _how(model: Mapping[str, Any]) -> str:
    """Where its latency is from: a run for another device measures none."""
    return "measured" if is_measured(model) else "estimated"


def _reach(value: float, interval: Sequence[float]) -> list[list[float]]:
    """Error bars as matplotlib wants them; an interval that a rounding puts beside its value has a bar of 0."""
    low, high = interval
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def _decimals(values: Sequence[float]) -> int:
    """How many decimals give the smallest of the values three digits, so that a column lines up."""
    least = min((value for value in values if value > 0), default=1.0)
    return max(0, 2 - math.floor(math.log10(least)))


def whole_percent(probability: float) -> str:
    """Of what is never quite sure."""
    return "below 1 %" if probability < 0.01 else "above 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _epochs(n: float) -> str:
    return "1 epoch" if n == 1 else f"{n:g} epochs"


def _by_text(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of each text, in order."""
    found: dict[str, list[str]] = {}
    for name, text in texts.items():
        if text:
            found.setdefault(text, []).append(name)
    return found
