"""Every stage on a pretended GPU: nothing is left on the wrong device, and the figures are the CPU's.

The kernels underneath are the CPU's, so files are compared byte for byte. Only attention, for which
PyTorch has another formula on each device, differs in the last bits.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

import weightspace as ws
from fake_device import fake_device
from pipeline import STAGES, shorten, stage
from pipeline import settings as tiny
from weightspace.artifacts import HYPERNETWORK_FILE
from weightspace.autoencoders.base import AutoencoderData
from weightspace.errors import WeightspaceError
from weightspace.jobs import local
from weightspace.nets.base import Net
from weightspace.report.gallery import gallery
from weightspace.runtime import device
from workspace import ROOT

MADE = STAGES[: STAGES.index("shared_encoder") + 1]
FROM = {name: MADE[MADE.index(name) :] for name in MADE}
NETWORKS = FROM["zoo"][:-1]  # up to the autoencoder
EXACT = {  # bf16 is compared with itself only: CPUs compute it in float32
    "autoencoders.functional.precision": "float32",
    "shared_encoders.flow.precision": "float32",
}


def settings(where, **changes):
    return tiny(**EXACT | {"runtime.device": where} | changes)


def here(jobs, runtime):
    """Jobs one after the other, each of which says where it computes."""
    for job in jobs:
        assert job.device == device(runtime).type
        yield job.execute()


@pytest.fixture(scope="module", autouse=True)
def _jobs_in_this_process():
    """The pretended GPU is one of this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "execute", here)
        # as the pretended GPU has: the hypernetwork is always fitted in bf16
        patch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
        shorten(patch)
        yield


def on(where):
    return fake_device() if where == "cuda" else nullcontext()


def run(root, where, stages, **changes):
    params = settings(where, **changes)
    with on(where):
        for name in stages:
            stage(name, root, params)
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The default pipeline on each device, all stages; nobody writes to it."""
    return {w: run(tmp_path_factory.mktemp(w), w, STAGES) for w in ("cpu", "cuda")}


HALF = "data" / HYPERNETWORK_FILE  # always fitted in bf16, which the devices round differently


def compare(cpu, cuda):
    """The same files with the same bytes."""
    made = {w: {f.relative_to(w): f for f in w.rglob("*") if f.is_file()} for w in (cpu, cuda)}
    assert made[cpu].keys() == made[cuda].keys()
    assert len(made[cpu]) > 1
    differing = [n for n, f in made[cpu].items() if f.read_bytes() != made[cuda][n].read_bytes()]
    for name in set(differing) & {HALF}:
        a, b = (load_file(made[where][name]) for where in (cpu, cuda))
        for key in a:
            torch.testing.assert_close(b[key], a[key], rtol=1e-2, atol=2e-3, msg=key)
    assert not set(differing) - {HALF}


def compare_nearly(cpu, cuda):
    """The same tensors within rounding."""
    for name in ("autoencoder", "shared_encoder"):
        a, b = (load_file(w / "data" / name / f"{name}.safetensors") for w in (cpu, cuda))
        for key in a:
            torch.testing.assert_close(b[key], a[key], rtol=1e-4, atol=1e-5, msg=key)


def test_every_stage_gives_the_artefacts_and_metrics_of_the_cpu(finished):
    compare(finished["cpu"], finished["cuda"])


# What each member of a family needs beside the default pipeline: keys, the first stage that runs again
TOKENS = {
    f"autoencoders.tokens.{k}": v for k, v in {"token": 12, "features": 4, "width": 8}.items()
}
TOKENS |= {"autoencoders.tokens.depth": 1, "autoencoders.tokens.heads": 2}
AUTOENCODERS = {
    "mlp": {"autoencoders.mlp.behaviour_weight": 0.1, "autoencoder.augment_permutations": True},
    "variational": {"autoencoders.variational.hidden": [16]},
    "residual": {"autoencoders.residual.hidden": [16]},
    "reverse_pca": {
        "autoencoders.reverse_pca.hidden": [16],
        "autoencoders.reverse_pca.features": 16,
    },
    "tokens": TOKENS | {"autoencoders.tokens.window": 20},
    "functional": {
        "autoencoders.functional.reads": "both",
        "autoencoders.functional.learn_probes": True,
    },
}
CASES = {
    **{
        name: ({"autoencoder.model": name} | keys, FROM["autoencoder"])
        for name, keys in AUTOENCODERS.items()
    },
    "deepsets": ({"shared_encoder.dataset_encoder": "deepsets"}, FROM["shared_encoder"]),
    "distillation": (
        {
            "shared_encoder.dataset_encoder": "distillation",
            "dataset_encoders.distillation.images": 1,
            "dataset_encoders.distillation.steps": 2,
            "dataset_encoders.distillation.networks": 2,
            "dataset_encoders.distillation.batch": 2,
            "dataset_encoders.distillation.width": 4,
        },
        FROM["shared_encoder"],
    ),
    "point": ({"shared_encoder.model": "point"}, FROM["shared_encoder"]),
    "loss": ({"shared_encoder.result": "loss"}, FROM["shared_encoder"]),
    "aligned": ({"pca.align": "matching", "pca.identity_below": 0}, FROM["pca"]),
    "mlp network": ({"zoo.architecture": "mlp"}, NETWORKS),
    "batch norm": ({"nets.cnn.batch_norm": True}, NETWORKS),
    "resnet18": (
        {"zoo.architecture": "resnet18", "nets.resnet18.width": 2, "nets.resnet18.stem": "small"},
        NETWORKS,
    ),
}


HEAVY = {"aligned", "distillation", "mlp network", "resnet18", "tokens"}
NEARLY = {"tokens"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in HEAVY)) for c in CASES]
)
def test_other_members_give_the_artefacts_of_the_cpu(case, finished, tmp_path):
    keys, stages = CASES[case]
    for where, root in finished.items():
        run(continued(root, stages, tmp_path / where), where, stages, **keys)
    check = compare_nearly if case in NEARLY else compare
    check(tmp_path / "cpu", tmp_path / "cuda")


def continued(root, stages, folder):
    """A folder with what is made before some stages."""
    for made in MADE[1 : MADE.index(stages[0])]:
        shutil.copytree(root / "data" / made, folder / "data" / made)
    return folder


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_networks_and_parameters_are_where_the_settings_say(where, finished, tmp_path, monkeypatch):
    seen = {"networks": set(), "parameters": set(), "images": set()}
    outputs, start = Net.outputs, torch.optim.AdamW.__init__

    def note_outputs(self, weights, images):
        seen["networks"] |= {w.device.type for w in weights.values()}
        seen["images"].add(images.device.type)
        return outputs(self, weights, images)

    def note_parameters(self, parameters, *rest, **more):
        parameters = list(parameters)
        seen["parameters"] |= {p.device.type for p in parameters}
        start(self, parameters, *rest, **more)

    monkeypatch.setattr(Net, "outputs", note_outputs)
    monkeypatch.setattr(torch.optim.AdamW, "__init__", note_parameters)
    run(continued(finished["cpu"], FROM["zoo"], tmp_path), where, FROM["zoo"])
    assert set(map(tuple, seen.values())) == {(where,)}


def test_stages_run_in_the_precision_of_the_default_settings(finished, tmp_path):
    continued(finished["cpu"], FROM["autoencoder"], tmp_path)
    keys = dict.fromkeys(EXACT, "bf16")
    run(tmp_path, "cuda", FROM["autoencoder"], **keys)


def test_the_example_of_a_member_is_fitted_on_the_device(finished, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "ridge_autoencoder")
    monkeypatch.delitem(sys.modules, "weightspace_ridge", raising=False)
    example, fitted = import_module("weightspace_ridge.autoencoder"), {}
    for name in [n for n in sys.modules if n.startswith("weightspace_ridge")]:
        monkeypatch.delitem(sys.modules, name)
    for where in ("cpu", "cuda"):
        params = settings(where)
        with on(where):
            data = AutoencoderData.load(finished["cpu"] / "data", params)
            model, _ = example.fit(data, params.autoencoder, example.Settings(ridge=0.01), 0)
            assert model.device.type == where
            fitted[where] = {name: x.cpu() for name, x in model.state_dict().items()}
    assert all(torch.equal(fitted["cuda"][name], x) for name, x in fitted["cpu"].items())


# What a tensor that was left on the CPU looks like, and the stage that must find it
PLANTED = {
    "noise": (
        "weightspace.shared_encoders.flow.normal",
        lambda size, rng, device: torch.randn(size, generator=rng),
        "shared_encoder",
    ),
    "weights": (
        "weightspace.autoencoders.functional.FunctionalAutoencoder.read",
        lambda self, weights: self.net.outputs(weights, self.probes),
        "autoencoder",
    ),
    "targets": (
        "weightspace.shared_encoders._critic.Critic.losses",
        lambda self, x, e, measured, *_: dict.fromkeys(
            ("loss", "error"), (self(x, e) - measured.cpu()).square().mean()
        ),
        "shared_encoder",
    ),
    "module": ("weightspace.autoencoders.base.Autoencoder.to", lambda self, _: self, "autoencoder"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_tensor_left_on_the_cpu_is_found(name, finished, tmp_path, monkeypatch):
    path, planted, found_by = PLANTED[name]
    stages = (found_by,)
    keys = {"autoencoders.functional.learn_probes": True}  # networks are read in each step
    monkeypatch.setattr(path, planted)
    run(continued(finished["cpu"], stages, tmp_path / "cpu"), "cpu", stages, **keys)
    with pytest.raises(RuntimeError, match="same device"):
        run(continued(finished["cpu"], stages, tmp_path / "cuda"), "cuda", stages, **keys)


@pytest.fixture(scope="module")
def answers(finished, tmp_path_factory):
    """What the API gives on each device, from the artefacts of the CPU."""
    root = shutil.copytree(finished["cpu"], tmp_path_factory.mktemp("project"), dirs_exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(settings("cuda").model_dump(mode="json")))
    out = {}
    for where in ("cpu", "cuda"):
        with on(where):
            out[where] = answer(ws.load(root, device=None if where == "cuda" else "cpu"), root)
    with pytest.raises(WeightspaceError, match="no GPU"):
        ws.load(root)
    return out


def answer(project, root):
    """Something of every method of a project; all tensors come back to the CPU."""
    dataset = project.dataset
    pixels = (dataset.images["test"] * dataset.std + dataset.mean).clamp(0, 1).cpu().numpy()
    count = pixels.shape[1]
    arrays = pixels.reshape(-1, *dataset.shape), np.repeat(np.arange(len(pixels)), count)
    task = project.task(arrays, [str(c) for c in range(dataset.classes_per_task)])
    (kind,) = (project.result.name,)
    drawn = project.sample(task, **{kind: 0.8}, n=2, best_of=2, fine_tune_epochs=1)
    z = project.encode(drawn.weights)
    found, retrieved = project.retrieve(task, n=2)
    tables = {
        "drawn": drawn.table,
        "distances": pd.DataFrame([drawn.class_distances]),
        "retrieved": found,
        "tasks": pd.concat(project.retrieve_tasks(drawn.weights, n=2)),
        "predicted": project.predict(drawn.weights).table,
        "measured": project.evaluate(drawn.weights, task),
        "compared": project.compare(drawn.weights, retrieved, task),
    }
    drawn.save(root / f"samples-{dataset.device.type}")
    tensors = {"z": z, **project.decode(z), **{f"drawn.{k}": w for k, w in drawn.weights.items()}}
    return tables, tensors, dataset.device.type, gallery(project)


@pytest.fixture
def benchmark(finished, tmp_path, monkeypatch):
    """The benchmark of GPUs, tiny, on pipelines that ran here."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu = import_module("gpu")

    def pipeline(folder, changes):
        where = changes["runtime.device"]
        shutil.copytree(finished[where], folder)
        (folder / "params.yaml").write_text(yaml.safe_dump(settings(where).model_dump(mode="json")))
        (folder / "metrics" / "cost").mkdir()
        for name in STAGES:
            (folder / "metrics" / "cost" / f"{name}.json").write_text('{"seconds": 1.0}')
        return folder

    peak = gpu.matmul_tflops
    monkeypatch.setattr(gpu, "run_pipeline", pipeline)
    monkeypatch.setattr(gpu, "prepare", lambda: None)
    monkeypatch.setattr(gpu, "VARIANTS", gpu.DRY)
    monkeypatch.setattr(gpu, "matmul_tflops", lambda where, size, dtype: peak(where, 64, dtype))
    out = tmp_path / "gpu.json"
    return gpu, out, ["--rounds", "1", "--pipelines", "cnn", "--out", str(out)]


def test_the_benchmark_of_gpus_measures_and_compares_everything(benchmark, capsys):
    gpu, out, arguments = benchmark
    with fake_device():
        assert gpu.main(arguments) == 0
    figures = json.loads(out.read_text())
    assert figures["device"].startswith("pretended GPU")
    assert figures["outside"] == []
    assert figures["training"].keys() == gpu.DRY.keys()
    of_pipeline = figures["pipelines"]["cnn"]
    assert set(of_pipeline["artefacts"].values()) == {0.0}  # the kernels of the CPU
    assert all(m["cpu"] == m["gpu"] for m in of_pipeline["metrics"].values())
    missing = [k for k, m in of_pipeline["metrics"].items() if m["cpu"] is None]
    assert missing == ["finetuning.test_sets.sampled_epoch_5"]  # shortened, it has no epoch 5
    assert all(rate["median"] > 0 for rate in of_pipeline["draws"].values())


def test_the_benchmark_says_what_is_outside(benchmark, monkeypatch, capsys):
    gpu, out, arguments = benchmark
    monkeypatch.setattr(gpu, "_within", lambda a, b, tolerance: tolerance != 3)
    shifted = gpu.answers
    monkeypatch.setattr(
        gpu,
        "answers",
        lambda project, count: {
            k: v + float(project.dataset.device.type == "cuda") * (k == "encode")
            for k, v in shifted(project, count).items()
        },
    )
    with fake_device():
        assert gpu.main(arguments) == 1
    outside = json.loads(out.read_text())["outside"]
    assert [line.split()[:2] for line in outside] == [
        ["cnn:", "zoo.diverged_runs"],
        ["cnn:", "artefacts:"],
    ]
    assert "encode" in outside[1]


def test_the_benchmark_says_that_there_is_no_gpu(benchmark, capsys, monkeypatch):
    gpu, out, arguments = benchmark
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "no GPU" in line
    assert "--dry-run" in line
    assert not out.exists()


# What the machines with a GPU do not have: nothing that a stage or the benchmark needs
ABSENT = ("dvc", "dvclive", "ray", "typer", "matplotlib", "open_clip", "onnx")
HIDDEN = """
import sys
absent = sys.argv[1].split(",")

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in absent
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def without(absent, code, *arguments, cwd=ROOT):
    """Run some code in a process where packages are missing."""
    path = [str(ROOT / part) for part in ("src", "stages", "benchmarks")]
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + code, ",".join(absent), *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )


IMPORT = "from importlib import import_module\nfor name in sys.argv[2:]: import_module(name)"


def test_stages_and_the_benchmark_need_no_dvc():
    done = without(ABSENT, IMPORT, *STAGES, "gpu")
    assert done.returncode == 0, done.stderr
    done = without(("safetensors",), IMPORT, *STAGES)  # the control: something they need
    assert "No module named 'safetensors'" in done.stderr


# Scripts with their arguments, one after the other; prints their exit codes.
IN_TURN = """
import json, runpy
for sys.argv in map(json.loads, sys.argv[2:]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print(end.code)
"""
# The second pipeline is a copy of the first: both have the same settings, and test_dvc.py tells whether
# they would give the same bytes.
DRY = """
import gpu, shutil
first, run = [], gpu.run_pipeline

def once(folder, changes):
    if first:
        return shutil.copytree(first[0], folder)
    first.append(run(folder, changes))
    return folder

gpu.run_pipeline = once
sys.exit(gpu.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_the_benchmark_runs_dry_where_there_is_no_dvc(tmp_path):
    out = tmp_path / "gpu.json"
    options = ("--dry-run", "--rounds", "1", "--pipelines", "cnn", "--out", str(out))
    done = without(ABSENT, DRY, *options)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert "no GPU" in figures["device"]
    assert figures["outside"] == []


def test_a_preset_runs_its_stages_in_their_order_without_dvc(tmp_path):
    table = yaml.safe_load((ROOT / "benchmarks" / "study.yaml").read_text())
    table |= {"base": {"dataset.classes_per_task": 2}, "columns": {"seconds": None}}
    table["rows"] = [{"name": "cost", "set": {}, "columns": {"seconds": "cost/dataset:seconds"}}]
    definition, page = tmp_path / "table.yaml", tmp_path / "page.md"
    definition.write_text(yaml.safe_dump(table))
    preset = [str(ROOT / "benchmarks" / "preset.py"), str(definition), "--out", str(page)]
    preset += ["--stages", "dataset"]
    good, bad = ["--folder", str(tmp_path / "here")], ["-S", "dataset.classes_per_task=99"]
    calls = [json.dumps(preset + more) for more in (good, bad)]
    done = without(ABSENT, IN_TURN, *calls)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1"], done.stderr
    assert (tmp_path / "here/0/data/check/valid.json").is_file()  # which the dataset needs
    assert "| cost | " in page.read_text()
    assert page.with_suffix(".csv").read_text().startswith("row,column,seed,value")
    assert "classes_per_task" in done.stderr


@pytest.mark.parametrize(
    "table", ["drawn", "distances", "retrieved", "tasks", "predicted", "measured", "compared"]
)
def test_the_api_answers_as_on_the_cpu(table, answers):
    a, b = (answers[where][0][table] for where in ("cpu", "cuda"))
    pd.testing.assert_frame_equal(b, a, check_exact=True)


def test_tensors_of_the_api_come_back_to_the_cpu(answers):
    assert [answers[where][2] for where in ("cpu", "cuda")] == ["cpu", "cuda"]
    a, b = (answers[where][1] for where in ("cpu", "cuda"))
    for name, tensor in a.items():
        assert type(b[name]) is torch.Tensor
        assert torch.equal(b[name], tensor), name


def test_the_gallery_shows_what_it_shows_on_the_cpu(answers):
    assert answers["cuda"][3] == answers["cpu"][3]
