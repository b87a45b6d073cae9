"""Train sampled networks on, and put them together, beside other starts."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import ZOO_FOLDER, write_json
from weightspace.evaluate.controls import TrainMembers
from weightspace.evaluate.finetuning import evaluate_finetuning
from weightspace.params import Params
from weightspace.sampling.sampler import load_sampler
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write metrics/finetuning.json."""
    zoo, (sampler, runner) = Zoo.open(DATA / ZOO_FOLDER), load_sampler(DATA, params)
    donors = TrainMembers.of(zoo, sampler, runner)
    write_json(
        METRICS / "finetuning.json", evaluate_finetuning(zoo, sampler, runner, donors, params)
    )


if __name__ == "__main__":
    run("evaluate_finetuning", main)
