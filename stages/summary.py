"""Collect the headline figures, those of unseen class sets, in one flat file."""

from _stage import METRICS, run
from weightspace.artifacts import read_json, write_json
from weightspace.evaluate.summary import summarize
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/summary.json."""
    files = ("reconstruction", "sampling", "distribution", "baselines")
    metrics = (read_json(METRICS / f"{name}.json") for name in files)
    figures = summarize(*metrics, params.shared_encoder.result)
    write_json(METRICS / "summary.json", figures)


if __name__ == "__main__":
    run("summary", main)
