"""What a run says and records of the predictor that made its picks."""

import concurrent.futures as cf
import json
from types import SimpleNamespace

import pytest

from hwnas.evaluation.evaluator import Evaluator
from hwnas.study import Study
from latency import DeviceCosts
from pipelines import search as pipeline
from pipelines.plan import Plan
from pipelines.progress import Listener
from pipelines.run_folder import RunFolder
from spaces import Task, get_space

SPACE = get_space("proxyless@w0.25")
COSTS = DeviceCosts(SPACE, Task(8, 10, 1))


class ByFlops(Evaluator):
    """An accuracy that flops decide."""

    def evaluate(self, arch, *, epochs, seed):
        (flops,) = SPACE.counts(SPACE.row(arch)[None], COSTS.task)[0]
        return {"accuracy_val": flops / 1e9}


class Saying(Listener):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def job_of(path, evaluator):
    (path / "run").mkdir()
    run = RunFolder(path / "run")
    pool = cf.ThreadPoolExecutor(1)
    pool.workers = 1
    return SimpleNamespace(
        config=SimpleNamespace(
            job="search", seed=0, strategy="neural-predictor", parsed_limits=(), parsed_soft_limits=()
        ),
        run=run,
        space=SPACE,
        evaluator=evaluator,
        costs=COSTS,
        pool=pool,
        study=Study(run.study, SPACE, cost="flops"),
        clock=SimpleNamespace(elapsed=lambda: 0.0),
        listener=Saying(),
    )


def test_a_run_says_once_what_predicted_and_records_it(tmp_path):
    n_random, job = 12, job_of(tmp_path, ByFlops())
    plan = Plan(n_random=n_random, n_chosen=3, epochs=1, finalists=1, final_epochs=1)
    pipeline._save_plan(job, plan, workers=1)
    pipeline._run_trials(job, plan, Plan(n_random, 0, 1, 1, 1), "random networks")
    assert json.loads(job.run.plan.read_text())["predictor"] is None
    pipeline._run_trials(job, plan, plan, "networks that the predictor picked")
    # Flops decide everything, so that nothing ranks better: the run says so, once, and goes on with what ranks best.
    recorded = json.loads(job.run.plan.read_text())["predictor"]
    assert recorded["flops_spearman"] == pytest.approx(1)
    assert recorded["name"] == "flops"
    assert set(recorded["qualities"]) == {"gcn", "flops", "ridge", "trees"}
    assert all(set(each) >= {"spearman", "coverage"} for each in recorded["qualities"].values())
    (said,) = [text for text in job.listener.said if "predictor:" in text]
    assert said.startswith(f"warning: {recorded['warning']}; predictor: flops alone, cross-validated Spearman")
    picked = [trial for trial in job.study.trials() if trial.number >= n_random]
    assert len(picked) == 3
