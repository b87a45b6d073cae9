"""Fit one principal component basis per tensor on train members; show what k costs on val."""

from _stage import DATA, METRICS, SCRATCH, run
from weightspace.artifacts import PCA_FILE, ZOO_FOLDER, at_width, write_csv, write_parquet
from weightspace.evaluate.components import against_k
from weightspace.params import Params
from weightspace.weights.pca import stream_pca
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/pca, and of width 1 the plot data of explained variance and agreement against k."""
    SCRATCH.mkdir(exist_ok=True)
    for one in params.each_width():
        zoo, runner = Zoo.open(DATA / ZOO_FOLDER, one.width), load_runner(DATA, one)
        train, path = zoo.select("train"), at_width(DATA / PCA_FILE, one.width)
        read = zoo.reader(train)
        pca = stream_pca(zoo.spec, read, len(train), params.pca, SCRATCH, runner.device)
        if one.width == 1:
            curve = against_k(pca, zoo, runner, zoo.select("val"))
            write_csv(METRICS / "plots" / "pca_against_k.csv", curve)
        pca.save(path)
        write_parquet(at_width(path.with_name("modes.parquet"), one.width), pca.table())


if __name__ == "__main__":
    run("pca", main)
