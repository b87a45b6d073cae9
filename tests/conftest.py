"""Shared fixtures: tiny zoos, trained once per session and in this process."""

import fcntl
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
import yaml

import warm
import workspace
from cases import world_params
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    HYPERNETWORK_FILE,
    READOUT_FILE,
    file_sha256,
    write_bytes,
)
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import AutoencoderData
from weightspace.data.dataset import Dataset, make_dataset
from weightspace.data.tasks import SPLITS
from weightspace.evaluate import hypernetwork
from weightspace.evaluate.readings import latents
from weightspace.evaluate.readout import Readout
from weightspace.nets.base import Net, net_for
from weightspace.params import Params
from weightspace.project.project import load
from weightspace.registry import resolve
from weightspace.runtime import prepare
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders.base import SharedEncoderData, encode_pairs
from weightspace.weights.pca import TensorPca, fit_pca
from weightspace.zoo import generate as generator
from weightspace.zoo.outputs import choose_probes
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo
from workspace import Workspace, run_once

workspace.quick_programs = warm.programs
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # many processes import the same modules
prepare(threads=1)  # as in the workers that train shards


# Files of tests that take seconds and need no fixture of their file: each is handed out alone.
ALONE = ("test_dvc", "test_pages")
# The rest is handed out in files, whose fixtures are made once. The longest come first: a worker
# that ends with one would leave the other idle.
LONGEST = (
    "test_device",
    "test_widths",
    "test_growth",
    "test_zoo",
    "test_autoencoders",
    "test_faults",
    "test_distribution",
    "test_shared_encoders",
    "test_ray",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Order of `pytest -n 2`, where one worker makes the finished clone while the other fits models."""
    order = (LONGEST[0], *ALONE, *LONGEST[1:])
    rank = {file: i for i, file in enumerate(order)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(order)))
    cloned = [i for i in items if "finished_clone" in getattr(i, "fixturenames", ())]
    if cloned:
        items.remove(cloned[0])
        items.insert(0, cloned[0])


def scope(nodeid):
    """What of a test's name decides what goes to one worker."""
    file = nodeid.partition("::")[0]
    return nodeid if Path(file).stem in ALONE else file


def pytest_xdist_make_scheduler(config, log):
    """Hand out tests by :func:`scope`, in the order of their collection."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = scope
    return scheduler


@pytest.fixture(autouse=True)
def _one_thread():
    """Commands set the threads of the process; the bytes of a zoo depend on them."""
    yield
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Tiny:
    """A tiny world: everything that the stages before the autoencoder leave behind."""

    params: Params
    folder: Path
    dataset: Dataset
    zoo: Zoo
    net: Net
    pca: TensorPca

    @property
    def runner(self) -> TaskRunner:
        """The architecture on the tasks."""
        return TaskRunner(self.net, self.dataset)

    def pairs(self, autoencoder, result="accuracy", encoder=None) -> SharedEncoderData:
        """What a shared encoder is fitted on; by default with the statistics of pixels as D."""
        encoder = encoder or self.params.dataset_encoders.statistics
        data = self.data
        train, val = (
            encode_pairs(
                data.members[split],
                data.weights[split],
                data.originals[split],
                self.runner,
                autoencoder,
                Result(result),
            )
            for split in ("train", "val")
        )
        return SharedEncoderData(self.runner, autoencoder, train, val, encoder)

    @cached_property
    def data(self) -> AutoencoderData:
        """What an autoencoder is fitted on."""
        members = {split: self.zoo.select(split) for split in ("train", "val")}
        weights = {split: self.zoo.weights(table) for split, table in members.items()}
        probes = choose_probes(self.dataset, self.params.outputs.probes, self.params.seed)
        return AutoencoderData.measure(self.runner, self.pca, weights, members, probes)


def _here(jobs, runtime):
    return (job.execute() for job in jobs)


def train_zoo(params, folder):
    """Dataset and zoo of some settings, trained in this process; the folder of the zoo."""
    if not (folder / "dataset").exists():
        make_dataset(params.dataset, params.sources, params.seed).save(folder / "dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "execute", _here)
        generator.generate(params, folder / "dataset", folder / "zoo", folder / "scratch")
    return folder / "zoo"


def made_once(tmp_path_factory, name, make):
    """Folder that ``make`` fills, once for all workers of a session: the first makes it, others wait."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / name).exists():
            unfinished = base / f"{name}-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)  # of a worker that failed
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Factory: the tiny world of one of ``cases.WORLDS``, made once; nobody writes to it."""
    made = {}

    def make(name="cnn"):
        if name not in made:
            params = world_params(name)
            folder = made_once(tmp_path_factory, name, lambda new: train_zoo(params, new))
            zoo = Zoo.open(folder / "zoo")
            dataset = Dataset.load(folder / "dataset")
            net = net_for(params, dataset.shape, dataset.classes_per_task)
            pca = fit_pca(zoo.spec, zoo.weights(zoo.select("train")), params.pca)
            made[name] = Tiny(params, folder, dataset, zoo, net, pca)
        return made[name]

    return make


@pytest.fixture
def rng():
    """A seeded torch generator."""
    return torch.Generator().manual_seed(0)


def finish(tiny, root, **shared_encoder):
    """Folder of a finished tiny pipeline, as `dvc repro` leaves one; all but the metrics."""
    settings = {"dataset_encoder": "statistics", "model": "flow"} | shared_encoder
    params = tiny.params.model_copy(
        update={"shared_encoder": tiny.params.shared_encoder.model_copy(update=settings)}
    )
    for part in ("dataset", "zoo"):
        shutil.copytree(tiny.folder / part, root / "data" / part)
    write_bytes(root / "params.yaml", yaml.safe_dump(params.model_dump(mode="json")).encode())
    autoencoder, _ = resolve(AUTOENCODERS, "mlp", "autoencoder").fit(
        tiny.data, params.autoencoder, params.autoencoders.mlp, params.seed
    )
    settings = params.shared_encoder
    encoder = params.dataset_encoders.of(settings.dataset_encoder)
    data = tiny.pairs(autoencoder, settings.result, encoder)
    model, _ = resolve(SHARED_ENCODERS, settings.model, "model").fit(
        data, settings, params.shared_encoders.of(settings.model), params.seed
    )
    tiny.pca.save(root / "data" / "pca" / "pca.safetensors")
    autoencoder.save(root / "data" / AUTOENCODER_FILE)
    members = {s: table for s in SPLITS if len(table := tiny.zoo.select(s))}
    z = latents(tiny.zoo, autoencoder, members)["latent"]
    encoder = file_sha256(root / "data" / AUTOENCODER_FILE)
    Readout.fit(z, members, encoder, params.seed).save(root / "data" / READOUT_FILE)
    model.save(root / "data" / "shared_encoder" / "shared_encoder.safetensors")
    compared = hypernetwork.fit(tiny.runner, params, torch.tensor(model.bounds))
    hypernetwork.save(compared, root / "data" / HYPERNETWORK_FILE)
    return root


@pytest.fixture(scope="session")
def project_root(world, tmp_path_factory):
    """Folder of a finished tiny pipeline; nobody writes to it."""
    return made_once(tmp_path_factory, "project", lambda new: finish(world(), new))


@pytest.fixture(scope="session")
def project(project_root):
    """The same, loaded."""
    return load(project_root)


@pytest.fixture(scope="session")
def finished_clone(tmp_path_factory):
    """This worker's copy of the clone where everything ran once; tests leave it as they found it."""
    finished = made_once(tmp_path_factory, "finished", run_once)
    copied = tmp_path_factory.mktemp("copied")
    shutil.copytree(finished, copied, symlinks=True, dirs_exist_ok=True)
    return Workspace(copied / "clone")
