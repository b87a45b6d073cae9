"""Fit one principal component basis per tensor on train members; show what k costs on val."""

from _stage import DATA, METRICS, SCRATCH, run
from weightspace.artifacts import PCA_FILE, ZOO_FOLDER, write_csv, write_parquet
from weightspace.evaluate.components import against_k
from weightspace.params import Params
from weightspace.weights.pca import stream_pca
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo


def main(params: Params) -> None:
    """Write data/pca and the plot data of explained variance and agreement against k."""
    zoo = Zoo.open(DATA / ZOO_FOLDER)
    train = zoo.select("train")
    SCRATCH.mkdir(exist_ok=True)
    runner = load_runner(DATA, params)
    read = zoo.reader(train)
    pca = stream_pca(zoo.spec, read, len(train), params.pca, SCRATCH, runner.device)
    curve = against_k(pca, zoo, runner, zoo.select("val"))
    pca.save(DATA / PCA_FILE)
    write_parquet((DATA / PCA_FILE).with_name("modes.parquet"), pca.table())
    write_csv(METRICS / "plots" / "pca_against_k.csv", curve)


if __name__ == "__main__":
    run("pca", main)
