"""The report is held against parsers and the values it was made from, and once against a browser."""

import json
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer

from hwnas.evaluation.interval import wilson_interval
from hwnas.predictors import PredictorJudgement, PredictorQuality
from hwnas.study import Study
from hwnas.trial import Trial
from latency import Device, LatencyTable, count
from latency.files import write_json
from latency.seal import sealed
from pipelines.cli import app
from pipelines.config import RunConfig, parse_duration
from pipelines.drawing import blocks_of, draw_blocks
from pipelines.judgement import NAMES, record_of, sentence
from pipelines.report import rerun_command, whole_percent, write_report
from pipelines.run_folder import RunFolder
from pipelines.search import SUMMARY
from spaces import InputError, Task, get_space

SPACE, TASK = "proxyless@w0.25", Task(8, 10, 1)
DEVICE = Device("Plain CPU 3000", 4, 1, "CPUExecutionProvider", "1.22.0", "Linux x86_64")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = """<script>alert("1")</script> & 'b' {{ 7*7 }} $x^2$ </title></style><img src=http://x.test/y onerror=z>"""
VOID = {"meta", "link", "br", "img", "hr", "input", "base"}


@dataclass(frozen=True)
class MadeRun:
    run: RunFolder
    outcome: dict
    trials: list
    models: dict

    def written(self) -> str:
        write_report(self.run, self.outcome)
        return self.run.report.read_text(encoding="utf-8")


STUDIES: dict[str, bytes] = {}


def record(path, space, trials):
    """The study of these trials; where it was written before, that file, since writing takes a second."""
    key = repr(trials)
    if key not in STUDIES:
        study = Study(path, space)
        for trial in trials:
            study.add(trial)
        STUDIES[key] = path.read_bytes()
    path.write_bytes(STUDIES[key])


def make_run(
    path,
    *,
    limits=("latency_ms<=0.35", "params<=400k"),
    n_random=14,
    n_chosen=6,
    failed=(7, 16),
    n_finals=3,
    meets=True,
    data="digits",
    device=DEVICE,
    reason="ValueError: loss is not finite",
    class_names=tuple("0123456789"),
    seed=1,
) -> MadeRun:
    """A run folder as a search leaves it, with made-up accuracies and times."""
    rng = np.random.default_rng(seed)
    space = get_space(SPACE)
    config = RunConfig.of(
        job="search",
        data=data,
        data_root="data",
        space=SPACE,
        strategy="neural-predictor",
        limits=limits,
        budget_s=180,
        seed=seed,
        epochs=5,
    )
    run = RunFolder.prepare(path, config)
    cost = space.fragments(TASK).additive(lambda piece: 0.002 + 2.2e-8 * sum(layer.flops for layer in piece))
    estimates = cost.of(space.sample(8, rng))
    pairs = tuple((float(e * f), float(e)) for e, f in zip(estimates, rng.normal(1, 0.03, 8), strict=True))
    table = LatencyTable(device, SPACE, TASK, 0.412, 0.42, 0.1, cost, 0.081, pairs, "")
    run.table.write_text(sealed(json.loads(table.to_json())))

    trials = []
    for number, row in enumerate(space.sample(n_random + n_chosen, rng)):
        arch = space.arch(row)
        counts = count(space.layers(arch, TASK))
        values = {name: float(getattr(counts, name)) for name in ("flops", "params", "bytes", "weight_bytes")}
        values |= {"intensity": counts.intensity, "peak_memory_bytes": float(counts.peak_memory_bytes)}
        values["latency_ms_estimated"] = float(cost.of(row[None])[0])
        if number in failed:
            trial = Trial(number, arch, 5, number, "failed", values, reason)
        else:
            accuracy = (
                0.985 - 0.006 / values["latency_ms_estimated"] + rng.normal(0, 0.012) + 0.01 * (number >= n_random)
            )
            values |= {"accuracy_val": float(np.clip(accuracy, 0, 1)), "train_seconds": float(rng.uniform(2, 4))}
            trial = Trial(number, arch, 5, number, "complete", values)
        trials.append(trial)
    record(run.study, space, trials)

    complete = sorted((t for t in trials if t.state == "complete"), key=lambda t: -t.values["accuracy_val"])
    records, models = {}, {}
    for i, trial in enumerate(complete[:n_finals]):
        name = f"trial-{trial.number:03d}"
        ms = trial.values["latency_ms_estimated"] * (1 + rng.normal(0, 0.03))
        right = 354 - 2 * i
        records[name] = {
            "name": name,
            "arch": str(trial.arch),
            "trial": trial.number,
            "accuracy_val_search": trial.values["accuracy_val"],
            "latency_ms": ms,
            "latency_ms_interval": [0.985 * ms, 1.02 * ms],
            "latency_steady": True,
            "latency_warm_ms": 0.7 * ms,
            "latency_wall_p50_ms": 1.05 * ms,
            "latency_wall_p90_ms": 1.2 * ms,
            "latency_of": "the network with random weights, before training",
            "latency_ms_estimated_interval": [(1 - e) * trial.values["latency_ms_estimated"] for e in (0.081, -0.081)],
            "device": str(device),
            "meets_limits": meets,
            "kept_share": 1.0,
            **{k: v for k, v in trial.values.items() if k not in {"accuracy_val", "train_seconds"}},
        }
        models[name] = {
            **records[name],
            "accuracy_val": 0.991 - 0.004 * i,
            "train_seconds": 12.5,
            "accuracy_test": right / 360,
            "accuracy_test_interval": list(wilson_interval(right, 360)),
            "final_epochs": 30,
        }
    chosen = next(iter(models))
    models[chosen] |= {
        "latency_of": "model.onnx, in processes of its own",
        "device": str(device),
        "class_names": list(class_names),
        "checks": {"parity_images": 256, "largest_difference": 3.1e-6, "largest_logit": 11.2, "agreement": 1.0},
        "versions": {"hwnas": "0.1.0", "torch": "2.11.0"},
    }
    for name, model in models.items():
        write_json(run.model(name) / "model.json", model)
    plan = {"n_random": n_random, "n_chosen": n_chosen, "epochs": 5, "finalists": n_finals, "final_epochs": 30}
    stored = {"plan": {**plan, "ends_after_s": 180.0}, "workers": 1, "finalists": records, "elapsed_s": 171.0}
    write_json(run.plan, stored)
    frontier = sorted(models.values(), key=lambda model: model["latency_ms"])
    outcome = {
        "run": str(path),
        "meets_limits": meets,
        "chosen": {key: models[chosen][key] for key in SUMMARY},
        "frontier": [{**{key: model[key] for key in SUMMARY}, "on_front_probability": 0.87} for model in frontier],
        "model": str(run.model(chosen) / "model.onnx"),
        "report": str(run.report),
        "seconds": 172.4,
        "trials": len(trials),
    }
    return MadeRun(run, outcome, trials, models)


@dataclass
class Page(HTMLParser):
    """What a browser would find: elements, tables and their cells, text by section."""

    text_in: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)
    elements: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.open, self.section, self.table, self.cell = [], "", "", None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attrs["id"]
        if tag == "table":
            self.table = attrs["id"]
            self.tables[self.table] = []
        if tag == "tr":
            self.tables[self.table].append([])
        if tag in {"td", "th"}:
            self.tables[self.table][-1].append("")
            self.cell = self.tables[self.table][-1]

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag in {"td", "th"}:
            self.cell = None
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        self.text_in[self.section] = self.text_in.get(self.section, "") + data
        if self.cell is not None:
            self.cell[-1] += data + " "


def parse(text) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def svgs(text) -> dict:
    """The pictures of a page, each parsed as XML, by the first word of its class."""
    found = [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    return {root.get("class"): root for root in found}


def part(root, gid):
    return next((g for g in root.iter(f"{SVG}g") if g.get("id") == gid), None)


def markers(root, gid):
    group = part(root, gid)
    return [] if group is None else list(group.iter(f"{SVG}use"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def text(made):
    return made.written()


def test_the_table_holds_the_numbers_of_every_final_model(made, text):
    head, *rows = parse(text).tables["models"]
    assert len(head) == 9
    assert [row[0].split()[0] for row in rows] == sorted(made.models, key=lambda n: made.models[n]["latency_ms"])
    for row in rows:
        model = made.models[row[0].split()[0]]
        numbers = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", cell.replace(",", ""))] for cell in row[1:8]]
        expected = [
            [model["latency_ms"], *model["latency_ms_interval"]],
            [model["latency_ms_estimated"]],
            [100 * model["accuracy_val"]],
            [100 * model["accuracy_test"], *(100 * end for end in model["accuracy_test_interval"])],
        ]
        for found, given, digit in zip(numbers, expected, (1e-3, 1e-3, 0.1, 0.1), strict=False):
            assert found == pytest.approx(given, abs=0.51 * digit)
        assert numbers[4:] == [[model["params"]], [model["flops"]], [model["peak_memory_bytes"]]]
        assert row[8].strip() == "met"


def test_every_trial_that_succeeded_is_a_point_in_the_picture(made, text):
    complete = [trial for trial in made.trials if trial.state == "complete"]
    for shape in ("wide", "narrow"):
        root = svgs(text)[f"front-{shape}"]
        random, picked = (markers(root, f"front-{shape}-trials-{kind}") for kind in ("random", "picked"))
        assert len(random) == sum(trial.number < 14 for trial in complete) == 13
        assert len(picked) == sum(trial.number >= 14 for trial in complete) == 5


def test_points_lie_where_their_values_are(made, text):
    """Drawn places are an affine image of the values: fitted on all points of both kinds, nothing is left over."""
    root = svgs(text)["front-wide"]
    points = [
        (use.get("x"), use.get("y"))
        for kind in ("random", "picked")
        for use in markers(root, f"front-wide-trials-{kind}")
    ]
    complete = [trial for trial in made.trials if trial.state == "complete"]
    values = [(t.values["latency_ms_estimated"], t.values["accuracy_val"]) for t in complete]
    finals = sorted(made.models.values(), key=lambda model: model["latency_ms"])
    for i, model in enumerate(finals):
        for kind in ("val", "test"):
            (use,) = markers(root, f"front-wide-final-{i}-{kind}")
            points.append((use.get("x"), use.get("y")))
            values.append((model["latency_ms"], model[f"accuracy_{kind}"]))
    drawn, given = np.array(points, dtype=float), np.array(values)
    for axis, direction in ((0, 1), (1, -1)):  # y points down in SVG
        line = np.polyfit(given[:, axis], drawn[:, axis], 1)
        assert line[0] * direction > 0
        assert np.abs(np.polyval(line, given[:, axis]) - drawn[:, axis]).max() < 1e-3


def test_the_chosen_network_is_marked_at_both_of_its_accuracies(made, text):
    root = svgs(text)["front-wide"]
    finals = sorted(made.models.values(), key=lambda model: model["latency_ms"])
    i = [model["name"] for model in finals].index(made.outcome["chosen"]["name"])
    places = {
        (u.get("x"), u.get("y")) for kind in ("val", "test") for u in markers(root, f"front-wide-final-{i}-{kind}")
    }
    assert {(u.get("x"), u.get("y")) for u in markers(root, "front-wide-chosen")} == places


def test_failed_trials_are_counted_and_listed_with_their_reason(made, text):
    page = parse(text)
    assert "2 trials failed and have no point" in " ".join(page.text_in["front"].split())
    rows = page.tables["failed"][1:]
    assert [row[0].split()[:2] for row in rows] == [["trial", "7"], ["trial", "16"]]
    assert all("loss is not finite" in row[1] and SPACE in row[0] for row in rows)


@pytest.mark.parametrize(
    ("limits", "lines", "outside"),
    [
        (("latency_ms<=0.35",), 1, False),
        (("latency_ms<=0.35", "latency_ms>=0.2"), 2, False),
        (("params<=400k",), 0, False),
        ((), 0, False),
        (("latency_ms<=50",), 0, True),
    ],
)
def test_a_limit_on_latency_is_a_line_and_no_other_limit_is(tmp_path, limits, lines, outside):
    text = make_run(tmp_path / "run", limits=limits).written()
    for shape in ("wide", "narrow"):
        root = svgs(text)[f"front-{shape}"]
        assert sum(part(root, f"front-{shape}-limit-{i}") is not None for i in range(3)) == lines
    page = parse(text)
    assert ("lies far outside the picture" in page.text_in["front"]) == outside
    assert [row[0].strip() for row in page.tables.get("limits", [])[1:]] == [
        limit.replace("400k", "400000") for limit in limits
    ]
    assert ("No limits were given" in page.text_in["chosen"]) == (not limits)


def test_nothing_is_sure_to_be_on_the_front():
    said = [whole_percent(each) for each in (0.0, 0.004, 0.012, 0.5, 0.99, 0.996, 1.0)]
    assert said == ["below 1 %", "below 1 %", "1 %", "50 %", "99 %", "above 99 %", "above 99 %"]


def test_a_missed_limit_is_named(tmp_path):
    made = make_run(tmp_path / "run", limits=("latency_ms<=0.05", "params<=400k"), meets=False)
    page = parse(made.written())
    chosen = " ".join(page.text_in["chosen"].split())
    assert "Not all limits are met: the best network found misses latency_ms<=0.05." in chosen
    assert [row[2].strip() for row in page.tables["limits"][1:]] == ["MISSED", "met"]
    assert "All limits are met" not in chosen
    assert {row[8].strip() for row in page.tables["models"][1:]} == {"MISSED"}


def test_a_latency_limit_is_judged_by_the_worse_end_of_the_interval(tmp_path):
    chosen = make_run(tmp_path / "first").outcome["chosen"]
    between = (chosen["latency_ms"] + chosen["latency_ms_interval"][1]) / 2  # the value holds, its interval does not
    page = parse(make_run(tmp_path / "second", limits=(f"latency_ms<={between!r}",), meets=False).written())
    assert page.tables["limits"][1][2].strip() == "MISSED"


def test_no_report_is_made_of_a_table_that_was_edited(tmp_path):
    made = make_run(tmp_path / "run")
    made.run.table.write_text(json.dumps({**json.loads(made.run.table.read_text()), "relative_error": 0.001}))
    with pytest.raises(InputError, match="it was edited or cut"):
        made.written()
    assert not made.run.report.exists()


def test_hostile_text_stays_text(tmp_path, text):
    device = Device(HOSTILE, 4, 1, "CPU<b>", "1.22.0", "Linux & x86")
    made = make_run(tmp_path / "run", data=HOSTILE, device=device, reason=HOSTILE, class_names=[HOSTILE, *"123456789"])
    page, usual = parse(made.written()), parse(text)
    for section in ("asked", "device", "settings"):
        assert HOSTILE in page.text_in[section]
    assert HOSTILE in page.tables["failed"][1][1]
    assert shlex.split(page.text_in["on"][page.text_in["on"].index("hwnas search") :])[3] == HOSTILE
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in usual.elements}


def test_nothing_is_loaded_and_nothing_runs(text):
    page = parse(text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for _, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"href", "xlink:href", "src", "action"}:
                assert value.startswith("#") or value == page_model(page)
            elif not name.startswith("xmlns"):
                assert "//" not in (value or "")
    assert "@import" not in text
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", text))
    assert len(text.encode()) < 1_000_000


def page_model(page) -> str:
    return next(attrs["href"] for tag, attrs in page.elements if tag == "a")


def test_the_link_leads_to_the_model_from_where_the_report_lies(made, text):
    target = made.run.report.parent / page_model(parse(text))
    assert target == Path(made.outcome["model"])


def test_ids_are_unique_and_references_meet_one(text):
    page = parse(text)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = [attrs["xlink:href"][1:] for _, attrs in page.elements if "xlink:href" in attrs]
    assert set(used) | set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_written_twice_it_is_the_same(made, text):
    assert made.written() == text
    assert [file.name for file in made.run.path.glob(".*report*")] == []


def test_the_drawing_has_one_box_for_every_block(made, text):
    """Against the published rule of the space, written out by hand: stage widths at w0.25, strides that 8 px leave."""
    root = svgs(text)["network"]
    genes = [int(g) for g in made.outcome["chosen"]["arch"].split(":")[1].split("-")]
    widths = [8] + 4 * [8] + 4 * [16] + 4 * [24] + 4 * [24] + 4 * [48] + [80]  # multiples of 8 next to a quarter
    sizes = [8] * 17 + [4] * 5  # one stride of two is left, at the last stage that has one
    expected = {"stem": "8 × 8 × 8"}
    for i, gene in enumerate(genes):
        kernel, expansion = ((3, 5, 7)[gene], 1) if i == 0 else ((3, 5, 7)[gene % 3], (3, 6)[gene // 3 % 2])
        if i == 0 or gene != 6:
            expected[f"{i + 1} MB{kernel}x{kernel}-{expansion}"] = f"{widths[i]} × {sizes[i]} × {sizes[i]}"
    expected["head"] = "10"
    drawn, absent = {}, 0
    for group in root.iter(f"{SVG}g"):
        boxes = [rect for rect in group.iter(f"{SVG}rect") if rect.get("class") == "box"]
        assert len(boxes) == 1
        words = {t.get("class", "name"): t.text for t in group.iter(f"{SVG}text")}
        dashed = boxes[0].get("stroke-dasharray") is not None
        assert dashed == words["name"].endswith(" zero") == ("shape" not in words)
        absent += dashed
        if not dashed:
            drawn[words["name"]] = words["shape"]
    assert drawn == expected
    assert absent > 0
    assert absent == genes[1:].count(6) == len(genes) + 2 - len(expected)
    assert [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "stride"] == ["stride 2"]


def test_the_descriptions_of_the_blocks_sum_to_the_network(made, text):
    titles = [title.text for title in svgs(text)["network"].iter(f"{SVG}title")]
    for name, word in (("flops", "multiply-adds"), ("params", "parameters")):
        numbers = [re.search(rf"([\d,]+) {word}", title) for title in titles]
        assert sum(int(n[1].replace(",", "")) for n in numbers if n) == made.outcome["chosen"][name]


def test_boxes_are_as_wide_as_their_channels():
    space, task = get_space("proxyless"), Task(224, 1000)
    arch = space.parse("proxyless:" + "-".join(["0"] * 22))
    root = ET.fromstring(draw_blocks(blocks_of(space, arch, task)))
    boxes = [float(r.get("width")) for r in root.iter(f"{SVG}rect") if r.get("class") == "box"]
    channels = [32, 16] + 4 * [24] + 4 * [40] + 4 * [80] + 4 * [96] + 4 * [192] + [320]
    assert np.array(boxes[:-1]) / boxes[-2] == pytest.approx(np.array(channels) / 320, abs=2e-3)
    assert boxes[-1] == boxes[-2]  # class scores are no channels
    assert len([t for t in root.iter(f"{SVG}text") if t.get("class") == "stride"]) == 5


@pytest.mark.parametrize(
    "unusual",
    [
        {"n_chosen": 0, "failed": (), "n_finals": 1},
        {"n_random": 2, "n_chosen": 0, "failed": (0,), "n_finals": 1, "limits": ()},
        {"failed": tuple(range(12)), "limits": ("peak_memory_bytes<=1M", "intensity>=0.1")},
    ],
)
def test_unusual_runs_have_a_report(tmp_path, unusual):
    made = make_run(tmp_path / "run", **unusual)
    text = made.written()
    page, root = parse(text), svgs(text)["front-wide"]
    complete = sum(trial.state == "complete" for trial in made.trials)
    # With fewer than eight to fit on, the strategy's picks are random ones, and the picture says so.
    assert markers(root, "front-wide-trials-picked") == []
    assert len(markers(root, "front-wide-trials-random")) == complete
    assert len(page.tables["models"]) == 1 + len(made.models)
    assert ("failed" in page.tables) == bool(unusual["failed"])


def test_the_report_says_what_predicted_and_how_well(tmp_path):
    made = make_run(tmp_path / "run")
    assert "predictor" not in parse(made.written()).tables
    qualities = {
        "gcn": PredictorQuality(0.31, 0.42, 0.0213, 0.951),
        "trees": PredictorQuality(0.5, 0.66, 0.0171, 0.934),
    }
    stored = json.loads(made.run.plan.read_text())
    for name, warning in (("gcn", None), ("trees", f"the GCN ranks no better {HOSTILE}")):
        judgement = PredictorJudgement(name, qualities, 0.57, warning)
        write_json(made.run.plan, {**stored, "predictor": record_of(judgement)})
        text = made.written()
        page = parse(text)
        header, *rows = [
            [cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in page.tables["predictor"]
        ]
        assert header[1].startswith("Rank correlation")
        gcn, trees = (" used" if name == used else "" for used in ("gcn", "trees"))
        assert rows == [
            [NAMES["gcn"] + gcn, "0.42", "0.31", "2.1 %", "95.1 %"],
            [NAMES["trees"] + trees, "0.66", "0.50", "1.7 %", "93.4 %"],
        ]
        assert ("Warning: the GCN ranks no better" in page.text_in["front"]) == (warning is not None)
        assert "Spearman correlation of 0.57" in " ".join(page.text_in["front"].split())
        assert "onerror=z>" not in text


def test_the_report_repeats_what_was_remarked_during_the_search(tmp_path):
    made = make_run(tmp_path / "run")
    assert "During the search" not in made.written()
    stored = json.loads(made.run.plan.read_text())
    write_json(made.run.plan, {**stored, "remarks": [f"after 24 trials: flops stand in {HOSTILE}"]})
    text = made.written()
    assert "During the search: after 24 trials: flops stand in" in parse(text).text_in["front"]
    assert "onerror=z>" not in text


def test_the_terminal_says_what_predicted_and_warns():
    qualities = {"gcn": PredictorQuality(0.3, 0.42, 0.02, 0.951), "ridge": PredictorQuality(0.5, 0.66, 0.01, 0.9)}
    good = sentence(PredictorJudgement("gcn", qualities, 0.4, None))
    assert good.startswith(
        "predictor: the GCN, cross-validated Spearman 0.42 (flops alone 0.40), 95 %".replace("5 %", "5%")
    )
    bad = sentence(PredictorJudgement("ridge", qualities, 0.5, "the GCN ranks no better"))
    assert bad.startswith(
        "warning: the GCN ranks no better; predictor: ridge regression, cross-validated Spearman 0.66"
    )


def test_a_final_training_that_failed_is_listed(tmp_path):
    made = make_run(tmp_path / "run", failed=())
    gone = min(made.models, key=lambda name: made.models[name]["accuracy_val"])
    (made.run.model(gone) / "model.json").unlink()
    assert gone in parse(made.written()).tables["failed"][1][0]


def test_a_model_that_says_little_about_its_export_still_has_a_report(tmp_path):
    made = make_run(tmp_path / "run")
    file = made.run.model(made.outcome["chosen"]["name"]) / "model.json"
    known = json.loads(file.read_text())
    write_json(file, {key: known[key] for key in [*SUMMARY, "trial"]})
    assert "Versions" not in parse(made.written()).text_in["settings"]


def test_picture_of_estimates_has_all_calibration_networks_and_finals(made, text):
    root = svgs(text)["estimates"]
    pairs = json.loads(made.run.table.read_text())["calibration"]
    points = [(float(u.get("x")), float(u.get("y"))) for u in markers(root, "estimates-calibration")]
    values = [(estimated, measured) for measured, estimated in pairs]
    finals = sorted(made.models.values(), key=lambda model: model["latency_ms"])
    for i, model in enumerate(finals):
        (use,) = markers(root, f"estimates-final-{i}")
        points.append((float(use.get("x")), float(use.get("y"))))
        values.append((model["latency_ms_estimated"], model["latency_ms"]))
    assert len(points) == 8 + 3
    for drawn, given in zip(zip(*points, strict=True), zip(*values, strict=True), strict=True):
        assert np.abs(np.polyval(np.polyfit(given, drawn, 1), given) - drawn).max() < 1e-3
    assert part(root, "estimates-band") is not None
    assert (
        "±8.3\N{NO-BREAK SPACE}%" in parse(text).text_in["device"]
    )  # 8.1 % of networks left out, and what another time makes


@pytest.mark.parametrize(
    "fields",
    [
        {"job": "search", "data": "digits", "limits": ("latency_ms<=0.3", "params<=2M"), "budget_s": 90.0},
        {"job": "frontier", "data": "a b's/<c>", "trials": 50, "data_root": "/else where", "seed": 3, "download": True},
        {
            "job": "search",
            "data": "x",
            "budget_s": 5400.5,
            "strategy": "epnas",
            "soft_limits": ("params<=1M@0.8", "intensity>=2"),
            "warm_start": True,
            "resolution": 64,
            "epochs": 2,
            "final_epochs": 9,
            "finalists": 3,
            "validation_share": 0.25,
            "device": "cpu",
            "workers": 2,
        },
    ],
)
def test_the_command_to_run_again_asks_for_the_same(fields):
    """Read back by the command's own parser."""
    config = RunConfig.of(**{"data_root": "data", "space": SPACE, **fields})
    program, job, *words = shlex.split(rerun_command(config).replace("\\\n", ""))
    assert (program, job) == ("hwnas", config.job)
    context = typer.main.get_command(app).commands[job].make_context(job, words)
    read = {name: value for name, value in context.params.items() if name in RunConfig.model_fields}
    budget = context.params["budget"]
    read |= {
        "job": job,
        "limits": tuple(context.params["limit"] or ()),
        "soft_limits": tuple(context.params["soft_limit"] or ()),
        "data_root": str(read["data_root"]),
        "budget_s": None if budget is None else parse_duration(budget),
    }
    assert RunConfig.of(**read) == config


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_shows_it(made, text, tmp_path, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium is installed")
    from PIL import Image

    picture = tmp_path / "report.png"
    frame = tmp_path / "frame.html"  # a window is never narrower than about 500 px, a frame may be
    frame.write_text(
        f'<body style="margin:0"><iframe src="{made.run.report.as_uri()}" width={width} height=3000 frameborder=0>'
    )
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},3000"),
            *(f"--screenshot={picture}", frame.as_uri()),
        ],
        check=True,
        timeout=120,
        capture_output=True,
    )
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))[:, :width]
    thirds = np.array_split(pixels, 3)
    assert all(len(np.unique(third.reshape(-1, 3), axis=0)) > 50 for third in thirds)  # blank: 1
