"""The strategies of the main job: set up for a plan, refused where settings do not go together, and a whole run."""

import concurrent.futures as cf
import csv
import json
import time
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
from commands import run_here

from hwnas import FeasibleSet, SoftLimit, Study
from hwnas.evaluation.evaluator import Evaluator
from hwnas.trial import Trial
from latency import DeviceCosts
from pipelines.config import RunConfig
from pipelines.plan import Plan
from pipelines.progress import Listener
from pipelines.run_folder import RunFolder
from pipelines.run_record import RunRecord
from pipelines.search import Clock, _run_trials, _save_plan
from pipelines.strategies import EDITS, SOFT, STRATEGIES, Setting, drawn_first
from spaces import InputError, Task, get_space

SPACE = "proxyless@8,8x1,16x2s2,24x2s2,64"
FIELDS = {"job": "search", "data": "digits", "data_root": "data", "space": SPACE, "trials": 6}


class Timed(DeviceCosts):
    """Costs of a device on which every block takes 1 ms."""

    def interval(self, name, population):
        ms = (population != 6).sum(axis=1).astype(float)
        return (ms, ms) if name == "latency_ms" else super().interval(name, population)


def value_of(row):
    return {"accuracy_val": 0.5 + 0.4 * float(np.mean(row != 6)), "latency_ms_estimated": float(np.sum(row != 6))}


def course(name, setting, n):
    space = get_space(SPACE)
    strategy = STRATEGIES[name](setting)
    strategy.start(FeasibleSet(space, Timed(space, Task(8, 10, 1))), 3)
    rows = []
    for number in range(n):
        (row,) = strategy.ask(1)
        strategy.tell([Trial(number, space.arch(row), 1, 0, "complete", value_of(row))])
        rows.append(row)
    assert space.is_valid(np.array(rows)).all()
    return np.array(rows)


@pytest.mark.parametrize("job", ["search", "frontier"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_second_part_of_a_plan_may_still_change_in_size(name, job):
    """A budget is planned anew after the first part: what was proposed until then must stay what it was."""
    soft = (SoftLimit.parse("params<=10k"),) if name in SOFT else ()
    setting, replanned = (Setting(14, later, 2, job, soft) for later in (6, 12))
    first, again = course(name, setting, 20), course(name, replanned, 14)
    assert np.array_equal(first[:14], again)


class Quick(Evaluator):
    """What `value_of` says, without a training."""

    def evaluate(self, arch, *, epochs, seed):
        return value_of(np.array(arch.genes))


class Threads(cf.ThreadPoolExecutor):
    def __init__(self, workers):
        super().__init__(workers)
        self.workers = workers


def trained(path, name, upto, workers):
    """The networks of a run, gone on with until trial `upto` by so many workers."""
    space = get_space(SPACE)
    run = RunFolder.prepare(path, RunConfig.of(**FIELDS, strategy=name))
    plan = Plan(12, 12, 1, 1, 1)
    with Threads(workers) as pool:
        job = SimpleNamespace(
            config=RunConfig.of(**FIELDS, strategy=name),
            run=run,
            space=space,
            costs=Timed(space, Task(8, 10, 1)),
            evaluator=Quick(),
            pool=pool,
            study=Study(run.study, space, cost="flops"),
            clock=Clock(time.monotonic()),
            listener=Listener(),
        )
        _save_plan(job, plan)
        _run_trials(job, plan, Plan(upto, 0, 1, 1, 1), "networks")
        return [trial.arch for trial in job.study.trials()]


@pytest.mark.parametrize("name", ["evolution", "iterated", "pnas", "epnas"])
def test_on_another_number_of_cores_a_run_takes_the_same_course(name, tmp_path):
    whole = trained(tmp_path / "whole", name, 24, workers=7)
    assert trained(tmp_path / "broken", name, 14, workers=7) == whole[:14]
    assert trained(tmp_path / "broken", name, 24, workers=1) == whole
    assert trained(tmp_path / "fewer", name, 24, workers=1) != whole
    RunFolder.check(tmp_path / "whole", RunConfig.of(**FIELDS, strategy=name, workers=3))


def test_how_many_are_drawn_first():
    stored = RunRecord(plan=Plan(28, 12, 1, 4, 10), workers=1)
    assert {name: drawn_first(name, stored) for name in STRATEGIES} == {
        "neural-predictor": 28,
        "random": 40,
        "iterated": 10,
        "evolution": 20,
        "nsga2": 10,
        "tpe": 10,
        "pnas": 10,
        "epnas": 10,
    }
    assert drawn_first("pnas", stored.model_copy(update={"n_first": 17})) == 17  # as the strategy found out


@pytest.mark.parametrize(("n_random", "n_first", "said"), [(140, 136, ""), (50, 10, "10 of 136 simplest networks")])
def test_pnas_trains_all_cells_of_one_block_where_the_plan_has_room(n_random, n_first, said):
    """The paper trains all 136; a smaller plan takes some, and says so."""
    space = get_space("pnas@1x8")
    strategy = STRATEGIES["pnas"](Setting(n_random, 20, 2, "search"))
    strategy.start(FeasibleSet(space, DeviceCosts(space, Task(8, 10, 1))), 0)
    rows = strategy.ask(200)
    assert len(rows) == n_first
    assert (space.n_blocks(rows) == 1).all()
    assert said in " ".join(strategy.remarks)
    strategy.tell(
        [Trial(i, space.arch(row), 1, 0, "complete", {"accuracy_val": i / 200}) for i, row in enumerate(rows)]
    )
    assert (space.n_blocks(strategy.ask(5)) == 2).all()
    assert strategy.n_first == n_first


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "magic"}, "--strategy must be one of neural-predictor, random"),
        ({"strategy": "random", "soft_limits": ("params<=1M",)}, "--soft-limit needs a strategy that weighs it"),
        ({"strategy": "tpe", "warm_start": True}, "--warm-start needs a strategy that makes networks from trained"),
        ({"strategy": "epnas", "soft_limits": ("params<=1M@2",)}, "lies between 0 and 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        RunConfig.of(**FIELDS, **fields)
    assert set(SOFT) | set(EDITS) <= set(STRATEGIES)


def test_a_run_of_another_strategy_is_left_alone(tmp_path):
    RunFolder.prepare(tmp_path / "run", RunConfig.of(**FIELDS))
    with pytest.raises(InputError, match=r"other settings \(strategy: 'epnas' != 'iterated'\)"):
        RunFolder.check(tmp_path / "run", RunConfig.of(**FIELDS, strategy="epnas"))
    # Runs of earlier versions, which name none, are of the default.
    config = tmp_path / "run" / "config.toml"
    kept = [line for line in config.read_text().splitlines() if not line.startswith(("strategy", "warm", "soft"))]
    config.write_text("\n".join(kept))
    assert RunFolder.check(tmp_path / "run", RunConfig.of(**FIELDS)).config.is_file()


@pytest.mark.slow
def test_epnas_searches_with_soft_limits_and_warm_starts(tmp_path):
    words = ["search", "--data", "digits", "--space", SPACE, "--trials", "14", "--epochs", "1", "--final-epochs", "1"]
    words += ["--finalists", "1", "--workers", "1", "--limit", "params<=20k", "--run", "run", "--json"]
    own = ["--strategy", "epnas", "--soft-limit", "params<=6k@0.5", "--warm-start"]
    done = run_here(*words, *own, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "about 14 networks by epnas" in done.stderr
    outcome, run = json.loads(done.stdout), tmp_path / "run"
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["strategy"], config["soft_limits"], config["warm_start"]) == ("epnas", ["params<=6000@0.5"], True)
    with (run / "trials.csv").open() as file:
        params = [float(row["params"]) for row in csv.DictReader(file)]
    assert len(params) == 14
    assert max(params) <= 20_000
    # The reward of a network of 20,000 parameters is a fifth of its accuracy. Which networks are drawn depends on the
    # latencies that were measured just now, so that some runs find none of 6,000.
    assert outcome["chosen"]["params"] <= 12_000
    assert sorted(int(file.stem) for file in (run / "weights").iterdir()) == list(range(14))
    _check_warm(run)
    other = run_here(*words, "--strategy", "iterated", cwd=tmp_path, home=tmp_path / "home")
    assert other.returncode == 2
    assert "strategy: 'iterated' != 'epnas'" in other.stdout


def _check_warm(run):
    """Which trials began with other weights, and whose, stands in the record, and in the report that some did."""
    with (run / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    warm = [trial for trial in trials if float(trial["is_warm"])]
    assert warm
    assert all(int(trial["parent"]) < int(trial["number"]) for trial in warm)
    assert all(not float(trial["is_warm"]) for trial in trials if not trial["parent"])
    page = " ".join((run / "report.html").read_text().split())
    assert f"{len(warm)} trial{'' if len(warm) == 1 else 's'} began with the weights of another" in page
    assert "Final models were trained from random weights" in page


@pytest.mark.slow
def test_pnas_starts_children_from_their_parents(tmp_path):
    words = ["search", "--data", "digits", "--space", SPACE, "--trials", "16", "--epochs", "1", "--final-epochs", "1"]
    words += ["--finalists", "1", "--workers", "1", "--run", "run", "--json", "--strategy", "pnas", "--warm-start"]
    done = run_here(*words, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    _check_warm(tmp_path / "run")


@pytest.mark.slow
def test_what_a_strategy_remarks_is_said_once_and_kept(tmp_path):
    words = ["search", "--data", "digits", "--space", "pnas@1x8", "--trials", "11", "--epochs", "0.2"]
    words += ["--final-epochs", "0.2", "--finalists", "1", "--workers", "1", "--run", "run", "--strategy", "pnas"]
    done = run_here(*words, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    (remark,) = json.loads((tmp_path / "run" / "plan.json").read_text())["remarks"]
    assert "of 136 simplest networks, drawn" in remark
    assert (done.stdout + done.stderr).count(remark) == 1
    assert remark in (tmp_path / "run" / "report.html").read_text()
