"""What test images, labels and class sets reach: figures of the test splits, and nothing else.

The stages run from end to end, in this process, with tiny settings.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline import STAGES, settings, shorten, stage
from weightspace.artifacts import DATASET_FOLDER, READOUT_FILE
from weightspace.data.dataset import Dataset
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.sampling import evaluate_split
from weightspace.jobs import local
from weightspace.sampling.sampler import Condition

# Three classes are of test_classes alone: their val images are of test tasks and of no others.
TINY = {"dataset.unseen_classes": 3, "evaluate.two_sample_networks": 20, "runtime.device": "cpu"}
FITTED = STAGES[: STAGES.index("shared_encoder") + 1]
# What learns enough for guided draws to be better than chance
LEARNS = {
    "runtime.device": "cpu",
    "dataset.samples_per_class": {"train": 24, "val": 6, "test": 20},
    "zoo.runs": 72,
    "zoo.epochs": [6, 6],
    "pca.components": 16,
    "outputs.probes": 20,
    "autoencoder.latent": 16,
    "autoencoder.epochs": 12,
    "autoencoder.batch_size": 16,
    "autoencoder.lr": 0.003,
    "autoencoders.functional.width": 64,
    "shared_encoder.epochs": 1,
    "guidance.sampling_steps": 40,
    "guidance.rate": 0.1,
    "evaluate.targets": 2,
    "evaluate.draws": 2,
    "evaluate.guided_draws": 1,
    "evaluate.controls": False,
}


@pytest.fixture(scope="module", autouse=True)
def _jobs_in_this_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "execute", lambda jobs, runtime: (job.execute() for job in jobs))
        shorten(patch)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The pipeline, and the same with other images of test tasks: all test images are noise, and
    the val images of classes that only test tasks have; nobody writes to it."""
    params = settings(**TINY)
    plain, changed = (tmp_path_factory.mktemp(name) for name in ("plain", "changed"))
    for name in STAGES:
        stage(name, plain, params)
    for name in ("check", "dataset"):
        shutil.copytree(plain / "data" / name, changed / "data" / name)
    dataset = Dataset.load(changed / "data" / DATASET_FOLDER)
    rng = torch.Generator().manual_seed(0)
    images = {part: x.clone() for part, x in dataset.images.items()}
    images["test"].normal_(generator=rng)
    images["val"][dataset.unseen] = torch.randn(images["val"][dataset.unseen].shape, generator=rng)
    replace(dataset, images=images).save(changed / "data" / DATASET_FOLDER)
    for name in STAGES[STAGES.index("dataset") + 1 :]:
        stage(name, changed, params)
    return plain, changed


def files(root, *folders):
    """Bytes of the files in some folders, but the table of members, which has figures."""
    paths = [f for folder in folders for f in sorted((root / folder).rglob("*.*"))]
    return {str(f.relative_to(root)): f.read_bytes() for f in paths if f.name != "members.parquet"}


def metrics(root):
    """File -> its figures."""
    return {f.stem: json.loads(f.read_text()) for f in sorted((root / "metrics").glob("*.json"))}


def test_no_artefact_depends_on_images_of_test_tasks(finished):
    folders = [f"data/{name}" for name in FITTED if name not in ("check", "dataset")]
    plain, changed = (files(root, *folders) for root in finished)
    assert len(plain) > len(folders)
    assert plain.keys() == changed.keys()
    assert [name for name in plain if plain[name] != changed[name]] == []
    readouts = [load_file(root / "data" / READOUT_FILE) for root in finished]
    assert all(torch.equal(x, readouts[1][name]) for name, x in readouts[0].items())
    losses = [files(root, "metrics/plots") for root in finished]
    for name in ("autoencoder", "shared_encoder"):
        assert len({curves[f"metrics/plots/{name}_loss.csv"] for curves in losses}) == 1


def test_only_figures_of_the_changed_images_differ_in_the_table_of_members(finished):
    plain, changed = (pd.read_parquet(root / "data/zoo/members.parquet") for root in finished)
    columns = [c for c in plain if not c.startswith("test_")]
    seen = plain["split"] != "test_classes"
    pd.testing.assert_frame_equal(plain.loc[seen, columns], changed.loc[seen, columns])
    no_val = [c for c in columns if not c.startswith("val_")]
    pd.testing.assert_frame_equal(plain[no_val], changed[no_val])
    for who, column in ((seen, "test_loss"), (~seen, "test_loss"), (~seen, "val_loss")):
        assert not np.allclose(plain.loc[who, column], changed.loc[who, column])  # the control


def test_no_figure_of_val_depends_on_images_of_test_tasks(finished):
    plain, changed = map(metrics, finished)
    with_val = {name for name, figures in plain.items() if "val" in figures}
    assert with_val >= {"reconstruction", "sampling", "distribution", "properties"}
    for name in with_val:
        assert plain[name]["val"] == changed[name]["val"], name
        assert plain[name] != changed[name], name  # the control: figures of test splits


def test_what_is_chosen_for_test_tasks_does_not_depend_on_their_test_images(finished):
    plain, changed = map(metrics, finished)
    for split in ("test_sets", "test_classes"):
        rates = {k: v for k, v in plain["finetuning"][split].items() if k.endswith("_lr")}
        assert len(rates) == 3
        assert rates.items() <= changed["finetuning"][split].items()
        for key in ("weight_distance", "function_distance"):  # of draws to train members
            assert plain["novelty"][split][key] == changed["novelty"][split][key]


def test_draws_do_not_depend_on_val_and_test_images_of_their_task(finished):
    drawn = []
    for root in finished:
        evaluation = Evaluation.load(root / "data", settings(**TINY))
        tasks = np.concatenate([evaluation.tasks(s) for s in ("test_sets", "test_classes")])
        sampler, condition = evaluation.sampler, evaluation.best_condition(tasks)
        rng = torch.Generator().manual_seed(0)
        z = sampler.latents(condition, 3, rng)
        drawn.append((z, sampler.guided(z, condition, rng)))
    for plain, changed in zip(*drawn, strict=True):
        assert torch.equal(plain, changed)
    other = replace(condition, class_images=condition.class_images.flip(0))
    assert not torch.equal(sampler.latents(other, 3, torch.Generator().manual_seed(0)), z)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A pipeline whose guided draws are better than chance."""
    root, params = tmp_path_factory.mktemp("learned"), settings(**LEARNS)
    for name in FITTED:
        stage(name, root, params)
    return Evaluation.load(root / "data", params)


def test_figures_of_test_tasks_fall_where_their_class_sets_are_shuffled(learned, monkeypatch):
    """D is all that says which task is meant: with the labels permuted draws are worse than chance."""
    of_tasks = Condition.of_tasks.__func__

    def accuracy(order):
        def shuffled(cls, dataset, tasks, target):
            condition = of_tasks(cls, dataset, tasks, target)
            return replace(condition, classes=order(condition.classes))

        monkeypatch.setattr(Condition, "of_tasks", classmethod(shuffled))
        figures, _ = evaluate_split(learned, "test_sets")
        return figures["accuracy_at_top_mean"]

    per_task = learned.params.evaluate.targets
    other_set = accuracy(lambda classes: classes.roll(6 * per_task, 0))  # six orders of a class set
    permuted = accuracy(lambda classes: classes.roll(1, 1))
    right = accuracy(lambda classes: classes)
    assert right > 1 / 3 + 0.07
    assert other_set < right - 0.05
    assert permuted < 1 / 3 - 0.03
