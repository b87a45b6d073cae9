"""Draw networks for held-out tasks and compare what they achieve with what was asked."""

import torch

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv, write_json
from weightspace.baselines import Donors
from weightspace.codecs.base import encode_members, load_codec
from weightspace.data.dataset import Dataset
from weightspace.evaluate.sampling import SPLITS, evaluate_split, heat_map, retrieval
from weightspace.networks import build_net
from weightspace.params import Params
from weightspace.sample import Sampler
from weightspace.shared.base import load_shared, results_of
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/sampling.json and its plot data."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    sampler = Sampler(codec, load_shared(DATA / "shared" / "shared.safetensors"), dataset)
    net = build_net(params.zoo.architecture, dataset.shape, dataset.classes.shape[1], params.nets)
    train, result = zoo.select("train"), params.shared.result
    with torch.no_grad():
        embedding = sampler.shared.embed(dataset, torch.tensor(train["task"].to_numpy()))
    donors = Donors(train, zoo.weights(train), results_of(train, dataset, result), embedding)
    out = {}
    for split in SPLITS:
        found = evaluate_split(zoo, sampler, net, donors, split, params)
        if found is None:
            continue
        members = zoo.select(split)
        z = encode_members(codec, zoo.weights(members))
        out[split] = found[0] | retrieval(sampler, members, z, result)
        if split == "test_sets":
            write_csv(METRICS / "plots" / "calibration.csv", found[1])
            write_csv(
                METRICS / "plots" / "latent_heatmap.csv", heat_map(sampler, members, z, result)
            )
    write_json(METRICS / "sampling.json", out)


if __name__ == "__main__":
    run("evaluate_sampling", main)
