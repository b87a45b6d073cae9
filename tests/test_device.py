"""Every stage on a pretended GPU: nothing is left on the wrong device, and the figures are the CPU's.

The kernels underneath are the CPU's, so what is compared is equal but for the last bits, where a
GPU takes another composition of them (a product of batches for a linear layer, say).
"""

import json
import shutil
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cases import FILE, merged, nested
from fake_device import fake_device
from weightspace.jobs import local
from weightspace.params import validate_params
from workspace import ROOT, TINY

MADE = ("check", "dataset", "zoo", "pca", "autoencoder", "shared_encoder")
EVALUATED = tuple(sorted(f.stem for f in (ROOT / "stages").glob("evaluate_*.py")))
EXACT = {  # bf16 is compared with itself only: CPUs compute it in float32
    "autoencoders.functional.precision": "float32",
    "shared_encoders.generator.precision": "float32",
}
RTOL, ATOL = 1e-3, 2e-4  # of artefacts
METRIC = 2e-3  # of metrics; counts and accuracies are equal


def settings(where, **changes):
    return validate_params(
        merged(FILE, nested(TINY | EXACT | {"runtime.device": where} | changes)), "test"
    )


def stage(name, root, params):
    """Run a stage in this process, on the data below ``root``."""
    spec = spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for folder in ("DATA", "METRICS", "SCRATCH"):
        if hasattr(module, folder):
            setattr(module, folder, root / folder.lower())
    if hasattr(module, "live"):
        module.live = lambda _: nullcontext()
    module.main(params)


@pytest.fixture(autouse=True)
def _jobs_in_this_process(monkeypatch):
    """The pretended GPU is one of this process alone."""
    monkeypatch.setattr(local, "execute", lambda jobs, runtime: (job.execute() for job in jobs))


def on(where):
    return fake_device() if where == "cuda" else nullcontext()


def run(root, where, stages, **changes):
    params = settings(where, **{k.replace("__", "."): v for k, v in changes.items()})
    with on(where):
        for name in stages:
            stage(name, root, params)
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The default pipeline on each device, all stages; nobody writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "execute", lambda jobs, runtime: (job.execute() for job in jobs))
        return {
            where: run(tmp_path_factory.mktemp(where), where, MADE)
            for where in ("cpu", "cuda")
        }


def compare(cpu, cuda):
    """Compare all files of two runs: names, tensors, tables, metrics."""
    names = sorted(f.relative_to(cpu) for f in cpu.rglob("*") if f.is_file())
    assert names == sorted(f.relative_to(cuda) for f in cuda.rglob("*") if f.is_file())
    for name in names:
        COMPARED[name.suffix](cpu / name, cuda / name)


def same_tensors(a, b):
    a, b = load_file(a), load_file(b)
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=RTOL, atol=ATOL, msg=name)


def same_tables(a, b):
    read = pd.read_parquet if a.suffix == ".parquet" else pd.read_csv
    pd.testing.assert_frame_equal(read(b), read(a), rtol=METRIC, atol=METRIC)


def same_metrics(a, b):
    a, b = (pd.json_normalize(json.loads(f.read_text())) for f in (a, b))
    pd.testing.assert_frame_equal(b, a, rtol=METRIC, atol=METRIC)


COMPARED = {
    ".safetensors": same_tensors,
    ".parquet": same_tables,
    ".csv": same_tables,
    ".json": same_metrics,
}


def test_every_stage_gives_the_artefacts_and_metrics_of_the_cpu(finished):
    compare(finished["cpu"], finished["cuda"])


# What each member of a family needs beside the default pipeline: keys, the first stage that runs again
TOKENS = {f"autoencoders.tokens.{k}": v for k, v in {"token": 12, "features": 4, "width": 8}.items()}
TOKENS |= {"autoencoders.tokens.depth": 1, "autoencoders.tokens.heads": 2}
AUTOENCODERS = {
    "mlp": {"autoencoders.mlp.behaviour_weight": 0.1, "autoencoder.augment_permutations": True},
    "variational": {"autoencoders.variational.hidden": [16]},
    "residual": {"autoencoders.residual.hidden": [16]},
    "reverse_pca": {"autoencoders.reverse_pca.hidden": [16], "autoencoders.reverse_pca.features": 16},
    "tokens": TOKENS | {"autoencoders.tokens.window": 20},
    "functional": {"autoencoders.functional.reads": "both", "autoencoders.functional.learn_probes": True},
}
CASES = {
    **{
        name: ({"autoencoder.model": name} | keys, MADE[4:]) for name, keys in AUTOENCODERS.items()
    },
    "deepsets": ({"shared_encoder.dataset_encoder": "deepsets"}, MADE[5:]),
    "distillation": (
        {
            "shared_encoder.dataset_encoder": "distillation",
            "dataset_encoders.distillation.images": 1,
            "dataset_encoders.distillation.steps": 2,
            "dataset_encoders.distillation.networks": 4,
            "dataset_encoders.distillation.batch": 2,
        },
        MADE[5:],
    ),
    "point": ({"shared_encoder.model": "point"}, MADE[5:]),
    "loss": ({"shared_encoder.result": "loss"}, MADE[5:]),
    "aligned": ({"pca.align": "matching", "pca.identity_below": 0}, MADE[3:]),
    "mlp network": ({"zoo.architecture": "mlp"}, MADE[2:]),
    "batch norm": ({"nets.cnn.batch_norm": True}, MADE[2:]),
    "resnet18": (
        {"zoo.architecture": "resnet18", "nets.resnet18.width": 2, "nets.resnet18.stem": "small"},
        MADE[2:],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_other_members_give_the_artefacts_of_the_cpu(case, finished, tmp_path):
    keys, stages = CASES[case]
    for where, root in finished.items():
        folder = tmp_path / where
        for made in MADE[1 : MADE.index(stages[0])]:
            shutil.copytree(root / "data" / made, folder / "data" / made)
        run(folder, where, stages, **keys)
    compare(tmp_path / "cpu", tmp_path / "cuda")
