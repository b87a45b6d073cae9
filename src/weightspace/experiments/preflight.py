"""Everything that can be wrong with params.yaml, found before any stage removes its outputs."""

from __future__ import annotations

from itertools import product

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
from weightspace.zoo.plan import plan_run, steps_per_epoch, width_of


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
    check_widths(params)
    for width in params.zoo.widths:  # an unknown architecture is told of at the first
        net_for(params.at(width), dataset.shape, dataset.classes_per_task)
    per_epoch = steps_per_epoch(dataset, params.zoo)
    shortest = params.zoo.model_copy(update={"epochs": (params.zoo.epochs[0],) * 2})
    plan_run(0, shortest, len(dataset.tasks), per_epoch, params.seed)
    check_runs(params, dataset, per_epoch)
    return dataset


def check_widths(params: Params) -> None:
    """Verify that all that is selected supports several widths, where there are several.

    Raises:
        WeightspaceError: the first width is not 1, or what does not support several; one line.

    """
    if params.zoo.widths[0] != 1:
        raise problem(
            "the first width is that of the sizes under nets",
            where="params.yaml: zoo.widths",
            got=list(params.zoo.widths),
            expected="1 as the first",
        )
    if len(params.zoo.widths) == 1:
        return
    model, functional = params.autoencoder.model, params.autoencoders.functional
    needed: dict[str, tuple[object, object]] = {
        "shared_encoder.model": (params.shared_encoder.model, "flow")
    }
    if not hasattr(resolve(AUTOENCODERS, model, "autoencoder.model"), "fit_widths"):
        needed["autoencoder.model"] = model, "functional or tokens"
    if model == "functional":
        needed |= {
            "autoencoders.functional.reads": (functional.reads, "outputs"),
            "autoencoders.functional.learn_probes": (functional.learn_probes, False),
            "autoencoders.functional.structural_weight": (functional.structural_weight, 0),
        }
    for key, (value, expected) in needed.items():
        if value != expected:
            raise problem(
                "does not support several widths",
                where=f"params.yaml: {key}",
                got=value,
                expected=f"{expected}, or one width in zoo.widths",
            )


def check_runs(params: Params, dataset: Dataset, per_epoch: int) -> None:
    """Verify that every split has a run, and where there are several widths one of each.

    A single task has one split: its zoo is imported, which draws splits of runs.

    Args:
        params: all settings.
        dataset: images and tasks.
        per_epoch: optimiser steps per epoch.

    Raises:
        WeightspaceError: a split without one; one line.

    """
    zoo, split = params.zoo, dataset.tasks.set_index("task")["split"]
    if len(split) == 1:
        return
    count = zoo.runs if len(zoo.widths) > 1 else min(zoo.runs, len(split))
    trained = {
        (
            width_of(r // zoo.runs_per_shard, zoo.widths, params.seed),
            split[plan_run(r, zoo, len(split), per_epoch, params.seed).task],
        )
        for r in range(count)
    }
    names = sorted({"train", "val", "test_sets"} | set(split))
    for width, name in product(zoo.widths, names):
        if (width, name) not in trained:
            of_width = f" of width {width:g}" if len(zoo.widths) > 1 else ""
            raise problem(
                f"no run{of_width} is in split '{name}'",
                where="params.yaml: zoo.runs",
                got=f"{zoo.runs} runs over {len(split)} tasks",
                expected="at least one run in each split",
                do="raise zoo.runs or the share of the split",
            )
