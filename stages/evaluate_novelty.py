"""Compare sampled networks with the training members: are they new?"""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.baselines import Donors
from weightspace.codecs.base import load_codec
from weightspace.data.dataset import Dataset
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.networks import build_net
from weightspace.params import Params
from weightspace.sample import Sampler
from weightspace.shared.base import load_shared
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/novelty.json."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    shared = load_shared(DATA / "shared" / "shared.safetensors")
    net = build_net(params.zoo.architecture, dataset.shape, dataset.classes.shape[1], params.nets)
    sampler = Sampler(codec, shared, net, dataset, params.guidance)
    donors = Donors.of(zoo, shared, dataset)
    limit, out = params.evaluate.novelty_networks, {}
    for split in ("test_sets", "test_classes"):
        found = evaluate_novelty(zoo, sampler, donors, split, limit, params.seed)
        if found is not None:
            out[split] = found
    write_json(METRICS / "novelty.json", out)


if __name__ == "__main__":
    run("evaluate_novelty", main)
