"""Baselines with one setting that is chosen on val tasks: what each is, and the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from weightspace.sampling.requests import Grid


@dataclass(frozen=True)
class Outcome:
    """What the networks of a baseline do, one for each request of a grid.

    Attributes:
        achieved: their results on the images that count ``(T * K,)``.
        image_gradients: labelled image-gradients on its task that one of them took, mean.

    """

    achieved: np.ndarray
    image_gradients: float = 0.0


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

    def tune(self, grid: Grid) -> tuple[float, Outcome]:
        """The setting with the smallest mean squared error on val images, and what it gives there.

        Of several that are equal, the one in the middle.
        """
        outcomes = [self.method(grid, s, "val") for s in self.settings]
        errors = [_error(grid, outcome) for outcome in outcomes]
        best = [i for i, error in enumerate(errors) if error == min(errors)]
        middle = best[len(best) // 2]
        return self.settings[middle], outcomes[middle]

    def at_edge(self, setting: float) -> bool:
        """Whether a setting is the smallest or the largest of several: a better one may lie beyond.

        >>> baseline = Baseline(lambda grid, s, part: Outcome(grid.target + s), [0.1, 0.2, 0.3])
        >>> [baseline.at_edge(s) for s in baseline.settings]
        [True, False, True]
        """
        return len(self.settings) > 1 and setting in (self.settings[0], self.settings[-1])


def _error(grid: Grid, outcome: Outcome) -> float:
    """Mean squared distance from the targets; infinite where a network diverged."""
    error = float(np.square(outcome.achieved - grid.target).mean())
    return error if np.isfinite(error) else np.inf
