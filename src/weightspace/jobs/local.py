"""Jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

import torch

from weightspace.errors import problem
from weightspace.jobs.base import Job
from weightspace.params import RuntimeSettings
from weightspace.runtime import prepare, workers

# Share a GPU: while one trains, others write, read and hash what they trained
ON_GPU = 4


def verify() -> None:
    """Nothing is needed."""


def execute(jobs: Sequence[Job], runtime: RuntimeSettings) -> Iterator[Any]:
    """Execute jobs, yielding the result of each as it finishes.

    One thread per job, however many workers there are, so that it never changes a byte.

    Raises:
        WeightspaceError: a job failed, a worker was killed, or none could start.

    """
    on_gpu = any(job.device == "cuda" for job in jobs)
    processes = max(1, min(workers(runtime), len(jobs), *[ON_GPU] * on_gpu))
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    with ProcessPoolExecutor(
        processes,
        context,
        _start_worker,
        (os.getpid(), started, 1 / processes if on_gpu else None),
    ) as pool:
        with _deaf():
            futures = [pool.submit(job.execute) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            if not started.is_set():
                raise problem(
                    "no worker could start, for the reason printed above",
                    where="runtime.workers",
                    do='in your script, put what it does under `if __name__ == "__main__":`, '
                    "for each worker imports the script first",
                ) from error
            raise problem(
                "a worker was killed",
                where="runtime.workers",
                do="give it more memory or use fewer workers, and run again: a zoo continues "
                "from its finished shards",
            ) from error
        except (KeyboardInterrupt, SystemExit, GeneratorExit):  # jobs under way are not waited for
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started in this block never hear Ctrl-C: this one hears it, and ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int, started: Event, memory: float | None) -> None:
    """One thread, and no life after the parent's: a killed stage leaves no process behind.

    Args:
        parent: its process.
        started: is set.
        memory: the share of a GPU's memory that it may take; None where there is none.

    """
    prepare(threads=1)
    if memory is not None:
        torch.cuda.set_per_process_memory_fraction(memory)
    started.set()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
