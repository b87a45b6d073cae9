"""A zoo of the published network CNN3 on Fashion-MNIST, for the task reconstruction/cnn3.

    PYTHONPATH=src python benchmarks/cnn3.py /usr/share/datasets/fashion-mnist --root FOLDER
    PYTHONPATH=src python benchmarks/leaderboard.py --root FOLDER --run pca mlp functional

Networks are trained one by one in plain PyTorch, in the folders of Ray Tune that published zoos come in, and
imported as those are. The pipeline's stages up to the autoencoder follow.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from preset import run_stages
from weightspace.artifacts import DATASET_FOLDER
from weightspace.data.dataset import Dataset
from weightspace.leaderboard.named import load_task
from weightspace.params import load_params
from weightspace.runtime import prepare
from weightspace.zoo.imported import Source, import_zoo
from weightspace.zoo.runner import load_runner

SETTINGS = [
    "dataset.source=idx",
    "dataset.classes_per_task=10",
    "dataset.tasks=sets",
    "dataset.splits.train=1.0",
    "dataset.splits.val=0.0",
    "dataset.splits.test_sets=0.0",
    "dataset.samples_per_class.train=200",
    "dataset.samples_per_class.val=60",
    "dataset.samples_per_class.test=100",
    "sources.idx.size=32",
    "zoo.architecture=convnet",
]
EPOCHS, KEPT, BATCH = 10, (1, 2, 4, 7, 10), 32
STAGES = ("outputs", "pca", "autoencoder")


def network():
    """CNN3 on one channel, with the names of the authors' state_dict."""
    convs = [nn.Conv2d(1, 16, 3), nn.MaxPool2d(2), nn.Tanh()]
    convs += [nn.Conv2d(16, 32, 3), nn.MaxPool2d(2), nn.Tanh()]
    convs += [nn.Conv2d(32, 15, 3), nn.MaxPool2d(2), nn.Tanh(), nn.Flatten()]
    layers = [*convs, nn.Linear(60, 20), nn.Tanh(), nn.Linear(20, 10)]
    return nn.ModuleDict({"module_list": nn.Sequential(*layers)})


def scores(net, images, labels):
    """Accuracy and loss."""
    with torch.no_grad():
        outputs = net["module_list"](images)
    accuracy = (outputs.argmax(1) == labels).double().mean()
    return float(accuracy), float(F.cross_entropy(outputs, labels))


def train(folder, dataset, number):
    """One run: a folder with its settings, a line of results per epoch, and checkpoints. Done once."""
    trial = folder / f"NN_tune_trainable_{number:05d}_{number}_seed={number}"
    finished = trial / "result.json"
    if finished.is_file():
        return json.loads(finished.read_text().splitlines()[-1])["test_acc"]
    torch.set_num_threads(1)
    rng = np.random.default_rng([0, number])
    torch.manual_seed(number)
    data = Dataset.load(dataset)
    (images, labels), (test, truth) = (
        (x[0], y) for x, y in (data.task_batch(torch.tensor([0]), p) for p in ("train", "test"))
    )
    rate, decay = (float(10 ** rng.uniform(*bounds)) for bounds in ((-3.3, -2), (-5, -3)))
    net, lines = network(), []
    optimizer = torch.optim.Adam(net.parameters(), rate, weight_decay=decay)
    trial.mkdir(parents=True, exist_ok=True)
    settings = {"model::type": "CNN3", "model::nlin": "tanh", "optim::optimizer": "adam"}
    settings |= {"optim::lr": rate, "optim::wd": decay, "training::epochs_train": EPOCHS}
    (trial / "params.json").write_text(json.dumps(settings | {"seed": number}))
    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(len(labels)).split(BATCH):
            loss = F.cross_entropy(net["module_list"](images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy, loss = scores(net, test, truth)
        lines.append({"training_iteration": epoch, "test_acc": accuracy, "test_loss": loss})
        if epoch in KEPT:
            (trial / f"checkpoint_{epoch:06d}").mkdir(exist_ok=True)
            torch.save(net.state_dict(), trial / f"checkpoint_{epoch:06d}" / "checkpoints")
    finished.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return accuracy


def main():
    """Dataset, runs, import, stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of the idx files")
    parser.add_argument(
        "--root", type=Path, required=True, help="folder for all of it; goes on there"
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    root = options.root.resolve()
    net = load_task("reconstruction/cnn3").net.settings
    settings = [*SETTINGS, f"sources.path={options.images.resolve()}"]
    settings.append(f"nets.convnet={json.dumps(net)}")
    if not run_stages(root, settings, ["check", "dataset"]):
        raise SystemExit(2)
    data, runs = root / "data", root / "runs"
    with ProcessPoolExecutor(options.workers) as pool:
        numbers = range(options.runs)
        dataset = data / DATASET_FOLDER
        reached = list(pool.map(train, [runs] * len(numbers), [dataset] * len(numbers), numbers))
    print(f"{len(reached)} runs, accuracy {np.min(reached):.3f} to {np.max(reached):.3f}")
    if not (data / "zoo").is_dir():
        prepare()
        runner = load_runner(data, load_params(root / "params.yaml"))
        source = Source(runs, "ray_tune", split="0.7,0.15,0.15", tolerance=1e-4)
        for note in import_zoo(source, runner, data / "zoo").notes:
            print(note)
    raise SystemExit(0 if run_stages(root, settings, STAGES) else 2)


if __name__ == "__main__":
    main()
