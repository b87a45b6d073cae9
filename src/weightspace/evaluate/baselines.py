"""What others reach with the same information: the baselines that draws are compared with.

Each baseline makes networks for the requests that :mod:`weightspace.evaluate.sampling` makes, and is
measured in the same way on the same images; its figures begin with its name. Each is fitted on train
tasks and chosen on val.
"""

from __future__ import annotations

from pathlib import Path

from weightspace.artifacts import HYPERNETWORK_FILE
from weightspace.data.tasks import HELD_OUT, part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.distribution import told_apart
from weightspace.evaluate.diversity import diversity
from weightspace.evaluate.evaluation import Evaluation, Scoring
from weightspace.evaluate.hypernetwork import Hypernetwork, load
from weightspace.evaluate.sampling import request_metrics
from weightspace.evaluate.trained import baselines, evaluate_trained
from weightspace.rng import torch_stream
from weightspace.sampling.requests import Grid
from weightspace.weights.spec import Population

DRAWS = 2  # networks of a request, whose agreement is measured


def evaluate_baselines(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Metrics of each held-out split that has tasks: figures of every baseline."""
    splits = [split for split in HELD_OUT if len(evaluation.tasks(split))]
    out: dict[str, dict[str, float]] = {split: {} for split in splits}
    path = (evaluation.data or Path()) / HYPERNETWORK_FILE
    made = load(evaluation.runner, evaluation.params, path) if path.is_file() else None
    if made is not None:
        for split, metrics in out.items():
            metrics |= m.prefixed("hypernetwork", of_hypernetwork(evaluation, made, split))
    known = baselines(evaluation) if splits else {}
    for split, metrics in evaluate_trained(evaluation, known).items():
        out[split] |= metrics
    return out


def measured(
    scoring: Scoring, grid: Grid, networks: Population, split: str, *, members: bool = False
) -> dict[str, float]:
    """How well networks follow the requests, one of each, with intervals over class sets.

    From two networks of a request on also how alike they are: :func:`diversity`.

    Args:
        scoring: measures.
        grid: T x K requests.
        networks: ``(T * K * n)``, those of a request side by side.
        split: split of the tasks.
        members: say the same of trained networks, too.

    """
    settings, result = scoring.settings, scoring.result
    outputs = scoring.runner.outputs_by_task(networks, grid.tasks, part_of(split))
    achieved = grid.achieved(outputs, result)
    out = request_metrics(
        grid,
        achieved[:, 0],
        result,
        settings.bootstrap,
        scoring.seed,
        scoring.class_sets(grid.tasks),
    )
    if achieved.shape[1] > 1:
        predicted = outputs.argmax(-1).unflatten(0, (len(grid), -1))
        alike = diversity(scoring, grid, predicted, split)
        out |= {k: v for k, v in alike.items() if members or k.endswith("_draws")}
    return out


def of_hypernetwork(evaluation: Evaluation, made: Hypernetwork, split: str) -> dict[str, float]:
    """Metrics of its draws, and how well they are told from members of equal (D, R).

    ``image_gradients`` is of one draw; ``fitting_image_gradients`` of the fit, for all draws ever.

    Args:
        evaluation: requests, and the members.
        made: the fitted hypernetwork.
        split: split of the tasks.

    """
    params, dataset = evaluation.params, evaluation.runner.dataset
    rng = torch_stream(params.seed, "hypernetwork", "draws", split)
    grid = evaluation.grid(evaluation.tasks(split))
    networks = made.networks(grid.condition(dataset), DRAWS, rng)
    out = measured(evaluation, grid, networks, split)
    fitted = params.baselines.hypernetwork
    images = evaluation.runner.classes * min(
        fitted.images_per_class, dataset.images["train"].shape[1]
    )
    gradients = fitted.steps * fitted.conditions * images
    out |= {"image_gradients": 0, "fitting_image_gradients": gradients}
    if split == "val":  # serves choices, which two-sample tests do not
        return out
    return out | told_apart(evaluation, split, lambda requests: made.networks(requests, 1, rng))
