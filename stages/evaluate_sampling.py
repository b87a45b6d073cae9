"""Draw networks for held-out tasks and compare what they achieve with what was asked."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv, write_json
from weightspace.autoencoders.base import encode_members
from weightspace.evaluate.controls import TrainMembers
from weightspace.evaluate.retrieval import heat_map, retrieval
from weightspace.evaluate.sampling import SPLITS, evaluate_split
from weightspace.params import Params
from weightspace.sampling.sampler import Sampler
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/sampling.json and its plot data."""
    zoo, sampler = Zoo.open(DATA / "zoo"), Sampler.load(DATA, params)
    donors = None
    if params.evaluate.controls:
        donors = TrainMembers.of(zoo, sampler.shared_encoder, sampler.dataset)
    out = {}
    for split in SPLITS:
        found = evaluate_split(zoo, sampler, donors, split, params)
        if found is None:
            continue
        members = zoo.select(split)
        z = encode_members(sampler.autoencoder, zoo.weights(members))
        out[split] = found[0] | retrieval(sampler, members, zoo.weights(members), z)
        if split == "test_sets":
            write_csv(METRICS / "plots" / "calibration.csv", found[1])
            write_csv(METRICS / "plots" / "latent_heatmap.csv", heat_map(sampler, members, z))
    write_json(METRICS / "sampling.json", out)


if __name__ == "__main__":
    run("evaluate_sampling", main)
