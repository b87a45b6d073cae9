"""Fit the autoencoder between weights and latents."""

import pandas as pd

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import (
    AUTOENCODER_CARD,
    AUTOENCODER_FILE,
    at_width,
    write_csv,
    write_json,
)
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import AutoencoderData
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.zoo.card import method_card


def main(params: Params) -> None:
    """Write data/autoencoder and the loss curves."""
    data = [AutoencoderData.load(DATA, one) for one in params.each_width()]
    family = resolve(AUTOENCODERS, params.autoencoder.model, "autoencoder.model")
    with live("autoencoder"):
        options = params.autoencoders.of(params.autoencoder.model)
        if len(data) == 1:
            one, history = family.fit(data[0], params.autoencoder, options, params.seed)
            fitted = [one]
        else:
            fitted, history = family.fit_widths(data, params.autoencoder, options, params.seed)
    for width, autoencoder in zip(params.zoo.widths, fitted, strict=True):
        autoencoder.name = params.autoencoder.model  # a member made from another may bear its name
        autoencoder.save(at_width(DATA / AUTOENCODER_FILE, width))
    members = {split: pd.concat([d.members[split] for d in data]) for split in data[0].members}
    card = method_card(data[0].dataset, members, params, "autoencoder")
    write_json(DATA / AUTOENCODER_CARD, card)
    write_csv(METRICS / "plots" / "autoencoder_loss.csv", history)


if __name__ == "__main__":
    run("autoencoder", main)
