"""Predict properties of held-out networks from the latent and from every baseline."""

import torch

from _stage import DATA, METRICS, run
from weightspace.artifacts import AUTOENCODER_FILE, DATASET_FOLDER, ZOO_FOLDER, write_json
from weightspace.autoencoders.base import encode_members, load_autoencoder
from weightspace.data.dataset import Dataset
from weightspace.data.tasks import SPLITS
from weightspace.evaluate.properties import (
    Features,
    evaluate_properties,
    hyper_parameters,
    weight_statistics,
)
from weightspace.params import Params
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/properties.json."""
    zoo = Zoo.open(DATA / ZOO_FOLDER)
    autoencoder = load_autoencoder(DATA / AUTOENCODER_FILE)
    members = {s: t for s in SPLITS if len(t := zoo.select(s))}
    weights = {split: zoo.weights(table) for split, table in members.items()}
    readings = {"latent": {s: encode_members(autoencoder, w).numpy() for s, w in weights.items()}}
    if params.evaluate.controls:
        readings |= {
            "raw_weights": {s: zoo.spec.flatten(w).numpy() for s, w in weights.items()},
            "weight_statistics": {
                s: weight_statistics(zoo.spec, w).numpy() for s, w in weights.items()
            },
            "hyperparameters": {s: hyper_parameters(t) for s, t in members.items()},
        }
    classes = Dataset.load(DATA / DATASET_FOLDER).classes
    known = torch.arange(int(classes.max()) + 1)
    present = {
        s: (classes[torch.tensor(t["task"].to_numpy())][..., None] == known).any(1).numpy()
        for s, t in members.items()
    }
    metrics = evaluate_properties(Features(members, readings, present), params.seed)
    write_json(METRICS / "properties.json", metrics)


if __name__ == "__main__":
    run("evaluate_properties", main)
