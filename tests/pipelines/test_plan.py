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
from pipelines.run_record import RunRecord
from spaces import Arch, InputError

SPEED = TrainingSpeed(train=(1e-4, 1e-10), validate=(3e-5, 3e-11), setup_s=0.2)


def times(speed: TrainingSpeed, images: float, setup: float = 1.0) -> TrainingSpeed:
    train, validate = (tuple(images * each for each in line) for line in (speed.train, speed.validate))
    return TrainingSpeed(train, validate, setup * speed.setup_s)


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


@pytest.mark.parametrize("setup_s", [9.0, 11.0])
def test_where_setup_takes_most_of_a_trial_it_trains_enough_to_tell_networks_apart(setup_s):
    """On an NVIDIA H200 an epoch of CIFAR-10 takes 2 s, and a run of 3 minutes had 83 s left for all trials.

    Its trials took 5 s to begin, the first timed ones longer, by an amount that was not recorded.
    """
    speed = TrainingSpeed(train=(4.7e-5, 3.6e-12), validate=(8.3e-6, 1.5e-12), setup_s=setup_s)
    flops = np.random.default_rng(0).uniform(4e6, 1e7, size=200)
    work = Workload(speed, flops, 42_500, 7500, 4, Recipe().steps_per_epoch(42_500), 10_000)
    plan = plan_budget(180, 97.0, work, finalists=4)
    assert plan.epochs * work.steps_per_epoch >= LEAST_STEPS * 0.85


def test_once_finalists_are_measured_only_their_export_is_kept_free():
    work = workload()
    plan = plan_budget(600, 15.0, work, finalists=2)
    more = replan_final(plan, 600, 450, work, closing_s=EXPORT_S)
    assert 450 + work.mean_seconds(more.final_epochs) + EXPORT_S <= 601
    assert more.final_epochs > replan_final(plan, 600, 450, work).final_epochs


def test_a_slower_machine_gets_fewer_picks_and_fewer_final_epochs():
    work = workload()
    plan = plan_budget(600, 15.0, work, finalists=2)
    slow = replace(work, speed=times(SPEED, 2.0, setup=2.0))
    assert slow.mean_seconds(3) == pytest.approx(2 * work.mean_seconds(3))
    halved = replan_chosen(plan, 600, 400, slow)
    assert halved.n_chosen < plan.n_chosen
    assert halved.n_random == plan.n_random
    final = replan_final(halved, 600, 450, slow)
    assert final.final_epochs < replan_final(plan, 600, 450, work).final_epochs
    assert 450 + slow.mean_seconds(final.final_epochs) + CLOSING_S <= 601


@pytest.mark.parametrize("epochs", [0.2, 5.0])
@pytest.mark.parametrize(("slower", "setup_s"), [(1.0, 0.1), (2.0, 0.2), (2.0, 0.0), (0.5, 4.0), (1.5, 8.0)])
def test_what_trainings_have_shown_tells_setup_and_images_apart(epochs, slower, setup_s):
    """On a GPU short trainings took 0.4 of the time planned, since their setup did: long ones were not that fast."""
    work = workload()
    true = replace(work, speed=times(replace(SPEED, setup_s=setup_s), slower))
    flops = work.flops[:40]
    counts = {"train_images": work.train_images, "validation_images": work.validation_images}
    seconds = true.speed.seconds(flops, epochs=epochs, **counts)
    per_image = true.speed.train[0] + true.speed.train[1] * flops
    found = work.speed.found(flops, seconds, per_image, epochs=epochs, **counts)
    assert found.train == pytest.approx(true.speed.train)
    assert found.setup_s == pytest.approx(setup_s)
    assert replace(work, speed=found).mean_seconds(20) == pytest.approx(true.mean_seconds(20))
    some = np.where(np.arange(40) % 2, per_image, np.nan)
    assert work.speed.found(flops, seconds, some, epochs=epochs, **counts).train == pytest.approx(found.train, rel=0.1)
    none = work.speed.found(flops, seconds, per_image * np.nan, epochs=epochs, **counts)
    assert none.train == SPEED.train
    assert none.setup_s >= 0


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
    true = replace(planned, speed=times(SPEED, slowdown, setup=slowdown))
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


@pytest.mark.parametrize(
    ("again", "n", "kept"),
    [
        ((True, False, True, True), 2, [0, 2]),
        ((False, False, True, True), 2, [2, 0]),  # the best has its chance, whatever a second measurement may say
        ((False, False, True, True), 3, [2, 3, 0]),
        ((False, True, True), 1, [1]),
        ((False, False), 2, [0, 1]),
    ],
)
def test_who_is_likely_to_meet_the_limits_again_goes_first(again, n, kept):
    found = [search.Finalist(str(i), None, -i, None, each) for i, each in enumerate(again)]
    assert [int(each.name) for each in search._kept("search", found, n)] == kept


@pytest.mark.parametrize(("again", "exports"), [((True, True), 1), ((True, False), 2)])
def test_time_is_kept_for_a_second_file_where_the_first_may_miss(tmp_path, monkeypatch, again, exports):
    """Of 10 minutes 8 have gone: the finals take what is left but for one handing over, or for two."""
    latency, flops = SimpleNamespace(ms=1.0, interval=(0.9, 1.1), record={}), (2e6, 6e6)
    trials = [Trial(i, Arch("none", (i,)), 1, 0, "complete", {"flops": each}) for i, each in enumerate(flops)]
    chosen = [search.Finalist(f"trial-{i}", trials[i], 0.9, latency, each) for i, each in enumerate(again)]
    saved = {}
    monkeypatch.setattr(search, "_finalists", lambda job, plan: chosen)
    monkeypatch.setattr(search, "_record", lambda job, finalist: {})
    monkeypatch.setattr(search, "RecordedFinalist", SimpleNamespace)
    monkeypatch.setattr(search, "_save_plan", lambda job, plan, **more: saved.update(more))
    job = SimpleNamespace(
        config=SimpleNamespace(budget_s=600, final_epochs=None),
        run=SimpleNamespace(plan=tmp_path / "plan.json"),
        clock=SimpleNamespace(elapsed=lambda: 480.0),
        listener=Listener(),
    )
    work, before = workload(), plan_trials(20, epochs=2.0, final_epochs=2.0, finalists=4)
    RunRecord(plan=before, workers=1).write(job.run.plan)
    plan = search._choose_finalists(job, before, work)
    work, before = replace(work, flops=np.array(flops)), replace(before, finalists=2)
    assert plan == replan_final(before, 600, 480.0, work, closing_s=exports * EXPORT_S)
    assert plan.final_epochs != replan_final(before, 600, 480.0, work, closing_s=(3 - exports) * EXPORT_S).final_epochs
    assert set(saved["finalists"]) == {"trial-0", "trial-1"}
