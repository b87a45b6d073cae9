"""Tiny fakes of public zoos, with their real folders and names: python tests/fake_zoos.py LAYOUT FOLDER.

Networks are random; what is logged for them is what they reach on given images, computed here by PyTorch's
own modules, or for a matrix by the definition of a convolution in TensorFlow's order of axes.
"""

import dataclasses
import gzip
import json
import sys
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

RUNS, EPOCHS = 4, (0, 3, 6)
ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh}
LAYOUT = {  # of a matrix: name -> shape, for images of 8 x 8 in grey and 10 classes
    "sequential/conv2d/bias:0": (4,),
    "sequential/conv2d/kernel:0": (3, 3, 1, 4),
    "sequential/conv2d_1/bias:0": (5,),
    "sequential/conv2d_1/kernel:0": (3, 3, 4, 5),
    "sequential/dense/bias:0": (10,),
    "sequential/dense/kernel:0": (5, 10),
}


def scores(outputs, labels):
    """Accuracy and loss of outputs ``(n, c)``."""
    accuracy = (outputs.argmax(1) == labels).double().mean()
    return float(accuracy), float(F.cross_entropy(outputs.double(), labels))


def keras_forward(tensors, images, activation):
    """Outputs of a network in TensorFlow's order of axes: y[o] = sum x[i, j, c] k[i, j, c, o] + b[o]."""
    x = images.double().permute(0, 2, 3, 1)  # (n, h, w, c)
    for layer in ("conv2d", "conv2d_1"):
        kernel = tensors[f"sequential/{layer}/kernel:0"].double()
        patches = x.unfold(1, 3, 2).unfold(2, 3, 2)  # (n, h, w, c, 3, 3): VALID, stride 2
        x = torch.einsum("nhwcij,ijco->nhwo", patches, kernel)
        x = ACTIVATIONS[activation](x + tensors[f"sequential/{layer}/bias:0"].double())
    dense = tensors["sequential/dense/kernel:0"].double()
    return x.mean((1, 2)) @ dense + tensors["sequential/dense/bias:0"].double()


def make_matrix(folder, images, labels):
    """As the zoos of Unterthiner et al.; rows of a run are not next to each other."""
    rng, rows, flat = torch.Generator().manual_seed(0), [], []
    for run in range(RUNS):
        activation = "relu" if run % 2 else "tanh"
        for step in EPOCHS:
            tensors = {n: 0.4 * torch.randn(s, generator=rng) for n, s in LAYOUT.items()}
            accuracy, loss = scores(keras_forward(tensors, images, activation), labels)
            rows.append(
                {
                    "modeldir": f"gs://zoo/unit-{run:03d}",
                    "step": step,
                    "config.activation": activation,
                    "config.dataset": "digits",
                    "config.l2reg": 0.0 if run == 0 else 1e-4 * run,
                    "config.learning_rate": 1e-3 * (run + 1),
                    "config.optimizer": "adam",
                    "config.w_init": "he_normal",
                    "test_accuracy": accuracy,
                    "test_loss": loss,
                    "train_accuracy": 0.5,
                    "train_loss": 1.5,
                }
            )
            flat.append(torch.cat([t.flatten() for t in tensors.values()]))
    order = torch.randperm(len(rows), generator=rng)
    np.save(folder / "weights.npy", torch.stack(flat)[order].numpy())
    table = pd.DataFrame(rows).iloc[order.numpy()]
    table.to_csv(folder / "metrics.csv.gz", compression="gzip")
    ends = np.cumsum([int(np.prod(s)) for s in LAYOUT.values()])
    layout = pd.DataFrame(
        {
            "varname": list(LAYOUT),
            "start_idx": [0, *ends[:-1]],
            "end_idx": ends,
            "shape": [str(s) for s in LAYOUT.values()],
        }
    )
    layout.to_csv(folder / "layout.csv", index=False)


def ray_modules(nlin, dropout):
    """Modules of their class CNN, for images of 8 x 8: numbers of tensors depend on dropout."""
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[nlin]
    drop = [nn.Dropout(dropout)] if dropout else []
    convs = [nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), act(), *drop]
    convs += [nn.Conv2d(4, 3, 2), nn.MaxPool2d(2), act(), *drop, nn.Conv2d(3, 2, 1), act()]
    return nn.ModuleList([*convs, nn.Flatten(), nn.Linear(2, 6), act(), *drop, nn.Linear(6, 10)])


def enlarge(module):
    """Larger weights and no biases: as PyTorch draws them, all outputs are nearly constant."""
    for name, value in module.named_parameters():
        value.data *= 3 if name.endswith("weight") else 0


class RayNet(nn.Module):
    """Network whose state_dict has their names."""

    def __init__(self, nlin, dropout):
        super().__init__()
        self.module_list = ray_modules(nlin, dropout)
        enlarge(self)

    def forward(self, x):
        for module in self.module_list:
            x = module(x)
        return x


class RayBlock(nn.Module):
    """Block of torchvision's ResNet-18."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        conv = nn.Conv2d(a, b, 1, stride, bias=False)
        self.downsample = nn.Sequential(conv, nn.BatchNorm2d(b)) if stride > 1 else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class RayResNet(nn.Module):
    """Their ResNet-18, torchvision's with another stem, of width 2."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 2, 3, 1, 1, bias=False), nn.BatchNorm2d(2)
        widths = (2, 2, 4, 8, 16)
        for i, (a, b) in enumerate(pairwise(widths), 1):
            blocks = RayBlock(a, b, 1 if i == 1 else 2), RayBlock(b, b, 1)
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


def as_trained(net, images, labels):
    """A network after some steps, whose running statistics are no longer those that it starts with."""
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(8):
        loss = nn.functional.cross_entropy(net.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def make_ray_tune(folder, images, labels):
    """As the zoos of Schürholt et al.: both names of checkpoints, with dropout and without."""
    make_runs(folder, images, labels, "CNN", RayNet)
    parts = {"trainset": TensorDataset(images, labels), "testset": TensorDataset(images, labels)}
    torch.save(parts | {"dataset_seed": 42}, folder / "dataset.pt")


def make_ray_resnets(folder, images, labels):
    """As their ResNet-18s: no activation but ReLU, whatever the settings say."""
    make_runs(
        folder, images, labels, "Resnet18", lambda *_: as_trained(RayResNet(), images, labels)
    )


def make_runs(folder, images, labels, kind, build):
    """Folders of Ray Tune.

    Args:
        folder: that they go to.
        images: that they are scored on ``(n, 1, 8, 8)``.
        labels: of the images ``(n,)``.
        kind: ``model::type``.
        build: activation, dropout -> network.

    """
    torch.manual_seed(0)
    config = {"model::type": kind, "training::epochs_train": max(EPOCHS)}
    (folder / "config.json").write_text(json.dumps(config))
    for run in range(RUNS):
        nlin, dropout = ("relu" if run % 2 else "tanh"), (0.1 if run >= 2 else 0.0)
        name = f"NN_tune_trainable_{run:05d}_{run}_seed={run + 1}_2022-01-01_00-00-00"
        trial, lines = folder / name, []
        trial.mkdir()
        own = {"model::nlin": nlin, "model::dropout": dropout, "model::init_type": "uniform"}
        own |= {"optim::optimizer": "adam", "optim::lr": 3e-4, "optim::wd": 0.0, "seed": run + 1}
        (trial / "params.json").write_text(json.dumps(config | own))
        for epoch in range(max(EPOCHS) + 1):
            net = build(nlin, dropout).eval()
            with torch.no_grad():
                accuracy, loss = scores(net(images), labels)
            running = -999 if epoch == 0 else 0.3
            line = {"train_loss": running, "train_acc": running, "training_iteration": epoch}
            lines.append(json.dumps(line | {"test_acc": accuracy, "test_loss": loss}))
            if epoch in EPOCHS:
                where = trial / (f"checkpoint_{epoch:06d}" if run % 2 else f"checkpoint_{epoch}")
                where.mkdir()
                torch.save(net.state_dict(), where / "checkpoints")
                torch.save({"state": {}}, where / "optimizer")
        (trial / "result.json").write_text("\n".join(lines) + "\n")
        (trial / "progress.csv").write_text("train_acc\n")


class ParkNet(nn.Module):
    """Network of the Wild Park, without residuals."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg, sizes = cfg, zip(cfg.channels, cfg.channels[1:], cfg.kernel_size, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2) for a, b, k in sizes)
        self.fc = nn.Linear(cfg.channels[-1], cfg.n_classes)
        enlarge(self)

    def forward(self, x):
        for layer, name in zip(self.layers, self.cfg.activation, strict=True):
            x = ACTIVATIONS[name](layer(x))
        return self.fc(x.mean((2, 3)))


def park_classes():
    """Classes of their modules and of omegaconf, as they are pickled; nobody can import them later."""
    names = ("n_layers", "n_classes", "channels", "kernel_size", "stride", "padding", "residual")
    module = "experiments.cnn_generalization.dataset.cnn_sampler"
    config = dataclasses.make_dataclass("CNNConfig", [*names, "activation"])
    config.__module__ = module
    node = type("AnyNode", (), {"__module__": "omegaconf.nodes"})
    box = type("ListConfig", (), {"__module__": "omegaconf.listconfig"})
    tree = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    modules = {}
    for cls in (config, node, box, tree):
        parts = cls.__module__.split(".")
        for name in (".".join(parts[: i + 1]) for i in range(len(parts))):
            modules.setdefault(name, types.ModuleType(name))
        setattr(modules[cls.__module__], cls.__name__, cls)
    return config, node, box, tree, modules


def as_omegaconf(value, node, box, tree):
    """A value in omegaconf's containers."""
    kind = tree if isinstance(value, dict) else box if isinstance(value, list) else node
    out = kind()
    out._metadata, out._parent = None, None
    if kind is node:
        out._val = value
    else:
        items = value.items() if kind is tree else enumerate(value)
        inside = {k: as_omegaconf(v, node, box, tree) for k, v in items}
        out._content = inside if kind is tree else list(inside.values())
    return out


def make_wild_park(folder, images, labels):
    """As the CNN Wild Park: configurations in omegaconf or as their dataclass; one run has residuals."""
    torch.manual_seed(0)
    config, *containers, modules = park_classes()
    splits = {name: {"path": [], "score": [], "step": []} for name in ("train", "val", "test")}
    for run in range(RUNS):
        activation = ["relu", "relu"] if run != 1 else ["relu", "tanh"]
        channels, residual = ([1, 4, 5] if run != 2 else [1, 4, 6]), [-1, -1]
        cfg = config(2, 10, channels, [3, 3], [1, 1], [1, 1], residual, activation)
        for step in EPOCHS:
            net = ParkNet(cfg).eval()
            with torch.no_grad():
                accuracy, _ = scores(net(images), labels)
            name = f"cifar10_zooV2/NN_tune_trainable_{run:05d}/checkpoint_{step:06d}/checkpoint.pt"
            (folder / name).parent.mkdir(parents=True)
            stored = as_omegaconf(vars(cfg), *containers) if run % 2 else cfg
            sys.modules.update(modules)
            try:
                torch.save({"model": net.state_dict(), "config": stored}, folder / name)
            finally:
                for module in modules:
                    del sys.modules[module]
            split = splits[("train", "train", "val", "test")[run]]
            split["path"].append(name)
            split["score"].append(accuracy)
            split["step"].append(step)
    (folder / "cnn_park_splits.json").write_text(json.dumps(splits))


def make_folder(folder, images, labels):
    """Checkpoints with the names of this package's ``convnet``, and a table of them."""
    torch.manual_seed(0)
    rows = []
    for run in range(RUNS):
        for epoch in EPOCHS:
            net = RayNet("relu", 0.0).eval()
            new = {"0": "convs.0", "3": "convs.1", "6": "convs.2", "9": "hidden.0", "11": "head"}
            state = {
                f"{new[name.split('.')[1]]}.{name.split('.')[2]}": w
                for name, w in net.state_dict().items()
            }
            file = f"run-{run}/epoch-{epoch}.pt"
            (folder / file).parent.mkdir(exist_ok=True)
            torch.save(state, folder / file)
            with torch.no_grad():
                accuracy, _ = scores(net(images), labels)
            classes = ",".join(map(str, range(10)))
            row = {"file": file, "classes": classes, "run": f"r{run}", "epoch": epoch}
            split = ("train", "train", "val", "test")[run]
            rows.append(row | {"split": split, "test_accuracy": accuracy, "lr": 0.01})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)


MAKERS = {
    "folder": make_folder,
    "matrix": make_matrix,
    "ray_tune": make_ray_tune,
    "wild_park": make_wild_park,
}
# Settings of nets.convnet that the fakes have; 3-16-8 and the like are of the Wild Park's members.
NETS = {
    "matrix": {
        "channels": [4, 5],
        "kernels": [3, 3],
        "strides": [2, 2],
        "padding": [0, 0],
        "pools": [1, 1],
        "mean": True,
        "hidden": [],
        "activation": "relu",
    },
    "ray_tune": {
        "channels": [4, 3, 2],
        "kernels": [3, 2, 1],
        "strides": [1, 1, 1],
        "padding": [0, 0, 0],
        "pools": [2, 2, 1],
        "mean": False,
        "hidden": [6],
        "activation": "relu",
    },
}
NETS["folder"] = NETS["ray_tune"]
NETS["wild_park"] = NETS["matrix"] | {"strides": [1, 1], "padding": [1, 1]}


def read_gz(path):
    """Text of a gzip file."""
    return gzip.decompress(path.read_bytes()).decode()


def main():
    """Write one fake, whose networks are scored on noise."""
    layout, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(100, 1, 8, 8, generator=rng)
    MAKERS[layout](folder, images, torch.arange(10).repeat_interleave(10))


if __name__ == "__main__":
    main()
