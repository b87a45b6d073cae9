"""Shards as Ray tasks, on the cluster of ``RAY_ADDRESS`` or on a Ray started here.

Machines of a cluster need Ray and the package's dependencies, but no disk in common: the package
that the driver runs, the dataset and the finished shards all travel through Ray.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import weightspace
from weightspace.artifacts import write_bytes
from weightspace.errors import WeightspaceError, problem
from weightspace.params import RuntimeSettings
from weightspace.runtime import prepare, workers
from weightspace.zoo.shards import ShardJob, train_shard

RETRIES = 3  # of a shard whose worker died; its own errors are not repeated
Files = dict[str, bytes]


def verify() -> None:
    """Refuse to start without Ray."""
    if importlib.util.find_spec("ray") is None:
        raise problem(
            "Ray is not installed",
            where="params.yaml: runtime.executor",
            found="ray",
            do="pip install 'weightspace[ray]', or set it to local",
        )


def train(jobs: list[ShardJob], runtime: RuntimeSettings) -> Iterator[int]:
    """Train shards on the cluster, yielding each as its files arrive.

    At most two shards per core are under way, so that finished ones do not fill Ray's memory.

    Raises:
        WeightspaceError: no cluster, a shard failed, or its workers died too often.

    """
    verify()
    if not jobs:
        return
    import ray

    with _cluster(runtime):
        task = ray.remote(num_cpus=1, num_gpus=int(jobs[0].device == "cuda"), max_retries=RETRIES)(
            _shard
        )
        dataset = ray.put({f.name: f.read_bytes() for f in sorted(jobs[0].dataset.iterdir())})
        waiting, running = deque(jobs), dict[Any, ShardJob]()
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while waiting or running:
            while waiting and len(running) < most:
                job = waiting.popleft()
                running[task.remote(job, dataset)] = job
            (ready,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ready)
            _keep(job, _result(ready, job))
            yield job.shard


@contextmanager
def _cluster(runtime: RuntimeSettings) -> Iterator[None]:
    """Connect to ``RAY_ADDRESS``, or start a Ray without dashboard and usage reports."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    address = os.environ.get("RAY_ADDRESS")
    here: dict[str, Any] = {"num_cpus": workers(runtime), "include_dashboard": False}
    environment = {
        "py_modules": [str(Path(weightspace.__file__).parent)],  # and never an installed copy
        "env_vars": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
    }
    try:
        _reach(address)
        ray.init(
            address or "local",
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else here),
        )
    except (ray.exceptions.RayError, ConnectionError, OSError, RuntimeError) as error:
        raise problem(
            f"no Ray ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            where=f"RAY_ADDRESS={address}" if address else "runtime.executor",
            do="start the cluster, or set runtime.executor to local",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Fail at once where nobody listens; Ray itself tries for two minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _shard(job: ShardJob, dataset: Files) -> Files:
    """Train a shard on whatever machine this is: files in, files out."""
    prepare(threads=1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in dataset.items():
            write_bytes(folder / "dataset" / file, data)
        here = replace(job, dataset=folder / "dataset", folder=folder)
        train_shard(here)
        return {f.name: f.read_bytes() for f in (here.table_path, here.weights_path)}


def _result(ready: Any, job: ShardJob) -> Files:
    """Files of a finished shard; the errors of the house as they were raised."""
    import ray

    try:
        files: Files = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, WeightspaceError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise problem(
            f"the workers of a shard died {RETRIES + 1} times ({type(error).__name__})",
            where=job.weights_path.name,
            do="give them more memory, and run again: it continues from the finished shards",
        ) from error
    return files


def _keep(job: ShardJob, files: Files) -> None:
    """Write a shard as a local worker does, the table first and the weights last."""
    for path in (job.table_path, job.weights_path):
        write_bytes(path, files[path.name])
