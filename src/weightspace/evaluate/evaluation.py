"""What every evaluation reads, under one name: a population for any method, for ours a sampler, too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from weightspace.artifacts import ZOO_FOLDER
from weightspace.evaluate.controls import TrainMembers
from weightspace.params import EvaluateSettings, Params
from weightspace.sampling.requests import Grid
from weightspace.sampling.sampler import Condition, Sampler, load_sampler
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo


class Scoring(ABC):
    """What networks of any method are measured with.

    Attributes:
        zoo: the population.
        runner: runs networks on the images of their tasks.

    """

    zoo: Zoo
    runner: TaskRunner

    @property
    @abstractmethod
    def settings(self) -> EvaluateSettings:
        """How much is drawn and resampled."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """Root of all random streams."""

    @property
    @abstractmethod
    def result(self) -> Result:
        """What R is."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Trained range of R."""

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
        return Grid(tasks, np.linspace(*self.bounds, self.settings.targets))

    def best_condition(self, tasks: np.ndarray) -> Condition:
        """For each of T tasks the request for the best trained result."""
        target = torch.full((len(tasks),), self.result.best(self.bounds))
        return Condition.of_tasks(self.runner.dataset, torch.from_numpy(tasks), target)


@dataclass(frozen=True)
class Evaluation(Scoring):
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
        zoo = Zoo.open(data / ZOO_FOLDER, params.width)
        return cls(zoo, *load_sampler(data, params), params, data)

    @property
    def settings(self) -> EvaluateSettings:
        """Section ``evaluate`` of params.yaml."""
        return self.params.evaluate

    @property
    def seed(self) -> int:
        """That of params.yaml."""
        return self.params.seed

    @property
    def result(self) -> Result:
        """What the shared encoder takes for R."""
        return self.sampler.shared_encoder.result

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of the shared encoder."""
        return self.sampler.shared_encoder.bounds

    @cached_property
    def train_members(self) -> TrainMembers:
        """All train members, for the controls; read when first used."""
        return TrainMembers.of(self.zoo, self.sampler, self.runner)

    def grid_at_quantiles(self, tasks: np.ndarray) -> Grid:
        """As :meth:`grid`, at quantiles of the results of all train members: most lie near the best one."""
        results = self.result.of_members(self.zoo.select("train"))
        count = self.settings.targets
        targets = np.quantile(results, (np.arange(count) + 0.5) / count)
        return Grid(tasks, targets.clip(*self.bounds))
