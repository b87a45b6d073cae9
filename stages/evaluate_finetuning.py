"""Train sampled networks on, and put them together, beside other starts."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.evaluate.controls import TrainMembers
from weightspace.evaluate.finetuning import evaluate_finetuning
from weightspace.params import Params
from weightspace.sampling.sampler import Sampler
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/finetuning.json."""
    zoo, sampler = Zoo.open(DATA / "zoo"), Sampler.load(DATA, params)
    donors = TrainMembers.of(zoo, sampler.shared_encoder, sampler.dataset)
    write_json(METRICS / "finetuning.json", evaluate_finetuning(zoo, sampler, donors, params))


if __name__ == "__main__":
    run("evaluate_finetuning", main)
