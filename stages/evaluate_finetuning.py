"""Train sampled networks further and combine them to ensembles; compare with other starts."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.finetuning import evaluate_finetuning
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/finetuning.json."""
    metrics = evaluate_finetuning(Evaluation.load(DATA, params))
    write_json(METRICS / "finetuning.json", metrics)


if __name__ == "__main__":
    run("evaluate_finetuning", main)
