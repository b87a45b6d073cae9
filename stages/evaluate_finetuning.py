"""Train sampled networks on, and put them together, beside other starts."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.baselines import Donors
from weightspace.codecs.base import load_codec
from weightspace.data.dataset import Dataset
from weightspace.evaluate.finetuning import evaluate_finetuning
from weightspace.networks import build_net
from weightspace.params import Params
from weightspace.sample import Sampler
from weightspace.shared.base import load_shared
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/finetuning.json."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    shared = load_shared(DATA / "shared" / "shared.safetensors")
    net = build_net(params.zoo.architecture, dataset.shape, dataset.classes.shape[1], params.nets)
    sampler = Sampler(codec, shared, net, dataset, params.guidance)
    found = evaluate_finetuning(zoo, sampler, Donors.of(zoo, shared, dataset), params)
    write_json(METRICS / "finetuning.json", found)


if __name__ == "__main__":
    run("evaluate_finetuning", main)
