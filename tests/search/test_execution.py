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
    for _ in range(100):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent by 10 seconds")
