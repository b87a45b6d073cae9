"""Compare sampled networks with the training members: are they new?"""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/novelty.json."""
    write_json(METRICS / "novelty.json", evaluate_novelty(Evaluation.load(DATA, params)))


if __name__ == "__main__":
    run("evaluate_novelty", main)
