"""Baselines with one setting, which is chosen for each target on val tasks: what each is, and the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weightspace.sampling.requests import Grid


@dataclass(frozen=True)
class Outcome:
    """What the networks of a baseline do, one for each request of a grid.

    Attributes:
        achieved: their results on the images that count ``(T * K,)``.
        image_gradients: labelled image-gradients on its task that each took ``(T * K,)``, or all took.

    """

    achieved: np.ndarray
    image_gradients: np.ndarray | float = 0.0


Method = Callable[[Grid, float, str], Outcome]  # requests, setting, part of the images that counts


@dataclass(frozen=True)
class Baseline:
    """A way to networks for requests that does not draw.

    Attributes:
        method: gives the networks.
        settings: values of its one setting to choose from, in rising order.
        setting: name of the setting.
        top_only: it is asked for the highest target alone.

    """

    method: Method
    settings: Sequence[float]
    setting: str = "rate"
    top_only: bool = False

    def tune(self, grid: Grid) -> tuple[np.ndarray, Outcome]:
        """For each target the setting with the smallest mean squared error on val images ``(K,)``.

        Of several that are equal, the one in the middle. Also what comes of the chosen ones there.
        """
        tried = [self.method(grid, setting, "val") for setting in self.settings]
        errors = np.array([_errors(grid, outcome) for outcome in tried])
        best = [np.flatnonzero(of_target == of_target.min()) for of_target in errors.T]
        index = np.array([equal[len(equal) // 2] for equal in best])
        of_request = np.tile(index, len(grid.tasks)), np.arange(len(grid))
        achieved, gradients = (
            np.stack([np.broadcast_to(values, len(grid)) for values in every])[of_request]
            for every in (
                [outcome.achieved for outcome in tried],
                [outcome.image_gradients for outcome in tried],
            )
        )
        return np.array(self.settings)[index], Outcome(achieved, gradients)

    def __call__(self, grid: Grid, chosen: np.ndarray, part: str) -> Outcome:
        """What it gives for the requests of a grid.

        Args:
            grid: the requests.
            chosen: setting of each target ``(K,)``.
            part: images that the networks are measured on, "val" or "test".

        """
        achieved, gradients = np.empty((2, len(grid.tasks), len(grid.targets)))
        for setting in np.unique(chosen):
            columns = chosen == setting
            some = replace(grid, targets=grid.targets[columns])
            outcome = self.method(some, float(setting), part)
            achieved[:, columns] = some.by_task(outcome.achieved)
            taken = np.broadcast_to(outcome.image_gradients, len(some))
            gradients[:, columns] = some.by_task(taken)
        return Outcome(achieved.ravel(), gradients.ravel())

    def at_edge(self, chosen: np.ndarray) -> float:
        """Fraction of settings that are the smallest or the largest: better ones may lie beyond.

        >>> baseline = Baseline(lambda grid, s, part: Outcome(grid.target + s), [0.1, 0.2, 0.3])
        >>> baseline.at_edge(np.array([0.1, 0.2, 0.2, 0.2]))
        0.25
        """
        return float(np.isin(chosen, (self.settings[0], self.settings[-1])).mean())


def _errors(grid: Grid, outcome: Outcome) -> np.ndarray:
    """Mean squared distance from each target ``(K,)``; infinite where a network diverged."""
    errors = grid.by_task(np.square(outcome.achieved - grid.target)).mean(0)
    finite: np.ndarray = np.nan_to_num(errors, nan=np.inf)
    return finite
