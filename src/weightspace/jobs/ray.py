"""Jobs as Ray tasks, on the cluster of ``RAY_ADDRESS`` or on a Ray that is started for them.

Machines of a cluster need Ray and the package's dependencies, but no disk in common: the package
that the driver runs, what its jobs read and what they write all travel through Ray.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import weightspace
from weightspace.artifacts import write_bytes
from weightspace.errors import WeightspaceError, problem
from weightspace.jobs.base import Job
from weightspace.params import RuntimeSettings
from weightspace.runtime import prepare, workers

RETRIES = 3  # of a job whose worker died; errors that it raises are not repeated
Done = tuple[Any, list[bytes]]  # result and written files of a job


def verify() -> None:
    """Refuse to start without Ray."""
    if importlib.util.find_spec("ray") is None:
        raise problem(
            "Ray is not installed",
            where="params.yaml: runtime.executor",
            got="ray",
            do="pip install 'weightspace[ray]', or set it to local",
        )


def execute(jobs: Sequence[Job], runtime: RuntimeSettings) -> Iterator[Any]:
    """Execute jobs on the cluster, yielding the result of each as its files arrive.

    At most two jobs per core are under way, so that they do not fill Ray's memory.

    Raises:
        WeightspaceError: no cluster, a job failed, or its workers died too often.

    """
    verify()
    if not jobs:
        return
    import ray

    with _cluster(runtime):
        task = ray.remote(num_cpus=1, num_gpus=int(jobs[0].device == "cuda"), max_retries=RETRIES)(
            _task
        )
        inputs = ray.put({name: path.read_bytes() for name, path in jobs[0].inputs().items()})
        waiting, running = deque(jobs), dict[Any, Job]()
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while waiting or running:
            while waiting and len(running) < most:
                job = waiting.popleft()
                running[task.remote(job.packed(), inputs)] = job
            (ready,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ready)
            result, files = _done(ready, job)
            for path, data in zip(job.outputs(), files, strict=True):
                write_bytes(path, data)
            yield result


@contextmanager
def _cluster(runtime: RuntimeSettings) -> Iterator[None]:
    """Connect to ``RAY_ADDRESS``, or start a Ray without dashboard and usage reports."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {"num_cpus": workers(runtime), "include_dashboard": False}
    environment = {
        "py_modules": _modules(),
        "env_vars": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"]},
    }
    try:
        _reach(address)
        ray.init(
            address or "local",
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else local),
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


def _modules() -> list[str]:
    """Folders of the package, and never an installed copy, and of the project's members."""
    package = Path(weightspace.__file__).parent
    members = package.parent / "members"
    return [str(f) for f in (package, members) if f.is_dir()]


def _reach(address: str | None) -> None:
    """Fail at once where nobody listens; Ray itself tries for two minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _task(job: Job, inputs: dict[str, bytes]) -> Done:
    """Do a job on whatever machine this is: files in, files out."""
    prepare(threads=1)
    with TemporaryDirectory() as name:
        for path, data in inputs.items():
            write_bytes(Path(name) / path, data)
        moved = job.moved(Path(name))
        return moved.execute(), [file.read_bytes() for file in moved.outputs()]


def _done(ready: Any, job: Job) -> Done:
    """What a finished task returned; the errors of this package as they were raised."""
    import ray

    try:
        done: Done = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, WeightspaceError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise problem(
            f"the workers of a job died {RETRIES + 1} times ({type(error).__name__})",
            where=job.name,
            do="give them more memory, and run again: a zoo continues from its finished shards",
        ) from error
    return done
