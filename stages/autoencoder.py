"""Fit the autoencoder between weights and latents."""

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import AUTOENCODER_FILE, PCA_FILE, ZOO_FOLDER, write_csv
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import AutoencoderData
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.weights.pca import TensorPca
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/autoencoder and the loss curves."""
    pca = TensorPca.load(DATA / PCA_FILE)
    data = AutoencoderData.of(Zoo.open(DATA / ZOO_FOLDER), load_runner(DATA, params), pca)
    family = resolve(AUTOENCODERS, params.autoencoder.model, "autoencoder.model")
    with live("autoencoder"):
        options = params.autoencoders.of(params.autoencoder.model)
        autoencoder, history = family.fit(data, params.autoencoder, options, params.seed)
    autoencoder.name = params.autoencoder.model  # a member made from another may bear its name
    autoencoder.save(DATA / AUTOENCODER_FILE)
    write_csv(METRICS / "plots" / "autoencoder_loss.csv", history)


if __name__ == "__main__":
    run("autoencoder", main)
