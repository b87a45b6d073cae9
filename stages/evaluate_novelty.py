"""Compare sampled networks with the training members: are they new?"""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.evaluate.controls import TrainMembers
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.params import Params
from weightspace.sampling.sampler import Sampler
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/novelty.json."""
    zoo, sampler = Zoo.open(DATA / "zoo"), Sampler.load(DATA, params)
    donors = TrainMembers.of(zoo, sampler.shared_encoder, sampler.dataset)
    limit, out = params.evaluate.novelty_networks, {}
    for split in ("test_sets", "test_classes"):
        found = evaluate_novelty(zoo, sampler, donors, split, limit, params.seed)
        if found is not None:
            out[split] = found
    write_json(METRICS / "novelty.json", out)


if __name__ == "__main__":
    run("evaluate_novelty", main)
