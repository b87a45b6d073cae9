"""Calibrate requests on val: what to ask for, so that the mean achieved result is the target."""

from __future__ import annotations

import numpy as np
import torch

from weightspace.rng import torch_stream
from weightspace.sampling.requests import Grid, Judge
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders.base import set_calibration

CALIBRATION_TARGETS, CALIBRATION_DRAWS = 33, 4


def calibrate(sampler: Sampler, tasks: np.ndarray, seed: int) -> None:
    """Calibrate the shared encoder, without guidance, on val images of val tasks."""
    low, high = sampler.shared_encoder.trained_range.tolist()
    grid = Grid(tasks, np.linspace(low, high, CALIBRATION_TARGETS))
    judge = Judge(sampler.net, sampler.dataset, sampler.shared_encoder.settings.result)
    asked = torch.tensor(grid.asked, dtype=torch.float32)
    z = sampler.latents(grid.task, asked, CALIBRATION_DRAWS, torch_stream(seed, "calibrate"))
    achieved = judge(grid, sampler.decode(z), "val").mean(1)
    set_calibration(sampler.shared_encoder, grid.asked, achieved)
