"""Compare networks drawn in one pass with trained networks: are they from one distribution?"""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.evaluate.distribution import evaluate_distribution
from weightspace.evaluate.evaluation import Evaluation
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/distribution.json."""
    write_json(METRICS / "distribution.json", evaluate_distribution(Evaluation.load(DATA, params)))


if __name__ == "__main__":
    run("evaluate_distribution", main)
