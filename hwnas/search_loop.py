"""The search loop: asks a strategy, lets an evaluator answer, records, tells."""

from __future__ import annotations

import concurrent.futures as cf
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from latency import DeviceCosts
from spaces import Arch, InputError, SearchSpace

from .evaluation.evaluator import Evaluator
from .feasible import FeasibleSet
from .objectives import Limit
from .strategies.strategy import DifferentRecordError, Strategy
from .study import Study
from .trial import Trial

FAILURES_BEFORE_GIVING_UP = 5

log = logging.getLogger(__name__)


class SearchFailedError(InputError):
    """Every training failed, so the fault is hardly the candidates'."""

    exit_code = 1


def search(
    space: SearchSpace,
    evaluator: Evaluator,
    strategy: Strategy,
    *,
    n_trials: int,
    seed: int,
    epochs: float = 1,
    limits: Sequence[Limit] = (),
    costs: DeviceCosts | None = None,
    study: Study | None = None,
    executor: cf.Executor | None = None,
    parallel: int = 1,
) -> Iterator[Trial]:
    """Evaluate architectures that a strategy proposes, `n_trials` in all, and yield each trial as it ends.

    Trials that the study holds already are told to the strategy, neither evaluated again nor yielded. A candidate
    that fails is a trial with state "failed", and the search goes on. Up to `parallel` evaluations run at once on
    `executor` (without one: here, one after another). Proposals do not depend on which evaluation ends first: at
    proposal k the strategy has been told the trials up to k - parallel, and more only where it asked to wait.

    Args:
        epochs: the fidelity of every evaluation.
        costs: adds counts and estimates to every trial's values; needed where there are limits.
    Raises:
        InfeasibleError: if nothing that meets the limits can be proposed.
        InputError: if the study holds other architectures than this strategy and seed propose.
        SearchFailedError: if all of the first trials fail.
    """
    strategy.start(FeasibleSet(space, costs, limits), seed)
    recorded = {trial.number: trial for trial in study.trials()} if study is not None else {}
    finished = dict(recorded)
    running: dict[cf.Future[Mapping[str, float]], tuple[int, Arch, int | None]] = {}

    def collect(number: int) -> Iterator[Trial]:
        """Wait until trial `number` is known; whatever ends meanwhile is recorded and yielded."""
        while number not in finished:
            done, _ = cf.wait(running, return_when=cf.FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: running[future][0]):
                trial = _trial(future, *running.pop(future), epochs=epochs, seed=seed, costs=costs, space=space)
                finished[trial.number] = trial
                if study is not None:
                    study.add(trial)
                yield trial
        _give_up_if_all_failed(finished)

    # What is recorded without a gap was asked for already. The strategy is told of it only as far as it had been
    # told when it made its next proposal, so that it makes the same one.
    asked = next(k for k in range(n_trials + 1) if k == n_trials or k not in recorded)
    told = max(0, asked - parallel + 1)
    strategy.tell([recorded[k] for k in range(told)])
    strategy.resume(asked, {k: space.row(recorded[k].arch) for k in range(told, asked)})
    while asked < n_trials:
        while told <= asked - parallel:
            yield from collect(told)
            strategy.tell([finished[told]])
            told += 1
        while not len(rows := strategy.ask(1)):
            if told == asked:
                raise RuntimeError(f"{type(strategy).__name__} waits for trials, but all {told} were told")
            yield from collect(told)
            strategy.tell([finished[told]])
            told += 1
        arch = space.arch(rows[0])
        if asked not in recorded:
            parent = strategy.parent(asked)
            trial = partial(
                evaluator.evaluate_trial,
                arch,
                epochs=epochs,
                seed=evaluation_seed(seed, asked),
                number=asked,
                parent=None if parent is None else (parent, finished[parent].arch),
            )
            running[_submit(executor, trial)] = asked, arch, parent
        elif recorded[asked].arch != arch:
            raise DifferentRecordError(asked, arch, recorded[asked].arch)
        asked += 1
    while running:
        yield from collect(min(number for number, *_ in running.values()))


def evaluation_seed(seed: int, number: int) -> int:
    """The seed of trial `number` of a run, far from the seeds of other trials and runs."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _submit(executor: cf.Executor | None, trial: Callable[[], Mapping[str, float]]) -> cf.Future[Mapping[str, float]]:
    if executor is not None:
        return executor.submit(trial)
    future: cf.Future[Mapping[str, float]] = cf.Future()
    try:
        future.set_result(trial())
    except Exception as error:
        future.set_exception(error)
    return future


def _trial(
    future: cf.Future[Mapping[str, float]],
    number: int,
    arch: Arch,
    parent: int | None,
    *,
    epochs: float,
    seed: int,
    costs: DeviceCosts | None,
    space: SearchSpace,
) -> Trial:
    known = costs.of(space.row(arch)[None]) if costs is not None else {}
    values = {name: float(value[0]) for name, value in known.items()}
    own_seed = evaluation_seed(seed, number)
    error = future.exception()
    if error is None:
        found = future.result()
        if not isinstance(found, Mapping) or "accuracy_val" not in found:
            given = (", ".join(found) or "nothing") if isinstance(found, Mapping) else repr(found)
            raise InputError(f"an evaluator must give accuracy_val by name, but of {arch} it gave {given}")
        return Trial(number, arch, epochs, own_seed, "complete", {**values, **found}, parent=parent)
    if isinstance(error, InputError) or not isinstance(error, Exception):
        raise error  # the user's mistake or an interrupt, not the candidate's failure
    log.warning("trial %d (%s) failed: %s", number, arch, error)
    return Trial(number, arch, epochs, own_seed, "failed", values, f"{type(error).__name__}: {error}", parent)


def _give_up_if_all_failed(finished: Mapping[int, Trial]) -> None:
    first = [finished[k] for k in range(FAILURES_BEFORE_GIVING_UP) if k in finished]
    if len(first) == FAILURES_BEFORE_GIVING_UP and all(trial.state == "failed" for trial in finished.values()):
        raise SearchFailedError(
            f"all {len(finished)} trials failed; the first: {first[0].reason}",
            hint="see trials.csv; smaller images or a narrower --space need less memory",
        )
