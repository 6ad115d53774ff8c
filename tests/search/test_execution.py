"""Worker processes: answers, deaths, and what is left when the parent dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_evaluators
import psutil
import pytest

from hwnas.execution import WorkerDiedError, WorkerPool


def test_answers_errors_and_deaths_reach_their_own_task_only():
    with WorkerPool(2) as pool:
        good = [pool.submit(fake_evaluators.double, i) for i in range(6)]
        dead = pool.submit(fake_evaluators.die)
        wrong = pool.submit(fake_evaluators.double, None)
        after = [pool.submit(fake_evaluators.double, i) for i in range(6, 10)]
        assert [f.result(60) for f in good + after] == [2 * i for i in range(10)]
        with pytest.raises(WorkerDiedError, match="died"):
            dead.result(60)
        with pytest.raises(TypeError):
            wrong.result(60)


def test_a_task_does_not_pay_for_a_worker_that_died_before_it():
    with WorkerPool(1) as pool:
        worker = pool.submit(fake_evaluators.process_id, 0).result(60)
        os.kill(worker, signal.SIGKILL)
        time.sleep(1)  # the pool notices
        assert pool.submit(fake_evaluators.double, 4).result(60) == 8


def test_what_a_failed_task_held_is_let_go():
    with WorkerPool(1) as pool:
        with pytest.raises(MemoryError, match="no room") as caught:
            pool.submit(fake_evaluators.fail_with_large).result(60)
        assert "in double" in str(caught.value.__cause__)  # where it happened is still told
        assert not pool.submit(fake_evaluators.is_large_held).result(60)


def test_a_worker_whose_gpu_answers_no_more_is_replaced():
    lasting = RuntimeError("CUDA error: an illegal memory access was encountered")
    passing = RuntimeError("CUDA error: out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when ...")
    with WorkerPool(1) as pool:

        def after(*errors):
            failed = pool.submit(fake_evaluators.fail, *errors).exception(60)
            return type(failed), pool.submit(fake_evaluators.process_id, 0).result(60)

        first = pool.submit(fake_evaluators.process_id, 0).result(60)
        assert [after(error) for error in passing] == [(RuntimeError, first)] * 2
        assert after(ValueError("CUDA error: of a file of this name")) == (ValueError, first)
        kind, second = after(lasting)
        assert kind is WorkerDiedError
        assert second != first
        kind, third = after(ValueError("no answer"), lasting)
        assert kind is WorkerDiedError
        assert third != second


def test_a_stopped_pool_ends_its_workers_at_once():
    pool = WorkerPool(2)
    workers = {pool.submit(fake_evaluators.process_id, 0.5) for _ in range(2)}
    workers = {future.result(60) for future in workers}
    running = [pool.submit(fake_evaluators.process_id, 300) for _ in range(2)]
    waiting = pool.submit(fake_evaluators.double, 1)
    while not all(future.running() for future in running):
        time.sleep(0.05)
    started = time.monotonic()
    pool.stop()
    pool.stop()  # nothing more to do
    assert time.monotonic() - started < 30
    assert all(ends(worker) for worker in workers)
    assert waiting.cancelled()
    for future in running:
        with pytest.raises(WorkerDiedError):
            future.result(0)


def test_a_process_that_fails_does_not_wait_for_its_tasks(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import fake_evaluators, time\n"
        "from hwnas.execution import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(1)\n"
        "    try:\n"
        "        pool.submit(fake_evaluators.process_id, 300)\n"
        "        time.sleep(1)\n"
        "        raise SystemExit(2)\n"
        "    finally:\n"
        "        pool.stop()\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": paths}, timeout=60, check=False)
    assert done.returncode == 2


def test_tasks_run_side_by_side_with_one_thread_each():
    with WorkerPool(2) as pool:
        for _ in range(2):  # the second time both processes are up
            ids = {pool.submit(fake_evaluators.process_id, 0.5) for _ in range(2)}
            ids = {future.result(60) for future in ids}
        assert len(ids) == 2
        assert os.getpid() not in ids
        assert pool.submit(fake_evaluators.environment, "OMP_NUM_THREADS").result(60) == "1"


def test_a_pool_that_was_shut_down_takes_nothing_and_cancels():
    pool = WorkerPool(1)
    slow = pool.submit(fake_evaluators.process_id, 0.5)
    waiting = [pool.submit(fake_evaluators.double, i) for i in range(5)]
    time.sleep(0.2)
    pool.shutdown(cancel_futures=True)
    assert slow.done()
    assert any(future.cancelled() for future in waiting)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(fake_evaluators.double, 1)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    program = (
        "import fake_evaluators, time\n"
        "from hwnas.execution import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(1)\n"
        "    print(pool.submit(fake_evaluators.process_id, 0).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert ends(worker)


def ends(pid):
    """Within 10 seconds, perhaps as a process that nobody has asked for its exit code yet."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_worker_has_its_threads_also_where_the_main_module_imports_torch(tmp_path):
    """A new process runs the main module before it is told anything."""
    script = tmp_path / "main.py"
    script.write_text(
        "import torch\n"
        "torch.set_num_threads(3)\n"
        "from hwnas.execution import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(1) as pool:\n"
        "        print(pool.submit(torch.get_num_threads).result(), torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1", "3"]


def test_one_thread_is_for_linear_algebra_too():
    code = (
        "import numpy, torch\n"
        "from hwnas.execution import use_one_thread\n"
        "use_one_thread()\n"
        "from threadpoolctl import threadpool_info\n"
        "print(torch.get_num_threads(), *{library['num_threads'] for library in threadpool_info()})\n"
    )
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    printed = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["1", "1"]
