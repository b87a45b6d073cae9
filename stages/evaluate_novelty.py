"""Compare sampled networks with the training members: are they new?"""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.data.tasks import TEST_SPLITS
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/novelty.json."""
    evaluation, out = Evaluation.load(DATA, params), {}
    for split in TEST_SPLITS:
        metrics = evaluate_novelty(evaluation, split)
        if metrics is not None:
            out[split] = metrics
    write_json(METRICS / "novelty.json", out)


if __name__ == "__main__":
    run("evaluate_novelty", main)
