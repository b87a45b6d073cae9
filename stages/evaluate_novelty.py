"""Compare sampled networks with the training members: are they new?"""

import torch

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.baselines import Donors
from weightspace.codecs.base import load_codec
from weightspace.data.dataset import Dataset
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.networks import build_net
from weightspace.params import Params
from weightspace.sample import Sampler
from weightspace.shared.base import load_shared, results_of
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/novelty.json."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    sampler = Sampler(codec, load_shared(DATA / "shared" / "shared.safetensors"), dataset)
    net = build_net(params.zoo.architecture, dataset.shape, dataset.classes.shape[1], params.nets)
    train = zoo.select("train")
    with torch.no_grad():
        embedding = sampler.shared.embed(dataset, torch.tensor(train["task"].to_numpy()))
    results = results_of(train, dataset, params.shared.result)
    donors = Donors(train, zoo.weights(train), results, embedding)
    limit, out = params.evaluate.novelty_networks, {}
    for split in ("test_sets", "test_classes"):
        found = evaluate_novelty(zoo, sampler, net, donors, split, limit, params.seed)
        if found is not None:
            out[split] = found
    write_json(METRICS / "novelty.json", out)


if __name__ == "__main__":
    run("evaluate_novelty", main)
