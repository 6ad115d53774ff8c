"""EPNAS: which edits there are, what the policy learns, and the course of a search."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hwnas import FeasibleSet, Limit, SoftLimit, search
from hwnas.evaluation import RestrictedSpace
from hwnas.evaluation.evaluator import Evaluator
from hwnas.predictors.surrogate import FittedSurrogate, Surrogate
from hwnas.strategies import EPNAS, RandomSearch
from hwnas.strategies.edit_policy import Choices, EditPolicy
from hwnas.strategies.edits import Edits
from hwnas.trial import Trial
from latency import DeviceCosts
from spaces import InputError, Task, get_space

MACRO = get_space("nasbench_macro")
COSTS = DeviceCosts(MACRO, Task(32, 10))
ALL = 0.5 + np.array(list(itertools.product(range(3), repeat=8))) @ 1.7 ** np.arange(8) / 1000  # of `Weighted`
PROXYLESS = "proxyless@8,8x1,8x3s2,16x2s2,8"
CELLS = ["nasbench101", "pnas", "nasnet", "darts"]


class Weighted(Evaluator):
    """An accuracy that rises with every gene, more with the later ones."""

    def evaluate(self, arch, *, epochs, seed):
        return {"accuracy_val": 0.5 + float(np.dot(arch.genes, 1.7 ** np.arange(len(arch.genes)))) / 1000}


@dataclass(frozen=True)
class MadeUp(Surrogate, FittedSurrogate):
    """Predictions that are given, whatever the trainings say."""

    mean: Callable
    std: Callable = lambda rows: np.zeros(len(rows))
    name = "made up"

    def fit(self, population, values, *, feasible, seed):
        return self

    def predict(self, population):
        return self.mean(population), self.std(population)


def nothing_known(rows):
    return np.full(len(rows), 0.5)


def size(rows):
    return 0.5 + np.asarray(rows).sum(axis=-1) / 100


def told(strategy, rows, accuracies):
    first = len(strategy.told)
    for number, (row, accuracy) in enumerate(zip(rows, accuracies, strict=True), start=first):
        strategy.tell([Trial(number, MACRO.arch(row), 1, 0, "complete", {"accuracy_val": float(accuracy)})])


def rows_of(space, children, legal, row):
    return {tuple(child) for child in children[row][legal[row]].tolist()}


@pytest.mark.parametrize("name", ["nasbench_macro", PROXYLESS])
def test_edits_of_chains_are_steps_of_growth_their_reverse_and_changes_of_layers(name):
    """By definition: one gene other; from an identity only what `grow` inserts."""
    space = get_space(name)
    rows = space.canonical(space.sample(30, np.random.default_rng(0)))
    children, legal = Edits(space).of(rows, np.random.default_rng(1))
    for i, row in enumerate(rows):
        grown = {tuple(child) for child in space.grow(row[None]).tolist()}
        expected = set()
        for gene, values in enumerate(space.allowed):
            for value in np.flatnonzero(values):
                child = (*row[:gene].tolist(), int(value), *row[gene + 1 :].tolist())
                if row[gene] != space.identity or child in grown:
                    expected.add(tuple(space.canonical(np.array([child]))[0].tolist()))
        assert rows_of(space, children, legal, i) == expected - {tuple(row.tolist())}
        assert {tuple(space.canonical(np.array([child]))[0].tolist()) for child in grown} <= expected


@pytest.mark.parametrize("name", CELLS)
def test_edits_of_cells_change_insert_and_remove(name):
    space = get_space(name)
    rows = np.concatenate([space.simplest(5, np.random.default_rng(0)), space.sample(20, np.random.default_rng(1))])
    children, legal = Edits(space).of(rows, np.random.default_rng(2))
    used = (rows >= 0).sum(axis=1)
    longer, shorter = children[legal[:, -2], -2], children[legal[:, -1], -1]
    assert space.is_valid(children[legal]).all()
    assert (children[legal] != rows[np.nonzero(legal)[0]]).any(axis=1).all()
    # What is inserted is what `grow` may insert, and the rest stays: PNAS's and EPNAS's step.
    for parent, child in zip(rows[legal[:, -2]], longer, strict=True):
        grown = space.canonical(space.grow(parent[None]))
        assert (grown == space.canonical(child[None])).all(axis=1).any()
    assert ((longer >= 0).sum(axis=1) > used[legal[:, -2]]).all()
    assert ((shorter >= 0).sum(axis=1) < used[legal[:, -1]]).all()
    kept = shorter >= 0
    assert (shorter[kept] == rows[legal[:, -1]][kept]).all()
    has_children = np.array([len(space.grow(row[None])) > 0 for row in rows])
    assert 0 < has_children.sum() < len(rows)
    assert legal[has_children, -2].mean() > 0.9  # an insertion is found nearly always
    assert not legal[~has_children, -2].any()
    assert legal[:, :-2].any(axis=1).mean() > 0.9


def test_in_a_table_only_its_networks_are_made_and_the_share_is_counted():
    table = RestrictedSpace(MACRO, np.unique(MACRO.canonical(MACRO.sample(300, np.random.default_rng(0))), axis=0))
    rows = table.rows[:40]
    children, legal = Edits(table).of(rows, np.random.default_rng(0))
    everywhere, possible = Edits(MACRO).of(rows, np.random.default_rng(0))
    assert (table.places(children[legal]) >= 0).all()
    inside = table.places(everywhere[possible]) >= 0
    assert legal.sum() == inside.sum()
    assert (table.proposed.drawn, table.proposed.inside) == (inside.size, inside.sum())


def policy_of(**settings):
    return EditPolicy(8, 3, **{"hidden": 16, "lr": 0.02, "entropy": 0.0, "seed": 0, **settings})


def test_the_policy_learns_the_edit_that_is_rewarded_and_chooses_only_legal_ones():
    rng = np.random.default_rng(0)
    rows, policy = MACRO.sample(64, rng), policy_of()
    legal = np.ones((64, 26), dtype=bool)
    legal[:, 24:] = False
    before = policy.probabilities(rows, legal)
    assert before[:, :24] == pytest.approx(1 / 24, abs=0.02)
    assert (before[:, 24:] == 0).all()
    good = rows[:, 0] * 3  # which edit is good depends on the network
    for _ in range(150):
        chosen = policy.choose(rows, legal, rng)
        policy.learn(Choices(rows, legal, chosen), 0.9 + 0.01 * (chosen == good), source="predicted")
    assert policy.probabilities(rows, legal)[np.arange(64), good].mean() > 0.8
    none = np.zeros((3, 26), dtype=bool)
    assert policy.choose(rows[:3], none, rng).tolist() == [-1] * 3


def test_each_source_of_rewards_has_a_baseline_of_its_own():
    """Trained networks are the best of the predicted: beside those, a bad one would still look good."""
    rows, legal = np.zeros((40, 8), dtype=np.int64), np.ones((40, 26), dtype=bool)
    edits = Choices(rows, legal, np.repeat([0, 1], 20))
    alone, beside = policy_of(), policy_of()
    rewards = np.repeat([0.80, 0.90], 20)
    for _ in range(5):
        assert alone._advantage(rewards, "trained") == pytest.approx(beside._advantage(rewards, "trained"))
        beside._advantage(rewards - 0.5, "predicted")
    assert alone._advantage(rewards, "trained")[:20].max() < 0
    alone.learn(edits, rewards, source="trained")
    odds = alone.probabilities(rows[:1], legal[:1])[0]
    assert odds[1] > odds[0]


@pytest.mark.parametrize(
    ("limits", "soft", "focus", "n"),
    [
        (["params<=10M"], [], 1.0, 16),
        (["latency_ms<=10"], [], 1.0, 2),
        ([], ["latency_ms<=10"], 1.0, 2),
        ([], [], 0.5, 2),
        ([], [], 1.0, 16),
    ],
)
def test_fewer_networks_are_edited_only_where_each_latency_has_to_be_estimated_alone(limits, soft, focus, n):
    space = get_space("pnas")
    costs = DeviceCosts(space, Task(32, 10))
    strategy = EPNAS(soft=[SoftLimit.parse(text) for text in soft], focus=focus)
    strategy.start(FeasibleSet(space, costs, [Limit.parse(text) for text in limits]), 0)
    assert strategy._few(16) == 16  # no device, no estimate
    costs.table = SimpleNamespace(walks_records=True)
    assert strategy._few(16) == n
    costs.table = SimpleNamespace(walks_records=False)
    assert strategy._few(16) == 16


def test_choices_are_as_frequent_as_they_are_likely():
    rows, policy = np.zeros((20_000, 8), dtype=np.int64), policy_of(seed=3)
    legal = np.zeros((20_000, 26), dtype=bool)
    legal[:, [1, 4, 25]] = True
    chosen = policy.choose(rows, legal, np.random.default_rng(1))
    expected = policy.probabilities(rows[:1], legal[:1])[0]
    assert np.bincount(chosen, minlength=26) / 20_000 == pytest.approx(expected, abs=0.015)


def test_the_policy_moves_no_state_of_torch():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.manual_seed(1)
    a = policy_of()
    torch.manual_seed(2)
    b = policy_of()
    after = torch.random.get_rng_state()
    rows, legal = MACRO.sample(4, np.random.default_rng(0)), np.ones((4, 26), dtype=bool)
    assert np.array_equal(a.probabilities(rows, legal), b.probabilities(rows, legal))
    a.learn(Choices(rows, legal, np.zeros(4, dtype=np.int64)), np.linspace(0, 1, 4), source="predicted")
    assert torch.equal(torch.random.get_rng_state(), after)
    assert torch.get_num_threads() == threads
    torch.random.set_rng_state(state)


def test_it_starts_from_the_simplest_networks_that_meet_the_limits():
    strategy = EPNAS(n_simple=7, n_random=3)
    strategy.start(FeasibleSet(MACRO, COSTS), 0)
    rows = strategy.ask(10)
    assert sorted(rows[:7].sum(axis=1).tolist()) == [0, 1, 1, 1, 1, 1, 1]
    assert strategy.ask(1).shape == (0, 8)  # it waits
    limited = EPNAS(n_simple=7, n_random=3)
    feasible = FeasibleSet(MACRO, COSTS, [Limit.parse("flops>=25M")])
    limited.start(feasible, 0)
    assert feasible.holds(limited.ask(10)).all()


def test_every_network_names_the_one_that_it_was_made_from():
    strategy = EPNAS(networks=4, rollouts=2, fresh=0, steps=2)
    trials = list(search(MACRO, Weighted(), strategy, n_trials=40, seed=0, costs=COSTS))
    assert [strategy.parent(number) for number in range(10)] == [None] * 10
    for number in range(10, 40):
        parent = strategy.parent(number)
        if parent is not None:
            assert parent < number - number % 5
            pair = MACRO.canonical(np.array([trials[parent].arch.genes, trials[number].arch.genes]))
            # Two edits: in each stage the sorted layers differ in two places at most.
            stages = [np.sort(pair[:, list(stage)], axis=1) for stage in MACRO.stages]
            assert sum(int((a != b).sum()) for a, b in stages) <= 4
    assert sum(strategy.parent(number) is not None for number in range(10, 40)) > 20


def test_it_needs_fewer_trainings_than_random_search():
    def found(strategy, seed):
        trials = search(MACRO, Weighted(), strategy, n_trials=50, seed=seed, costs=COSTS, limits=limits)
        return max(trial.values["accuracy_val"] for trial in trials)

    limits = [Limit.parse("flops<=35M")]  # without them random search finds the largest network, the best one here
    rows = np.array(list(itertools.product(range(3), repeat=8)))
    accuracies = 0.5 + rows @ 1.7 ** np.arange(8) / 1000
    best = accuracies[FeasibleSet(MACRO, COSTS, limits).holds(rows)].max()
    assert [found(EPNAS(), seed) for seed in range(3)] == pytest.approx([best] * 3)
    assert max(found(RandomSearch(planned=50), seed) for seed in range(3)) < best


def test_soft_limits_are_weighed_as_the_reward_says():
    """Against brute force: the network of the highest reward is chosen, which the accuracy alone would not."""
    soft = (SoftLimit.parse("flops<=30M@0.5"),)
    strategy = EPNAS(soft=soft)
    trials = list(search(MACRO, Weighted(), strategy, n_trials=60, seed=1, costs=COSTS))
    rows = np.array(list(itertools.product(range(3), repeat=8)))
    accuracy = 0.5 + rows @ 1.7 ** np.arange(8) / 1000
    flops = COSTS.one("flops", rows)
    rewards = accuracy * 0.5 ** np.maximum(0, flops / 30e6 - 1)
    at = [int(np.dot(trial.arch.genes, 3 ** np.arange(7, -1, -1))) for trial in trials]
    assert rewards[at].max() >= np.sort(rewards)[-8]
    chosen = int(np.dot(strategy.chosen().arch.genes, 3 ** np.arange(7, -1, -1)))
    assert rewards[chosen] >= np.sort(rewards[at])[-3]
    assert accuracy[chosen] < accuracy[at].max()


def test_a_frontier_spreads_along_the_cost():
    strategy = EPNAS(focus=0.0)
    trials = list(search(MACRO, Weighted(), strategy, n_trials=60, seed=0, costs=COSTS))
    one_best = list(search(MACRO, Weighted(), EPNAS(), n_trials=60, seed=0, costs=COSTS))
    spread, narrow = (np.std([t.values["flops"] for t in each[10:]]) for each in (trials, one_best))
    assert spread > 1.5 * narrow


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"n_simple": 0, "n_random": 0}, {"beta": -1}, {"focus": 2}, {"fresh": -1}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError):
        EPNAS(**settings)


def test_what_is_missing_is_said():
    with pytest.raises(InputError, match=r"params<=1000@0.5 need costs"):
        EPNAS(soft=[SoftLimit.parse("params<=1000")]).start(FeasibleSet(MACRO), 0)


def test_a_space_that_does_not_grow_is_told_what_it_lacks(tmp_path):
    class Plain(type(get_space("pnas")).__mro__[-3]):  # a space of the interface alone
        name = "plain"
        choices = (2, 2)

        def is_valid(self, population):
            return self.in_range(population)

        def layers(self, arch, task):
            raise NotImplementedError

    strategy = EPNAS()
    strategy.start(FeasibleSet(Plain()), 0)
    with pytest.raises(InputError, match="does not give simplest"):
        strategy.ask(1)


def test_failed_trainings_teach_that_their_edits_are_worth_nothing():
    """What a network that failed was made by becomes less likely, what a good one was made by likelier."""
    strategy = EPNAS(networks=3, rollouts=4, fresh=0, steps=1)
    strategy.start(FeasibleSet(MACRO, COSTS), 0)
    rows = strategy.ask(10)
    strategy.tell([Trial(i, MACRO.arch(row), 1, 0, "complete", {"accuracy_val": 0.5}) for i, row in enumerate(rows)])
    rows = strategy.ask(5)
    made = {number: edits[0] for number, edits in strategy._made.items()}
    assert len(made) == 5
    fails = {number: number % 2 == 0 for number in made}
    for number, row in zip(range(10, 15), rows, strict=True):
        values = {} if fails[number] else {"accuracy_val": 0.9}
        state = "failed" if fails[number] else "complete"
        strategy.tell([Trial(number, MACRO.arch(row), 1, 0, state, values)])

    def likely(number):
        edit = made[number]
        return strategy._policy.probabilities(edit.rows, edit.legal)[0, edit.chosen[0]]

    before = {number: likely(number) for number in made}
    for _ in range(20):
        strategy._learn_from_trained()
    change = {number: likely(number) - before[number] for number in made}
    good, bad = ([change[n] for n in made if fails[n] == failed] for failed in (False, True))
    assert min(good) > max(bad)
    assert np.mean(bad) < 0 < np.mean(good)


def test_failures_are_borne_and_avoided():
    """Networks that end in the largest layer fail, a third of all: they are tried, but less often than that."""
    failed = 0
    for seed in range(4):
        strategy = EPNAS(networks=3, rollouts=4, fresh=0)
        strategy.start(FeasibleSet(MACRO, COSTS), seed)
        for number in range(30):
            (row,) = strategy.ask(1)
            fails = row[7] == 2
            values = {} if fails else {"accuracy_val": 0.5 + row.sum() / 100}
            state = "failed" if fails else "complete"
            strategy.tell([Trial(number, MACRO.arch(row), 1, 0, state, values)])
        assert {trial.state for trial in strategy.told} == {"complete", "failed"}
        assert strategy.chosen().state == "complete"
        failed += sum(trial.state == "failed" for trial in strategy.told)
    assert failed < 0.25 * 4 * 30


@pytest.mark.parametrize("name", ["nasbench_macro", "nasbench101"])
def test_in_small_parts_every_row_has_an_edit_of_its_own(name, monkeypatch):
    """What bounds the memory changes which numbers are drawn, and nothing else: no row is lost, doubled or moved."""
    space = get_space(name)
    strategy = EPNAS(steps=2)
    strategy.start(FeasibleSet(space, DeviceCosts(space, Task(32, 10))), 0)
    rows = space.sample(70, np.random.default_rng(0))
    sizes = []
    of = Edits.of
    monkeypatch.setattr(Edits, "of", lambda self, part, rng: sizes.append(len(part)) or of(self, part, rng))
    monkeypatch.setattr("hwnas.strategies.epnas.GENES_AT_ONCE", 9 * strategy._edits.number * rows.shape[1])
    walk = strategy._walk(rows, np.random.default_rng(1))
    assert sizes == [*[9] * 7, 7] * 2
    assert np.array_equal(walk.choices[0].rows, rows)
    for before, choices, after in zip((rows, walk.made[0]), walk.choices, walk.made, strict=True):
        assert np.array_equal(choices.rows, before)
        for row, edit, made in zip(before, choices.chosen.tolist(), after, strict=True):
            if edit == -1:
                assert np.array_equal(row, made)
            elif edit < strategy._edits.number - 2:  # the others draw
                children, legal = of(strategy._edits, row[None], np.random.default_rng(2))
                assert legal[0, edit]
                assert np.array_equal(children[0, edit], made)
    assert (walk.choices[0].chosen >= 0).mean() > 0.9


# --- what the policy learns in a search ---


def mass_of(strategy, rows, wanted):
    """Mean probability that the policy makes an edit of the wanted kind: (n, edits, genes) -> (n, edits)."""
    children, legal = strategy._edits.of(rows, np.random.default_rng(9))
    return float((strategy._policy.probabilities(rows, legal) * wanted(children)).sum(axis=1).mean())


def larger_than(rows):
    return lambda children: children.sum(axis=2) > rows.sum(axis=1)[:, None]


def searched(strategy, phases, accuracy, limits=()):
    strategy.start(FeasibleSet(MACRO, COSTS, [Limit.parse(text) for text in limits]), 0)
    for _ in range(1 + phases):
        rows = strategy.ask(1000)
        told(strategy, rows, accuracy(rows))
    return strategy


@pytest.mark.parametrize(
    ("predicted", "true", "settings"),
    [(size, nothing_known, {"updates": 30}), (nothing_known, size, {"updates": 1, "batch": 40})],
    ids=["predicted", "true"],
)
def test_a_search_teaches_its_policy_what_is_rewarded(predicted, true, settings):
    """Larger networks are better, by predictions alone or by trainings alone: what enlarges is made more often."""
    strategy = EPNAS(networks=5, rollouts=8, fresh=40, steps=1, surrogate=MadeUp(predicted), **settings)
    rows = MACRO.canonical(MACRO.sample(50, np.random.default_rng(1)))
    strategy.start(FeasibleSet(MACRO, COSTS), 0)
    before = mass_of(strategy, rows, larger_than(rows))
    phases = 5 if predicted is size else 30
    after = mass_of(searched(strategy, phases, true), rows, larger_than(rows))
    assert after > before + 0.1


def test_where_no_edit_is_better_the_policy_stays_even():
    strategy = EPNAS(networks=5, rollouts=8, fresh=40, steps=1, updates=30, surrogate=MadeUp(nothing_known))
    rows = MACRO.canonical(MACRO.sample(50, np.random.default_rng(1)))
    strategy.start(FeasibleSet(MACRO, COSTS), 0)
    before = mass_of(strategy, rows, larger_than(rows))
    assert mass_of(searched(strategy, 5, nothing_known), rows, larger_than(rows)) == pytest.approx(before, abs=0.05)


def test_edits_that_leave_the_limits_are_worth_nothing_and_are_made_less_often():
    """All networks are predicted alike, so that only void edits differ in reward."""
    limits = ["flops<=30M"]
    holds = FeasibleSet(MACRO, COSTS, [Limit.parse(text) for text in limits]).holds
    rows = MACRO.canonical(MACRO.sample(400, np.random.default_rng(1)))
    rows = rows[holds(rows)][:50]

    def outside(children):
        return ~holds(children.reshape(-1, 8)).reshape(children.shape[:2])

    strategy = EPNAS(networks=5, rollouts=8, fresh=40, steps=2, updates=30, surrogate=MadeUp(nothing_known))
    strategy.start(FeasibleSet(MACRO, COSTS), 0)
    before = mass_of(strategy, rows, outside)
    after = mass_of(searched(strategy, 5, nothing_known, limits), rows, outside)
    assert before > 0.2
    assert after < 0.5 * before


def test_every_edit_of_a_walk_is_taught_the_reward_of_its_end_a_void_one_0():
    strategy, heard = EPNAS(steps=3), []
    feasible = FeasibleSet(MACRO, COSTS, [Limit.parse("flops<=30M")])
    strategy.start(feasible, 0)
    walk = strategy._walk(feasible.sample(40, np.random.default_rng(0)), np.random.default_rng(1))
    listener = SimpleNamespace(learn=lambda choices, rewards, source: heard.append((choices, rewards, source)))
    walk.teach(listener, np.arange(1.0, 41.0))
    ((choices, rewards, source),) = heard
    assert source == "predicted"
    expected = []
    for step in walk.choices:
        children, _ = strategy._edits.of(step.rows, np.random.default_rng(2))  # of chains nothing is drawn
        for row, edit in enumerate(step.chosen):
            expected.append(row + 1 if feasible.holds(children[row, edit][None])[0] else 0)
    assert rewards.tolist() == expected
    assert 10 < expected.count(0) < 110
    assert np.array_equal(choices.chosen, np.concatenate([step.chosen for step in walk.choices]))


def test_rewards_are_compared_with_a_moving_average():
    """By hand: 0.5 at first, then 0.9 * 0.5 + 0.1 * 0.9 = 0.54; a scale is the spread or the distance of the mean."""
    policy = policy_of()
    assert policy._advantage(np.array([0.4, 0.6]), "trained") == pytest.approx([-1, 1])
    assert policy._advantage(np.array([0.8, 1.0]), "trained") == pytest.approx([0.3 / 0.4, 0.5 / 0.4])
    assert policy._advantage(np.array([0.8, 1.0]), "trained") == pytest.approx([0.26 / 0.36, 0.46 / 0.36])
    assert policy._advantage(np.array([0.54] * 99 + [0.9]), "trained")[-1] == 3.0  # as much as one may count


@pytest.mark.parametrize(("later", "sign"), [(0.9, 1), (0.1, -1)])
def test_a_batch_that_is_better_as_a_whole_than_those_before_makes_all_its_edits_likelier(later, sign):
    rows, legal, policy = np.zeros((20, 8), dtype=np.int64), np.ones((20, 26), dtype=bool), policy_of()
    policy.learn(Choices(rows, legal, np.full(20, 3)), np.full(20, 0.5), source="trained")
    before = policy.probabilities(rows[:1], legal[:1])[0, 5]
    for _ in range(5):
        policy.learn(Choices(rows, legal, np.full(20, 5)), np.full(20, later), source="trained")
    change = policy.probabilities(rows[:1], legal[:1])[0, 5] / before
    assert change > 2 if sign > 0 else change < 0.7, change


def test_a_policy_that_decided_returns_to_even_odds_where_nothing_is_rewarded():
    """By entropy alone, and not without it."""
    rows, legal = np.zeros((30, 8), dtype=np.int64), np.ones((30, 26), dtype=bool)
    rng = np.random.default_rng(0)

    def after(entropy):
        policy = policy_of(entropy=entropy)
        for _ in range(15):
            chosen = policy.choose(rows, legal, rng)
            policy.learn(Choices(rows, legal, chosen), 0.5 + 0.1 * (chosen == 4), source="predicted")
        policy = policy_started_from(policy, entropy)
        before = policy.probabilities(rows[:1], legal[:1])[0, 4]
        for _ in range(20):
            policy.learn(Choices(rows, legal, policy.choose(rows, legal, rng)), np.full(30, 0.5), source="other")
        return policy.probabilities(rows[:1], legal[:1])[0, 4] / before

    assert after(0.5) < 0.8
    assert after(0.0) == pytest.approx(1.0)


def policy_started_from(policy, entropy):
    """The same weights; the optimiser's momentum is forgotten, which would go on for a while."""
    new = policy_of(entropy=entropy)
    new._network.load_state_dict(policy._network.state_dict())
    return new


# --- which networks go on, and which are trained ---


def after_first(strategy, accuracy=nothing_known):
    strategy.start(FeasibleSet(MACRO, COSTS), 0)
    rows = strategy.ask(1000)
    told(strategy, rows, accuracy(rows))
    return rows, strategy.ask(1000)


def test_the_networks_of_the_highest_reward_go_on():
    """By predictions, and by what soft limits leave of them: others stand out than those that were trained first."""
    for soft in ((), (SoftLimit.parse("flops<=15M@0.2"),)):
        strategy = EPNAS(n_simple=5, n_random=25, networks=4, fresh=0, steps=1, batch=60, soft=soft)
        strategy.surrogate = MadeUp(size)
        first, second = after_first(strategy)
        rewards = size(first) * 0.2 ** np.maximum(0, COSTS.one("flops", first) / 15e6 - 1)
        best = np.argsort(-(rewards if soft else size(first)), kind="stable")[:4]
        parents = {strategy.parent(number) for number in range(30, 30 + len(second))} - {None}
        assert parents == set(best.tolist())


def test_fresh_networks_are_edited_too():
    """One edit of one trained network gives few; what is trained beside them is better than what is drawn."""
    strategy = EPNAS(networks=1, rollouts=1, updates=1, fresh=200, steps=1, batch=20, surrogate=MadeUp(size))
    _, rows = after_first(strategy)
    every = np.array(list(itertools.product(range(3), repeat=8)))
    assert np.sum([strategy.parent(10 + i) is None for i in range(20)]) >= 18
    assert size(rows).min() > np.quantile(size(every), 0.85)


def test_with_a_high_beta_what_is_uncertain_is_trained():
    """The means favour large layers in the first stage, the stds such as are not."""
    early = list(MACRO.stages[0])

    def large(rows):
        return 0.01 * (rows[:, early] == 2).sum(axis=1)

    surrogate = MadeUp(lambda rows: 0.5 + large(rows), lambda rows: 0.01 * len(early) - large(rows))
    shares = {}
    for beta in (0.0, 0.5, 2.0, 20.0):
        _, rows = after_first(EPNAS(beta=beta, surrogate=surrogate))
        shares[beta] = (rows[:, early] == 2).mean()
    assert shares == {0.0: 1.0, 0.5: 1.0, 2.0: 0.0, 20.0: 0.0}  # at 1, all have the same bound
