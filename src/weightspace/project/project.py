"""A finished pipeline as one object: what ``import weightspace as ws`` is for.

```python
import weightspace as ws

project = ws.load(".")  # a folder where `make repro` has run
task = project.task("my.npz", ["3", "8", "1"])  # your images of unseen classes
drawn = project.sample(task, accuracy=0.9, n=4)  # four guided networks; guidance_steps=0: in one pass
drawn.table  # what each achieves on your images
drawn.save("samples")
network = ws.load_network("samples/network-00000.safetensors")  # a plain nn.Module
```
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace import __version__
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    DATASET_FOLDER,
    IMAGES_FILE,
    MEMBERS_FILE,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_FILE,
    TASKS_FILE,
    ZOO_FOLDER,
    at_width,
    check_file,
    check_tensors,
    file_sha256,
    file_state,
    load_tensors,
    read_meta,
    save_tensors,
)
from weightspace.autoencoders.base import BLOCK, Autoencoder, decode_latents, encode_members
from weightspace.bundles.archive import Bundle, open_bundle
from weightspace.bundles.locate import SETTINGS, locate, named
from weightspace.data.dataset import Dataset
from weightspace.data.images import GivenTask, ImageSet, check_choice, make_task, read_images
from weightspace.data.sources.base import read_npz
from weightspace.errors import WeightspaceError, problem
from weightspace.nets.base import Net, net_for
from weightspace.params import Params, parse_yaml, read_yaml, settings_of_project, validate_params
from weightspace.progress import progress
from weightspace.project import comparison, limits, retrieval
from weightspace.project.finetuning import fine_tune, measure, reestimated
from weightspace.project.network import Standardisation, save_networks
from weightspace.project.prediction import ERRORS, Predictions
from weightspace.project.samples import Request, Samples, join, write
from weightspace.rng import torch_stream
from weightspace.runtime import device as device_of
from weightspace.sampling.requests import nearest_to
from weightspace.sampling.sampler import Condition, Sampler, load_sampler
from weightspace.shared_encoders.base import SharedEncoder
from weightspace.weights.checkpoints import find, read_networks
from weightspace.weights.spec import (
    Population,
    Weights,
    block_size,
    block_slices,
    blocks,
    take,
    to_device,
)
from weightspace.zoo import imported
from weightspace.zoo.imported import Imported
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

if TYPE_CHECKING:
    from weightspace.evaluate.readout import Readout

LATENTS = "latents"
READ = (
    IMAGES_FILE,
    TASKS_FILE,
    MEMBERS_FILE,
    PCA_FILE,
    AUTOENCODER_FILE,
    SHARED_ENCODER_FILE,
    READOUT_FILE,
)
AT_ONCE = 100  # networks that are drawn before they are written


class Latents(NamedTuple):
    """Latents of N networks.

    Attributes:
        z: ``(N, L)``.
        names: of the networks.
        classes: names of the outputs of each; None where they are not known.

    """

    z: Tensor
    names: list[str]
    classes: list[list[str] | None]


@dataclass(frozen=True)
class Project:
    """A finished pipeline; :func:`load` gives one.

    Networks are always a batch: a dict from the name of each tensor to values ``(N, *shape)``.

    Attributes:
        root: folder of the project, or file of its bundle.
        params: settings.
        dataset: images and tasks that it was trained on.
        net: architecture of all networks.
        autoencoder: weights <-> latent.
        shared_encoder: P(z | D, R).
        bundle: what is read in place of a folder, if it is.
        states: artefact -> what it was when it was read, see :func:`weightspace.artifacts.file_state`.

    """

    root: Path
    params: Params
    dataset: Dataset
    net: Net
    autoencoder: Autoencoder
    shared_encoder: SharedEncoder
    bundle: Bundle | None = None
    states: Mapping[Path, object] = field(default_factory=dict)

    def check_unchanged(self) -> None:
        """Refuse to write what would name artefacts that are no longer those in memory.

        Raises:
            WeightspaceError: one was replaced, for instance by a pipeline that runs.

        """
        for file, state in self.states.items():
            if file_state(file) != state:
                raise problem("changed while it was used", where=file, do="run it again")

    def at(self, width: float) -> Project:
        """The same project for networks of one width, where the zoo has several.

        Args:
            width: one of ``zoo.widths``.

        Returns:
            A project whose networks, zoo and autoencoder are of that width. Its latents are those of
            this one where the autoencoder is functional: what one encoded the other decodes.

        Raises:
            WeightspaceError: no such width.

        """
        params = self.params.at(width)
        if width == self.params.width:
            return replace(self, params=params)
        files = [
            at_width(self.root / "data" / name, width) for name in (PCA_FILE, AUTOENCODER_FILE)
        ]
        states = {} if self.bundle else {file: file_state(file) for file in files}
        sampler, runner = load_sampler(self.root / "data", params)
        return replace(
            self,
            params=params,
            states={**self.states, **states},
            net=runner.net,
            autoencoder=sampler.autoencoder,
            shared_encoder=sampler.shared_encoder,
        )

    @cached_property
    def zoo(self) -> Zoo:
        """The population of networks that all was fitted on, of this width."""
        return Zoo.open(self.root / "data" / ZOO_FOLDER, self.params.width)

    @cached_property
    def readout(self) -> Readout:
        """Latents of the zoo, and what reads properties off them.

        Raises:
            WeightspaceError: of another width than 1, where no members were read.

        """
        if self.params.width != 1:
            raise problem(
                "properties are read off, and members retrieved, at width 1 only",
                got=f"width {self.params.width:g}",
            )
        from weightspace.evaluate.readout import load_readout  # scikit-learn is slow to import

        return load_readout(self.root / "data" / READOUT_FILE, self._autoencoder_sha256)

    @property
    def _autoencoder_sha256(self) -> str:
        """Hash of the autoencoder's file, by which latents say whose they are."""
        self.check_unchanged()
        every_width = self.autoencoder.images_read is not None  # decodes its latents
        width = 1 if every_width else self.params.width
        return file_sha256(self.root / "data" / at_width(AUTOENCODER_FILE, width))

    @property
    def result(self) -> Result:
        """What R is: accuracy or loss."""
        return self.shared_encoder.result

    @property
    def trained_range(self) -> tuple[float, float]:
        """Lowest and highest R that sampling was trained for."""
        return self.shared_encoder.bounds

    def task(
        self,
        data: Path | str | ImageSet | tuple[np.ndarray, np.ndarray],
        classes: Sequence[str],
        *,
        seed: int = 0,
    ) -> GivenTask:
        """Make a task, the dataset D of a request, from your images.

        Args:
            data: labelled images: a path (folder with a folder per class, or .npz), an
                :class:`ImageSet`, or a pair of arrays (images, labels).
            classes: names of the classes, in the order of the outputs; as many as a task of the
                project has.
            seed: of the choice of images, where there are more than needed.

        Returns:
            The task, with its images standardised and divided into train and test.

        Raises:
            WeightspaceError: unreadable data, unknown classes, too few or too many of them, or too
                few images of a class.

        """
        limits.check(seed=seed)
        if isinstance(data, tuple):
            data = ImageSet.of(*data)
        chosen = [str(c) for c in classes]
        if not isinstance(data, ImageSet):
            check_choice(chosen, self.dataset)  # before a long reading
            data = read_images(data, self.dataset.shape, chosen, seed)
        return make_task(data, chosen, self.dataset, seed)

    def networks(self, *paths: Path | str) -> Weights:
        """Read checkpoints of the architecture of the project.

        Args:
            paths: files, or folders of which every checkpoint is read, in order of their names.

        Returns:
            Weights ``(N, *shape)``.

        Raises:
            WeightspaceError: no checkpoint, or tensors of other names or shapes than expected.

        """
        return read_networks([file for p in paths for file in find(Path(p))], self.net.spec)

    def encode(self, weights: Weights) -> Tensor:
        """Encode networks.

        Args:
            weights: networks ``(N, *shape)``.

        Returns:
            Latents ``(N, L)``.

        Raises:
            WeightspaceError: weights of another architecture.

        """
        self.net.spec.check(weights)
        return encode_members(self.autoencoder, weights).cpu()

    def decode(self, latents: Tensor) -> Weights:
        """Decode latents.

        Args:
            latents: ``(N, L)``, finite.

        Returns:
            Networks ``(N, *shape)``.

        Raises:
            WeightspaceError: another shape, NaN or infinity.

        """
        if latents.ndim != 2 or latents.shape[1] != self.autoencoder.latent or not len(latents):
            raise problem(
                "latents of a wrong shape",
                got=tuple(latents.shape),
                expected=f"(N, {self.autoencoder.latent})",
            )
        if not latents.isfinite().all():
            raise problem("latents hold NaN or infinity")
        weights = to_device(decode_latents(self.autoencoder, latents.float()), torch.device("cpu"))
        if not all(w.isfinite().all() for w in weights.values()):
            raise problem("latents give networks with NaN or infinity", do="give smaller ones")
        return weights

    def evaluate(self, weights: Weights, task: GivenTask) -> pd.DataFrame:
        """Measure networks on every part of a task.

        Args:
            weights: networks ``(N, *shape)``.
            task: the images.

        Returns:
            One row per network: ``train_accuracy``, ``train_loss`` (nats), and the same for test
            where the task has test images.

        Raises:
            WeightspaceError: weights of another architecture.

        """
        self.net.spec.check(weights)
        return measure(self.net, weights, task)

    @torch.no_grad()
    def class_distances(self, task: GivenTask) -> dict[str, float]:
        """How far each class of a task is from the classes of training, as D describes them.

        Args:
            task: the images.

        Returns:
            Class -> distance to the nearest training class, in units of the largest such distance
            that a training class has to the others. Above 1 the images are unlike any that sampling
            was trained or evaluated on.

        """
        encoder, images = self.shared_encoder.dataset_encoder, self.dataset.images["train"]
        known, given = encoder(images[self.dataset.seen]), encoder(task.images["train"])
        among = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(1).max()
        ratio = torch.cdist(given, known).amin(1) / among
        return dict(zip(task.classes, ratio.tolist(), strict=True))

    def sample(
        self,
        task: GivenTask,
        *,
        accuracy: float | None = None,
        loss: float | None = None,
        n: int = 1,
        best_of: int = 1,
        seed: int = 0,
        fine_tune_epochs: int = 0,
        reestimate: bool = False,
        guidance_steps: int | None = None,
        width: float | None = None,
        into: Path | None = None,
    ) -> Samples:
        """Draw networks from P(W | D, R) and measure each.

        A draw is guided: moved by gradient steps on labelled train images of the task, of which the
        model card gives the number. With ``guidance_steps=0`` it is left as drawn, in one pass.

        Args:
            task: the dataset D.
            accuracy: the requested result R, 0 to 1, where the pipeline was trained for accuracy.
            loss: the requested result R in nats, where it was trained for loss.
            n: networks, 1 or more; sample i is the same whatever n is.
            best_of: candidates drawn for each, 1 or more; the one whose result on the train images
                is nearest to the request is chosen.
            seed: root seed.
            fine_tune_epochs: passes over the train images with Adam after sampling; 0 for none.
            reestimate: replace the running statistics of every candidate by those of the train
                images, before it is measured.
            guidance_steps: gradient steps on every candidate, 0 or more; 0 for a draw in one pass,
                None for ``guidance.sampling_steps`` of params.yaml.
            width: of the networks, one of ``zoo.widths``; None for that of the project, which is 1
                unless :meth:`at` gave it.
            into: an empty folder, where networks are written a block after the other, with table,
                report and model card at the end; the result then has no weights in memory.

        Returns:
            The networks, a table of what each achieves, and what was requested.

        Raises:
            WeightspaceError: a request of the other kind of result or out of range, an unknown width,
                or ``reestimate`` for an architecture without running statistics.

        """
        project = self if width is None else self.at(width)
        guidance, images = self.params.guidance, task.images["train"]
        request = Request(
            self.result,
            self.target(accuracy, loss),
            self.trained_range,
            n=n,
            best_of=best_of,
            seed=seed,
            fine_tune_epochs=fine_tune_epochs,
            reestimate=reestimate,
            guidance_steps=guidance.sampling_steps if guidance_steps is None else guidance_steps,
            images_per_step=guidance.images_per_step(images.shape[1], len(images)),
            width=project.params.width,
        )
        drawn = project._draws(task, request)
        return join(drawn) if into is None else write(drawn, into)

    def _draws(self, task: GivenTask, request: Request) -> Iterator[Samples]:
        """The samples of a request, a block after the other."""
        if request.reestimate and all(t.role == "parameter" for t in self.net.spec.tensors):
            raise problem(
                "no running statistics to re-estimate",
                where=f"architecture '{self.net.spec.architecture}'",
                do="leave reestimate out",
            )
        every, column = request.table(task.classes), f"{task.parts[-1]}_{self.result.name}"
        distances, provenance = self.class_distances(task), self.provenance()
        for rows in block_slices(request.n, block_size(self.net.spec, AT_ONCE)):
            weights = self._chosen(task, request, range(request.n)[rows])
            measured = self.evaluate(weights, task)
            table = pd.concat([every[rows].reset_index(drop=True), measured], axis=1)
            table["far_from_request"] = request.is_far(table[column])
            yield Samples(
                request,
                task,
                self.net,
                weights,
                table,
                self.standardisation,
                distances,
                provenance,
            )

    def _chosen(self, task: GivenTask, request: Request, samples: Sequence[int]) -> Weights:
        """The chosen candidate of some samples, trained further on demand ``(N, *shape)``."""
        steps = {"sampling_steps": request.guidance_steps}
        guidance = self.params.guidance.model_copy(update=steps)
        sampler = Sampler(self.autoencoder, self.shared_encoder, self.net, guidance)
        condition = Condition.of_images(task.images["train"], torch.tensor([request.target]))
        shapes = {t.name: (len(samples), *t.shape) for t in self.net.spec.tensors}
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}  # see fill_blocks
        with progress("sample", len(samples)) as bar:
            for row, i in enumerate(samples):
                rng = torch_stream(request.seed, "sample", i)
                z = sampler.latents(condition, request.best_of, rng)
                drawn = sampler.networks(sampler.guided(z, condition, rng))
                for name, w in self._nearest(drawn, task, request).items():
                    weights[name][row] = w
                bar.advance()
        if not request.fine_tune_epochs:
            return weights
        return fine_tune(self.net, weights, task, request.fine_tune_epochs, request.seed)

    def _nearest(self, candidates: Population, task: GivenTask, request: Request) -> Weights:
        """The candidate ``(*shape)`` whose result on train images is nearest to the target."""
        best, least = None, math.inf
        for block in blocks(candidates, block_size(self.net.spec, BLOCK)):
            if request.reestimate:
                block = reestimated(self.net, block, task)
            results = measure(self.net, block, task, ("train",))[f"train_{self.result.name}"]
            index = int(nearest_to(results.to_numpy(), request.target))
            distance = abs(results[index] - request.target)
            if best is None or distance < least:
                best, least = take(block, index), distance
        assert best is not None
        return best

    def compare(self, a: Weights, b: Weights, task: GivenTask) -> pd.DataFrame:
        """Compare how networks behave on all images of a task, pair by pair.

        Args:
            a: networks ``(N, *shape)``.
            b: as many others.
            task: the images.

        Returns:
            One row per pair: cosine, correlation, agreement, agreement_chance, kappa, and the
            accuracies of both.

        Raises:
            WeightspaceError: weights of another architecture, or not as many in ``b`` as in ``a``.

        """
        return comparison.compare(self.net, a, b, task)

    def retrieve(
        self,
        task: GivenTask,
        *,
        accuracy: float | None = None,
        loss: float | None = None,
        n: int = 5,
    ) -> tuple[pd.DataFrame, Weights]:
        """Find the members of the zoo that fit a dataset and a result best.

        Args:
            task: the dataset D.
            accuracy: the result R, from 0 to 1; without one the best of the trained range.
            loss: the same in nats, where R is the loss.
            n: networks, at most.

        Returns:
            Table, best first, with similarity, what the member was trained on and ``on_train_...``
            and ``on_test_...`` on the given images; their weights ``(n, *shape)``.

        Raises:
            WeightspaceError: a request of the other kind of result or out of range.

        """
        limits.check(n=n)
        target = self.result.best(self.trained_range)
        if accuracy is not None or loss is not None:
            target = self.target(accuracy, loss)
        table, weights = retrieval.nearest_networks(
            self.zoo, self.readout, self.shared_encoder, task, target, n
        )
        names, classes = self.dataset.class_names, self.dataset.tasks["classes"]
        table.insert(1, "classes", [",".join(names[c] for c in classes[t]) for t in table["task"]])
        return pd.concat([table, self.evaluate(weights, task).add_prefix("on_")], axis=1), weights

    def retrieve_tasks(self, weights: Weights, *, n: int = 5) -> list[pd.DataFrame]:
        """Find the tasks that networks were most likely trained on.

        Args:
            weights: networks ``(N, *shape)``.
            n: tasks for each, at most.

        Returns:
            A table per network, most likely first: classes, split of the task, similarity, and the
            result at which it is highest.

        """
        limits.check(n=n)
        return retrieval.nearest_tasks(
            self.dataset, self.autoencoder, self.shared_encoder, weights, n
        )

    def predict(self, weights: Weights) -> Predictions:
        """Predict accuracy, generalisation gap, epoch and optimiser from latents.

        Args:
            weights: networks ``(N, *shape)``.

        Returns:
            One row per network, and the error to expect of each property.

        Raises:
            WeightspaceError: the stage that fits the predictors has not run, or weights of another
                architecture.

        """
        table = self.readout.predict(self.encode(weights).numpy())
        errors = pd.DataFrame(self.readout.errors).reindex(columns=list(ERRORS))
        return Predictions(table, errors)

    def save_latents(
        self,
        path: Path | str,
        latents: Tensor,
        names: Sequence[str],
        classes: Sequence[list[str] | None] = (),
    ) -> None:
        """Write latents ``(N, L)`` with a name for each, to be decoded by this autoencoder only.

        Args:
            path: a new file, or one of latents, which is replaced.
            latents: from :meth:`encode`, ``(N, L)``.
            names: of the N networks.
            classes: names of the outputs of each, None where they are not known; default: of all.

        Raises:
            WeightspaceError: the path is another kind of file.

        """
        check_file(Path(path), is_latents)
        meta = {
            "names": list(names),
            "classes": list(classes) or [None] * len(names),
            "autoencoder": self._autoencoder_sha256[:16],
        }
        save_tensors(Path(path), LATENTS, {"z": latents}, meta)

    def load_latents(self, path: Path | str) -> Latents:
        """Read latents.

        Args:
            path: file of :meth:`save_latents`, or an .npz with an array ``z`` ``(N, L)``.

        Returns:
            Latents ``(N, L)``, the names of their networks (of an .npz numbers from 0) and those of
            the networks' classes.

        Raises:
            WeightspaceError: latents of another autoencoder, or a damaged file.

        """
        path = Path(path)
        if path.suffix == ".npz":
            z = read_npz(path, ("z",))["z"]
            if z.dtype.kind != "f":
                raise problem("latents of a wrong type", where=path, got=z.dtype, expected="float")
            count = len(np.atleast_1d(z))
            return Latents(
                torch.from_numpy(z).float(), [str(i) for i in range(count)], [None] * count
            )
        tensors, meta = load_tensors(path, LATENTS)
        if meta.get("autoencoder") != self._autoencoder_sha256[:16]:
            raise problem(
                "latents of another autoencoder", where=path, do="encode the networks again"
            )
        names, classes = meta.get("names", ()), meta.get("classes", ())
        check_tensors(path, tensors, {"z": (torch.float32, (len(names), self.autoencoder.latent))})
        if len(classes) != len(names):
            raise problem("file is damaged", where=path, do="encode the networks again")
        return Latents(tensors["z"], names, classes)

    def save(
        self,
        folder: Path,
        names: Sequence[str],
        weights: Weights,
        info: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write one file per network into a folder, if the project's artefacts are those in memory.

        Args:
            folder: it is made where it does not exist.
            names: file names of the N networks.
            weights: networks ``(N, *shape)``.
            info: metadata of each: ``classes``, and anything that is JSON-ready.

        """
        self.check_unchanged()
        save_networks(folder, names, self.net, weights, self.standardisation, info)

    @property
    def standardisation(self) -> Standardisation:
        """Mean and standard deviation by which the images of all networks are standardised."""
        return Standardisation(self.dataset.mean, self.dataset.std)

    def target(self, accuracy: float | None, loss: float | None) -> float:
        """The requested result.

        Raises:
            WeightspaceError: none, both, that of another kind, or one that cannot be.

        """
        given = {"accuracy": accuracy, "loss": loss}
        target = given.pop(self.result.name)
        other, refused = given.popitem()
        if target is None or refused is not None:
            raise problem(
                f"this pipeline samples by {self.result.name} (shared_encoder.result)",
                got=f"no {self.result.name}" if refused is None else f"a request for {other}",
                expected=f"--{self.result.name}",
            )
        limits.check_result(self.result.name, target)
        return float(target)

    def provenance(self) -> dict[str, Any]:
        """What made this pipeline: version, commit, images and architecture, hashes of artefacts.

        Those of a bundle are of the files in it, and it says its own.
        """
        files = {
            "params": self.root / SETTINGS,
            "dataset": self.root / "data" / IMAGES_FILE,
            "autoencoder": self.root / "data" / at_width(AUTOENCODER_FILE, self.params.width),
            "shared_encoder": self.root / "data" / SHARED_ENCODER_FILE,
        }
        hashes = {k: file_sha256(p)[:16] for k, p in files.items()}
        given, bundle = self.bundle, {}
        if given is not None:
            bundle = {
                "bundle": {
                    "root": named(given.path),
                    "bits": given.manifest.bits,
                    "sha256": given.sha256,
                }
            }
        return {
            "weightspace": __version__,
            "commit": commit_of(self.root) if given is None else given.manifest.commit,
            "trained_on": self.params.dataset.source,
            "architecture": f"{self.net.spec.architecture}, {self.net.spec.numel} numbers",
            "sha256": hashes,
            **bundle,
        }


def is_latents(path: Path) -> bool:
    """Whether a file is one that :meth:`Project.save_latents` wrote."""
    try:
        return (read_meta(path) or {}).get("kind") == LATENTS
    except WeightspaceError:  # damaged, or no safetensors file at all
        return False


def import_zoo(
    folder: Path | str,
    results: Path | str | None,
    out: Path | str,
    *,
    arch: str,
    root: Path | str = ".",
    layout: str = "folder",
    where: Mapping[str, str] | None = None,
    split: str | None = None,
    believe: bool = False,
    tolerance: float | None = None,
    pixels: tuple[float, float] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Imported:
    """Make a zoo from networks that another program trained.

    Args:
        folder: the networks, in one of the layouts of :mod:`weightspace.zoo.readers`.
        results: table of them where the layout is ``folder``, see
            :func:`weightspace.zoo.readers.folder.members`; else None.
        out: a new or empty folder.
        arch: name of the architecture; its sizes are those of ``nets`` in params.yaml.
        root: folder of the project, where the dataset stage has run, or a bundle.
        layout: ``folder``, ``matrix``, ``ray_tune`` or ``wild_park``.
        where: column -> value: only members that have it.
        split: three fractions of the runs, or a CSV with columns run and split; None for the column
            split of the zoo, or else the split of each task.
        believe: take the results of the zoo, without measuring.
        tolerance: most that accuracies may differ from those of the zoo, on average.
        pixels: mean and standard deviation that the networks' images were standardised by; the dataset
            with these is written to ``out/dataset``.
        shape: channels, height, width of the images, where there are none and results are believed.

    Returns:
        The table of members, and notes, a line each.

    Raises:
        WeightspaceError: no dataset, checkpoints that do not fit the table or the architecture, or
            ``out`` holds files.

    """
    root, params, _ = settings(root)
    if shape is None:
        dataset = Dataset.load(root / "data" / DATASET_FOLDER)
    elif believe:
        dataset = imported.without_images(shape, params.dataset.classes_per_task)
    else:
        raise problem(
            "no images to measure on", where="--shape", do="add --believe, or leave it out"
        )
    if pixels is not None:
        dataset = imported.with_pixels(dataset, *pixels)
    net = net_for(params, dataset.shape, dataset.classes_per_task, arch)
    runner = TaskRunner(net, dataset.to(device_of(params.runtime)))
    table = None if results is None else Path(results)
    source = imported.Source(
        Path(folder), layout, table, where or {}, split, believe, tolerance, params.seed
    )
    changed = pixels is not None or shape is not None
    return imported.import_zoo(source, runner, Path(out), keep_dataset=changed)


def load(root: Path | str = ".", device: str | None = None) -> Project:
    """Load a finished pipeline.

    Args:
        root: folder of the project, with ``params.yaml`` and ``data/``; file of a bundle; or name of
            one that the package has, such as ``digits``.
        device: "cpu", "cuda" or "auto", where it computes; None as ``runtime.device`` says.

    Returns:
        The pipeline as one object.

    Raises:
        WeightspaceError: a stage has not run, its output is damaged or of other settings, or there
            is no such device.

    """
    root, params, bundle = settings(root)
    data = root / "data"
    files = [] if bundle else [data / file for file in READ]  # a bundle is in memory, all of it
    states = {file: file_state(file) for file in files}
    if device is not None:
        changed = params.model_dump(mode="json")
        changed["runtime"]["device"] = device
        params = validate_params(changed, "device")
    sampler, runner = load_sampler(data, params)
    spec = sampler.autoencoder.spec
    if runner.net.spec != spec:
        raise problem(
            "settings of the architecture changed after the pipeline ran",
            where=root / SETTINGS,
            got=f"{params.zoo.architecture} with {runner.net.spec.numel} parameters",
            expected=f"{spec.architecture} with {spec.numel}",
            do="run `dvc repro`",
        )
    model = sampler.shared_encoder
    return Project(
        root, params, runner.dataset, runner.net, sampler.autoencoder, model, bundle, states
    )


def settings(root: Path | str) -> tuple[Path, Params, Bundle | None]:
    """Folder or opened bundle of a project, and its settings.

    Raises:
        WeightspaceError: nothing of that kind, a damaged bundle, or wrong settings.

    """
    path = locate(root)
    if path.is_dir():
        return path, settings_of_project(read_yaml(path / SETTINGS), path / SETTINGS), None
    bundle, where = open_bundle(path), path / SETTINGS
    try:
        params = settings_of_project(parse_yaml(bundle.read(SETTINGS).decode(), where), where)
    except (WeightspaceError, UnicodeDecodeError) as error:
        do = "install the version of weightspace that made the bundle, or make it again"
        raise problem(f"settings of another version ({error})", where=path, do=do) from error
    return path, params, bundle


def commit_of(root: Path) -> str | None:
    """Commit of the project's folder, with ``+`` where tracked files changed; None without git."""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
