"""Where evaluations run: worker processes behind the `concurrent.futures.Executor` interface."""

from __future__ import annotations

import concurrent.futures as cf
import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")
OUT_OF_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "alloc_failed")

log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of torch's ways of saying that memory, of the CPU or a GPU, does not suffice."""
    return any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def use_one_thread() -> None:
    """One thread for torch and linear algebra in this process: beside busy workers, more of them cost 5 to 40 times."""
    import scipy.linalg  # noqa: F401, PLC0415  its library must be loaded to be limited
    import torch  # noqa: PLC0415  workers that only run ONNX Runtime never need it
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.set_num_threads(1)
    threadpool_limits(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch while it lasts, for networks so small that more threads cost ten times what they gain."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class WorkerDiedError(RuntimeError):
    """The process that ran a task ended without an answer (killed, out of memory, crashed)."""


class WorkerPool(cf.Executor):
    """Processes that each run one task at a time, with `threads` threads in every numeric library.

    Unlike a plain process pool it survives the death of a worker: the task that the worker ran gets
    `WorkerDiedError`, the other tasks are not disturbed, and a new process takes the place. So it is too after an
    error of CUDA, other than a lack of memory: no later task could use the GPU in that process.
    """

    def __init__(self, workers: int, *, threads: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, got {workers}")
        self.workers = workers
        self._threads = threads
        self._tasks: queue.SimpleQueue[tuple[cf.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        # Never read, so that one message is seen by all workers, also by those that start later.
        self._stopped, self._stop = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._keepers = [threading.Thread(target=self._keep, daemon=True) for _ in range(workers)]
        for keeper in self._keepers:
            keeper.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> cf.Future[T]:
        if self._stopping.is_set():
            raise RuntimeError("the pool was shut down")
        future: cf.Future[T] = cf.Future()
        self._tasks.put((future, _Call(fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._stopping.set()
        if cancel_futures:
            while True:
                try:
                    item = self._tasks.get_nowait()
                except queue.Empty:
                    break
                if item is not None:
                    item[0].cancel()
        for _ in self._keepers:
            self._tasks.put(None)
        if wait:
            for keeper in self._keepers:
                keeper.join()

    def stop(self) -> None:
        """End all workers at once, whatever they run: their tasks get `WorkerDiedError`, waiting ones are cancelled.

        Without it a process that ends waits for its running tasks, even after `shutdown(wait=False)`.
        """
        self.shutdown(wait=False, cancel_futures=True)  # first: a keeper whose worker dies takes the next task
        self._stop.send_bytes(b"stop")
        self.shutdown()

    def _keep(self) -> None:
        """One thread a worker: hands it tasks, and replaces it when it dies."""
        process = self._start()
        while (item := self._tasks.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                try:
                    running = process.submit(call)
                except BrokenProcessPool:  # the worker died before this task, which is not to blame
                    process.shutdown(wait=False)
                    process = self._start()
                    running = process.submit(call)
                future.set_result(running.result())
            except BrokenProcessPool:
                process.shutdown(wait=False)
                process = self._start()
                future.set_exception(WorkerDiedError("the worker process died (killed, out of memory, or crashed)"))
            except BaseException as error:
                future.set_exception(error)
        process.shutdown(wait=True)

    def _start(self) -> cf.ProcessPoolExecutor:
        return cf.ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
            initargs=(self._threads, self._stopped),
        )


class _Call:
    """A picklable call without arguments."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs

    def __call__(self) -> Any:
        try:
            return self.fn(*self.args, **self.kwargs)
        except BaseException as error:
            errors = _with_causes(error)
            lasting = next(filter(_lasts, errors), None)
            if lasting is not None:
                what = str(lasting).partition("\n")[0]
                log.error("a worker process ends, since its GPU would answer it no more: %s", what)
                os._exit(1)
            # The process keeps its last error, and with the frames of what led to it all that a training held.
            for each in errors:
                traceback.clear_frames(each.__traceback__)
            raise


def _with_causes(error: BaseException) -> list[BaseException]:
    found = [error]
    for each in found:
        found += [one for one in (each.__cause__, each.__context__) if one is not None and one not in found]
    return found


def _lasts(error: BaseException) -> bool:
    """Whether every later call of CUDA in this process fails too, as after an access to a wrong address."""
    return isinstance(error, RuntimeError) and str(error).startswith("CUDA error") and not is_out_of_memory(error)


def _prepare_worker(threads: int, stopped: Connection) -> None:
    # Before torch is imported in this process: more threads than free cores cost 10 to 40 times.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # the main module imported it, which a new process does first
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)
    threading.Thread(target=_end_when_told, args=(stopped,), daemon=True).start()


def _end_when_told(stopped: Connection) -> None:
    """When the pool is stopped; or when the parent is gone: the worker would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel, stopped])
        os._exit(1)
