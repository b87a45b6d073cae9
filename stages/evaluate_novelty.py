"""Compare sampled networks with the training members: are they new?"""

from _stage import DATA, METRICS, run
from weightspace.artifacts import ZOO_FOLDER, write_json
from weightspace.data.tasks import TEST_SPLITS
from weightspace.evaluate.controls import TrainMembers
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.params import Params
from weightspace.sampling.sampler import load_sampler
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/novelty.json."""
    zoo, (sampler, runner) = Zoo.open(DATA / ZOO_FOLDER), load_sampler(DATA, params)
    donors = TrainMembers.of(zoo, sampler, runner)
    limit, out = params.evaluate.novelty_networks, {}
    for split in TEST_SPLITS:
        metrics = evaluate_novelty(zoo, sampler, runner, donors, split, limit, params.seed)
        if metrics is not None:
            out[split] = metrics
    write_json(METRICS / "novelty.json", out)


if __name__ == "__main__":
    run("evaluate_novelty", main)
