"""A member's loss on weights, and with a weight above 0 the behavioural loss in addition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weightspace.autoencoders.base import AutoencoderData
from weightspace.learning.behavioural import BehaviouralLoss
from weightspace.params import AutoencoderSettings
from weightspace.weights.spec import Weights


class FitLoss:
    """An autoencoder's loss on weights, and with a weight above 0 the behavioural loss in addition.

    Args:
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        weight: of the behavioural loss.

    """

    def __init__(self, data: AutoencoderData, settings: AutoencoderSettings, weight: float) -> None:
        self.weight = weight
        if weight:
            images = data.probes.to(data.runner.device)
            self.behaviour = BehaviouralLoss(data.runner, images, data.originals, settings)

    def __call__(
        self,
        structural: Tensor,
        penalties: dict[str, Tensor],
        rebuilt: Callable[[], Weights],
        rows: Tensor,
        split: str,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Named losses; ``loss`` is their sum.

        Args:
            structural: loss on the weights.
            penalties: further terms, weighted.
            rebuilt: gives the decoded networks, where they are needed.
            rows: indices of the originals in the split.
            split: "train" or "val".
            rng: draws images.

        """
        total = sum(penalties.values(), structural)
        if not self.weight:
            return {"loss": total, **({"structural": structural, **penalties} if penalties else {})}
        net, networks = self.behaviour.runner.net, rebuilt()
        behavioural, parts = self.behaviour(
            lambda images: net.outputs(networks, images), rows, split, rng
        )
        total = total + self.weight * behavioural
        return {"loss": total, "structural": structural, **penalties, **parts}
