"""Compare every held-out network with its reconstruction."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv, write_json
from weightspace.codecs.base import load_codec
from weightspace.data.dataset import Dataset
from weightspace.evaluate.reconstruction import SPLITS, figures, over_epochs, reconstruct, scatter
from weightspace.networks import build_net
from weightspace.params import Params
from weightspace.pca import TensorPca
from weightspace.zoo.store import Zoo

POINTS = 600  # in the scatter plot


def main(params: Params) -> None:
    """Write metrics/reconstruction.json and its plot data."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    pca = TensorPca.load(DATA / "pca" / "pca.safetensors")
    net = build_net(params.zoo.architecture, dataset.shape, dataset.classes.shape[1], params.nets)
    out = {}
    for split in SPLITS:
        found = reconstruct(zoo, codec, pca, net, dataset, split, params)
        if found is None:
            continue
        out[split] = figures(found, params.evaluate, params.seed)
        if split == "test_sets":
            write_csv(METRICS / "plots" / "outputs_over_epochs.csv", over_epochs(found))
            write_csv(
                METRICS / "plots" / "accuracy_scatter.csv", scatter(found, POINTS, params.seed)
            )
    write_json(METRICS / "reconstruction.json", out)


if __name__ == "__main__":
    run("evaluate_reconstruction", main)
