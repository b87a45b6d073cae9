"""The result R of a network on a task: its accuracy or its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from weightspace.data.dataset import class_labels
from weightspace.errors import problem


def labels_of(outputs: Tensor) -> Tensor:
    """Labels ``(B,)`` of outputs ``(..., B, c)`` on images that come class after class."""
    samples, classes = outputs.shape[-2:]
    return class_labels(classes, samples // classes).to(outputs.device)


def accuracies(outputs: Tensor) -> Tensor:
    """Accuracy ``(M,)`` of outputs ``(M, B, c)`` on images that come class after class, in float64.

    >>> import torch
    >>> accuracies(torch.tensor([[[2.0, 1.0], [0.0, 3.0]], [[2.0, 1.0], [3.0, 0.0]]]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    return (outputs.argmax(-1) == labels_of(outputs)).double().mean(1)


def cross_entropy(outputs: Tensor) -> Tensor:
    """Cross entropy ``(M, B)`` in nats, in float64, of outputs ``(M, B, c)`` on images class after class.

    >>> import torch
    >>> cross_entropy(torch.zeros(1, 2, 2))  # a uniform guess: log 2
    tensor([[0.6931, 0.6931]], dtype=torch.float64)
    """
    log_p = outputs.double().log_softmax(-1)
    index = labels_of(outputs).expand(outputs.shape[:2])[..., None]
    return -log_p.gather(-1, index)[..., 0]


def losses(outputs: Tensor) -> Tensor:
    """Mean cross entropy ``(M,)`` in nats of outputs ``(M, B, c)`` on images that come class after class.

    In float64.

    >>> import torch
    >>> losses(torch.zeros(1, 6, 3))  # a uniform guess: log 3
    tensor([1.0986], dtype=torch.float64)
    """
    return cross_entropy(outputs).mean(1)


@dataclass(frozen=True)
class Result:
    """What R is: the accuracy of a network on images of its task, or its loss.

    Attributes:
        name: "accuracy" or "loss".

    >>> Result("loss").best((0.1, 1.2))
    0.1

    """

    name: str

    @property
    def higher_is_better(self) -> bool:
        """True for the accuracy."""
        return self.name == "accuracy"

    @property
    def label(self) -> str:
        """Name with its unit, for tables and plots."""
        return self.name if self.higher_is_better else f"{self.name} (nats)"

    def of(self, outputs: Tensor) -> Tensor:
        """Result ``(M,)`` of outputs ``(M, B, c)`` on images that come class after class."""
        return accuracies(outputs) if self.higher_is_better else losses(outputs)

    def by_class(self, outputs: Tensor) -> Tensor:
        """As :meth:`of`, of each class ``(M, c)``, as float32."""
        images = outputs.shape[1] // outputs.shape[2]
        of_image = (
            outputs.argmax(-1) == labels_of(outputs)
            if self.higher_is_better
            else cross_entropy(outputs)
        )
        means: Tensor = of_image.double().unflatten(1, (-1, images)).mean(2)
        return means.float()

    def of_members(self, members: pd.DataFrame) -> np.ndarray:
        """R of each member ``(N,)`` of a table: its result on the val images of its task.

        A network that fits its train images says nothing by its result on them.
        """
        return members[f"val_{self.name}"].to_numpy(float)

    def best(self, bounds: tuple[float, float]) -> float:
        """The good end of a range (low, high)."""
        return bounds[1] if self.higher_is_better else bounds[0]

    def check(self, value: float) -> float:
        """The value of a request.

        Raises:
            WeightspaceError: not finite, below 0, or for the accuracy above 1.

        """
        if not (math.isfinite(value) and value >= 0 and (value <= 1 or not self.higher_is_better)):
            expected = "between 0 and 1" if self.higher_is_better else "0 or above"
            raise problem(f"impossible {self.name}", got=value, expected=expected)
        return float(value)
