"""Fit the codec between weights and latents."""

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv
from weightspace.codecs import CODECS
from weightspace.codecs.base import CodecData
from weightspace.data.dataset import Dataset
from weightspace.networks import net_for
from weightspace.params import Params
from weightspace.pca import TensorPca
from weightspace.registry import resolve
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/autoencoder and the loss curves."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    net = net_for(dataset, params.zoo.architecture, params.nets)
    members = {split: zoo.select(split) for split in ("train", "val")}
    weights = {split: zoo.weights(table) for split, table in members.items()}
    data = CodecData(
        net, TensorPca.load(DATA / "pca" / "pca.safetensors"), weights, members, dataset
    )
    family = resolve(CODECS, params.autoencoder.codec, "autoencoder.codec")
    with live("autoencoder"):
        codec, history = family.fit(data, params.autoencoder, params.codecs, params.seed)
    codec.save(DATA / "autoencoder" / "codec.safetensors")
    write_csv(METRICS / "plots" / "autoencoder_loss.csv", history)


if __name__ == "__main__":
    run("autoencoder", main)
