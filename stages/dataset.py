"""Fix the images of each class, draw the tasks and assign each to a split."""

from _stage import DATA, run
from weightspace.artifacts import DATASET_FOLDER
from weightspace.data.dataset import make_dataset
from weightspace.params import Params


def main(params: Params) -> None:
    """Write data/dataset."""
    make_dataset(params.dataset, params.sources, params.seed).save(DATA / DATASET_FOLDER)


if __name__ == "__main__":
    run("dataset", main)
