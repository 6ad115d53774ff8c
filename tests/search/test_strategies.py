"""Strategies on small spaces: their course after a break, what they may look at, and what they propose."""

import itertools

import numpy as np
import pytest
from fake_evaluators import Smooth

from hwnas import FeasibleSet, Limit, Study, search
from hwnas.belief import NormalBelief
from hwnas.evaluation import RestrictedSpace
from hwnas.evaluation.evaluator import Evaluator
from hwnas.execution import WorkerPool
from hwnas.pareto import is_non_dominated
from hwnas.predictors import RidgePredictor
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, Surrogate
from hwnas.strategies import (
    EPNAS,
    NSGA2,
    PNAS,
    IteratedPredictor,
    LocalSearch,
    NeuralPredictor,
    OptunaSampler,
    RandomSearch,
    RegularizedEvolution,
)
from hwnas.strategies.local_search import one_gene_changed
from hwnas.trial import Trial
from latency import DeviceCosts
from spaces import InputError, Task, get_space
from spaces.nasbench101 import RELEASED_RATES
from spaces.space import change_genes

MACRO = get_space("nasbench_macro")
COSTS = DeviceCosts(MACRO, Task(32, 10))
CELLS = get_space("nasbench101")
ACCURACIES = 0.5 + np.array(list(itertools.product(range(3), repeat=8))) @ 1.7 ** np.arange(8) / 1000  # of `Weighted`
BOTH = ("accuracy_val", "flops")


class Weighted(Evaluator):
    """An accuracy that rises with every gene, more with the later ones; no two networks alike."""

    def evaluate(self, arch, *, epochs, seed):
        return {"accuracy_val": 0.5 + float(np.dot(arch.genes, 1.7 ** np.arange(len(arch.genes)))) / 1000}


MAKERS = {
    "random": lambda: RandomSearch(planned=30),
    "evolution": lambda: RegularizedEvolution(population=8, sample=3),
    "local": LocalSearch,
    "nsga2": lambda: NSGA2(BOTH, population=6),
    "nsga2 alone": lambda: NSGA2(("accuracy_val",), population=6),
    "tpe": lambda: OptunaSampler("tpe"),
    "tpe-multivariate": lambda: OptunaSampler("tpe-multivariate", BOTH),
    "optuna nsga2": lambda: OptunaSampler("nsga2", BOTH, population=6),
    "predictor": lambda: NeuralPredictor(
        n_random=10, n_chosen=6, n_candidates=2000, J=None, predictor=RidgePredictor(), fallback=False
    ),
    "iterated": lambda: IteratedPredictor(n_random=6, batch=4, n_candidates=400),
    "epnas": lambda: EPNAS(networks=4, rollouts=3, fresh=10, batch=4),
    "thompson": lambda: IteratedPredictor(n_random=6, batch=4, n_candidates=400, acquisition="thompson"),
    "iterated front": lambda: IteratedPredictor(BOTH, n_random=6, batch=4, n_candidates=400),
}


def course(trials):
    return [(t.number, str(t.arch), dict(t.values)) for t in sorted(trials, key=lambda t: t.number)]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("parallel", "stop_after"), [pytest.param(1, 11, marks=pytest.mark.slow), (3, 13)])
def test_after_a_break_the_same_course_is_gone_on_with(tmp_path, name, parallel, stop_after):
    arguments = {"n_trials": 18, "seed": 5, "costs": COSTS, "parallel": parallel}
    whole = list(search(MACRO, Weighted(), MAKERS[name](), **arguments))
    path = tmp_path / "s.db"
    running = search(MACRO, Weighted(), MAKERS[name](), study=Study(path, MACRO, cost="flops"), **arguments)
    for _ in range(stop_after):
        next(running)
    running.close()
    list(search(MACRO, Weighted(), MAKERS[name](), study=Study(path, MACRO, cost="flops"), **arguments))
    assert course(Study(path, MACRO, cost="flops").trials()) == course(whole)


@pytest.mark.parametrize("name", ["evolution", "nsga2", "tpe", "iterated", "epnas"])
def test_the_course_does_not_depend_on_which_evaluation_ends_first(name):
    space = get_space("proxyless@w0.25")
    costs = DeviceCosts(space, Task(8, 10, 1))
    arguments = {"n_trials": 16, "seed": 3, "costs": costs, "parallel": 2}
    alone = list(search(space, Smooth(), MAKERS[name](), **arguments))
    with WorkerPool(2) as pool:
        together = list(search(space, Smooth(delay_s=0.1), MAKERS[name](), executor=pool, **arguments))
    assert course(alone) == course(together)
    assert course(list(search(space, Smooth(), MAKERS[name](), **{**arguments, "seed": 4}))) != course(alone)


@pytest.mark.parametrize("name", MAKERS)
def test_limits_hold_for_every_proposal(name):
    limit = Limit.parse("flops<=30M")
    trials = list(search(MACRO, Weighted(), MAKERS[name](), n_trials=24, seed=0, costs=COSTS, limits=[limit]))
    assert max(trial.values["flops"] for trial in trials) <= 30e6
    unlimited = search(MACRO, Weighted(), MAKERS[name](), n_trials=24, seed=0, costs=COSTS)
    assert max(trial.values["flops"] for trial in unlimited) > 30e6


@pytest.mark.parametrize("name", MAKERS)
def test_cells_of_any_size_are_proposed_and_failures_are_borne(name):
    class Sometimes(Evaluator):
        def evaluate(self, arch, *, epochs, seed):
            if seed % 3 == 0:
                raise FloatingPointError("diverged")
            return {"accuracy_val": 0.1 + 0.03 * len(arch.genes)}

    costs = DeviceCosts(CELLS, Task(32, 10))
    trials = list(search(CELLS, Sometimes(), MAKERS[name](), n_trials=24, seed=2, costs=costs))
    assert len(trials) == 24
    assert {trial.state for trial in trials} == {"complete", "failed"}


def started(strategy, space=MACRO, costs=COSTS, seed=0):
    strategy.start(FeasibleSet(space, costs), seed)
    return strategy


def tell(strategy, rows, accuracies):
    space = strategy.feasible.space
    first = len(strategy.told)
    strategy.tell(
        [
            Trial(first + i, space.arch(row), 1, 0, "complete", {"accuracy_val": float(a)})
            for i, (row, a) in enumerate(zip(rows, accuracies, strict=True))
        ]
    )


@pytest.mark.parametrize("name", MAKERS)
def test_a_strategy_that_is_used_again_is_as_new(name):
    used = MAKERS[name]()
    for seed in (0, 1):
        arguments = {"n_trials": 14, "seed": seed, "costs": COSTS}
        again = course(list(search(MACRO, Weighted(), used, **arguments)))
        assert again == course(list(search(MACRO, Weighted(), MAKERS[name](), **arguments)))


class Opposite(Surrogate):
    """Says of every network, left out, the opposite of the truth, or with `error` what is nearly true."""

    name = "opposite"

    def __init__(self, error=None):
        self.error = error

    def fit(self, population, values, *, feasible, seed):
        error = self.error

        class Fitted(FittedSurrogate):
            def predict(self, rows):
                return np.full(len(rows), 7.0), np.ones(len(rows))

            def left_out(self):
                opposite = values.max() + values.min() - values
                said = opposite if error is None else values.mean() - error * (values - values.mean())
                return NormalBelief(said, np.full(len(values), 0.01))

        return Fitted()


def test_flops_stand_in_for_a_surrogate_that_is_no_better():
    rows = MACRO.sample(24, np.random.default_rng(0))
    seen = COSTS.one("flops", rows) / 1e9
    strategy = started(IteratedPredictor(n_random=10, surrogate=Opposite()))
    tell(strategy, rows[:19], seen[:19])
    assert strategy.judgement.warning is None  # too few to be sure
    assert strategy.judgement.name == "opposite"
    assert strategy.scores() == pytest.approx((seen[:19] + 7) / 2)
    tell(strategy, rows[19:], seen[19:])
    assert "ranks no better than flops alone (Spearman -1.00 and 1.00)" in strategy.judgement.warning
    assert strategy.judgement.warning.endswith("which stand in for it")
    assert strategy.judgement.name == "flops"
    assert not strategy.remarks
    assert strategy.fitted(24).predict(rows)[0] == pytest.approx(seen, rel=0.3)
    assert len(strategy.remarks) == 1
    assert "flops stand in" in strategy.remarks[0]
    assert strategy.scores() == pytest.approx(seen)


class OppositeFrom(Opposite):
    """As good as can be of fewer networks than `n`, and then the opposite of the truth."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def fit(self, population, values, *, feasible, seed):
        return Opposite(error=-1.0 if len(values) < self.n else None).fit(
            population, values, feasible=feasible, seed=seed
        )


def test_flops_do_not_stand_in_at_the_first_doubt():
    rows = MACRO.sample(30, np.random.default_rng(0))
    seen = COSTS.one("flops", rows) / 1e9
    strategy = started(IteratedPredictor(n_random=10, surrogate=OppositeFrom(22)))
    tell(strategy, rows[:24], seen[:24])
    assert "ranks no better" in strategy.judgement.warning
    assert strategy.judgement.name == "opposite"  # of the first 19 networks it was better
    tell(strategy, rows[24:], seen[24:])
    assert strategy.judgement.name == "flops"


def test_what_is_remarked_in_one_part_of_a_run_is_what_the_next_part_remarks(tmp_path):
    """A run trains its random networks and the others with a strategy each; the second need not see the first doubt."""
    remarks = []
    for n in (30, 42):
        strategy = IteratedPredictor(n_random=10, surrogate=Opposite())
        study = Study(tmp_path / "s.db", MACRO, cost="flops")
        list(search(MACRO, Weighted(), strategy, n_trials=n, seed=0, costs=COSTS, study=study))
        remarks.append(list(strategy.remarks))
    assert remarks[0] == remarks[1]
    assert len(remarks[0]) == 1


def test_a_surrogate_of_small_errors_is_only_warned_of():
    rows = MACRO.sample(24, np.random.default_rng(0))
    random = np.random.default_rng(1).random(24)
    flops = np.log(COSTS.one("flops", rows))
    seen = 0.5 + 0.1 * random + 0.001 * (flops - flops.mean())
    strategy = started(IteratedPredictor(n_random=10, surrogate=Opposite(error=1e-6)))
    tell(strategy, rows, seen)
    judgement = strategy.judgement
    assert "ranks no better" in judgement.warning
    assert judgement.name == "opposite"
    assert judgement.qualities["opposite"].rmse < judgement.qualities["flops"].rmse


class TooLarge(Weighted):
    """As `Weighted`, but networks of more flops do not fit, though they would be the best."""

    def __init__(self, costs, most):
        self.costs, self.most = costs, most

    def evaluate(self, arch, *, epochs, seed):
        if self.costs.one("flops", self.costs.space.row(arch)[None])[0] > self.most:
            raise MemoryError("too large")
        return super().evaluate(arch, epochs=epochs, seed=seed)


def most_flops(costs, rows, share):
    return np.quantile(costs.one("flops", rows), share)


@pytest.mark.parametrize("name", ["iterated", "thompson", "iterated front", "epnas"])
def test_networks_of_a_kind_that_fails_are_soon_left_alone(name):
    most = most_flops(COSTS, np.array(list(itertools.product(range(3), repeat=8))), 0.7)
    trials = list(search(MACRO, TooLarge(COSTS, most), MAKERS[name](), n_trials=48, seed=1, costs=COSTS))
    assert sum(trial.state == "failed" for trial in trials[24:]) <= 8


def test_pnas_grows_what_trained_to_the_end():
    """On a long chain whose smallest networks alone fit; grown from those that failed, all that follow would fail."""
    space = get_space("proxyless@w0.25")
    costs = DeviceCosts(space, Task(32, 10))
    grown = space.simplest(1, np.random.default_rng(0))
    for _ in range(3):  # the middle child of the middle child ...
        grown = space.grow(grown)
        grown = grown[np.argsort(costs.one("flops", grown), kind="stable")[[len(grown) // 2]]]
    evaluator = TooLarge(costs, costs.one("flops", grown)[0])
    trials = list(search(space, evaluator, PNAS(K=3, first=10), n_trials=48, seed=0, costs=costs))
    failed = [trial.state == "failed" for trial in trials]
    assert any(failed)
    assert sum(failed[24:]) <= 12


def test_where_most_of_a_space_fails_the_few_that_trained_show_the_way():
    rows = np.array(list(itertools.product(range(3), repeat=8)))
    evaluator, found = TooLarge(COSTS, most_flops(COSTS, rows, 0.05)), []
    for seed in range(3):
        strategy = started(IteratedPredictor(n_random=12, batch=4), seed=seed)
        first = strategy.ask(12)
        for number, row in enumerate(first):
            try:
                told = ("complete", evaluator.evaluate(MACRO.arch(row), epochs=1, seed=0), None)
            except MemoryError as error:
                told = ("failed", {}, str(error))
            strategy.tell([Trial(number, MACRO.arch(row), 1, 0, *told)])
        assert 1 <= sum(trial.state == "complete" for trial in strategy.told) < 5
        found.extend(COSTS.one("flops", strategy.ask(4)) <= evaluator.most)
    assert np.mean(found) > 0.75  # of drawn ones 0.25


def test_a_search_whose_first_networks_all_failed_draws_others():
    strategy = started(IteratedPredictor(n_random=6, batch=4))
    first = strategy.ask(6)
    strategy.tell([Trial(i, MACRO.arch(row), 1, 0, "failed", {}, "too large") for i, row in enumerate(first)])
    others = strategy.ask(4)
    assert len(np.unique(MACRO.canonical(np.concatenate([first, others])), axis=0)) == 10
    assert strategy.chosen() is None


@pytest.mark.parametrize(("space", "n"), [("darts@4x8", 10_000), ("nasbench101", 40_000), ("nasbench_macro", 40_000)])
def test_fewer_candidates_are_drawn_where_each_takes_long(space, n, monkeypatch):
    space, asked = get_space(space), []
    strategy = started(IteratedPredictor(), space, DeviceCosts(space, Task(32, 10)))
    draw = FeasibleSet.sample
    rows = strategy.ask(10)
    tell(strategy, rows, np.linspace(0.5, 0.9, 10))
    monkeypatch.setattr(FeasibleSet, "sample", lambda self, n, rng: asked.append(n) or draw(self, n, rng))
    strategy.ask(1)
    assert max(asked) <= n < 1.4 * max(asked)  # mutants are the others


def test_a_phase_is_a_whole_batch_to_the_end_of_a_small_space(tmp_path):
    """Seven networks of which three are new when a batch of four is planned; after a break the course is the same."""
    table = RestrictedSpace(MACRO, np.unique(MACRO.canonical(MACRO.sample(9, np.random.default_rng(0))), axis=0)[:8])
    costs = DeviceCosts(table, Task(32, 10))

    def run(path, n):
        strategy = IteratedPredictor(n_random=5, batch=4)
        study = Study(path, table, cost="flops")
        return course(list(search(table, Weighted(), strategy, n_trials=n, seed=0, costs=costs, study=study)))

    whole = run(tmp_path / "whole.db", 16)
    run(tmp_path / "broken.db", 11)
    run(tmp_path / "broken.db", 16)
    assert course(Study(tmp_path / "broken.db", table, cost="flops").trials()) == whole
    assert {arch for _, arch, _ in whole[:9]} == {str(table.arch(row)) for row in table.rows}


def test_evolution_mutates_the_best_of_a_sample_of_the_youngest():
    """With a sample as large as the population, the parent is the best of the last 5, whatever was before."""
    strategy = started(RegularizedEvolution(population=5, sample=5))
    rows = np.diag(np.full(8, 2)).astype(np.int64)
    tell(strategy, rows, [0.9, 0.8, 0.7, 0.1, 0.6, 0.5, 0.2, 0.3])  # rows 3 to 7 are alive: the best is row 4
    for _ in range(30):
        (child,) = strategy.ask(1)
        changed = int((child != rows[4]).sum())
        assert 1 <= changed <= 6
    # With one in the sample, each of the five is the parent about as often, and the others never are.
    even = started(RegularizedEvolution(population=5, sample=1, rate=0.0))
    rows = np.tile(np.stack([np.arange(8) // 3, np.arange(8) % 3], axis=1), 4)  # any two differ in four genes or more
    tell(even, rows, np.arange(8))
    distance = (even.ask(1000)[:, None, :] != rows).sum(axis=2)
    assert (distance.min(axis=1) == 1).all()
    parents = np.bincount(distance.argmin(axis=1), minlength=8)
    assert parents[:3].sum() == 0
    assert parents[3:].min() > 140


def test_the_released_rates_change_operations_and_edges_as_often_as_the_notebook_does():
    whole = CELLS.numbered(np.array([CELLS.cardinality - 1]))
    assert (whole >= 0).all()
    parents = np.repeat(whole, 20_000, axis=0)
    changed = (change_genes(parents, CELLS.choices, np.random.default_rng(0), RELEASED_RATES) != parents).mean(axis=0)
    # One gene is changed for certain, which adds (1 - rate) / 26.
    expected = RELEASED_RATES + (1 - RELEASED_RATES) / 26
    assert changed == pytest.approx(expected, abs=0.015)
    assert sorted(set(RELEASED_RATES.tolist())) == [pytest.approx(1 / 7), pytest.approx(1 / 5)]
    assert (RELEASED_RATES == 1 / 5).sum() == 5


def test_local_search_trains_all_neighbours_and_ends_on_local_optima():
    trials = list(search(MACRO, Weighted(), LocalSearch(), n_trials=120, seed=2))
    values = {trial.arch.genes: trial.values["accuracy_val"] for trial in trials}
    assert len(values) == 120  # none is trained twice
    # By definition: the second phase are the neighbours of the first network that are other networks.
    start = np.array(trials[0].arch.genes)
    around = one_gene_changed(start, MACRO.choices)
    assert len(around) == 16
    keys = {tuple(key) for key in MACRO.canonical(around)} - {tuple(MACRO.canonical(start[None])[0])}
    phase = [tuple(MACRO.canonical(np.array([t.arch.genes]))[0]) for t in trials[1 : 1 + len(keys)]]
    assert set(phase) == keys
    best = max(values, key=values.get)
    assert best == (2,) * 8  # this landscape has one optimum, and a climb takes at most 8 steps of 16


def test_nsga2_finds_the_front_that_random_search_does_not():
    def front_size(strategy, seed):
        trials = list(search(MACRO, Weighted(), strategy, n_trials=200, seed=seed, costs=COSTS))
        points = {(-t.values["accuracy_val"], t.values["flops"]) for t in trials}
        return sum(tuple(point) in points for point in FRONT)

    rows = np.array(list(itertools.product(range(3), repeat=8)))
    F = np.stack([-(0.5 + rows @ 1.7 ** np.arange(8) / 1000), COSTS.one("flops", rows)], axis=1)
    FRONT = [f for f in F if not ((f >= F).all(axis=1) & (f > F).any(axis=1)).any()]
    ours = sum(front_size(NSGA2(BOTH), seed) for seed in range(3))
    random = sum(front_size(RandomSearch(planned=200), seed) for seed in range(3))
    assert ours > 2 * random


@pytest.mark.parametrize("kind", ["tpe", "tpe-multivariate", "gp"])
def test_samplers_of_optuna_learn(kind):
    n = 20 if kind == "gp" else 60
    trials = list(search(MACRO, Weighted(), OptunaSampler(kind), n_trials=n, seed=0))
    values = [trial.values["accuracy_val"] for trial in trials]
    assert np.mean(values[-8:]) > np.mean(values[:10]) + 0.05
    assert max(values) > np.quantile(ACCURACIES, 0.99)


def test_the_iterated_predictor_needs_fewer_trainings_than_random_search():
    table = RestrictedSpace(MACRO, np.unique(MACRO.canonical(MACRO.sample(3000, np.random.default_rng(0))), axis=0))
    costs = DeviceCosts(table, Task(32, 10))
    best = max(Weighted().evaluate(table.arch(row), epochs=1, seed=0)["accuracy_val"] for row in table.rows)
    for acquisition in ("ucb", "thompson"):
        strategy = started(IteratedPredictor(acquisition=acquisition), table, costs)
        while len(strategy.told) < 49:
            rows = strategy.ask(3)
            tell(strategy, rows, [0.5 + row @ 1.7 ** np.arange(8) / 1000 for row in rows])
        assert max(strategy.told_accuracies()) == best  # of about 2,000, random search would find it once in 40
        assert len(np.unique(strategy.told_rows(), axis=0)) == 49


def test_of_equally_good_networks_any_is_taken():
    """Not the first of a table; and which one, the seed decides."""

    class Indifferent(Surrogate, FittedSurrogate):
        def fit(self, population, values, *, feasible, seed):
            return self

        def predict(self, population):
            return np.full(len(population), 0.5), np.full(len(population), 0.1)

    table = RestrictedSpace(MACRO, np.unique(MACRO.canonical(MACRO.sample(3000, np.random.default_rng(0))), axis=0))
    found = {}
    for seed in (0, 1, 0):
        strategy = IteratedPredictor(n_random=4, batch=8, surrogate=Indifferent())
        started(strategy, table, DeviceCosts(table, Task(32, 10)), seed)
        tell(strategy, strategy.ask(4), [0.5] * 4)
        places = table.places(strategy.ask(8)).tolist()
        assert found.setdefault(seed, places) == places
        assert np.mean(places) > len(table.rows) / 8  # the first ones of the table are 0 to 11
    assert found[0] != found[1]


def test_what_surrogates_draw_differs_between_seeds_and_phases():
    class Noting(GaussianProcess):
        def fit(self, population, values, *, feasible, seed):
            seen.append(seed)
            return super().fit(population, values, feasible=feasible, seed=seed)

    seen = []
    for seed in range(8):
        strategy = started(IteratedPredictor(n_random=5, batch=1, n_candidates=50, surrogate=Noting()), seed=seed)
        for _ in range(8):
            tell(strategy, rows := strategy.ask(1), [0.5 + 0.01 * row.sum() for row in rows])
    assert len(set(seen)) == len(seen) == 8 * 3


def test_the_iterated_predictor_finds_more_of_a_front_than_nsga2():
    table = RestrictedSpace(MACRO, np.unique(MACRO.canonical(MACRO.sample(3000, np.random.default_rng(0))), axis=0))
    costs = DeviceCosts(table, Task(32, 10))

    accuracies = 0.5 + table.rows @ 1.7 ** np.arange(8) / 1000
    F = np.stack([-accuracies, costs.one("flops", table.rows)], axis=1)
    front = {tuple(point) for point in F[is_non_dominated(F)]}

    def found(strategy):
        trials = search(table, Weighted(), strategy, n_trials=60, seed=0, costs=costs)
        return len(front & {(-trial.values["accuracy_val"], trial.values["flops"]) for trial in trials})

    assert found(IteratedPredictor(BOTH)) > 2 * found(NSGA2(BOTH))


def test_costs_that_only_training_tells_are_no_objectives_of_the_iterated_predictor():
    with pytest.raises(InputError, match="train_seconds is not known before training"):
        started(IteratedPredictor(("accuracy_val", "train_seconds")))


def test_the_iterated_predictor_chooses_by_its_mean():
    """A middling network was lucky by five times the noise: the raw best is it, the model knows better."""
    strategy = started(IteratedPredictor())
    rows = np.unique(MACRO.canonical(MACRO.sample(60, np.random.default_rng(3))), axis=0)
    truth = 0.5 + rows @ np.arange(1, 9) / 200
    lucky = int(np.argmin(np.abs(truth - truth.max() + 0.05)))
    seen = truth + np.random.default_rng(0).normal(0, 0.01, len(rows))
    seen[lucky] = seen.max() + 0.002
    tell(strategy, rows, seen)
    assert strategy.told[int(np.argmax(seen))].arch == MACRO.arch(rows[lucky])
    chosen = MACRO.row(strategy.chosen().arch)
    assert 0.5 + chosen @ np.arange(1, 9) / 200 >= np.sort(truth)[-5]
    assert started(RandomSearch()).chosen() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: RegularizedEvolution(population=5, sample=6),
        lambda: NSGA2((), population=6),
        lambda: OptunaSampler("cma"),
        lambda: OptunaSampler("tpe", ()),
        lambda: IteratedPredictor(batch=0),
        lambda: IteratedPredictor(acquisition="ei"),
        lambda: IteratedPredictor(("flops",)),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(InputError):
        make()
