"""The jobs that a stage hands to an executor, and the choice of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from weightspace.jobs import EXECUTORS
from weightspace.params import RuntimeSettings
from weightspace.registry import resolve


class Job(Protocol):
    """A part of a stage's work that can be pickled and gives the same bytes wherever it runs."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def device(self) -> str:
        """Device for torch, "cpu" or "cuda"."""

    def inputs(self) -> dict[str, Path]:
        """Files that all jobs of the stage read, by their paths below a folder."""

    def packed(self) -> Self:
        """The same job, holding what it reads beyond those files: for a machine without our disk."""

    def moved(self, folder: Path) -> Self:
        """The same job with its files, those it writes too, below a folder."""

    def outputs(self) -> tuple[Path, ...]:
        """Files that it writes, in this order."""

    def execute(self) -> Any:
        """Do it. Returns a small result that can be pickled."""


def files_in(*folders: Path) -> dict[str, Path]:
    """Files of some folders by their paths below a folder that would hold these: for ``Job.inputs``."""
    return {f"{f.name}/{path.name}": path for f in folders for path in sorted(f.iterdir())}


def execute(jobs: Sequence[Job], runtime: RuntimeSettings) -> Iterator[Any]:
    """Execute jobs on the chosen executor, yielding the result of each as it finishes.

    Raises:
        WeightspaceError: the executor cannot start, a job failed, or its worker was killed.

    """
    executor = resolve(EXECUTORS, runtime.executor, "runtime.executor")
    results: Iterator[Any] = executor.execute(jobs, runtime)
    return results
