"""Collect the headline figures, those of unseen class sets, in one flat file."""

from _stage import METRICS, run
from weightspace.artifacts import read_json, write_json
from weightspace.evaluate.summary import summarize
from weightspace.params import Params


def main(params: Params) -> None:
    """Write metrics/summary.json."""
    reconstruction, sampling, distribution, baselines = (
        read_json(METRICS / f"{name}.json")
        for name in ("reconstruction", "sampling", "distribution", "baselines")
    )
    result = params.shared_encoder.result
    figures = summarize(reconstruction, sampling, distribution, baselines, result)
    write_json(METRICS / "summary.json", figures)


if __name__ == "__main__":
    run("summary", main)
