"""Tables of test cases."""

import torch
import yaml

from weightspace.params import validate_params
from workspace import ROOT
from workspace import TINY as SETTINGS

CONVNET = {  # nets.convnet: that of Unterthiner et al. (2020), narrow
    "channels": [3, 4],
    "kernels": [3, 3],
    "strides": [2, 1],
    "padding": [0, 1],
    "pools": [1, 1],
    "mean": True,
    "hidden": [],
    "activation": "relu",
}
POOLED = {"kernels": [5, 2], "strides": [1, 1], "padding": [1, 0], "pools": [2, 2], "mean": False}

# name -> architecture, its settings, image shape, classes
NETS = {
    "cnn": ("cnn", {"channels": [3, 4]}, (1, 8, 8), 3),
    "cnn-odd-colour": ("cnn", {"channels": [4, 3]}, (3, 9, 13), 4),
    "cnn-one-layer": ("cnn", {"channels": [5]}, (2, 4, 6), 2),
    "cnn-batch-norm": ("cnn", {"channels": [3, 4], "batch_norm": True}, (1, 8, 8), 3),
    "cnn-batch-norm-odd-colour": ("cnn", {"channels": [4, 3], "batch_norm": True}, (3, 9, 13), 4),
    "cnn-batch-norm-one-layer": ("cnn", {"channels": [5], "batch_norm": True}, (2, 4, 6), 2),
    "convnet": ("convnet", CONVNET, (1, 8, 8), 3),
    "convnet-pools": (
        "convnet",
        CONVNET | POOLED | {"hidden": [6], "activation": "tanh"},
        (2, 11, 13),
        4,
    ),
    "mlp": ("mlp", {"hidden": [6, 5]}, (1, 8, 8), 3),
    "mlp-one-layer": ("mlp", {"hidden": [7]}, (3, 4, 4), 5),
    "resnet18": ("resnet18", {"width": 2}, (3, 40, 33), 4),
    "resnet18-small": ("resnet18", {"width": 3, "stem": "small"}, (1, 8, 8), 3),
    "resnet18-small-odd": ("resnet18", {"width": 2, "stem": "small"}, (3, 7, 9), 4),
}

FILE = yaml.safe_load((ROOT / "params.yaml").read_text())


def merged(table, changes):
    """A table of settings with some of them changed, section by section."""
    return table | {
        k: merged(table[k], v) if isinstance(v, dict) and isinstance(table.get(k), dict) else v
        for k, v in changes.items()
    }


def nested(settings):
    """A table of sections from one of dotted names."""
    table = {}
    for name, value in settings.items():
        *sections, key = name.split(".")
        inner = table
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return table


# Those of a clone, with more members and longer fits where members are compared.
# What it leaves out is as in params.yaml.
TINY = merged(
    nested(SETTINGS),
    {
        "seed": 3,
        "dataset": {"samples_per_class": {"train": 20, "val": 10, "test": 10}},
        "zoo": {
            "runs": 40,
            "runs_per_shard": 20,
            "batch_size": 16,
            "epochs": [1, 2],
            "adam_lr": [0.01, 0.05],
            "sgd_lr": [0.05, 0.3],
        },
        "nets": {
            "mlp": {"hidden": [6, 5]},
            "resnet18": {"width": 2, "stem": "small"},
        },
        "outputs": {"probes": 20},
        "pca": {"components": 8, "identity_below": 5},
        "autoencoder": {
            "model": "mlp",
            "latent": 6,
            "epochs": 4,
            "batch_size": 16,
            "lr": 1e-3,
            "own_queries": FILE["autoencoder"]["own_queries"],  # with a few it learns little
            "other_queries": FILE["autoencoder"]["other_queries"],
        },
        "autoencoders": {
            "mlp": {"hidden": [12]},
            "variational": {"hidden": [12]},
            "residual": {"hidden": [12]},
            "reverse_pca": {"hidden": [12], "features": 16, "refit": 0.25},
            "tokens": {
                "token": 12,
                "features": 8,
                "width": 8,
                "depth": 1,
                "heads": 2,
                "window": 20,
                "refit": 0.25,
            },
        },
        "shared_encoder": {
            "model": "point",
            "fourier": 2,
            "epochs": 4,
            "batch_size": 16,
        },
        "guidance": {"sampling_steps": 2, "encoding_steps": 2, "images_per_class": 5},
        "evaluate": {
            "draws": 3,
            "finetune_tasks": 3,
            "bootstrap": 20,
        },
        "runtime": {"device": "cpu"},
    },
)


SIZES = TINY["nets"] | {"convnet": CONVNET}  # params.yaml has no section of the last
# name -> architecture, its settings where they are not those above; a tiny world of each
WORLDS = {
    "cnn": ("cnn", {}),
    "cnn-batch-norm": ("cnn", {"batch_norm": True}),
    "convnet": ("convnet", {}),
    "mlp": ("mlp", {}),
    "resnet18": ("resnet18", {}),
}


def build(case):
    """Net of a case."""
    from weightspace.nets.base import build_net

    architecture, keys, shape, classes = NETS[case]
    options = section("nets", **{architecture: keys}).of(architecture)
    return build_net(architecture, shape, classes, options)


def world_params(name):
    """Tiny settings of a world."""
    architecture, keys = WORLDS[name]
    nets = {architecture: SIZES[architecture] | keys}
    return tiny(zoo={"architecture": architecture}, nets=nets)


def networks(net, count, seed=0, dtype=torch.float32):
    """Some freshly initialised networks; what starts equal everywhere is spread by up to a half."""
    from weightspace.weights.spec import stack

    rng = torch.Generator().manual_seed(seed)
    out = stack([net.init(rng) for _ in range(count)])
    for name, w in out.items():
        if w.min() == w.max():
            out[name] = w + torch.rand(w.shape, generator=rng) - 0.5
    return {k: w.to(dtype) for k, w in out.items()}


def tiny(**sections):
    """Tiny settings, with some keys of some sections changed: ``tiny(zoo={"runs": 60})``."""
    return validate_params(merged(merged(FILE, TINY), sections), "tiny")


def section(name, **keys):
    """A section of params.yaml, some keys changed: ``section("zoo", runs=60)``."""
    return getattr(validate_params(merged(FILE, {name: keys}), "test"), name)


def _outputs(seed, members=3, samples=3000, classes=3):
    return torch.randn(members, samples, classes, generator=torch.Generator().manual_seed(seed))


def _same(seed):
    a = _outputs(seed)
    return a, a.clone()


def _opposite(seed):
    a = _outputs(seed, classes=2)
    return a, -a


# name -> pair of outputs (M, B, c), then expected cosine, correlation, agreement, kappa, tolerance
METRICS = {
    "perfect": (_same(0), (1.0, 1.0, 1.0, 1.0), 1e-12),
    "perfect up to a positive factor": (
        (_outputs(1), 3 * _outputs(1)),
        (1.0, 1.0, 1.0, 1.0),
        1e-9,
    ),
    "chance": ((_outputs(2), _outputs(3)), (0.0, 0.0, 1 / 3, 0.0), 0.05),
    "adversarial": (_opposite(4), (-1.0, -1.0, 0.0, -1.0), 0.01),
    "constant": (
        (_outputs(5), torch.zeros(3, 3000, 3)),
        (0.0, 0.0, 1 / 3, 0.0),
        0.04,
    ),
}
