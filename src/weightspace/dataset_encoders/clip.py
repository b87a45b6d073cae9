"""Class embedding by a pre-trained CLIP model: mean and standard deviation of its image features.

Source: Radford et al. (2021), Learning Transferable Visual Models From Natural Language
Supervision, arXiv 2103.00020; weights and code by open_clip (extra ``clip``). The model is not part
of the saved shared encoder: it is loaded again, from its cache. Images that are not square are
stretched to the model's size, not cropped.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.dataset_encoders.base import Standardised
from weightspace.errors import problem
from weightspace.params import ClipSettings

BLOCK = 256  # images that the model reads at once


def load_model(settings: ClipSettings) -> tuple[Any, dict[str, Any]]:
    """The pre-trained model, and the size, mean and std of the images it reads.

    Raises:
        WeightspaceError: the package is not installed or the weights cannot be had; one line.

    """
    key = "params.yaml: shared_encoder.dataset_encoder"
    try:
        open_clip = import_module("open_clip")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise problem(
            "encoder 'clip' needs the package open_clip_torch",
            where=key,
            got=" ".join(str(error).split())[:200],
            do="pip install 'weightspace[clip]' with the torchvision of this torch, or choose another encoder",
        ) from error
    try:
        model = open_clip.create_model(settings.model, pretrained=settings.pretrained)
    except Exception as error:  # every hub and cache raises other errors
        raise problem(
            f"CLIP weights '{settings.pretrained}' of '{settings.model}' cannot be had",
            where="params.yaml: dataset_encoders.clip",
            got=" ".join(str(error).split())[:200],
            do="connect once to download them, name a local file, or choose another encoder",
        ) from error
    return model.eval().requires_grad_(False), open_clip.get_model_preprocess_cfg(model)


class Clip(Standardised):
    """CLIP features of the images of a class, mean and standard deviation, standardised over train classes.

    Args:
        settings: section ``dataset_encoders.clip`` of params.yaml.

    """

    whole = True
    low: Tensor
    high: Tensor

    def __init__(self, settings: ClipSettings) -> None:
        with torch.device("cpu"):  # its weights are no part of a file
            model, reads = load_model(settings)
        super().__init__(2 * model.visual.output_dim)
        self._model = (model,)  # in a tuple: not among the tensors that are saved
        size = reads["size"]
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._scale = [torch.tensor(reads[k]).reshape(3, 1, 1) for k in ("mean", "std")]
        self.register_buffer("low", torch.zeros(()))  # images of this project are standardised:
        self.register_buffer("high", torch.ones(()))  # the darkest and the brightest train pixel

    def prepare(self, images: Tensor) -> None:
        """Fit brightness and standardisation on the images of the train classes ``(M, n, C, H, W)``."""
        self.low.copy_(images.min())
        self.high.copy_(images.max())
        super().prepare(images)

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Mean and standard deviation ``(M, 2 F)`` of the unit features of images ``(M, n, C, H, W)``."""
        flat, model = images.flatten(0, 1), self._model[0].to(images.device)
        raw = [model.encode_image(self.pixels(block)) for block in flat.split(BLOCK)]
        features = F.normalize(torch.cat(raw).float(), dim=1).unflatten(0, images.shape[:2])
        return torch.cat([features.mean(1), features.std(1)], 1)

    def pixels(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` as the model reads them: three colours, its size and scale."""
        x = ((images - self.low) / (self.high - self.low).clamp_min(1e-6)).clamp(0, 1)
        x = x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        x = F.interpolate(x, self._size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (value.to(x.device) for value in self._scale)
        return (x - mean) / std


def build(shape: tuple[int, int, int], options: ClipSettings, rng: torch.Generator) -> Clip:
    """Encoder for images of any shape; nothing in it is learned by a fit.

    Args:
        shape: channels, height, width of an image.
        options: section ``dataset_encoders.clip`` of params.yaml.
        rng: source of initial values.

    """
    return Clip(options)
