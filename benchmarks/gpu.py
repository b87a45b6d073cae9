"""Everything on a GPU beside the CPU: all stages, artefacts, throughput. Needs no DVC.

    PYTHONPATH=src python benchmarks/gpu.py --out benchmarks/gpu.json       # on a machine with a GPU
    PYTHONPATH=src python benchmarks/gpu.py --dry-run                       # without: tiny, CPU twice

* ``kernels``: each kernel of ``nets/_kernels.py`` beside float64 on the same values. ``--kernels`` alone runs
  without a GPU too, by Triton's interpreter, which is right for float32 but not for products in bf16.
* ``training``: run-steps per second of many networks at once, as the zoo stage trains them with
  ``zoo.precision`` bf16, beside one-by-one PyTorch training of the same networks on the same card, in
  float32 with TF32 convolutions and under bf16 autocast, interleaved in one run; the better of these is the
  baseline. A run-step is one optimiser step of one network. TFLOP/s beside the measured bf16 matrix product.
* ``forms``: seconds of one gradient of many networks in other forms: what was tried, and lost.
* ``pipeline``: all stages on small settings, on the CPU and on the GPU. Plans, splits and images
  must be equal; metrics within the tolerances below, because trained networks differ from the first
  rounding on.
* ``artefacts``: what one and the same fitted pipeline computes on both: nothing is trained in between,
  and noise is drawn on the CPU, so that the differences are those of rounding alone.
* ``draws``: networks per second of that pipeline on the GPU.

Exit code 1 where a figure is outside its tolerance, 2 where there is no GPU.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

import preset
import report
import throughput
import weightspace as ws
from weightspace.autoencoders.base import decode_latents, encode_members
from weightspace.errors import WeightspaceError
from weightspace.experiments.dvc import figure_of
from weightspace.nets import _chain, _layers
from weightspace.nets.base import build_net
from weightspace.params import CnnSettings, Resnet18Settings, RuntimeSettings, Settings
from weightspace.rng import torch_stream
from weightspace.runtime import device, is_half, prepare
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.weights.spec import stack
from weightspace.zoo.plan import Run
from weightspace.zoo.train import train_runs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import workspace  # noqa: E402

try:
    from weightspace.nets import _gpu
except ImportError:  # no Triton
    _gpu = None

CLASSES, BATCH, IMAGES, ALL_CLASSES = 3, 64, 200, 10
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])

# metric -> by how much the devices may differ: trained networks differ, their statistics hardly
TOLERANCES = {
    "zoo": {"test_accuracy_snapshot2_q50": 0.03, "diverged_runs": 3},
    "reconstruction": {"test_sets.agreement_mean": 0.05, "test_sets.accuracy_r2": 0.2},
    "sampling": {
        "test_sets.accuracy_at_top": 0.05,
        "test_sets.best_of_n_r2_identity": 0.2,
        "test_sets.d_to_w_recall_at_1": 0.15,
        "test_sets.accuracy_scratch": 0.03,
    },
    "distribution": {"test_sets.auc_outputs": 0.1},
    "novelty": {"test_sets.accuracy": 0.05, "test_sets.weight_distance": 0.2},
    "finetuning": {"test_sets.sampled_epoch_5": 0.05, "test_sets.scratch_single": 0.05},
    "properties": {"test_sets.latent_test_accuracy_r2": 0.3},
    "generation": {"prior_accuracy": 0.1, "members_accuracy": 0.05},
}
# what one pipeline computes on both devices -> largest relative difference (norm of it)
ARTEFACTS = {"outputs": 1e-3, "encode": 2e-2, "decode": 2e-2, "latents": 2e-2, "draws": 2e-2}

SMALL = {
    "zoo.runs": 400,
    "zoo.runs_per_shard": 100,
    "autoencoder.epochs": 12,
    "shared_encoder.epochs": 8,
    "shared_encoders.flow.critic_draws": 1000,
    "guidance.sampling_steps": 5,
    "guidance.encoding_steps": 5,
    "evaluate.bootstrap": 50,
    "evaluate.novelty_networks": 50,
    "evaluate.finetune_tasks": 8,
}
TINY = workspace.TINY | {
    "zoo.runs_per_shard": 36,
    "zoo.batch_size": 12,
    "autoencoder.epochs": 1,
    "shared_encoder.epochs": 1,
    "evaluate.novelty_networks": 2,
}
RESNET = {"zoo.architecture": "resnet18", "nets.resnet18.width": 4, "nets.resnet18.stem": "small"}
PIPELINES = {"cnn": {}, "resnet18": RESNET | {"zoo.runs": 120, "zoo.runs_per_shard": 30}}


class Variant(NamedTuple):
    """An architecture and how much of it is trained at once."""

    architecture: str
    settings: Settings
    runs: int
    steps: int
    shape: tuple[int, int, int] = (1, 28, 28)

    def net(self):
        """The architecture at this size."""
        return build_net(self.architecture, self.shape, CLASSES, self.settings)


def _resnet(width, runs, steps):
    return Variant("resnet18", Resnet18Settings(width=width, stem="small"), runs, steps)


VARIANTS = {
    "cnn": Variant("cnn", CnnSettings(channels=(16, 32), batch_norm=False), 512, 40),
    "cnn-batch-norm": Variant("cnn", CnnSettings(channels=(16, 32, 64), batch_norm=True), 512, 40),
    "resnet18-8": _resnet(8, 64, 20),
    "resnet18-16": _resnet(16, 64, 20),
    "resnet18-32": _resnet(32, 64, 10),
    "resnet18-64": _resnet(64, 32, 6),
}
FORMS = ("cnn", "cnn-batch-norm", "resnet18-16", "resnet18-2")
KERNELS = {"torch.float32": 1e-5, "TF32": 2e-3, "torch.bfloat16": 1e-2}  # relative errors
DRY = {
    "cnn": Variant("cnn", CnnSettings(channels=(3, 4), batch_norm=False), 2, 2, (1, 8, 8)),
    "resnet18-2": Variant("resnet18", Resnet18Settings(width=2, stem="small"), 2, 1, (1, 8, 8)),
}


def seconds(work, where):
    """Time of some work, until the device has done it."""
    synchronise(where)
    start = time.perf_counter()
    work()
    synchronise(where)
    return time.perf_counter() - start


def synchronise(where):
    """Wait for the device."""
    if where.type == "cuda":
        torch.cuda.synchronize()


def matmul_tflops(where, size, dtype):
    """The measured peak: TFLOP/s of square matrix products."""
    a = torch.randn(size, size, device=where).to(dtype)
    best = min(seconds(lambda: [a @ a for _ in range(10)], where) for _ in range(4))
    return 10 * 2 * size**3 / best / 1e12


def data(variant, where):
    """Images of all classes, the classes of each run, the images of every step."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(ALL_CLASSES, IMAGES, *variant.shape, generator=rng).to(where)
    order = torch.rand(variant.runs, ALL_CLASSES, generator=rng).argsort(1)
    size = variant.runs, variant.steps, BATCH
    return images, order[:, :CLASSES], torch.randint(IMAGES * CLASSES, size, generator=rng)


def one_by_one(variant, where, alone, half):
    """Plain PyTorch: module, torch.optim.Adam, a loop over steps, one network after the other."""
    table, classes, batches = data(variant, where)
    labels = torch.arange(CLASSES, device=where).repeat_interleave(IMAGES)
    modules = [variant.net().module.requires_grad_().train().to(where) for _ in range(alone)]

    def work():
        for i, module in enumerate(modules):
            images = table[classes[i].to(where)].flatten(0, 1)
            optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
            for index in batches[i].to(where):
                optimizer.zero_grad()
                with torch.autocast(where.type, torch.bfloat16, enabled=half):
                    outputs = module(images[index])
                F.cross_entropy(outputs.float(), labels[index]).backward()
                optimizer.step()

    return alone * variant.steps / seconds(work, where)


def at_once(variant, where):
    """The project's training, as the zoo stage does it."""
    net = variant.net()
    images, classes, batches = data(variant, where)
    runs = [Run(i, 0, "adam", 1e-3, 0.0, 1, (variant.steps,)) for i in range(variant.runs)]
    init = stack([net.init(torch.Generator().manual_seed(i)) for i in range(variant.runs)])
    init = {name: w.to(where) for name, w in init.items()}
    images = images.bfloat16() if is_half("bf16", where) else images
    work = lambda: train_runs(net, runs, init, images, classes, batches, 0.9)  # noqa: E731
    return variant.runs * variant.steps / seconds(work, where)


def training(variant, where, rounds, peak):
    """Run-steps per second of a variant, all sides interleaved; a first round warms up."""
    alone = min(2, variant.runs)
    rates = {"one_by_one": [], "one_by_one_autocast": [], "at_once": []}
    for i in range(rounds + 1):
        both = [one_by_one(variant, where, alone, half) for half in (False, True)]
        for side, rate in zip(rates, (*both, at_once(variant, where)), strict=True):
            if i:
                rates[side].append(rate)
    ratios = [c / max(a, b) for a, b, c in zip(*rates.values(), strict=True)]
    images = torch.randn(BATCH, *variant.shape)
    flops = report.training_flops(variant.net().module, images)  # of one run-step
    tflops = flops * max(rates["at_once"]) / 1e12
    out = {side: report.spread(values) for side, values in rates.items()}
    out |= {"speedup": report.spread(ratios), "tflops": tflops, "of_peak": tflops / peak}
    return out | {"numbers": variant.net().spec.numel, "networks": variant.runs}


@contextmanager
def form(net, name):
    """Run a net by kernels, by batched products of patches, or by PyTorch's vmap of the module."""
    changed = mock.patch.object(_layers, "has_kernels", return_value=False)
    with changed if name == "products" else nullcontext():
        if name == "vmap":
            net.__dict__["_batched"] = None  # in place of the cached property
        yield
        net.__dict__.pop("_batched", None)


def forms(variants, where, rounds):
    """Seconds of one gradient of many networks, 64 images each, in every form and precision."""
    out = {}
    for name, variant in variants.items():
        net, rng = variant.net(), torch.Generator().manual_seed(0)
        one = net.init(rng)
        weights = {k: w.expand(variant.runs, *w.shape).clone().to(where) for k, w in one.items()}
        images = torch.randn(variant.runs, BATCH, *variant.shape, generator=rng).to(where)
        for how, kind in product(("kernels", "products", "vmap"), ("bf16", "float32")):
            x = images.bfloat16() if kind == "bf16" else images
            w = {k: v.to(x.dtype) for k, v in weights.items()} if how == "vmap" else weights
            with form(net, how):
                work = partial(net.gradient, w, x, torch.ones_like)
                try:
                    times = [seconds(work, where) for _ in range(rounds + 1)][1:]
                    out[f"{name}, {how}, {kind}"] = report.spread([round(t, 5) for t in times])
                except RuntimeError as error:  # out of memory, say
                    out[f"{name}, {how}, {kind}"] = str(error).splitlines()[0]
    return out


def kernels(where):
    """Largest relative error of the kernels, by type of the activations, on sizes that fit no block."""
    errors = {}
    for dtype, (n, i, o, h, w, b, size, stride) in product(
        (torch.float32, torch.bfloat16),
        ((2, 8, 12, 5, 6, 7, 3, 1), (3, 16, 20, 7, 7, 5, 3, 2), (2, 70, 66, 4, 5, 3, 1, 2), (2, 17, 8, 9, 9, 50, 3, 1)),
    ):  # fmt: skip
        rng = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(*shape, generator=rng).to(where)  # noqa: B023, E731
        weights = {"w": draw(n, o, i, size, size).to(dtype).float(), "b": draw(n, o)}
        like = {"weight": "w", "bias": "b", "h": h, "w": w, "size": size, "stride": stride}
        pairs = [
            (_gpu.GpuConv(**like, rough=r), [_layers.PatchConv(**like)], (n, i, h * w * b), weights)
            for r in (False, True)
        ]
        for rectified in (False, True):
            statistics = [
                torch.zeros(2, n, o, device=where, dtype=d)
                for d in (weights["b"].dtype, torch.float64)
            ]
            mine = _gpu.GpuNormalise(*statistics[0], ("w", "b"), rectified)
            plain = [_layers.Normalise(*statistics[1], ("w", "b"))]
            plain += [_layers.Relu()] if rectified else []
            pairs.append((mine, plain, (n, o, h * w * b), {"w": draw(n, o), "b": draw(n, o)}))
        for mine, plain, shape, of in pairs:
            x = (draw(*shape) * 2 + 1).to(dtype)
            exact = {k: v.double() for k, v in of.items()}
            y, saved = mine.forward(x, of)
            y64, saved64 = _chain._forward(plain, x.double(), exact)
            grad = draw(*y.shape).to(dtype)
            by, g = mine.backward(grad, saved, needs_input_grad=True)
            by64, g64 = _chain._backward(plain, saved64, grad.double(), needs_input_grad=True)
            both = [(y, y64), (by, by64), *((g[k], g64[k]) for k in g)]
            worst = max(float((p.double() - q).norm() / q.norm()) for p, q in both)
            rough = getattr(mine, "rough", False) and dtype == torch.float32
            errors.setdefault("TF32" if rough else str(dtype), []).append(worst)
    return {dtype: max(values) for dtype, values in errors.items()}


def run_pipeline(folder, changes):
    """All stages on a copy of the code. Returns the folder."""
    if not preset.run_stages(folder, [f"{k}={json.dumps(v)}" for k, v in changes.items()], STAGES):
        raise SystemExit(f"a stage failed in {folder}")
    return folder


def metrics(folder):
    """``file.key`` -> value of every metric with a tolerance."""
    out = {}
    for file, keys in TOLERANCES.items():
        table = json.loads((folder / "metrics" / f"{file}.json").read_text())
        out |= {f"{file}.{key}": figure_of(table, key) for key in keys}
    return out


def compare(reference, other, strict):
    """Metrics of two runs side by side, what must be equal, seconds of each stage."""
    tolerances = {f"{f}.{k}": t for f, keys in TOLERANCES.items() for k, t in keys.items()}
    a, b = metrics(reference), metrics(other)
    table = {k: {"cpu": a[k], "gpu": b[k], "tolerance": t} for k, t in tolerances.items()}
    outside = [k for k, t in tolerances.items() if not _within(a[k], b[k], t)] if strict else []
    outside += [f"not equal: {name}" for name in unequal(reference, other)]
    costs = {}
    for name in STAGES:
        both = (
            json.loads((f / "metrics/cost" / f"{name}.json").read_text())
            for f in (reference, other)
        )
        costs[name] = dict(zip(("cpu", "gpu"), (c["seconds"] for c in both), strict=True))
    return {"metrics": table, "outside": outside, "seconds": costs}


def _within(a, b, tolerance):
    return a is b or (a is not None and b is not None and abs(a - b) <= tolerance)


def unequal(reference, other):
    """Names of what should be equal on every device and is not: images, tasks, plans, splits."""
    images = (load_file(f / "data/dataset/images.safetensors") for f in (reference, other))
    a, b = images
    out = [f"images {name}" for name in a if not torch.equal(a[name], b[name])]
    columns = ["run", "task", "optimizer", "lr", "weight_decay", "epochs", "step", "split"]
    for name, kept in {"dataset/tasks": None, "zoo/members": columns}.items():
        x, y = (
            pd.read_parquet(f / "data" / f"{name}.parquet", columns=kept)
            for f in (reference, other)
        )
        if not x.astype(str).equals(y.astype(str)):
            out.append(name)
    return out


def answers(project, count):
    """What a fitted pipeline computes, on the CPU at the end."""
    members = project.zoo.select("test_sets").head(count)
    weights, tasks = project.zoo.weights(members), torch.tensor(members["task"].to_numpy())
    images, _ = project.dataset.task_batch(tasks, "train")
    z = encode_members(project.autoencoder, weights)
    sampler = Sampler(project.autoencoder, project.shared_encoder, project.net)
    target = torch.full((len(tasks),), project.result.best(project.trained_range))
    condition = Condition.of_tasks(project.dataset, tasks, target)
    latents = sampler.latents(condition, 1, torch_stream(0, "benchmark", "draw"))
    drawn = decode_latents(project.autoencoder, latents.flatten(0, 1))
    return {
        "outputs": project.net.run(weights, images).cpu(),
        "encode": z.cpu(),
        "decode": project.net.spec.flatten(decode_latents(project.autoencoder, z)).cpu(),
        "latents": latents.cpu(),
        "draws": project.net.run(drawn, images).cpu(),
    }


def artefacts(folder, kind, count):
    """Relative differences of what one fitted pipeline computes on the CPU and on the device."""
    a, b = (answers(ws.load(folder, device=where), count) for where in ("cpu", kind))
    return {name: float((a[name] - b[name]).norm() / a[name].norm()) for name in ARTEFACTS}


def draws(folder, kind, count, rounds):
    """Networks per second of a fitted pipeline on the device."""
    project = ws.load(folder, device=kind)
    works, size = throughput.sides(project, count)
    out = {}
    for name, work in works.items():
        times = [seconds(work, project.dataset.device) for _ in range(rounds + 1)]
        out[name] = report.spread([size / t for t in times[1:]])
    return out


def machine(where):
    """Where it ran, with what."""
    out = report.machine() | {"device": "cpu, a dry run: there is no GPU in these figures"}
    if where.type == "cuda":
        properties = torch.cuda.get_device_properties(where)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        out |= {"device": f"{properties.name}, {memory}, CUDA {torch.version.cuda}"}
    return out


def pipelines(kind, options, scratch):
    """Every small pipeline on both devices; what the first one's artefacts give on both."""
    out, count = {}, 20 if options.dry_run else 200
    changes = {"runtime.workers": 1 if options.dry_run else report.CORES}
    for name in options.pipelines:
        sizes = (PIPELINES[name] | TINY) if options.dry_run else (SMALL | PIPELINES[name])
        folders = [
            run_pipeline(scratch / name / side, sizes | changes | {"runtime.device": where})
            for side, where in (("cpu", "cpu"), ("gpu", kind))
        ]
        out[name] = compare(*folders, strict=not options.dry_run)
        out[name]["artefacts"] = artefacts(folders[0], kind, count)
        far = {k: v for k, v in out[name]["artefacts"].items() if not v <= ARTEFACTS[k]}
        out[name]["outside"] += [f"artefacts: {k} {v:.2g}" for k, v in far.items()]
        out[name]["draws"] = draws(folders[0], kind, count, options.rounds)
    return out


def main(arguments=None):
    """Print one JSON object, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU: is it in order?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--pipelines", nargs="*", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--kernels", action="store_true", help="compare the kernels alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    prepare()
    if options.kernels:
        return print(kernels(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    kind = "cpu" if options.dry_run else "cuda"
    try:
        where = device(RuntimeSettings(device=kind, workers=1, executor="local"))
    except WeightspaceError as error:
        print(f"error: {error}; without a GPU use --dry-run", file=sys.stderr)
        return 2
    variants = DRY if options.dry_run else {name: VARIANTS[name] for name in options.variants}
    peak = matmul_tflops(where, 256 if options.dry_run else 8192, torch.bfloat16)
    figures = machine(where) | {"bf16_matmul_tflops": peak}
    figures["kernels"] = kernels(where) if _gpu else "no Triton"
    figures["training"] = {}
    for name, variant in variants.items():  # written one by one: time on a GPU may end
        figures["training"][name] = training(variant, where, options.rounds, peak)
        if options.out:
            options.out.write_text(json.dumps(figures, indent=2) + "\n")
    figures["forms"] = forms(
        {k: v for k, v in variants.items() if k in options.forms}, where, options.rounds
    )
    with tempfile.TemporaryDirectory() as scratch:
        figures["pipelines"] = pipelines(kind, options, Path(scratch))
    figures["outside"] = [
        f"kernels: {k} {e:.2g}"
        for k, e in dict(figures["kernels"] if _gpu else {}).items()
        if e > KERNELS[k]
    ]
    figures["outside"] += [
        f"{name}: {what}" for name, p in figures["pipelines"].items() for what in p["outside"]
    ]
    report.write(figures, options.out)
    return int(bool(figures["outside"]))


if __name__ == "__main__":
    sys.exit(main())
