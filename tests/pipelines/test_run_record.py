"""What `plan.json` holds: read as written, and nothing else taken for it."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from latency.files import write_json
from pipelines.plan import Plan, TrainingSpeed
from pipelines.run_record import RunRecord
from pipelines.search import _train_finalists
from spaces import InputError, get_space

SPEED = TrainingSpeed((1e-3, 1e-10), (2e-4, 2e-11), 0.5)
FINALIST = {
    "name": "trial-000",
    "arch": "proxyless@w0.5:0",
    "trial": 0,
    "accuracy_val_search": 0.91,
    "latency_ms_estimated": 0.31,
    "latency_ms_estimated_interval": [0.29, 0.33],
    "latency_ms": 0.3,
    "latency_ms_interval": [0.28, 0.32],
    "latency_steady": True,
    "latency_of": "the network with random weights, before training",
    "device": "a machine",
    "params": 1200.0,
    "flops": 5e6,
    "intensity": 2.5,
    "weight_bytes": 4800.0,
    "peak_memory_bytes": 9600.0,
    "kept_share": 1.0,
    "meets_limits": None,
    "processes": 6,
}
RECORDED = {
    "plan": asdict(Plan(4, 8, 0.2, 4, 2.5, 180.0)),
    "speed": asdict(SPEED),
    "elapsed_s": 97.5,
    "workers": 4,
    "finalists": {"trial-000": FINALIST},
}


def test_a_recorded_plan_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "plan.json"
    write_json(path, RECORDED)
    stored = RunRecord.read(path)
    assert (stored.plan, stored.speed, stored.elapsed_s) == (Plan(4, 8, 0.2, 4, 2.5, 180.0), SPEED, 97.5)
    assert json.loads(json.dumps(stored.finalists["trial-000"].model_dump())) == FINALIST
    stored.write(path, remarks=("slow",))
    assert RunRecord.read(path) == stored.model_copy(update={"remarks": ("slow",)})


@pytest.mark.parametrize("wrong", [{"remark": ["slow"]}, {"elapsed_s": -1.0}, {"finalists": {"trial-000": {}}}])
def test_what_no_record_holds_is_not_written(tmp_path, wrong):
    path = tmp_path / "plan.json"
    write_json(path, RECORDED)
    before = path.read_text()
    with pytest.raises(ValidationError):
        RunRecord.read(path).write(path, **wrong)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"plan": {"n_random": 4}}, r"plan\.n_chosen does not"),
        ({"plan": {**RECORDED["plan"], "epochs": "many"}}, r"plan\.epochs does not"),
        ({"speed": {**RECORDED["speed"], "train": [1.0]}}, r"speed\.train\.1 does not"),
        ({"elapsed_s": "soon"}, "elapsed_s does not"),
        ({"elapsed_s": -1}, "elapsed_s does not"),
        ({"workers": 0}, "workers does not"),
        ({"workers": None}, "workers does not"),
        ({"from_another_version": 1}, "from_another_version does not"),
        ({"plan": {**RECORDED["plan"], "epochs": 0}}, r"plan\.epochs does not"),
        ({"plan": {**RECORDED["plan"], "n_random": -1}}, r"plan\.n_random does not"),
        ({"finalists": ["trial-000"]}, "finalists does not"),
        ({"finalists": {"trial-000": {"name": "trial-000", "arch": "a"}}}, r"finalists\.trial-000\.trial does not"),
        (
            {"finalists": {"trial-000": {**FINALIST, "latency_ms": "fast"}}},
            r"finalists\.trial-000\.latency_ms does not",
        ),
        ({"finalists": {"trial-000": {**FINALIST, "flops": -1}}}, r"finalists\.trial-000\.flops does not"),
    ],
)
def test_a_damaged_plan_is_said_to_be_damaged(tmp_path, damage, said):
    write_json(tmp_path / "plan.json", {**RECORDED, **damage})
    with pytest.raises(InputError, match=rf"plan\.json must hold what this run recorded, but {said}"):
        RunRecord.read(tmp_path / "plan.json")


def test_a_finalist_that_is_no_network_of_the_space_is_said_with_its_file(tmp_path):
    write_json(tmp_path / "plan.json", RECORDED)
    run = SimpleNamespace(plan=tmp_path / "plan.json", models=dict)
    job = SimpleNamespace(run=run, space=get_space("proxyless@8,8x1,16x2s2,24x2s2,64"))
    with pytest.raises(InputError, match=r"plan\.json: .*proxyless@w0\.5:0"):
        _train_finalists(job, RunRecord.read(run.plan).plan)
