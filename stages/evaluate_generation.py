"""Draw networks without a condition and measure accuracy, diversity and novelty."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.codecs.base import load_codec
from weightspace.data.dataset import Dataset
from weightspace.evaluate.generation import evaluate_generation
from weightspace.networks import build_net
from weightspace.params import Params
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/generation.json."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    net = build_net(params.zoo.architecture, dataset.shape, dataset.classes.shape[1], params.nets)
    limit = params.evaluate.novelty_networks
    found = evaluate_generation(zoo, codec, net, dataset, limit, params.seed)
    write_json(METRICS / "generation.json", found)


if __name__ == "__main__":
    run("evaluate_generation", main)
