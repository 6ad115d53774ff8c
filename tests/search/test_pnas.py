"""PNAS against its algorithm written out plainly, and growth under limits against brute force."""

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from fake_evaluators import Smooth

from hwnas import FeasibleSet, InfeasibleError, Limit, Study, search
from hwnas.evaluation import RestrictedSpace
from hwnas.evaluation.evaluator import Evaluator
from hwnas.growth import PARENTS_AT_ONCE, GrowthLimits, children_in_parts, first_of_each, never_falls
from hwnas.predictors.sequence import SequenceSurrogate
from hwnas.predictors.surrogate import FittedSurrogate, GaussianProcess, Surrogate
from hwnas.strategies import PNAS
from hwnas.strategies import pnas as module
from hwnas.trial import Trial
from latency import DeviceCosts
from spaces import InputError, Task, get_space
from spaces.space import SearchSpace

TASK = Task(32, 10)
MACRO = get_space("nasbench_macro")
COSTS = DeviceCosts(MACRO, TASK)
SMALL = get_space("proxyless@8,8x1,8x3s2,16x2s2,8")
PNAS_SPACE = get_space("pnas@1x8,b3")
CELLS = get_space("nasbench101")
WEIGHTS = 1 + 5 * np.arange(100) % 11  # whole numbers, so that sums in any order are equal, and ties are real


class Weighted(Evaluator):
    """An accuracy that rises with every gene."""

    def evaluate(self, arch, *, epochs, seed):
        return {"accuracy_val": float(np.array(arch.genes) @ WEIGHTS[: len(arch.genes)]) / 10_000}


@dataclass(frozen=True)
class Known(Surrogate):
    """A surrogate that was handed a weight of each gene of canonical rows, and need not learn."""

    sign: float = 1.0

    def fit(self, population, values, *, feasible, seed):
        assert np.isfinite(values).all()
        return FittedKnown(self.sign, feasible.space)


@dataclass(frozen=True)
class FittedKnown(FittedSurrogate):
    sign: float
    space: SearchSpace

    def predict(self, population):
        keys = self.space.canonical(population)
        return self.sign * (keys @ WEIGHTS[: keys.shape[1]]).astype(float), np.ones(len(keys))


def key(space, row):
    return tuple(space.canonical(np.asarray(row)[None])[0].tolist())


def algorithm_1(space, first, K, levels, *, limits=(), costs=None):
    """The levels of the paper's algorithm, network by network, the true weights for a surrogate."""
    feasible = FeasibleSet(space, costs, limits)
    done = {key(space, row) for row in first}
    found, beam = [list(map(tuple, first.tolist()))], list(first)
    for _ in range(levels):
        children = {}
        for parent in beam:
            grown = space.grow(np.asarray(parent)[None])
            for k, child, met in zip(space.canonical(grown).tolist(), grown, feasible.holds(grown), strict=True):
                if tuple(k) not in done and met:
                    children.setdefault(tuple(k), child)
        mean = {k: np.array(k) @ WEIGHTS[: len(k)] for k in children}
        best = sorted(children, key=lambda k: (-mean[k], k))[:K]
        beam = [children[k] for k in best]
        done |= set(best)
        found.append(best)
    return found


def levels_asked(strategy, space, evaluator, n_trials, sizes, **arguments):
    trials = list(search(space, evaluator, strategy, n_trials=n_trials, seed=0, **arguments))
    ends = np.cumsum(sizes)
    rows = [space.row(trial.arch) for trial in trials]
    return [[key(space, row) for row in rows[end - size : end]] for end, size in zip(ends, sizes, strict=True)]


@pytest.mark.parametrize(
    ("space", "first", "K", "levels"), [(MACRO, 7, 5, 9), (SMALL, 8, 6, 5), (PNAS_SPACE, 12, 6, 2), (CELLS, 7, 4, 3)]
)
def test_the_course_is_algorithm_1_of_the_paper(space, first, K, levels):
    sizes = [first, *[K] * levels]
    strategy = PNAS(K=K, first=first, surrogate=Known())
    asked = levels_asked(strategy, space, Weighted(), sum(sizes), sizes)
    start = space.simplest(first, np.random.default_rng([0, 0]))
    expected = algorithm_1(space, start, K, levels)
    assert sorted(asked[0]) == sorted(key(space, row) for row in start)
    assert asked[1:] == expected[1:]
    everything = list(itertools.chain(*asked))
    assert len(set(everything)) == len(everything)


def test_the_first_level_of_the_paper_are_all_cells_of_one_block():
    space = get_space("pnas@2x24")
    strategy = PNAS(K=256, first=136, surrogate=Known())
    strategy.start(FeasibleSet(space), 0)
    rows = strategy.ask(200)
    assert len(rows) == 136  # and then it waits for their accuracies
    assert (space.n_blocks(rows) == 1).all()
    assert len(np.unique(space.canonical(rows), axis=0)) == 136


def test_the_beam_of_the_paper_are_256_children_of_136_cells():
    space = get_space("pnas@2x24")
    strategy = PNAS(first=136, surrogate=Known())
    strategy.start(FeasibleSet(space), 0)
    rows = strategy.ask(1000)
    values = {"accuracy_val": 0.5}
    strategy.tell([Trial(i, space.arch(row), 1, 0, "complete", values) for i, row in enumerate(rows)])
    beam = strategy.ask(1000)
    assert (len(rows), len(beam)) == (136, 256)
    assert (space.n_blocks(beam) == 2).all()


def test_parts_of_children_change_nothing(monkeypatch):
    """Many parts instead of one: memory is bounded, and what is chosen is the same, ties included."""

    @dataclass(frozen=True)
    class Ties(FittedKnown):
        def predict(self, population):
            mean, std = super().predict(population)
            return np.round(mean, -1), std

    monkeypatch.setattr(Known, "fit", lambda self, population, values, *, feasible, seed: Ties(1.0, feasible.space))
    costs, limit = DeviceCosts(SMALL, TASK), Limit.parse("params<=9000")
    courses = []
    for at_once in (1 << 16, 30):
        monkeypatch.setattr(module, "children_in_parts", lambda s, p, n=at_once, **_: _parts(s, p, n))
        for cost in (None, "flops"):
            strategy = PNAS(K=20, first=30, surrogate=Known(), cost=cost, J=2)
            trials = search(SMALL, Weighted(), strategy, n_trials=90, seed=1, costs=costs, limits=[limit])
            courses.append([str(trial.arch) for trial in trials])
    assert courses[0] == courses[2]
    assert courses[1] == courses[3]
    assert courses[0] != courses[1]


def _parts(space, parents, at_once):
    return children_in_parts(space, parents, at_once=at_once)


def test_children_come_in_parts_of_about_one_size():
    parents = MACRO.sample(500, np.random.default_rng(0))
    parts = list(children_in_parts(MACRO, parents, at_once=200))
    assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, MACRO.grow(parents)))
    assert max(map(len, parts)) < 400
    assert list(children_in_parts(MACRO, parents[:0])) == []


def test_childless_parents_do_not_let_parts_grow_without_bound():
    """Ten thousand parents that have grown to the end, then some with children: the part of those stays bounded."""

    class Watched:
        sizes = ()

        def grow(self, parents):
            self.sizes += (len(parents),)
            return np.repeat(parents[parents[:, 0] == 1], 1000, axis=0)

    space, parents = Watched(), np.repeat([[0], [1]], [10_000, 2000], axis=0)
    parts = list(children_in_parts(space, parents))
    assert sum(space.sizes) == len(parents)
    assert sum(map(len, parts)) == 2_000_000
    assert max(space.sizes) == PARENTS_AT_ONCE
    assert all(after <= 2 * before for before, after in itertools.pairwise(space.sizes))
    assert max(map(len, parts)) <= PARENTS_AT_ONCE * 1000
    assert np.quantile([len(part) for part in parts if len(part)], 0.6) <= 1 << 16


def test_the_first_of_equal_rows_is_found_whatever_the_hash(monkeypatch):
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 3, size=(2000, 5))
    expected = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    assert np.array_equal(first_of_each(keys), expected)
    assert len(first_of_each(keys[:0])) == 0

    class Bad:
        def integers(self, high, size):
            return np.zeros(size, dtype=np.int64)  # all factors are 1 then, and rows of one sum collide

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Bad())
    assert np.array_equal(first_of_each(keys), expected)


def test_after_the_last_level_the_children_of_all_that_was_trained_follow():
    """Of a space that grows no more: the best of all children, wherever their parents stand."""
    strategy = PNAS(K=4, first=7, levels=2, surrogate=Known())
    trials = list(search(MACRO, Weighted(), strategy, n_trials=7 + 4 + 4 + 4, seed=0))
    rows = np.stack([MACRO.row(trial.arch) for trial in trials])
    known = {key(MACRO, row) for row in rows[:15]}
    children = {key(MACRO, child) for child in MACRO.grow(rows[:15])} - known
    best = sorted(children, key=lambda k: (-(np.array(k) @ WEIGHTS[:8]), k))[:4]
    assert [key(MACRO, row) for row in rows[15:]] == best
    # A table is trained to its end, then networks come again, as of other strategies.
    few = RestrictedSpace(MACRO, MACRO.simplest(30, np.random.default_rng(0)))
    trials = list(search(few, Weighted(), PNAS(K=4, first=7, surrogate=Known()), n_trials=34, seed=0))
    assert len({str(trial.arch) for trial in trials}) == 30


@pytest.mark.parametrize("J", [1, 3])
def test_of_two_objectives_the_soft_front_of_a_level_is_trained(J):
    """All children of the level by brute force, the front by counting who dominates."""
    strategy = PNAS(K=8, first=30, surrogate=Known(), cost="flops", J=J)
    trials = list(search(MACRO, Weighted(), strategy, n_trials=38, seed=0, costs=COSTS))
    rows = np.stack([MACRO.row(trial.arch) for trial in trials])
    known = {key(MACRO, row) for row in rows[:30]}
    children = np.array(sorted({key(MACRO, child) for child in MACRO.grow(rows[:30])} - known))
    mean, flops = children @ WEIGHTS[:8], COSTS.one("flops", children)
    dominated_by = (
        (mean[None] >= mean[:, None])
        & (flops[None] <= flops[:, None])
        & ((mean[None] > mean[:, None]) | (flops[None] < flops[:, None]))
    ).sum(axis=1)
    front = {tuple(child) for child in children[dominated_by < J].tolist()}
    picked = [key(MACRO, row) for row in rows[30:]]
    assert len(picked) == 8 == len(set(picked))
    if len(front) >= 8:
        assert set(picked) <= front
        assert max(np.array(row) @ WEIGHTS[:8] for row in picked) == mean.max()
        assert np.ptp(COSTS.one("flops", np.array(picked))) > 0.6 * np.ptp(flops[dominated_by < J])
    else:  # the whole front, then the highest means of the others
        others = sorted(set(map(tuple, children.tolist())) - front, key=lambda k: (-(np.array(k) @ WEIGHTS[:8]), k))
        assert set(picked) == front | set(others[: 8 - len(front)])


@pytest.mark.parametrize("space", [MACRO, CELLS, PNAS_SPACE], ids=["macro", "nasbench101", "pnas"])
def test_every_child_names_the_most_promising_network_that_it_grew_from(space):
    """Against growing each network of the level before: of those that have the child, the one of the highest mean."""
    strategy, trials, before = PNAS(K=5, first=8, n_simplest=12, surrogate=Known()), [], []
    strategy.start(FeasibleSet(space), 0)
    named = []
    while len(trials) < 18:
        rows = strategy.ask(10)
        grown = {p: {key(space, child) for child in space.grow(space.row(trials[p].arch)[None])} for p in before}
        worth = {p: np.array(key(space, space.row(trials[p].arch))) @ WEIGHTS[: len(rows[0])] for p in before}
        level = list(range(len(trials), len(trials) + len(rows)))
        for number, row in zip(level, rows, strict=True):
            having = [p for p in before if key(space, row) in grown[p]]
            named.append(strategy.parent(number))
            assert named[-1] == (max(having, key=lambda p: (worth[p], -p)) if having else None)
        for number, row in zip(level, rows, strict=True):
            state = "failed" if number == level[0] else "complete"  # whose weights nobody can start from
            values = {} if state == "failed" else {"accuracy_val": number / 20}
            trials.append(Trial(number, space.arch(row), 1, 0, state, values))
        strategy.tell(trials[level[0] :])
        before = level[1:]
    assert named[:8] == [None] * 8
    assert sum(parent is not None for parent in named[8:]) >= 5
    assert strategy.parent(len(trials)) is None


class Walked(DeviceCosts):
    """Costs of a device on which latency is estimated network by network: counted here, and made of flops."""

    def __init__(self, space, task):
        super().__init__(space, task)
        self.table = SimpleNamespace(walks_records=True, additive=lambda: None)
        self.seen = set()

    def interval(self, name, population):
        if name != "latency_ms":
            return super().interval(name, population)
        self.seen |= {row.tobytes() for row in population}
        ms = self.one("flops", population) / 1e6
        return 0.9 * ms, 1.1 * ms

    def of(self, population):
        return self._counts.of(population)


@pytest.mark.parametrize("cost", [None, "latency_ms_estimated"])
def test_where_estimates_take_long_only_the_most_promising_children_are_estimated(cost, monkeypatch):
    """A level of some thousand children: 100 are estimated, limits hold, and the best of them are trained."""
    monkeypatch.setattr(module, "WALKED", 100)
    costs = Walked(PNAS_SPACE, TASK)
    children = PNAS_SPACE.grow(PNAS_SPACE.simplest(20, np.random.default_rng([0, 0])))
    limit = Limit("latency_ms", "<=", 1.1 * float(np.quantile(costs.one("flops", children), 0.3)) / 1e6)
    strategy = PNAS(K=6, first=20, surrogate=Known(), cost=cost)
    feasible = FeasibleSet(PNAS_SPACE, costs, [limit])
    strategy.start(feasible, 0)
    first = strategy.ask(20)
    strategy.tell(
        [Trial(i, PNAS_SPACE.arch(row), 1, 0, "complete", {"accuracy_val": 0.5}) for i, row in enumerate(first)]
    )
    costs.seen.clear()
    rows = strategy.ask(6)
    assert len(rows) == 6
    assert len(costs.seen) == 100 < len(np.unique(PNAS_SPACE.canonical(children), axis=0)) / 10
    assert feasible.holds(rows).all()
    everything = np.unique(PNAS_SPACE.canonical(PNAS_SPACE.grow(first)), axis=0)
    means = everything[feasible.holds(everything)] @ WEIGHTS[: everything.shape[1]]
    best = max(np.array(key(PNAS_SPACE, row)) @ WEIGHTS[: everything.shape[1]] for row in rows)
    assert best >= np.quantile(means, 0.98)  # it may miss the very best, which is the price


def test_what_a_surrogate_hopes_least_is_not_trained():
    asked = {}
    for sign in (1.0, -1.0):
        strategy = PNAS(K=3, first=7, surrogate=Known(sign))
        trials = list(search(MACRO, Weighted(), strategy, n_trials=30, seed=0))
        asked[sign] = np.mean([trial.values["accuracy_val"] for trial in trials])
    assert asked[1.0] > asked[-1.0]


def test_the_chosen_network_is_the_one_of_the_highest_mean():
    strategy = PNAS(K=4, first=7, surrogate=Known(-1.0))
    trials = list(search(MACRO, Weighted(), strategy, n_trials=20, seed=0))
    chosen = strategy.chosen()
    assert chosen == min(trials, key=lambda trial: trial.values["accuracy_val"])
    young = PNAS(K=4, first=7)
    young.start(FeasibleSet(MACRO), 0)
    young.tell(trials[:4])
    assert young.chosen() == max(trials[:4], key=lambda trial: trial.values["accuracy_val"])


# --- limits ---

EVERY = np.array(list(itertools.product(range(3), repeat=8)))
VALUES = COSTS.of(EVERY)
MEDIANS = {name: float(np.median(VALUES[name])) for name in ("params", "flops", "intensity")}
THREE = [
    Limit("params", "<=", MEDIANS["params"]),
    Limit("flops", "<=", MEDIANS["flops"]),
    Limit("intensity", ">=", MEDIANS["intensity"]),
]


@pytest.mark.parametrize("cost", [None, "params"])
def test_limits_hold_for_all_that_is_asked(cost):
    """Also where the simplest networks miss a lower limit, which growth may meet."""
    strategy = PNAS(K=6, first=8, surrogate=GaussianProcess(), cost=cost)
    trials = list(search(MACRO, Weighted(), strategy, n_trials=80, seed=0, costs=COSTS, limits=THREE))
    for limit in THREE:
        assert limit.holds([trial.values[limit.name] for trial in trials]).all()
    assert len({key(MACRO, MACRO.row(trial.arch)) for trial in trials}) == 80
    assert not FeasibleSet(MACRO, COSTS, THREE).holds(MACRO.simplest(7, np.random.default_rng(0))).any()


@pytest.mark.parametrize("space", [MACRO, SMALL], ids=["macro", "proxyless"])
def test_what_is_pruned_has_no_descendant_that_meets_the_limit(space):
    costs = DeviceCosts(space, TASK)
    row = space.simplest(1, np.random.default_rng(0))
    everything = np.unique(np.concatenate([row, *_descendants(space, row)]), axis=0)
    for name in ("params", "flops", "weight_bytes"):
        limit = Limit(name, "<=", float(np.quantile(costs.one(name, everything), 0.3)))
        feasible = FeasibleSet(space, costs, [limit])
        assert never_falls(feasible, name)
        hopeless = GrowthLimits(feasible).hopeless(everything)
        assert 0 < hopeless.sum() < len(everything)
        for parent in everything[hopeless][:: max(1, hopeless.sum() // 40)]:
            for level in _descendants(space, parent[None]):
                assert not feasible.holds(level).any()


def _descendants(space, rows):
    while len(rows := space.grow(rows)):
        rows = np.unique(rows, axis=0)
        yield rows


def test_no_bound_is_claimed_where_growth_may_lower_a_cost():
    """Cells do have cheaper children, so that what they miss now may be met later; and intensity falls in chains."""
    for space, name in ((PNAS_SPACE, "params"), (CELLS, "params"), (CELLS, "flops"), (MACRO, "intensity")):
        costs = DeviceCosts(space, TASK)
        feasible = FeasibleSet(space, costs, [Limit(name, "<=", 1.0)])
        assert not never_falls(feasible, name)
        parents = space.simplest(200, np.random.default_rng(0))
        falls = [
            costs.one(name, children).min() < costs.one(name, parent[None])[0]
            for parent in parents[-40:]
            if len(children := space.grow(parent[None]))
        ]
        assert any(falls)
    assert not never_falls(FeasibleSet(MACRO), "params")


def test_every_chain_step_is_asked_before_a_bound_is_claimed(monkeypatch):
    """A table in which one step of one gene is cheaper proves nothing."""
    feasible = FeasibleSet(MACRO, COSTS, [Limit("flops", "<=", 5e7)])
    assert never_falls(feasible, "flops")
    cost, error = COSTS.additive("flops")
    for gene, before, after in ((0, 0, 1), (7, 1, 2)):
        table = cost.table.copy()
        table[gene, after] = table[gene, before] - 1
        changed = type(cost)(cost.constant, table)
        monkeypatch.setattr(COSTS, "additive", lambda name, changed=changed: (changed, error))
        assert not never_falls(feasible, "flops")


@pytest.mark.parametrize("limits", [THREE, THREE[:1]])
def test_pruning_changes_nothing_in_the_result(monkeypatch, limits):
    course, grown = {}, {}
    for prunes in (True, False):
        if not prunes:
            monkeypatch.setattr(GrowthLimits, "hopeless", lambda self, rows: np.zeros(len(rows), dtype=bool))
        monkeypatch.setattr(PNAS, "_bridges_kept", lambda self, met, k: self.n_bridges)
        strategy = PNAS(K=6, first=8, surrogate=Known(), n_bridges=10_000)
        count = []
        monkeypatch.setattr(module, "children_in_parts", lambda s, p, c=count, **_: _counted(s, p, c))
        trials = list(search(MACRO, Weighted(), strategy, n_trials=60, seed=0, costs=COSTS, limits=limits))
        course[prunes], grown[prunes] = [str(trial.arch) for trial in trials], sum(count)
    assert course[True] == course[False]
    assert grown[True] < grown[False] / 2


def _counted(space, parents, count):
    for children in children_in_parts(space, parents):
        count.append(len(children))
        yield children


def test_limits_under_which_all_are_reached_are_those_of_brute_force():
    """Trained to the end, with every bridge kept, PNAS finds each network that meets the limits once."""
    distinct = np.unique(MACRO.canonical(EVERY), axis=0)
    tight = [
        Limit("params", "<=", float(np.quantile(VALUES["params"], 0.15))),
        Limit("intensity", ">=", float(np.quantile(VALUES["intensity"], 0.4))),
    ]
    feasible = FeasibleSet(MACRO, COSTS, tight)
    expected = distinct[feasible.holds(distinct)]
    assert 50 < len(expected) < 600
    strategy = PNAS(K=800, first=1, n_simplest=1000, surrogate=Known(), n_bridges=10_000)
    n = len(expected)
    trials = list(search(MACRO, Weighted(), strategy, n_trials=n, seed=0, costs=COSTS, limits=tight))
    assert {key(MACRO, MACRO.row(trial.arch)) for trial in trials} == {tuple(row) for row in expected.tolist()}


# --- a break, failures ---


@pytest.mark.parametrize("parallel", [1, 3])
def test_after_a_break_the_same_course_is_gone_on_with(tmp_path, parallel):
    arguments = {"n_trials": 40, "seed": 5, "costs": COSTS, "limits": THREE, "parallel": parallel}
    make = lambda: PNAS(K=6, first=8)  # noqa: E731
    whole = [(t.number, str(t.arch)) for t in search(MACRO, Smooth(), make(), **arguments)]
    path = tmp_path / "study.db"
    running = search(MACRO, Smooth(), make(), study=Study(path, MACRO, cost="flops"), **arguments)
    for _ in range(23):
        next(running)
    running.close()
    list(search(MACRO, Smooth(), make(), study=Study(path, MACRO, cost="flops"), **arguments))
    again = [(t.number, str(t.arch)) for t in Study(path, MACRO, cost="flops").trials()]
    assert sorted(again) == sorted(whole)


def test_failures_are_borne():
    class Sometimes(Evaluator):
        def evaluate(self, arch, *, epochs, seed):
            if seed % 3:
                raise FloatingPointError("diverged")
            return {"accuracy_val": 0.1 + 0.03 * len(arch.genes)}

    class Never(Evaluator):
        def evaluate(self, arch, *, epochs, seed):
            if len(arch.genes) > 1:
                raise FloatingPointError("diverged")
            return {"accuracy_val": 0.1}

    for evaluator in (Sometimes(), Never()):
        strategy = PNAS(K=5, first=10)
        trials = list(search(CELLS, evaluator, strategy, n_trials=30, seed=2, costs=DeviceCosts(CELLS, TASK)))
        assert len(trials) == 30
        assert {trial.state for trial in trials} == {"complete", "failed"}
        assert strategy.chosen().state == "complete"


# --- bad input ---


class Rootless(SearchSpace):
    """A space that says nothing about growth."""

    name, choices = "rootless", (3, 3)

    def is_valid(self, population):
        return self.in_range(population)

    def layers(self, arch, task):
        raise NotImplementedError


class Barren(Rootless):
    name = "barren"

    def simplest(self, k, rng):
        return np.array([[0, 0], [0, 1]])[:k]

    def canonical(self, population):
        return population


def first_ask(strategy, space, costs=None, limits=()):
    strategy.start(FeasibleSet(space, costs, limits), 0)
    return strategy.ask(1)


def test_a_space_that_cannot_grow_is_named():
    with pytest.raises(InputError, match=r"rootless must give simplest\(\) and grow\(\).*does not give simplest"):
        first_ask(PNAS(K=2), Rootless())
    with pytest.raises(InputError, match=r"barren must give simplest\(\) and grow\(\).*does not give grow"):
        first_ask(PNAS(K=2), Barren())


def test_a_beam_larger_than_its_level_is_refused_before_anything_is_trained():
    grown = len(np.unique(MACRO.canonical(MACRO.grow(MACRO.simplest(7, np.random.default_rng(0)))), axis=0)) - 6
    assert len(first_ask(PNAS(K=grown, first=7), MACRO)) == 1
    with pytest.raises(InputError, match=rf"K = {grown + 1} of each level, but only {grown} networks grow from the 7"):
        first_ask(PNAS(K=grown + 1, first=7), MACRO)
    few = RestrictedSpace(MACRO, MACRO.simplest(30, np.random.default_rng(0)))
    with pytest.raises(InputError, match="begins with 31 networks, but nasbench_macro has 30"):
        first_ask(PNAS(K=1, first=31), few)


def test_limits_that_the_simplest_networks_violate_are_refused_before_anything_is_trained():
    least = VALUES["params"].min()
    assert len(first_ask(PNAS(K=6, first=7), MACRO, COSTS, [Limit("params", "<=", least)])) == 1
    with pytest.raises(InfeasibleError, match=r"7 simplest networks miss them, and growth only adds: the least params"):
        first_ask(PNAS(K=6, first=7), MACRO, COSTS, [Limit("params", "<=", least - 1)])
    costs = DeviceCosts(PNAS_SPACE, TASK)
    with pytest.raises(InfeasibleError, match=r"none found in .* the nearest is"):
        first_ask(PNAS(K=6, first=20, n_bridges=5), PNAS_SPACE, costs, [Limit("params", "<=", 1)])


def test_where_nothing_that_grows_meets_the_limits_it_begins_with_what_does():
    """A table of small networks, and of large ones that no step of growth leads to."""
    small, large = MACRO.simplest(40, np.random.default_rng(0)), EVERY[(EVERY == 2).sum(axis=1) >= 7]
    table = RestrictedSpace(MACRO, np.unique(MACRO.canonical(np.concatenate([small, large])), axis=0))
    above = Limit("params", ">=", float(COSTS.one("params", large).min()))
    strategy = PNAS(K=4, first=7, surrogate=Known())
    trials = list(search(table, Weighted(), strategy, n_trials=10, seed=0, costs=COSTS, limits=[above]))
    assert len({str(trial.arch) for trial in trials}) == 10
    assert COSTS.one("params", np.stack([MACRO.row(trial.arch) for trial in trials])).min() >= above.value
    assert strategy.remarks[0].startswith("nothing that grew from the 7 simplest networks meets the limits")
    with pytest.raises(InfeasibleError):
        first_ask(PNAS(K=4, first=7), table, COSTS, [Limit("params", ">=", 1e9)])


def test_a_lower_limit_that_most_meet_makes_no_level_slower(monkeypatch):
    """Children that miss it grow with their level only so many times the beam: not a thousand of them."""
    space, grown = get_space("pnas@1x8,b4"), []
    costs = DeviceCosts(space, TASK)
    below = float(np.quantile(costs.one("params", space.sample(500, np.random.default_rng(0))), 0.05))
    monkeypatch.setattr(module, "children_in_parts", lambda s, p, **_: _noted(s, p, grown))
    strategy = PNAS(K=3, first=10, surrogate=Known())
    list(search(space, Weighted(), strategy, n_trials=19, seed=0, costs=costs, limits=[Limit("params", ">=", below)]))
    assert max(grown) <= 60, grown  # in the end all that was trained grows, and its bridges


def _noted(space, parents, grown):
    grown.append(len(parents))
    yield from children_in_parts(space, parents)


@pytest.mark.parametrize(
    "settings", [{"K": 0}, {"K": 2, "first": 0}, {"K": 2, "first": 4, "n_simplest": 3}, {"levels": -1}]
)
def test_settings_that_make_no_search_are_refused(settings):
    with pytest.raises(InputError, match="PNAS needs K and first of at least 1"):
        PNAS(**settings)


def test_a_cost_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="the cost flops needs"):
        first_ask(PNAS(K=2, first=7, cost="flops"), MACRO)
    with pytest.raises(InputError, match="speed is not known before training"):
        first_ask(PNAS(K=2, first=7, cost="speed"), MACRO, COSTS)


def test_the_predictors_of_the_paper_are_judged_in_a_search():
    """Members say what they left out, so that flops are set beside it, as beside other surrogates."""
    strategy = PNAS(K=5, first=10, surrogate=SequenceSurrogate("mlp", width=8, epochs=10))
    list(search(MACRO, Weighted(), strategy, n_trials=25, seed=0, costs=COSTS))
    judgement = strategy.judgement
    assert judgement is not None
    assert set(judgement.qualities) == {"sequences", "flops"}
