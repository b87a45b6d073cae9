"""Draw networks for held-out tasks and compare their results with the requested ones."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import AUTOENCODER_CARD, SHARED_ENCODER_CARD, write_csv, write_json
from weightspace.autoencoders.base import encode_members
from weightspace.data.tasks import HELD_OUT
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.retrieval import heat_map, retrieval
from weightspace.evaluate.sampling import evaluate_split, of_width
from weightspace.params import Params
from weightspace.zoo.card import zero_shot


def main(params: Params) -> None:
    """Write metrics/sampling.json and its plot data."""
    evaluation, out = Evaluation.load(DATA, params), {}
    others = [Evaluation.load(DATA, one) for one in params.each_width()[1:]]
    zoo, sampler, runner = evaluation.zoo, evaluation.sampler, evaluation.runner
    cards = [DATA / card for card in (AUTOENCODER_CARD, SHARED_ENCODER_CARD)]
    for split in HELD_OUT:
        measured = evaluate_split(evaluation, split)
        if measured is None:
            continue
        members = zoo.select(split)
        networks = zoo.networks(members)
        z = encode_members(sampler.autoencoder, networks)
        metrics, curve = measured
        out[split] = metrics | retrieval(sampler, runner, members, networks, z)
        for other in others:
            out[split] |= of_width(other, split)
        out[split]["zero_shot"] = zero_shot(runner.dataset, members["task"].to_numpy(), *cards)
        if split == "test_sets":
            write_csv(METRICS / "plots" / "calibration.csv", curve)
            heat = heat_map(sampler, runner, members, z)
            write_csv(METRICS / "plots" / "latent_heatmap.csv", heat)
    write_json(METRICS / "sampling.json", out)


if __name__ == "__main__":
    run("evaluate_sampling", main)
