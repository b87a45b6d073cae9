"""Everything that can be wrong with params.yaml, found before any stage removes its outputs."""

from __future__ import annotations

import torch

from weightspace.autoencoders import AUTOENCODERS
from weightspace.data.dataset import Dataset, make_dataset
from weightspace.dataset_encoders import DATASET_ENCODERS
from weightspace.errors import problem
from weightspace.jobs import EXECUTORS
from weightspace.nets.base import net_for
from weightspace.params import Params
from weightspace.registry import resolve
from weightspace.runtime import device
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.zoo.plan import plan_run, steps_per_epoch


def check(params: Params) -> Dataset:
    """Verify that every stage can start with these settings.

    Raises:
        WeightspaceError: unknown member of a family or one that cannot start, no GPU where one is required, settings that undo each other, too few classes or images, a network that
            does not fit the images, runs too short for their snapshots, or no run in a split.

    """
    resolve(AUTOENCODERS, params.autoencoder.model, "autoencoder.model")
    params.autoencoders.of(params.autoencoder.model)
    if params.pca.align == "matching" and params.autoencoder.augment_permutations:
        raise problem(
            "pca.align undoes what autoencoder.augment_permutations does",
            where="params.yaml",
            got="matching and true",
            expected="one of them at most",
            do="set pca.align=none or autoencoder.augment_permutations=false",
        )
    resolve(SHARED_ENCODERS, params.shared_encoder.model, "shared_encoder.model")
    params.shared_encoders.of(params.shared_encoder.model)
    resolve(EXECUTORS, params.runtime.executor, "runtime.executor").verify()
    device(params.runtime)
    encoder = resolve(
        DATASET_ENCODERS, params.shared_encoder.dataset_encoder, "shared_encoder.dataset_encoder"
    )
    dataset = make_dataset(params.dataset, params.sources, params.seed)
    options = params.dataset_encoders.of(params.shared_encoder.dataset_encoder)
    encoder.build(dataset.shape, options, torch.Generator())
    net_for(params, dataset.shape, dataset.classes_per_task)
    per_epoch = steps_per_epoch(dataset, params.zoo)
    shortest = params.zoo.model_copy(update={"epochs": (params.zoo.epochs[0],) * 2})
    plan_run(0, shortest, len(dataset.tasks), per_epoch, params.seed)
    split = dataset.tasks.set_index("task")["split"]
    runs = [
        plan_run(r, params.zoo, len(split), per_epoch, params.seed)
        for r in range(min(params.zoo.runs, len(split)))
    ]
    trained = {split[r.task] for r in runs}
    for name in sorted({"train", "val", "test_sets"} | set(split)):
        if name not in trained:
            raise problem(
                f"no run is in split '{name}'",
                where="params.yaml: zoo.runs",
                got=f"{params.zoo.runs} runs over {len(split)} tasks",
                expected="at least one run in each split",
                do="raise zoo.runs or the share of the split",
            )
    return dataset
