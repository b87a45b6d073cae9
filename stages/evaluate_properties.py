"""Predict properties of held-out networks from the latent and from every baseline."""

import torch

from _stage import DATA, METRICS, run
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    DATASET_FOLDER,
    READOUT_FILE,
    ZOO_FOLDER,
    file_sha256,
    write_json,
)
from weightspace.autoencoders.base import load_autoencoder
from weightspace.data.dataset import Dataset
from weightspace.data.tasks import SPLITS
from weightspace.evaluate.properties import Features, evaluate_properties
from weightspace.evaluate.readings import latents, readings
from weightspace.evaluate.readout import Readout
from weightspace.params import Params
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/properties.json, and data/readout with what reads the latents."""
    zoo = Zoo.open(DATA / ZOO_FOLDER)
    autoencoder = load_autoencoder(DATA / AUTOENCODER_FILE)
    members = {s: t for s in SPLITS if len(t := zoo.select(s))}
    given = (
        readings(zoo, autoencoder, members, params.seed)
        if params.evaluate.controls
        else latents(zoo, autoencoder, members)
    )
    classes = Dataset.load(DATA / DATASET_FOLDER).classes
    known = torch.arange(int(classes.max()) + 1)
    present = {
        s: (classes[torch.tensor(t["task"].to_numpy())][..., None] == known).any(1).numpy()
        for s, t in members.items()
    }
    metrics = evaluate_properties(Features(members, given, present), params.seed)
    write_json(METRICS / "properties.json", metrics)
    encoder = file_sha256(DATA / AUTOENCODER_FILE)
    Readout.fit(given["latent"], members, encoder, params.seed).save(DATA / READOUT_FILE)


if __name__ == "__main__":
    run("evaluate_properties", main)
