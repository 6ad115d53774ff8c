"""Running networks in rounds: the raw times behind every latency.

This file stands alone (numpy, ONNX Runtime and the standard library), since a kit carries it to machines where nothing
else of this project is.

Networks run in rounds, each once a round in random order, with the caches flushed before every run: a buffer of 64 MiB
is written. A few rounds make a visit: for each visit every network is loaded anew, and half-way once more, in opposite
order, since what is loaded later runs faster. Where its weights and maps happen to
lie in memory moves a small network's time by some percent, as much as another process does, and no number of runs of
one loaded network averages that out; visits do.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

CPU_PROVIDER = "CPUExecutionProvider"
FLUSH_BYTES = 64 * 2**20  # a larger buffer makes runs of tiny networks twice as long
QUANTILE = 0.25
MIDDLE = (0.3, 0.4, 0.5, 0.6, 0.7)  # quantiles of a visit's rounds: their mean scatters less than the median alone
ROUNDS_A_VISIT = 16
TOGETHER_ROUNDS = 6  # of many networks in the same rounds, which are compared with each other alone
PATIENCE = 6  # visits that are made again before it is waited
LEAST_ROUNDS = 3  # after a loading that were not interrupted, for those that were to be left out
SLOW_ROUND = math.log(1.5)  # over the networks' lower quartiles; where others share the machine, 1.2 is usual
INTERRUPTED = 1.1  # wall clock over CPU time of a run
TRIES = 3  # visits that are made for each that is wanted, where the machine is disturbed
FINE_STEP_MS = 0.005  # a step of the CPU clock of which reading it may be the reason
COARSE = 0.05  # larger step of the CPU clock, as a share of a run: some systems count in 10 or 16 ms
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # what disturbs is often short: waited before giving up, one after another
T = TypeVar("T")


class DisturbedError(RuntimeError):
    """The machine's speed changes too much, or its clock is too coarse, for any number to be a measurement."""


class ProviderError(RuntimeError):
    """ONNX Runtime does not run a network where it was told to."""


def rounds_of(group: Sequence[object]) -> int:
    """In one visit: of a network alone as many as of a file, since those after a loading are slower than later ones."""
    return ROUNDS_A_VISIT if len(group) == 1 else TOGETHER_ROUNDS


@dataclass(frozen=True)
class Setting:
    """How networks run.

    Attributes:
        threads: of one inference.
        provider: ONNX Runtime's name of what computes.
        batch: images of one inference, for models whose batch is free; others keep theirs.
    """

    threads: int = 1
    provider: str = CPU_PROVIDER
    batch: int = 1

    def __post_init__(self) -> None:
        if min(self.threads, self.batch) < 1:  # of 0 threads ONNX Runtime makes as many as it likes
            raise ValueError(f"threads and batch must be at least 1, got {self.threads} and {self.batch}")

    @property
    def on_cpu_clock(self) -> bool:
        """Whether the calling thread does all the work, so that its CPU time is the time of a run."""
        return self.threads == 1 and self.provider == CPU_PROVIDER


DEFAULT_SETTING = Setting()


def open_session(model: bytes | Path, setting: Setting = DEFAULT_SETTING) -> Any:
    """An ONNX Runtime session as the protocol defines it: all optimisations, one provider, no spinning threads.

    Raises:
        ProviderError: if the provider is not there, or would leave a part of the network to another.
    """
    known = onnxruntime.get_available_providers()
    if setting.provider not in known:
        raise ProviderError(f"the provider must be one of {', '.join(known)}, got {setting.provider}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors are raised, and whoever catches them says them
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    missing = ""
    if setting.provider != CPU_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        missing = _load_libraries()
    source = str(model) if isinstance(model, Path) else model
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[setting.provider])
    except Exception as error:  # ONNX Runtime's errors have no common parent but this
        if setting.provider == CPU_PROVIDER:
            raise
        reason = " ".join(f"{error} {missing}".split())
        raise ProviderError(f"{setting.provider} must run the whole network, but does not: {reason}") from None
    session.disable_fallback()
    if session.get_providers()[0] != setting.provider:
        reason = f": {missing}" if missing else ""
        raise ProviderError(f"{setting.provider} must run the network, but {session.get_providers()[0]} would{reason}")
    return session


def _load_libraries() -> str:
    """Load CUDA and cuDNN from the packages that pip put them in, where ONNX Runtime does not look by itself.

    Returns:
        What it says of those that it needs and that are not there, or "".
    """
    if not hasattr(onnxruntime, "preload_dlls"):  # before 1.21
        return ""
    with redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
    return " ".join(said.getvalue().split())


@dataclass(frozen=True)
class Rounds:
    """Raw times of several networks in the same rounds, in ms. The first network is the reference.

    Attributes:
        cpu, wall: (networks, loadings, rounds of each), caches flushed before each run; two loadings make a visit.
        warm: (networks, visits, warm runs), or an empty last axis where none were asked for.
        on_cpu_clock: whether a run's time is its CPU time; else it is wall clock.
        repeated: visits that were left out because the machine was disturbed, and made again.
    """

    cpu: NDArray[np.float64]
    wall: NDArray[np.float64]
    warm: NDArray[np.float64]
    on_cpu_clock: bool = True
    repeated: int = 0

    @property
    def times(self) -> NDArray[np.float64]:
        """`cpu` or `wall`, whichever is the clock."""
        return self.cpu if self.on_cpu_clock else self.wall

    def slow_rounds(self) -> NDArray[np.bool_]:
        """(loadings, rounds): in which the networks, on average, took much longer than in others of the loading."""
        log_ms = np.log(self.times)
        return np.asarray((log_ms - np.quantile(log_ms, QUANTILE, axis=2, keepdims=True)).mean(axis=0) > SLOW_ROUND)

    def interrupted(self) -> NDArray[np.bool_]:
        """(loadings, rounds): in which another process had the core during a run; on the CPU clock only."""
        return np.asarray((self.wall > INTERRUPTED * self.cpu).any(axis=0)) & self.on_cpu_clock

    def kept(self) -> NDArray[np.bool_]:
        """(loadings, rounds): the rounds that count, for all networks alike.

        Slow ones never do. Interrupted ones do where fewer than 3 others are left: CPU time does not hold the
        interruption, only what it did to the caches, which are flushed anyway.
        """
        steady = ~self.slow_rounds()
        whole = steady & ~self.interrupted()
        return np.where(whole.sum(axis=1, keepdims=True) >= LEAST_ROUNDS, whole, steady)

    def typical_ms(self) -> NDArray[np.float64]:
        """(networks, visits): the middle of the rounds that count, the geometric mean of both loadings.

        Of wall clocks the lower quartile: they hold what other work takes, which only makes them longer.
        """
        return np.exp(self._of_visits(np.log(self.times), MIDDLE if self.on_cpu_clock else (QUANTILE,)))

    def log_ratios(self) -> NDArray[np.float64]:
        """(networks - 1, visits): logarithm of each network's time over that of the first.

        On the CPU clock the middle of the ratios within a round: where the speed of a machine changes from second to
        second, they scatter less than the ratio of what is typical. Of wall clocks that ratio.
        """
        if self.on_cpu_clock:
            log_ms = np.log(self.times)
            return self._of_visits(log_ms[1:] - log_ms[0], MIDDLE)
        typical = np.log(self.typical_ms())
        return np.asarray(typical[1:] - typical[0])

    def _of_visits(self, values: NDArray[np.float64], quantiles: tuple[float, ...]) -> NDArray[np.float64]:
        """(networks, visits) of (networks, loadings, rounds): the mean of quantiles of the rounds that count."""
        of_loadings = [
            np.quantile(values[:, i, kept], quantiles, axis=1).mean(axis=0) for i, kept in enumerate(self.kept())
        ]
        return np.asarray(np.transpose(of_loadings).reshape(len(values), -1, 2).mean(axis=2))


def run_rounds(
    models: Sequence[bytes | Path],
    *,
    visits: int,
    rng: np.random.Generator,
    rounds: int = ROUNDS_A_VISIT,
    warm_runs: int = 0,
    setting: Setting = DEFAULT_SETTING,
) -> Rounds:
    """For each visit load every network, and run it once in each of the visit's rounds, caches flushed.

    A visit is made again where more than half the rounds after one of its loadings are slow, at last after pauses of
    half a minute in all.

    Raises:
        DisturbedError: if two visits are disturbed for each that is not, or the CPU clock goes in steps too large.
        ProviderError: see `open_session`.
    """
    if rounds % 2 or warm_runs % 2:
        raise ValueError(f"half of a visit's runs follow each of two loadings, got {rounds} and {warm_runs}")
    step_ms = clock_step_ms() if setting.on_cpu_clock else 0.0
    made: list[tuple[NDArray[np.float64], ...]] = []
    repeated = 0
    pauses = iter(PAUSES_S)
    while len(made) < visits:
        visit = _visit(models, rounds, warm_runs, rng, setting)
        alone = _joined([visit], setting.on_cpu_clock, 0)
        if step_ms > max(FINE_STEP_MS, COARSE * alone.times.min()):
            raise DisturbedError(
                f"the CPU time of this system is too coarse to measure: it goes in steps of {step_ms:.3g} ms, and a "
                f"run takes {alone.times.min():.3g} ms"
            )
        if alone.slow_rounds().mean(axis=1).max() <= 0.5:
            made.append(visit)
            continue
        repeated += 1
        if repeated >= PATIENCE and repeated >= (TRIES - 1) * len(made):
            pause_s = next(pauses, None)
            if pause_s is None:
                raise DisturbedError(
                    f"the machine is too disturbed to measure: its speed changed within {repeated} of "
                    f"{repeated + len(made)} visits by more than {math.expm1(SLOW_ROUND):.0%}; "
                    "measure when less runs beside it"
                )
            time.sleep(pause_s)
    return _joined(made, setting.on_cpu_clock, repeated)


def clock_step_ms() -> float:
    """The least step in which the CPU time of a thread is seen to advance."""
    steps = []
    for _ in range(5):
        began = now = time.thread_time_ns()
        while now == began:
            now = time.thread_time_ns()
        steps.append((now - began) / 1e6)
    return min(steps)


def _joined(visits: Sequence[tuple[NDArray[np.float64], ...]], on_cpu_clock: bool, repeated: int) -> Rounds:
    cpu, wall, warm = zip(*visits, strict=True)
    return Rounds(
        np.concatenate(cpu, axis=1), np.concatenate(wall, axis=1), np.stack(warm, axis=1), on_cpu_clock, repeated
    )


def _visit(
    models: Sequence[bytes | Path], rounds: int, warm_runs: int, rng: np.random.Generator, setting: Setting
) -> tuple[NDArray[np.float64], ...]:
    """cpu and wall (networks, loadings, runs), and warm (networks, runs), of networks loaded for this visit.

    They are loaded twice, the second time in opposite order, for half of the runs each: of two small networks the one
    that is loaded later runs 2 to 3 % faster.
    """
    order = rng.permutation(len(models)).tolist()
    loadings = [_run_loaded(models, each, rounds // 2, warm_runs // 2, rng, setting) for each in (order, order[::-1])]
    cpu, wall, warm = zip(*loadings, strict=True)
    return np.stack(cpu, axis=1), np.stack(wall, axis=1), np.concatenate(warm, axis=1)


def _run_loaded(
    models: Sequence[bytes | Path],
    order: Sequence[int],
    rounds: int,
    warm_runs: int,
    rng: np.random.Generator,
    setting: Setting,
) -> tuple[NDArray[np.float64], ...]:
    """cpu, wall and warm times (networks, runs) of networks that are loaded in this order."""
    loaded = {i: open_session(models[i], setting) for i in order}
    sessions = [loaded[i] for i in range(len(models))]
    feeds = [_feed(session, rng, setting.batch) for session in sessions]
    for i in order:
        _warm_up(sessions[i], feeds[i], setting.provider)
    flush = np.zeros(FLUSH_BYTES // 8)
    cpu, wall = np.empty((2, len(models), rounds))
    for r in range(rounds):
        for i in rng.permutation(len(models)):
            np.add(flush, 1.0, out=flush)
            cpu[i, r], wall[i, r] = _time(sessions[i], feeds[i])
    # After the flushed rounds: in between, they would leave the caches of the next run in another state.
    warm = [
        [_time(session, feed)[0 if setting.on_cpu_clock else 1] for _ in range(warm_runs + 1)][1:]
        for session, feed in zip(sessions, feeds, strict=True)
        if warm_runs
    ]
    return cpu, wall, np.array(warm).reshape(len(models), -1)


@contextmanager
def new_processes() -> Iterator[Callable[..., Any]]:
    """Gives `run(fn, *args)`: what `fn` returns where nothing else has run, each time in another process.

    Memory that a process has used makes networks faster, some more than others: in processes that had run others,
    chains took 1.5 % more against the reference than in ones of their own, beside a busy process. To start one takes a
    second; on Linux they are forks of one that has loaded everything and run nothing, and ratios are nearly the same.
    """
    if sys.platform != "linux":
        yield in_new_process
        return
    with _pool("spawn") as loaded:
        yield lambda fn, *args: _result(loaded, _in_fork, fn, *args)


def in_new_process(fn: Callable[..., T], *args: Any) -> T:
    """What `fn` returns where nothing else has run, and nothing is hurt where it kills its process."""
    with _pool("spawn") as pool:
        return _result(pool, fn, *args)


def _in_fork(fn: Callable[..., T], *args: Any) -> T:
    with warnings.catch_warnings(), _pool("fork") as pool:
        warnings.simplefilter("ignore", DeprecationWarning)  # of a thread beside the fork: it only waits
        return _result(pool, fn, *args)


def _pool(method: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method), initializer=_end_with_parent)


def _result(pool: ProcessPoolExecutor, fn: Callable[..., T], *args: Any) -> T:
    """What `fn` returns in the process of the pool, which holds interrupts back until it has loaded."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        return pool.submit(fn, *args).result()
    resource_tracker.ensure_running()  # by what every start does where it does not run, interrupts come through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        future = pool.submit(fn, *args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return future.result()


def _end_with_parent() -> None:
    """In a process of a pool, which ends without a word where it is interrupted, and where its parent is no more."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else its parent ignores it, and so does this
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_once(model: bytes | Path, setting: Setting, rng: np.random.Generator) -> None:
    """Load a network and run it on random images."""
    session = open_session(model, setting)
    session.run(None, _feed(session, rng, setting.batch))


def _feed(session: Any, rng: np.random.Generator, batch: int) -> dict[str, NDArray[np.float32]]:
    feed = {}
    for spec in session.get_inputs():
        shape = [size if isinstance(size, int) else batch for size in spec.shape]
        feed[spec.name] = rng.random(shape, dtype=np.float32)
    return feed


def _warm_up(session: Any, feed: dict[str, NDArray[np.float32]], provider: str) -> None:
    """The first runs allocate memory lazily.

    Raises:
        ProviderError: if another provider than the CPU cannot run it, for lack of its memory most of all.
    """
    try:
        for _ in range(3):
            session.run(None, feed)
    except Exception as error:  # ONNX Runtime's errors have no common parent but this
        if provider == CPU_PROVIDER:
            raise
        raise ProviderError(f"{provider} cannot run the network: {' '.join(str(error).split())}") from None


def _time(session: Any, feed: dict[str, NDArray[np.float32]]) -> tuple[float, float]:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    session.run(None, feed)
    return (time.thread_time_ns() - cpu) / 1e6, (time.perf_counter_ns() - wall) / 1e6
