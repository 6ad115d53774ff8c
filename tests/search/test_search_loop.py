"""The search loop: one seed, one course, whatever ends first, fails, or was interrupted."""

import functools
import sqlite3
from dataclasses import dataclass, replace

import numpy as np
import optuna
import pytest
from fake_evaluators import Faulty, Smooth

from hwnas import Limit, Study, search
from hwnas.evaluation.evaluator import Evaluator
from hwnas.execution import WorkerPool
from hwnas.predictors import FittedPredictor, Predictor, RidgePredictor
from hwnas.search_loop import SearchFailedError
from hwnas.strategies import EPNAS, PNAS, NeuralPredictor, RandomSearch, Strategy
from latency import DeviceCosts
from spaces import InputError, Task, get_space

SPACE = get_space("proxyless@8,8x1,16x3s2,24x3s2,64")  # few genes: each takes its time to record
COSTS = DeviceCosts(SPACE, Task(8, 10, 1))
LIMIT = Limit.parse("flops<=500k")  # of 1 in 50 networks


class Follower(Strategy):
    """Proposes a row that depends on everything it was told and on its own draws."""

    def propose(self, k, rng):
        told = sum(7 * t.number + sum(t.arch.genes) * int(1000 * t.values.get("accuracy_val", 0)) for t in self.told)
        return self.feasible.space.sample(1, np.random.default_rng([told, int(rng.integers(1 << 30))]))[0]


class Counting(Evaluator):
    def __init__(self):
        self.asked = []

    def evaluate(self, arch, *, epochs, seed):
        self.asked.append(str(arch))
        return Smooth().evaluate(arch, epochs=epochs, seed=seed)


def Ridged():  # noqa: N802  stands among classes
    return NeuralPredictor(n_random=10, n_chosen=4, n_candidates=500, predictor=RidgePredictor())


def Focused():  # noqa: N802
    chosen = {"n_random": 10, "n_chosen": 8, "n_candidates": 500, "focus": 0.5}
    return NeuralPredictor(**chosen, predictor=RidgePredictor(), fallback=False)


def course(trials):
    return [(t.number, str(t.arch), t.seed, dict(t.values)) for t in sorted(trials, key=lambda t: t.number)]


@pytest.mark.parametrize("strategy", [RandomSearch, Follower, Ridged])
def test_the_course_does_not_depend_on_which_evaluation_ends_first(strategy):
    arguments = {"n_trials": 14, "seed": 3, "limits": [LIMIT], "costs": COSTS, "parallel": 2}
    alone = list(search(SPACE, Smooth(), strategy(), **arguments))
    with WorkerPool(2) as pool:
        together = list(search(SPACE, Smooth(delay_s=0.3), strategy(), executor=pool, **arguments))
    assert course(alone) == course(together)
    other = list(search(SPACE, Smooth(), strategy(), **{**arguments, "seed": 4}))
    assert course(other) != course(alone)


@functools.cache
def undisturbed(strategy, n_trials, parallel):
    return tuple(search(SPACE, Smooth(), strategy(), n_trials=n_trials, seed=3, costs=COSTS, parallel=parallel))


@pytest.mark.parametrize("strategy", [RandomSearch, Follower, Ridged])
@pytest.mark.parametrize("stop_after", [1, pytest.param(10, marks=pytest.mark.slow), 12])
@pytest.mark.parametrize("parallel", [1, 3])
def test_going_on_gives_the_same_course_and_evaluates_nothing_twice(tmp_path, strategy, stop_after, parallel):
    arguments = {"n_trials": 14, "seed": 3, "costs": COSTS, "parallel": parallel}
    whole = undisturbed(strategy, 14, parallel)
    first, second = Counting(), Counting()
    running = search(SPACE, first, strategy(), study=Study(tmp_path / "s.db", SPACE, cost="flops"), **arguments)
    for _ in range(stop_after):
        next(running)
    running.close()
    study = Study(tmp_path / "s.db", SPACE, cost="flops")
    recorded = [str(t.arch) for t in study.trials()]
    assert stop_after <= len(recorded)
    list(search(SPACE, second, strategy(), study=study, **arguments))
    assert course(study.trials()) == course(whole)
    assert len(second.asked) == 14 - len(recorded)


def test_a_gap_in_the_record_is_filled(tmp_path):
    """Killed while trial 3 ran and trials 4 and 5 had ended."""
    arguments = {"n_trials": 10, "seed": 1, "costs": COSTS, "parallel": 3}
    whole = list(search(SPACE, Smooth(), Follower(), **arguments))
    study = Study(tmp_path / "s.db", SPACE, cost="flops")
    for trial in whole:
        if trial.number in {0, 1, 2, 4, 5}:
            study.add(trial)
    counting = Counting()
    list(search(SPACE, counting, Follower(), study=study, **arguments))
    assert course(study.trials()) == course(whole)
    assert len(counting.asked) == 5


@pytest.mark.parametrize("in_flight", [{}, {11}, {12, 14}])
@pytest.mark.parametrize("known", [10, 12, 13, 17])
def test_a_predictor_picks_the_same_wherever_its_picks_were_interrupted(tmp_path, known, in_flight):
    arguments = {"n_trials": 18, "seed": 3, "costs": COSTS, "parallel": 3}
    whole = undisturbed(Focused, 18, 3)
    study = Study(tmp_path / "s.db", SPACE, cost="flops")
    for trial in whole:
        if trial.number < known and trial.number not in in_flight:
            study.add(trial)
    list(search(SPACE, Smooth(), Focused(), study=study, **arguments))
    assert course(study.trials()) == course(whole)


def test_a_record_of_another_seed_is_refused(tmp_path):
    study = Study(tmp_path / "s.db", SPACE, cost="flops")
    trials = list(search(SPACE, Smooth(), RandomSearch(), n_trials=4, seed=1, costs=COSTS))
    for trial in trials:
        if trial.number != 1:
            study.add(trial)
    with pytest.raises(InputError, match="trial 2 of this run must be"):
        list(search(SPACE, Smooth(), RandomSearch(), n_trials=4, seed=2, costs=COSTS, study=study, parallel=2))


def test_failures_are_recorded_and_the_search_goes_on(tmp_path):
    study = Study(tmp_path / "s.db", SPACE, cost="flops")
    with WorkerPool(2) as pool:
        trials = list(
            search(
                SPACE,
                Faulty(),
                RandomSearch(),
                n_trials=16,
                seed=0,
                costs=COSTS,
                study=study,
                executor=pool,
                parallel=2,
            )
        )
    assert len(trials) == 16
    for trial in study.trials():
        reasons = {0: "FloatingPointError: the loss is not finite", 1: "WorkerDiedError", 2: ""}
        expected = reasons[trial.arch.genes[0]]
        assert trial.reason.startswith(expected)
        assert trial.state == ("failed" if expected else "complete")
        assert trial.values["flops"] > 0
    assert {trial.arch.genes[0] for trial in trials} == {0, 1, 2}


def test_when_everything_fails_the_fault_is_said():
    class Broken(Evaluator):
        def evaluate(self, arch, *, epochs, seed):
            raise RuntimeError("no weights")

    with pytest.raises(SearchFailedError, match="RuntimeError: no weights"):
        list(search(SPACE, Broken(), RandomSearch(), n_trials=50, seed=0, costs=COSTS))


def test_a_users_mistake_ends_the_search():
    class Mistaken(Evaluator):
        def evaluate(self, arch, *, epochs, seed):
            raise InputError("the data must be there")

    with pytest.raises(InputError, match="must be there"):
        list(search(SPACE, Mistaken(), RandomSearch(), n_trials=3, seed=0, costs=COSTS))


def test_limits_hold_for_everything_that_is_evaluated_and_picks_are_better():
    strategy = NeuralPredictor(n_random=30, n_chosen=10, n_candidates=2000, focus=1.0)
    trials = list(search(SPACE, Smooth(), strategy, n_trials=40, seed=0, limits=[LIMIT], costs=COSTS))
    assert all(trial.values["flops"] <= 5e6 for trial in trials)
    keys = SPACE.canonical(np.stack([SPACE.row(trial.arch) for trial in trials]))
    assert len(np.unique(keys, axis=0)) == 40
    random, picked = ([t.values["accuracy_val"] for t in part] for part in (trials[:30], trials[30:]))
    assert np.mean(picked) > np.quantile(random, 0.9)


@dataclass(frozen=True)
class Clueless(Predictor, FittedPredictor):
    """Predicts the less, the more the flops."""

    def fit(self, graphs, features, targets, *, seed):
        return self

    def predict(self, graphs, features):
        return -features[:, 1], np.ones(len(features))


def test_a_predictor_that_ranks_no_better_than_flops_gives_way():
    settings = {"n_random": 20, "n_chosen": 6, "n_candidates": 500, "J": None, "predictor": Clueless()}
    strategy, kept = NeuralPredictor(**settings), NeuralPredictor(**settings, fallback=False)
    assert strategy.judgement is None
    trials, others = (
        list(search(SPACE, Smooth(), each, n_trials=26, seed=0, costs=COSTS)) for each in (strategy, kept)
    )
    assert trials[:20] == others[:20]
    assert strategy.judgement.name in ("ridge", "trees", "flops")
    assert "ranks no better" in strategy.judgement.warning
    assert kept.judgement is None
    random = [trial.values["flops"] for trial in trials[:20]]
    assert np.mean([trial.values["flops"] for trial in others[20:]]) < np.quantile(random, 0.1)
    picked = [trial.values["accuracy_val"] for trial in trials[20:]]
    assert np.mean(picked) > np.quantile([trial.values["accuracy_val"] for trial in trials[:20]], 0.9)
    assert strategy.chosen() in trials


def test_spread_picks_cover_the_cost_axis():
    strategy = NeuralPredictor(n_random=30, n_chosen=8, n_candidates=2000, focus=0.0)
    trials = list(search(SPACE, Smooth(), strategy, n_trials=38, seed=0, costs=COSTS))
    random, picked = ([t.values["flops"] for t in part] for part in (trials[:30], trials[30:]))
    assert np.ptp(picked) > 0.7 * np.ptp(random)


@pytest.mark.parametrize(
    ("given", "said"), [({"accuracy": 0.5}, "accuracy"), ({}, "nothing"), (None, "None"), (0.5, "0.5")]
)
def test_an_evaluator_that_gives_no_accuracy_is_named(given, said):
    class Nameless(Evaluator):
        def evaluate(self, arch, *, epochs, seed):
            return given

    with pytest.raises(InputError, match=rf"must give accuracy_val by name, but of .* it gave {said}$"):
        list(search(SPACE, Nameless(), RandomSearch(), n_trials=1, seed=0))


def test_the_study_is_an_optuna_study_and_survives_a_cut_write(tmp_path):
    path = tmp_path / "s.db"
    study = Study(path, SPACE, cost="flops")
    trials = list(search(SPACE, Smooth(), RandomSearch(), n_trials=5, seed=0, costs=COSTS, study=study))
    opened = optuna.load_study(study_name="hwnas", storage=f"sqlite:///{path}")
    assert [t.values for t in opened.trials] == [[t.values["accuracy_val"], t.values["flops"]] for t in trials]
    assert opened.trials[0].params["gene_00"] == trials[0].arch.genes[0]
    # A process that dies inside a transaction leaves the trials before it whole.
    connection = sqlite3.connect(path)
    connection.execute("insert into trials (study_id, state) values (1, 'RUNNING')")
    del connection
    assert course(Study(path, SPACE, cost="flops").trials()) == course(trials)


def test_a_file_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "s.db").write_text("not a database, but long enough to be taken for one")
    with pytest.raises(InputError, match="must be a study"):
        Study(tmp_path / "s.db", SPACE)


@pytest.mark.parametrize("make", [lambda: PNAS(K=5, first=8), lambda: EPNAS(networks=4, rollouts=2, fresh=2)])
def test_phases_that_are_not_what_is_recorded_are_refused(make, tmp_path):
    """Else the parents and edits of a network would be those of another: a trial is swapped, or its accuracy."""
    space = get_space("nasbench_macro")
    costs = DeviceCosts(space, Task(32, 10))
    trials = list(search(space, Smooth(), make(), n_trials=25, seed=3, costs=costs))

    def gone_on(name, number, **changes):
        study = Study(tmp_path / name, space, cost="flops")
        for trial in trials:
            study.add(replace(trial, **changes) if trial.number == number else trial)
        return list(search(space, Smooth(), make(), n_trials=30, seed=3, costs=costs, study=study))

    assert len(gone_on("same.db", 16)) == 5
    with pytest.raises(InputError, match=r"trial 16 of this run must be nasbench_macro:.*recorded") as error:
        gone_on("other.db", 16, arch=space.arch([2] * 8))
    assert "another seed, plan or version" in error.value.hint
    with pytest.raises(InputError, match=r"trial \d+ of this run must be nasbench_macro:.*recorded"):
        gone_on("better.db", 2, values={"accuracy_val": 0.99, "flops": 1.0})
