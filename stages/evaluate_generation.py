"""Draw networks without a condition and measure accuracy, diversity and novelty."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import ZOO_FOLDER, write_json
from weightspace.autoencoders.base import load_trained
from weightspace.evaluate.generation import evaluate_generation
from weightspace.params import Params
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/generation.json."""
    zoo, (runner, autoencoder) = Zoo.open(DATA / ZOO_FOLDER), load_trained(DATA, params)
    limit = params.evaluate.novelty_networks
    metrics = evaluate_generation(zoo, autoencoder, runner, limit, params.seed)
    write_json(METRICS / "generation.json", metrics)


if __name__ == "__main__":
    run("evaluate_generation", main)
