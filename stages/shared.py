"""Align dataset and result with the latents of weights by contrastive learning."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv
from weightspace.codecs.base import encode_members, load_codec
from weightspace.data.dataset import Dataset
from weightspace.params import Params
from weightspace.shared import Pairs, fit_shared
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/shared and the loss curves."""
    zoo, dataset = Zoo.open(DATA / "zoo"), Dataset.load(DATA / "dataset")
    codec = load_codec(DATA / "autoencoder" / "codec.safetensors")
    members = {split: zoo.select(split) for split in ("train", "val")}
    pairs = {
        split: Pairs.of(table, encode_members(codec, zoo.weights(table)), params.shared.result)
        for split, table in members.items()
    }
    model, history = fit_shared(dataset, pairs["train"], pairs["val"], params.shared, params.seed)
    model.save(DATA / "shared" / "shared.safetensors")
    write_csv(METRICS / "plots" / "shared_loss.csv", history)


if __name__ == "__main__":
    run("shared", main)
