"""Make the cards of a project from its artefacts and its figures: see :mod:`weightspace.project.cards`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from weightspace import __version__
from weightspace.artifacts import (
    AUTOENCODER_CARD,
    AUTOENCODER_FILE,
    DATASET_FOLDER,
    PCA_FILE,
    SHARED_ENCODER_CARD,
    SHARED_ENCODER_FILE,
    ZOO_FOLDER,
    file_sha256,
    finite,
    in_archive,
    read_json,
)
from weightspace.autoencoders.base import load_autoencoder
from weightspace.bundles.archive import Bundle
from weightspace.bundles.locate import SETTINGS
from weightspace.data.dataset import Dataset
from weightspace.errors import nearest, problem
from weightspace.evaluate.summary import BASELINES, DISTRIBUTION, RECONSTRUCTION, SAMPLING
from weightspace.nets.base import net_for
from weightspace.params import Params
from weightspace.project import cards
from weightspace.project.cards import Card
from weightspace.project.project import commit_of, settings
from weightspace.shared_encoders.base import load_shared_encoder
from weightspace.zoo.card import read_card
from weightspace.zoo.contents import folder_hash
from weightspace.zoo.generate import summarise
from weightspace.zoo.store import Zoo

DATA = Path("data")
STAGE = {"zoo": "zoo", "autoencoder": "autoencoder", "sampler": "shared_encoder"}
TABLES: dict[str, dict[str, Mapping[str, str]]] = {  # file of metrics/ -> figure -> key in it
    "autoencoder": {"reconstruction": RECONSTRUCTION},
    "sampler": {"sampling": SAMPLING, "distribution": DISTRIBUTION, "baselines": BASELINES},
}
FILES = {  # besides the folder of the dataset
    "autoencoder": (PCA_FILE, AUTOENCODER_FILE),
    "sampler": (PCA_FILE, AUTOENCODER_FILE, SHARED_ENCODER_FILE),
}
MEANINGS = {
    "agreement": "fraction of images that a network and its reconstruction, from one pass, label alike",
    "agreement_late": "the same of finished networks",
    "accuracy_r2": "R2 of the accuracy of reconstructions, from one pass, by that of the originals",
    "draw_r2": "R2 of the results of draws, without gradients, by the results asked for",
    "draw_mae": "mean distance of these results from those asked for",
    "draw_top": "mean result of draws, without gradients, at the highest one asked for",
    "scratch_top": "mean result of networks trained from scratch on the same images",
    "guided_r2": "as draw_r2, of draws that gradient steps on labelled images moved",
    "recall_late": "recall at 1 of finished networks that are searched for with the images of a task",
    "draw_auc": "AUC of telling draws from trained networks by their outputs; 0.5: alike",
    "agreement_draws": "agreement of two draws for one request",
    "agreement_members": "agreement of two trained networks of one task and a like result",
    "error_overlap_draws": "overlap of the errors of two draws",
    "error_overlap_members": "overlap of the errors of two such trained networks",
    "hypernetwork_r2": "as draw_r2, of a hypernetwork trained without any population",
    "hypernetwork_top": "as draw_top, of that hypernetwork",
}


def make(root: Path | str, kind: str) -> Card:
    """Card of a part of a project.

    Args:
        root: folder of the project, where the stages that made the part have run, or a bundle.
        kind: "zoo", "autoencoder" or "sampler".

    Raises:
        WeightspaceError: no such kind, a stage has not run, or a bundle, which has no zoo.

    """
    if kind not in STAGE:
        raise problem("no card of that kind", got=kind, do=nearest(kind, STAGE))
    root, params, bundle = settings(root)
    if bundle and kind == "zoo":
        do = "give the folder of the project that the bundle was made from"
        raise problem("a bundle has no zoo", where=root, do=do)
    dataset = Dataset.load(root / DATA / DATASET_FOLDER)
    net = net_for(params, dataset.shape, dataset.classes_per_task)
    commit = bundle.manifest.commit if bundle else commit_of(root)
    images = dataset.images["test"].shape[1] * dataset.classes_per_task
    card: dict[str, Any] = {
        "kind": kind,
        "made": _made(root, kind, params, commit),
        "architecture": {
            "name": net.spec.architecture,
            "numbers": net.spec.numel,
            "settings": net.meta["settings"],
        },
        "images": _images(dataset, params),
        "split": _split(dataset, params),
        "settings": _settings(params),
        "figures": list(_figures(root, kind, params)),
        "sha256": dict(_hashes(root, kind, bundle)),
        "limits": [
            f"Networks: {net.spec.architecture} with {net.spec.numel} numbers, no others.",
            f"Figures: measured on {images} images of each task; {cards.precision(images)}.",
            cards.NOT_MEASURED,
            *_widths(params),
        ],
        "licence": cards.licence(params.dataset.source),
        "reproduce": list(_reproduce(commit)),
    }
    part = {"zoo": _zoo, "autoencoder": _autoencoder, "sampler": _sampler}[kind](root)
    if part.get("population", {}).get("imported"):
        del card["settings"]["zoo"]
        card["licence"][-1] = "Weights: that of whoever trained them."
        card["reproduce"] = ["# an import: the networks and results of its source are needed"]
    card["settings"] |= part.pop("settings", {})
    card["limits"] += part.pop("limits", [])
    return Card.of(card | part, root)


def _widths(params: Params) -> Iterator[str]:
    """That figures are of one width, where there are several."""
    others = [f"{w:g}" for w in params.zoo.widths if w != 1]
    if others:
        yield f"Widths 1, {', '.join(others)}: figures are of width 1 unless their name says another."


def _zoo(root: Path) -> dict[str, Any]:
    """What only the card of a zoo has."""
    members = Zoo.open(root / DATA / ZOO_FOLDER).members
    believed = int(members["believed"].sum()) if "believed" in members else 0
    population = {
        "members": len(members),
        "runs": int(members["run"].nunique()),
        "diverged_runs": int(members.loc[members["diverged"], "run"].nunique()),
        "per_split": {str(k): int(v) for k, v in members["split"].value_counts(sort=False).items()},
        "imported": "believed" in members,
        "believed": believed,
    }
    text = (
        f"A population of {len(members)} networks: what each was trained on, and what it reaches."
    )
    out: dict[str, Any] = {"population": population, "description": text}
    out["figures"] = [
        {"name": name, "meaning": meaning, "split": "all", "value": finite(value)}
        for name, value in summarise(members).items()
        if (meaning := _of_zoo(name))
    ]
    out["limits"] = [f"Results of {believed} members are their source's: not measured."] * (
        believed > 0
    )
    return out


def _autoencoder(root: Path) -> dict[str, Any]:
    """What only the card of an autoencoder has."""
    fit, sections = _fit(root, AUTOENCODER_CARD, "autoencoder", "reconstruction")
    latent = load_autoencoder(root / DATA / AUTOENCODER_FILE).latent
    text = f"Autoencoder '{fit['model']}': the weights of a network to {latent} numbers, and back."
    return {"fit": fit, "settings": sections, "description": text}


def _sampler(root: Path) -> dict[str, Any]:
    """What only the card of a sampler has."""
    fit, sections = _fit(root, SHARED_ENCODER_CARD, "shared_encoder", "sampling")
    model = load_shared_encoder(root / DATA / SHARED_ENCODER_FILE)
    text = f"Sampler '{fit['model']}': draws networks for images D and a result R from P(W | D, R)."
    out = {"fit": fit, "settings": sections, "description": text}
    return out | {"trained_range": list(model.bounds), "limits": [cards.requests(*model.bounds)]}


def _fit(
    root: Path, file: Path, section: str, figures: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a fit saw, and the settings that it had.

    Args:
        root: of the project.
        file: the method card that the stage left.
        section: of params.yaml.
        figures: file of metrics/ that says of splits whether they are zero-shot.

    """
    card = read_card(root / DATA / file)
    zero_shot = {k: v["zero_shot"] for k, v in _metrics(root, figures).items() if "zero_shot" in v}
    fit = {k: card[k] for k in ("model", "images", "class_sets")} | {"zero_shot": zero_shot}
    return fit, {section: card["settings"], f"{section}s.{card['model']}": card["options"]}


def _made(root: Path, kind: str, params: Params, commit: str | None) -> dict[str, Any]:
    """Version, commit, seed, and what the stage took, where that was recorded."""
    cost = root / "metrics" / "cost" / f"{STAGE[kind]}.json"
    return {
        "weightspace": __version__,
        "commit": commit,
        "seed": params.seed,
        "cost": read_json(cost) if cost.is_file() else None,
    }


def _images(dataset: Dataset, params: Params) -> dict[str, Any]:
    return {
        "source": params.dataset.source,
        "size": list(dataset.shape),
        "classes": list(dataset.class_names),
        "unseen": [dataset.class_names[label] for label in dataset.unseen],
        "per_class": {part: x.shape[1] for part, x in dataset.images.items()},
    }


def _split(dataset: Dataset, params: Params) -> dict[str, Any]:
    """Rule and counts of the splits."""
    given, tasks = params.dataset, dataset.tasks.groupby("split", sort=False)
    fractions = ", ".join(f"{name} {value:g}" for name, value in given.splits.model_dump().items())
    rule = (
        f"Tasks are ordered choices of {dataset.classes_per_task} classes. All orders of a class set are in "
        f"one split: {fractions} of the class sets without unseen classes, and test_classes those with. "
        "Networks are trained on train images and R is measured on val images; train and val tasks are "
        "fitted on and chosen by, figures of the test splits are of test images, read once."
    )
    return {
        "rule": rule,
        "tasks": {str(name): len(table) for name, table in tasks},
        "class_sets": {str(name): int(table["class_set"].nunique()) for name, table in tasks},
    }


def _settings(params: Params) -> dict[str, Any]:
    """Sections of params.yaml that made the population."""
    source, net = params.dataset.source, params.zoo.architecture
    sections = {
        "dataset": params.dataset,
        f"sources.{source}": params.sources.of(source),
        "zoo": params.zoo,
        f"nets.{net}": params.nets.of(net),
    }
    return {name: section.model_dump(mode="json") for name, section in sections.items()}


def _metrics(root: Path, name: str) -> dict[str, Any]:
    """A file of metrics/; empty where it is not there."""
    path = root / "metrics" / f"{name}.json"
    inside = in_archive(path)
    there = inside[0].has(inside[1]) if inside else path.is_file()
    return read_json(path) if there else {}


def _figures(root: Path, kind: str, params: Params) -> Iterator[dict[str, Any]]:
    """Headline figures, of every split that was measured."""
    for file, keys in TABLES.get(kind, {}).items():
        for split, values in _metrics(root, file).items():
            for name, key in keys.items():
                key = key.format(result=params.shared_encoder.result)
                if key in values:
                    meaning = MEANINGS[name]
                    yield {"name": name, "meaning": meaning, "split": split, "value": values[key]}


def _of_zoo(name: str) -> str:
    """Meaning of a figure of metrics/zoo.json; empty for counts, which a card has elsewhere.

    >>> _of_zoo("test_accuracy_snapshot2_q05")
    'accuracy on test images: 5 % quantile of the members of snapshot 2'
    """
    match = re.fullmatch(r"test_accuracy_snapshot(\d+)_q(\d+)", name)
    if match is None:
        return ""
    quantile, snapshot = int(match[2]), match[1]
    return f"accuracy on test images: {quantile} % quantile of the members of snapshot {snapshot}"


def _hashes(root: Path, kind: str, bundle: Bundle | None) -> Iterator[tuple[str, str]]:
    """Of settings and artefacts, by name; of a folder see :func:`folder_hash`."""
    if bundle:
        yield bundle.path.name, bundle.sha256
        yield from bundle.manifest.made_from.items()
        return
    yield SETTINGS, file_sha256(root / SETTINGS)
    for folder in (DATASET_FOLDER, *([ZOO_FOLDER] if kind == "zoo" else [])):
        yield f"{(DATA / folder).as_posix()}/", folder_hash(root / DATA / folder)
    for file in FILES.get(kind, ()):
        yield (DATA / file).as_posix(), file_sha256(root / DATA / file)


def _reproduce(commit: str | None) -> Iterator[str]:
    """Commands that give the figures."""
    if commit:
        yield f"git checkout {commit.rstrip('+')}"
    if commit and commit.endswith("+"):
        yield "# tracked files were changed there"
    yield "make repro  # with params.yaml as above; the same settings give the same bytes on one machine"
    yield "weightspace results"
