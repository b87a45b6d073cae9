"""Measure what draws are compared with: networks that others make with the same information."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_json
from weightspace.evaluate.baselines import evaluate_baselines
from weightspace.evaluate.evaluation import Evaluation
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/baselines.json; without controls it has no split."""
    out = evaluate_baselines(Evaluation.load(DATA, params)) if params.evaluate.controls else {}
    write_json(METRICS / "baselines.json", out)


if __name__ == "__main__":
    run("evaluate_baselines", main)
