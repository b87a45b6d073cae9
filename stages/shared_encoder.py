"""Align dataset and result with the latents of weights by contrastive learning."""

from _live import live
from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv
from weightspace.autoencoders.base import load_trained
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.sampling.calibration import calibrate
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders.base import SharedEncoderData, encode_pairs
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/shared_encoder and the loss curves."""
    zoo, (dataset, net, autoencoder) = Zoo.open(DATA / "zoo"), load_trained(DATA, params)
    members = {split: zoo.select(split) for split in ("train", "val")}
    pairs = {
        split: encode_pairs(
            table, zoo.weights(table), autoencoder, dataset, params.shared_encoder.result
        )
        for split, table in members.items()
    }
    settings = params.shared_encoder
    encoder = params.dataset_encoders.of(settings.dataset_encoder)
    data = SharedEncoderData(dataset, autoencoder, net, pairs["train"], pairs["val"], encoder)
    family = resolve(SHARED_ENCODERS, params.shared_encoder.model, "shared_encoder.model")
    with live("shared_encoder"):
        model, history = family.fit(
            data, settings, params.shared_encoders.of(settings.model), params.seed
        )
    if params.shared_encoder.calibrate:
        tasks = pairs["val"].tasks.unique().numpy()
        calibrate(Sampler(autoencoder, model, net, dataset), tasks, params.seed)
    model.save(DATA / "shared_encoder" / "shared_encoder.safetensors")
    write_csv(METRICS / "plots" / "shared_encoder_loss.csv", history)


if __name__ == "__main__":
    run("shared_encoder", main)
