"""Fit the autoencoder between weights and latents."""

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import AUTOENCODER_CARD, AUTOENCODER_FILE, write_csv, write_json
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import AutoencoderData
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.zoo.card import method_card


def main(params: Params) -> None:
    """Write data/autoencoder and the loss curves."""
    data = AutoencoderData.load(DATA, params)
    family = resolve(AUTOENCODERS, params.autoencoder.model, "autoencoder.model")
    with live("autoencoder"):
        options = params.autoencoders.of(params.autoencoder.model)
        autoencoder, history = family.fit(data, params.autoencoder, options, params.seed)
    autoencoder.name = params.autoencoder.model  # a member made from another may bear its name
    autoencoder.save(DATA / AUTOENCODER_FILE)
    card = method_card(data.dataset, data.members, params, "autoencoder")
    write_json(DATA / AUTOENCODER_CARD, card)
    write_csv(METRICS / "plots" / "autoencoder_loss.csv", history)


if __name__ == "__main__":
    run("autoencoder", main)
