"""Calibrate requests on val: what to ask for, so that the mean achieved result is the target."""

from __future__ import annotations

import numpy as np

from weightspace.rng import torch_stream
from weightspace.sampling.requests import Grid
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders.base import set_calibration
from weightspace.zoo.runner import TaskRunner

CALIBRATION_TARGETS, CALIBRATION_DRAWS = 33, 4


def calibrate(sampler: Sampler, runner: TaskRunner, tasks: np.ndarray, seed: int) -> None:
    """Calibrate the shared encoder, without guidance, on val images of val tasks.

    Args:
        sampler: its shared encoder is changed in place.
        runner: measures what is drawn.
        tasks: val tasks.
        seed: root seed.

    """
    model = sampler.shared_encoder
    grid = Grid(tasks, np.linspace(*model.bounds, CALIBRATION_TARGETS))
    condition = grid.condition(runner.dataset)
    z = sampler.latents(condition, CALIBRATION_DRAWS, torch_stream(seed, "calibrate"))
    outputs = runner.outputs_by_task(sampler.networks(z), grid.tasks, "val")
    set_calibration(model, grid.target, grid.achieved(outputs, model.result).mean(1))
