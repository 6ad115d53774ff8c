"""Budgets become plans whose work fills them, by the arithmetic of the plan's own parts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hwnas.training import Recipe
from hwnas.trial import Trial
from pipelines import search
from pipelines.plan import (
    CLOSING_S,
    EXPORT_S,
    LEAST_STEPS,
    TrainingSpeed,
    Workload,
    plan_budget,
    plan_trials,
    replan_chosen,
    replan_final,
)
from pipelines.progress import Listener
from spaces import Arch, InputError

SPEED = TrainingSpeed(train=(1e-4, 1e-10), validate=(3e-5, 3e-11), setup_s=0.2)


def workload(train_images=1200, workers=2) -> Workload:
    flops = np.random.default_rng(0).uniform(1e6, 8e6, size=200)
    return Workload(SPEED, flops, train_images, 200, workers, Recipe().steps_per_epoch(train_images), 400)


@pytest.mark.parametrize("budget_s", [120, 180, 600, 3600, 36_000])
@pytest.mark.parametrize("images", [1200, 42_000])
@pytest.mark.parametrize("workers", [1, 2, 8, 64, 128])
def test_the_planned_work_fills_the_budget(budget_s, images, workers):
    work = workload(images, workers)
    try:
        plan = plan_budget(budget_s, 15.0, work, finalists=max(2, workers))
    except InputError:
        least = 6 * work.mean_seconds(0.25 * LEAST_STEPS / work.steps_per_epoch) / workers
        assert least > 0.5 * (budget_s - 15 - CLOSING_S)
        return
    assert plan.n_random >= 1
    assert plan.n_chosen >= 1
    assert plan.n_random % workers == plan.n_chosen % workers == 0
    trials_s = plan.n_trials / workers * work.mean_seconds(plan.epochs)
    rounds = -(-plan.finalists // workers)
    finals_s = rounds * (work.mean_seconds(plan.final_epochs) + work.test_seconds())
    ends_s = 15 + trials_s + finals_s + CLOSING_S
    assert ends_s <= 1.05 * budget_s + work.mean_seconds(plan.epochs)
    if plan.final_epochs < 200:  # a huge budget for tiny images ends early
        assert ends_s >= 0.85 * budget_s - work.epoch_seconds()  # epochs are whole
    assert plan.n_chosen / plan.n_trials == pytest.approx(0.3, abs=0.1 if workers <= 2 else 0.21)


def test_test_images_are_in_the_budget_of_the_finals():
    few, many = workload(), replace(workload(), test_images=40_000)
    plan = plan_budget(600, 15.0, few, finalists=2)
    final = replan_final(plan, 600, 520, many)
    assert 520 + many.mean_seconds(final.final_epochs) + many.test_seconds() + CLOSING_S <= 601
    assert final.final_epochs < replan_final(plan, 600, 520, few).final_epochs


def test_too_short_a_budget_says_how_long_it_must_be():
    work = workload(42_000, 1)
    with pytest.raises(InputError, match="leaves time for") as caught:
        plan_budget(55, 15.0, work, finalists=2)
    minutes = int(caught.value.hint.split("--budget ")[1].split("m")[0])
    plan_budget(60 * minutes, 15.0, work, finalists=2)
    with pytest.raises(InputError):
        plan_budget(60 * (minutes - 1) - 1, 15.0, work, finalists=2)


def test_trials_are_long_enough_to_tell_networks_apart_where_there_is_time():
    few, many = workload(1200), workload(42_000)
    assert plan_budget(180, 15.0, few, finalists=2).epochs * few.steps_per_epoch >= LEAST_STEPS * 0.9
    plan = plan_budget(300, 15.0, many, finalists=2)
    assert plan.epochs < 1  # of many images a part is enough
    assert plan.epochs * 20 == pytest.approx(round(plan.epochs * 20))
    assert plan.epochs * many.steps_per_epoch >= LEAST_STEPS * 0.85
    assert plan.n_trials >= 12
    assert plan.final_epochs >= 1
    long = plan_budget(36_000, 15.0, many, finalists=2)
    assert long.epochs >= 4
    assert long.epochs == int(long.epochs)


def test_once_finalists_are_measured_only_their_export_is_kept_free():
    work = workload()
    plan = plan_budget(600, 15.0, work, finalists=2)
    more = replan_final(plan, 600, 450, work, closing_s=EXPORT_S)
    assert 450 + work.mean_seconds(more.final_epochs) + EXPORT_S <= 601
    assert more.final_epochs > replan_final(plan, 600, 450, work).final_epochs


def test_a_slower_machine_gets_fewer_picks_and_fewer_final_epochs():
    work = workload()
    plan = plan_budget(600, 15.0, work, finalists=2)
    slow = work.corrected(2.0, plan.epochs)
    assert slow.mean_seconds(3) == pytest.approx(2 * work.mean_seconds(3))
    halved = replan_chosen(plan, 600, 400, slow)
    assert halved.n_chosen < plan.n_chosen
    assert halved.n_random == plan.n_random
    final = replan_final(halved, 600, 450, slow)
    assert final.final_epochs < replan_final(plan, 600, 450, work).final_epochs
    assert 450 + slow.mean_seconds(final.final_epochs) + CLOSING_S <= 601


@pytest.mark.parametrize("epochs", [0.2, 5.0])
@pytest.mark.parametrize("factor", [0.3, 0.7, 0.95, 1.0, 1.3])
@pytest.mark.parametrize("setup_s", [0.0, 0.2, 8.0])
def test_what_faster_trainings_save_is_their_setup_first(epochs, factor, setup_s):
    """Short trainings took 0.4 of the time planned on a GPU, since their setup did: long ones are not that fast."""
    work = workload()
    work = replace(work, speed=replace(SPEED, setup_s=setup_s))
    found = work.corrected(factor, epochs)
    assert found.mean_seconds(epochs) == pytest.approx(factor * work.mean_seconds(epochs))  # as was seen
    assert 0 <= found.speed.setup_s <= max(factor, 1) * setup_s
    for longer in (2 * epochs, 20 * epochs):
        assert found.mean_seconds(longer) >= factor * work.mean_seconds(longer) * (1 - 1e-12)
    saved = (1 - factor) * work.mean_seconds(epochs)
    if 0 <= saved <= setup_s:
        assert found.epoch_seconds() == pytest.approx(work.epoch_seconds())


def test_given_final_epochs_leave_the_rest_to_the_search():
    work = workload()
    plan = plan_budget(600, 15.0, work, finalists=2, final_epochs=400)
    finals_s = work.mean_seconds(400) + work.test_seconds()
    assert finals_s > 0.4 * 600
    assert 15 + plan.n_trials / 2 * work.mean_seconds(plan.epochs) + finals_s + CLOSING_S <= 601
    with pytest.raises(InputError, match="leaves time for 0 trainings") as caught:
        plan_budget(600, 15.0, work, finalists=2, final_epochs=1000)
    minutes = int(caught.value.hint.split("--budget ")[1].split("m")[0])
    plan_budget(60 * minutes, 15.0, work, finalists=2, final_epochs=1000)


@pytest.mark.parametrize(("budget_s", "final_epochs"), [(600, 60), (600, 5), (1800, 5), (1800, 200)])
@pytest.mark.parametrize("slowdown", [0.7, 1.0, 1.2])
def test_with_given_final_epochs_the_picks_fill_what_is_left(budget_s, final_epochs, slowdown):
    planned = workload(10_000)
    first = plan = plan_budget(budget_s, 15.0, planned, finalists=2, final_epochs=final_epochs)
    true = planned.corrected(slowdown, plan.epochs)
    after_random_s = 15 + plan.n_random / 2 * true.mean_seconds(plan.epochs)
    plan = replan_chosen(plan, budget_s, after_random_s, true, final_epochs=final_epochs)
    finals_s = true.mean_seconds(final_epochs) + true.test_seconds()
    ends_s = after_random_s + plan.n_chosen / 2 * true.mean_seconds(plan.epochs) + finals_s + CLOSING_S
    assert budget_s - true.mean_seconds(plan.epochs) <= ends_s
    assert ends_s <= budget_s or plan.n_chosen == 2  # a pick for each worker is the least
    assert ends_s <= 1.15 * budget_s
    if slowdown == 1:  # the first plan said so already, but for rounding
        assert abs(plan.n_chosen - first.n_chosen) <= 2


def test_given_epochs_are_kept():
    plan = plan_budget(1200, 15.0, workload(), finalists=2, epochs=7, final_epochs=11)
    assert (plan.epochs, plan.final_epochs) == (7, 11)


def test_trials_are_split_into_random_and_picked():
    plan = plan_trials(10, epochs=2, final_epochs=5, finalists=3)
    assert (plan.n_random, plan.n_chosen, plan.n_trials) == (7, 3, 10)
    assert plan_trials(2, epochs=1, final_epochs=1, finalists=1).n_random >= 1


def test_speed_is_a_line_that_never_falls():
    flops = [1e6, 4e6, 9e6]
    line = TrainingSpeed.fit(flops, [1e-4 + 2e-11 * f for f in flops], [5e-5, 4e-5, 3e-5], setup_s=0.0)
    assert line.train == pytest.approx((1e-4, 2e-11))
    assert line.validate == pytest.approx((4e-5, 0.0))
    through_origin = TrainingSpeed.fit(flops, [1e-5, 5e-5, 12e-5], [1, 1, 1], setup_s=0.0)
    assert through_origin.train[0] >= 0


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        (1, "1 random network"),
        (6, "6 random networks"),  # too few to fit a predictor that could pick
        (20, "14 random networks and about 6 picked ones"),
    ],
)
def test_a_plan_says_what_the_predictor_will_pick(trials, says):
    plan = plan_trials(trials, epochs=1, final_epochs=1, finalists=2)
    assert search._trials_said("neural-predictor", plan) == says
    assert search._trials_said("iterated", plan) == f"about {search._many(trials, 'network')} by iterated"


def test_one_of_a_thing_is_said_in_the_singular():
    assert [search._many(n, "epoch") for n in (0.5, 1, 1.0, 2)] == ["0.5 epochs", "1 epoch", "1 epoch", "2 epochs"]


@pytest.mark.parametrize(("again", "exports"), [((True, True), 1), ((True, False), 2)])
def test_time_is_kept_for_a_second_file_where_the_first_may_miss(tmp_path, monkeypatch, again, exports):
    """Of 10 minutes 8 have gone: the finals take what is left but for one handing over, or for two."""
    latency, flops = SimpleNamespace(ms=1.0, interval=(0.9, 1.1), record={}), (2e6, 6e6)
    trials = [Trial(i, Arch("none", (i,)), 1, 0, "complete", {"flops": each}) for i, each in enumerate(flops)]
    chosen = [search.Finalist(f"trial-{i}", trials[i], 0.9, latency, each) for i, each in enumerate(again)]
    saved = {}
    monkeypatch.setattr(search, "_finalists", lambda job, plan: chosen)
    monkeypatch.setattr(search, "_record", lambda job, finalist: {})
    monkeypatch.setattr(search, "_save_plan", lambda job, plan, **more: saved.update(more))
    (tmp_path / "plan.json").write_text("{}")
    job = SimpleNamespace(
        config=SimpleNamespace(budget_s=600, final_epochs=None),
        run=SimpleNamespace(plan=tmp_path / "plan.json"),
        clock=SimpleNamespace(elapsed=lambda: 480.0),
        listener=Listener(),
    )
    work, before = workload(), plan_trials(20, epochs=2.0, final_epochs=2.0, finalists=4)
    plan = search._choose_finalists(job, before, work)
    work, before = replace(work, flops=np.array(flops)), replace(before, finalists=2)
    assert plan == replan_final(before, 600, 480.0, work, closing_s=exports * EXPORT_S)
    assert plan.final_epochs != replan_final(before, 600, 480.0, work, closing_s=(3 - exports) * EXPORT_S).final_epochs
    assert set(saved["finalists"]) == {"trial-0", "trial-1"}
