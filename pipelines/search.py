"""The main job: from images, a device and limits to a measured ONNX model, or to a whole frontier of them."""

from __future__ import annotations

import concurrent.futures as cf
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.execution import WorkerPool, use_one_thread
from hwnas.feasible import FeasibleSet, InfeasibleError
from hwnas.objectives import Limit
from hwnas.pareto import is_non_dominated, spread_along
from hwnas.search_loop import SearchFailedError, evaluation_seed, search
from hwnas.strategies.neural_predictor import LEAST_TO_FIT
from hwnas.study import Study, trial_rows, write_csv
from hwnas.trial import Trial
from hwnas.uncertain_front import probability_non_dominated
from latency import Device, DeviceCosts, LatencyModel
from latency.drift import NORMAL
from latency.files import read_json, write_atomically, write_json
from latency.model import LEARNED_NETWORKS
from latency.onnx_graph import ParityError
from latency.reference import reference_interval, stored_references, task_key
from latency.rounds import DisturbedError
from spaces import InputError, SearchSpace, Task, get_space
from spaces.chain import ChainSpace

from .config import RunConfig, join_limits
from .deploy import all_met, choose, deploy_locked, is_told, latency_violation, limits_met, share_kept
from .judgement import record_of, sentence
from .latencies import (
    FROM_HERE,
    Latencies,
    Latency,
    is_measured,
    known_interval,
    known_ms,
    latencies_of,
    measure_model,
    open_model,
    read_device_table,
    table_remarks,
    table_text,
)
from .plan import (
    EXPORT_S,
    LEAST_TABLE_S,
    Plan,
    TrainingSpeed,
    Workload,
    check_budget,
    plan_budget,
    plan_trials,
    replan_chosen,
    replan_final,
)
from .progress import Listener
from .run_folder import RunFolder
from .run_record import RecordedFinalist, RunRecord
from .strategies import GROWING, NEURAL_PREDICTOR, STRATEGIES, Setting

if TYPE_CHECKING:
    from hwnas.evaluation import TrainingEvaluator
    from hwnas.strategies import Strategy
    from hwnas.training import ImageData

TABLE_BUDGET_SHARE = 0.15  # of a budget goes into timing blocks, at most
TIMED_NETWORKS = 3
DEFAULT_EPOCHS, DEFAULT_FINAL_EPOCHS = 5.0, 20.0
FRONTIER_MEMBERS = 6
GPU_WORKERS = 2


@dataclass
class Clock:
    """Seconds since the run began, over all the processes that worked on it."""

    started: float
    before: float = 0.0

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.started


@dataclass(frozen=True)
class Job:
    """Everything that the stages of one run share."""

    config: RunConfig
    run: RunFolder
    space: SearchSpace
    task: Task
    data: ImageData
    costs: DeviceCosts
    latencies: Latencies
    feasible: FeasibleSet
    evaluator: TrainingEvaluator
    pool: WorkerPool
    study: Study
    clock: Clock
    listener: Listener

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of its own for each purpose above 0; strategies draw from (seed, proposal), two numbers."""
        return np.random.default_rng([self.config.seed, 1, purpose])


def run_search(config: RunConfig, path: Path, listener: Listener, *, started: float | None = None) -> dict[str, Any]:
    """Run, or go on with, a whole search; returns what `--json` prints.

    Args:
        path: the run folder.
        started: `time.monotonic()` when the command began; its budget counts from there.
    Raises:
        InputError, InfeasibleError: what the user can mend, before anything was trained where possible.
    """
    clock = Clock(time.monotonic() if started is None else started)
    known = RunFolder.check(path, config)
    if config.budget_s is not None and not known.plan.exists():
        to_measure = config.device_table is None and not known.table.exists()
        check_budget(config.budget_s, clock.elapsed(), table_s=LEAST_TABLE_S if to_measure else 0.0)
    use_one_thread()
    data, compute = _open_data(config, RunFolder(path)), _compute_device(config)
    if config.device_table is not None and not RunFolder(path).table.exists():
        space = get_space(config.space, data.task)
        read_device_table(Path(config.device_table), space, data.task, named=config.space)  # before it writes
    is_new, made_here = not RunFolder(path).config.is_file(), not path.exists()
    run = RunFolder.prepare(path, config, needed_bytes=_stored_bytes(data))
    listener.say(f"run {path}")
    with run.locked():
        try:
            return _run_locked(config, run, data, compute, clock, listener)
        except InputError:
            if is_new and not run.plan.exists():  # refused before there was a plan: nothing to go on with
                kept = run.keep_table() if config.device_table is None else None
                run.clear(but=kept, with_folder=made_here)
                if kept is not None:
                    listener.say(f"what was timed stays: --device-table {shlex.quote(str(kept))} saves timing it again")
            raise


def _run_locked(
    config: RunConfig, run: RunFolder, data: ImageData, compute: str, clock: Clock, listener: Listener
) -> dict[str, Any]:
    if not run.data.exists():
        data.save(run.data)
    if run.plan.exists():
        clock.before = RunRecord.read(run.plan).elapsed_s
    job = _open_job(config, run, data, compute, clock, listener)
    try:
        plan, work = _search_stages(job)
        plan = _choose_finalists(job, plan, work)
        finals = _train_finalists(job, plan)
        return _finish(job, plan, finals)
    finally:
        job.pool.stop()


def _compute_device(config: RunConfig) -> str:
    from hwnas.training import resolve_device

    return str(resolve_device(config.device))


def _open_data(config: RunConfig, run: RunFolder) -> ImageData:
    """The images of the run, from its folder or for the first time."""
    from hwnas.training import ImageData, load_images

    if run.data.exists():
        return ImageData.open(run.data)
    return load_images(
        config.data,
        root=Path(config.data_root),
        resolution=config.resolution,
        validation_share=config.validation_share,
        seed=config.seed,
        download=config.download,
    )


def _stored_bytes(data: ImageData) -> int:
    """What `ImageData.save` writes; one test image is as large as one for validation."""
    each = data.val_images.nbytes // len(data.val_images)
    return data.train_images.nbytes + data.val_images.nbytes + data.n_test * each


def _open_job(
    config: RunConfig, run: RunFolder, data: ImageData, compute: str, clock: Clock, listener: Listener
) -> Job:
    from hwnas.evaluation import TrainingEvaluator
    from hwnas.training import Recipe

    space = run.open_space(config, data.task)
    if config.strategy in GROWING:  # before minutes of timing
        space.grow(space.simplest(1, np.random.default_rng(0)))
    workers = config.workers or (os.cpu_count() or 1 if compute.startswith("cpu") else GPU_WORKERS)
    listener.say(
        f"data {config.data}: {len(data.train_labels)} training and {len(data.val_labels)} validation images, "
        f"{data.task.classes} classes, {data.task.resolution} px, {data.task.channels} channel(s)"
    )
    pool = WorkerPool(workers)
    try:
        heritage = run.weights if config.warm_start else None
        evaluator = TrainingEvaluator(space, run.data, Recipe(), device=compute, heritage=heritage)
        _check_counted(config, space, data.task)
        # Workers import torch while blocks are timed would disturb the timing, so the table comes first.
        costs = DeviceCosts(space, data.task, _table(config, run, space, data.task, listener))
        feasible = FeasibleSet(space, costs, config.parsed_limits)
        feasible.check(np.random.default_rng([config.seed, 1, 2]))
        return Job(
            config=config,
            run=run,
            space=space,
            task=data.task,
            data=data,
            costs=costs,
            latencies=latencies_of(config, run, space, data.task),
            feasible=feasible,
            evaluator=evaluator,
            pool=pool,
            study=Study(run.study, space),
            clock=clock,
            listener=listener,
        )
    except BaseException:
        pool.stop()
        raise


def _check_counted(config: RunConfig, space: SearchSpace, task: Task) -> None:
    """Limits that no network meets whatever its latency are found before minutes of timing."""
    counted = [limit for limit in config.parsed_limits if limit.name != "latency_ms"]
    FeasibleSet(space, DeviceCosts(space, task), counted).check(np.random.default_rng([config.seed, 1, 2]))


def _table(config: RunConfig, run: RunFolder, space: SearchSpace, task: Task, listener: Listener) -> LatencyModel:
    """What is stored with the run; at first what was given, or measured now."""
    if run.table.exists():
        return open_model(config, run, space, task)
    if config.device_table is not None:
        text = read_device_table(Path(config.device_table), space, task, named=config.space)
        write_atomically(run.table, text.encode())
        table = open_model(config, run, space, task)
        listener.say(f"latency table of {table.device}, from {config.device_table}")
    else:
        device = Device.here()
        if task_key(task) not in stored_references(device):
            listener.say("timing the reference network first: once for images of this size on this device")
        what = "the blocks" if isinstance(space, ChainSpace) else f"{LEARNED_NETWORKS} networks"
        listener.say(f"timing {what} of {space.name} on {device}")
        budget_s = None if config.budget_s is None else TABLE_BUDGET_SHARE * config.budget_s
        table = measure_model(space, task, device, seed=config.seed, budget_s=budget_s)
        interval = reference_interval(task, device, table.reference_ms)
        write_atomically(run.table, table_text(table, FROM_HERE, interval).encode())
    drawn = space.sample(2000, np.random.default_rng([config.seed, 1, 6]))
    low, high = (float(f(table.estimate_ms(drawn))) for f in (np.min, np.max))
    listener.say(
        f"latency table: random networks take {low:.3g} to {high:.3g} ms, "
        f"estimates are within {table.stated_error:.1%} (95 %, {len(table.calibration)} networks)"
    )
    for remark in table_remarks(read_json(run.table)):
        listener.say(f"remark: {remark}")
    return table


def _search_stages(job: Job) -> tuple[Plan, Workload | None]:
    plan, work = _first_plan(job)
    first, later = _titles(job, plan)
    plan = _run_trials(job, plan, replace(plan, n_chosen=0), first)
    if job.config.budget_s is not None and work is not None and not RunRecord.read(job.run.plan).chosen_planned:
        trained = [trial for trial in job.study.trials() if trial.state == "complete"]
        work = replace(work, speed=_found_speed(work, plan, trained))
        plan = replan_chosen(plan, job.config.budget_s, job.clock.elapsed(), work, final_epochs=job.config.final_epochs)
        _save_plan(job, plan, chosen_planned=True, speed=work.speed)
    plan = _run_trials(job, plan, plan, later())
    return plan, work


def _titles(job: Job, plan: Plan) -> tuple[str, Callable[[], str]]:
    """What the trials of both parts of the plan are; of the second once those of the first are known."""
    if job.config.strategy != NEURAL_PREDICTOR:
        title = f"networks by {job.config.strategy}"
        return title, lambda: f"more {title}"

    def later() -> str:
        trained = sum(trial.state == "complete" for trial in job.study.trials()[: plan.n_random])
        if trained >= LEAST_TO_FIT:
            return "networks that the predictor picked"
        return f"more random networks (a predictor needs {LEAST_TO_FIT} trained ones)"

    return "random networks", later


def _choose_finalists(job: Job, plan: Plan, work: Workload | None) -> Plan:
    """Measure candidates, record the finalists, and plan their training by what is left of the budget."""
    if RunRecord.read(job.run.plan).finalists is not None:
        return plan
    chosen = _finalists(job, plan)
    plan = replace(plan, finalists=len(chosen))
    budget_s = job.config.budget_s
    if budget_s is not None and work is not None and job.config.final_epochs is None:
        work = replace(work, flops=np.array([each.trial.values["flops"] for each in chosen]))
        exports = 1 if all(each.again for each in chosen) else 2  # where the first misses, the next one is handed over
        plan = replan_final(plan, budget_s, job.clock.elapsed(), work, closing_s=exports * EXPORT_S)
    _save_plan(job, plan, finalists={each.name: RecordedFinalist(**_record(job, each)) for each in chosen})
    job.listener.say(f"{_many(len(chosen), 'finalist')} chosen; training each for {_many(plan.final_epochs, 'epoch')}")
    return plan


def _found_speed(work: Workload, plan: Plan, trained: Sequence[Trial]) -> TrainingSpeed:
    if not trained:
        return work.speed
    flops, seconds, per_image = (
        np.array([trial.values.get(name, np.nan) for trial in trained])
        for name in ("flops", "train_seconds", "train_s_per_image")
    )
    return work.speed.found(
        flops,
        seconds,
        per_image,
        epochs=plan.epochs,
        train_images=work.train_images,
        validation_images=work.validation_images,
    )


def _first_plan(job: Job) -> tuple[Plan, Workload | None]:
    config, run = job.config, job.run
    finalists = config.finalists or (FRONTIER_MEMBERS if config.job == "frontier" else max(2, min(4, job.pool.workers)))
    if config.budget_s is None and run.plan.exists():
        plan = RunRecord.read(run.plan).plan
        _show_plan(job, plan)
        return plan, None
    if config.budget_s is None:
        plan = plan_trials(
            config.trials or 2,
            epochs=config.epochs or DEFAULT_EPOCHS,
            final_epochs=config.final_epochs or DEFAULT_FINAL_EPOCHS,
            finalists=finalists,
        )
        _save_plan(job, plan)
        _show_plan(job, plan)
        return plan, None
    if run.plan.exists():
        stored = RunRecord.read(run.plan)
        if stored.speed is None:
            raise InputError(f"{run.plan} must say 'speed', but does not", hint="restore it, or start a new run")
        plan, work = stored.plan, _workload(job, stored.speed)
        job.listener.say("going on with the recorded plan")
        _show_plan(job, plan)
        return plan, work
    check_budget(config.budget_s, job.clock.elapsed())
    speed = _time_training(job)
    work = _workload(job, speed)
    plan = plan_budget(
        config.budget_s,
        job.clock.elapsed(),
        work,
        finalists=finalists,
        epochs=config.epochs,
        final_epochs=config.final_epochs,
    )
    _save_plan(job, plan, speed=speed)
    _show_plan(job, plan)
    return plan, work


def _workload(job: Job, speed: TrainingSpeed) -> Workload:
    drawn = job.feasible.sample(256, job.rng(4))
    return Workload(
        speed=speed,
        flops=job.costs.one("flops", drawn),
        train_images=len(job.data.train_labels),
        validation_images=len(job.data.val_labels),
        workers=job.pool.workers,
        steps_per_epoch=job.evaluator.recipe.steps_per_epoch(len(job.data.train_labels)),
        test_images=job.data.n_test,
    )


def _time_training(job: Job) -> TrainingSpeed:
    """Time a small, a middling and a large network under the limits, in all workers at once."""
    drawn = job.feasible.sample(64, job.rng(3))
    flops = job.costs.one("flops", drawn)
    order = np.argsort(flops)
    rows = drawn[order[np.linspace(0, len(order) - 1, TIMED_NETWORKS).astype(int)]]
    asked = np.repeat(rows, job.pool.workers, axis=0)
    futures = [job.pool.submit(job.evaluator.time, job.space.arch(row), seed=0) for row in asked]
    # A network that is too large for the memory is timed by the smaller ones; as a trial it will be one that failed.
    errors = [future.exception() for future in futures]
    mistakes = [error for error in errors if isinstance(error, InputError)]
    if mistakes:
        raise mistakes[0]
    timed = [i for i, error in enumerate(errors) if error is None]
    if not timed:
        raise SearchFailedError(
            f"all {len(asked)} timed trainings failed; the first: {errors[0]}",
            hint="smaller images or a narrower --space need less memory",
        )
    times = [futures[i].result() for i in timed]
    return TrainingSpeed.fit(
        job.costs.one("flops", asked[timed]).tolist(),
        [t.train_s_per_image for t in times],
        [t.validation_s_per_image for t in times],
        setup_s=float(np.median([t.setup_s for t in times])),
    )


def _save_plan(job: Job, plan: Plan, **more: Any) -> None:
    path = job.run.plan
    stored = RunRecord.read(path) if path.exists() else RunRecord(plan=plan, workers=job.pool.workers)
    stored.write(path, plan=plan, elapsed_s=job.clock.elapsed(), **more)


def _show_plan(job: Job, plan: Plan) -> None:
    ends = f", ends about {plan.ends_after_s:.0f} s after the start" if plan.ends_after_s else ""
    job.listener.say(
        f"plan: {_trials_said(job.config.strategy, plan)}, {_many(plan.epochs, 'epoch')} each, then "
        f"{_many(plan.finalists, 'final training')} of about {_many(plan.final_epochs, 'epoch')}, on "
        f"{job.evaluator.device} with {_many(job.pool.workers, 'worker')}{ends}"
    )


def _trials_said(strategy: str, plan: Plan) -> str:
    """As far as the plan can know: fewer random networks than a predictor needs may still fail."""
    if strategy != NEURAL_PREDICTOR:
        return f"about {_many(plan.n_trials, 'network')} by {strategy}"
    if plan.n_random < LEAST_TO_FIT or not plan.n_chosen:
        return _many(plan.n_trials, "random network")
    return f"{_many(plan.n_random, 'random network')} and about {_many(plan.n_chosen, 'picked one')}"


def _many(n: float, what: str) -> str:
    return f"{n:g} {what}{'' if n == 1 else 's'}"


def _run_trials(job: Job, plan: Plan, upto: Plan, title: str) -> Plan:
    """Evaluate the trials of `upto` that are not recorded yet."""
    recorded = len(job.study.trials())
    missing = upto.n_trials - recorded
    if missing <= 0:
        write_csv(job.run.trials, trial_rows(job.study.trials()))  # it may have been killed before it did
        return plan
    strategy = _strategy(job, plan)
    best = max((t.values["accuracy_val"] for t in job.study.trials() if t.state == "complete"), default=0.0)
    stored = RunRecord.read(job.run.plan)
    remarks = list(stored.remarks)  # also of before a break
    try:
        with job.listener.steps(title, missing) as steps:
            for trial in search(
                job.space,
                job.evaluator,
                strategy,
                n_trials=upto.n_trials,
                seed=job.config.seed,
                epochs=plan.epochs,
                limits=job.config.parsed_limits,
                costs=job.costs,
                study=job.study,
                executor=job.pool,
                parallel=stored.workers,
            ):
                best = max(best, trial.values.get("accuracy_val", 0.0))
                for remark in strategy.remarks:
                    if remark not in remarks:
                        remarks.append(remark)
                        job.listener.say(remark)
                steps.advance(f"best validation accuracy {best:.1%}")
                _save_plan(job, plan, remarks=tuple(remarks))  # and the time spent, should the process die here
    finally:
        write_csv(job.run.trials, trial_rows(job.study.trials()))
    trials = job.study.trials()
    _save_plan(job, plan, **({} if strategy.n_first is None else {"n_first": strategy.n_first}))
    failed = sum(trial.state == "failed" for trial in trials)
    job.listener.say(
        f"{missing} {title} trained, best validation accuracy {best:.1%}" + (f", {failed} failed" if failed else "")
    )
    if upto.n_trials == plan.n_trials:
        _say_judgement(job, plan, strategy)
    return plan


def _say_judgement(job: Job, plan: Plan, strategy: Strategy) -> None:
    """Once: how good the predictor of a run is."""
    if RunRecord.read(job.run.plan).predictor is None and (judgement := strategy.judgement) is not None:
        job.listener.say(sentence(judgement))
        _save_plan(job, plan, predictor=record_of(judgement))


def _strategy(job: Job, plan: Plan) -> Strategy:
    return STRATEGIES[job.config.strategy](
        Setting(
            plan.n_random,
            plan.n_chosen,
            RunRecord.read(job.run.plan).workers,
            job.config.job,
            job.config.parsed_soft_limits,
        )
    )


@dataclass(frozen=True)
class Finalist:
    """A trial that is worth training to the end, with its latency."""

    name: str
    trial: Trial
    score: float
    latency: Latency
    again: bool  # whether a second measurement, that of its file, is likely to find the limits met too


def likely_met_again(limits: Sequence[Limit], latency: Latency) -> bool:
    """Whether a second measurement would find limits on latency_ms met as well, with a probability of 0.9.

    Its mean lies around the first by sqrt(2) deviations, and its interval must meet them: twice the interval
    holds both with 0.92. Estimates are not made twice.
    """
    if not is_measured(latency.record):
        return True
    low, high = (end**2 / latency.ms for end in latency.interval)
    return latency_violation(limits, (low, high)) == 0


LeftOut = tuple[float, Trial, Latency]  # of what was measured; first by how much it misses the limits
MOST_UNKNOWN = 2  # networks of which the machine does not let it be told, for each finalist, before it is given up


def _finalists(job: Job, plan: Plan) -> list[Finalist]:
    """The best trials whose measured latency meets the limits; measuring comes before their final training.

    Raises:
        InfeasibleError: if none does.
        DisturbedError: if none is known to, and the machine was too disturbed to tell it of all.
    """
    trials = _distinct([trial for trial in job.study.trials() if trial.state == "complete"], job.space)
    if not trials:
        raise SearchFailedError("all trials failed", hint="see trials.csv for the reasons")
    scores = _scores(job, plan, trials)
    cost = np.array([trial.values["latency_ms_estimated"] for trial in trials])
    order = _preference(job.config.job, scores, cost, 2 * plan.finalists)
    found: list[Finalist] = []
    missed, unknown = list[LeftOut](), list[LeftOut]()
    for start in range(0, len(order), 2 * plan.finalists):
        part = order[start : start + 2 * plan.finalists]
        if job.latencies.to_measure() is None:
            job.listener.say(f"measuring the latency of {_many(len(part), 'candidate')}")
        latencies = job.latencies.of_archs([trials[i].arch for i in part], job.rng(5))
        for i, latency in zip(part, latencies, strict=True):
            by = latency_violation(job.config.parsed_limits, latency.interval)
            if by == 0:
                again = likely_met_again(job.config.parsed_limits, latency)
                found.append(Finalist(f"trial-{trials[i].number:03d}", trials[i], float(scores[i]), latency, again))
            elif is_told(job.config.parsed_limits, latency.record):
                missed.append((by, trials[i], latency))
            else:
                unknown.append((by, trials[i], latency))
        if len(found) >= plan.finalists or len(unknown) >= MOST_UNKNOWN * plan.finalists:
            break
    measured = len(found) + len(missed) + len(unknown)
    if missed:
        job.listener.say(f"{len(missed)} of {measured} measured candidates miss the latency limit and are left out")
    if unknown:
        job.listener.say(
            f"{len(unknown)} of {measured} measured candidates are left out: the machine was too disturbed to tell "
            "whether they meet the latency limit"
        )
    if not found:
        raise _none_found(job, missed, unknown)
    return _kept(job.config.job, found, plan.finalists)


def _none_found(job: Job, missed: Sequence[LeftOut], unknown: Sequence[LeftOut]) -> Exception:
    """Why there is no finalist: of some nobody knows, or all miss the limits."""
    limits = join_limits(job.config.limits)
    _, nearest, latency = min(unknown or missed, key=lambda each: each[0])
    low, high = latency.interval
    if unknown:
        return DisturbedError(
            f"the machine was too disturbed to tell whether a network meets {limits}: latency_ms of {nearest.arch} is "
            f"{low:.3g} to {high:.3g} (95 %); the same command goes on from here: give it when less runs beside it"
        )
    return InfeasibleError(
        f"no network meets {limits} (none found in {len(missed)} different networks, all measured); the nearest is "
        f"{nearest.arch} with latency_ms {latency.ms:.3g} (95 %: {low:.3g} to {high:.3g})",
        hint="relax the limit or search longer",
    )


def _kept(kind: str, found: list[Finalist], n: int) -> list[Finalist]:
    """The n most wanted of the measured, of whom the best come first. For a search the very best, then first of those
    whose file is likely to meet the limits too; for a frontier, its members along all latencies.
    """
    if kind == "search":
        kept = sorted(found, key=lambda each: not each.again)[:n]
        return kept if n == 1 or found[0] in kept else [*kept[:-1], found[0]]
    ms = np.array([each.latency.ms for each in found])
    scores = np.array([each.score for each in found])
    front = is_non_dominated(np.stack([ms, -scores], axis=1))
    members = spread_along(ms, scores, min(n, int(front.sum())), mask=front)
    order = dict.fromkeys([*members.tolist(), *np.argsort(-scores, kind="stable").tolist()])
    return [found[i] for i in list(order)[:n]]


def _distinct(trials: Sequence[Trial], space: SearchSpace) -> list[Trial]:
    """One trial a network: the first of equal ones."""
    if not trials:
        return []
    keys = space.canonical(np.stack([space.row(trial.arch) for trial in trials]))
    return [trials[i] for i in np.sort(np.unique(keys, axis=0, return_index=True)[1])]


def _scores(job: Job, plan: Plan, trials: list[Trial]) -> NDArray[np.float64]:
    """What each of these trials is worth by what the strategy learned of all; soft limits take their share."""
    strategy, told = _strategy(job, plan), job.study.trials()
    strategy.start(job.feasible, job.config.seed)
    strategy.tell(told)
    _say_judgement(job, plan, strategy)  # it may have been killed before it did
    scores = dict(zip((trial.number for trial in told), strategy.scores(), strict=True))
    return np.array([scores[trial.number] for trial in trials])


def _preference(kind: str, scores: NDArray[np.float64], cost: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """In which order to measure trials: the best first for a search; for a frontier, n along the front before those."""
    best = np.argsort(-scores, kind="stable")
    if kind == "search":
        return best
    front = is_non_dominated(np.stack([cost, -scores], axis=1))
    members = spread_along(cost, scores, min(n, int(front.sum())), mask=front)
    return np.asarray(list(dict.fromkeys([*members, *best])), dtype=np.int64)


def _train_finalists(job: Job, plan: Plan) -> dict[str, dict[str, Any]]:
    """Train each finalist to the end; those that have a `model.json` already are done."""
    stored = RunRecord.read(job.run.plan)
    assert stored.finalists is not None  # they are chosen
    records = stored.finalists
    failed = dict(stored.failed_finalists)
    done = job.run.models()
    waiting = [name for name in records if name not in done and name not in failed]
    futures: dict[cf.Future[Mapping[str, float]], str] = {}
    mistake: BaseException | None = None
    try:
        archs = {name: job.space.parse(records[name].arch) for name in waiting}
    except InputError as wrong:
        raise InputError(f"{job.run.plan}: {wrong}", hint="restore it, or start a new run") from None
    for name in waiting:
        folder = job.run.model(name)
        folder.mkdir(parents=True, exist_ok=True)
        # The one time that the test split is read for this network; nothing is chosen by it.
        futures[
            job.pool.submit(
                job.evaluator.finish,
                archs[name],
                epochs=plan.final_epochs,
                seed=evaluation_seed(job.config.seed, 1_000_000 + records[name].trial),
                weights=folder / "weights.pt",
            )
        ] = name
    with job.listener.steps("final trainings", len(waiting)) as steps:
        for future in cf.as_completed(futures):
            name = futures[future]
            error = future.exception()
            if isinstance(error, InputError) or (error is not None and not isinstance(error, Exception)):
                mistake = mistake or error  # the user's to mend (a full disk) or an interrupt; going on trains it again
                continue
            if error is not None:
                failed[name] = f"{type(error).__name__}: {error}"
                _save_plan(job, plan, failed_finalists=failed)
                job.listener.say(f"the final training of {name} failed: {error}")
                continue
            values = future.result()
            write_json(
                job.run.model(name) / "model.json",
                {
                    **records[name].model_dump(),
                    "accuracy_val": values["accuracy_val"],
                    "train_seconds": values["train_seconds"],
                    "accuracy_test": values["accuracy_test"],
                    "accuracy_test_interval": [values["accuracy_test_low"], values["accuracy_test_high"]],
                    "final_epochs": plan.final_epochs,
                },
            )
            steps.advance(f"validation {values['accuracy_val']:.1%}")
    if mistake is not None:
        raise mistake
    finals = job.run.models()
    if not finals:
        raise SearchFailedError(f"all final trainings failed: {'; '.join(failed.values())}", hint="start a new run")
    return finals


def _record(job: Job, finalist: Finalist) -> dict[str, Any]:
    values = finalist.trial.values
    assert job.costs.table is not None
    row = job.space.row(finalist.trial.arch)[None]
    (low,), (high,) = job.costs.table.interval_ms(row)
    record = {
        "name": finalist.name,
        "arch": str(finalist.trial.arch),
        "trial": finalist.trial.number,
        "accuracy_val_search": values["accuracy_val"],
        "latency_ms_estimated": values["latency_ms_estimated"],
        "latency_ms_estimated_interval": [float(low), float(high)],
        **finalist.latency.record,
        **{k: values[k] for k in ("params", "flops", "bytes", "intensity", "weight_bytes", "peak_memory_bytes")},
    }
    return {
        **record,
        "kept_share": share_kept(job.config.parsed_soft_limits, record),
        "meets_limits": all_met(limits_met(job.config.parsed_limits, record)),
    }


def _finish(job: Job, plan: Plan, finals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Hand over the best, write what is left to write, and sum up."""
    from .report import write_report

    name, record = _deploy_best(job, finals)
    learned = guessing_remark(record["accuracy_test_interval"], job.data.train_labels, plan.final_epochs)
    for remark in filter(None, (job.latencies.remark(record), learned)):
        job.listener.say(remark)
    finals = job.run.models()
    frontier = sorted(finals.values(), key=known_ms)
    front = _front(frontier, len(job.data.val_labels))
    rows = [{**_flat(model), **place} for model, place in zip(frontier, front, strict=True)]
    write_csv(job.run.frontier, rows)
    _save_plan(job, plan, ended=True)
    outcome = {
        "run": str(job.run.path),
        "meets_limits": record["meets_limits"],
        "chosen": _summary(record),
        "frontier": [{**_summary(model), **place} for model, place in zip(frontier, front, strict=True)],
        "model": str(job.run.model(name) / "model.onnx"),
        "certificate": record["certificate"],
        "to_measure": job.latencies.to_measure(),
        "report": str(job.run.report),
        "seconds": job.clock.elapsed(),
        "trials": len(job.study.trials()),
        "predictor": RunRecord.read(job.run.plan).predictor,
    }
    write_report(job.run, outcome)
    outcome["seconds"] = job.clock.elapsed()
    return outcome


def _front(models: Sequence[Mapping[str, Any]], val_images: int) -> list[dict[str, Any]]:
    """Of each final model, whether none is faster and more accurate, by what was measured, and how likely that is."""
    accuracy = np.array([model["accuracy_val"] for model in models])
    drawn = (accuracy * val_images + 1) / (val_images + 2)  # of few images, all right is not sure to be all right
    log_ms = np.log([known_ms(model) for model in models])
    log_ms_std = (np.log([known_interval(model)[1] for model in models]) - log_ms) / NORMAL
    likely = probability_non_dominated(accuracy, np.sqrt(drawn * (1 - drawn) / val_images), log_ms, log_ms_std)
    on_front = is_non_dominated(np.stack([log_ms, -accuracy], axis=1))
    return [{"on_front": bool(on), "on_front_probability": float(p)} for on, p in zip(on_front, likely, strict=True)]


def guessing_remark(accuracy_interval: Sequence[float], labels: NDArray[np.int64], epochs: float) -> str:
    """What a person should know of a network that may have learned nothing, or "".

    Args:
        accuracy_interval: on test images.
        labels: of the training images.
    """
    guessing = np.bincount(labels).max() / len(labels)
    if accuracy_interval[0] > guessing:
        return ""
    return (
        f"the chosen network may be no better than always saying the most frequent class ({guessing:.0%} of the "
        f"training images), after {_many(epochs, 'epoch')}: give a larger --budget, or more --final-epochs"
    )


def _deploy_best(job: Job, finals: Mapping[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Export and measure the best; where that misses a limit or cannot be exported, the next best, and so on."""
    left = dict(finals)
    unfit: dict[str, str] = {}
    while left:
        name = choose(left, "best", job.config.parsed_limits)
        what = "exporting, checking and measuring" if is_measured(left[name]) else "exporting and checking"
        job.listener.say(f"{what} {name}")
        try:
            record = deploy_locked(job.run, name)["model"]
        except ParityError as error:
            unfit[name] = str(error)
            job.listener.say(f"{name} cannot be handed over, the next one: {error}")
        else:
            if record["meets_limits"] or not is_measured(record):
                return name, record
            missed = record["meets_limits"] is False
            how = f"missed a limit ({known_ms(record):.3g} ms)" if missed else "could not be measured well enough"
            job.listener.say(f"{name}: its file {how}")
        del left[name]
    exported = {name: model for name, model in job.run.models().items() if name not in unfit}
    if not exported:
        raise SearchFailedError(f"no final model could be exported: {'; '.join(unfit.values())}")
    name = choose(exported, "best", job.config.parsed_limits)  # all may miss a limit: the one that misses least
    return name, exported[name]


SUMMARY = (
    "name",
    "arch",
    "accuracy_test",
    "accuracy_test_interval",
    "accuracy_val",
    "latency_ms",
    "latency_ms_interval",
    "latency_steady",
    "latency_ms_estimated",
    "latency_ms_estimated_interval",
    "device",
    "params",
    "flops",
    "intensity",
    "weight_bytes",
    "peak_memory_bytes",
    "meets_limits",
    "kept_share",
    "latency_of",
)
ADDED_LATER = ("latency_ms_estimated_interval", "device", "kept_share")  # models of earlier versions do not say them


def _summary(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: model.get(key) if key in ADDED_LATER else model[key] for key in SUMMARY}


def _flat(model: Mapping[str, Any]) -> dict[str, object]:
    """One row of `frontier.csv`: an interval becomes two columns, and no number stands where there is none."""
    row: dict[str, object] = {}
    model = model if model["latency_steady"] else {**model, "latency_ms": None}
    for key, value in _summary(model).items():
        if key.endswith("_interval"):
            row[key.replace("_interval", "_low")], row[key.replace("_interval", "_high")] = value or ("", "")
        else:
            row[key] = value
    return row
