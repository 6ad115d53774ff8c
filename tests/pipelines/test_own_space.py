"""A space of one's own through the whole house: the documented example, as a person runs it."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from commands import hwnas

from latency import count
from pipelines.wiring import parts_of
from spaces import Task, get_space

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "my_space.py"
QUICK = ["--data", "digits", "--trials", "8", "--epochs", "1", "--final-epochs", "1", "--limit", "latency_ms<=5"]
QUICK += ["--workers", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, home_for_digits):
    """A finished search with a copy of the example, given by a relative path, and what it printed."""
    place = tmp_path_factory.mktemp("own")
    home_for_digits(place / "home")
    (place / "spaces").mkdir()
    (place / "spaces" / "my_space.py").write_text(EXAMPLE.read_text())
    space = ["--space", "spaces/my_space.py:MySpace"]
    out, err = hwnas("search", *QUICK, *space, "--run", "run", "--json", cwd=place, home=place / "home")
    return place, json.loads(out), err


def test_the_search_ends_with_a_network_of_the_space(finished):
    place, outcome, err = finished
    chosen = outcome["chosen"]
    assert outcome["meets_limits"] is True
    space = get_space(f"{EXAMPLE}:MySpace")
    counts = count(space.layers(space.parse(chosen["arch"]), Task(8, 10, 1)))
    assert (chosen["params"], chosen["flops"]) == (counts.params, counts.flops)
    assert "timing 30 networks of residual" in err
    table = json.loads((place / "run" / "latency_table.json").read_text())
    assert (table["kind"], table["space"], len(table["calibration"])) == ("learned", "residual", 30)
    model = place / "run" / "models" / chosen["name"] / "model.onnx"
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    images = np.load(place / "run" / "data" / "test_images.npy").astype(np.float32) / 255
    labels = np.load(place / "run" / "data" / "test_labels.npy")
    (logits,) = session.run(["logits"], {"images": images})
    assert (logits.argmax(axis=1) == labels).mean() == pytest.approx(chosen["accuracy_test"], abs=1e-9)


def test_the_run_keeps_the_file_that_it_was_begun_with(finished):
    place, _, _ = finished
    config = tomllib.loads((place / "run" / "config.toml").read_text())
    assert config["space"] == f"{place}/spaces/my_space.py:MySpace"
    assert re.fullmatch("[0-9a-f]{64}", config["space_sha256"])
    assert (place / "run" / "space.py").read_text() == EXAMPLE.read_text()


def test_the_report_draws_how_the_blocks_are_wired(finished):
    place, outcome, _ = finished
    page = (place / "run" / "report.html").read_text()
    space = get_space(f"{EXAMPLE}:MySpace")
    parts = parts_of(space.layers(space.parse(outcome["chosen"]["arch"]), Task(8, 10, 1)))
    pictures = re.findall(r'<svg[^>]*class="wiring".*?</svg>', page, re.DOTALL)
    assert len(pictures) == len(parts) >= 1
    for picture, part in zip(pictures, parts, strict=True):
        assert picture.count('<g class="op') == len(part.network)
        assert picture.count('class="edge"') == sum(len(layer.inputs) for layer in part.network)
    assert "learned from 30 networks that were measured" in page
    assert "timed blocks" not in page


def test_going_on_finds_the_file_from_another_folder_and_refuses_a_changed_one(finished):
    place, outcome, _ = finished
    given = [*QUICK, "--run", place / "run", "--json"]
    out, _ = hwnas(
        *["search", *given, "--space", "../spaces/my_space.py:MySpace"], cwd=place / "home", home=place / "home"
    )
    assert json.loads(out)["chosen"] == outcome["chosen"]
    file = place / "spaces" / "my_space.py"
    file.write_text(EXAMPLE.read_text().replace("(8, 12, 16)", "(8, 12, 20)"))
    out, _ = hwnas(*["search", *given, "--space", "spaces/my_space.py:MySpace"], cwd=place, home=place / "home", code=2)
    assert "the space file has other contents" in json.loads(out)["error"]
    file.write_text(EXAMPLE.read_text())


def test_deploying_needs_no_more_than_the_run_folder(finished):
    place, outcome, _ = finished
    others = [m["name"] for m in outcome["frontier"] if m["name"] != outcome["chosen"]["name"]]
    file = place / "spaces" / "my_space.py"
    file.rename(place / "away.py")
    try:
        command = ["deploy", "run", "--pick", others[0], "--out", "handed", "--json"]
        out, _ = hwnas(*command, cwd=place, home=place / "home")
    finally:
        (place / "away.py").rename(file)
    assert json.loads(out)["checks"]["agreement"] == 1.0
    copy = place / "run" / "space.py"
    copy.write_text(EXAMPLE.read_text() + "\n")
    out, _ = hwnas(*["deploy", "run", "--pick", others[0], "--json"], cwd=place, home=place / "home", code=2)
    assert "space.py must be as it was when the run began" in json.loads(out)["error"]
    copy.write_text(EXAMPLE.read_text())


def test_profile_counts_a_text_of_the_space(finished):
    place, outcome, _ = finished
    arch = outcome["chosen"]["arch"]
    task = ["--resolution", 8, "--classes", 10, "--channels", 1, "--json"]
    space = ["--space", "spaces/my_space.py:MySpace"]
    out, _ = hwnas("profile", arch, *space, *task, cwd=place, home=place / "home")
    (network,) = json.loads(out)["networks"]
    assert (network["arch"], network["params"]) == (arch, outcome["chosen"]["params"])
    out, _ = hwnas("profile", arch, *task, cwd=place, home=place / "home", code=2)
    assert "there is no space 'residual'" in json.loads(out)["error"]


def test_spaces_are_listed(tmp_path):
    out, _ = hwnas("spaces", "--json", cwd=tmp_path, home=tmp_path)
    listed = {space["name"]: space for space in json.loads(out)["spaces"]}
    assert listed["proxyless"]["cardinality"] == 3 * 6**6 * 7**15
    for name, space in listed.items():
        assert get_space(name).parse(space["example"])
        assert space["genes"] == len(space["choices"]) == len(get_space(name).choices)
    out, _ = hwnas("spaces", "proxyless", f"{EXAMPLE}:MySpace", cwd=tmp_path, home=tmp_path)
    lines = out.splitlines()
    assert re.match(r"proxyless +6.65e\+17 rows +22 genes +proxyless:[0-6-]+$", lines[0])
    assert re.match(r"residual +1.19e\+04 rows +7 genes +residual:[0-3-]+$", lines[1])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("nowhere.py:MySpace", "nowhere.py cannot be read"),
        ("broken.py:MySpace", "broken.py, line 2: it must run as Python: invalid syntax"),
        ("broken.py", "given as FILE.py:CLASS"),
    ],
)
def test_mistakes_are_one_line_before_anything_begins(tmp_path, space, message):
    (tmp_path / "broken.py").write_text("x = 1\ny = = 2\n")
    _, err = hwnas("search", *QUICK, "--space", space, cwd=tmp_path, home=tmp_path, code=2)
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
