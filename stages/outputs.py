"""Run train and val members on known images: what fits read in place of weights."""

from _stage import DATA, run
from weightspace.artifacts import OUTPUTS_FILES, ZOO_FOLDER
from weightspace.params import Params
from weightspace.zoo.outputs import choose_probes, read_originals
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/outputs, a file for each split."""
    zoo, runner = Zoo.open(DATA / ZOO_FOLDER), load_runner(DATA, params)
    probes = choose_probes(runner.dataset, params.outputs.probes, params.seed)
    for split, path in OUTPUTS_FILES.items():
        members = zoo.select(split)
        read_originals(runner, members, zoo.networks(members), probes).save(DATA / path)


if __name__ == "__main__":
    run("outputs", main)
