"""The main job end to end, as a person runs it: real training, real measuring, real files."""

import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import hwnas
from measuring_less import less_command
from PIL import Image
from sklearn.datasets import load_digits

from hwnas.pareto import is_non_dominated
from hwnas.training import ImageData
from latency import Device, count
from latency.seal import sealed
from pipelines import cli
from pipelines.report import whole_percent
from spaces import Task, get_space

SPACE = "proxyless@8,8x1,16x2s2,24x2s2,64"
QUICK = ["--space", SPACE, "--trials", "6", "--epochs", "2", "--final-epochs", "3", "--workers", "1"]


def start(command, *, cwd, home):
    environment = {**os.environ, "HWNAS_HOME": str(home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, home_for_digits):
    """One finished search on digits under three limits, and what it printed."""
    place = tmp_path_factory.mktemp("search")
    home_for_digits(place / "home")
    limits = ["--limit", "latency_ms<=5", "--limit", "params<=25k", "--limit", "intensity>=0.5"]
    asked = ["search", "--data", "digits", *QUICK, *limits, "--run", "run", "--json"]
    out, err = hwnas(*asked, cwd=place, home=place / "home")
    return place, json.loads(out), err


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_soft_limit_that_is_missed_is_printed(finished, capsys):
    outcome = finished[1]
    assert outcome["chosen"]["kept_share"] == 1
    cli._print_outcome(outcome)
    assert "soft limits" not in capsys.readouterr().out
    cli._print_outcome({**outcome, "chosen": {**outcome["chosen"], "kept_share": 0.836}})
    assert "soft limits    missed: its accuracy counts 0.836 of what it is" in capsys.readouterr().out


def test_what_is_printed_is_what_was_found(finished):
    _place, outcome, err = finished
    chosen = outcome["chosen"]
    assert outcome["run"] == "run"
    assert outcome["meets_limits"] is True
    low, high = chosen["latency_ms_interval"]
    assert low <= chosen["latency_ms"] <= high <= 5
    space = get_space(SPACE)
    counts = count(space.layers(space.parse(chosen["arch"]), Task(8, 10, 1)))
    assert (chosen["params"], chosen["flops"]) == (counts.params, counts.flops)
    assert counts.params <= 25_000
    assert counts.intensity >= 0.5
    assert chosen["accuracy_val"] == max(model["accuracy_val"] for model in outcome["frontier"])
    assert "plan: about 6 networks by iterated, 2 epochs each, then 2 final trainings of about 3 epochs" in err


def drawn_fronts(models, val_images, draws=20_000):
    """How often each is on the front where accuracies and latencies are drawn as their intervals say."""
    rng = np.random.default_rng(0)
    right = np.array([model["accuracy_val"] for model in models])
    spread = np.sqrt((right * val_images + 1) * ((1 - right) * val_images + 1) / val_images) / (val_images + 2)
    accuracies = rng.normal(right, spread, (draws, len(models)))
    low, high = np.array([model["latency_ms_interval"] for model in models]).T
    log_ms = np.log([model["latency_ms"] for model in models])
    latencies = rng.normal(log_ms, np.log(high / low) / 3.92, (draws, len(models)))
    fronts = [is_non_dominated(np.stack([ms, -right], axis=1)) for ms, right in zip(latencies, accuracies, strict=True)]
    return np.mean(fronts, axis=0)


def test_the_run_folder_holds_everything(finished):
    place, outcome, _ = finished
    run = place / "run"
    trials = rows_of(run / "trials.csv")
    assert [int(t["number"]) for t in trials] == list(range(6))
    assert list(trials[0])[:3] == ["number", "arch", "state"]
    assert all(t["state"] == "complete" and float(t["params"]) <= 25_000 for t in trials)
    frontier = rows_of(run / "frontier.csv")
    assert {row["name"] for row in frontier} == {model["name"] for model in outcome["frontier"]}
    told = [float(row["on_front_probability"]) for row in frontier]
    assert told == [model["on_front_probability"] for model in outcome["frontier"]]
    assert told == pytest.approx(
        drawn_fronts(outcome["frontier"], len(ImageData.open(run / "data").val_labels)), abs=0.03
    )
    page = (run / "report.html").read_text()
    assert outcome["chosen"]["arch"] in page
    assert all(f"on the front: {whole_percent(likely)} likely" in page for likely in told)
    assert sqlite3.connect(run / "study.db").execute("select count(*) from trials").fetchone() == (6,)


def test_the_deployed_file_scores_on_raw_test_images_what_was_said(finished):
    """From scikit-learn's digits to ONNX Runtime, past all of this project's code."""
    place, outcome, _ = finished
    folder = place / "run" / "models" / outcome["chosen"]["name"]
    record = json.loads((folder / "model.json").read_text())
    images = np.load(place / "run" / "data" / "test_images.npy")
    labels = np.load(place / "run" / "data" / "test_labels.npy")
    digits = {
        tuple(np.round(image.ravel() * 255 / 16).astype(int)): label
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    known = [digits[tuple(image.ravel().astype(int))] for image in images]
    np.testing.assert_array_equal(known, labels)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": (images / 255).astype(np.float32)})
    assert (logits.argmax(axis=1) == labels).mean() == pytest.approx(record["accuracy_test"], abs=1e-9)
    assert record["accuracy_test"] == outcome["chosen"]["accuracy_test"] > 0.3
    metadata = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    assert json.loads(metadata["class_names"]) == record["class_names"]
    assert metadata["arch"] == record["arch"]
    assert record["checks"]["agreement"] == 1.0
    assert record["checks"]["limits"] == {"latency_ms<=5": True, "params<=25000": True, "intensity>=0.5": True}
    assert record["versions"]["torch"]


def test_deploy_hands_over_any_final_model_and_overwrites_nothing(finished):
    place, outcome, _ = finished
    home = place / "home"
    others = [m["name"] for m in outcome["frontier"] if m["name"] != outcome["chosen"]["name"]]
    out, _ = hwnas("deploy", "run", "--pick", others[0], "--out", "handed", "--json", cwd=place, home=home)
    assert json.loads(out)["checks"]["agreement"] == 1.0
    before = (place / "handed" / "model.onnx").read_bytes()
    _, err = hwnas("deploy", "run", "--pick", others[0], "--out", "handed", cwd=place, home=home, code=2)
    assert "exists already" in err
    assert (place / "handed" / "model.onnx").read_bytes() == before
    _, err = hwnas("deploy", "run", "--pick", "prettiest", cwd=place, home=home, code=2)
    assert "prettiest" in err
    out, _ = hwnas("deploy", "run", "--pick", "best", "--json", cwd=place, home=home)
    assert json.loads(out)["name"] == outcome["chosen"]["name"]
    record = json.loads((place / "handed" / "model.json").read_text())
    assert record["model_sha256"] == hashlib.sha256(before).hexdigest()
    assert record["device_fingerprint"] == record["certificate"]["device_fingerprint"] == Device.here().fingerprint


def test_a_file_that_is_not_the_measured_one_has_no_certificate(finished):
    place, outcome, _ = finished
    file = place / "run" / "models" / outcome["chosen"]["name"] / "model.onnx"
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"\0")
        _, err = hwnas("deploy", "run", "--pick", "best", cwd=place, home=place / "home", code=2)
        assert "must be the file that its certificate is about, but it was changed since" in err
    finally:
        file.write_bytes(before)


def test_what_is_measured_on_another_device_stands_outside_the_run(finished):
    place, outcome, _ = finished
    shutil.copytree(place / "run", place / "carried")
    table = place / "carried" / "latency_table.json"
    stored = json.loads(table.read_text())
    table.write_text(sealed({**stored, "device": {**stored["device"], "cpu": "Plain Board 5"}}))
    name = outcome["chosen"]["name"]
    (place / "carried" / "models" / name / "model.onnx").unlink()
    record = (place / "carried" / "models" / name / "model.json").read_text()
    _, err = hwnas("deploy", "carried", "--pick", name, cwd=place, home=place / "home", code=2)
    assert "were measured on Plain Board 5" in err
    assert "give an --out outside the run" in err
    assert (place / "carried" / "models" / name / "model.json").read_text() == record
    hwnas("deploy", "carried", "--pick", name, "--out", "here", cwd=place, home=place / "home")
    made = json.loads((place / "here" / "model.json").read_text())
    assert made["device_fingerprint"] == Device.here().fingerprint


def test_deploy_replaces_no_model_and_no_file_that_it_would_write(finished):
    place, outcome, _ = finished
    name, other = (model["name"] for model in outcome["frontier"][:2])
    files = {p: p.read_bytes() for p in (place / "run").glob("models/*/*")}
    inside = f"run/models/{other}"
    _, err = hwnas("deploy", "run", "--pick", name, "--out", inside, cwd=place, home=place / "home", code=2)
    assert "belongs to the models of" in err
    (place / "taken").mkdir()
    (place / "taken" / "weights.pt").write_text("mine")
    _, err = hwnas("deploy", "run", "--pick", name, "--out", "taken", cwd=place, home=place / "home", code=2)
    assert "weights.pt exists already" in err
    assert [file.name for file in (place / "taken").iterdir()] == ["weights.pt"]
    for below in ("taken/weights.pt", "taken/weights.pt/deeper"):
        _, err = hwnas("deploy", "run", "--pick", name, "--out", below, cwd=place, home=place / "home", code=2)
        assert "--out must be a folder, but" in err
        assert "weights.pt is a file" in err
    assert (place / "taken" / "weights.pt").read_text() == "mine"
    assert {p: p.read_bytes() for p in (place / "run").glob("models/*/*")} == files


@pytest.mark.parametrize("left", ["model.onnx", pytest.param("unchecked.onnx", marks=pytest.mark.slow)])
def test_a_run_that_died_while_its_file_was_measured_goes_on(finished, left):
    """The file stood there already, its checks did not, and what the trials say was not written yet."""
    place, outcome, _ = finished
    died = place / f"died-{left}"
    shutil.copytree(place / "run", died)
    folder = died / "models" / outcome["chosen"]["name"]
    record = json.loads((folder / "model.json").read_text())
    del record["checks"]
    (folder / "model.json").write_text(json.dumps(record))
    (folder / "model.onnx").write_bytes(b"half a file")
    (folder / "model.onnx").replace(folder / left)
    for written_at_the_end in ("trials.csv", "frontier.csv", "report.html"):
        (died / written_at_the_end).unlink()
    limits = ["--limit", "latency_ms<=5", "--limit", "params<=25k", "--limit", "intensity>=0.5"]
    command = ["search", "--data", "digits", *QUICK, *limits, "--run", died.name, "--json"]
    out, _ = hwnas(*command, cwd=place, home=place / "home")
    assert json.loads(out)["chosen"]["arch"] == outcome["chosen"]["arch"]
    assert json.loads((folder / "model.json").read_text())["checks"]["agreement"] == 1.0
    onnx.checker.check_model(str(folder / "model.onnx"))
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "model.onnx", "weights.pt"]
    assert len(rows_of(died / "trials.csv")) == 6
    assert {row["latency_of"] for row in rows_of(died / "frontier.csv")} == {
        "model.onnx, in processes of its own",
        "the network with random weights, before training",
    }


def test_profile_measures_the_deployed_file_in_a_new_process(finished):
    place, outcome, _ = finished
    model = f"run/models/{outcome['chosen']['name']}/model.onnx"
    out, _ = hwnas(
        "profile",
        model,
        outcome["chosen"]["arch"],
        *["--resolution", 8, "--classes", 10, "--channels", 1, "--json"],
        cwd=place,
        home=place / "home",
    )
    networks = json.loads(out)["networks"]
    assert [network["name"] for network in networks] == [model, outcome["chosen"]["arch"]]
    assert networks[1]["params"] == outcome["chosen"]["params"]
    for network in networks:
        low, high = network["latency_ms_interval"]
        assert low <= network["latency_ms"] <= high
        assert network["latency_ms"] <= 5


def test_the_same_command_on_a_finished_run_changes_nothing(finished):
    place, outcome, _ = finished
    files = {p: p.read_bytes() for p in (place / "run").glob("models/*/*")}
    limits = ["--limit", "latency_ms<=5", "--limit", "params<=25k", "--limit", "intensity>=0.5"]
    out, _ = hwnas(
        "search", "--data", "digits", *QUICK, *limits, "--run", "run", "--json", cwd=place, home=place / "home"
    )
    assert json.loads(out)["chosen"] == outcome["chosen"]
    assert {p: p.read_bytes() for p in (place / "run").glob("models/*/*")} == files


def recorded(run: Path) -> int:
    if not (run / "study.db").exists():
        return 0
    try:
        return int(
            sqlite3.connect(f"file:{run}/study.db?mode=ro", uri=True)
            .execute("select count(*) from trials")
            .fetchone()[0]
        )
    except sqlite3.OperationalError:
        return 0


def test_after_kill_9_no_finished_trial_is_trained_again(finished, tmp_path, home_for_digits):
    home_for_digits(tmp_path / "home")
    table = ["--device-table", finished[0] / "run" / "latency_table.json"]
    command = ["search", "--data", "digits", *QUICK, "--finalists", 1, *table, "--run", "run", "--json"]
    process = start(less_command(*command), cwd=tmp_path, home=tmp_path / "home")
    until = time.monotonic() + 240
    while recorded(tmp_path / "run") < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    query = "select trial_id, datetime_complete from trials order by trial_id"
    before = sqlite3.connect(tmp_path / "run" / "study.db").execute(query).fetchall()
    attributes = "select * from trial_user_attributes where trial_id <= ?"
    contents = sqlite3.connect(tmp_path / "run" / "study.db").execute(attributes, (before[-1][0],)).fetchall()
    out, _err = hwnas(*command, cwd=tmp_path, home=tmp_path / "home")
    after = sqlite3.connect(tmp_path / "run" / "study.db")
    assert after.execute(query).fetchall()[: len(before)] == before
    assert after.execute(attributes, (before[-1][0],)).fetchall() == contents
    assert after.execute("select count(*) from trials").fetchone() == (6,)
    numbers = [int(row["number"]) for row in rows_of(tmp_path / "run" / "trials.csv")]
    assert numbers == list(range(6))
    assert Path(tmp_path / json.loads(out)["model"]).exists()


@pytest.mark.slow
def test_what_a_person_runs_is_measured_by_the_whole_protocol(tmp_path):
    """In a home that knows no reference yet; other tests measure less."""
    asked = ["search", "--data", "digits", *QUICK, "--limit", "latency_ms<=5", "--run", "run", "--json"]
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *map(str, asked)]
    process = start(command, cwd=tmp_path, home=tmp_path / "home")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    outcome = json.loads(out)
    record = json.loads((tmp_path / "run" / "models" / outcome["chosen"]["name"] / "model.json").read_text())
    assert record["processes"] >= 6
    low, high = record["latency_ms_interval"]
    assert low <= record["latency_ms"] <= high <= 5


@pytest.mark.slow
def test_one_seed_gives_one_course(tmp_path):
    """Two runs that share a latency table: equal trials, bit for bit; another seed differs."""
    home = tmp_path / "home"
    seen = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        command = ["search", "--data", "digits", *QUICK, "--limit", "params<=30k", "--seed", seed, "--run", name]
        if name == "b":  # measurements are given, the seed decides the rest
            (tmp_path / "b").mkdir()
            for kept in ("config.toml", "latency_table.json"):
                shutil.copy(tmp_path / "a" / kept, tmp_path / "b" / kept)
            shutil.copytree(tmp_path / "a" / "data", tmp_path / "b" / "data")
        hwnas(*command, cwd=tmp_path, home=home)
        rows = rows_of(tmp_path / name / "trials.csv")
        seen.append([{k: v for k, v in row.items() if k not in ("train_seconds", "train_s_per_image")} for row in rows])
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_limits_that_nothing_meets_end_with_3_before_training(tmp_path):
    started = time.monotonic()
    out, _err = hwnas(
        *["search", "--data", "digits", *QUICK, "--limit", "params<=100", "--run", "run", "--json"],
        cwd=tmp_path,
        home=tmp_path / "home",
        code=3,
    )
    error = json.loads(out)["error"]
    assert "proved by the table" in error
    assert f"the nearest is {SPACE}:" in error
    assert not (tmp_path / "run").exists()  # nothing to go on with
    assert time.monotonic() - started < 120


def test_a_frontier_of_a_folder_of_photographs(tmp_path):
    """An ImageFolder of two textures in three sizes: every member of the frontier is trained and measured."""
    rng = np.random.default_rng(0)
    for label, period in (("coarse", 8), ("fine", 2)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(40):
            side = (40, 48, 64)[i % 3]
            stripes = (np.arange(side) // period % 2)[:, None] * np.ones(side)
            noise = 40 * rng.random((side, side, 3))
            image = np.clip(200 * stripes[..., None] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "pictures" / label / f"{i}.png")
    out, _ = hwnas(
        *[
            "frontier",
            "--data",
            "pictures",
            "--resolution",
            32,
            *QUICK,
            "--final-epochs",
            1,
            "--finalists",
            3,
            "--run",
            "run",
            "--json",
        ],
        cwd=tmp_path,
        home=tmp_path / "home",
    )
    outcome = json.loads(out)
    latencies = [model["latency_ms"] for model in outcome["frontier"]]
    assert latencies == sorted(latencies)
    assert len(latencies) >= 2
    for model in outcome["frontier"]:
        assert (tmp_path / "run" / "models" / model["name"] / "weights.pt").exists()
        assert model["accuracy_test_interval"][0] <= model["accuracy_test"] <= model["accuracy_test_interval"][1]
    assert json.loads((tmp_path / "run" / "models" / outcome["chosen"]["name"] / "model.json").read_text())[
        "class_names"
    ] == ["coarse", "fine"]


@pytest.mark.slow
def test_a_search_over_cells_ends_with_a_file_of_the_network_alone(tmp_path):
    """Cells are trained beside an auxiliary head, of which neither the weights nor the file have anything."""
    quick = ["--trials", "4", "--epochs", "1", "--final-epochs", "1"]
    search = ["search", "--data", "digits", "--space", "pnas@1x8", *quick, "--run", "run", "--json"]
    out, _ = hwnas(*search, cwd=tmp_path, home=tmp_path / "home")
    chosen = json.loads(out)["chosen"]
    space = get_space("pnas@1x8")
    network = space.layers(space.parse(chosen["arch"]), Task(8, 10, 1))
    assert chosen["params"] == sum(layer.params for layer in network)
    assert chosen["accuracy_test"] > 0.3  # chance is 0.1
    out, _ = hwnas("deploy", "run", "--out", "handed", "--json", cwd=tmp_path, home=tmp_path / "home")
    assert json.loads(out)["checks"]["agreement"] == 1.0
    graph = onnx.load(tmp_path / "handed" / "model.onnx").graph
    linear = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    assert len(linear) == 1  # one classifier
