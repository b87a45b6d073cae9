"""Align dataset and result with the latents of weights by contrastive learning."""

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv
from weightspace.codecs.base import load_trained
from weightspace.evaluate.requests import calibrate
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.sample import Sampler
from weightspace.shared import SHARED
from weightspace.shared.base import SharedData, make_pairs
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/shared and the loss curves."""
    zoo, (dataset, net, codec) = Zoo.open(DATA / "zoo"), load_trained(DATA, params)
    members = {split: zoo.select(split) for split in ("train", "val")}
    pairs = {
        split: make_pairs(table, zoo.weights(table), codec, dataset, params.shared.result)
        for split, table in members.items()
    }
    data = SharedData(dataset, codec, net, pairs["train"], pairs["val"], params.encoders)
    family = resolve(SHARED, params.shared.model, "shared.model")
    with live("shared"):
        model, history = family.fit(data, params.shared, params.seed)
    if params.shared.calibrate:
        tasks = pairs["val"].tasks.unique().numpy()
        calibrate(Sampler(codec, model, net, dataset), tasks, params.seed)
    model.save(DATA / "shared" / "shared.safetensors")
    write_csv(METRICS / "plots" / "shared_loss.csv", history)


if __name__ == "__main__":
    run("shared", main)
