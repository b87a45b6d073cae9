"""Compare every held-out network with its reconstruction."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import write_csv, write_json
from weightspace.evaluate.reconstruction import figures, over_epochs, reconstruct_splits, scatter
from weightspace.params import Params

POINTS = 600  # in the scatter plot


def main(params: Params) -> None:
    """Write metrics/reconstruction.json and its plot data."""
    out = {}
    for split, found in reconstruct_splits(DATA, params).items():
        out[split] = figures(found, params.evaluate, params.seed)
        if split == "test_sets":
            write_csv(METRICS / "plots" / "outputs_over_epochs.csv", over_epochs(found))
            write_csv(
                METRICS / "plots" / "accuracy_scatter.csv", scatter(found, POINTS, params.seed)
            )
    write_json(METRICS / "reconstruction.json", out)


if __name__ == "__main__":
    run("evaluate_reconstruction", main)
