"""What `plan.json` holds: read as written, and nothing else taken for it."""

from dataclasses import asdict

import pytest
from pydantic import ValidationError

from latency.files import write_json
from pipelines.plan import Plan, TrainingSpeed
from pipelines.run_record import RunRecord
from spaces import InputError

SPEED = TrainingSpeed((1e-3, 1e-10), (2e-4, 2e-11), 0.5)
RECORDED = {
    "plan": asdict(Plan(4, 8, 0.2, 4, 2.5, 180.0)),
    "speed": asdict(SPEED),
    "elapsed_s": 97.5,
    "workers": 4,
    "finalists": {"trial-000": {"name": "trial-000", "arch": "proxyless@w0.5:0", "trial": 0, "params": 1200}},
}


def test_a_recorded_plan_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "plan.json"
    write_json(path, RECORDED)
    stored = RunRecord.read(path)
    assert (stored.plan, stored.speed, stored.elapsed_s) == (Plan(4, 8, 0.2, 4, 2.5, 180.0), SPEED, 97.5)
    assert stored.finalists["trial-000"].model_dump() == RECORDED["finalists"]["trial-000"]
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
    ],
)
def test_a_damaged_plan_is_said_to_be_damaged(tmp_path, damage, said):
    write_json(tmp_path / "plan.json", {**RECORDED, **damage})
    with pytest.raises(InputError, match=rf"plan\.json must hold what this run recorded, but {said}"):
        RunRecord.read(tmp_path / "plan.json")
