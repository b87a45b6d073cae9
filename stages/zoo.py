"""Train the population, keep several snapshots of each run, log all results."""

from _stage import DATA, METRICS, SCRATCH, run
from weightspace.artifacts import DATASET_FOLDER, ZOO_FOLDER, write_json
from weightspace.params import Params
from weightspace.zoo.generate import generate, summarise


def main(params: Params) -> None:
    """Write data/zoo and metrics/zoo.json."""
    table = generate(params, DATA / DATASET_FOLDER, DATA / ZOO_FOLDER, SCRATCH / "zoo")
    write_json(METRICS / "zoo.json", summarise(table))


if __name__ == "__main__":
    run("zoo", main)
