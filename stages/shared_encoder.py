"""Align dataset and result with the latents of weights by contrastive learning."""

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import (
    SHARED_ENCODER_CARD,
    SHARED_ENCODER_FILE,
    ZOO_FOLDER,
    write_csv,
    write_json,
)
from weightspace.autoencoders.base import load_trained
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders.base import SharedEncoderData, encode_pairs
from weightspace.zoo.card import method_card
from weightspace.zoo.outputs import load_originals
from weightspace.zoo.result import Result
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/shared_encoder and the loss curves."""
    zoo, (runner, autoencoder) = Zoo.open(DATA / ZOO_FOLDER), load_trained(DATA, params)
    settings = params.shared_encoder
    result = Result(settings.result)
    members, pairs = {}, {}
    for split, originals in load_originals(DATA, zoo).items():
        members[split] = table = zoo.select(split)
        networks = zoo.networks(table)
        pairs[split] = encode_pairs(table, networks, originals, runner, autoencoder, result)
    encoder = params.dataset_encoders.of(settings.dataset_encoder)
    data = SharedEncoderData(runner, autoencoder, pairs["train"], pairs["val"], encoder)
    family = resolve(SHARED_ENCODERS, settings.model, "shared_encoder.model")
    with live("shared_encoder"):
        model, history = family.fit(
            data, settings, params.shared_encoders.of(settings.model), params.seed
        )
    model.save(DATA / SHARED_ENCODER_FILE)
    card = method_card(runner.dataset, members, params, "shared_encoder")
    write_json(DATA / SHARED_ENCODER_CARD, card)
    write_csv(METRICS / "plots" / "shared_encoder_loss.csv", history)


if __name__ == "__main__":
    run("shared_encoder", main)
