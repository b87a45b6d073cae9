"""What every evaluation of sampled networks reads, under one name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from weightspace.artifacts import ZOO_FOLDER
from weightspace.evaluate.controls import TrainMembers
from weightspace.params import Params
from weightspace.sampling.requests import Grid
from weightspace.sampling.sampler import Condition, Sampler, load_sampler
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo


@dataclass(frozen=True)
class Evaluation:
    """A finished pipeline, as the evaluations of sampled networks read it.

    Attributes:
        zoo: the population.
        sampler: draws networks.
        runner: runs networks on the images of their tasks.
        params: all settings.
        data: folder of the artefacts, for other processes; None: there are none.

    """

    zoo: Zoo
    sampler: Sampler
    runner: TaskRunner
    params: Params
    data: Path | None = None

    @classmethod
    def load(cls, data: Path, params: Params) -> Evaluation:
        """Read what the stages left in the folder ``data``."""
        return cls(Zoo.open(data / ZOO_FOLDER), *load_sampler(data, params), params, data)

    @property
    def result(self) -> Result:
        """What R is."""
        return self.sampler.shared_encoder.result

    @cached_property
    def train_members(self) -> TrainMembers:
        """All train members, for the controls; read when first used."""
        return TrainMembers.of(self.zoo, self.sampler, self.runner)

    def tasks(self, split: str) -> np.ndarray:
        """Tasks of a split that have members ``(T,)``, in rising order."""
        return np.unique(self.zoo.select(split)["task"])

    def class_sets(self, tasks: np.ndarray) -> np.ndarray:
        """Class set of each task ``(N,)``: orders of one set are no independent tasks."""
        sets: np.ndarray = (
            self.runner.dataset.tasks.set_index("task")["class_set"].loc[tasks].to_numpy()
        )
        return sets

    def grid(self, tasks: np.ndarray) -> Grid:
        """``evaluate.targets`` requests for each of T tasks, evenly over the trained range."""
        bounds = self.sampler.shared_encoder.bounds
        return Grid(tasks, np.linspace(*bounds, self.params.evaluate.targets))

    def grid_at_quantiles(self, tasks: np.ndarray) -> Grid:
        """As :meth:`grid`, at quantiles of the results of all train members: most lie near the best one."""
        results = self.result.of_members(self.zoo.select("train"))
        count = self.params.evaluate.targets
        targets = np.quantile(results, (np.arange(count) + 0.5) / count)
        return Grid(tasks, targets.clip(*self.sampler.shared_encoder.bounds))

    def best_condition(self, tasks: np.ndarray) -> Condition:
        """For each of T tasks the request for the best trained result."""
        best = self.result.best(self.sampler.shared_encoder.bounds)
        target = torch.full((len(tasks),), best)
        return Condition.of_tasks(self.runner.dataset, torch.from_numpy(tasks), target)
