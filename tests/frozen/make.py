"""Freeze a tiny project of an earlier version, and what that version computed with it.

    PYTHONPATH=TREE/src:TREE/tests python tests/frozen/make.py OUT [--others]

with TREE a clone at a commit of that version. Everything here must work with its code and with
today's: the test of earlier versions compares :func:`readings` of both. OUT is a zip archive. With
``--others`` it has members of the families that the default settings do not select, too.
"""

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

# Besides the tiny settings of the tests: less of everything, and products in float32 on every CPU
SMALL = {
    "dataset.samples_per_class": {"train": 6, "val": 3, "test": 3},
    "zoo.runs": 24,
    "zoo.runs_per_shard": 12,
    "zoo.snapshots": 2,
    "outputs.probes": 6,
    "autoencoders.functional.precision": "float32",
    "autoencoders.tokens.width": 8,
    "autoencoders.tokens.heads": 2,
    "autoencoders.tokens.depth": 1,
    "autoencoders.residual.hidden": [16],
    "autoencoders.variational.hidden": [16],
    "autoencoders.tokens.features": 4,
    "shared_encoder.width": 4,
    "shared_encoder.fourier": 2,
    "shared_encoders.flow.precision": "float32",
}
OTHERS = {
    "autoencoder": ("mlp", "variational", "residual", "tokens"),
    "shared_encoder": ("point",),
}
READINGS = "readings.safetensors"
LEFT_OUT = (".gitignore", "modes.parquet", "valid.json", "hypernetwork.safetensors")


def images():
    """Images ``(90, 8, 8)`` of three made-up classes, and their labels."""
    labels = np.arange(90) % 3
    images = (
        0.5 * np.random.default_rng(0).random((90, 8, 8)) + 0.5 * np.eye(8)[labels * 2][:, None]
    )
    return images.astype(np.float32), labels


def readings(root):
    """What a version computes with the artefacts below ``root``: name -> tensor."""
    import weightspace as ws
    from weightspace.artifacts import load_tensors, read_meta
    from weightspace.autoencoders.base import load_autoencoder
    from weightspace.evaluate.readout import load_readout
    from weightspace.shared_encoders.base import load_shared_encoder
    from weightspace.weights.pca import TensorPca

    project, out = ws.load(root, "cpu"), {}
    weights = project.zoo.weights(project.zoo.members.iloc[:4])
    task = project.task(images(), ["2", "0", "1"])
    z = torch.linspace(-1, 1, 3 * project.autoencoder.latent).reshape(3, -1)
    condition = torch.linspace(-1, 1, 2 * project.shared_encoder.condition_features).reshape(2, -1)
    out["pca"] = TensorPca.load(root / "data/pca/pca.safetensors")(weights)
    path = root / "data/readout/readout.safetensors"
    table = load_readout(path, read_meta(path)["autoencoder"]).predict(
        project.encode(weights).numpy()
    )
    out["predicted"] = torch.tensor(table.select_dtypes("number").values)
    for steps in (0, 2):
        drawn = project.sample(task, accuracy=0.6, n=2, seed=3, guidance_steps=steps)
        out[f"sampled.{steps}"] = project.net.spec.flatten(drawn.weights)
    out["network"] = ws.load_network(next((root / "samples").glob("*.safetensors"))).outputs(
        images()[0]
    )
    out["latents"] = load_tensors(root / "latents.safetensors", "latents")[0]["z"]
    with torch.no_grad():
        for path in sorted(root.glob("data/autoencoder*/*.safetensors")):
            autoencoder, name = load_autoencoder(path), path.parent.name
            out[f"{name}.encoded"] = autoencoder.encode(weights)
            out[f"{name}.decoded"] = autoencoder.spec.flatten(autoencoder.decode(z))
        for path in sorted(root.glob("data/shared_encoder*/*.safetensors")):
            model, name = load_shared_encoder(path), path.parent.name
            rng = torch.Generator().manual_seed(5)
            out[f"{name}.drawn"] = model.sample(condition, 2, rng)
            out[f"{name}.embedded"] = model.dataset_encoder(task.images["train"])
    return {name: x.contiguous().double() for name, x in out.items()}


def use(root):
    """Leave what a person makes with a finished project: a sampled network, latents."""
    import weightspace as ws

    project = ws.load(root, "cpu")
    drawn = project.sample(project.task(images(), ["2", "0", "1"]), accuracy=0.6)
    drawn.save(root / "samples")
    project.save_latents(root / "latents.safetensors", project.encode(drawn.weights), ["drawn"])


def make(out, folder, others):
    """Run the pipeline of the version, then the other members, and write the archive."""
    import workspace

    tiny = workspace.clone(folder / "clone", SMALL)
    stages = ("check", "dataset", "zoo", "outputs", "pca", "autoencoder", "shared_encoder")
    tiny.stages(*stages, "hypernetwork", "evaluate_*")
    params, root = tiny.read("params.yaml"), tiny.root
    shutil.copytree(root / "metrics", root / "first")
    for section, names in others.items():
        folder = root / "data" / section
        folder.rename(folder.with_name("first"))
        for name in names:
            tiny.write("params.yaml", params)
            tiny.set({f"{section}.model": name})
            tiny.stages(section)
            folder.rename(folder.with_name(f"{section}_{name}"))
        folder.with_name("first").rename(folder)
    tiny.write("params.yaml", params)
    shutil.rmtree(root / "metrics")
    (root / "first").rename(root / "metrics")
    use(root)
    read = save(readings(root))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        files = [root / "params.yaml", root / "latents.safetensors"]
        files += [
            path for part in ("data", "metrics", "samples") for path in (root / part).rglob("*")
        ]
        for file in sorted(f for f in files if f.is_file() and f.name not in LEFT_OUT):
            archive.write(file, file.relative_to(root))
        archive.writestr(READINGS, read)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(sys.argv[1]).absolute(), Path(scratch), OTHERS if "--others" in sys.argv else {})
