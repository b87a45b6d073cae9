"""Fit the hypernetwork that draws are compared with, on no population."""

import torch

from _stage import DATA, run
from weightspace.artifacts import HYPERNETWORK_FILE, ZOO_FOLDER
from weightspace.evaluate.hypernetwork import fit, fits_memory, save
from weightspace.params import Params
from weightspace.shared_encoders.base import range_of
from weightspace.zoo.result import Result
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/hypernetwork; without controls, or for networks that are too large, it is empty."""
    path = DATA / HYPERNETWORK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    runner = load_runner(DATA, params)
    if params.evaluate.controls and fits_memory(runner, params):
        members = Zoo.open(DATA / ZOO_FOLDER).select("train")  # of which it is told the range of R
        result = Result(params.shared_encoder.result).of_members(members)
        save(fit(runner, params, range_of(torch.from_numpy(result))), path)


if __name__ == "__main__":
    run("hypernetwork", main)
