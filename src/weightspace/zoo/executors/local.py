"""Shards in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from weightspace.errors import problem
from weightspace.params import RuntimeSettings
from weightspace.runtime import device, prepare, workers
from weightspace.zoo.shards import ShardJob, train_shard


def verify() -> None:
    """Nothing is needed."""


def train(jobs: list[ShardJob], runtime: RuntimeSettings) -> Iterator[int]:
    """Train shards, yielding each as it finishes.

    One thread per shard, whatever the number of workers, so that it never changes a byte.

    Raises:
        WeightspaceError: a shard failed, or a worker was killed.

    """
    processes = 1 if device(runtime) == "cuda" else workers(runtime)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max(1, min(processes, len(jobs))), context, _start_worker, (os.getpid(),)
    ) as pool:
        futures = [pool.submit(train_shard, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise problem(
                "a worker that trained shards was killed",
                where="runtime.workers",
                do="give it more memory or use fewer workers, and run again: it continues from "
                "the finished shards",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """One thread, and no life after the parent's: a killed stage leaves no process behind."""
    prepare(threads=1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
