"""Run train and val members on known images: what fits read in place of weights."""

from _stage import DATA, run
from weightspace.artifacts import OUTPUTS_FILES, ZOO_FOLDER, at_width
from weightspace.params import Params
from weightspace.zoo.outputs import choose_probes, read_originals
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/outputs, a file for each split and width."""
    for one in params.each_width():
        zoo, runner = Zoo.open(DATA / ZOO_FOLDER, one.width), load_runner(DATA, one)
        probes = choose_probes(runner.dataset, params.outputs.probes, params.seed)
        for split, path in OUTPUTS_FILES.items():
            members = zoo.select(split)
            originals = read_originals(runner, members, zoo.networks(members), probes)
            originals.save(at_width(DATA / path, one.width))


if __name__ == "__main__":
    run("outputs", main)
