"""Compare every held-out network with its reconstruction."""

from _stage import DATA, METRICS, run
from weightspace.artifacts import AUTOENCODER_CARD, DATASET_FOLDER, write_csv, write_json
from weightspace.data.dataset import Dataset
from weightspace.evaluate.reconstruction import (
    of_other_widths,
    over_epochs,
    reconstruct_splits,
    reconstruction_metrics,
    scatter,
)
from weightspace.params import Params
from weightspace.zoo.card import zero_shot

POINTS = 600  # in the scatter plot


def main(params: Params) -> None:
    """Write metrics/reconstruction.json and its plot data."""
    dataset, out = Dataset.load(DATA / DATASET_FOLDER), {}
    others = of_other_widths(DATA, params)
    for split, rebuilt in reconstruct_splits(DATA, params).items():
        metrics = reconstruction_metrics(rebuilt, params.evaluate, params.seed)
        out[split] = metrics | others.get(split, {})
        tasks = rebuilt.members["task"].to_numpy()
        out[split]["zero_shot"] = zero_shot(dataset, tasks, DATA / AUTOENCODER_CARD)
        if split == "test_sets":
            write_csv(METRICS / "plots" / "outputs_over_epochs.csv", over_epochs(rebuilt))
            points = scatter(rebuilt, POINTS, params.seed)
            write_csv(METRICS / "plots" / "accuracy_scatter.csv", points)
    write_json(METRICS / "reconstruction.json", out)


if __name__ == "__main__":
    run("evaluate_reconstruction", main)
