"""Train the population, keep several snapshots of each run, log all results."""

from _stage import DATA, METRICS, SCRATCH, run
from weightspace.artifacts import write_json
from weightspace.params import Params
from weightspace.zoo.generate import generate, summarise


def main(params: Params) -> None:
    """Write data/zoo and metrics/zoo.json."""
    table = generate(params, DATA / "dataset", DATA / "zoo", SCRATCH / "zoo")
    write_json(METRICS / "zoo.json", summarise(table))


if __name__ == "__main__":
    run("zoo", main)
