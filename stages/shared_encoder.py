"""Align dataset and result with the latents of weights by contrastive learning."""

from collections import defaultdict

import pandas as pd

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
from weightspace.shared_encoders.base import Pairs, SharedEncoderData, encode_pairs
from weightspace.zoo.card import method_card
from weightspace.zoo.outputs import load_originals
from weightspace.zoo.result import Result
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/shared_encoder and the loss curves."""
    settings = params.shared_encoder
    result = Result(settings.result)
    members, pairs, at_widths = defaultdict(list), defaultdict(list), {}
    for one in params.each_width():
        zoo = Zoo.open(DATA / ZOO_FOLDER, one.width)
        at_widths[one.width] = runner, autoencoder = load_trained(DATA, one)
        for split, originals in load_originals(DATA, zoo).items():
            table = zoo.select(split)
            members[split].append(table)
            pairs[split].append(
                encode_pairs(table, zoo.networks(table), originals, runner, autoencoder, result)
            )
    runner, autoencoder = at_widths.pop(1.0)
    encoder = params.dataset_encoders.of(settings.dataset_encoder)
    train, val = (Pairs.joined(pairs[split]) for split in ("train", "val"))
    data = SharedEncoderData(runner, autoencoder, train, val, encoder, at_widths)
    family = resolve(SHARED_ENCODERS, settings.model, "shared_encoder.model")
    with live("shared_encoder"):
        model, history = family.fit(
            data, settings, params.shared_encoders.of(settings.model), params.seed
        )
    model.save(DATA / SHARED_ENCODER_FILE)
    tables = {split: pd.concat(parts) for split, parts in members.items()}
    card = method_card(runner.dataset, tables, params, "shared_encoder")
    write_json(DATA / SHARED_ENCODER_CARD, card)
    write_csv(METRICS / "plots" / "shared_encoder_loss.csv", history)


if __name__ == "__main__":
    run("shared_encoder", main)
